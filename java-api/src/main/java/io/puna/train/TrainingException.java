package io.puna.train;

/** A run that cannot go on: a loss or a gradient that is not a number, or a loss out of all proportion. The weights are untouched. */
public final class TrainingException extends RuntimeException {
    private static final long serialVersionUID = 1;

    TrainingException(String message) {
        super(message);
    }
}
