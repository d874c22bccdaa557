package io.puna.examples;

import io.puna.format.Checkpoint;
import io.puna.kernel.MatMul;
import io.puna.kernel.Workspace;
import io.puna.model.LlamaConfig;
import io.puna.model.LlamaWeights;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import io.puna.train.ModelDirectory;
import io.puna.train.Parameters;
import io.puna.train.Recomputation;
import io.puna.train.Schedule;
import io.puna.train.TokenDataset;
import io.puna.train.Trainer;
import io.puna.train.TrainingOptions;
import java.io.IOException;
import java.io.PrintWriter;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code puna train}: trains a model, from nothing or from one there is. */
@Command(name = "train", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, abbreviateSynopsis = true,
        sortOptions = false, usageHelpAutoWidth = true,
        description = {"Trains a model on tokens that puna data made.",
            "OUT becomes a model directory that every command reads, with the optimiser's state beside the weights. Ctrl-C saves;"
                    + " --resume goes on as if nothing had happened."},
        footerHeading = "%nExamples:%n",
        footer = {
            "  puna train --config config.json --data tokens --out model --steps 5000 --batch 16 --sequence 256 --learning-rate 1e-3"
                    + " --warmup 100",
            "  puna train --from stories.gguf --data tokens --out tuned --steps 200 --batch 4 --sequence 256 --learning-rate 1e-4"})
final class TrainCommand implements Callable<Integer> {
    /** A step that has begun is ended, and what it gave saved, before Ctrl-C ends the process. */
    private static final int SAVING_SECONDS = 600;

    @Spec
    private CommandSpec spec;

    @ArgGroup(exclusive = true, multiplicity = "1")
    private Start start;

    /** Where the weights come from. */
    static final class Start {
        @Option(names = "--config", paramLabel = "FILE", description = "Start with random weights of the shape that a config.json gives.")
        private @Nullable Path config;

        @Option(names = "--from", paramLabel = "PATH", description = "Start with a model's weights: a GGUF file or a model directory.")
        private @Nullable Path from;
    }

    @Option(names = "--data", paramLabel = "DIR", required = true, description = "Tokens that puna data made.")
    private Path data;

    @Option(names = "--out", paramLabel = "DIR", required = true, description = "Where the model and the state of the run go.")
    private Path out;

    @Option(names = "--steps", paramLabel = "N", required = true, description = "Steps of the whole run.")
    private long steps;

    @Option(names = "--batch", paramLabel = "B", required = true, description = "Sequences of a batch.")
    private int batch;

    @Option(names = "--sequence", paramLabel = "T", required = true, description = "Tokens of a sequence.")
    private int sequence;

    @Option(names = "--accumulate", paramLabel = "A", defaultValue = "1",
            description = "Batches whose gradients make one step. Default: ${DEFAULT-VALUE}.")
    private int accumulate;

    @Option(names = "--learning-rate", paramLabel = "R", required = true, description = "The highest rate.")
    private double learningRate;

    @Option(names = "--warmup", paramLabel = "W", defaultValue = "0",
            description = "Steps in which the rate rises to it. Default: ${DEFAULT-VALUE}.")
    private long warmup;

    @Option(names = "--schedule", paramLabel = "NAME", defaultValue = "COSINE",
            description = "${COMPLETION-CANDIDATES}. All but CONSTANT end at a tenth of the rate. Default: ${DEFAULT-VALUE}.")
    private Schedule schedule;

    @Option(names = "--weight-decay", paramLabel = "X", defaultValue = "0.1",
            description = "Of matrices; RMSNorm is spared. Default: ${DEFAULT-VALUE}.")
    private double weightDecay;

    @Option(names = "--clip", paramLabel = "X", defaultValue = "1",
            description = "Longest norm that a gradient keeps, 0 for any. Default: ${DEFAULT-VALUE}.")
    private double clip;

    @Option(names = "--skip-outliers", paramLabel = "X", defaultValue = "0",
            description = "Leave out steps whose gradient is X times longer than usual, 0 for none. Default: ${DEFAULT-VALUE}.")
    private double outlier;

    @Option(names = "--mask-boundaries", description = "Do not ask for a document's first token after the end of the one before it.")
    private boolean maskBoundaries;

