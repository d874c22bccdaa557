package io.puna.model;

import io.puna.kernel.Embedding;
import io.puna.kernel.KvCache;
import io.puna.kernel.KvStep;
import io.puna.kernel.MatMul;
import io.puna.kernel.RmsNorm;
import io.puna.kernel.Rope;
import io.puna.kernel.SwiGlu;
import io.puna.kernel.Workspace;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Recording;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.locks.ReentrantLock;
import java.util.stream.Stream;

/**
 * The forward pass: one step advances any number of sequences by any number of tokens each, reading every weight once.
 *
 * <p>For each block h = x + Attn(RMSNorm(x)), y = h + W₂·(SiLU(W₁·n) ⊙ W₃·n) with n = RMSNorm(h). A prompt, the next token of one
 * sequence and the next tokens of many are the same code and give a sequence the same bits.
 *
 * <p>Owns the activations of a step, allocated once for {@code maxRows}. Safe for use by many threads: steps run one at a time, in
 * the order they were asked for.
 */
public final class LlamaForward implements AutoCloseable {
    /** Caches double as they grow, so that few capacities come up; each recording takes some megabytes of the driver's. */
    private static final int MAX_RECORDINGS = 16;

    private final LlamaConfig config;
    private final LlamaWeights weights;
    private final MatMul.Activations activations;
    private final int maxRows;
    private final Arena arena = Arena.ofShared();
    private final Workspace workspace = new Workspace();
    private final float scale;
    /** Fair, so that one long generation does not starve the others. */
    private final ReentrantLock lock = new ReentrantLock(true);
    private final Tensor ids;
    private final Tensor positions;
    /** One for each device that has layers, in their order: the residual goes from one to the next. */
    private final List<Stage> stages;
    private boolean closed;

    /**
     * One sequence's part in a step.
     *
     * @param cache          the sequence's keys and values; the tokens stand at {@code cache.length()} and after
     * @param tokens         ids in the vocabulary
     * @param from           first token of the part
     * @param count          tokens of the part, at least 1
     * @param outputs        how many of the last tokens of the part logits are wanted of
     * @param sequenceLength positions of the whole sequence that this part belongs to, which dynamic RoPE scaling depends on; at
     *                       least {@code cache.length() + count}
     */
    public record Part(KvCache cache, int[] tokens, int from, int count, int outputs, int sequenceLength) {
    }

    /** What a recorded step depends on: how many sequences, and the capacity and the type of their caches, the largest's. */
    private record Recorded(int sequences, int capacity, DType cacheType) {
    }

    /** The views that a step of so many rows works on, kept because most steps are as long as the one before. */
    private record Rows(int count, Tensor rotations, Tensor residual, Tensor normed, Tensor attended, Tensor query, Tensor queryKey,
            Tensor key, Tensor value, Tensor gate, Tensor up) {
    }

    /**
     * Allocates the activations.
     *
     * @param activations how activations meet weights of block types
     * @param maxRows     the most tokens that a step may have, all sequences together
     */
    public LlamaForward(Device device, LlamaConfig config, LlamaWeights weights, MatMul.Activations activations, int maxRows) {
        this(device, device, config.layers(), config, weights, activations, maxRows);
    }

    /**
     * Allocates the activations of a forward pass whose last layers, and the output, another device computes than the first.
     *
     * @param first       what computes the embedding and the first layers, whose weights it works on
     * @param last        what computes the others, the last RMSNorm and the output, whose weights it works on
     * @param lastLayers  how many layers that are, 1 to L; with L it computes the embedding too, and {@code first} nothing
     * @param activations how activations meet weights of block types
     * @param maxRows     the most tokens that a step may have, all sequences together
     */
    public LlamaForward(Device first, Device last, int lastLayers, LlamaConfig config, LlamaWeights weights,
            MatMul.Activations activations, int maxRows) {
        if (maxRows < 1) {
            throw new IllegalArgumentException("maxRows: expected at least 1, got " + maxRows);
        }
        if (lastLayers < 1 || lastLayers > config.layers()) {
            throw new IllegalArgumentException("lastLayers: expected 1 to " + config.layers() + ", got " + lastLayers);
        }
        this.config = config;
        this.weights = weights;
        this.activations = activations;
        this.maxRows = maxRows;
        this.scale = (float) (1.0 / Math.sqrt(config.headWidth()));
        int firstLayers = config.layers() - lastLayers;
        try {
            ids = Tensor.allocate(arena, DType.I32, Shape.of(maxRows, 1));
            positions = Tensor.allocate(arena, DType.I32, Shape.of(maxRows, 1));
            stages = firstLayers == 0 ? List.of(new Stage(last, 0, lastLayers))
                    : List.of(new Stage(first, 0, firstLayers), new Stage(last, firstLayers, lastLayers));
        } catch (Throwable e) {
            workspace.close();
            arena.close();
            throw e;
        }
    }

