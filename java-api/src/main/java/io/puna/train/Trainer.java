package io.puna.train;

import io.puna.bindings.NativeMemory;
import io.puna.format.CheckpointException;
import io.puna.format.Safetensors;
import io.puna.kernel.AdamW;
import io.puna.kernel.GradientNorm;
import io.puna.kernel.Workspace;
import io.puna.model.LoraAdapter;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Trains a model step by step with AdamW, as LLaMA was trained.
 *
 * {@snippet :
 * try (Trainer trainer = new Trainer(device, weights, source, options)) {
 *     while (trainer.steps() < options.steps()) {
 *         System.out.println(trainer.step().loss());
 *     }
 * }
 * }
 *
 * <p>The same weights, source and options give the same bits, whatever the number of threads, and whether a run was saved and taken up
 * again in between. Owns gradient, moments and activations until it is closed; weights, source and device stay the caller's. For use by
 * one thread.
 */
public final class Trainer implements AutoCloseable {
    private static final String STATE_FILE = "training.safetensors";
    private static final String FORMAT = "puna-training-2";
    /** How fast the norm that outliers are told by follows the steps. */
    private static final double USUAL_NORM_DECAY = 0.98;
    /** Steps before outliers are told. */
    private static final long OUTLIER_PATIENCE = 20;
    /** A loss this many times that of guessing is no model's any more. */
    private static final double EXPLODED = 5;

    private final Device device;
    private final Parameters weights;
    private final BatchSource source;
    private final TrainingOptions options;
    /** Null where an adapter is trained. */
    private final @Nullable Parameters gradient;
    private final LossGradient loss;
    private final Arena arena = Arena.ofShared();
    /** All that is trained, and in the same order its gradient and the two moments. */
    private final Tensor trained;
    private final Tensor slope;
    private final Tensor mean;
    private final Tensor square;
    /** How many of those numbers decay: all before the weights of RMSNorm. */
    private final long decaying;
    /** Null where the weights themselves are trained. */
    private final @Nullable Adaptation adaptation;
    private final Workspace workspace = new Workspace();
    private final int[][] ids;
    private final int[][] targets;
    private final boolean[][] begins;
    private long steps;
    /** Steps that were not left out, which the moments are sums of. */
    private long updates;
    private double usualNorm;

    /**
     * What a step did.
     *
     * @param step         counted from one
     * @param loss         mean loss of its tokens before it, in nats
     * @param gradientNorm before clipping
     * @param learningRate of the step
     * @param tokens       that it read
     * @param skipped      whether it was left out as an outlier
     */
    public record Step(long step, double loss, double gradientNorm, double learningRate, long tokens, boolean skipped) {
    }

    /** An adapter, its gradient, and what the weights are without it. */
    private record Adaptation(LoraAdapter adapter, LoraAdapter gradient, Tensor base) {
    }

    /**
     * Allocates what training takes.
     *
     * @param device  what computes
     * @param weights trained in place
     * @param source  where tokens come from
     * @throws IllegalArgumentException       if a sequence is longer than the model's context, or what is trained is not where the device
     *                                        computes
     * @throws io.puna.tensor.DeviceException if the device has not that much memory; the message says how much it has
     */
    public Trainer(Device device, Parameters weights, BatchSource source, TrainingOptions options) {
        this(device, weights, null, source, options);
    }

    /**
     * Allocates what training takes.
     *
     * @param device  what computes
     * @param weights trained in place; with an adapter, always those it began with and the adapter merged into them
     * @param adapter trained in place instead of the weights; null for these
     * @param source  where tokens come from
     * @throws IllegalArgumentException       if a sequence is longer than the model's context, or what is trained is not where the device
     *                                        computes
     * @throws io.puna.tensor.DeviceException if the device has not that much memory; the message says how much it has
     */
    public Trainer(Device device, Parameters weights, @Nullable LoraAdapter adapter, BatchSource source, TrainingOptions options) {
        this.device = device;
        this.weights = weights;
        this.source = source;
        this.options = options;
        requireHere(weights.all(), "weights");
        if (adapter != null) {
            requireHere(adapter.all(), "adapter");
        }
        loss = new LossGradient(device, weights.config(), options.recomputation(), options.sequences(), options.tokens());
        try {
            if (adapter == null) {
                adaptation = null;
                gradient = Parameters.zeros(device, weights.config());
                trained = weights.all();
                slope = gradient.all();
                decaying = weights.matrixElements();
            } else {
                Tensor base = device.allocate(arena, DType.F32, weights.all().shape());
                device.copy(base, weights.all());
                adaptation = new Adaptation(adapter, adapter.zeros(), base);
                gradient = null;
                trained = adapter.all();
                slope = adaptation.gradient.all();
                decaying = trained.shape().elements();
                adapter.add(weights.weights(), weights.config().ropeLayout());
            }
            mean = device.allocate(arena, DType.F32, trained.shape());
            square = device.allocate(arena, DType.F32, trained.shape());
            device.clear(mean);
            device.clear(square);
        } catch (Throwable e) {
            close();
            throw e;
        }
        ids = new int[options.accumulate()][loss.rows()];
        targets = new int[options.accumulate()][loss.rows()];
        begins = new boolean[options.accumulate()][loss.rows()];
    }

