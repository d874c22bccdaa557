package io.puna.format;

import io.puna.tensor.Tensor;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Map;
import java.util.Objects;

/**
 * A GGUF file, version 2 or 3, little-endian. Its {@link #metadata} are the file's key-values: integers of every width as
 * {@code Long}, floats as {@code Double}, arrays as {@code List}.
 */
public final class GgufCheckpoint implements Checkpoint {
    private final Path path;
    private final Mapping mapping;
    private final GgufReader.Contents contents;

    private GgufCheckpoint(Path path, Mapping mapping, GgufReader.Contents contents) {
        this.path = path;
        this.mapping = mapping;
        this.contents = contents;
    }

    /**
     * Opens a GGUF file.
     *
     * @throws CheckpointException       if it is damaged or not GGUF
     * @throws UnsupportedModelException if its version, byte order or a tensor's type is not supported
     * @throws IOException               if it cannot be read
     */
    static GgufCheckpoint open(Path path) throws IOException {
        Mapping mapping = new Mapping();
        try {
            return new GgufCheckpoint(path, mapping, GgufReader.read(path, mapping.map(path)));
        } catch (Throwable e) {
            mapping.close();
            throw e;
        }
    }

    @Override
    public Path path() {
        return path;
    }

    @Override
    public String format() {
        return "GGUF v" + contents.version();
    }

    @Override
    public Map<String, Object> metadata() {
        return contents.metadata();
    }

    @Override
    public Map<String, Tensor> tensors() {
        mapping.requireOpen();
        return contents.tensors();
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
