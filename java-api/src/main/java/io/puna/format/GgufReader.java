package io.puna.format;

import static io.puna.format.CheckpointException.quote;

import io.puna.tensor.DType;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Parses GGUF, versions 2 and 3, little-endian:
 * <pre>
 *   "GGUF"  u32 version  u64 tensors  u64 keys
 *   keys    × { string key, u32 type, value }                                string: u64 bytes, UTF-8
 *   tensors × { string name, u32 rank, u64 dims[rank], u32 type, u64 offset }      dims innermost first
 *   padding to general.alignment (32 unless set), then the data; offsets count from there
 * </pre>
 */
final class GgufReader {
    static final int MAX_HEADER_BYTES = 100_000_000;
    static final int MAX_KEYS = 1 << 16;
    static final int MAX_TENSORS = 1 << 16;
    static final int MAX_ARRAY_ELEMENTS = 1 << 22;

    static final int MAX_RANK = 4;
    private static final int MAX_ARRAY_DEPTH = 4;
    private static final long DEFAULT_ALIGNMENT = 32;

    /** Types of metadata values, at their number in the file, with the least bytes that a value takes. */
    enum ValueType {
        UINT8(1), INT8(1), UINT16(2), INT16(2), UINT32(4), INT32(4), FLOAT32(4), BOOL(1), STRING(8), ARRAY(12), UINT64(8), INT64(8),
        FLOAT64(8);

        private static final ValueType[] BY_NUMBER = values();
        private final int minimumBytes;

        ValueType(int minimumBytes) {
            this.minimumBytes = minimumBytes;
        }
    }

    /** Every number of a tensor type that was ever given out, by its name in the format. */
    private static final Map<Integer, String> TENSOR_TYPES = Map.ofEntries(
            Map.entry(0, "F32"), Map.entry(1, "F16"), Map.entry(2, "Q4_0"), Map.entry(3, "Q4_1"), Map.entry(6, "Q5_0"),
            Map.entry(7, "Q5_1"), Map.entry(8, "Q8_0"), Map.entry(9, "Q8_1"), Map.entry(10, "Q2_K"), Map.entry(11, "Q3_K"),
            Map.entry(12, "Q4_K"), Map.entry(13, "Q5_K"), Map.entry(14, "Q6_K"), Map.entry(15, "Q8_K"), Map.entry(16, "IQ2_XXS"),
            Map.entry(17, "IQ2_XS"), Map.entry(18, "IQ3_XXS"), Map.entry(19, "IQ1_S"), Map.entry(20, "IQ4_NL"),
            Map.entry(21, "IQ3_S"), Map.entry(22, "IQ2_S"), Map.entry(23, "IQ4_XS"), Map.entry(24, "I8"), Map.entry(25, "I16"),
            Map.entry(26, "I32"), Map.entry(27, "I64"), Map.entry(28, "F64"), Map.entry(29, "IQ1_M"), Map.entry(30, "BF16"),
            Map.entry(31, "Q4_0_4_4"), Map.entry(32, "Q4_0_4_8"), Map.entry(33, "Q4_0_8_8"), Map.entry(34, "TQ1_0"),
            Map.entry(35, "TQ2_0"), Map.entry(36, "IQ4_NL_4_4"), Map.entry(37, "IQ4_NL_4_8"), Map.entry(38, "IQ4_NL_8_8"),
            Map.entry(39, "MXFP4"));

    /** What a file holds. */
    record Contents(int version, Map<String, Object> metadata, Map<String, Tensor> tensors) {
    }

    private final Path file;
    private final MemorySegment segment;
    private final ByteBuffer header; // the header and, since its length is known only at its end, what follows, up to the limit
    private int position;
    private int arrayElements;
    private byte[] scratch = new byte[256];

    private GgufReader(Path file, MemorySegment segment) {
        this.file = file;
        this.segment = segment;
        this.header = segment.asSlice(0, Math.min(segment.byteSize(), MAX_HEADER_BYTES)).asByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
    }

