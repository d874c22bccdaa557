package io.puna.train;

import io.puna.bindings.NativeMemory;
import io.puna.kernel.Attention;
import io.puna.kernel.CrossEntropy;
import io.puna.kernel.Embedding;
import io.puna.kernel.MatMul;
import io.puna.kernel.RmsNorm;
import io.puna.kernel.Rope;
import io.puna.kernel.SwiGlu;
import io.puna.kernel.Workspace;
import io.puna.model.LlamaConfig;
import io.puna.model.LoraAdapter;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * The loss of a batch and its gradient by every parameter: LLaMA's graph forwards and, written by hand, backwards. The loss is the
 * cross-entropy of each token that should follow, in nats.
 *
 * <p>Owns the activations of a batch, allocated once; {@link Recomputation} says which are kept of each block. Logits exist a stretch
 * of rows at a time, never those of the whole batch. Each operation is one call into the kernels for all rows; where documents of a
 * sequence are kept apart, attention is a call for each. For use by one thread.
 */
public final class LossGradient implements AutoCloseable {
    /**
     * Of the logits that exist at a time, 64 MiB: a large output layer comes from memory for every stretch. 16 and 32 MiB, which a
     * cache may hold, are a tenth and a twentieth slower, 128 no more than 2 % faster; gradients by blocks of the vocabulary as fast.
     */
    private static final long LOGIT_ELEMENTS = 16L << 20;
    private static final long LEAST_LOGIT_ROWS = 64;

    private final Device device;
    private final LlamaConfig config;
    private final Recomputation recomputation;
    private final int tokens;
    private final int rows;
    private final float scale;
    private final Arena arena = Arena.ofShared();
    private final Workspace workspace = new Workspace();

    private final Tensor ids;
    private final Tensor targets;
    private final Tensor rotations;
    private final List<Block> blocks = new ArrayList<>();
    private final Tensor last; // (rows, C), what the last block gives
    private final Tensor lastNormed;
    private final Tensor lastScale;
    private final Tensor logits;
    private final Tensor losses;
    private final Tensor residualGradient; // (rows, C), of the residual stream
    private final Tensor attendedGradient; // (rows, NH·HD)
    private final Tensor queryKeyValueGradient; // (rows, NH·HD + 2·NKV·HD)
    private final List<Stretch> stretches = new ArrayList<>(); // of the batch that is being computed

    /** Rows that are sequences of one length to attention, one after another. Their log-sum-exps lie as theirs do in the batch. */
    private record Stretch(int from, int sequences, int tokens) {
        Tensor of(Tensor tensor) {
            return tensor.rows(from, (long) sequences * tokens);
        }
    }

    /** What the forward pass leaves of a block. Blocks share what is not kept. */
    private record Block(Tensor input, Linear linear, Cheap cheap) {
    }

    /** Outputs of the wide linear layers and views of them. */
    private record Linear(Tensor queryKeyValue, Tensor query, Tensor queryKey, Tensor key, Tensor value, Tensor gateUp, Tensor gate,
            Tensor up) {
    }

    private record Cheap(Tensor normed, Tensor scale, Tensor attended, Tensor logSumExp, Tensor middle, Tensor middleNormed,
            Tensor middleScale, Tensor gated) {
    }

    /** Where the gradient goes: all of it, or that of an adapter alone, of which the weights' own is never made. */
    private record Wanted(@Nullable Parameters weights, @Nullable LoraAdapter adapter, @Nullable LoraAdapter adapterGradient) {
    }

