package io.puna.format;

import com.fasterxml.jackson.core.JsonGenerator;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * One safetensors file on its own: named tensors, and texts about them. {@link #open} maps it and {@link #write} makes it.
 *
 * <p>Owns the memory map that its tensors view, until it is closed.
 */
public final class Safetensors implements AutoCloseable {
    private static final int ALIGNMENT = 8;
    private static final long PIECE_BYTES = 1 << 26;

    private final Mapping mapping;
    private final Map<String, Tensor> tensors;
    private final Map<String, String> metadata;

    private Safetensors(Mapping mapping, Map<String, Tensor> tensors, Map<String, String> metadata) {
        this.mapping = mapping;
        this.tensors = tensors;
        this.metadata = metadata;
    }

    /**
     * {@return the open file; the caller closes it}
     *
     * @throws CheckpointException       if it is damaged
     * @throws UnsupportedModelException if a tensor's dtype is not supported
     * @throws IOException               if it cannot be read
     */
    public static Safetensors open(Path file) throws IOException {
        Mapping mapping = new Mapping();
        try {
            Map<String, String> metadata = new LinkedHashMap<>();
            return new Safetensors(mapping, SafetensorsReader.read(file, mapping.map(file), mapping.arena(), metadata), metadata);
        } catch (Throwable e) {
            mapping.close();
            throw e;
        }
    }

    /** {@return the tensors by name, in the file's order, unmodifiable and read-only} */
    public Map<String, Tensor> tensors() {
        mapping.requireOpen();
        return tensors;
    }

    /** {@return the texts about them, none when there are none} */
    public Map<String, String> metadata() {
        return Map.copyOf(metadata);
    }

    /** Unmaps the file; waits for native calls in flight. A second call does nothing. */
    @Override
    public void close() {
        mapping.close();
    }

    /**
     * Writes a file. It has its name only once it is whole and on the disk: killed at any instant, or with the disk full, what was there
     * before is there still.
     *
     * @param file     what to make or replace; beside it a name with {@code .part} is used
     * @param tensors  contiguous, of plain types, in the order in which they are to lie; those in a device's memory are copied from there
     * @param metadata texts about them
     * @throws IllegalArgumentException if a tensor has gaps or another type than F32, F16 or BF16
     * @throws IOException              if it cannot be written
     * @throws RuntimeException         if a device that holds a tensor fails or is closed
     */
    public static void write(Path file, Map<String, Tensor> tensors, Map<String, String> metadata) throws IOException {
        byte[] header = header(tensors, metadata);
        Path unfinished = file.resolveSibling(file.getFileName() + ".part");
        try {
            try (FileChannel channel = FileChannel.open(unfinished, StandardOpenOption.CREATE, StandardOpenOption.TRUNCATE_EXISTING,
                    StandardOpenOption.WRITE)) {
                put(channel, ByteBuffer.allocate(Long.BYTES).order(ByteOrder.LITTLE_ENDIAN).putLong(0, header.length));
                put(channel, ByteBuffer.wrap(header));
                for (Tensor tensor : tensors.values()) {
                    put(channel, tensor);
                }
                channel.force(true);
            }
            Files.move(unfinished, file, StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
        } catch (RuntimeException e) {
            Files.deleteIfExists(unfinished);
            throw e;
        } catch (IOException e) {
            Files.deleteIfExists(unfinished);
            throw new IOException(file + ": could not be written, and is as it was before: " + e.getMessage(), e);
        }
    }

    private static void put(FileChannel channel, Tensor tensor) throws IOException {
        long elements = tensor.shape().elements();
        Tensor flat = tensor.reshape(Shape.of(elements));
        long step = PIECE_BYTES / tensor.dtype().blockBytes();
        try (Arena scratch = Arena.ofConfined()) {
            Device device = tensor.device();
            MemorySegment staging = device == null ? MemorySegment.NULL
                    : scratch.allocate(tensor.dtype().bytes(Math.min(step, elements)), ALIGNMENT);
            for (long from = 0; from < elements; from += step) {
                Tensor piece = flat.columns(from, Math.min(step, elements - from));
                if (device != null) {
                    Tensor there = piece;
                    piece = Tensor.of(staging, there.dtype(), there.shape());
                    device.copy(piece, there);
                }
                put(channel, piece.segment().asByteBuffer());
            }
        }
    }

    private static void put(FileChannel channel, ByteBuffer bytes) throws IOException {
        while (bytes.hasRemaining()) {
            channel.write(bytes);
        }
    }

    private static byte[] header(Map<String, Tensor> tensors, Map<String, String> metadata) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (JsonGenerator json = Json.generator(bytes)) {
            json.writeStartObject();
            if (!metadata.isEmpty()) {
                json.writeObjectFieldStart("__metadata__");
                for (Map.Entry<String, String> entry : metadata.entrySet()) {
                    json.writeStringField(entry.getKey(), entry.getValue());
                }
                json.writeEndObject();
            }
            long offset = 0;
            for (Map.Entry<String, Tensor> entry : tensors.entrySet()) {
                Tensor tensor = entry.getValue();
                if (!tensor.isContiguous() || tensor.dtype().isQuantized() || tensor.dtype().code() < 0) {
                    throw new IllegalArgumentException("tensors: expected contiguous F32, F16 or BF16, got " + entry.getKey() + " " + tensor);
                }
                json.writeObjectFieldStart(entry.getKey());
                json.writeStringField("dtype", tensor.dtype().name());
                Shape shape = tensor.shape();
                json.writeFieldName("shape");
                json.writeArray(shape.dims(), 0, shape.rank());
                json.writeFieldName("data_offsets");
                json.writeArray(new long[] {offset, offset + tensor.byteSize()}, 0, 2);
                json.writeEndObject();
                offset += tensor.byteSize();
            }
            json.writeEndObject();
        }
        while (bytes.size() % ALIGNMENT != 0) {
            bytes.write(' ');
        }
        return bytes.toByteArray();
    }
}
