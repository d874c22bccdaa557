package io.puna.format;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;

/** Little-endian bytes, one after another. */
final class Bytes {
    private final ByteArrayOutputStream out = new ByteArrayOutputStream();

    Bytes u8(int value) {
        out.write(value);
        return this;
    }

    Bytes u16(int value) {
        return raw(ByteBuffer.allocate(2).order(ByteOrder.LITTLE_ENDIAN).putShort((short) value).array());
    }

    Bytes u32(long value) {
        return raw(ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt((int) value).array());
    }

    Bytes u64(long value) {
        return raw(ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(value).array());
    }

    Bytes f32(float value) {
        return u32(Float.floatToRawIntBits(value));
    }

    Bytes f64(double value) {
        return u64(Double.doubleToRawLongBits(value));
    }

    /** A GGUF string: its length and its bytes. */
    Bytes string(String text) {
        return string(text.getBytes(StandardCharsets.UTF_8));
    }

    Bytes string(byte[] text) {
        return u64(text.length).raw(text);
    }

    Bytes raw(byte[] bytes) {
        out.writeBytes(bytes);
        return this;
    }

    Bytes text(String text) {
        return raw(text.getBytes(StandardCharsets.UTF_8));
    }

    Bytes zeros(int count) {
        return raw(new byte[count]);
    }

    int size() {
        return out.size();
    }

    byte[] toArray() {
        return out.toByteArray();
    }

    /** The little-endian bytes of floats. */
    static byte[] floats(float... values) {
        Bytes bytes = new Bytes();
        for (float value : values) {
            bytes.f32(value);
        }
        return bytes.toArray();
    }
}
