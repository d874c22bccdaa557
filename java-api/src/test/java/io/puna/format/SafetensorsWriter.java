package io.puna.format;

import java.util.Arrays;
import java.util.stream.Collectors;

/** Writes small safetensors files, and files with any header. */
final class SafetensorsWriter {
    private final StringBuilder entries = new StringBuilder("\"__metadata__\":{\"format\":\"pt\"}");
    private final Bytes data = new Bytes();

    SafetensorsWriter tensor(String name, String dtype, byte[] bytes, long... shape) {
        entries.append(",\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%d,%d]}".formatted(name, dtype,
                Arrays.stream(shape).mapToObj(Long::toString).collect(Collectors.joining(",", "[", "]")),
                data.size(), data.size() + bytes.length));
        data.raw(bytes);
        return this;
    }

    byte[] toArray() {
        return file("{" + entries + "}", data.toArray());
    }

    /** A file of this header, padded to 8 bytes as writers do, and this data. */
    static byte[] file(String header, byte[] data) {
        Bytes text = new Bytes().text(header);
        while (text.size() % 8 != 0) {
            text.text(" ");
        }
        return new Bytes().u64(text.size()).raw(text.toArray()).raw(data).toArray();
    }

    /** A small sound file with every dtype, a scalar and an empty tensor. */
    static SafetensorsWriter sample() {
        return new SafetensorsWriter()
                .tensor("f32", "F32", Bytes.floats(1, 2, 3, 4, 5, 6), 2, 3)
                .tensor("f16", "F16", new byte[8], 4)
                .tensor("scalar", "F32", Bytes.floats(7))
                .tensor("empty", "F32", new byte[0], 0, 5)
                .tensor("bf16", "BF16", new byte[12], 1, 2, 3);
    }
}