    /**
     * {@return the metadata and tensors of a file's bytes}
     *
     * @param file    the name for messages
     * @param segment the whole file, read-only native memory aligned to 8 bytes or more
     */
    static Contents read(Path file, MemorySegment segment) throws CheckpointException {
        return new GgufReader(file, segment).read();
    }

    private Contents read() throws CheckpointException {
        int magic = i32("the magic");
        if (magic != 0x46554747) {
            throw new CheckpointException(file, "the magic \"GGUF\"", String.format("bytes 0x%08x", Integer.reverseBytes(magic)));
        }
        int version = version();
        int tensorCount = count("tensors", MAX_TENSORS);
        int keyCount = count("keys", MAX_KEYS);
        Map<String, Object> metadata = metadata(keyCount);
        requireWhole(metadata);
        List<TensorInfo> infos = tensorInfos(tensorCount);
        return new Contents(version, metadata, tensors(infos, alignment(metadata)));
    }

    private int version() throws CheckpointException {
        int version = i32("the version");
        if (version == 2 || version == 3) {
            return version;
        }
        String expected = "GGUF version 2 or 3, little-endian";
        if (version == 1) {
            throw new UnsupportedModelException(file, expected, "version 1; convert the model again with a current llama.cpp");
        }
        if (version != 0 && (version & 0xffff) == 0) { // no real version needs more than 16 bits, so these are its bytes reversed
            throw new UnsupportedModelException(file, expected, "a big-endian file of version " + Integer.reverseBytes(version));
        }
        throw new UnsupportedModelException(file, expected, "version " + Integer.toUnsignedString(version));
    }

    private int count(String what, int limit) throws CheckpointException {
        long count = i64("the number of " + what);
        if (count < 0 || count > limit) {
            throw new CheckpointException(file, "at most " + limit + " " + what, Long.toUnsignedString(count));
        }
        return (int) count;
    }

    private Map<String, Object> metadata(int count) throws CheckpointException {
        Map<String, Object> metadata = new LinkedHashMap<>();
        for (int i = 0; i < count; i++) {
            String key = string("a key");
            if (metadata.put(key, value(key, valueType(key), 0)) != null) {
                throw new CheckpointException(file, "distinct keys", quote(key) + " twice");
            }
        }
        return Collections.unmodifiableMap(metadata);
    }

    private ValueType valueType(String key) throws CheckpointException {
        int number = i32("a value's type");
        if (number < 0 || number >= ValueType.BY_NUMBER.length) {
            throw new CheckpointException(file, "a value type of 0 to " + (ValueType.BY_NUMBER.length - 1) + " for key " + quote(key),
                    Integer.toUnsignedString(number));
        }
        return ValueType.BY_NUMBER[number];
    }

    private Object value(String key, ValueType type, int depth) throws CheckpointException {
        return switch (type) {
            case UINT8 -> (long) Byte.toUnsignedInt(i8("a value"));
            case INT8 -> (long) i8("a value");
            case UINT16 -> (long) Short.toUnsignedInt(i16("a value"));
            case INT16 -> (long) i16("a value");
            case UINT32 -> Integer.toUnsignedLong(i32("a value"));
            case INT32 -> (long) i32("a value");
            case FLOAT32 -> (double) header.getFloat(advance(Float.BYTES, "a value"));
            case BOOL -> bool(key);
            case STRING -> string("a string value");
            case ARRAY -> array(key, depth + 1);
            case UINT64 -> unsigned(i64("a value"), "the value of key", key);
            case INT64 -> i64("a value");
            case FLOAT64 -> header.getDouble(advance(Double.BYTES, "a value"));
        };
    }

    private boolean bool(String key) throws CheckpointException {
        byte value = i8("a value");
        if (value != 0 && value != 1) {
            throw new CheckpointException(file, "0 or 1 for the bool of key " + quote(key), Integer.toString(Byte.toUnsignedInt(value)));
        }
        return value == 1;
    }

