package io.puna.format;

import static io.puna.format.CheckpointException.quote;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import io.puna.tensor.DType;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * Parses safetensors:
 * <pre>
 *   u64 bytes of the header, little-endian
 *   header  {"__metadata__": {string: string}, name: {"dtype": …, "shape": […], "data_offsets": [begin, end]}, …}
 *   data    offsets count from here; the tensors cover it without hole or overlap
 * </pre>
 */
final class SafetensorsReader {
    static final int MAX_HEADER_BYTES = 100_000_000;

    private static final int MAX_RANK = 8;
    private static final ValueLayout.OfLong I64 = ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final Set<String> OTHER_DTYPES = Set.of("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F4", "F6_E2M3",
            "F6_E3M2", "I16", "U16", "I32", "U32", "F64", "I64", "U64", "C64");

    private record TensorInfo(String name, DType dtype, Shape shape, long begin, long end) {
    }

    /** What vector loads like best. */
    private static final long COPY_ALIGNMENT = 64;

    private final Path file;
    private final MemorySegment segment;
    private final Arena arena;
    private final Map<String, String> metadata;

    private SafetensorsReader(Path file, MemorySegment segment, Arena arena, Map<String, String> metadata) {
        this.file = file;
        this.segment = segment;
        this.arena = arena;
        this.metadata = metadata;
    }

    /**
     * {@return the tensors of a file's bytes by name, in the order of its header}
     *
     * @param file    the name for messages
     * @param segment the whole file, read-only native memory aligned to 8 bytes or more
     * @param arena   owns copies of tensors that are not aligned to their type: early writers did not pad the header, and then
     *                no tensor of the file can be used where it lies
     */
    static Map<String, Tensor> read(Path file, MemorySegment segment, Arena arena) throws CheckpointException {
        return read(file, segment, arena, new HashMap<>());
    }

    /**
     * {@return the tensors of a file's bytes as above}
     *
     * @param metadata the texts about them are added to it
     */
    static Map<String, Tensor> read(Path file, MemorySegment segment, Arena arena, Map<String, String> metadata)
            throws CheckpointException {
        SafetensorsReader reader = new SafetensorsReader(file, segment, arena, metadata);
        try {
            return reader.read();
        } catch (JsonProcessingException e) {
            throw Json.malformed(file, "the header", e);
        } catch (CheckpointException e) {
            throw e;
        } catch (IOException e) {
            throw new CheckpointException(file, "a readable header", "a failure: " + e.getMessage(), e);
        }
    }

    private Map<String, Tensor> read() throws IOException {
        if (segment.byteSize() < Long.BYTES) {
            throw new CheckpointException(file, "8 bytes for the length of the header", "a file of " + segment.byteSize());
        }
        long length = segment.get(I64, 0);
        if (length < 0 || length > MAX_HEADER_BYTES) {
            throw new CheckpointException(file, "a header of at most " + MAX_HEADER_BYTES + " bytes", Long.toUnsignedString(length));
        }
        if (length > segment.byteSize() - Long.BYTES) {
            throw new CheckpointException(file, "a header of " + length + " bytes",
                    "the end of the file after " + (segment.byteSize() - Long.BYTES));
        }
        byte[] bytes = segment.asSlice(Long.BYTES, length).toArray(ValueLayout.JAVA_BYTE);
        List<TensorInfo> infos = header(bytes);
        long dataStart = Long.BYTES + length;
        requireCover(infos, segment.byteSize() - dataStart);
        return tensors(infos, dataStart);
    }