    /**
     * Allocates the activations.
     *
     * @param config    of the models that will be passed
     * @param sequences B, at least 1
     * @param tokens    T, at least 1 and at most the context length
     * @throws IllegalArgumentException       if a number is out of range
     * @throws io.puna.tensor.DeviceException if the device has not that much memory; the message says how much it has
     */
    public LossGradient(Device device, LlamaConfig config, Recomputation recomputation, int sequences, int tokens) {
        if (sequences < 1 || sequences > Integer.MAX_VALUE / Math.max(tokens, 1)) {
            throw new IllegalArgumentException("sequences: expected at least 1 and fewer than 2^31 tokens in a batch, got " + sequences);
        }
        if (tokens < 1 || tokens > config.contextLength()) {
            throw new IllegalArgumentException("tokens: expected 1 to the context length " + config.contextLength() + ", got " + tokens);
        }
        this.device = device;
        this.config = config;
        this.recomputation = recomputation;
        this.tokens = tokens;
        this.rows = sequences * tokens;
        this.scale = (float) (1.0 / Math.sqrt(config.headWidth()));
        long width = config.width();
        long q = (long) config.heads() * config.headWidth();
        long kv = (long) config.keyValueHeads() * config.headWidth();
        try {
            ids = Tensor.allocate(arena, DType.I32, Shape.of(rows));
            targets = Tensor.allocate(arena, DType.I32, Shape.of(rows));
            rotations = floats(rows, config.headWidth());
            Linear linear = null;
            Cheap cheap = null;
            for (int layer = 0; layer < config.layers(); layer++) {
                if (linear == null || recomputation.keepsLinear()) {
                    linear = linear(q, kv);
                }
                if (cheap == null || recomputation.keepsCheap()) {
                    cheap = cheap(q);
                }
                blocks.add(new Block(floats(rows, width), linear, cheap));
            }
            last = floats(rows, width);
            lastNormed = floats(rows, width);
            lastScale = floats(rows);
            logits = floats(logitRows(config, rows), config.vocabularySize());
            losses = floats(rows);
            residualGradient = floats(rows, width);
            attendedGradient = floats(rows, q);
            queryKeyValueGradient = floats(rows, q + 2 * kv);
            rotate();
        } catch (Throwable e) {
            close();
            throw e;
        }
    }

    private Tensor floats(long... dims) {
        return device.allocate(arena, DType.F32, Shape.of(dims));
    }

    private Linear linear(long q, long kv) {
        long ff = config.feedForwardWidth();
        Tensor all = floats(rows, q + 2 * kv);
        Tensor both = floats(rows, 2 * ff);
        return new Linear(all, all.columns(0, q), all.columns(0, q + kv), all.columns(q, kv), all.columns(q + kv, kv), both,
                both.columns(0, ff), both.columns(ff, ff));
    }

    private Cheap cheap(long q) {
        long c = config.width();
        return new Cheap(floats(rows, c), floats(rows), floats(rows, q), floats(rows, config.heads()), floats(rows, c),
                floats(rows, c), floats(rows), floats(rows, config.feedForwardWidth()));
    }

    private static long logitRows(LlamaConfig config, long rows) {
        long most = Math.max(LEAST_LOGIT_ROWS, LOGIT_ELEMENTS / config.vocabularySize());
        return Math.ceilDiv(rows, Math.ceilDiv(rows, most)); // stretches of one length
    }

    /**
     * Every batch stands at the same positions, so their rotations are made once. Scores depend on how far apart two positions are,
     * so those of a document that is kept apart may count on from the ones before it.
     */
    private void rotate() {
        float[] values = config.ropeScaling().frequencies(config.ropeTheta(), config.headWidth(), tokens);
        int[] places = new int[rows];
        for (int row = 0; row < rows; row++) {
            places[row] = row % tokens;
        }
        try (Arena scratch = Arena.ofConfined()) {
            Tensor frequencies = device.allocate(scratch, DType.F32, Shape.of(values.length));
            device.copy(frequencies, Tensor.of(scratch, values, frequencies.shape()));
            Rope.table(device, rotations, frequencies, Tensor.of(scratch, places, Shape.of(rows)), config.ropeScaling().magnitude());
        }
    }

    /**
     * {@return the bytes that the blocks of a model keep of a batch}
     *
     * @param sequences B
     * @param tokens    T
     */
    public static long keptBytes(LlamaConfig config, Recomputation recomputation, long sequences, long tokens) {
        long each = config.width() + (recomputation.keepsLinear() ? linearWidth(config) : 0)
                + (recomputation.keepsCheap() ? cheapWidth(config) : 0);
        return Float.BYTES * sequences * tokens * config.layers() * each;
    }

