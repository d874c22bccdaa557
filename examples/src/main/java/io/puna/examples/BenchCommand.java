package io.puna.examples;

import io.puna.LlamaModel;
import io.puna.examples.BenchReport.Side;
import io.puna.examples.BenchReport.Spread;
import io.puna.examples.Contestant.Measure;
import io.puna.tensor.Device;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code puna bench}: how fast models are on this machine. */
@Command(name = "bench", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, abbreviateSynopsis = true,
        sortOptions = false, usageHelpAutoWidth = true,
        description = {"Measures how many tokens a second a model reads and writes.",
            "Each run computes a prompt of random tokens (prefill), then generates one token after the other (decode), with nothing"
                    + " cached. Two seconds of runs, or one longer run, warm up and are not counted.",
            "Runs of all programs take turns. Against llama-bench, which starts both with an empty cache, and after a run that it does"
                    + " not count, so does Puna, where a run takes less than two seconds."},
        footerHeading = "%nExamples:%n",
        footer = {
            "  puna bench --model model.gguf",
            "  puna bench --model model.gguf --prompt-tokens 512 --generate-tokens 64 --threads 8 --repeat 5 --json",
            "  puna bench --model a.gguf --model b.gguf --against llama.cpp/build/bin/llama-bench --repeat 5 --markdown",
            "  puna bench --model model.gguf --sequences 1,4,8,16 --against llama.cpp/build/bin/llama-bench",
            "  puna bench --model model.gguf --busy 1 --against java-llama.cpp"})
final class BenchCommand implements Callable<Integer> {
    private static final int MOST_SEQUENCES = 1024;
    /** By then Java's compiler has seen what is hot: a step of a tiny model is mostly Java. */
    private static final long WARM_UP_NANOS = 2_000_000_000;

    @Spec
    private CommandSpec spec;

    @Option(names = "--model", paramLabel = "PATH", description = ModelPath.DESCRIPTION + " May be repeated.")
    private List<Path> models = new ArrayList<>();

    @Mixin
    private RunOptions run;

    @Option(names = "--prompt-tokens", paramLabel = "P", defaultValue = "128", description = "Default: ${DEFAULT-VALUE}.")
    private int promptTokens;

    @Option(names = "--generate-tokens", paramLabel = "G", defaultValue = "32", description = "Default: ${DEFAULT-VALUE}.")
    private int generateTokens;

    @Option(names = "--sequences", paramLabel = "N", split = ",", hideParamSyntax = true,
            description = "Measure, instead, sequences that generate G tokens each in the same steps, as in 1,4,8,16; against the"
                    + " llama-batched-bench beside a llama-bench.")
    private List<Integer> sequences = new ArrayList<>();

    @Option(names = "--busy", paramLabel = "N", defaultValue = "0",
            description = "Measure also while N other processes compute, and tell what remains of the speed.")
    private int busy;

    @Option(names = "--repeat", paramLabel = "R", defaultValue = "3", description = "Runs that count. Default: ${DEFAULT-VALUE}.")
    private int repeat;

    @Option(names = "--against", paramLabel = "PROGRAM",
            description = "A llama-bench to run in turn with Puna, on the same file with as many threads, or the path of Llama3.java, or"
                    + " java-llama.cpp or jlama as Maven's profile benchmarks builds them. NAME=PATH gives it a name. May be repeated.")
    private List<String> against = new ArrayList<>();

    @Option(names = "--json", description = "Print one JSON object for each model.")
    private boolean json;

    @Option(names = "--markdown", description = "Print a table in Markdown.")
    private boolean markdown;

    /** A side, and its tokens a second of each run that counts. */
    private record Entry(String name, Contestant contestant, List<double[]> quiet, List<double[]> busy) {
        Entry(String name, Contestant contestant) {
            this(name, contestant, new ArrayList<>(), new ArrayList<>());
        }

        Side side() {
            return new Side(name, contestant.build(), spreads(quiet), spreads(busy));
        }

        private static List<Spread> spreads(List<double[]> runs) {
            List<Spread> spreads = new ArrayList<>();
            for (int i = 0; !runs.isEmpty() && i < runs.getFirst().length; i++) {
                int measure = i;
                spreads.add(Spread.of(runs.stream().mapToDouble(rates -> rates[measure]).toArray()));
            }
            return spreads;
        }
    }

