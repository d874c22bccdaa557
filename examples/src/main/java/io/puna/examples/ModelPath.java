package io.puna.examples;

import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code --model}, and where it comes from when it is not given. */
final class ModelPath {
    private static final String VARIABLE = "PUNA_MODEL";

    @Spec(Spec.Target.MIXEE)
    private CommandSpec command;

    @Option(names = "--model", paramLabel = "PATH",
            description = "A GGUF file, or a directory in Hugging Face's layout. Default: the environment variable PUNA_MODEL.")
    private @Nullable Path path;

    Path get() {
        if (path != null) {
            return path;
        }
        String named = System.getenv(VARIABLE);
        if (named != null && !named.isEmpty()) {
            return Path.of(named);
        }
        throw new CommandLine.ParameterException(command.commandLine(),
                "No model: name one with --model PATH or in the environment variable " + VARIABLE + ", because none is bundled");
    }
}
