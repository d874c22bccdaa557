package io.puna.format;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;

/** Strict UTF-8. */
final class Utf8 {
    private Utf8() {
    }

    /**
     * {@return the text of some bytes}
     *
     * @throws CharacterCodingException if they are not well-formed UTF-8
     */
    static String decode(byte[] bytes, int length) throws CharacterCodingException {
        String text = new String(bytes, 0, length, StandardCharsets.UTF_8);
        // The constructor is several times faster than a decoder and marks what is malformed with U+FFFD. That character may also
        // be there in its own right, which the slow decoder, which reports instead of marking, finds out.
        return text.indexOf('\uFFFD') < 0 ? text : StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes, 0, length)).toString();
    }
}