    /** {@return the bytes of all that is allocated for a batch, kept or shared by the blocks; the kernels' scratch is not counted} */
    public static long byteSize(LlamaConfig config, Recomputation recomputation, long sequences, long tokens) {
        long rows = sequences * tokens;
        long q = (long) config.heads() * config.headWidth();
        long kv = (long) config.keyValueHeads() * config.headWidth();
        long shared = (recomputation.keepsLinear() ? 0 : linearWidth(config)) + (recomputation.keepsCheap() ? 0 : cheapWidth(config));
        long others = 4 + config.headWidth() + 3L * config.width() + 2 * q + 2 * kv;
        return keptBytes(config, recomputation, sequences, tokens)
                + Float.BYTES * (rows * (shared + others) + logitRows(config, rows) * config.vocabularySize());
    }

    private static long linearWidth(LlamaConfig config) {
        return (config.heads() + 2L * config.keyValueHeads()) * config.headWidth() + 2L * config.feedForwardWidth();
    }

    private static long cheapWidth(LlamaConfig config) {
        return 3L * config.width() + (long) config.heads() * config.headWidth() + config.heads() + 2 + config.feedForwardWidth();
    }

    /** {@return the tokens of a batch, B · T} */
    public int rows() {
        return rows;
    }

    /**
     * {@return the sum of a batch's losses}
     *
     * @param weights       of a model of this configuration
     * @param batchIds      (B, T) tokens
     * @param batchTargets  (B, T) what should follow each, {@link BatchSource#IGNORED} where it does not count
     * @throws IndexOutOfBoundsException if a token or target is not in the vocabulary
     */
    public double loss(Parameters weights, int[] batchIds, int[] batchTargets) {
        return loss(weights, batchIds, batchTargets, new boolean[rows]);
    }

    /**
     * {@return the sum of a batch's losses} Documents of a sequence are kept apart.
     *
     * @param weights       of a model of this configuration
     * @param batchIds      (B, T) tokens
     * @param batchTargets  (B, T) what should follow each, {@link BatchSource#IGNORED} where it does not count
     * @param batchBegins   (B, T) whether a token is its document's first, which sees none of what its sequence has before it
     * @throws IndexOutOfBoundsException if a token or target is not in the vocabulary
     */
    public double loss(Parameters weights, int[] batchIds, int[] batchTargets, boolean[] batchBegins) {
        forward(weights, batchIds, batchTargets, batchBegins);
        head(weights, null, 0);
        return lossSum();
    }

    /**
     * {@return the sum of a batch's losses} Adds its gradient, times a factor, to what is there.
     *
     * @param gradient      accumulated into
     * @param weights       of a model of this configuration
     * @param batchIds      (B, T) tokens
     * @param batchTargets  (B, T) what should follow each, {@link BatchSource#IGNORED} where it does not count
     * @param factor        finite: 1 / (targets that count) for the gradient of their mean
     * @throws IndexOutOfBoundsException if a token or target is not in the vocabulary
     */
    public double accumulate(Parameters gradient, Parameters weights, int[] batchIds, int[] batchTargets, float factor) {
        return accumulate(gradient, weights, batchIds, batchTargets, new boolean[rows], factor);
    }

    /**
     * {@return the sum of a batch's losses} Adds its gradient, times a factor, to what is there. Documents of a sequence are kept
     * apart.
     *
     * @param gradient      accumulated into
     * @param weights       of a model of this configuration
     * @param batchIds      (B, T) tokens
     * @param batchTargets  (B, T) what should follow each, {@link BatchSource#IGNORED} where it does not count
     * @param batchBegins   (B, T) whether a token is its document's first, which sees none of what its sequence has before it
     * @param factor        finite: 1 / (targets that count) for the gradient of their mean
     * @throws IndexOutOfBoundsException if a token or target is not in the vocabulary
     */
    public double accumulate(Parameters gradient, Parameters weights, int[] batchIds, int[] batchTargets, boolean[] batchBegins,
            float factor) {
        double sum = accumulate(new Wanted(gradient, null, null), weights, batchIds, batchTargets, batchBegins, factor);
        Embedding.backward(device, gradient.weights().embedding(), ids, residualGradient);
        return sum;
    }

