package io.puna.model;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import io.puna.bindings.NativeMemory;
import io.puna.format.CheckpointException;
import io.puna.format.HuggingFaceCheckpoint;
import io.puna.format.Safetensors;
import io.puna.kernel.Dequantize;
import io.puna.kernel.MatMul;
import io.puna.kernel.Rope;
import io.puna.kernel.Workspace;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SplittableRandom;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;

/**
 * A low-rank adapter (Hu et al. 2021): linear layers become {@code W + alpha / rank · B · A}, of which A (rank, K) and B (N, rank) are
 * trained. Read and written in the layout of Hugging Face's PEFT: {@code adapter_config.json} and {@code adapter_model.safetensors}.
 *
 * <p>Owns its memory, which is that of a device, until it is closed; all of A and B lie in one stretch of it. For use by one thread.
 */
public final class LoraAdapter implements AutoCloseable {
    private static final String CONFIG_FILE = "adapter_config.json";
    private static final String WEIGHTS_FILE = "adapter_model.safetensors";
    private static final String PREFIX = "base_model.model.";

    /** The linear layers of a block. */
    public enum Target {
        /** Of queries. */
        Q_PROJ("self_attn.q_proj"),
        /** Of keys. */
        K_PROJ("self_attn.k_proj"),
        /** Of values. */
        V_PROJ("self_attn.v_proj"),
        /** Of attention's output. */
        O_PROJ("self_attn.o_proj"),
        /** Of the gate. */
        GATE_PROJ("mlp.gate_proj"),
        /** Of what is gated. */
        UP_PROJ("mlp.up_proj"),
        /** Of feed-forward's output. */
        DOWN_PROJ("mlp.down_proj");

        private final String path;

        Target(String path) {
            this.path = path;
        }

        /** {@return the name that PEFT has for it} */
        String module() {
            return path.substring(path.indexOf('.') + 1);
        }

        private Tensor of(LlamaWeights.Block block) {
            return switch (this) {
                case Q_PROJ -> block.query();
                case K_PROJ -> block.key();
                case V_PROJ -> block.value();
                case O_PROJ -> block.attentionOutput();
                case GATE_PROJ -> block.gate();
                case UP_PROJ -> block.up();
                case DOWN_PROJ -> block.down();
            };
        }

        private long outputs(LlamaConfig c) {
            return switch (this) {
                case Q_PROJ -> (long) c.heads() * c.headWidth();
                case K_PROJ, V_PROJ -> (long) c.keyValueHeads() * c.headWidth();
                case O_PROJ, DOWN_PROJ -> c.width();
                case GATE_PROJ, UP_PROJ -> c.feedForwardWidth();
            };
        }

        private long inputs(LlamaConfig c) {
            return switch (this) {
                case O_PROJ -> (long) c.heads() * c.headWidth();
                case DOWN_PROJ -> c.feedForwardWidth();
                default -> c.width();
            };
        }
    }

    /**
     * One layer's pair.
     *
     * @param a           (rank, K)
     * @param bTransposed (rank, N): B the other way round, as the kernels take it
     */
    private record Pair(Target target, int layer, Tensor a, Tensor bTransposed) {
        String name() {
            return PREFIX + "model.layers." + layer + "." + target.path;
        }
    }

    private final Device device;
    private final LlamaConfig config;
    private final int rank;
    private final double alpha;
    private final Set<Target> targets;
    private final Arena arena = Arena.ofShared();
    private final Workspace workspace = new Workspace();
    private final Tensor all;
    private final List<Pair> pairs = new ArrayList<>();
    /** {@code alpha / rank} on the diagonal: what scales an A or a B is a product with it, on whatever device. */
    private final Tensor scale;
    private final Tensor scaled; // an A or a B, times it
    /** (rows, rank), for as many rows as there were at most. */
    private @Nullable Tensor narrow;

