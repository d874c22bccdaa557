package io.puna.examples;

import io.puna.tensor.Device;
import java.io.PrintWriter;
import java.util.Optional;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.IVersionProvider;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ParseResult;
import picocli.CommandLine.ScopeType;

/** The {@code puna} command line. */
@Command(name = "puna", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, synopsisSubcommandLabel = "COMMAND",
        subcommands = {GenerateCommand.class, BenchCommand.class, TokenizeCommand.class, InspectCommand.class, RandomModelCommand.class,
            DataCommand.class, TrainCommand.class, FinetuneCommand.class, GradientsCommand.class, PlanCommand.class, DevicesCommand.class},
        description = "Runs LLaMA-family models inside the JVM.",
        exitCodeListHeading = "%nExit codes:%n",
        exitCodeList = {
            "0:done",
            "1:unexpected failure",
            "2:wrong usage, or a value that does not fit the model",
            "65:a model or tokenizer file that is damaged or not supported; a training run that cannot go on",
            "66:no such file, or not readable",
            "69:the native library cannot be loaded",
            "130:cancelled with Ctrl-C"},
        footerHeading = "%nExamples:%n",
        footer = {
            "  puna generate --model model.gguf \"Once upon a time\"",
            "  puna inspect --model model.gguf",
            "  puna COMMAND --help"})
public final class Puna {
    @Option(names = "--verbose", scope = ScopeType.INHERIT, description = "Show where a failure came from.")
    private boolean verbose;

    private Puna() {
    }

    /** Runs a command and ends the process with its exit code. */
    public static void main(String[] args) {
        System.exit(run(Console.out(), new PrintWriter(System.err, true), args));
    }

    /** {@return the exit code of a command} Nothing is thrown. */
    static int run(PrintWriter out, PrintWriter err, String... args) {
        Puna puna = new Puna();
        CommandLine line = new CommandLine(puna)
                .setOut(out)
                .setErr(err)
                .setExpandAtFiles(false) // a prompt may begin with @
                .setCaseInsensitiveEnumValuesAllowed(true)
                .setParameterExceptionHandler((e, ignored) -> usage(err, e))
                .setExecutionExceptionHandler((e, command, parsed) -> puna.fail(err, e));
        try {
            int code = line.execute(args);
            if (code == ExitCode.OK) {
                out.flush(); // after a failure to write, it would fail again
            }
            return code;
        } catch (Throwable e) { // errors too: memory and linkage
            return puna.fail(err, e);
        }
    }

    private static int usage(PrintWriter err, ParameterException e) {
        err.println("puna: " + e.getMessage() + "; see " + e.getCommandLine().getCommandSpec().qualifiedName() + " --help");
        return ExitCode.USAGE;
    }

    private int fail(PrintWriter err, Throwable thrown) {
        if (thrown instanceof Console.OutputException e && e.readerIsGone()) {
            return ExitCode.OK;
        }
        if (Thread.currentThread().isInterrupted()) {
            return ExitCode.CANCELLED; // whatever the interruption made fail
        }
        Failure failure = Failure.of(thrown);
        err.println("puna: " + failure.sentence());
        if (verbose) {
            thrown.printStackTrace(err);
        }
        return failure.exitCode();
    }

    /** Versions of the program, of Java and of what computes, which needs the native library. */
    static final class Version implements IVersionProvider {
        @Override
        public String[] getVersion() {
            String version = Optional.ofNullable(Puna.class.getPackage().getImplementationVersion()).orElse("(not packaged)");
            return new String[] {"puna " + version, "Java " + Runtime.version(), backend()};
        }

        private static String backend() {
            try (Device device = Device.cpu()) {
                return device.backend();
            } catch (RuntimeException | LinkageError e) {
                return "no backend: " + e.getMessage();
            }
        }
    }
}
