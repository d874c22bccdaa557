package io.puna.examples;

import io.puna.kernel.MatMul;
import io.puna.kernel.Workspace;
import io.puna.model.LlamaConfig;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import io.puna.train.BatchSource;
import io.puna.train.Parameters;
import io.puna.train.Recomputation;
import io.puna.train.Schedule;
import io.puna.train.Trainer;
import io.puna.train.TrainingOptions;
import io.puna.train.TrainingPlan;
import java.io.IOException;
import java.io.PrintWriter;
import java.lang.foreign.Arena;
import java.nio.file.AccessDeniedException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.Locale;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** What every command that trains takes, and its run: steps, evaluations, savings, and what is said of them. */
final class TrainingRun {
    /** A step that has begun is ended, and what it gave saved, before Ctrl-C ends the process. */
    private static final int SAVING_SECONDS = 600;

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

    @Mixin
    private DeviceOptions device;

    @Option(names = "--resume", description = "Go on with the run in OUT, given the same other options.")
    private boolean resume;

    @Option(names = "--log", paramLabel = "FILE", description = "Append one JSON object a step.")
    private @Nullable Path log;

    /** A line of the log. */
    record Line(long step, double loss, double gradientNorm, double learningRate, long tokens, double tokensPerSecond,
            @Nullable Boolean skipped, @Nullable Double heldOutLoss) {
    }

    /** Writes the model that was trained. */
    interface ModelWriter {
        void write() throws IOException;
    }

    /** Says how a run goes for as long as it can be written: a reader that leaves, or a full disk, is no reason to end a run unsaved. */
    private static final class Report {
        private final PrintWriter console;
        private Console.@Nullable OutputException failure;

        private Report(PrintWriter console) {
            this.console = console;
        }

        void say(String format, Object... values) {
            if (failure != null) {
                return;
            }
            try {
                console.printf(Locale.ROOT, format, values);
                console.flush(); // after Ctrl-C nobody else does
            } catch (Console.OutputException e) {
                failure = e;
            }
        }

        /** Throws what kept it from being written, now that all is saved. */
        void end() {
            if (failure != null) {
                throw failure;
            }
        }
    }

    Path out() {
        return out;
    }

    long seed() {
        return seed;
    }

    int sequence() {
        return sequence;
    }

    CtrlC ctrlC() {
        return CtrlC.noted(SAVING_SECONDS);
    }

    Device device() {
        return device.open();
    }

    TrainingOptions options() {
        if (evaluateEvery < 0 || evaluationBatches < 1 || saveEvery < 0) {
            throw new IllegalArgumentException("--evaluate-every, --evaluation-batches, --save-every: expected at least 0, 1 and 0, got "
                    + evaluateEvery + ", " + evaluationBatches + " and " + saveEvery);
        }
        return TrainingOptions.of(steps, batch, sequence, learningRate).withAccumulate(accumulate).withSchedule(warmup, schedule)
                .withWeightDecay(weightDecay).withClip(clip, outlier).withRecomputation(recomputation);
    }

    /**
     * Nothing that was trained is written over by a run that does not go on with it.
     *
     * @param from what the run begins with, where a whole model is written; null for none
     */
    void requireRightFolder(@Nullable Path from) throws IOException {
        if (from != null && Files.exists(out) && Files.exists(from)
                && Files.isSameFile(out, Files.isDirectory(from) ? from : from.toAbsolutePath().getParent())) {
            throw new IllegalArgumentException("--out: expected another directory than that of the model to begin with, got " + out);
        }
        if (Trainer.isSaved(out) && !resume) {
            throw new IllegalArgumentException("--out: " + out + " holds a run already; --resume goes on with it, or name another directory");
        }
        if (resume && !Trainer.isSaved(out)) {
            throw new IllegalArgumentException("--resume: expected a run in " + out + ", found none");
        }
    }

    /** With --resume, goes to what was saved, before anything in its folder is written. */
    void restore(Trainer trainer) throws IOException {
        if (resume) {
            trainer.restore(out);
        }
    }

