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

/**
 * One F32 number for each parameter of a model: the weights that are trained, their gradient, or a moment of it. All of them lie in
 * one stretch of memory, matrices first and the weights of RMSNorm after them, so that an optimiser is a call for each of the two.
 *
 * <p>Owns its memory until it is closed. Pairs of a rotated head are halves, as in Hugging Face's layout.
 */
public final class Parameters implements AutoCloseable {
    /** Of the normal distribution that weights are drawn from, as LLaMA's were. */
    private static final double INITIAL_DEVIATION = 0.02;

    /** A block's tensors, the products that share their input as one. */
    record Block(Tensor attentionNorm, Tensor queryKeyValue, Tensor attentionOutput, Tensor feedForwardNorm, Tensor gateUp,
            Tensor down) {
    }

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
            return Tensor.of(all.segment().asSlice(from * Float.BYTES, shape.elements() * Float.BYTES), DType.F32, shape);
        }
    }

    private Parameters(LlamaConfig config) {
        this.config = config;
        long c = config.width();
        long q = (long) config.heads() * config.headWidth();
        long kv = (long) config.keyValueHeads() * config.headWidth();
        long ff = config.feedForwardWidth();
        long v = config.vocabularySize();
        all = Tensor.allocate(arena, DType.F32, Shape.of(count(config)));
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

    /** {@return zeros: where a gradient or a moment begins} */
    public static Parameters zeros(LlamaConfig config) {
        return new Parameters(config);
    }

    /**
     * {@return where a model begins that is trained from nothing} Matrices are normal with deviation 0.02, those that add to the residual
     * stream with 0.02 / sqrt(2 L); the weights of RMSNorm are 1.
     *
     * @param seed the same seed gives the same weights
     */
    public static Parameters random(LlamaConfig config, long seed) {
        Parameters parameters = new Parameters(config);
        SplittableRandom random = new SplittableRandom(seed);
        double residual = INITIAL_DEVIATION / Math.sqrt(2.0 * config.layers());
        parameters.tensors.forEach((name, tensor) -> {
            boolean norm = tensor.shape().rank() == 1;
            double deviation = name.endsWith("o_proj.weight") || name.endsWith("down_proj.weight") ? residual : INITIAL_DEVIATION;
            for (long i = 0; i < tensor.shape().elements(); i++) {
                float value = norm ? 1 : (float) (deviation * random.nextGaussian());
                tensor.segment().setAtIndex(ValueLayout.JAVA_FLOAT_UNALIGNED, i, value);
            }
        });
        return parameters;
    }

    /**
     * {@return a copy of a model's weights, decoded to F32} The configuration beside it says halves where the checkpoint had pairs
     * interleaved, and whether the output layer is tied, by what the weights do.
     *
     * @param device what decodes
     */
    public static Parameters copyOf(Device device, LlamaConfig config, LlamaWeights weights) {
        boolean interleaved = config.ropeLayout() == Rope.Layout.INTERLEAVED;
        Parameters copy = new Parameters(trained(config, weights.output() == weights.embedding()));
        copy(device, copy.weights.embedding(), weights.embedding());
        if (copy.weights.output() != copy.weights.embedding()) {
            copy(device, copy.weights.output(), weights.output());
        }
        copy(device, copy.weights.norm(), weights.norm());
        for (int layer = 0; layer < config.layers(); layer++) {
            LlamaWeights.Block to = copy.weights.blocks().get(layer);
            LlamaWeights.Block from = weights.blocks().get(layer);
            copy(device, to.attentionNorm(), from.attentionNorm());
            copy(device, to.query(), from.query());
            copy(device, to.key(), from.key());
            copy(device, to.value(), from.value());
            copy(device, to.attentionOutput(), from.attentionOutput());
            copy(device, to.feedForwardNorm(), from.feedForwardNorm());
            copy(device, to.gate(), from.gate());
            copy(device, to.up(), from.up());
            copy(device, to.down(), from.down());
            if (interleaved) {
                toHalves(to.query(), config.headWidth());
                toHalves(to.key(), config.headWidth());
            }
        }
        return copy;
    }

    private static LlamaConfig trained(LlamaConfig c, boolean tied) {
        return new LlamaConfig(c.architecture(), c.vocabularySize(), c.width(), c.layers(), c.heads(), c.keyValueHeads(), c.headWidth(),
                c.feedForwardWidth(), c.contextLength(), c.normEpsilon(), c.ropeTheta(), c.ropeScaling(), Rope.Layout.HALVES,
                c.slidingWindow(), tied, c.bosTokenId(), c.eosTokenIds());
    }

    private static void copy(Device device, Tensor to, Tensor from) {
        Dequantize.forward(device, to, from);
    }

    /** Rows 2i and 2i + 1 of every head go to i and i + HD / 2. */
    private static void toHalves(Tensor matrix, int headWidth) {
        long rowBytes = matrix.shape().columns() * Float.BYTES;
        try (Arena scratch = Arena.ofConfined()) {
            MemorySegment head = scratch.allocate(headWidth * rowBytes, Float.BYTES);
            for (long start = 0; start < matrix.byteSize(); start += head.byteSize()) {
                MemorySegment.copy(matrix.segment(), start, head, 0, head.byteSize());
                for (int row = 0; row < headWidth; row++) {
                    int target = row % 2 * (headWidth / 2) + row / 2;
                    MemorySegment.copy(head, row * rowBytes, matrix.segment(), start + target * rowBytes, rowBytes);
                }
            }
        }
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
        all.segment().fill((byte) 0);
    }

    /** Frees the memory. Idempotent. */
    @Override
    public void close() {
        NativeMemory.close(arena);
    }
}
