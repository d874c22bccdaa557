package io.puna.examples;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;

/** Text that a command takes as an argument, or from standard input. */
final class StandardInput {
    private static final String MARK = "-";

    private StandardInput() {
    }

    /** {@return the argument itself, or all of standard input when it is {@code -}} */
    static String resolve(String argument) throws IOException {
        if (!argument.equals(MARK)) {
            return argument;
        }
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(System.in.readAllBytes())).toString();
        } catch (CharacterCodingException e) {
            throw new IllegalArgumentException("standard input: expected UTF-8, got other bytes", e);
        }
    }
}