    @Override
    public Integer call() throws IOException {
        require("--prompt-tokens", promptTokens, 1, Integer.MAX_VALUE);
        require("--generate-tokens", generateTokens, 1, Integer.MAX_VALUE);
        require("--repeat", repeat, 1, Integer.MAX_VALUE);
        require("--busy", busy, 0, Integer.MAX_VALUE);
        for (int width : sequences) {
            require("--sequences", width, 1, MOST_SEQUENCES);
        }
        List<PeerProgram> peers = new ArrayList<>();
        for (String argument : against) {
            PeerProgram peer = PeerProgram.of(argument);
            peers.add(sequences.isEmpty() ? peer : peer.batched());
        }
        PrintWriter out = spec.commandLine().getOut();
        List<BenchReport> reports = new ArrayList<>();
        try (CtrlC ctrlC = new CtrlC(); Device device = run.device()) {
            for (Path model : models.isEmpty() ? List.of(ModelPath.byDefault()) : models) {
                BenchReport report = measure(model, device, peers);
                if (json) {
                    out.println(Json.write(report.json()));
                } else if (!markdown) {
                    out.print(reports.isEmpty() ? "" : System.lineSeparator());
                    report.print(out);
                }
                out.flush();
                reports.add(report);
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            return ExitCode.CANCELLED;
        }
        if (markdown && !json) {
            BenchReport.markdown(out, reports);
        }
        return ExitCode.OK;
    }

    private BenchReport measure(Path path, Device device, List<PeerProgram> peers) throws IOException, InterruptedException {
        long start = System.nanoTime();
        try (LlamaModel model = run.open(path, device, (bytes, total) -> { })) {
            double loadMillis = Text.millis(System.nanoTime() - start);
            if ((long) promptTokens + generateTokens > model.contextLength()) {
                throw new IllegalArgumentException("--prompt-tokens and --generate-tokens: expected at most " + model.contextLength()
                        + " together, the length of the context, got " + promptTokens + " and " + generateTokens);
            }
            List<Measure> measures = sequences.isEmpty() ? Measure.promptAndGeneration(promptTokens, generateTokens)
                    : sequences.stream().map(width -> Measure.batch(width, generateTokens)).toList();
            List<Entry> entries = new ArrayList<>();
            for (PeerProgram peer : peers) {
                entries.add(new Entry(peer.name(), sequences.isEmpty()
                        ? LlamaBench.single(peer, path, run.threads(), promptTokens, generateTokens)
                        : LlamaBench.batched(peer, path, run.threads(), promptTokens, measures)));
            }
            try (Contestant puna = sequences.isEmpty() ? new SingleSequence(model, promptTokens, generateTokens, !peers.isEmpty())
                    : new SequenceBatch(model, run.cacheType(), measures, promptTokens)) {
                Entry own = new Entry("Puna", puna);
                entries.add(own);
                takeTurns(entries, own);
                return new BenchReport(path, model.weights().parameterCount(), model.backend(), loadMillis,
                        models.size() > 1 ? null : peakResidentBytes(), measures, busy, own.side(),
                        entries.stream().filter(entry -> entry != own).map(Entry::side).toList());
            }
        }
    }

    /** Runs all sides in turn, on a quiet and on a busy machine in turn. */
    private void takeTurns(List<Entry> entries, Entry own) throws IOException, InterruptedException {
        Progress progress = new Progress(spec.commandLine().getErr());
        try {
            progress.show("warming up");
            long warm = System.nanoTime() + WARM_UP_NANOS;
            long start;
            do {
                start = System.nanoTime();
                own.contestant.run();
            } while (System.nanoTime() < warm);
            boolean again = entries.size() > 1 && System.nanoTime() - start < WARM_UP_NANOS;
            for (int i = 0; i < repeat; i++) {
                progress.show("run " + (i + 1) + " of " + repeat);
                for (Entry entry : entries) {
                    entry.quiet.add(turn(entry, again && entry == own));
                }
                if (busy > 0) {
                    try (BusyProcesses others = new BusyProcesses(busy)) {
                        for (Entry entry : entries) {
                            entry.busy.add(turn(entry, again && entry == own));
                        }
                    }
                }
            }
        } finally {
            progress.clear();
        }
    }

    /** A run that counts; after one that does not, as llama-bench makes too: the caches hold what the others have read. */
    private static double[] turn(Entry entry, boolean warmUp) throws IOException, InterruptedException {
        if (warmUp) {
            entry.contestant.run();
        }
        return entry.contestant.run();
    }

    private static void require(String name, int value, int least, int most) {
        if (value < least || value > most) {
            throw new IllegalArgumentException(name + ": expected " + (most == Integer.MAX_VALUE ? least + " or more"
                    : least + " to " + most) + ", got " + value);
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
