package io.puna.format;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.Random;

/** Random damage to files, and memory to read the outcome from as a memory map would hold it. */
final class Damage {
    private static final long[] NASTY = {0, 1, -1, 7, 255, 256, Integer.MAX_VALUE, Integer.MIN_VALUE, Long.MAX_VALUE, Long.MIN_VALUE, 1L << 32,
        1L << 61, 1L << 62, 0xffffffffL};

    private Damage() {
    }

    /** {@return a copy with up to four flipped, overwritten, inserted or removed pieces, most of them among the first {@code header} bytes} */
    static byte[] some(byte[] sound, int header, Random random) {
        byte[] bytes = sound.clone();
        for (int i = random.nextInt(4); i >= 0 && bytes.length > 8; i--) {
            int at = random.nextInt(Math.min(bytes.length, random.nextInt(8) == 0 ? Integer.MAX_VALUE : header));
            switch (random.nextInt(6)) {
                case 0 -> bytes[at] ^= (byte) (1 << random.nextInt(8));
                case 1 -> bytes[at] = (byte) random.nextInt(256);
                case 2 -> {
                    byte[] value = new Bytes().u64(NASTY[random.nextInt(NASTY.length)]).toArray();
                    int width = random.nextBoolean() ? 4 : 8;
                    System.arraycopy(value, 0, bytes, at, Math.min(width, bytes.length - at));
                }
                case 3 -> bytes = Arrays.copyOf(bytes, at);
                case 4 -> {
                    int length = Math.min(random.nextInt(16), bytes.length - at);
                    bytes = new Bytes().raw(Arrays.copyOf(bytes, at)).raw(Arrays.copyOfRange(bytes, at + length, bytes.length)).toArray();
                }
                default -> {
                    byte[] repeated = Arrays.copyOfRange(bytes, at, Math.min(bytes.length, at + random.nextInt(64)));
                    bytes = new Bytes().raw(Arrays.copyOf(bytes, at)).raw(repeated).raw(Arrays.copyOfRange(bytes, at, bytes.length)).toArray();
                }
            }
        }
        return bytes;
    }

    /** {@return read-only native memory that holds the bytes} */
    static MemorySegment mapped(Arena arena, byte[] bytes) {
        MemorySegment segment = arena.allocate(bytes.length, 64);
        MemorySegment.copy(bytes, 0, segment, ValueLayout.JAVA_BYTE, 0, bytes.length);
        return segment.asReadOnly();
    }

    /** Reads the first and last byte, which a view out of bounds would not survive. */
    static void touch(MemorySegment segment) {
        if (segment.byteSize() > 0) {
            segment.get(ValueLayout.JAVA_BYTE, 0);
            segment.get(ValueLayout.JAVA_BYTE, segment.byteSize() - 1);
        }
    }
}