    /**
     * {@return the sum of a batch's losses} Adds the gradient of an adapter, times a factor, to what is there.
     *
     * @param gradient      accumulated into, as {@link LoraAdapter#zeros} gives it
     * @param adapter       that is merged into the weights
     * @param weights       of a model of this configuration
     * @param batchIds      (B, T) tokens
     * @param batchTargets  (B, T) what should follow each, {@link BatchSource#IGNORED} where it does not count
     * @param factor        finite: 1 / (targets that count) for the gradient of their mean
     * @throws IndexOutOfBoundsException if a token or target is not in the vocabulary
     */
    public double accumulate(LoraAdapter gradient, LoraAdapter adapter, Parameters weights, int[] batchIds, int[] batchTargets,
            float factor) {
        return accumulate(gradient, adapter, weights, batchIds, batchTargets, new boolean[rows], factor);
    }

    /**
     * {@return the sum of a batch's losses} Adds the gradient of an adapter, times a factor, to what is there. Documents of a
     * sequence are kept apart.
     *
     * @param gradient      accumulated into, as {@link LoraAdapter#zeros} gives it
     * @param adapter       that is merged into the weights
     * @param weights       of a model of this configuration
     * @param batchIds      (B, T) tokens
     * @param batchTargets  (B, T) what should follow each, {@link BatchSource#IGNORED} where it does not count
     * @param batchBegins   (B, T) whether a token is its document's first, which sees none of what its sequence has before it
     * @param factor        finite: 1 / (targets that count) for the gradient of their mean
     * @throws IndexOutOfBoundsException if a token or target is not in the vocabulary
     */
    public double accumulate(LoraAdapter gradient, LoraAdapter adapter, Parameters weights, int[] batchIds, int[] batchTargets,
            boolean[] batchBegins, float factor) {
        return accumulate(new Wanted(null, adapter, gradient), weights, batchIds, batchTargets, batchBegins, factor);
    }

    private double accumulate(Wanted wanted, Parameters weights, int[] batchIds, int[] batchTargets, boolean[] batchBegins,
            float factor) {
        forward(weights, batchIds, batchTargets, batchBegins);
        head(weights, wanted, factor);
        for (int layer = config.layers() - 1; layer >= 0; layer--) {
            if (layer < config.layers() - 1) { // what the last block left is still there
                again(weights.blocks().get(layer), blocks.get(layer));
            }
            backward(wanted, layer, weights.blocks().get(layer), blocks.get(layer));
        }
        return lossSum();
    }

    private double lossSum() {
        double sum = 0;
        for (float loss : losses.toFloatArray()) {
            sum += loss;
        }
        return sum;
    }

    private void place(int[] batchIds, int[] batchTargets, boolean[] batchBegins) {
        if (batchIds.length != rows || batchTargets.length != rows || batchBegins.length != rows) {
            throw new IllegalArgumentException("batch: expected " + rows + " ids, targets and begins, got " + batchIds.length + ", "
                    + batchTargets.length + " and " + batchBegins.length);
        }
        for (int i = 0; i < rows; i++) {
            if (batchIds[i] < 0 || batchIds[i] >= config.vocabularySize()) {
                throw new IndexOutOfBoundsException("ids[" + i + "]: expected 0 to " + (config.vocabularySize() - 1) + ", got "
                        + batchIds[i]);
            }
            if (batchTargets[i] != BatchSource.IGNORED && (batchTargets[i] < 0 || batchTargets[i] >= config.vocabularySize())) {
                throw new IndexOutOfBoundsException("targets[" + i + "]: expected 0 to " + (config.vocabularySize() - 1) + " or "
                        + BatchSource.IGNORED + ", got " + batchTargets[i]);
            }
        }
        MemorySegment.copy(batchIds, 0, ids.segment(), ValueLayout.JAVA_INT, 0, rows);
        MemorySegment.copy(batchTargets, 0, targets.segment(), ValueLayout.JAVA_INT, 0, rows);
        cut(batchBegins);
    }

