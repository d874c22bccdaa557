package io.puna.examples;

import io.puna.tensor.Device;
import java.io.PrintWriter;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Spec;

/** Lists what can compute, and says why something is not there. */
@Command(name = "devices", mixinStandardHelpOptions = true,
        description = "Lists what --device takes, and why something is not there.")
final class DevicesCommand implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Override
    public Integer call() {
        PrintWriter out = spec.commandLine().getOut();
        try (Device cpu = Device.cpu()) {
            out.println(line("cpu", cpu.backend().substring("cpu ".length())));
        }
        for (int ordinal = 0;; ordinal++) {
            try (Device cuda = Device.cuda(ordinal)) {
                out.println(line("cuda:" + ordinal, cuda.backend().substring(cuda.backend().indexOf(' ') + 1)));
            } catch (UnsupportedOperationException e) {
                if (ordinal == 0) {
                    out.println(line("no cuda", e.getMessage()));
                }
                return ExitCode.OK;
            } catch (RuntimeException e) {
                out.println(line("cuda:" + ordinal, "cannot be used: " + e.getMessage()));
            }
        }
    }

    private static String line(String name, String words) {
        return "%-8s %s".formatted(name, words);
    }
}
