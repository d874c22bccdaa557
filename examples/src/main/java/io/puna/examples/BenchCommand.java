package io.puna.examples;

import io.puna.LlamaModel;
import io.puna.generate.FinishReason;
import io.puna.generate.GenerationOptions;
import io.puna.generate.GenerationResult;
import io.puna.generate.Session;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import java.util.Random;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code puna bench}: how fast a model is on this machine. */
@Command(name = "bench", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, abbreviateSynopsis = true,
        sortOptions = false, usageHelpAutoWidth = true,
        description = {"Measures how many tokens a second a model reads and writes.",
            "Each run computes a prompt of random tokens (prefill), then generates one token after the other (decode), with nothing"
                    + " cached. A first run warms up and is not counted."},
        footerHeading = "%nExamples:%n",
        footer = {
            "  puna bench --model model.gguf",
            "  puna bench --model model.gguf --prompt-tokens 512 --generate-tokens 64 --threads 8 --repeat 5 --json"})
final class BenchCommand implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Mixin
    private RunOptions run;

    @Option(names = "--prompt-tokens", paramLabel = "P", defaultValue = "128", description = "Default: ${DEFAULT-VALUE}.")
    private int promptTokens;

    @Option(names = "--generate-tokens", paramLabel = "G", defaultValue = "32", description = "Default: ${DEFAULT-VALUE}.")
    private int generateTokens;

    @Option(names = "--repeat", paramLabel = "R", defaultValue = "3", description = "Runs that count. Default: ${DEFAULT-VALUE}.")
    private int repeat;

    @Option(names = "--json", description = "Print one JSON object.")
    private boolean json;

    /** Tokens a second over all runs. */
    record Spread(double median, double min, double max) {
        static Spread of(double[] values) {
            double[] sorted = values.clone();
            Arrays.sort(sorted);
            int middle = sorted.length / 2;
            double median = sorted.length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
            return new Spread(Json.rate(median), Json.rate(sorted[0]), Json.rate(sorted[sorted.length - 1]));
        }
    }

    /** What --json prints; no peak where the system does not say. */
    record Report(double loadMs, Spread prefill, Spread decode, @Nullable Long peakRssBytes, String backend) {
    }

    @Override
    public Integer call() throws IOException {
        requirePositive("--prompt-tokens", promptTokens);
        requirePositive("--generate-tokens", generateTokens);
        requirePositive("--repeat", repeat);
        Progress progress = new Progress(spec.commandLine().getErr());
        long start = System.nanoTime();
        try (CtrlC ctrlC = new CtrlC(); LlamaModel model = run.open()) {
            double loadMillis = Json.millis(System.nanoTime() - start);
            if ((long) promptTokens + generateTokens > model.contextLength()) {
                throw new IllegalArgumentException("--prompt-tokens and --generate-tokens: expected at most " + model.contextLength()
                        + " together, the length of the context, got " + promptTokens + " and " + generateTokens);
            }
            int[] prompt = new Random(0).ints(promptTokens, 0, model.config().vocabularySize()).toArray();
            // The first token comes of the prompt: G steps of decoding give G more.
            GenerationOptions options = GenerationOptions.builder().maxTokens(generateTokens + 1).ignoreEos(true).build();
            double[] prefill = new double[repeat];
            double[] decode = new double[repeat];
            for (int i = -1; i < repeat; i++) {
                progress.show(i < 0 ? "warming up" : "run " + (i + 1) + " of " + repeat);
                GenerationResult result;
                try (Session session = model.newSession()) {
                    result = session.generate(prompt, options);
                }
                if (result.finishReason() == FinishReason.CANCELLED) {
                    return ExitCode.CANCELLED;
                }
                if (i >= 0) {
                    prefill[i] = result.prefillTokensPerSecond();
                    decode[i] = result.decodeTokensPerSecond();
                }
            }
            progress.clear();
            Report report = new Report(loadMillis, Spread.of(prefill), Spread.of(decode), peakResidentBytes(), model.backend());
            PrintWriter out = spec.commandLine().getOut();
            if (json) {
                out.println(Json.write(report));
            } else {
                print(out, model, report);
            }
            return ExitCode.OK;
        }
    }

    private void print(PrintWriter out, LlamaModel model, Report report) {
        out.printf("model    %s, %,d weights%n", model.checkpoint().path(), model.weights().parameterCount());
        out.printf("backend  %s%n", report.backend);
        out.printf(Locale.ROOT, "load     %.1f ms%n", report.loadMs);
        if (report.peakRssBytes != null) {
            out.printf("memory   %s at its peak%n", Text.bytes(report.peakRssBytes));
        }
        out.printf("%n%-10s %7s %10s %10s %10s%n", "", "tokens", "median/s", "min/s", "max/s");
        row(out, "prefill", promptTokens, report.prefill);
        row(out, "decode", generateTokens, report.decode);
    }

    private static void row(PrintWriter out, String name, int tokens, Spread spread) {
        out.printf(Locale.ROOT, "%-10s %7d %10.1f %10.1f %10.1f%n", name, tokens, spread.median, spread.min, spread.max);
    }

    private static void requirePositive(String name, int value) {
        if (value < 1) {
            throw new IllegalArgumentException(name + ": expected 1 or more, got " + value);
        }
    }

    /** {@return the most memory this process ever had in use, which Linux alone tells; else null} */
    private static @Nullable Long peakResidentBytes() throws IOException {
        try {
            return Files.readAllLines(Path.of("/proc/self/status")).stream()
                    .filter(line -> line.startsWith("VmHWM:"))
                    .map(line -> Long.parseLong(line.replaceAll("\\D", "")) << 10)
                    .findFirst().orElse(null);
        } catch (NoSuchFileException e) {
            return null;
        }
    }
}