    private List<Object> array(String key, int depth) throws CheckpointException {
        if (depth > MAX_ARRAY_DEPTH) {
            throw new CheckpointException(file, "arrays nested at most " + MAX_ARRAY_DEPTH + " deep for key " + quote(key), "more");
        }
        ValueType type = valueType(key);
        long count = i64("an array's length");
        if (count < 0 || count > (header.limit() - position) / type.minimumBytes) {
            throw new CheckpointException(file, "an array that ends inside the header for key " + quote(key),
                    Long.toUnsignedString(count) + " elements of " + type + " at byte " + position + " of " + header.limit());
        }
        if (count > MAX_ARRAY_ELEMENTS - arrayElements) {
            throw new CheckpointException(file, "at most " + MAX_ARRAY_ELEMENTS + " elements in all arrays",
                    count + " more for key " + quote(key));
        }
        arrayElements += (int) count;
        Object[] values = new Object[(int) count];
        for (int i = 0; i < values.length; i++) {
            values[i] = value(key, type, depth);
        }
        return Collections.unmodifiableList(Arrays.asList(values));
    }

    /** A model split over several files has its keys in the first one, which alone would look like a model with tensors missing. */
    private void requireWhole(Map<String, Object> metadata) throws CheckpointException {
        if (metadata.get("split.count") instanceof Long parts && parts > 1) {
            throw new UnsupportedModelException(file, "a model in one file",
                    "one of " + parts + " parts; join them with llama-gguf-split --merge");
        }
    }

    private long alignment(Map<String, Object> metadata) throws CheckpointException {
        Object alignment = metadata.getOrDefault("general.alignment", DEFAULT_ALIGNMENT);
        if (alignment instanceof Long bytes && bytes > 0 && bytes % 8 == 0 && bytes <= Integer.MAX_VALUE) {
            return bytes;
        }
        throw new CheckpointException(file, "general.alignment to be a positive multiple of 8",
                alignment instanceof String text ? quote(text) : alignment instanceof List<?> ? "an array" : alignment.toString());
    }

    private record TensorInfo(String name, DType dtype, Shape shape, long offset, long bytes) {
    }

