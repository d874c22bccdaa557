package io.puna.format;

import java.util.function.Consumer;

/** Writes small GGUF files, sound ones and, since every number can be chosen, unsound ones. */
final class GgufBytes {
    static final int UINT8 = 0;
    static final int INT8 = 1;
    static final int UINT16 = 2;
    static final int INT16 = 3;
    static final int UINT32 = 4;
    static final int INT32 = 5;
    static final int FLOAT32 = 6;
    static final int BOOL = 7;
    static final int STRING = 8;
    static final int ARRAY = 9;
    static final int UINT64 = 10;
    static final int INT64 = 11;
    static final int FLOAT64 = 12;

    static final int F32 = 0;
    static final int F16 = 1;
    static final int Q4_0 = 2;
    static final int Q8_0 = 8;
    static final int Q4_K = 12;
    static final int Q6_K = 14;
    static final int BF16 = 30;

    private final Bytes keys = new Bytes();
    private final Bytes infos = new Bytes();
    private final Bytes data = new Bytes();
    private int keyCount;
    private int tensorCount;
    private int version = 3;
    private int alignment = 32;

    GgufBytes version(int number) {
        version = number;
        return this;
    }

    /** Aligns the data; {@code general.alignment} is set by {@link #key}, rightly or wrongly. */
    GgufBytes alignment(int bytes) {
        alignment = bytes;
        return this;
    }

    GgufBytes key(String name, int type, Consumer<Bytes> value) {
        keys.string(name).u32(type);
        value.accept(keys);
        keyCount++;
        return this;
    }

    GgufBytes string(String name, String value) {
        return key(name, STRING, b -> b.string(value));
    }

    GgufBytes uint32(String name, long value) {
        return key(name, UINT32, b -> b.u32(value));
    }

    /** A tensor's entry as given, with no data. Dimensions innermost first. */
    GgufBytes info(String name, int type, long offset, long... dims) {
        infos.string(name).u32(dims.length);
        for (long dim : dims) {
            infos.u64(dim);
        }
        infos.u32(type).u64(offset);
        tensorCount++;
        return this;
    }

    /** A tensor whose data come next. Dimensions innermost first. */
    GgufBytes tensor(String name, int type, byte[] bytes, long... dims) {
        data.zeros(padding(data.size()));
        info(name, type, data.size(), dims);
        data.raw(bytes);
        return this;
    }

    GgufBytes data(int zeros) {
        data.zeros(zeros);
        return this;
    }

    /** Everything before the data, padding included. */
    byte[] header() {
        Bytes header = new Bytes().text("GGUF").u32(version).u64(tensorCount).u64(keyCount).raw(keys.toArray()).raw(infos.toArray());
        return header.zeros(padding(header.size())).toArray();
    }

    byte[] toArray() {
        return new Bytes().raw(header()).raw(data.toArray()).toArray();
    }

    private int padding(int size) {
        return (alignment - size % alignment) % alignment;
    }

    /** A small sound file with every type of value and every element type. */
    static GgufBytes sample() {
        return new GgufBytes()
                .string("general.architecture", "llama")
                .key("a.uint8", UINT8, b -> b.u8(255))
                .key("a.int8", INT8, b -> b.u8(-1))
                .key("a.uint16", UINT16, b -> b.u16(65535))
                .key("a.int16", INT16, b -> b.u16(-2))
                .uint32("a.uint32", 0xffffffffL)
                .key("a.int32", INT32, b -> b.u32(-3))
                .key("a.float32", FLOAT32, b -> b.f32(0.5f))
                .key("a.bool", BOOL, b -> b.u8(1))
                .key("a.uint64", UINT64, b -> b.u64(Long.MAX_VALUE))
                .key("a.int64", INT64, b -> b.u64(-4))
                .key("a.float64", FLOAT64, b -> b.f64(1e-5))
                .key("a.strings", ARRAY, b -> b.u32(STRING).u64(3).string("").string("▁été").string("\uFFFD"))
                .key("a.nested", ARRAY, b -> b.u32(ARRAY).u64(2).u32(INT32).u64(2).u32(1).u32(2).u32(BOOL).u64(1).u8(0))
                .key("a.empty", ARRAY, b -> b.u32(UINT32).u64(0))
                .tensor("f32", F32, Bytes.floats(1, 2, 3, 4, 5, 6), 3, 2)
                .tensor("f16", F16, new byte[8], 4)
                .tensor("bf16", BF16, new byte[8], 2, 1, 2)
                .tensor("q8_0", Q8_0, new byte[68], 32, 2)
                .tensor("q4_0", Q4_0, new byte[18], 32)
                .tensor("q4_k", Q4_K, new byte[144], 256, 1)
                .tensor("q6_k", Q6_K, new byte[420], 256, 1, 1, 2);
    }
}
