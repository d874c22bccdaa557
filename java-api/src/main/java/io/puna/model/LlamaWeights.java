package io.puna.model;

import io.puna.format.Checkpoint;
import io.puna.format.CheckpointException;
import io.puna.format.GgufCheckpoint;
import io.puna.format.UnsupportedModelException;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.LongConsumer;

/**
 * The weights of a model: views of a checkpoint's memory, in the checkpoint's own types. They live as long as the checkpoint.
 *
 * @param embedding (V, C)
 * @param blocks    the decoder blocks in order
 * @param norm      (C), the last RMSNorm
 * @param output    (V, C), the embedding itself when the two are tied
 */
public record LlamaWeights(Tensor embedding, List<Block> blocks, Tensor norm, Tensor output) {

    /**
     * One decoder block.
     *
     * @param attentionNorm   (C)
     * @param query           (NH·HD, C)
     * @param key             (NKV·HD, C)
     * @param value           (NKV·HD, C)
     * @param attentionOutput (C, NH·HD)
     * @param feedForwardNorm (C)
     * @param gate            (FF, C), W₁ in the paper
     * @param up              (FF, C), W₃
     * @param down            (C, FF), W₂
     */
    public record Block(Tensor attentionNorm, Tensor query, Tensor key, Tensor value, Tensor attentionOutput,
            Tensor feedForwardNorm, Tensor gate, Tensor up, Tensor down) {
        /** All of them. */
        List<Tensor> tensors() {
            return List.of(attentionNorm, query, key, value, attentionOutput, feedForwardNorm, gate, up, down);
        }
    }

    /** The names a format gives: of the tensors outside blocks, then of a block's, after the prefix with its number. */
    private record Names(String embedding, String norm, String output, String block, String attentionNorm, String query, String key,
            String value, String attentionOutput, String feedForwardNorm, String gate, String up, String down) {
    }

    private static final Names HUGGING_FACE = new Names("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
            "model.layers.%d.", "input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight",
            "self_attn.v_proj.weight", "self_attn.o_proj.weight", "post_attention_layernorm.weight", "mlp.gate_proj.weight",
            "mlp.up_proj.weight", "mlp.down_proj.weight");
    private static final Names GGUF = new Names("token_embd.weight", "output_norm.weight", "output.weight", "blk.%d.",
            "attn_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight", "ffn_norm.weight",
            "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight");

    /** Copies the list of blocks. */
    public LlamaWeights {
        blocks = List.copyOf(blocks);
    }

    /**
     * {@return the weights of a checkpoint}
     *
     * @throws UnsupportedModelException if it has tensors that the LLaMA graph has no use for, such as biases
     * @throws CheckpointException       if a tensor is missing or its shape contradicts the configuration
     */
    public static LlamaWeights of(Checkpoint checkpoint, LlamaConfig config) throws CheckpointException {
        return new Reader(checkpoint, checkpoint instanceof GgufCheckpoint ? GGUF : HUGGING_FACE).read(config);
    }

    /**
     * {@return these weights with those of the last layers, the last norm and the output as copies in a device's memory} With all
     * layers the embedding is copied too.
     *
     * @param arena    owns the copies
     * @param layers   how many of the last layers
     * @param progress told the bytes copied so far, after each tensor
     * @throws io.puna.tensor.DeviceException if the device has not that much memory; the message says how much it has
     */
    public LlamaWeights to(Device device, Arena arena, int layers, LongConsumer progress) {
        Map<Tensor, Tensor> copies = new IdentityHashMap<>();
        long[] done = {0};
        for (Tensor from : of(layers)) {
            copies.computeIfAbsent(from, tensor -> {
                Tensor to = device.allocate(arena, tensor.dtype(), tensor.shape());
                device.copy(to, tensor);
                done[0] += tensor.byteSize();
                progress.accept(done[0]);
                return to;
            });
        }
        int first = blocks.size() - layers;
        List<Block> copied = new ArrayList<>(blocks.subList(0, first));
        for (Block block : blocks.subList(first, blocks.size())) {
            copied.add(new Block(copies.get(block.attentionNorm), copies.get(block.query), copies.get(block.key),
                    copies.get(block.value), copies.get(block.attentionOutput), copies.get(block.feedForwardNorm),
                    copies.get(block.gate), copies.get(block.up), copies.get(block.down)));
        }
        return new LlamaWeights(first == 0 ? copies.get(embedding) : embedding, copied, copies.get(norm), copies.get(output));
    }