    /** {@return the device that computes the output, where logits belong} */
    public Device device() {
        return stages.getLast().device;
    }

    /**
     * {@return an empty cache, each layer of which lies where it is computed}
     *
     * @param capacity the most tokens it can hold
     * @param dtype    F32, F16, BF16 or Q8_0
     * @throws IllegalArgumentException       as {@link KvCache#allocate(Device, int, int, int, int, DType)}
     * @throws io.puna.tensor.DeviceException if a device refuses the memory
     */
    public KvCache newCache(int capacity, DType dtype) {
        Stage first = stages.getFirst();
        return KvCache.allocate(first.device, first.layers, device(), config.layers() - first.layers, config.keyValueHeads(),
                config.headWidth(), capacity, dtype);
    }

    /** {@return the model's numbers} */
    public LlamaConfig config() {
        return config;
    }

    /** {@return the most tokens that a step may have} */
    public int maxRows() {
        return maxRows;
    }

    /**
     * Runs one step and advances every part's cache by its tokens. When it throws, no cache has advanced.
     *
     * @param parts  at least one; each with a cache of its own
     * @param logits F32 (sum of outputs, V), overwritten with the logits asked for, part after part; its rows may be none
     * @throws IllegalArgumentException  if there are no parts, more rows than {@code maxRows}, a part's numbers contradict each other,
     *                                   or {@code logits} has another shape
     * @throws IndexOutOfBoundsException if a token is not in the vocabulary
     * @throws IllegalStateException     if a cache is closed or in another step, or the model is closed
     */
    public void step(List<Part> parts, Tensor logits) {
        lock.lock();
        try {
            if (closed) {
                throw new IllegalStateException("model is closed");
            }
            run(parts, logits);
        } finally {
            lock.unlock();
        }
    }

    private void run(List<Part> parts, Tensor logits) {
        int count = 0;
        int outputs = 0;
        List<KvStep.Part> cacheParts = new ArrayList<>(parts.size());
        for (Part part : parts) {
            check(part);
            count = Math.addExact(count, part.count);
            outputs += part.outputs;
            cacheParts.add(new KvStep.Part(part.cache, part.count));
        }
        if (count == 0 || count > maxRows) {
            throw new IllegalArgumentException("parts: expected 1 to " + maxRows + " tokens in a step, got " + count);
        }
        Shape expected = Shape.of(outputs, config.vocabularySize());
        if (!logits.shape().equals(expected) || logits.dtype() != DType.F32) {
            throw new IllegalArgumentException("logits: expected F32 " + expected + ", got " + logits);
        }
        try (KvStep step = KvStep.begin(workspace, cacheParts)) {
            placeTokens(parts);
            for (Stage stage : stages) {
                stage.run(step, cacheParts, outputs);
            }
            if (outputs > 0) {
                stages.getLast().finish(parts, outputs, logits);
            }
            step.commit();
        }
    }

    private void check(Part part) {
        Objects.requireNonNull(part.cache, "cache");
        Objects.checkFromIndexSize(part.from, part.count, part.tokens.length);
        if (part.count < 1 || part.outputs < 0 || part.outputs > part.count) {
            throw new IllegalArgumentException("part: expected at least one token and at most as many outputs, got " + part.count
                    + " tokens and " + part.outputs + " outputs");
        }
        if (part.sequenceLength < part.cache.length() + part.count) {
            throw new IllegalArgumentException("sequenceLength: expected at least " + (part.cache.length() + part.count) + ", got "
                    + part.sequenceLength);
        }
        for (int i = part.from; i < part.from + part.count; i++) {
            if (part.tokens[i] < 0 || part.tokens[i] >= config.vocabularySize()) {
                throw new IndexOutOfBoundsException("tokens[" + i + "]: expected an id from 0 to " + (config.vocabularySize() - 1)
                        + ", got " + part.tokens[i]);
            }
        }
    }

    /** Writes the ids of all parts one after another, and the rotation of each row's position. */
    private void placeTokens(List<Part> parts) {
        int row = 0;
        int begin = 0;
        int length = 0;
        for (Part part : parts) {
            // Rows whose frequencies agree share one table call: all of them, except where dynamic scaling is at work.
            int partLength = config.ropeScaling().dependsOnLength(part.sequenceLength) ? part.sequenceLength : 0;
            if (partLength != length) {
                rotate(length, begin, row);
                begin = row;
                length = partLength;
            }
            MemorySegment.copy(part.tokens, part.from, ids.segment(), ValueLayout.JAVA_INT, 4L * row, part.count);
            for (int i = 0; i < part.count; i++) {
                positions.segment().setAtIndex(ValueLayout.JAVA_INT, row + i, Math.toIntExact(part.cache.length() + i));
            }
            row += part.count;
        }
        rotate(length, begin, row);
    }

