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
                    + " cached. A first run warms up and is not counted.",
            "Against llama-bench, which starts both with an empty cache, so does Puna; runs of the two take turns."},
        footerHeading = "%nExamples:%n",
        footer = {
            "  puna bench --model model.gguf",
            "  puna bench --model model.gguf --prompt-tokens 512 --generate-tokens 64 --threads 8 --repeat 5 --json",
            "  puna bench --model model.gguf --against llama.cpp/build/bin/llama-bench --repeat 5"})
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

    @Option(names = "--against", paramLabel = "PROGRAM",
            description = "A llama-bench to run in turn with Puna, on the same file with as many threads.")
    private @Nullable Path against;

    @Option(names = "--json", description = "Print one JSON object.")
    private boolean json;

    /** Tokens a second over all runs. */
    record Spread(double median, double min, double max) {
        static Spread of(double[] values) {
            double[] sorted = values.clone();
            Arrays.sort(sorted);
            int middle = sorted.length / 2;
            double median = sorted.length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
            return new Spread(Text.rate(median), Text.rate(sorted[0]), Text.rate(sorted[sorted.length - 1]));
        }
    }

    /** What the other program reached. A ratio above 1 says that Puna is faster, median by median. */
    record Peer(String program, String build, Spread prefill, Spread decode, double prefillRatio, double decodeRatio) {
    }

    /** What --json prints; no peak where the system does not say, and no peer where there is none. */
    record Report(double loadMs, Spread prefill, Spread decode, @Nullable Long peakRssBytes, String backend, @Nullable Peer against) {
    }

    /** Tokens a second of each run that counts. */
    private record Rates(double[] prefill, double[] decode) {
        Rates(int runs) {
            this(new double[runs], new double[runs]);
        }
    }

    @Override
    public Integer call() throws IOException {
        requirePositive("--prompt-tokens", promptTokens);
        requirePositive("--generate-tokens", generateTokens);
        requirePositive("--repeat", repeat);
        Progress progress = new Progress(spec.commandLine().getErr());
        long start = System.nanoTime();
        try (CtrlC ctrlC = new CtrlC(); LlamaModel model = run.open()) {
            double loadMillis = Text.millis(System.nanoTime() - start);
            if ((long) promptTokens + generateTokens > model.contextLength()) {
                throw new IllegalArgumentException("--prompt-tokens and --generate-tokens: expected at most " + model.contextLength()
                        + " together, the length of the context, got " + promptTokens + " and " + generateTokens);
            }
            LlamaBench peer = against == null ? null : new LlamaBench(against, run.path());
            Rates own = new Rates(repeat);
            Rates peers = new Rates(repeat);
            String build = "";
            for (int i = -1; i < repeat; i++) {
                progress.show(i < 0 ? "warming up" : "run " + (i + 1) + " of " + repeat);
                if (peer != null && i >= 0) {
                    LlamaBench.Rates rates = peer.run(run.threads(), promptTokens, generateTokens);
                    peers.prefill[i] = rates.prefill();
                    peers.decode[i] = rates.decode();
                    build = rates.build();
                }
                if (!measure(model, peer != null, own, i)) {
                    return ExitCode.CANCELLED;
                }
            }
            progress.clear();
            Spread prefill = Spread.of(own.prefill);
            Spread decode = Spread.of(own.decode);
            Report report = new Report(loadMillis, prefill, decode, peakResidentBytes(), model.backend(),
                    peer == null ? null : peer(build, prefill, decode, Spread.of(peers.prefill), Spread.of(peers.decode)));
            PrintWriter out = spec.commandLine().getOut();
            if (json) {
                out.println(Json.write(report));
            } else {
                print(out, model, report);
            }
            return ExitCode.OK;
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            return ExitCode.CANCELLED;
        }
    }

    /**
     * {@return whether a run came to its end}
     *
     * @param apart whether tokens are generated from an empty cache and not after the prompt
     * @param i     where its rates go; a negative run is not counted
     */
    private boolean measure(LlamaModel model, boolean apart, Rates rates, int i) {
        int[] prompt = new Random(0).ints(promptTokens, 0, model.config().vocabularySize()).toArray();
        GenerationResult first = generate(model, prompt, apart ? 0 : generateTokens);
        GenerationResult second = apart ? generate(model, new int[] {prompt[0]}, generateTokens) : first;
        if (i >= 0) {
            rates.prefill[i] = first.prefillTokensPerSecond();
            rates.decode[i] = second.decodeTokensPerSecond();
        }
        return first.finishReason() != FinishReason.CANCELLED && second.finishReason() != FinishReason.CANCELLED;
    }

    /** The first token comes of the prompt: a number of steps of decoding give as many more. */
    private static GenerationResult generate(LlamaModel model, int[] prompt, int steps) {
        try (Session session = model.newSession()) {
            return session.generate(prompt, GenerationOptions.builder().maxTokens(steps + 1).ignoreEos(true).build());
        }
    }

    private Peer peer(String build, Spread ownPrefill, Spread ownDecode, Spread prefill, Spread decode) {
        return new Peer(String.valueOf(against), build, prefill, decode, Text.rate(ownPrefill.median / prefill.median),
                Text.rate(ownDecode.median / decode.median));
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
        if (report.against != null) {
            Peer peer = report.against;
            out.printf("%nagainst  %s, build %s%n%n", peer.program, peer.build);
            row(out, "prefill", promptTokens, peer.prefill);
            row(out, "decode", generateTokens, peer.decode);
            out.printf(Locale.ROOT, "%nPuna's median is %.2f times the other's in prefill, %.2f times in decode%n", peer.prefillRatio,
                    peer.decodeRatio);
        }
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
