package io.puna.train;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import io.puna.format.Safetensors;
import io.puna.kernel.Rope;
import io.puna.model.LlamaConfig;
import io.puna.model.RopeScaling;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Writes a model as Hugging Face's transformers reads it, and Puna: {@code config.json}, {@code model.safetensors} in F32, and the
 * tokenizer's files as they were.
 */
public final class ModelDirectory {
    private static final List<String> TOKENIZER_FILES = List.of("tokenizer.json", "tokenizer.model", "tokenizer_config.json",
            "special_tokens_map.json", "added_tokens.json", "chat_template.jinja");

    private ModelDirectory() {
    }

    /**
     * Makes the directory and writes all but the weights.
     *
     * @param tokenizer directory whose tokenizer files are copied, as many as there are
     * @throws IllegalArgumentException if {@code config.json} cannot say what the model is
     * @throws IOException              if it cannot be written
     */
    public static void prepare(Path directory, LlamaConfig config, Path tokenizer) throws IOException {
        byte[] json = new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT).writeValueAsBytes(config(config));
        Files.createDirectories(directory);
        write(directory.resolve("config.json"), json);
        for (String name : TOKENIZER_FILES) {
            Path file = tokenizer.resolve(name);
            if (Files.isRegularFile(file) && !file.toAbsolutePath().equals(directory.resolve(name).toAbsolutePath())) {
                write(directory.resolve(name), Files.readAllBytes(file));
            }
        }
    }

    /**
     * Writes the weights. Killed at any instant, or with the disk full, the directory has those from before.
     *
     * @throws IOException if they cannot be written
     */
    public static void writeWeights(Path directory, Parameters weights) throws IOException {
        Safetensors.write(directory.resolve("model.safetensors"), weights.tensors(), Map.of("format", "pt"));
    }

    private static void write(Path file, byte[] bytes) throws IOException {
        Path unfinished = file.resolveSibling(file.getFileName() + ".part");
        try {
            Files.write(unfinished, bytes);
            try (FileChannel channel = FileChannel.open(unfinished, StandardOpenOption.WRITE)) {
                channel.force(true);
            }
            Files.move(unfinished, file, StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
        } catch (IOException e) {
            Files.deleteIfExists(unfinished);
            throw new IOException(file + ": could not be written, and is as it was before: " + e.getMessage(), e);
        }
    }

    private static Map<String, Object> config(LlamaConfig config) {
        if (config.ropeLayout() != Rope.Layout.HALVES) {
            throw new IllegalArgumentException("config: expected heads in halves, as Hugging Face has them, got " + config.ropeLayout());
        }
        boolean mistral = config.slidingWindow() > 0;
        Map<String, Object> json = new LinkedHashMap<>();
        json.put("architectures", List.of(mistral ? "MistralForCausalLM" : "LlamaForCausalLM"));
        json.put("model_type", mistral ? "mistral" : "llama");
        json.put("hidden_act", "silu");
        json.put("vocab_size", config.vocabularySize());
        json.put("hidden_size", config.width());
        json.put("intermediate_size", config.feedForwardWidth());
        json.put("num_hidden_layers", config.layers());
        json.put("num_attention_heads", config.heads());
        json.put("num_key_value_heads", config.keyValueHeads());
        json.put("head_dim", config.headWidth());
        json.put("max_position_embeddings", trainedContext(config));
        json.put("rms_norm_eps", Double.parseDouble(Float.toString(config.normEpsilon())));
        json.put("rope_theta", config.ropeTheta());
        json.put("rope_scaling", scaling(config.ropeScaling()));
        if (mistral) {
            json.put("sliding_window", config.slidingWindow());
        }
        json.put("tie_word_embeddings", config.tiedEmbeddings());
        json.put("attention_bias", false);
        json.put("mlp_bias", false);
        json.put("bos_token_id", config.bosTokenId() < 0 ? null : config.bosTokenId());
        json.put("eos_token_id", config.eosTokenIds().size() == 1 ? config.eosTokenIds().getFirst()
                : config.eosTokenIds().isEmpty() ? null : config.eosTokenIds());
        json.put("torch_dtype", "float32");
        return json;
    }

    /** Under these two, config.json keeps the context of the first training. */
    private static int trainedContext(LlamaConfig config) {
        return switch (config.ropeScaling()) {
            case RopeScaling.Linear linear -> (int) Math.ceil(config.contextLength() / linear.factor());
            case RopeScaling.DynamicNtk dynamic -> dynamic.originalContext();
            default -> config.contextLength();
        };
    }

    private static @Nullable Map<String, Object> scaling(RopeScaling scaling) {
        Map<String, Object> json = new LinkedHashMap<>();
        switch (scaling) {
            case RopeScaling.None none -> {
                return null;
            }
            case RopeScaling.Linear linear -> {
                json.put("rope_type", "linear");
                json.put("factor", linear.factor());
            }
            case RopeScaling.DynamicNtk dynamic -> {
                json.put("rope_type", "dynamic");
                json.put("factor", dynamic.factor());
            }
            case RopeScaling.Llama3 llama3 -> {
                json.put("rope_type", "llama3");
                json.put("factor", llama3.factor());
                json.put("low_freq_factor", llama3.lowFrequency());
                json.put("high_freq_factor", llama3.highFrequency());
                json.put("original_max_position_embeddings", llama3.originalContext());
            }
            case RopeScaling.Yarn yarn -> {
                json.put("rope_type", "yarn");
                json.put("factor", yarn.factor());
                json.put("original_max_position_embeddings", yarn.originalContext());
                json.put("beta_fast", yarn.betaFast());
                json.put("beta_slow", yarn.betaSlow());
                json.put("truncate", yarn.truncate());
                json.put("attention_factor", Double.parseDouble(Float.toString(yarn.magnitude())));
            }
            case RopeScaling.Divided divided -> throw new IllegalArgumentException(
                    "config: expected a RoPE scaling that config.json can say, got a GGUF file's own divisors");
        }
        return json;
    }
}