    private void rotate(int sequenceLength, int from, int to) {
        if (from < to) {
            stages.forEach(stage -> stage.rotate(sequenceLength, from, to));
        }
    }

    /** Consecutive layers on one device, and the activations of a step there. */
    private final class Stage {
        private final Device device;
        private final int firstLayer;
        private final int layers;
        private final Tensor frequencies;
        private final Tensor rotations;
        private final Tensor residual;
        private final Tensor normed;
        private final Tensor queryKeyValue;
        private final Tensor attended;
        private final Tensor gateUp;
        private final Tensor selectedResidual;
        private final Tensor selectedAttended;
        /** Length of the sequence that {@link #frequencies} are for; only dynamic scaling ever changes it. */
        private int frequencyLength = -1;
        private Rows rows;
        private Rows selectedRows;
        /** In the order in which they were made. */
        private final LinkedHashMap<Recorded, Recording> recordings = new LinkedHashMap<>();

        Stage(Device device, int firstLayer, int layers) {
            this.device = device;
            this.firstLayer = firstLayer;
            this.layers = layers;
            long width = config.width();
            long queryWidth = (long) config.heads() * config.headWidth();
            long keyWidth = (long) config.keyValueHeads() * config.headWidth();
            frequencies = floats(config.headWidth() / 2);
            rotations = floats(maxRows, config.headWidth());
            residual = floats(maxRows, width);
            normed = floats(maxRows, width);
            queryKeyValue = floats(maxRows, queryWidth + 2 * keyWidth);
            attended = floats(maxRows, queryWidth);
            gateUp = floats(maxRows, 2L * config.feedForwardWidth());
            selectedResidual = floats(maxRows, width);
            selectedAttended = floats(maxRows, queryWidth);
            rows = rows(1, residual, attended);
            selectedRows = rows(1, selectedResidual, selectedAttended);
        }

        private Tensor floats(long... dims) {
            return device.allocate(arena, DType.F32, Shape.of(dims));
        }

        private Rows rows(int count, Tensor residual, Tensor attended) {
            long q = (long) config.heads() * config.headWidth();
            long kv = (long) config.keyValueHeads() * config.headWidth();
            long ff = config.feedForwardWidth();
            Tensor all = queryKeyValue.rows(0, count);
            Tensor both = gateUp.rows(0, count);
            return new Rows(count, rotations.rows(0, count), residual.rows(0, count), normed.rows(0, count), attended.rows(0, count),
                    all.columns(0, q), all.columns(0, q + kv), all.columns(q, kv), all.columns(q + kv, kv), both.columns(0, ff),
                    both.columns(ff, ff));
        }

        void rotate(int sequenceLength, int from, int to) {
            if (frequencyLength != sequenceLength) {
                float[] values = config.ropeScaling().frequencies(config.ropeTheta(), config.headWidth(), sequenceLength);
                try (Arena scratch = Arena.ofConfined()) {
                    device.copy(frequencies, Tensor.of(scratch, values, frequencies.shape()));
                }
                frequencyLength = sequenceLength;
            }
            Rope.table(device, rotations.rows(from, to - from), frequencies, positions.rows(from, to - from),
                    config.ropeScaling().magnitude());
        }

        /**
         * Carries the residual through the layers; through the last one's attention only where not the logits of all rows are wanted.
         * A next token of each sequence, the most frequent step, is recorded once on devices that can and then replayed.
         */
        void run(KvStep step, List<KvStep.Part> parts, int outputs) {
            int count = (int) step.rows();
            if (rows.count != count) {
                rows = rows(count, residual, attended);
            }
            if (firstLayer == 0) {
                Embedding.forward(device, rows.residual, weights.embedding(), ids.rows(0, count));
            } else {
                Stage before = stages.getFirst();
                (device.hasOwnMemory() ? device : before.device).copy(rows.residual, before.rows.residual);
            }
            if (device.hasOwnMemory() && count == parts.size() && count == outputs && count <= Recording.MAX_SEQUENCES) {
                requireWeights();
                step.replay(recording(step, parts), firstLayer);
            } else {
                compute(device, step, count == outputs);
            }
        }

        private Recording recording(KvStep step, List<KvStep.Part> parts) {
            int capacity = parts.stream().mapToInt(part -> part.cache().capacity()).max().orElseThrow();
            Recorded key = new Recorded(parts.size(), capacity, parts.getFirst().cache().dtype());
            Recording recording = recordings.get(key);
            if (recording == null) {
                recording = device.record(recorder -> compute(recorder, step, true));
                recordings.put(key, recording);
                if (recordings.size() > MAX_RECORDINGS) {
                    recordings.pollFirstEntry().getValue().close();
                }
            }
            return recording;
        }

