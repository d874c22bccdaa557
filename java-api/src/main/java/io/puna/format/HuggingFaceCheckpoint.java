package io.puna.format;

import static io.puna.format.CheckpointException.quote;

import io.puna.tensor.Tensor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;

/**
 * A directory as Hugging Face transformers saves it: {@code config.json}, the weights in {@code model.safetensors} or in shards that
 * {@code model.safetensors.index.json} lists (which is preferred when both are there), and perhaps {@code generation_config.json}.
 */
public final class HuggingFaceCheckpoint implements Checkpoint {
    private static final String CONFIG = "config.json";
    private static final String GENERATION_CONFIG = "generation_config.json";
    private static final String WEIGHTS = "model.safetensors";
    private static final String INDEX = "model.safetensors.index.json";

    private final Path path;
    private final Path directory;
    private final Mapping mapping;
    private final Map<String, Object> config;
    private final Map<String, Object> generationConfig;
    private final Map<String, Tensor> tensors;

    private HuggingFaceCheckpoint(Path path, Path directory, Mapping mapping, Map<String, Object> config,
                                  Map<String, Object> generationConfig, Map<String, Tensor> tensors) {
        this.path = path;
        this.directory = directory;
        this.mapping = mapping;
        this.config = config;
        this.generationConfig = generationConfig;
        this.tensors = tensors;
    }

    /**
     * Opens a directory, or the directory around a {@code .safetensors} file: that file alone, or all shards when the index lists it.
     *
     * @throws CheckpointException       if a file is missing or damaged, or the index contradicts the shards
     * @throws UnsupportedModelException if a tensor's dtype is not supported
     * @throws IOException               if a file cannot be read
     */
    static HuggingFaceCheckpoint open(Path path) throws IOException {
        boolean whole = Files.isDirectory(path);
        Path directory = whole ? path : path.toAbsolutePath().getParent();
        Path weights = whole ? directory.resolve(WEIGHTS) : path;
        if (!Files.exists(directory.resolve(CONFIG))) {
            throw new CheckpointException(directory, "a model directory with " + CONFIG, "no such file in it");
        }
        Map<String, Object> config = Json.readObject(directory.resolve(CONFIG));
        Path generation = directory.resolve(GENERATION_CONFIG);
        Map<String, Object> generationConfig = Files.exists(generation) ? Json.readObject(generation) : Map.of();

        Map<String, String> index = Files.exists(directory.resolve(INDEX)) ? index(directory.resolve(INDEX)) : Map.of();
        boolean sharded = whole ? !index.isEmpty() : index.containsValue(weights.getFileName().toString());
        if (!sharded && !Files.exists(weights)) {
            throw new CheckpointException(directory, WEIGHTS + " or " + INDEX, "neither in it");
        }
        Mapping mapping = new Mapping();
        try {
            Map<String, Tensor> tensors = sharded ? shards(directory, index, mapping)
                    : SafetensorsReader.read(weights, mapping.map(weights), mapping.arena());
            return new HuggingFaceCheckpoint(path, directory, mapping, config, generationConfig, tensors);
        } catch (Throwable e) {
            mapping.close();
            throw e;
        }
    }

    /**
     * {@return the members of a {@code config.json} as {@link #metadata} gives them}
     *
     * @throws CheckpointException if it is not one well-formed JSON object
     * @throws IOException         if it cannot be read
     */
    public static Map<String, Object> readConfig(Path file) throws IOException {
        return Json.readObject(file);
    }

    /** {@return the shard of each tensor} */
    private static Map<String, String> index(Path file) throws IOException {
        if (!(Json.readObject(file).get("weight_map") instanceof Map<?, ?> weightMap) || weightMap.isEmpty()) {
            throw new CheckpointException(file, "a weight_map that lists tensors", "none");
        }
        Map<String, String> index = new LinkedHashMap<>();
        for (Map.Entry<?, ?> entry : weightMap.entrySet()) {
            String tensor = (String) entry.getKey();
            if (!(entry.getValue() instanceof String shard) || !isPlainFileName(shard)) {
                throw new CheckpointException(file, "the shard of tensor " + quote(tensor) + " to be the name of a file beside the index",
                        entry.getValue() instanceof String name ? quote(name) : String.valueOf(entry.getValue().getClass().getSimpleName()));
            }
            index.put(tensor, shard);
        }
        return index;
    }

    /** An index comes with the weights from anywhere; it may not point out of its directory. Symbolic links there are the user's own. */
    private static boolean isPlainFileName(String name) {
        if (name.chars().anyMatch(c -> c == '/' || c == '\\' || c == ':' || Character.isISOControl(c))) {
            return false;
        }
        try {
            Path path = Path.of(name);
            return !name.isEmpty() && !name.equals(".") && !name.equals("..") && !path.isAbsolute() && path.getNameCount() == 1;
        } catch (InvalidPathException e) {
            return false;
        }
    }

    private static Map<String, Tensor> shards(Path directory, Map<String, String> index, Mapping mapping) throws IOException {
        Map<String, Map<String, Tensor>> shards = new HashMap<>();
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        for (Map.Entry<String, String> entry : index.entrySet()) {
            Path file = directory.resolve(entry.getValue());
            Map<String, Tensor> shard = shards.get(entry.getValue());
            if (shard == null) {
                if (!Files.exists(file)) {
                    throw new CheckpointException(directory.resolve(INDEX), "the shard " + quote(entry.getValue()) + " beside it", "no such file");
                }
                shard = SafetensorsReader.read(file, mapping.map(file), mapping.arena());
                shards.put(entry.getValue(), shard);
            }
            Tensor tensor = shard.get(entry.getKey());
            if (tensor == null) {
                throw new CheckpointException(file, "tensor " + quote(entry.getKey()) + ", which " + INDEX + " says is here", "no such tensor");
            }
            tensors.put(entry.getKey(), tensor);
        }
        return Collections.unmodifiableMap(tensors);
    }

    @Override
    public Path path() {
        return path;
    }

    /** {@return the directory with the configuration, the weights and, usually, the tokenizer} */
    public Path directory() {
        return directory;
    }

    @Override
    public String format() {
        return "Hugging Face safetensors";
    }

    @Override
    public Map<String, Object> metadata() {
        return config;
    }

    /** {@return the members of {@code generation_config.json} as in {@link #metadata}, none when there is no such file} */
    public Map<String, Object> generationConfig() {
        return generationConfig;
    }

    @Override
    public Map<String, Tensor> tensors() {
        mapping.requireOpen();
        return tensors;
    }

    @Override
    public long byteSize() {
        return mapping.byteSize();
    }

    @Override
    public void readAhead(LoadListener listener) {
        mapping.readAhead(Objects.requireNonNull(listener, "listener"));
    }

    @Override
    public void close() {
        mapping.close();
    }
}
