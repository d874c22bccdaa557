package io.puna.examples;

import io.puna.LlamaModel;
import java.io.IOException;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/** {@code --model}, and where it comes from when it is not given. */
final class ModelPath {
    /** What --model is, for commands that take several too. */
    static final String DESCRIPTION = "A GGUF file, or a directory in Hugging Face's layout. Default: the environment variable"
            + " PUNA_MODEL, or else the story-teller that comes with Puna.";
    private static final String VARIABLE = "PUNA_MODEL";

    @Option(names = "--model", paramLabel = "PATH", description = DESCRIPTION)
    private @Nullable Path path;

    Path get() throws IOException {
        return path == null ? byDefault() : path;
    }

    /** {@return the model that is meant where none is given} */
    static Path byDefault() throws IOException {
        String named = System.getenv(VARIABLE);
        if (named != null && !named.isEmpty()) {
            return Path.of(named);
        }
        return LlamaModel.bundledFile();
    }
}