        /** A replay reads them unasked. */
        private void requireWeights() {
            Stream<Tensor> read = weights.blocks().subList(firstLayer, firstLayer + layers).stream()
                    .flatMap(block -> block.tensors().stream());
            if (!Stream.concat(read, Stream.of(weights.norm())).allMatch(tensor -> tensor.segment().scope().isAlive())) {
                throw new IllegalStateException("weights: their memory is closed");
            }
        }

        private void compute(Device on, KvStep step, boolean whole) {
            for (int layer = firstLayer; layer < firstLayer + layers; layer++) {
                attend(on, step, layer);
                if (whole || layer < config.layers() - 1) {
                    feedForward(on, weights.blocks().get(layer), rows);
                }
            }
            if (whole && firstLayer + layers == config.layers()) {
                RmsNorm.forward(on, rows.normed, rows.residual, weights.norm(), config.normEpsilon());
            }
        }

        /** Past the last attention rows no longer meet, so only those whose logits are wanted go on. */
        void finish(List<Part> parts, int outputs, Tensor logits) {
            Rows chosen = rows;
            if (outputs < rows.count) {
                if (selectedRows.count != outputs) {
                    selectedRows = rows(outputs, selectedResidual, selectedAttended);
                }
                chosen = selectedRows;
                select(parts, rows.residual, chosen.residual);
                select(parts, rows.attended, chosen.attended);
                feedForward(device, weights.blocks().getLast(), chosen);
                RmsNorm.forward(device, chosen.normed, chosen.residual, weights.norm(), config.normEpsilon());
            }
            MatMul.forward(device, workspace, logits, chosen.normed, weights.output(), activations);
        }

        private void select(List<Part> parts, Tensor from, Tensor to) {
            long row = 0;
            long target = 0;
            for (Part part : parts) {
                row += part.count;
                device.copy(to.rows(target, part.outputs), from.rows(row - part.outputs, part.outputs));
                target += part.outputs;
            }
        }

        /** Up to the residual's part in attention: leaves the heads' outputs in {@code attended}. */
        private void attend(Device on, KvStep step, int layer) {
            LlamaWeights.Block block = weights.blocks().get(layer);
            RmsNorm.forward(on, rows.normed, rows.residual, block.attentionNorm(), config.normEpsilon());
            MatMul.forward(on, workspace, List.of(rows.query, rows.key, rows.value), rows.normed,
                    List.of(block.query(), block.key(), block.value()), activations);
            Rope.forward(on, rows.queryKey, rows.rotations, config.ropeLayout(), config.headWidth());
            step.append(on, layer, rows.key, rows.value);
            step.attend(on, rows.attended, rows.query, layer, config.heads(), config.slidingWindow(), scale);
        }

        private void feedForward(Device on, LlamaWeights.Block block, Rows rows) {
            MatMul.accumulate(on, workspace, rows.residual, rows.attended, block.attentionOutput(), activations);
            RmsNorm.forward(on, rows.normed, rows.residual, block.feedForwardNorm(), config.normEpsilon());
            MatMul.forward(on, workspace, List.of(rows.gate, rows.up), rows.normed, List.of(block.gate(), block.up()),
                    activations);
            SwiGlu.forward(on, rows.gate, rows.gate, rows.up);
            MatMul.accumulate(on, workspace, rows.residual, rows.gate, block.down(), activations);
        }

        long byteSize() {
            return Stream.of(frequencies, rotations, residual, normed, queryKeyValue, attended, gateUp, selectedResidual,
                    selectedAttended).mapToLong(Tensor::byteSize).sum();
        }
    }

    /** {@return the bytes of activations that a model of these numbers would allocate for steps of {@code maxRows}} */
    public static long byteSize(LlamaConfig config, int maxRows) {
        long c = config.width();
        long q = (long) config.heads() * config.headWidth();
        long kv = (long) config.keyValueHeads() * config.headWidth();
        long ff = config.feedForwardWidth();
        long row = 2 + config.headWidth() + 3 * c + 3 * q + 2 * kv + 2 * ff;
        return Float.BYTES * (config.headWidth() / 2 + maxRows * row);
    }

    /** {@return the bytes of the activations} */
    public long byteSize() {
        return ids.byteSize() + positions.byteSize() + stages.stream().mapToLong(Stage::byteSize).sum();
    }

    /** Frees the activations. Waits for a step in flight; later steps throw. Idempotent. */
    @Override
    public void close() {
        lock.lock();
        try {
            if (!closed) {
                closed = true;
                stages.forEach(stage -> stage.recordings.values().forEach(Recording::close));
                workspace.close();
                arena.close();
            }
        } finally {
            lock.unlock();
        }
    }
}