    /** Cuts where sequences and documents begin. Neighbours of one length go together: a batch without documents is one stretch. */
    private void cut(boolean[] batchBegins) {
        stretches.clear();
        int from = 0;
        for (int row = 1; row <= rows; row++) {
            if (row % tokens != 0 && !batchBegins[row]) {
                continue;
            }
            int length = row - from;
            if (!stretches.isEmpty() && stretches.getLast().tokens == length) {
                Stretch before = stretches.removeLast();
                stretches.add(new Stretch(before.from, before.sequences + 1, length));
            } else {
                stretches.add(new Stretch(from, 1, length));
            }
            from = row;
        }
    }

    private void forward(Parameters weights, int[] batchIds, int[] batchTargets, boolean[] batchBegins) {
        place(batchIds, batchTargets, batchBegins);
        Embedding.forward(device, blocks.getFirst().input, weights.weights().embedding(), ids);
        for (int layer = 0; layer < config.layers(); layer++) {
            Parameters.Block w = weights.blocks().get(layer);
            Block block = blocks.get(layer);
            normalize(w, block);
            attentionInputs(w, block);
            attend(w, block);
            feedForwardInputs(w, block);
            gate(block);
            Tensor output = layer + 1 < config.layers() ? blocks.get(layer + 1).input : last;
            device.copy(output, block.cheap.middle);
            MatMul.accumulate(device, workspace, output, block.cheap.gated, w.down());
        }
        RmsNorm.forward(device, lastNormed, lastScale, last, weights.weights().norm(), config.normEpsilon());
    }

    /** Computes again what was not kept of a block: the same calls, so the same bits. */
    private void again(Parameters.Block w, Block block) {
        if (recomputation.keepsCheap()) {
            return;
        }
        normalize(w, block);
        if (!recomputation.keepsLinear()) {
            attentionInputs(w, block);
        }
        attend(w, block);
        if (!recomputation.keepsLinear()) {
            feedForwardInputs(w, block);
        }
        gate(block);
    }

    private void normalize(Parameters.Block w, Block block) {
        RmsNorm.forward(device, block.cheap.normed, block.cheap.scale, block.input, w.attentionNorm(), config.normEpsilon());
    }

    private void attentionInputs(Parameters.Block w, Block block) {
        MatMul.forward(device, workspace, block.linear.queryKeyValue, block.cheap.normed, w.queryKeyValue());
        Rope.forward(device, block.linear.queryKey, rotations, config.ropeLayout(), config.headWidth());
    }

    private void attend(Parameters.Block w, Block block) {
        for (Stretch s : stretches) {
            Attention.forward(device, workspace, s.of(block.cheap.attended), s.of(block.cheap.logSumExp), s.of(block.linear.query),
                    s.of(block.linear.key), s.of(block.linear.value), s.sequences, config.heads(), config.keyValueHeads(),
                    config.headWidth(), config.slidingWindow(), scale);
        }
        device.copy(block.cheap.middle, block.input);
        MatMul.accumulate(device, workspace, block.cheap.middle, block.cheap.attended, w.attentionOutput());
        RmsNorm.forward(device, block.cheap.middleNormed, block.cheap.middleScale, block.cheap.middle, w.feedForwardNorm(),
                config.normEpsilon());
    }

    private void feedForwardInputs(Parameters.Block w, Block block) {
        MatMul.forward(device, workspace, block.linear.gateUp, block.cheap.middleNormed, w.gateUp());
    }

    private void gate(Block block) {
        SwiGlu.forward(device, block.cheap.gated, block.linear.gate, block.linear.up);
    }

    /**
     * The output layer, a stretch of rows at a time: losses, and where a gradient is wanted, that of the residual stream before the last
     * RMSNorm.
     */
    private void head(Parameters weights, @Nullable Wanted wanted, float factor) {
        Parameters gradient = wanted == null ? null : wanted.weights;
        Tensor output = weights.weights().output();
        long step = logits.shape().rows();
        for (long from = 0; from < rows; from += step) {
            long count = Math.min(step, rows - from);
            Tensor part = logits.rows(0, count);
            Tensor normed = lastNormed.rows(from, count);
            MatMul.forward(device, workspace, part, normed, output);
            CrossEntropy.forwardBackward(device, losses.columns(from, count), wanted == null ? null : part, part,
                    targets.columns(from, count), BatchSource.IGNORED, factor);
            if (gradient != null) {
                MatMul.weightBackward(device, workspace, gradient.weights().output(), normed, part);
            }
            if (wanted != null) {
                MatMul.inputBackward(device, workspace, normed, output, part, false); // its place is not needed any more
            }
        }
        if (wanted != null) {
            RmsNorm.backward(device, residualGradient, gradient == null ? null : gradient.weights().norm(), last,
                    weights.weights().norm(), lastScale, lastNormed, false);
        }
    }