    @Option(names = "--recompute", paramLabel = "POLICY", defaultValue = "LLAMA",
            description = "${COMPLETION-CANDIDATES}: what the backward pass computes again to save memory. Default: ${DEFAULT-VALUE}.")
    private Recomputation recomputation;

    @Option(names = "--evaluate-every", paramLabel = "N", defaultValue = "0",
            description = "Steps between evaluations on the documents held out, 0 for none but the last. Default: ${DEFAULT-VALUE}.")
    private long evaluateEvery;

    @Option(names = "--evaluation-batches", paramLabel = "N", defaultValue = "8",
            description = "Batches of an evaluation. Default: ${DEFAULT-VALUE}.")
    private int evaluationBatches;

    @Option(names = "--save-every", paramLabel = "N", defaultValue = "500",
            description = "Steps between savings, 0 for none but the last. Default: ${DEFAULT-VALUE}.")
    private long saveEvery;

    @Option(names = "--seed", paramLabel = "S", defaultValue = "0",
            description = "Of random weights and of the order of the data. Default: ${DEFAULT-VALUE}.")
    private long seed;

    @Option(names = "--threads", paramLabel = "N", description = "Threads that compute. Default: all that the process may use.")
    private int threads;

    @Option(names = "--resume", description = "Go on with the run in OUT, given the same other options.")
    private boolean resume;

    @Option(names = "--log", paramLabel = "FILE", description = "Append one JSON object a step.")
    private @Nullable Path log;

    /** A line of the log. */
    record Line(long step, double loss, double gradientNorm, double learningRate, long tokens, double tokensPerSecond,
            @Nullable Boolean skipped, @Nullable Double heldOutLoss) {
    }

    @Override
    public Integer call() throws IOException {
        TrainingOptions options = TrainingOptions.of(steps, batch, sequence, learningRate).withAccumulate(accumulate)
                .withSchedule(warmup, schedule).withWeightDecay(weightDecay).withClip(clip, outlier).withRecomputation(recomputation);
        if (Trainer.isSaved(out) && !resume) {
            throw new IllegalArgumentException("--out: " + out + " holds a run already; --resume goes on with it, or name another directory");
        }
        if (resume && !Trainer.isSaved(out)) {
            throw new IllegalArgumentException("--resume: expected a run in " + out + ", found none");
        }
        try (CtrlC ctrlC = new CtrlC(SAVING_SECONDS); TokenDataset dataset = TokenDataset.open(data);
                Device device = threads == 0 ? Device.cpu() : Device.cpu(threads); Parameters weights = weights(device)) {
            if (dataset.vocabularySize() > weights.config().vocabularySize()) {
                throw new IllegalArgumentException("--data: expected tokens of a vocabulary of at most "
                        + weights.config().vocabularySize() + ", the model's, got " + dataset.vocabularySize());
            }
            try (Trainer trainer = new Trainer(device, weights, dataset.batches(seed, maskBoundaries), options)) {
                if (resume) {
                    trainer.restore(out);
                }
                ModelDirectory.prepare(out, weights.config(), tokenizer());
                return run(trainer, dataset, device);
            }
        }
    }

    private Parameters weights(Device device) throws IOException {
        if (start.config != null) {
            return Parameters.random(LlamaConfig.read(start.config), seed);
        }
        try (Checkpoint checkpoint = Checkpoint.open(start.from)) {
            LlamaConfig config = LlamaConfig.of(checkpoint);
            return Parameters.copyOf(device, config, LlamaWeights.of(checkpoint, config));
        }
    }

    /** The data knows the tokenizer it was made by. */
    private Path tokenizer() {
        return data;
    }

