package io.puna.text;

import java.util.OptionalInt;

/**
 * Bounds the steps back that the engine's matcher can take on a regular expression out of a file.
 *
 * <p>The matcher backtracks, and after ten million steps back in one match it gives up, and the process with it. Here an expression is read
 * and its dead ends are counted: an item is tried once for every way in which the items before it can match, which for {@code *}
 * and {@code +} is as many as the text has characters, and nothing is tried again once no item is left that can fail. So
 * {@code " ?\p{L}+"} has a constant number of dead ends, {@code "\s+(?!\S)"} as many as the text has characters, and {@code "x*y*z"} is
 * refused, because its dead ends grow with the square. So is what matches everywhere, and whatever else is not understood here: repeated
 * groups, repetitions in a lookahead, lookbehind, backreferences, set operations.
 */
final class PatternCost {
    private static final int MAX_DEPTH = 16;
    private static final int MAX_CONSTANT = 1 << 12;

    /** How many: {@code linear} per character of the text, infinite where it grows faster, and {@code constant}. */
    private record Count(double linear, double constant) {
        static final Count NONE = new Count(0, 0);
        static final Count ONE = new Count(0, 1);

        Count plus(Count other) {
            return new Count(linear + other.linear, constant + other.constant);
        }

        Count times(Count other) {
            if (linear > 0 && other.linear > 0) {
                return new Count(Double.POSITIVE_INFINITY, constant * other.constant);
            }
            return new Count(product(linear, other.constant) + product(constant, other.linear), constant * other.constant);
        }

        private static double product(double a, double b) {
            return a == 0 || b == 0 ? 0 : a * b;
        }
    }

    /**
     * What an expression can do at one place of a text.
     *
     * @param ways         how many ways it can match
     * @param deadEnds     dead ends met when all ways are tried
     * @param untilSuccess dead ends met until it matches, or has failed
     * @param neverFails   whether it matches at every place
     * @param character    whether it is one character, without a choice
     */
    private record Node(Count ways, Count deadEnds, Count untilSuccess, boolean neverFails, boolean character) {
        static final Node CHARACTER = new Node(Count.ONE, Count.ONE, Count.ONE, false, true);
        static final Node ASSERTION = new Node(Count.ONE, Count.ONE, Count.ONE, false, false);
    }

    private static final class Refused extends Exception {
        private static final long serialVersionUID = 1;
    }

    private final String pattern;
    private int at;
    private int depth;

    private PatternCost(String pattern) {
        this.pattern = pattern;
    }

    /** {@return at most how many steps back a match takes per character of a text, at least 1; empty where that is not known} */
    static OptionalInt of(String pattern) {
        try {
            PatternCost cost = new PatternCost(pattern);
            Node whole = cost.alternatives();
            Count count = whole.untilSuccess;
            return cost.at == pattern.length() && !whole.neverFails && count.linear <= MAX_CONSTANT && count.constant <= MAX_CONSTANT
                    ? OptionalInt.of((int) Math.max(1, count.linear)) : OptionalInt.empty();
        } catch (Refused e) {
            return OptionalInt.empty();
        }
    }

    private Node alternatives() throws Refused {
        if (++depth > MAX_DEPTH) {
            throw new Refused();
        }
        Node all = sequence();
        while (take("|")) {
            Node next = sequence();
            all = new Node(all.ways.plus(next.ways), all.deadEnds.plus(next.deadEnds), all.untilSuccess.plus(next.untilSuccess),
                    all.neverFails || next.neverFails, false);
        }
        depth--;
        return all;
    }

    private Node sequence() throws Refused {
        Count ways = Count.ONE;
        Count deadEnds = Count.NONE;
        Count untilSuccess = Count.NONE;
        boolean neverFails = true;
        boolean character = false;
        int items = 0;
        while (at < pattern.length() && pattern.charAt(at) != '|' && pattern.charAt(at) != ')') {
            Node item = quantified(atom());
            // An item that can fail sends the matcher back into all the items before it, one that cannot never does.
            untilSuccess = item.neverFails ? untilSuccess.plus(item.untilSuccess) : deadEnds.plus(ways.times(item.untilSuccess));
            deadEnds = deadEnds.plus(ways.times(item.deadEnds));
            ways = ways.times(item.ways);
            neverFails &= item.neverFails;
            character = item.character && items == 0;
            items++;
        }
        return new Node(ways, deadEnds, untilSuccess, neverFails, character);
    }