    private void requireHere(Tensor tensor, String name) {
        if (tensor.device() != (device.hasOwnMemory() ? device : null)) {
            throw new IllegalArgumentException(name + ": expected memory of " + (device.hasOwnMemory() ? device + " itself" : "the host")
                    + ", got that of " + (tensor.device() == null ? "the host" : tensor.device()));
        }
    }

    /** {@return the steps done} */
    public long steps() {
        return steps;
    }

    /** {@return the weights, as the last step left them} */
    public Parameters weights() {
        return weights;
    }

    /** {@return whether an adapter is trained, and the gradient of the weights themselves never made} */
    public boolean trainsAdapter() {
        return adaptation != null;
    }

    /**
     * Does a step.
     *
     * @throws TrainingException if the loss or a gradient is not finite, or the loss has exploded; the weights are untouched
     */
    public Step step() {
        long step = steps + 1;
        long counted = 0;
        for (int i = 0; i < ids.length; i++) {
            source.next(ids[i], targets[i], begins[i], options.sequences());
            for (int target : targets[i]) {
                counted += target == BatchSource.IGNORED ? 0 : 1;
            }
        }
        device.clear(slope);
        double sum = 0;
        float factor = (float) (1.0 / Math.max(counted, 1));
        for (int i = 0; i < ids.length; i++) {
            sum += accumulate(ids[i], targets[i], begins[i], factor);
        }
        double meanLoss = sum / Math.max(counted, 1);
        double norm = Math.sqrt(GradientNorm.squared(device, workspace, slope));
        requireSound(step, meanLoss, norm);
        double rate = options.schedule().rate(options.learningRate(), step, options.warmup(), options.steps());
        boolean skipped = options.outlier() > 0 && step > OUTLIER_PATIENCE && norm > options.outlier() * usualNorm;
        if (!skipped) {
            updates++;
            update(rate, options.clip() > 0 && norm > options.clip() ? options.clip() / norm : 1);
            usualNorm = usualNorm == 0 ? norm : USUAL_NORM_DECAY * usualNorm + (1 - USUAL_NORM_DECAY) * norm;
        }
        steps = step;
        return new Step(step, meanLoss, norm, rate, (long) ids.length * loss.rows(), skipped);
    }

    private double accumulate(int[] batchIds, int[] batchTargets, boolean[] batchBegins, float factor) {
        if (adaptation != null) {
            return loss.accumulate(adaptation.gradient, adaptation.adapter, weights, batchIds, batchTargets, batchBegins, factor);
        }
        return loss.accumulate(Objects.requireNonNull(gradient), weights, batchIds, batchTargets, batchBegins, factor);
    }

    private void update(double rate, double scale) {
        long rest = trained.shape().elements() - decaying;
        update(0, decaying, rate, options.weightDecay(), scale);
        if (rest > 0) {
            update(decaying, rest, rate, 0, scale);
        }
        merge();
    }

    private void update(long from, long count, double rate, double decay, double scale) {
        AdamW.step(device, trained.columns(from, count), mean.columns(from, count), square.columns(from, count),
                slope.columns(from, count), updates, rate, options.beta1(), options.beta2(), options.epsilon(), decay, scale);
    }

    /** Weights are made anew from those without the adapter, so that no rounding adds up. */
    private void merge() {
        if (adaptation != null) {
            device.copy(weights.all(), adaptation.base);
            adaptation.adapter.add(weights.weights(), weights.config().ropeLayout());
        }
    }

    private void requireSound(long step, double meanLoss, double norm) {
        double guessing = Math.log(weights.config().vocabularySize());
        if (Double.isFinite(meanLoss) && Double.isFinite(norm) && meanLoss <= EXPLODED * guessing) {
            return;
        }
        String what = "step " + step + ": ";
        Map<String, Tensor> gradients = adaptation != null ? adaptation.gradient.tensors() : Objects.requireNonNull(gradient).tensors();
        for (Map<String, Tensor> tensors : List.of(weights.tensors(), gradients)) {
            for (Map.Entry<String, Tensor> entry : tensors.entrySet()) {
                if (!Double.isFinite(GradientNorm.squared(device, workspace, entry.getValue()))) {
                    throw new TrainingException(what + "expected finite numbers, got others in "
                            + (tensors == gradients ? "the gradient of " : "") + entry.getKey() + ", with a loss of " + meanLoss);
                }
            }
        }
        Map.Entry<String, Tensor> longest = gradients.entrySet().stream()
                .max(Comparator.comparingDouble(e -> GradientNorm.squared(device, workspace, e.getValue()))).orElseThrow();
        throw new TrainingException(what + "expected a loss of at most " + EXPLODED + " times that of guessing, " + guessing + ", got "
                + meanLoss + "; the longest gradient is that of " + longest.getKey());
    }

