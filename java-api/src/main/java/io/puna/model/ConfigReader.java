package io.puna.model;

import io.puna.format.Checkpoint;
import io.puna.format.CheckpointException;
import io.puna.format.GgufCheckpoint;
import io.puna.format.HuggingFaceCheckpoint;
import io.puna.format.UnsupportedModelException;
import io.puna.kernel.Rope;
import io.puna.tensor.DType;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Translates what each kind of checkpoint says about itself into a {@link LlamaConfig}. */
final class ConfigReader {
    /** LLaMAForCausalLM is how the first conversions of LLaMA 1 spelt it. */
    private static final Set<String> ARCHITECTURES = Set.of("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM");
    private static final Set<String> MODEL_TYPES = Set.of("llama", "mistral");
    /** Llama 2 and LLaMA 1 files predate the key; both used this base. */
    private static final double DEFAULT_THETA = 10_000;
    /** What the Hugging Face reference takes for a key that config.json lacks altogether; an explicit null means none. */
    private static final int DEFAULT_BOS = 1;
    private static final int DEFAULT_EOS = 2;
    private static final int MISTRAL_WINDOW = 4096;
    private static final int MISTRAL_KEY_VALUE_HEADS = 8;

    private final Path path;
    private final Map<?, ?> values;

    private ConfigReader(Path path, Map<?, ?> values) {
        this.path = path;
        this.values = values;
    }

    static LlamaConfig read(Checkpoint checkpoint) throws CheckpointException {
        ConfigReader reader = new ConfigReader(checkpoint.path(), checkpoint.metadata());
        try {
            return switch (checkpoint) {
                case HuggingFaceCheckpoint huggingFace -> reader.huggingFace(huggingFace.generationConfig());
                case GgufCheckpoint gguf -> reader.gguf(gguf.tensors());
            };
        } catch (IllegalArgumentException e) {
            throw new CheckpointException(checkpoint.path(), "a configuration that makes a model", e.getMessage(), e);
        }
    }

    /** {@return the configuration in a file such as {@code config.json}, of a model that may have no weights yet} */
    static LlamaConfig read(Path file) throws IOException {
        try {
            return new ConfigReader(file, HuggingFaceCheckpoint.readConfig(file)).huggingFace(Map.of());
        } catch (IllegalArgumentException e) {
            throw new CheckpointException(file, "a configuration that makes a model", e.getMessage(), e);
        }
    }

    private LlamaConfig huggingFace(Map<String, Object> generation) throws CheckpointException {
        String architecture = huggingFaceArchitecture();
        String activation = string("hidden_act", "silu");
        if (!activation.equals("silu")) {
            throw unsupported("the activation 'silu'", "hidden_act '" + activation + "'");
        }
        for (String bias : List.of("attention_bias", "mlp_bias")) {
            if (bool(bias, false)) {
                throw unsupported("a model without biases", bias + " true");
            }
        }
        int width = integer("hidden_size");
        int heads = integer("num_attention_heads");
        int headWidth = has("head_dim") ? integer("head_dim") : width / Math.max(heads, 1);
        int contextLength = integer("max_position_embeddings", 2048);
        ConfigReader rope = nested("rope_scaling", "rope_parameters");
        double partial = rope.number("partial_rotary_factor", number("partial_rotary_factor", 1));
        if (partial != 1) {
            throw unsupported("a rotation of whole heads", "partial_rotary_factor " + partial);
        }
        RopeScaling scaling = huggingFaceScaling(rope, contextLength);
        return new LlamaConfig(
                architecture,
                integer("vocab_size"),
                width,
                integer("num_hidden_layers"),
                heads,
                integer("num_key_value_heads", isMistral() && !values.containsKey("num_key_value_heads") ? MISTRAL_KEY_VALUE_HEADS : heads),
                headWidth,
                integer("intermediate_size"),
                stretched(contextLength, scaling),
                (float) number("rms_norm_eps", 1e-6),
                rope.number("rope_theta", number("rope_theta", DEFAULT_THETA)),
                scaling,
                Rope.Layout.HALVES,
                slidingWindow(),
                bool("tie_word_embeddings", false),
                integer("bos_token_id", values.containsKey("bos_token_id") ? -1 : DEFAULT_BOS),
                eosIds(generation));
    }

    private String huggingFaceArchitecture() throws CheckpointException {
        if (values.get("architectures") instanceof List<?> names && !names.isEmpty()) {
            String name = String.valueOf(names.getFirst());
            if (!ARCHITECTURES.contains(name)) {
                throw unsupportedArchitecture(name, ARCHITECTURES);
            }
            return name;
        }
        String type = string("model_type", null);
        if (type == null) {
            throw invalid("'architectures' or 'model_type' in config.json", "neither");
        }
        if (!MODEL_TYPES.contains(type)) {
            throw unsupportedArchitecture(type, MODEL_TYPES);
        }
        return type;
    }

