package io.puna.examples;

import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;

/** How figures and pieces look to people. */
final class Text {
    private static final String[] UNITS = {"B", "KiB", "MiB", "GiB", "TiB"};

    private Text() {
    }

    /** {@return a number of bytes in the unit that suits it} */
    static String bytes(long bytes) {
        double value = bytes;
        int unit = 0;
        while (value >= 1024 && unit < UNITS.length - 1) {
            value /= 1024;
            unit++;
        }
        return unit == 0 ? bytes + " B" : String.format(Locale.ROOT, "%.1f %s", value, UNITS[unit]);
    }

    /** {@return a value as one writes it down: the members of a map one after the other} */
    static String plain(Object value) {
        return value instanceof Map<?, ?> map
                ? map.entrySet().stream().map(e -> e.getKey() + " " + e.getValue()).collect(Collectors.joining(", "))
                : value.toString();
    }

    /** {@return text on one line, whatever control characters are in it} */
    static String visible(String text) {
        StringBuilder out = new StringBuilder();
        text.codePoints().forEach(c -> {
            if (Character.isISOControl(c)) {
                out.append(String.format("\\u%04x", c));
            } else {
                out.appendCodePoint(c);
            }
        });
        return out.toString();
    }

    /** {@return milliseconds to the microsecond} */
    static double millis(long nanos) {
        return nanos / 1000 / 1e3;
    }

    /** {@return a rate as it is worth printing} */
    static double rate(double perSecond) {
        return Math.round(perSecond * 1e3) / 1e3;
    }
}
