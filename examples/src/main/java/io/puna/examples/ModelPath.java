package io.puna.examples;

import io.puna.LlamaModel;
import java.io.IOException;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/** {@code --model}, and where it comes from when it is not given. */
final class ModelPath {
    private static final String VARIABLE = "PUNA_MODEL";

    @Option(names = "--model", paramLabel = "PATH",
            description = "A GGUF file, or a directory in Hugging Face's layout. Default: the environment variable PUNA_MODEL,"
                    + " or else the story-teller that comes with Puna.")
    private @Nullable Path path;

    Path get() throws IOException {
        if (path != null) {
            return path;
        }
        String named = System.getenv(VARIABLE);
        if (named != null && !named.isEmpty()) {
            return Path.of(named);
        }
        return LlamaModel.bundledFile();
    }
}