    private Node quantified(Node item) throws Refused {
        int least;
        int most = Integer.MAX_VALUE;
        boolean braces = false;
        if (take("?")) {
            least = 0;
            most = 1;
        } else if (take("*")) {
            least = 0;
        } else if (take("+")) {
            least = 1;
        } else if (take("{")) {
            braces = true;
            least = number();
            if (!take(",")) {
                most = least;
            } else if (!take("}")) {
                most = number();
            } else {
                at--;
            }
            expect("}");
        } else {
            return item;
        }
        boolean possessive = !braces && take("+");
        if (!possessive && !braces) {
            take("?");                                                // as few as possible has as many ways as as many as possible
        }
        if (at < pattern.length() && "?*+{".indexOf(pattern.charAt(at)) >= 0 || least > most || !item.character && most != 1) {
            throw new Refused();
        }
        Count more = most == Integer.MAX_VALUE ? new Count(1, 1) : new Count(0, most - least + 1);
// However often a character is repeated, it is at one place that the repetition ends.
        Count ends = item.character ? Count.ONE : item.deadEnds.plus(Count.ONE);
        return new Node(possessive ? Count.ONE : item.character ? more : item.ways.plus(Count.ONE), ends, ends,
                least == 0 || item.neverFails, item.character && least == 1 && most == 1);
    }

    private Node atom() throws Refused {
        if (take("(?!") || take("(?=")) {
            Node inside = alternatives();
            expect(")");
            if (inside.deadEnds.linear > 0 || inside.ways.linear > 0) {
                throw new Refused();
            }
            return new Node(Count.ONE, inside.deadEnds.plus(Count.ONE), inside.deadEnds.plus(Count.ONE), false, false);
        }
        if (take("(?:") || take("(?i:")) {
            return group();
        }
        if (take("(")) {
            if (at < pattern.length() && pattern.charAt(at) == '?') {
                throw new Refused();
            }
            return group();
        }
        if (take("[")) {
            characterClass();
            return Node.CHARACTER;
        }
        if (take("\\")) {
            return escape(false);
        }
        if (take("^") || take("$")) {
            return Node.ASSERTION;
        }
        if ("*+?{}])".indexOf(pattern.charAt(at)) >= 0) {
            throw new Refused();
        }
        at += Character.charCount(pattern.codePointAt(at));
        return Node.CHARACTER;
    }

    private Node group() throws Refused {
        Node inside = alternatives();
        expect(")");
        return inside;
    }

    /** After its bracket. */
    private void characterClass() throws Refused {
        take("^");
        int members = 0;
        while (!take("]")) {
            if (at == pattern.length() || pattern.charAt(at) == '[' || pattern.startsWith("&&", at)) {
                throw new Refused();
            }
            if (take("\\")) {
                escape(true);
            } else {
                at++;
            }
            members++;
        }
        if (members == 0) {
            throw new Refused();
        }
    }

    /** After its backslash. */
    private Node escape(boolean inClass) throws Refused {
        if (at == pattern.length()) {
            throw new Refused();
        }
        char c = pattern.charAt(at++);
        if ("pP".indexOf(c) >= 0) {
            expect("{");
            while (!take("}")) {
                if (at == pattern.length() || !Character.isLetterOrDigit(pattern.charAt(at)) && "_^ -".indexOf(pattern.charAt(at)) < 0) {
                    throw new Refused();
                }
                at++;
            }
            return Node.CHARACTER;
        }
        if (c == 'u') {
            for (int end = at + 4; at < end; at++) {
                if (at == pattern.length() || Character.digit(pattern.charAt(at), 16) < 0) {
                    throw new Refused();
                }
            }
            return Node.CHARACTER;
        }
        if (!inClass && "bBAzZ".indexOf(c) >= 0) {
            return Node.ASSERTION;
        }
        if ("sSdDwWrnt".indexOf(c) >= 0 || c < 0x80 && !Character.isLetterOrDigit(c)) {
            return Node.CHARACTER;
        }
        throw new Refused();
    }

    private int number() throws Refused {
        int value = 0;
        int start = at;
        while (at < pattern.length() && pattern.charAt(at) >= '0' && pattern.charAt(at) <= '9' && at - start < 4) {
            value = 10 * value + pattern.charAt(at++) - '0';
        }
        if (at == start) {
            throw new Refused();
        }
        return value;
    }

    private boolean take(String text) {
        boolean there = pattern.startsWith(text, at);
        at += there ? text.length() : 0;
        return there;
    }

    private void expect(String text) throws Refused {
        if (!take(text)) {
            throw new Refused();
        }
    }
}