    private RopeScaling huggingFaceScaling(ConfigReader rope, int contextLength) throws CheckpointException {
        String type = rope.string("rope_type", rope.string("type", "default"));
        int original = has("original_max_position_embeddings")
                ? integer("original_max_position_embeddings")
                : rope.integer("original_max_position_embeddings", contextLength);
        return switch (type) {
            case "default" -> new RopeScaling.None();
            case "linear" -> new RopeScaling.Linear(rope.positive("factor"));
            case "dynamic" -> new RopeScaling.DynamicNtk(rope.positive("factor"), contextLength);
            case "llama3" -> new RopeScaling.Llama3(rope.positive("factor"), rope.positive("low_freq_factor"),
                    rope.positive("high_freq_factor"), original);
            case "yarn" -> {
                double factor = rope.has("factor") ? rope.positive("factor") : (double) contextLength / original;
                double mscale = rope.number("mscale", 0);
                double mscaleAllDim = rope.number("mscale_all_dim", 0);
                double magnitude = mscale != 0 && mscaleAllDim != 0
                        ? RopeScaling.Yarn.defaultMagnitude(factor, mscale) / RopeScaling.Yarn.defaultMagnitude(factor, mscaleAllDim)
                        : RopeScaling.Yarn.defaultMagnitude(factor, 1);
                yield new RopeScaling.Yarn(factor, original, rope.number("beta_fast", 32), rope.number("beta_slow", 1),
                        rope.bool("truncate", true), (float) rope.number("attention_factor", magnitude));
            }
            default -> throw unsupported("RoPE scaling default, linear, dynamic, llama3 or yarn", "'" + type + "'");
        };
    }

    /** With these two, max_position_embeddings stays at what the model was first trained on, by the reference's convention. */
    private static int stretched(int contextLength, RopeScaling scaling) {
        double factor = switch (scaling) {
            case RopeScaling.Linear linear -> linear.factor();
            case RopeScaling.DynamicNtk dynamic -> dynamic.factor();
            default -> 1;
        };
        return (int) Math.min(Math.max(Math.floor(contextLength * factor), contextLength), Integer.MAX_VALUE);
    }

    private boolean isMistral() {
        return "mistral".equals(values.get("model_type"));
    }

    private int slidingWindow() throws CheckpointException {
        if (!isMistral()) {
            return 0;
        }
        return integer("sliding_window", values.containsKey("sliding_window") ? 0 : MISTRAL_WINDOW);
    }

    private List<Integer> eosIds(Map<String, Object> generation) throws CheckpointException {
        List<Integer> ids = new ArrayList<>();
        for (ConfigReader reader : List.of(this, new ConfigReader(path, generation))) {
            if (reader.values.get("eos_token_id") instanceof List<?> list) {
                for (Object id : list) {
                    ids.add(reader.toInteger("eos_token_id", id));
                }
            } else if (reader.has("eos_token_id")) {
                ids.add(reader.integer("eos_token_id"));
            }
        }
        if (ids.isEmpty() && !values.containsKey("eos_token_id")) {
            ids.add(DEFAULT_EOS);
        }
        return ids.stream().distinct().toList();
    }

    private LlamaConfig gguf(Map<String, Tensor> tensors) throws CheckpointException {
        String architecture = string("general.architecture", null);
        if (!"llama".equals(architecture)) {
            throw unsupportedArchitecture(String.valueOf(architecture), Set.of("llama"));
        }
        if (integer("llama.expert_count", 0) > 0) {
            throw unsupported("a dense model", "a mixture of experts, llama.expert_count " + integer("llama.expert_count"));
        }
        int width = integer("llama.embedding_length");
        int heads = integer("llama.attention.head_count");
        int headWidth = integer("llama.attention.key_length", width / Math.max(heads, 1));
        if (integer("llama.attention.value_length", headWidth) != headWidth) {
            throw unsupported("keys and values of one width", "llama.attention.key_length " + headWidth
                    + " and value_length " + integer("llama.attention.value_length"));
        }
        if (integer("llama.rope.dimension_count", headWidth) != headWidth) {
            throw unsupported("a rotation of whole heads of width " + headWidth,
                    "llama.rope.dimension_count " + integer("llama.rope.dimension_count"));
        }
        int contextLength = integer("llama.context_length");
        Tensor embedding = tensors.get("token_embd.weight");
        if (embedding == null || embedding.shape().rank() != 2) {
            throw invalid("a tensor token_embd.weight of shape (V, C)", embedding == null ? "none" : embedding);
        }
        return new LlamaConfig(
                architecture,
                Math.toIntExact(Math.min(embedding.shape().dim(0), Integer.MAX_VALUE)),
                width,
                integer("llama.block_count"),
                heads,
                integer("llama.attention.head_count_kv", heads),
                headWidth,
                integer("llama.feed_forward_length"),
                contextLength,
                (float) number("llama.attention.layer_norm_rms_epsilon", 1e-6),
                number("llama.rope.freq_base", DEFAULT_THETA),
                ggufScaling(tensors.get("rope_freqs.weight"), headWidth, contextLength),
                Rope.Layout.INTERLEAVED,
                integer("llama.attention.sliding_window", 0),
                !tensors.containsKey("output.weight"),
                tokenId("tokenizer.ggml.bos_token_id", embedding),
                ggufEosIds(embedding));
    }