    private int run(Trainer trainer, TokenDataset dataset, Device device) throws IOException {
        PrintWriter console = spec.commandLine().getOut();
        Progress progress = new Progress(spec.commandLine().getErr());
        Parameters weights = trainer.weights();
        double flops = flopsPerToken(weights.config());
        double peak = productRate(device);
        console.printf(Locale.ROOT, "%,d parameters, %s, %,d steps of %,d tokens, %s%n", weights.all().shape().elements(),
                device.backend(), steps, (long) batch * sequence * accumulate, recomputation);
        console.flush();
        long begun = System.nanoTime();
        long first = trainer.steps();
        long last = begun;
        double recent = Double.NaN;
        Double held = null;
        boolean stopped = false;
        LossCurve curve = new LossCurve();
        while (trainer.steps() < steps && !stopped) {
            Trainer.Step step = trainer.step();
            long now = System.nanoTime();
            double rate = step.tokens() * 1e9 / (now - last);
            last = now;
            recent = Double.isNaN(recent) ? step.loss() : 0.95 * recent + 0.05 * step.loss();
            curve.add(step.step(), step.loss());
            stopped = Thread.interrupted();
            boolean ends = trainer.steps() == steps;
            held = dataset.hasValidation() && !stopped && (ends || evaluateEvery > 0 && step.step() % evaluateEvery == 0)
                    ? (Double) trainer.evaluate(dataset.validation(), evaluationBatches) : null;
            if (log != null) {
                Line line = new Line(step.step(), step.loss(), step.gradientNorm(), step.learningRate(), step.tokens(), Text.rate(rate),
                        step.skipped() ? true : null, held);
                Files.writeString(log, Json.write(line) + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
            }
            long left = (now - begun) / (trainer.steps() - first) * (steps - trainer.steps());
            progress.show(String.format(Locale.ROOT, "step %,d of %,d  loss %.4f  %,.0f tokens/s  %.0f %% of a product's peak  %s left",
                    step.step(), steps, recent, rate, 100 * rate * flops / peak, time(left)));
            if (held != null) {
                curve.addHeldOut(step.step(), held);
                progress.clear();
                console.printf(Locale.ROOT, "step %,d: loss %.4f, held out %.4f, %s%n", step.step(), recent, held,
                        time(now - begun));
                console.flush();
            }
            if (ends || stopped || saveEvery > 0 && step.step() % saveEvery == 0) {
                save(trainer);
            }
            last = System.nanoTime(); // evaluating and saving are not training
        }
        progress.clear();
        Files.writeString(out.resolve("loss.svg"), curve.svg(out.getFileName().toString()));
        long tokens = (trainer.steps() - first) * batch * sequence * accumulate;
        console.printf(Locale.ROOT, "%s: step %,d, loss %.4f, %,.0f tokens/s%n", out, trainer.steps(), recent,
                tokens * 1e9 / (System.nanoTime() - begun));
        return stopped ? ExitCode.CANCELLED : ExitCode.OK;
    }

    private void save(Trainer trainer) throws IOException {
        trainer.save(out);
        ModelDirectory.writeWeights(out, trainer.weights());
    }

    private static String time(long nanos) {
        Duration time = Duration.ofNanos(nanos);
        return String.format(Locale.ROOT, "%d:%02d:%02d", time.toHours(), time.toMinutesPart(), time.toSecondsPart());
    }

    /** Six for each weight that takes part in a product, and what causal attention takes: forwards once, backwards twice as much. */
    private double flopsPerToken(LlamaConfig config) {
        long embedding = (long) config.vocabularySize() * config.width();
        long products = Parameters.count(config) - (config.tiedEmbeddings() ? 0 : embedding);
        return 6.0 * products + 6.0 * config.layers() * sequence * config.heads() * config.headWidth();
    }

    /** {@return the operations a second of the best of a few products that fit the caches} */
    private static double productRate(Device device) {
        int size = 512;
        long best = Long.MAX_VALUE;
        try (Arena arena = Arena.ofConfined(); Workspace workspace = new Workspace()) {
            Tensor x = Tensor.allocate(arena, DType.F32, Shape.of(size, size));
            Tensor w = Tensor.allocate(arena, DType.F32, Shape.of(size, size));
            Tensor y = Tensor.allocate(arena, DType.F32, Shape.of(size, size));
            for (int i = 0; i < 20; i++) {
                long start = System.nanoTime();
                MatMul.forward(device, workspace, y, x, w);
                best = Math.min(best, System.nanoTime() - start);
            }
        }
        return 2.0 * size * size * size * 1e9 / best;
    }
}