    private LoraAdapter(Device device, LlamaConfig config, int rank, double alpha, Set<Target> targets) {
        if (rank < 1 || rank > config.width()) {
            throw new IllegalArgumentException("rank: expected 1 to the model's width " + config.width() + ", got " + rank);
        }
        if (!(alpha > 0) || Double.isInfinite(alpha)) {
            throw new IllegalArgumentException("alpha: expected a finite number above 0, got " + alpha);
        }
        if (targets.isEmpty()) {
            throw new IllegalArgumentException("targets: expected at least one layer, got none");
        }
        this.device = device;
        this.config = config;
        this.rank = rank;
        this.alpha = alpha;
        this.targets = EnumSet.copyOf(targets);
        long count = 0;
        long widest = 0;
        for (Target target : this.targets) {
            count += config.layers() * rank * (target.inputs(config) + target.outputs(config));
            widest = Math.max(widest, Math.max(target.inputs(config), target.outputs(config)));
        }
        try {
            all = device.allocate(arena, DType.F32, Shape.of(count));
            scaled = device.allocate(arena, DType.F32, Shape.of(rank * widest));
            scale = device.allocate(arena, DType.F32, Shape.of(rank, rank));
            float[] diagonal = new float[rank * rank];
            for (int i = 0; i < rank; i++) {
                diagonal[i * rank + i] = (float) (alpha / rank);
            }
            put(scale, diagonal);
        } catch (Throwable e) {
            close();
            throw e;
        }
        long position = 0;
        for (int layer = 0; layer < config.layers(); layer++) {
            for (Target target : this.targets) {
                Tensor a = view(position, target.inputs(config));
                position += a.shape().elements();
                Tensor b = view(position, target.outputs(config));
                position += b.shape().elements();
                pairs.add(new Pair(target, layer, a, b));
            }
        }
    }

    private Tensor view(long from, long columns) {
        return all.columns(from, rank * columns).reshape(Shape.of(rank, columns));
    }

    private void put(Tensor to, float[] values) {
        try (Arena scratch = Arena.ofConfined()) {
            device.copy(to, Tensor.of(scratch, values, to.shape()));
        }
    }

    /**
     * {@return an adapter that changes nothing yet: A is random, uniform within 1 / sqrt(K), and B zero}
     *
     * @param device  that will compute with it
     * @param rank    columns of B and rows of A
     * @param alpha   the product is scaled by {@code alpha / rank}
     * @param targets the layers that it changes, of every block
     * @param seed    the same seed gives the same A
     */
    public static LoraAdapter random(Device device, LlamaConfig config, int rank, double alpha, Set<Target> targets, long seed) {
        LoraAdapter adapter = new LoraAdapter(device, config, rank, alpha, targets);
        try {
            device.clear(adapter.all);
            SplittableRandom random = new SplittableRandom(seed);
            for (Pair pair : adapter.pairs) {
                float[] values = new float[Math.toIntExact(pair.a.shape().elements())];
                double bound = 1 / Math.sqrt(pair.a.shape().columns());
                for (int i = 0; i < values.length; i++) {
                    values[i] = (float) (bound * (2 * random.nextDouble() - 1));
                }
                adapter.put(pair.a, values);
            }
            return adapter;
        } catch (Throwable e) {
            adapter.close();
            throw e;
        }
    }

    /** {@return zeros of the same shapes, on the same device: where the gradient of this adapter begins} */
    public LoraAdapter zeros() {
        LoraAdapter zeros = new LoraAdapter(device, config, rank, alpha, targets);
        device.clear(zeros.all);
        return zeros;
    }

