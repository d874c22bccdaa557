package io.puna.train;

import io.puna.bindings.NativeMemory;
import io.puna.kernel.Dequantize;
import io.puna.kernel.Rope;
import io.puna.model.LlamaConfig;
import io.puna.model.LlamaWeights;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.function.Consumer;

/**
 * One F32 number for each parameter of a model: the weights that are trained, their gradient, or a moment of it. All of them lie in
 * one stretch of memory, matrices first and the weights of RMSNorm after them, so that an optimiser is a call for each of the two.
 *
 * <p>Owns its memory, which is that of a device, until it is closed. Pairs of a rotated head are halves, as in Hugging Face's layout.
 */
public final class Parameters implements AutoCloseable {
    /** Of the normal distribution that weights are drawn from, as LLaMA's were. */
    private static final double INITIAL_DEVIATION = 0.02;

    /** A block's tensors, the products that share their input as one. */
    record Block(Tensor attentionNorm, Tensor queryKeyValue, Tensor attentionOutput, Tensor feedForwardNorm, Tensor gateUp,
            Tensor down) {
    }

    private final Device device;
    private final LlamaConfig config;
    private final Arena arena = Arena.ofShared();
    private final Tensor all;
    private final long matrixElements;
    private final Map<String, Tensor> tensors;
    private final List<Block> blocks = new ArrayList<>();
    private final LlamaWeights weights;

    /** Cuts the stretch into tensors, one after another. */
    private static final class Cutter {
        private final Tensor all;
        private final Map<String, Tensor> tensors = new LinkedHashMap<>();
        private long position;

        Cutter(Tensor all) {
            this.all = all;
        }

        Tensor cut(String name, long... dims) {
            Tensor tensor = view(position, Shape.of(dims));
            tensors.put(name, tensor);
            position += tensor.shape().elements();
            return tensor;
        }

        Tensor view(long from, Shape shape) {
            return all.columns(from, shape.elements()).reshape(shape);
        }
    }

    private Parameters(Device device, LlamaConfig config) {
        this.device = device;
        this.config = config;
        long c = config.width();
        long q = (long) config.heads() * config.headWidth();
        long kv = (long) config.keyValueHeads() * config.headWidth();
        long ff = config.feedForwardWidth();
        long v = config.vocabularySize();
        all = device.allocate(arena, DType.F32, Shape.of(count(config)));
        Cutter cutter = new Cutter(all);
        Tensor embedding = cutter.cut("model.embed_tokens.weight", v, c);
        Tensor output = config.tiedEmbeddings() ? embedding : cutter.cut("lm_head.weight", v, c);
        List<Tensor[]> matrices = new ArrayList<>();
        for (int layer = 0; layer < config.layers(); layer++) {
            String prefix = "model.layers." + layer + ".";
            long start = cutter.position;
            Tensor query = cutter.cut(prefix + "self_attn.q_proj.weight", q, c);
            Tensor key = cutter.cut(prefix + "self_attn.k_proj.weight", kv, c);
            Tensor value = cutter.cut(prefix + "self_attn.v_proj.weight", kv, c);
            Tensor together = cutter.view(start, Shape.of(q + 2 * kv, c));
            Tensor attentionOutput = cutter.cut(prefix + "self_attn.o_proj.weight", c, q);
            start = cutter.position;
            Tensor gate = cutter.cut(prefix + "mlp.gate_proj.weight", ff, c);
            Tensor up = cutter.cut(prefix + "mlp.up_proj.weight", ff, c);
            Tensor both = cutter.view(start, Shape.of(2 * ff, c));
            Tensor down = cutter.cut(prefix + "mlp.down_proj.weight", c, ff);
            matrices.add(new Tensor[] {query, key, value, attentionOutput, gate, up, down, together, both});
        }
        matrixElements = cutter.position;
        List<LlamaWeights.Block> views = new ArrayList<>();
        for (int layer = 0; layer < config.layers(); layer++) {
            String prefix = "model.layers." + layer + ".";
            Tensor attentionNorm = cutter.cut(prefix + "input_layernorm.weight", c);
            Tensor feedForwardNorm = cutter.cut(prefix + "post_attention_layernorm.weight", c);
            Tensor[] m = matrices.get(layer);
            views.add(new LlamaWeights.Block(attentionNorm, m[0], m[1], m[2], m[3], feedForwardNorm, m[4], m[5], m[6]));
            blocks.add(new Block(attentionNorm, m[7], m[3], feedForwardNorm, m[8], m[6]));
        }
        Tensor norm = cutter.cut("model.norm.weight", c);
        weights = new LlamaWeights(embedding, views, norm, output);
        tensors = Collections.unmodifiableMap(cutter.tensors);
    }

