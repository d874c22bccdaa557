package io.puna.format;

import io.puna.tensor.Tensor;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.Map;

/** The weights of a model on disk and what the files say about them. Owns the memory map that its tensors view. */
public sealed interface Checkpoint extends AutoCloseable permits GgufCheckpoint, HuggingFaceCheckpoint {

    /**
     * Opens a checkpoint, whichever format it has.
     *
     * @param path a directory with {@code config.json} and safetensors files, a {@code .safetensors} file inside such a directory,
     *             or a GGUF file (known by its first bytes, whatever its name)
     * @return the open checkpoint; the caller closes it
     * @throws NoSuchFileException       if there is nothing at {@code path}
     * @throws CheckpointException       if the files are damaged or not a checkpoint
     * @throws UnsupportedModelException if a tensor's element type, or the file's variant, is not supported
     * @throws IOException               if a file cannot be read
     */
    static Checkpoint open(Path path) throws IOException {
        if (Files.isDirectory(path)) {
            return HuggingFaceCheckpoint.open(path);
        }
        if (!Files.exists(path)) {
            throw new NoSuchFileException(path.toString(), null, "expected a checkpoint file or directory, found nothing");
        }
        if (!Files.isRegularFile(path)) {
            throw new CheckpointException(path, "a file or a directory", "neither");
        }
        byte[] magic;
        try (InputStream in = Files.newInputStream(path)) {
            magic = in.readNBytes(4);
        }
        if (Arrays.equals(magic, "GGUF".getBytes(StandardCharsets.US_ASCII))) {
            return GgufCheckpoint.open(path);
        }
        if (path.toString().endsWith(".safetensors")) {
            return HuggingFaceCheckpoint.open(path);
        }
        throw new CheckpointException(path,
                "a GGUF file (magic \"GGUF\"), a .safetensors file or a directory with config.json",
                magic.length == 0 ? "an empty file" : "a file that begins with bytes 0x" + HexFormat.of().formatHex(magic));
    }

    /** {@return the path that was opened} */
    Path path();

    /** {@return the format and its version, as in {@code GGUF v3} or {@code Hugging Face safetensors}} */
    String format();

    /**
     * {@return what the files say about the model: the members of {@code config.json}, or a GGUF file's key-values}
     *
     * <p>Values are {@code String}, {@code Long}, {@code Double}, {@code Boolean}, {@code List} or {@code Map}, all unmodifiable.
     * Members of {@code config.json} that are null are left out; nulls in its arrays stay. Stays usable after {@link #close}.
     */
    Map<String, Object> metadata();

    /**
     * {@return the tensors by the file's own names, in the file's order, unmodifiable}
     *
     * <p>Shapes are outermost first. The views are read-only and live until {@link #close}.
     *
     * @throws IllegalStateException if the checkpoint is closed
     */
    Map<String, Tensor> tensors();

    /** {@return the bytes of the weight files, all of them mapped} */
    long byteSize();

    /**
     * Begins to read the files into memory, from first to last, on a thread of its own that ends with them or with {@link #close}.
     * Without it pages are read as they are first touched, which takes longer where they come from a disk; with it nothing else
     * changes.
     *
     * @param listener told how far it is, by that thread
     * @throws IllegalStateException if the checkpoint is closed
     */
    void readAhead(LoadListener listener);

    /** Unmaps the files; waits for native calls in flight on their tensors. A second call does nothing. */
    @Override
    void close();
}