    private List<TensorInfo> tensorInfos(int count) throws CheckpointException {
        List<TensorInfo> infos = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            String name = string("a tensor's name");
            Shape shape = shape(name);
            DType dtype = dtype(name);
            long offset = unsigned(i64("a tensor's offset"), "the offset of tensor", name);
            if (shape.columns() % dtype.blockElements() != 0) {
                throw new CheckpointException(file, "tensor " + quote(name) + " to have rows of whole " + dtype + " blocks of "
                        + dtype.blockElements() + " elements", shape.toString());
            }
            try {
                infos.add(new TensorInfo(name, dtype, shape, offset, dtype.bytes(shape.elements())));
            } catch (ArithmeticException e) {
                throw new CheckpointException(file, "tensor " + quote(name) + " to have less than 2^63 bytes", dtype + " " + shape, e);
            }
        }
        return infos;
    }

    private Shape shape(String name) throws CheckpointException {
        int rank = i32("a tensor's rank");
        if (rank < 1 || rank > MAX_RANK) {
            throw new CheckpointException(file, "tensor " + quote(name) + " to have 1 to " + MAX_RANK + " dimensions",
                    Integer.toUnsignedString(rank));
        }
        long[] dims = new long[rank];
        for (int i = rank - 1; i >= 0; i--) {
            dims[i] = i64("a tensor's dimension");
        }
        try {
            Shape shape = Shape.of(dims);
            if (shape.elements() > 0) {
                return shape;
            }
        } catch (IllegalArgumentException e) {
            throw new CheckpointException(file, "tensor " + quote(name) + " to have positive dimensions and less than 2^63 elements",
                    Arrays.toString(dims), e);
        }
        throw new CheckpointException(file, "tensor " + quote(name) + " to have positive dimensions", Arrays.toString(dims));
    }

    private DType dtype(String name) throws CheckpointException {
        int number = i32("a tensor's type");
        DType dtype = switch (number) {
            case 0 -> DType.F32;
            case 1 -> DType.F16;
            case 2 -> DType.Q4_0;
            case 8 -> DType.Q8_0;
            case 12 -> DType.Q4_K;
            case 14 -> DType.Q6_K;
            case 30 -> DType.BF16;
            default -> null;
        };
        if (dtype != null) {
            return dtype;
        }
        String type = TENSOR_TYPES.get(number);
        if (type == null) {
            throw new CheckpointException(file, "a known type for tensor " + quote(name), "type number " + Integer.toUnsignedString(number));
        }
        throw new UnsupportedModelException(file, "tensor " + quote(name) + " to be F32, F16, BF16, Q8_0, Q4_0, Q4_K or Q6_K", type);
    }

    private Map<String, Tensor> tensors(List<TensorInfo> infos, long alignment) throws CheckpointException {
        long dataStart = (position + alignment - 1) / alignment * alignment;
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        for (TensorInfo info : infos) {
            if (info.offset % alignment != 0) {
                throw new CheckpointException(file, "the offset of tensor " + quote(info.name) + " to be a multiple of the alignment "
                        + alignment, Long.toString(info.offset));
            }
            long available = segment.byteSize() - dataStart;
            if (info.offset > available || info.bytes > available - info.offset) {
                throw new CheckpointException(file, "tensor " + quote(info.name) + " to end inside the file",
                        info.bytes + " bytes at offset " + info.offset + " of " + Math.max(0, available) + " bytes of data");
            }
            Tensor view = Tensor.of(segment.asSlice(dataStart + info.offset, info.bytes), info.dtype, info.shape);
            if (tensors.put(info.name, view) != null) {
                throw new CheckpointException(file, "distinct tensor names", quote(info.name) + " twice");
            }
        }
        requireDisjoint(infos);
        return Collections.unmodifiableMap(tensors);
    }

    private void requireDisjoint(List<TensorInfo> infos) throws CheckpointException {
        TensorInfo[] sorted = infos.toArray(TensorInfo[]::new);
        Arrays.sort(sorted, (a, b) -> Long.compare(a.offset, b.offset));
        for (int i = 1; i < sorted.length; i++) {
            TensorInfo before = sorted[i - 1];
            if (before.offset + before.bytes > sorted[i].offset) {
                throw new CheckpointException(file, "tensors that do not overlap", quote(before.name) + " at offset " + before.offset
                        + " with " + before.bytes + " bytes and " + quote(sorted[i].name) + " at offset " + sorted[i].offset);
            }
        }
    }

    private long unsigned(long value, String what, String name) throws CheckpointException {
        if (value < 0) {
            throw new CheckpointException(file, what + " " + quote(name) + " to be below 2^63", Long.toUnsignedString(value));
        }
        return value;
    }

    private String string(String what) throws CheckpointException {
        long length = i64("the length of " + what);
        if (length < 0 || length > header.limit() - position) {
            throw new CheckpointException(file, what + " that ends inside the header",
                    Long.toUnsignedString(length) + " bytes at byte " + position + " of " + header.limit());
        }
        int bytes = (int) length;
        if (bytes > scratch.length) {
            scratch = new byte[bytes];
        }
        header.get(position, scratch, 0, bytes);
        try {
            String text = Utf8.decode(scratch, bytes);
            position += bytes;
            return text;
        } catch (CharacterCodingException e) {
            throw new CheckpointException(file, what + " in UTF-8", "malformed bytes in the " + bytes + " from byte " + position, e);
        }
    }

    private byte i8(String what) throws CheckpointException {
        return header.get(advance(Byte.BYTES, what));
    }

    private short i16(String what) throws CheckpointException {
        return header.getShort(advance(Short.BYTES, what));
    }

    private int i32(String what) throws CheckpointException {
        return header.getInt(advance(Integer.BYTES, what));
    }

    private long i64(String what) throws CheckpointException {
        return header.getLong(advance(Long.BYTES, what));
    }

    /** {@return the position of the next few bytes, which are there} */
    private int advance(int bytes, String what) throws CheckpointException {
        int at = position;
        if (bytes > header.limit() - at) {
            String end = header.limit() < segment.byteSize() ? "the header's limit" : "the end of the file";
            throw new CheckpointException(file, bytes + " bytes for " + what + " at byte " + at,
                    end + " at byte " + header.limit());
        }
        position = at + bytes;
        return at;
    }
}
