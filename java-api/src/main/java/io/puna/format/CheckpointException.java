package io.puna.format;

import java.nio.file.Path;
import org.jspecify.annotations.Nullable;

/** A checkpoint file is damaged, contradicts itself or is not what it was opened as. The message names the file and the cause. */
public class CheckpointException extends java.io.IOException {
    private static final long serialVersionUID = 1;
    private static final int QUOTED_LENGTH = 100;

    /**
     * Makes the sentence {@code file: expected …, got …}.
     *
     * @param file     the file that is at fault
     * @param expected what a sound file would hold, and where
     * @param got      what this one holds
     */
    public CheckpointException(Path file, String expected, String got) {
        this(file, expected, got, null);
    }

    /**
     * Makes the sentence {@code file: expected …, got …} with the failure that revealed it.
     *
     * @param file     the file that is at fault
     * @param expected what a sound file would hold, and where
     * @param got      what this one holds
     * @param cause    the underlying failure, or null
     */
    public CheckpointException(Path file, String expected, String got, @Nullable Throwable cause) {
        super(file + ": expected " + expected + ", got " + got, cause);
    }

    /** {@return text out of a file as a message may show it: in quotes, shortened, control characters as escapes} */
    static String quote(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (int i = 0; i < Math.min(text.length(), QUOTED_LENGTH); i++) {
            char c = text.charAt(i);
            if (Character.isISOControl(c) || Character.isSurrogate(c)) {
                quoted.append(String.format("\\u%04x", (int) c));
            } else {
                quoted.append(c);
            }
        }
        return quoted.append(text.length() > QUOTED_LENGTH ? "…\"" : "\"").toString();
    }
}