    /**
     * {@return the adapter in a directory}
     *
     * @param device that will compute with it
     * @throws CheckpointException if it is damaged, of another kind than this or of another model
     * @throws IOException         if it cannot be read
     */
    public static LoraAdapter open(Device device, Path directory, LlamaConfig config) throws IOException {
        Path file = directory.resolve(CONFIG_FILE);
        Map<String, Object> json = HuggingFaceCheckpoint.readConfig(file);
        require(file, json, "peft_type", "LORA"::equals, "LORA");
        require(file, json, "bias", value -> value == null || value.equals("none"), "none");
        for (String variant : List.of("use_dora", "use_rslora", "fan_in_fan_out")) {
            require(file, json, variant, value -> !Boolean.TRUE.equals(value), "false");
        }
        for (String pattern : List.of("rank_pattern", "alpha_pattern")) {
            require(file, json, pattern, value -> value == null || value.equals(Map.of()), "the same for every layer");
        }
        if (!(json.get("r") instanceof Long rank) || !(json.get("lora_alpha") instanceof Number alpha)
                || !(json.get("target_modules") instanceof List<?> modules)) {
            throw new CheckpointException(file, "r, lora_alpha and a list of target_modules", json.keySet().toString());
        }
        Set<Target> targets = EnumSet.noneOf(Target.class);
        for (Object module : modules) {
            Target found = null;
            for (Target target : Target.values()) {
                found = target.module().equals(module) ? target : found;
            }
            if (found == null) {
                throw new CheckpointException(file, "target_modules among LLaMA's linear layers", String.valueOf(module));
            }
            targets.add(found);
        }
        LoraAdapter adapter;
        try {
            adapter = new LoraAdapter(device, config, Math.toIntExact(rank), alpha.doubleValue(), targets);
        } catch (IllegalArgumentException | ArithmeticException e) {
            throw new CheckpointException(file, "an adapter of this model", e.getMessage(), e);
        }
        try (Safetensors saved = Safetensors.open(directory.resolve(WEIGHTS_FILE)); Device decoder = Device.cpu(1)) {
            Path weights = directory.resolve(WEIGHTS_FILE);
            for (Pair pair : adapter.pairs) {
                adapter.read(decoder, weights, saved, pair);
            }
            // A tensor left out would silently change what the model says.
            if (saved.tensors().size() != 2 * adapter.pairs.size()) {
                throw new CheckpointException(weights, 2 * adapter.pairs.size() + " tensors, those of target_modules",
                        saved.tensors().size() + ": " + saved.tensors().keySet());
            }
            return adapter;
        } catch (Throwable e) {
            adapter.close();
            throw e;
        }
    }

    private static void require(Path file, Map<String, Object> json, String name, Predicate<Object> holds, String expected)
            throws CheckpointException {
        if (!holds.test(json.get(name))) {
            throw new CheckpointException(file, name + ": " + expected, String.valueOf(json.get(name)));
        }
    }

    private void read(Device decoder, Path file, Safetensors saved, Pair pair) throws CheckpointException {
        Tensor a = require(file, saved, pair.name() + ".lora_A.weight", pair.a.shape());
        Tensor b = require(file, saved, pair.name() + ".lora_B.weight", Shape.of(pair.bTransposed.shape().columns(), rank));
        try (Arena scratch = Arena.ofConfined()) {
            Tensor plain = Tensor.allocate(scratch, DType.F32, a.shape());
            Dequantize.forward(decoder, plain, a);
            device.copy(pair.a, plain);
            plain = Tensor.allocate(scratch, DType.F32, b.shape());
            Dequantize.forward(decoder, plain, b);
            Tensor transposed = Tensor.allocate(scratch, DType.F32, pair.bTransposed.shape());
            transpose(transposed, plain);
            device.copy(pair.bTransposed, transposed);
        }
    }

    private static Tensor require(Path file, Safetensors saved, String name, Shape shape) throws CheckpointException {
        Tensor tensor = saved.tensors().get(name);
        if (tensor == null || !tensor.shape().equals(shape)) {
            throw new CheckpointException(file, name + " of shape " + shape, tensor == null ? "none" : tensor.toString());
        }
        return tensor;
    }

