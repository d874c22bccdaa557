package io.puna.examples;

import io.puna.bindings.NativeLibraryException;
import io.puna.format.CheckpointException;
import io.puna.tensor.DeviceException;
import io.puna.text.TokenizerException;
import io.puna.train.TrainingException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.NoSuchFileException;

/**
 * What a failure means to somebody at a command line.
 *
 * @param exitCode as in {@link ExitCode}
 * @param sentence what went wrong and, where it can be known, what to do
 */
record Failure(int exitCode, String sentence) {

    static Failure of(Throwable thrown) {
        return switch (thrown) {
            case Console.OutputException e -> new Failure(ExitCode.UNEXPECTED, e.getMessage());
            case UncheckedIOException e -> of(e.getCause());
            case NoSuchFileException e -> new Failure(ExitCode.NO_INPUT, e.getFile() + ": no such file or directory");
            case AccessDeniedException e -> new Failure(ExitCode.NO_INPUT, e.getFile() + ": permission denied");
            case CheckpointException e -> new Failure(ExitCode.BAD_DATA, e.getMessage());
            case TokenizerException e -> new Failure(ExitCode.BAD_DATA, e.getMessage());
            // What a model lacks, a tokenizer for instance, and what damaged weights compute.
            case IllegalStateException e -> new Failure(ExitCode.BAD_DATA, e.getMessage());
            case IllegalArgumentException e -> new Failure(ExitCode.USAGE, e.getMessage());
            case IndexOutOfBoundsException e -> new Failure(ExitCode.USAGE, e.getMessage());
            case NativeLibraryException e -> new Failure(ExitCode.NO_NATIVE_LIBRARY, e.getMessage());
            case LinkageError e -> new Failure(ExitCode.NO_NATIVE_LIBRARY, e.getMessage());
            case OutOfMemoryError e -> new Failure(ExitCode.UNEXPECTED, "not enough memory (" + e.getMessage()
                    + "); a shorter --context or --cache-type f16, bf16 or q8_0 takes less, in training a smaller --batch or"
                    + " --recompute FULL");
            case TrainingException e -> new Failure(ExitCode.BAD_DATA, e.getMessage());
            case UnsupportedOperationException e when e.getMessage() != null -> new Failure(ExitCode.USAGE, e.getMessage());
            case DeviceException e -> new Failure(ExitCode.UNEXPECTED, e.getMessage());
            case LlamaBench.FailedException e -> new Failure(ExitCode.UNEXPECTED, e.getMessage());
            case IOException e -> new Failure(ExitCode.UNEXPECTED, "reading or writing failed: " + e.getMessage());
            default -> new Failure(ExitCode.UNEXPECTED, "unexpected failure: " + thrown + "; --verbose shows where");
        };
    }
}
