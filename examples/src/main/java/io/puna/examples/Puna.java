package io.puna.examples;

import java.util.Optional;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.IVersionProvider;

/** The {@code puna} command line. */
@Command(name = "puna", description = "Runs LLaMA-family models inside the JVM.", mixinStandardHelpOptions = true,
        versionProvider = Puna.Version.class, synopsisSubcommandLabel = "COMMAND")
public final class Puna implements Runnable {
    @CommandLine.Spec
    private CommandLine.Model.CommandSpec spec;

    /** Runs the command and ends the process with its exit code. */
    public static void main(String[] args) {
        System.exit(new CommandLine(new Puna()).execute(args));
    }

    @Override
    public void run() {
        throw new CommandLine.ParameterException(spec.commandLine(), "Missing command");
    }

    static final class Version implements IVersionProvider {
        @Override
        public String[] getVersion() {
            var version = Optional.ofNullable(Puna.class.getPackage().getImplementationVersion()).orElse("development");
            return new String[] {"puna " + version, "Java " + Runtime.version()};
        }
    }
}