    private static void transpose(Tensor to, Tensor from) {
        long rows = from.shape().rows();
        long columns = from.shape().columns();
        for (long row = 0; row < rows; row++) {
            for (long column = 0; column < columns; column++) {
                to.segment().setAtIndex(ValueLayout.JAVA_FLOAT_UNALIGNED, column * rows + row,
                        from.segment().getAtIndex(ValueLayout.JAVA_FLOAT_UNALIGNED, row * columns + column));
            }
        }
    }

    /**
     * Saves it as PEFT does. Each of the two files has its name only once it is whole.
     *
     * @param directory made where it is missing
     * @throws IOException if it cannot be written
     */
    public void save(Path directory) throws IOException {
        Map<String, Object> json = new LinkedHashMap<>();
        json.put("peft_type", "LORA");
        json.put("task_type", "CAUSAL_LM");
        json.put("r", rank);
        json.put("lora_alpha", alpha == Math.rint(alpha) ? (Object) (long) alpha : (Object) alpha);
        json.put("lora_dropout", 0.0);
        json.put("bias", "none");
        json.put("fan_in_fan_out", false);
        json.put("target_modules", targets.stream().map(Target::module).toList());
        json.put("base_model_name_or_path", null);
        json.put("inference_mode", true);
        Files.createDirectories(directory);
        try (Arena scratch = Arena.ofConfined()) {
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            for (Pair pair : pairs) {
                Tensor transposed = Tensor.allocate(scratch, DType.F32, pair.bTransposed.shape());
                device.copy(transposed, pair.bTransposed);
                Tensor b = Tensor.allocate(scratch, DType.F32, Shape.of(pair.bTransposed.shape().columns(), rank));
                transpose(b, transposed);
                tensors.put(pair.name() + ".lora_A.weight", pair.a);
                tensors.put(pair.name() + ".lora_B.weight", b);
            }
            Path unfinished = directory.resolve(CONFIG_FILE + ".part");
            Files.write(unfinished, new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT).writeValueAsBytes(json));
            Files.move(unfinished, directory.resolve(CONFIG_FILE), StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
            Safetensors.write(directory.resolve(WEIGHTS_FILE), tensors, Map.of("format", "pt"));
        }
    }

    /** {@return A and B of every layer by PEFT's names, B as (rank, N)} */
    public Map<String, Tensor> tensors() {
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        for (Pair pair : pairs) {
            tensors.put(pair.name() + ".lora_A.weight", pair.a);
            tensors.put(pair.name() + ".lora_B.weight", pair.bTransposed);
        }
        return tensors;
    }

    /** {@return all of A and B, of shape (n): what is trained} */
    public Tensor all() {
        return all;
    }

    /**
     * {@return a model's weights with the adapter merged into them} Layers that it changes are F32 copies, the others what they were.
     *
     * @param weights of a model of this shape, whichever way its heads are laid out, in memory that this adapter's device computes on
     * @param layout  which elements of a head make a pair there; an adapter's own are halves
     * @param owner   of the copies
     */
    public LlamaWeights merge(LlamaWeights weights, Rope.Layout layout, Arena owner) {
        List<LlamaWeights.Block> blocks = new ArrayList<>();
        for (int layer = 0; layer < config.layers(); layer++) {
            Map<Target, Tensor> merged = new LinkedHashMap<>();
            LlamaWeights.Block block = weights.blocks().get(layer);
            for (Target target : Target.values()) {
                Tensor from = target.of(block);
                merged.put(target, targets.contains(target) ? copy(from, owner) : from);
            }
            blocks.add(new LlamaWeights.Block(block.attentionNorm(), merged.get(Target.Q_PROJ), merged.get(Target.K_PROJ),
                    merged.get(Target.V_PROJ), merged.get(Target.O_PROJ), block.feedForwardNorm(), merged.get(Target.GATE_PROJ),
                    merged.get(Target.UP_PROJ), merged.get(Target.DOWN_PROJ)));
        }
        LlamaWeights result = new LlamaWeights(weights.embedding(), blocks, weights.norm(), weights.output());
        add(result, layout);
        return result;
    }

