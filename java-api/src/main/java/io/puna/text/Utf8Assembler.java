package io.puna.text;

/**
 * Joins bytes that arrive one at a time into whole code points. Bytes that are not UTF-8 become U+FFFD: one for each longest
 * beginning of a code point (Unicode's recommended practice, what byte-level BPE decoders do), or one for each byte (what
 * SentencePiece does with byte pieces).
 */
final class Utf8Assembler {
    private static final char REPLACEMENT = '\uFFFD';

    private final boolean replaceEachByte;
    private int codePoint;
    private int taken;              // bytes of the unfinished code point, 0 when there is none
    private int missing;            // continuation bytes it still needs
    private int lowest;             // range of the next continuation byte: it excludes overlong forms and surrogates
    private int highest;

    Utf8Assembler(boolean replaceEachByte) {
        this.replaceEachByte = replaceEachByte;
    }

    /** Takes one byte (0 to 255) and appends what has become certain. */
    void accept(int b, StringBuilder out) {
        if (missing > 0) {
            if (b >= lowest && b <= highest) {
                codePoint = codePoint << 6 | b & 0x3F;
                taken++;
                lowest = 0x80;
                highest = 0xBF;
                if (--missing == 0) {
                    taken = 0;
                    out.appendCodePoint(codePoint);
                }
                return;
            }
            flush(out);
        }
        if (b < 0x80) {
            out.append((char) b);
        } else if (b >= 0xC2 && b <= 0xF4) {
            missing = b < 0xE0 ? 1 : b < 0xF0 ? 2 : 3;
            codePoint = b & 0x3F >> missing;
            taken = 1;
            lowest = b == 0xE0 ? 0xA0 : b == 0xF0 ? 0x90 : 0x80;
            highest = b == 0xED ? 0x9F : b == 0xF4 ? 0x8F : 0xBF;
        } else {
            out.append(REPLACEMENT);
        }
    }

    /** Gives up on an unfinished code point, if there is one. */
    void flush(StringBuilder out) {
        if (taken > 0) {
            out.repeat(REPLACEMENT, replaceEachByte ? taken : 1);
        }
        taken = 0;
        missing = 0;
    }
}