    /**
     * Does the steps that are left, and says on the way how it goes.
     *
     * @param ctrlC   ends the run after a step, saved
     * @param trainer at its start or, by {@link #restore}, where the run stood
     * @param held    gives what is held out, from its beginning; null for none
     * @param model   writes the model that was trained
     * @return the exit code
     */
    int run(CommandLine command, Device device, CtrlC ctrlC, Trainer trainer, @Nullable Supplier<BatchSource> held, ModelWriter model)
            throws IOException {
        Report report = new Report(command.getOut());
        if (trainer.steps() >= steps) {
            model.write(); // the process may have ended between the state and this
            report.say("%s: step %,d, none left to do%n", out, trainer.steps());
            report.end();
            return ExitCode.OK;
        }
        Files.createDirectories(out);
        if (!Files.isWritable(out)) { // better now than when the first steps are to be saved
            throw new AccessDeniedException(out.toString());
        }
        Progress progress = new Progress(command.getErr());
        Parameters weights = trainer.weights();
        double operations = operationsPerToken(weights.config(), trainer.trainsAdapter());
        double peak = productRate(device);
        report.say("%,d parameters, %s, %,d steps of %,d tokens, %s%n", weights.all().shape().elements(), device.backend(), steps,
                (long) batch * sequence * accumulate, recomputation);
        long begun = System.nanoTime();
        long first = trainer.steps();
        long last = begun;
        double recent = Double.NaN;
        Double heldOutLoss = null;
        boolean stopped = ctrlC.pressed();
        LossCurve curve = new LossCurve();
        while (trainer.steps() < steps && !stopped) {
            Trainer.Step step = trainer.step();
            long now = System.nanoTime();
            double rate = step.tokens() * 1e9 / (now - last);
            last = now;
            recent = Double.isNaN(recent) ? step.loss() : 0.95 * recent + 0.05 * step.loss();
            curve.add(step.step(), step.loss());
            stopped = ctrlC.pressed();
            boolean ends = trainer.steps() == steps;
            heldOutLoss = held != null && !stopped && (ends || evaluateEvery > 0 && step.step() % evaluateEvery == 0)
                    ? (Double) trainer.evaluate(held.get(), evaluationBatches) : null;
            if (log != null) {
                Line line = new Line(step.step(), step.loss(), step.gradientNorm(), step.learningRate(), step.tokens(), Text.rate(rate),
                        step.skipped() ? true : null, heldOutLoss);
                Files.writeString(log, Json.write(line) + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
            }
            long left = (now - begun) / (trainer.steps() - first) * (steps - trainer.steps());
            progress.show(String.format(Locale.ROOT, "step %,d of %,d  loss %.4f  %,.0f tokens/s  %.0f %% of a product's peak  %s left",
                    step.step(), steps, recent, rate, 100 * rate * operations / peak, time(left)));
            if (heldOutLoss != null) {
                curve.addHeldOut(step.step(), heldOutLoss);
                progress.clear();
                report.say("step %,d: loss %.4f, held out %.4f, %s%n", step.step(), recent, heldOutLoss, time(now - begun));
            }
            if (ends || stopped || saveEvery > 0 && step.step() % saveEvery == 0) {
                trainer.save(out);
                model.write();
            }
            last = System.nanoTime(); // evaluating and saving are not training
        }
        progress.clear();
        if (trainer.steps() > first) {
            Files.writeString(out.resolve("loss.svg"), curve.svg(String.valueOf(out.getFileName())));
            long tokens = (trainer.steps() - first) * batch * sequence * accumulate;
            report.say("%s: step %,d, loss %.4f, %,.0f tokens/s%n", out, trainer.steps(), recent,
                    tokens * 1e9 / (System.nanoTime() - begun));
        }
        if (stopped) {
            return ExitCode.CANCELLED;
        }
        report.end();
        return ExitCode.OK;
    }

    private static String time(long nanos) {
        Duration time = Duration.ofNanos(nanos);
        return String.format(Locale.ROOT, "%d:%02d:%02d", time.toHours(), time.toMinutesPart(), time.toSecondsPart());
    }

    /** Forwards, and backwards twice as much; half of that is the gradient of weights, which an adapter does without. */
    private double operationsPerToken(LlamaConfig config, boolean adapter) {
        TrainingPlan plan = TrainingPlan.of(config, recomputation, batch, sequence);
        return (plan.forwardOperations() + plan.backwardOperations() / (adapter ? 2 : 1)) / ((double) batch * sequence);
    }

    /** {@return the operations a second of the best of a few square products, large enough to take a millisecond} */
    private static double productRate(Device device) {
        int size = 128;
        long best = productNanos(device, size);
        while (best < 1_000_000 && size < 8192) {
            size *= 2;
            best = productNanos(device, size);
        }
        return 2.0 * size * size * size * 1e9 / best;
    }

    private static long productNanos(Device device, int size) {
        long best = Long.MAX_VALUE;
        try (Arena arena = Arena.ofConfined(); Workspace workspace = new Workspace()) {
            Tensor x = device.allocate(arena, DType.F32, Shape.of(size, size));
            Tensor w = device.allocate(arena, DType.F32, Shape.of(size, size));
            Tensor y = device.allocate(arena, DType.F32, Shape.of(size, size));
            device.clear(x);
            device.clear(w);
            for (int i = 0; i < 20; i++) {
                long start = System.nanoTime();
                MatMul.forward(device, workspace, y, x, w);
                y.rows(0, 1).columns(0, 1).toFloatArray(); // waits for a device that works on its own
                best = Math.min(best, System.nanoTime() - start);
            }
        }
        return best;
    }
}