    /** {@return the number of a model's parameters} */
    public static long count(LlamaConfig config) {
        long c = config.width();
        long q = (long) config.heads() * config.headWidth();
        long kv = (long) config.keyValueHeads() * config.headWidth();
        long block = 2 * c + (2 * q + 2 * kv + 3L * config.feedForwardWidth()) * c;
        return (config.tiedEmbeddings() ? 1 : 2) * config.vocabularySize() * c + config.layers() * block + c;
    }

    /**
     * {@return zeros: where a gradient or a moment begins}
     *
     * @param device that will compute with them
     * @throws io.puna.tensor.DeviceException if it has not that much memory; the message says how much it has
     */
    public static Parameters zeros(Device device, LlamaConfig config) {
        return filled(new Parameters(device, config), Parameters::clear);
    }

    /** {@return the same} They are closed where filling them fails. */
    private static Parameters filled(Parameters parameters, Consumer<Parameters> fill) {
        try {
            fill.accept(parameters);
            return parameters;
        } catch (Throwable e) {
            parameters.close();
            throw e;
        }
    }

    /**
     * {@return where a model begins that is trained from nothing} Matrices are normal with deviation 0.02, those that add to the residual
     * stream with 0.02 / sqrt(2 L); the weights of RMSNorm are 1.
     *
     * @param device that will compute with them
     * @param seed   the same seed gives the same weights
     * @throws io.puna.tensor.DeviceException if it has not that much memory; the message says how much it has
     */
    public static Parameters random(Device device, LlamaConfig config, long seed) {
        return filled(new Parameters(device, config), parameters -> parameters.draw(seed));
    }

    private void draw(long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        double residual = INITIAL_DEVIATION / Math.sqrt(2.0 * config.layers());
        tensors.forEach((name, tensor) -> {
            boolean norm = tensor.shape().rank() == 1;
            double deviation = name.endsWith("o_proj.weight") || name.endsWith("down_proj.weight") ? residual : INITIAL_DEVIATION;
            try (Arena scratch = Arena.ofConfined()) {
                Tensor values = device.hasOwnMemory() ? Tensor.allocate(scratch, DType.F32, tensor.shape()) : tensor;
                for (long i = 0; i < tensor.shape().elements(); i++) {
                    float value = norm ? 1 : (float) (deviation * random.nextGaussian());
                    values.segment().setAtIndex(ValueLayout.JAVA_FLOAT_UNALIGNED, i, value);
                }
                if (values != tensor) {
                    device.copy(tensor, values);
                }
            }
        });
    }

    /**
     * {@return a copy of a model's weights, decoded to F32} The configuration beside it says halves where the checkpoint had pairs
     * interleaved, and whether the output layer is tied, by what the weights do.
     *
     * @param device  what decodes, and will compute with the copy
     * @param weights in the host's memory or that device's
     * @throws io.puna.tensor.DeviceException if it has not that much memory; the message says how much it has
     */
    public static Parameters copyOf(Device device, LlamaConfig config, LlamaWeights weights) {
        Parameters parameters = new Parameters(device, trained(config, weights.output() == weights.embedding()));
        return filled(parameters, copy -> copy.read(weights, config.ropeLayout() == Rope.Layout.INTERLEAVED ? config.headWidth() : 0));
    }