    /** Takes {@code residualGradient} from a block's output to its input. Gradients take the place of values that have served. */
    private void backward(Wanted wanted, int layer, Parameters.Block w, Block block) {
        Parameters.Block g = wanted.weights == null ? null : wanted.weights.blocks().get(layer);
        Cheap cheap = block.cheap;
        Linear linear = block.linear;
        weightGradient(wanted, layer, Parameters.Block::down, cheap.gated, residualGradient, LoraAdapter.Target.DOWN_PROJ);
        MatMul.inputBackward(device, workspace, cheap.gated, w.down(), residualGradient, false);
        SwiGlu.backward(device, linear.gate, linear.up, linear.gate, linear.up, cheap.gated);
        weightGradient(wanted, layer, Parameters.Block::gateUp, cheap.middleNormed, linear.gateUp,
                LoraAdapter.Target.GATE_PROJ, LoraAdapter.Target.UP_PROJ);
        MatMul.inputBackward(device, workspace, cheap.middleNormed, w.gateUp(), linear.gateUp, false);
        RmsNorm.backward(device, residualGradient, g == null ? null : g.feedForwardNorm(), cheap.middle, w.feedForwardNorm(),
                cheap.middleScale, cheap.middleNormed, true);

        weightGradient(wanted, layer, Parameters.Block::attentionOutput, cheap.attended, residualGradient,
                LoraAdapter.Target.O_PROJ);
        MatMul.inputBackward(device, workspace, attendedGradient, w.attentionOutput(), residualGradient, false);
        long q = linear.query.shape().columns();
        long kv = linear.key.shape().columns();
        for (Stretch s : stretches) {
            Tensor inputGradient = s.of(queryKeyValueGradient);
            Attention.backward(device, workspace, inputGradient.columns(0, q), inputGradient.columns(q, kv),
                    inputGradient.columns(q + kv, kv), s.of(linear.query), s.of(linear.key), s.of(linear.value),
                    s.of(cheap.attended), s.of(cheap.logSumExp), s.of(attendedGradient), s.sequences, config.heads(),
                    config.keyValueHeads(), config.headWidth(), config.slidingWindow(), scale);
        }
        Rope.backward(device, queryKeyValueGradient.columns(0, q + kv), rotations, config.ropeLayout(), config.headWidth());
        weightGradient(wanted, layer, Parameters.Block::queryKeyValue, cheap.normed, queryKeyValueGradient,
                LoraAdapter.Target.Q_PROJ, LoraAdapter.Target.K_PROJ, LoraAdapter.Target.V_PROJ);
        MatMul.inputBackward(device, workspace, cheap.normed, w.queryKeyValue(), queryKeyValueGradient, false);
        RmsNorm.backward(device, residualGradient, g == null ? null : g.attentionNorm(), block.input, w.attentionNorm(), cheap.scale,
                cheap.normed, true);
    }

    /** Adds to the gradient of linear layers side by side from what went into them and the gradient of what came out. */
    private void weightGradient(Wanted wanted, int layer, Function<Parameters.Block, Tensor> matrix, Tensor x, Tensor dy,
            LoraAdapter.Target... parts) {
        if (wanted.weights != null) {
            MatMul.weightBackward(device, workspace, matrix.apply(wanted.weights.blocks().get(layer)), x, dy);
        } else if (wanted.adapter != null && wanted.adapterGradient != null) {
            wanted.adapter.backward(wanted.adapterGradient, layer, x, dy, parts);
        }
    }

    /** Frees the activations. Idempotent. */
    @Override
    public void close() {
        workspace.close();
        NativeMemory.close(arena);
    }
}