    /**
     * {@return the mean loss of batches, in nats} Nothing is trained.
     *
     * @param held    where their tokens come from
     * @param batches at least 1
     * @throws IllegalArgumentException if there are fewer
     */
    public double evaluate(BatchSource held, int batches) {
        if (batches < 1) {
            throw new IllegalArgumentException("batches: expected at least 1, got " + batches);
        }
        double sum = 0;
        long counted = 0;
        for (int i = 0; i < batches; i++) {
            held.next(ids[0], targets[0], begins[0], options.sequences());
            sum += loss.loss(weights, ids[0], targets[0], begins[0]);
            for (int target : targets[0]) {
                counted += target == BatchSource.IGNORED ? 0 : 1;
            }
        }
        return sum / Math.max(counted, 1);
    }

    /**
     * Saves all that {@link #restore} wants: what is trained, its moments, and where the run and its source stand. One file that has
     * its name only once it is whole, so that the last one saved is there whenever the process ends.
     *
     * @param folder that holds the run
     * @throws IOException if it cannot be written; what was saved before is there still
     */
    public void save(Path folder) throws IOException {
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        tensors.put("weights", trained);
        tensors.put("mean", mean);
        tensors.put("square", square);
        Map<String, String> metadata = new LinkedHashMap<>();
        metadata.put("format", FORMAT);
        metadata.put("steps", Long.toString(steps));
        metadata.put("updates", Long.toString(updates));
        metadata.put("usual_norm", Double.toString(usualNorm));
        metadata.put("source", source.state());
        metadata.put("adapter", adapterName());
        Safetensors.write(folder.resolve(STATE_FILE), tensors, metadata);
    }

    private String adapterName() {
        return adaptation == null ? "none" : adaptation.adapter.toString();
    }

    /** {@return whether a folder holds a run that {@link #restore} can take up} */
    public static boolean isSaved(Path folder) {
        return Files.exists(folder.resolve(STATE_FILE));
    }

    /**
     * Goes to where a run of the same model and source was saved.
     *
     * @param folder that holds the run
     * @throws CheckpointException      if what is there is no run of this model
     * @throws IllegalArgumentException if the source refuses its state; nothing has changed
     * @throws IOException              if it cannot be read
     */
    public void restore(Path folder) throws IOException {
        Path file = folder.resolve(STATE_FILE);
        try (Safetensors saved = Safetensors.open(file)) {
            Map<String, String> metadata = saved.metadata();
            if (!FORMAT.equals(metadata.get("format"))) {
                throw new CheckpointException(file, "a saved run, format " + FORMAT, String.valueOf(metadata.get("format")));
            }
            for (String name : List.of("weights", "mean", "square")) {
                Tensor tensor = saved.tensors().get(name);
                if (tensor == null || tensor.dtype() != DType.F32 || !tensor.shape().equals(trained.shape())) {
                    throw new CheckpointException(file, name + " of F32 " + trained.shape() + " by the model",
                            tensor == null ? "none" : tensor.toString());
                }
            }
            if (!adapterName().equals(metadata.get("adapter"))) {
                throw new CheckpointException(file, "an adapter of " + adapterName(), String.valueOf(metadata.get("adapter")));
            }
            long savedSteps = Long.parseLong(metadata.getOrDefault("steps", ""));
            long savedUpdates = Long.parseLong(metadata.getOrDefault("updates", ""));
            double savedNorm = Double.parseDouble(metadata.getOrDefault("usual_norm", ""));
            if (savedUpdates < 0 || savedSteps < savedUpdates) {
                throw new CheckpointException(file, "updates of at least 0 and at least as many steps",
                        savedUpdates + " and " + savedSteps);
            }
            source.restore(metadata.getOrDefault("source", ""));
            steps = savedSteps;
            updates = savedUpdates;
            usualNorm = savedNorm;
            device.copy(trained, saved.tensors().get("weights"));
            device.copy(mean, saved.tensors().get("mean"));
            device.copy(square, saved.tensors().get("square"));
            merge();
        } catch (NumberFormatException e) {
            throw new CheckpointException(file, "the steps, updates, usual_norm and source of a run", "others", e);
        }
    }

    /** Frees gradient, moments and activations. Idempotent. */
    @Override
    public void close() {
        workspace.close();
        loss.close();
        if (gradient != null) {
            gradient.close();
        }
        if (adaptation != null) {
            adaptation.gradient.close();
        }
        NativeMemory.close(arena);
    }
}