    /** Heads of that width, above 0, have their pairs interleaved. */
    private void read(LlamaWeights from, int interleavedWidth) {
        read(weights.embedding(), from.embedding(), 0);
        if (weights.output() != weights.embedding()) {
            read(weights.output(), from.output(), 0);
        }
        read(weights.norm(), from.norm(), 0);
        for (int layer = 0; layer < config.layers(); layer++) {
            LlamaWeights.Block block = weights.blocks().get(layer);
            LlamaWeights.Block source = from.blocks().get(layer);
            read(block.attentionNorm(), source.attentionNorm(), 0);
            read(block.query(), source.query(), interleavedWidth);
            read(block.key(), source.key(), interleavedWidth);
            read(block.value(), source.value(), 0);
            read(block.attentionOutput(), source.attentionOutput(), 0);
            read(block.feedForwardNorm(), source.feedForwardNorm(), 0);
            read(block.gate(), source.gate(), 0);
            read(block.up(), source.up(), 0);
            read(block.down(), source.down(), 0);
        }
    }

    private static LlamaConfig trained(LlamaConfig c, boolean tied) {
        return new LlamaConfig(c.architecture(), c.vocabularySize(), c.width(), c.layers(), c.heads(), c.keyValueHeads(), c.headWidth(),
                c.feedForwardWidth(), c.contextLength(), c.normEpsilon(), c.ropeTheta(), c.ropeScaling(), Rope.Layout.HALVES,
                c.slidingWindow(), tied, c.bosTokenId(), c.eosTokenIds());
    }

    /** Decodes where the device computes. */
    private void read(Tensor to, Tensor from, int interleavedWidth) {
        try (Arena scratch = Arena.ofConfined()) {
            Tensor source = interleavedWidth > 0 ? toHalves(scratch, from, interleavedWidth) : from;
            if (device.hasOwnMemory() && source.device() == null) {
                Tensor there = device.allocate(scratch, source.dtype(), source.shape());
                device.copy(there, source);
                source = there;
            }
            Dequantize.forward(device, to, source);
        }
    }

    /** {@return a copy in the host's memory} Rows 2i and 2i + 1 of every head go to i and i + HD / 2. */
    private Tensor toHalves(Arena scratch, Tensor matrix, int headWidth) {
        Tensor copy = Tensor.allocate(scratch, matrix.dtype(), matrix.shape());
        device.copy(copy, matrix);
        long rowBytes = matrix.dtype().bytes(matrix.shape().columns());
        MemorySegment head = scratch.allocate(headWidth * rowBytes, Float.BYTES);
        for (long start = 0; start < copy.byteSize(); start += head.byteSize()) {
            MemorySegment.copy(copy.segment(), start, head, 0, head.byteSize());
            for (int row = 0; row < headWidth; row++) {
                int target = row % 2 * (headWidth / 2) + row / 2;
                MemorySegment.copy(head, row * rowBytes, copy.segment(), start + target * rowBytes, rowBytes);
            }
        }
        return copy;
    }

    /** {@return the model's numbers} */
    public LlamaConfig config() {
        return config;
    }

    /** {@return every tensor by its Hugging Face name, a tied output layer left out} */
    public Map<String, Tensor> tensors() {
        return tensors;
    }

    /** {@return the same memory as a model's weights} */
    public LlamaWeights weights() {
        return weights;
    }

    /** {@return all numbers, of shape (n)} */
    public Tensor all() {
        return all;
    }

    /** {@return how many of the numbers are matrices', which come first} */
    public long matrixElements() {
        return matrixElements;
    }

    List<Block> blocks() {
        return blocks;
    }

    /** Sets every number to zero. */
    public void clear() {
        device.clear(all);
    }

    /** Frees the memory. Idempotent. */
    @Override
    public void close() {
        NativeMemory.close(arena);
    }
}
