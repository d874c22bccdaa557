package io.puna.format;

import io.puna.tensor.DType;
import io.puna.tensor.Shape;
import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Writes a GGUF file, version 3, little-endian, in one pass: what is in it is said first, then come the tensors' bytes one after the
 * other, in pieces of any size. No more than a piece is ever in memory.
 *
 * <p>The file has its name only once it is whole: {@link #finish} gives it, and {@link #close} without it leaves nothing behind. For use
 * by one thread.
 */
public final class GgufWriter implements AutoCloseable {
    private static final int VERSION = 3;
    private static final int ALIGNMENT = 32;

    /**
     * A tensor to be written.
     *
     * @param shape outermost dimension first, rows of whole blocks
     */
    public record Entry(String name, DType dtype, Shape shape) {
        /** {@return the bytes that the tensor takes, without padding} */
        public long bytes() {
            return dtype.bytes(shape.elements());
        }
    }

    private final Path file;
    private final Path unfinished;
    private final FileChannel channel;
    private final List<Entry> tensors;
    private int current;
    private long written; // bytes of the current tensor
    private boolean finished;

    private GgufWriter(Path file, Path unfinished, FileChannel channel, List<Entry> tensors) {
        this.file = file;
        this.unfinished = unfinished;
        this.channel = channel;
        this.tensors = tensors;
    }

    /**
     * Begins a file and writes all that comes before the tensors' bytes.
     *
     * @param file     where it will be; a file that is there stays until {@link #finish}
     * @param metadata key-values in their order: {@code String}, {@code Boolean}, {@code Integer} and {@code Long} (unsigned in the file,
     *                 so not negative), {@code Float}, {@code Double}, and as arrays a {@code List} of strings, {@code int[]} and
     *                 {@code float[]}
     * @param tensors  in the order in which their bytes will come
     * @throws IllegalArgumentException if a value has another type or is negative, or a tensor's name comes twice, its dtype is
     *                                  {@link DType#I32}, it is empty or has more than four dimensions, or its rows are not of whole
     *                                  blocks
     * @throws IOException              if the file cannot be made
     */
    public static GgufWriter create(Path file, Map<String, ?> metadata, List<Entry> tensors) throws IOException {
        byte[] header = header(metadata, tensors);
        Path unfinished = file.resolveSibling(file.getFileName() + ".part");
        FileChannel channel = FileChannel.open(unfinished, StandardOpenOption.CREATE, StandardOpenOption.TRUNCATE_EXISTING,
                StandardOpenOption.WRITE);
        GgufWriter writer = new GgufWriter(file, unfinished, channel, List.copyOf(tensors));
        try {
            writer.put(ByteBuffer.wrap(header));
            return writer;
        } catch (Throwable e) {
            writer.close();
            throw e;
        }
    }

    /**
     * Writes the next bytes of the tensors: the rest of the current one, or a part of it.
     *
     * @param bytes of one tensor alone, in the file's layout; from its position to its limit, to which its position is moved
     * @throws IllegalArgumentException if there are more bytes than the current tensor still takes
     * @throws IOException              if the file cannot be written
     */
    public void write(ByteBuffer bytes) throws IOException {
        long missing = current == tensors.size() ? 0 : tensors.get(current).bytes() - written;
        if (bytes.remaining() > missing) {
            throw new IllegalArgumentException("bytes: expected at most " + missing + ", what is missing of "
                    + (current == tensors.size() ? "the last tensor" : tensors.get(current).name()) + ", got " + bytes.remaining());
        }
        written += bytes.remaining();
        put(bytes);
        if (current < tensors.size() && written == tensors.get(current).bytes()) {
            put(ByteBuffer.allocate(padding(written)));
            written = 0;
            current++;
        }
    }

    /**
     * Ends the file and gives it its name.
     *
     * @throws IllegalStateException if bytes of a tensor are missing
     * @throws IOException           if the file cannot be written
     */
    public void finish() throws IOException {
        if (current < tensors.size()) {
            Entry entry = tensors.get(current);
            throw new IllegalStateException(file + ": " + (entry.bytes() - written) + " bytes of tensor " + entry.name() + " are missing");
        }
        channel.close();
        Files.move(unfinished, file, StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
        finished = true;
    }

    /** Gives up a file that is not finished; has no effect on one that is. */
    @Override
    public void close() throws IOException {
        if (!finished) {
            channel.close(); // an interrupted write has closed it already
            Files.deleteIfExists(unfinished);
        }
    }

    private void put(ByteBuffer bytes) throws IOException {
        while (bytes.hasRemaining()) {
            channel.write(bytes);
        }
    }

    private static int padding(long size) {
        return (int) (-size & (ALIGNMENT - 1));
    }

    private static byte[] header(Map<String, ?> metadata, List<Entry> tensors) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        Little out = new Little(new DataOutputStream(bytes));
        out.out.write("GGUF".getBytes(StandardCharsets.US_ASCII));
        out.u32(VERSION);
        out.u64(tensors.size());
        out.u64(metadata.size());
        for (Map.Entry<String, ?> entry : metadata.entrySet()) {
            out.string(entry.getKey());
            value(out, entry.getKey(), entry.getValue());
        }
        Set<String> names = new HashSet<>();
        long offset = 0;
        for (Entry tensor : tensors) {
            if (!names.add(tensor.name())) {
                throw new IllegalArgumentException("tensors: expected every name once, got " + tensor.name() + " twice");
            }
            long[] dims = tensor.shape().dims();
            if (dims.length < 1 || dims.length > GgufReader.MAX_RANK || tensor.shape().elements() == 0
                    || tensor.shape().columns() % tensor.dtype().blockElements() != 0) {
                throw new IllegalArgumentException("tensors: expected 1 to " + GgufReader.MAX_RANK + " dimensions above 0 and rows of"
                        + " whole " + tensor.dtype() + " blocks, got " + tensor.name() + " " + tensor.shape());
            }
            out.string(tensor.name());
            out.u32(dims.length);
            for (int i = dims.length - 1; i >= 0; i--) {
                out.u64(dims[i]);
            }
            out.u32(type(tensor));
            out.u64(offset);
            offset += tensor.bytes() + padding(tensor.bytes());
        }
        out.out.write(new byte[padding(bytes.size())]);
        return bytes.toByteArray();
    }

    private static int type(Entry tensor) {
        return switch (tensor.dtype()) {
            case F32 -> 0;
            case F16 -> 1;
            case Q4_0 -> 2;
            case Q8_0 -> 8;
            case Q4_K -> 12;
            case Q6_K -> 14;
            case BF16 -> 30;
            case I32 -> throw new IllegalArgumentException("tensors: expected weights, got " + tensor.name() + " of type I32");
        };
    }

    private static void value(Little out, String key, Object value) throws IOException {
        switch (value) {
            case Integer number -> {
                out.u32(GgufReader.ValueType.UINT32.ordinal());
                out.u32((int) unsigned(key, number));
            }
            case Long number -> {
                out.u32(GgufReader.ValueType.UINT64.ordinal());
                out.u64(unsigned(key, number));
            }
            case Float number -> {
                out.u32(GgufReader.ValueType.FLOAT32.ordinal());
                out.u32(Float.floatToRawIntBits(number));
            }
            case Double number -> {
                out.u32(GgufReader.ValueType.FLOAT64.ordinal());
                out.u64(Double.doubleToRawLongBits(number));
            }
            case Boolean flag -> {
                out.u32(GgufReader.ValueType.BOOL.ordinal());
                out.out.writeByte(flag ? 1 : 0);
            }
            case String text -> {
                out.u32(GgufReader.ValueType.STRING.ordinal());
                out.string(text);
            }
            case int[] numbers -> {
                out.array(GgufReader.ValueType.INT32, numbers.length);
                for (int number : numbers) {
                    out.u32(number);
                }
            }
            case float[] numbers -> {
                out.array(GgufReader.ValueType.FLOAT32, numbers.length);
                for (float number : numbers) {
                    out.u32(Float.floatToRawIntBits(number));
                }
            }
            case List<?> texts when texts.stream().allMatch(String.class::isInstance) -> {
                out.array(GgufReader.ValueType.STRING, texts.size());
                for (Object text : texts) {
                    out.string((String) text);
                }
            }
            default -> throw new IllegalArgumentException("metadata: expected a text, a number, a flag, or an array of texts, ints or"
                    + " floats for key " + key + ", got " + value.getClass().getSimpleName());
        }
    }

    private static long unsigned(String key, long number) {
        if (number < 0) {
            throw new IllegalArgumentException("metadata: expected 0 or more for key " + key + ", got " + number);
        }
        return number;
    }

    /** Little-endian numbers on a stream that would have them the other way round. */
    private record Little(DataOutputStream out) {
        void u32(int value) throws IOException {
            out.writeInt(Integer.reverseBytes(value));
        }

        void u64(long value) throws IOException {
            out.writeLong(Long.reverseBytes(value));
        }

        void string(String text) throws IOException {
            byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
            u64(bytes.length);
            out.write(bytes);
        }

        void array(GgufReader.ValueType type, long length) throws IOException {
            u32(GgufReader.ValueType.ARRAY.ordinal());
            u32(type.ordinal());
            u64(length);
        }
    }
}