    private List<TensorInfo> header(byte[] bytes) throws IOException {
        if (bytes.length == 0 || bytes[0] != '{') {
            throw new CheckpointException(file, "the header to begin with {",
                    bytes.length == 0 ? "an empty header" : String.format("byte 0x%02x", bytes[0]));
        }
        List<TensorInfo> infos = new ArrayList<>();
        try (JsonParser parser = Json.parser(file, "the header", bytes)) {
            for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
                if (name.equals("__metadata__")) {
                    readMetadata(parser);
                } else if (infos.size() == GgufReader.MAX_TENSORS) {
                    throw new CheckpointException(file, "at most " + GgufReader.MAX_TENSORS + " tensors", "more");
                } else {
                    infos.add(tensorInfo(parser, name));
                }
            }
            Json.requireEnd(file, "the header", parser);
        }
        return infos;
    }

    private void readMetadata(JsonParser parser) throws IOException {
        require(parser, parser.nextToken(), JsonToken.START_OBJECT, "__metadata__ to be an object");
        for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
            require(parser, parser.nextToken(), JsonToken.VALUE_STRING, "the values of __metadata__ to be strings");
            metadata.put(name, parser.getText());
        }
    }

    private TensorInfo tensorInfo(JsonParser parser, String name) throws IOException {
        String tensor = "tensor " + quote(name);
        require(parser, parser.nextToken(), JsonToken.START_OBJECT, tensor + " to be an object");
        String type = null;
        long[] dims = null;
        long[] offsets = null;
        for (String member = parser.nextFieldName(); member != null; member = parser.nextFieldName()) {
            switch (member) {
                case "dtype" -> {
                    require(parser, parser.nextToken(), JsonToken.VALUE_STRING, "the dtype of " + tensor + " to be a string");
                    type = parser.getText();
                }
                case "shape" -> dims = integers(parser, "the shape of " + tensor, MAX_RANK);
                case "data_offsets" -> offsets = integers(parser, "the data_offsets of " + tensor, 2);
                default -> throw new CheckpointException(file, tensor + " to have dtype, shape and data_offsets", quote(member));
            }
        }
        if (type == null || dims == null || offsets == null || offsets.length != 2) {
            throw new CheckpointException(file, tensor + " to have dtype, shape and two data_offsets",
                    type == null ? "no dtype" : dims == null ? "no shape" : offsets == null ? "no data_offsets" : offsets.length + " data_offsets");
        }
        return checked(name, dtype(name, type), dims, offsets);
    }

    private long[] integers(JsonParser parser, String what, int limit) throws IOException {
        require(parser, parser.nextToken(), JsonToken.START_ARRAY, what + " to be an array");
        long[] values = new long[limit];
        int count = 0;
        while (parser.nextToken() != JsonToken.END_ARRAY) {
            require(parser, parser.currentToken(), JsonToken.VALUE_NUMBER_INT, what + " to hold integers");
            if (count == limit) {
                throw new CheckpointException(file, what + " to hold at most " + limit + " integers", "more");
            }
            values[count] = parser.getLongValue();
            if (values[count] < 0) {
                throw new CheckpointException(file, what + " to hold no negative number", Long.toString(values[count]));
            }
            count++;
        }
        return Arrays.copyOf(values, count);
    }

    private DType dtype(String name, String type) throws CheckpointException {
        return switch (type) {
            case "F32" -> DType.F32;
            case "F16" -> DType.F16;
            case "BF16" -> DType.BF16;
            default -> {
                String expected = "tensor " + quote(name) + " to be F32, F16 or BF16";
                throw OTHER_DTYPES.contains(type) ? new UnsupportedModelException(file, expected, type)
                        : new CheckpointException(file, expected, "the unknown dtype " + quote(type));
            }
        };
    }

    private TensorInfo checked(String name, DType dtype, long[] dims, long[] offsets) throws CheckpointException {
        String tensor = "tensor " + quote(name);
        if (offsets[0] > offsets[1]) {
            throw new CheckpointException(file, "the data_offsets of " + tensor + " to ascend", Arrays.toString(offsets));
        }
        Shape shape;
        long bytes;
        try {
            shape = Shape.of(dims);
            bytes = dtype.bytes(shape.elements());
        } catch (IllegalArgumentException | ArithmeticException e) {
            throw new CheckpointException(file, tensor + " to have less than 2^63 bytes", dtype + " " + Arrays.toString(dims), e);
        }
        if (bytes != offsets[1] - offsets[0]) {
            throw new CheckpointException(file, tensor + " to have " + bytes + " bytes as " + dtype + " " + shape,
                    (offsets[1] - offsets[0]) + " bytes of data_offsets");
        }
        return new TensorInfo(name, dtype, shape, offsets[0], offsets[1]);
    }

    /** Holes are refused like overlaps: what is hidden there is nobody's tensor, and a correct writer leaves none. */
    private void requireCover(List<TensorInfo> infos, long dataBytes) throws CheckpointException {
        TensorInfo[] sorted = infos.toArray(TensorInfo[]::new);
        Arrays.sort(sorted, (a, b) -> a.begin != b.begin ? Long.compare(a.begin, b.begin) : Long.compare(a.end, b.end));
        long covered = 0;
        TensorInfo last = null;
        for (TensorInfo info : sorted) {
            if (info.begin != covered) {
                throw new CheckpointException(file, "tensor " + quote(info.name) + " to begin at offset " + covered + ", where "
                        + (last == null ? "the data begins" : quote(last.name) + " ends"), "offset " + info.begin
                        + (info.begin < covered ? ", an overlap" : ", a hole"));
            }
            covered = info.end;
            last = info;
        }
        if (covered > dataBytes) {
            throw new CheckpointException(file, "data of " + covered + " bytes for tensors up to " + quote(nameOf(last)),
                    "the end of the file after " + dataBytes);
        }
        if (covered < dataBytes) {
            throw new CheckpointException(file, "the tensors to cover all data", (dataBytes - covered) + " bytes after the last tensor");
        }
    }

    private static String nameOf(@Nullable TensorInfo info) {
        return info == null ? "" : info.name;
    }

    private Map<String, Tensor> tensors(List<TensorInfo> infos, long dataStart) {
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        for (TensorInfo info : infos) {
            MemorySegment view = segment.asSlice(dataStart + info.begin, info.end - info.begin);
            if (view.address() % info.dtype.alignment() != 0) {
                view = arena.allocate(view.byteSize(), COPY_ALIGNMENT).copyFrom(view).asReadOnly();
            }
            tensors.put(info.name, Tensor.of(view, info.dtype, info.shape));
        }
        return Collections.unmodifiableMap(tensors);
    }

    private void require(JsonParser parser, @Nullable JsonToken token, JsonToken expected, String what) throws IOException {
        if (token != expected) {
            throw new CheckpointException(file, what, Json.found(parser));
        }
    }
}