    private Tensor copy(Tensor from, Arena owner) {
        Tensor to = device.allocate(owner, DType.F32, from.shape());
        Dequantize.forward(device, to, from);
        return to;
    }

    /**
     * Adds {@code alpha / rank · B · A} to the layers that the adapter changes.
     *
     * @param weights F32 in those layers, accumulated into, in memory that this adapter's device computes on
     * @param layout  which elements of a head make a pair there
     */
    public void add(LlamaWeights weights, Rope.Layout layout) {
        for (Pair pair : pairs) {
            Tensor w = pair.target.of(weights.blocks().get(pair.layer));
            Tensor b = scaled(pair.bTransposed);
            boolean heads = pair.target == Target.Q_PROJ || pair.target == Target.K_PROJ;
            if (heads && layout == Rope.Layout.INTERLEAVED) {
                interleave(b);
            }
            MatMul.weightBackward(device, workspace, w, pair.a, b); // w[n, k] += sum over the rank
        }
    }

    /** Columns i and i + HD / 2 of every head go to 2i and 2i + 1. */
    private void interleave(Tensor tensor) {
        float[] values = tensor.toFloatArray();
        float[] moved = new float[values.length];
        int width = config.headWidth();
        for (int i = 0; i < values.length; i++) { // rows are whole heads
            int place = i % width;
            moved[i - place + (place < width / 2 ? 2 * place : 2 * (place - width / 2) + 1)] = values[i];
        }
        put(tensor, moved);
    }

    /** {@return {@code alpha / rank} times an A or a B, until it is asked for the next} */
    private Tensor scaled(Tensor tensor) {
        Tensor result = scaled.columns(0, tensor.shape().elements()).reshape(tensor.shape());
        MatMul.inputBackward(device, workspace, result, tensor, scale, false);
        return result;
    }

    /**
     * Adds to the gradient of A and B in linear layers of a block that share their input, never making that of the weights:
     * {@code dA += alpha / rank · (dy · B)ᵀ · x}, {@code dB += alpha / rank · dyᵀ · (x · Aᵀ)}. Layers that the adapter does not change
     * are passed over.
     *
     * @param gradient of this adapter, as {@link #zeros} gives it, accumulated into
     * @param layer    the block
     * @param x        (rows, K) F32 that went into the layers
     * @param dy       (rows, the sum of their N) F32, the gradient of what came out, side by side, heads laid out in halves
     * @param layers   in the order of dy's columns
     */
    public void backward(LoraAdapter gradient, int layer, Tensor x, Tensor dy, Target... layers) {
        long from = 0;
        for (Target target : layers) {
            for (int i = 0; i < pairs.size(); i++) {
                Pair pair = pairs.get(i);
                if (pair.layer == layer && pair.target == target) {
                    backward(gradient.pairs.get(i), pair, x, dy.columns(from, target.outputs(config)));
                }
            }
            from += target.outputs(config);
        }
    }

    private void backward(Pair to, Pair pair, Tensor x, Tensor dy) {
        long rows = x.shape().rows();
        if (narrow == null || narrow.shape().rows() < rows) {
            narrow = device.allocate(arena, DType.F32, Shape.of(rows, rank));
        }
        Tensor product = narrow.rows(0, rows);
        MatMul.forward(device, workspace, product, x, scaled(pair.a));
        MatMul.weightBackward(device, workspace, to.bTransposed, dy, product);
        MatMul.forward(device, workspace, product, dy, scaled(pair.bTransposed));
        MatMul.weightBackward(device, workspace, to.a, x, product);
    }

    /** {@return what tells it apart from others of as many numbers} */
    @Override
    public String toString() {
        return "rank " + rank + ", alpha " + alpha + ", " + targets;
    }

    /** Frees the memory. Idempotent. */
    @Override
    public void close() {
        workspace.close();
        NativeMemory.close(arena);
    }
}
