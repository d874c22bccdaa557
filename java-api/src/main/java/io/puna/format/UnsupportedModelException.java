package io.puna.format;

import java.nio.file.Path;

/** A checkpoint is sound but needs what Puna does not have: an element type, a file variant or an architecture. */
public class UnsupportedModelException extends CheckpointException {
    private static final long serialVersionUID = 1;

    /**
     * Makes the sentence {@code file: expected …, got …}.
     *
     * @param file     the file that asks for it
     * @param expected what is supported
     * @param got      what the file asks for
     */
    public UnsupportedModelException(Path file, String expected, String got) {
        super(file, expected, got);
    }
}