    /** {@return the bytes that {@link #to} copies for so many layers} */
    public long byteSize(int layers) {
        Map<Tensor, Boolean> counted = new IdentityHashMap<>();
        return of(layers).stream().filter(tensor -> counted.put(tensor, true) == null).mapToLong(Tensor::byteSize).sum();
    }

    /** The tensors of the last layers in the order they are used; a tied embedding may be there twice. */
    private List<Tensor> of(int layers) {
        List<Tensor> tensors = new ArrayList<>();
        if (layers == blocks.size()) {
            tensors.add(embedding);
        }
        blocks.subList(blocks.size() - layers, blocks.size()).forEach(block -> tensors.addAll(block.tensors()));
        tensors.add(norm);
        tensors.add(output);
        return tensors;
    }

    /** {@return the number of weights, a tied embedding counted once} */
    public long parameterCount() {
        long count = embedding.shape().elements() + norm.shape().elements();
        if (output != embedding) {
            count += output.shape().elements();
        }
        for (Block block : blocks) {
            for (Tensor tensor : block.tensors()) {
                count += tensor.shape().elements();
            }
        }
        return count;
    }

    private static final class Reader {
        private final Checkpoint checkpoint;
        private final Map<String, Tensor> tensors;
        private final Names names;
        private final Set<String> used = new HashSet<>();

        Reader(Checkpoint checkpoint, Names names) {
            this.checkpoint = checkpoint;
            this.tensors = checkpoint.tensors();
            this.names = names;
        }

        LlamaWeights read(LlamaConfig config) throws CheckpointException {
            long c = config.width();
            long q = (long) config.heads() * config.headWidth();
            long kv = (long) config.keyValueHeads() * config.headWidth();
            long ff = config.feedForwardWidth();
            long v = config.vocabularySize();
            List<Block> blocks = new ArrayList<>();
            for (int layer = 0; layer < config.layers(); layer++) {
                String prefix = names.block.formatted(layer);
                blocks.add(new Block(
                        norm(prefix + names.attentionNorm, c),
                        matrix(prefix + names.query, q, c),
                        matrix(prefix + names.key, kv, c),
                        matrix(prefix + names.value, kv, c),
                        matrix(prefix + names.attentionOutput, c, q),
                        norm(prefix + names.feedForwardNorm, c),
                        matrix(prefix + names.gate, ff, c),
                        matrix(prefix + names.up, ff, c),
                        matrix(prefix + names.down, c, ff)));
            }
            Tensor embedding = matrix(names.embedding, v, c);
            // A head that is stored is used, tied or not: transformers and the GGUF converter see it so too.
            Tensor output = config.tiedEmbeddings() && !tensors.containsKey(names.output) ? embedding : matrix(names.output, v, c);
            used.add(names.output);
            LlamaWeights weights = new LlamaWeights(embedding, blocks, norm(names.norm, c), output);
            refuseOthers();
            return weights;
        }

        private Tensor matrix(String name, long rows, long columns) throws CheckpointException {
            return require(name, Shape.of(rows, columns));
        }

        private Tensor norm(String name, long width) throws CheckpointException {
            Tensor tensor = require(name, Shape.of(width));
            if (tensor.dtype().isQuantized()) {
                throw new CheckpointException(checkpoint.path(), name + " as F32, F16 or BF16", tensor.dtype().toString());
            }
            return tensor;
        }

        private Tensor require(String name, Shape shape) throws CheckpointException {
            Tensor tensor = tensors.get(name);
            if (tensor == null) {
                throw new CheckpointException(checkpoint.path(), "a tensor " + name + " of shape " + shape, "none");
            }
            if (!tensor.shape().equals(shape)) {
                throw new CheckpointException(checkpoint.path(), name + " of shape " + shape + " by the configuration",
                        tensor.shape().toString());
            }
            used.add(name);
            return tensor;
        }

        /** A tensor that the graph leaves out would silently change what the model says. */
        private void refuseOthers() throws UnsupportedModelException {
            for (String name : tensors.keySet()) {
                boolean derived = name.endsWith(".rotary_emb.inv_freq") || name.equals("rope_freqs.weight");
                if (!derived && !used.contains(name)) {
                    throw new UnsupportedModelException(checkpoint.path(), "only tensors of LLaMA's graph",
                            "also " + name + " " + tensors.get(name).shape());
                }
            }
        }
    }
}
