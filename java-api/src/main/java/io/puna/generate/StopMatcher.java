package io.puna.generate;

import java.util.List;

/** Watches growing text for stop strings and holds back what may be the beginning of one. */
final class StopMatcher {
    private final List<String> stops;
    private final StringBuilder held = new StringBuilder();
    private boolean matched;

    StopMatcher(List<String> stops) {
        this.stops = stops;
    }

    /** Takes more text and returns what is certain to stand: up to the first stop string, or up to what may become one. */
    String accept(String text) {
        held.append(text);
        int first = -1;
        for (String stop : stops) {
            int at = held.indexOf(stop);
            if (at >= 0 && (first < 0 || at < first)) {
                first = at;
            }
        }
        if (first >= 0) {
            matched = true;
            return held.substring(0, first);
        }
        int certain = held.length() - longestBeginning();
        String out = held.substring(0, certain);
        held.delete(0, certain);
        return out;
    }

    /** Returns what was held back, once no more text comes. */
    String finish() {
        return matched ? "" : held.toString();
    }

    boolean matched() {
        return matched;
    }

    /** The longest end of the held text that is the beginning of a stop string. */
    private int longestBeginning() {
        int longest = 0;
        for (String stop : stops) {
            for (int length = Math.min(stop.length() - 1, held.length()); length > longest; length--) {
                if (stop.startsWith(held.substring(held.length() - length))) {
                    longest = length;
                }
            }
        }
        return longest;
    }
}