    private RopeScaling ggufScaling(Tensor divisors, int headWidth, int contextLength) throws CheckpointException {
        if (divisors != null) {
            if (divisors.dtype() != DType.F32 || !divisors.shape().equals(Shape.of(headWidth / 2))) {
                throw invalid("rope_freqs.weight as F32 (" + headWidth / 2 + ")", divisors);
            }
            return new RopeScaling.Divided(divisors.segment().toArray(ValueLayout.JAVA_FLOAT_UNALIGNED));
        }
        String type = string("llama.rope.scaling.type", has("llama.rope.scale_linear") ? "linear" : "none");
        double factor = number("llama.rope.scaling.factor", number("llama.rope.scale_linear", 1));
        return switch (type) {
            case "none" -> new RopeScaling.None();
            case "linear" -> factor == 0 || factor == 1 ? new RopeScaling.None() : new RopeScaling.Linear(factor);
            case "yarn" -> new RopeScaling.Yarn(positive("llama.rope.scaling.factor"),
                    integer("llama.rope.scaling.original_context_length", contextLength),
                    number("llama.rope.scaling.yarn_beta_fast", 32), number("llama.rope.scaling.yarn_beta_slow", 1), true,
                    (float) (number("llama.rope.scaling.attn_factor", 1) * RopeScaling.Yarn.defaultMagnitude(factor, 1)));
            default -> throw unsupported("RoPE scaling none, linear or yarn", "'" + type + "'");
        };
    }

    private List<Integer> ggufEosIds(Tensor embedding) throws CheckpointException {
        List<Integer> ids = new ArrayList<>();
        for (String key : List.of("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")) {
            int id = tokenId(key, embedding);
            if (id >= 0) {
                ids.add(id);
            }
        }
        return ids.stream().distinct().toList();
    }

    /** Writers leave an id that is not set at 2^32 - 1, so an id outside the vocabulary is none. */
    private int tokenId(String key, Tensor embedding) throws CheckpointException {
        Object value = values.get(key);
        if (value == null) {
            return -1;
        }
        if (!(value instanceof Long id)) {
            throw invalid(key + " as an integer", value);
        }
        return id >= 0 && id < embedding.shape().dim(0) ? id.intValue() : -1;
    }

    private boolean has(String key) {
        return values.get(key) != null;
    }

    private int integer(String key) throws CheckpointException {
        if (!has(key)) {
            throw invalid("an integer " + key, "none");
        }
        return toInteger(key, values.get(key));
    }

    private int integer(String key, int absent) throws CheckpointException {
        return has(key) ? integer(key) : absent;
    }

    private int toInteger(String key, Object value) throws CheckpointException {
        if (value instanceof Long number && number == number.intValue()) {
            return number.intValue();
        }
        throw invalid(key + " as a 32-bit integer", value);
    }

    private double number(String key, double absent) throws CheckpointException {
        Object value = values.get(key);
        if (value == null) {
            return absent;
        }
        if (value instanceof Number number && Double.isFinite(number.doubleValue())) {
            return number.doubleValue();
        }
        throw invalid(key + " as a finite number", value);
    }

    private double positive(String key) throws CheckpointException {
        double value = number(key, Double.NaN);
        if (!(value > 0)) {
            throw invalid("a positive " + key, values.get(key));
        }
        return value;
    }

    private String string(String key, String absent) throws CheckpointException {
        Object value = values.get(key);
        if (value == null) {
            return absent;
        }
        if (value instanceof String text) {
            return text;
        }
        throw invalid(key + " as a string", value);
    }

    private boolean bool(String key, boolean absent) throws CheckpointException {
        Object value = values.get(key);
        if (value == null) {
            return absent;
        }
        if (value instanceof Boolean flag) {
            return flag;
        }
        throw invalid(key + " as true or false", value);
    }

    /** The first of these keys that holds an object; an empty object when none does. */
    private ConfigReader nested(String... keys) throws CheckpointException {
        for (String key : keys) {
            if (has(key)) {
                if (values.get(key) instanceof Map<?, ?> map) {
                    return new ConfigReader(path, map);
                }
                throw invalid(key + " as an object", values.get(key));
            }
        }
        return new ConfigReader(path, Map.of());
    }

    private CheckpointException invalid(String expected, Object got) {
        String text = String.valueOf(got);
        return new CheckpointException(path, expected, text.length() > 60 ? text.substring(0, 60) + "…" : text);
    }

    private UnsupportedModelException unsupported(String expected, String got) {
        return new UnsupportedModelException(path, expected, got);
    }

    private UnsupportedModelException unsupportedArchitecture(String name, Set<String> supported) {
        return unsupported("a model of the architecture " + String.join(" or ", supported.stream().sorted().toList()), "'" + name + "'");
    }
}
