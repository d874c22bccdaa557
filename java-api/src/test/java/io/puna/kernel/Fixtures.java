package io.puna.kernel;

import static org.assertj.core.api.Assertions.fail;

import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;

/** Devices and tensors that the tests of operations share, and a plain-Java decoder of every weight type. */
final class Fixtures {
    /** What the gaps of strided tensors hold: an input's poisons a sum that reads it, an output's must be found again. */
    private static final float GAP = Float.NaN;

    /** A CPU device to be. */
    record Cpu(Device.Isa isa, int threads) {
        Device open() {
            return Device.cpu(threads, isa);
        }
    }

    private Fixtures() {
    }

    /** {@return devices of every instruction set this processor has, alone and with helpers} The reference runs alone in any case. */
    static List<Cpu> cpus() {
        List<Cpu> cpus = new ArrayList<>(List.of(new Cpu(Device.Isa.REFERENCE, 1)));
        for (Device.Isa isa : List.of(Device.Isa.BASELINE, Device.Isa.AVX2, Device.Isa.AVX512, Device.Isa.DOTPROD)) {
            try {
                Device.cpu(1, isa).close();
            } catch (UnsupportedOperationException e) {
                if (isa == Device.Isa.BASELINE) {
                    throw e;
                }
                continue;
            }
            cpus.add(new Cpu(isa, 1));
            cpus.add(new Cpu(isa, 3));
        }
        return cpus;
    }

    /** {@return (rows, columns) F32 of -1 to 1} */
    static Tensor random(Arena arena, Random random, long rows, long columns) {
        return strided(arena, random, rows, columns, 0);
    }

    /** {@return (rows, columns) F32 of -1 to 1, some columns of rows that are wider by gap} */
    static Tensor strided(Arena arena, Random random, long rows, long columns, long gap) {
        Tensor whole = Tensor.allocate(arena, DType.F32, Shape.of(rows, columns + gap));
        for (long i = 0; i < rows * (columns + gap); i++) {
            whole.segment().setAtIndex(ValueLayout.JAVA_FLOAT, i, GAP);
        }
        Tensor view = whole.columns(gap / 2, columns);
        for (long row = 0; row < rows; row++) {
            for (long column = 0; column < columns; column++) {
                set(view, row, column, random.nextFloat() * 2 - 1);
            }
        }
        return view;
    }

    static void set(Tensor tensor, long row, long column, float value) {
        tensor.segment().setAtIndex(ValueLayout.JAVA_FLOAT, row * tensor.rowStride() + column, value);
    }

    /** {@return whether whatever lies between the rows of a strided tensor is as {@link #strided} left it} */
    static boolean gapsAreUntouched(Tensor tensor) {
        for (long row = 0; row + 1 < tensor.shape().rows(); row++) {
            for (long i = tensor.shape().columns(); i < tensor.rowStride(); i++) {
                float value = tensor.segment().getAtIndex(ValueLayout.JAVA_FLOAT, row * tensor.rowStride() + i);
                if (Float.floatToRawIntBits(value) != Float.floatToRawIntBits(GAP)) {
                    return false;
                }
            }
        }
        return true;
    }

    /** Fails unless actual is within tolerance of expected. Made for millions of elements: it says where only when it fails. */
    static void assertClose(double actual, double expected, double tolerance, int... index) {
        if (!(Math.abs(actual - expected) <= tolerance)) {
            fail("at " + Arrays.toString(index) + ": expected " + expected + " within " + tolerance + ", got " + actual);
        }
    }

    static double[][] values(Tensor tensor) {
        int rows = (int) tensor.shape().rows();
        int columns = (int) tensor.shape().columns();
        double[][] values = new double[rows][columns];
        for (int row = 0; row < rows; row++) {
            for (int column = 0; column < columns; column++) {
                values[row][column] = tensor.getFloat(row, column);
            }
        }
        return values;
    }

    /** {@return (rows, columns) of any weight type: random bits, the scales of blocks and plain elements of sane size} */
    static Tensor weight(Arena arena, Random random, DType dtype, long rows, long columns) {
        Tensor tensor = Tensor.allocate(arena, dtype, Shape.of(rows, columns));
        byte[] bits = new byte[(int) tensor.byteSize()];
        random.nextBytes(bits);
        MemorySegment memory = tensor.segment();
        MemorySegment.copy(bits, 0, memory, ValueLayout.JAVA_BYTE, 0, bits.length);
        for (long block = 0; block < memory.byteSize(); block += dtype.blockBytes()) {
            switch (dtype) {
                case F32 -> memory.set(ValueLayout.JAVA_FLOAT_UNALIGNED, block, random.nextFloat() - 0.5f);
                case BF16 -> memory.set(ValueLayout.JAVA_SHORT_UNALIGNED, block,
                        (short) (Float.floatToRawIntBits(random.nextFloat() - 0.5f) >>> 16));
                case F16, Q8_0, Q4_0 -> half(memory, block, random);
                case Q4_K -> {
                    half(memory, block, random);
                    half(memory, block + 2, random);
                }
                case Q6_K -> half(memory, block + 208, random);
                case I32 -> throw new IllegalArgumentException("I32 is no weight");
            }
        }
        return tensor;
    }

    private static void half(MemorySegment memory, long offset, Random random) {
        memory.set(ValueLayout.JAVA_SHORT_UNALIGNED, offset, Float.floatToFloat16((random.nextFloat() - 0.5f) / 8));
    }

    /** {@return the values of a weight, decoded element by element from the table in puna.h} */
    static float[][] decode(Tensor weight) {
        int rows = (int) weight.shape().rows();
        int columns = (int) weight.shape().columns();
        DType dtype = weight.dtype();
        float[][] values = new float[rows][columns];
        for (int row = 0; row < rows; row++) {
            for (int column = 0; column < columns; column++) {
                long block = (row * (long) columns + column) / dtype.blockElements() * dtype.blockBytes();
                MemorySegment bytes = weight.segment().asSlice(block, dtype.blockBytes());
                values[row][column] = decode(dtype, bytes, column % dtype.blockElements());
            }
        }
        return values;
    }

    private static float decode(DType dtype, MemorySegment block, int i) {
        return switch (dtype) {
            case F32 -> block.get(ValueLayout.JAVA_FLOAT_UNALIGNED, 0);
            case F16 -> half(block, 0);
            case BF16 -> Float.intBitsToFloat(block.get(ValueLayout.JAVA_SHORT_UNALIGNED, 0) << 16);
            case Q8_0 -> half(block, 0) * block.get(ValueLayout.JAVA_BYTE, 2 + i);
            case Q4_0 -> half(block, 0) * (bits(block, 2 + i % 16, i / 16 * 4, 4) - 8);
            case Q4_K -> {
                int group = i / 32; // 64 elements share 32 bytes: the first half has the low nibbles
                int q = bits(block, 16 + i / 64 * 32 + i % 32, group % 2 * 4, 4);
                int scale;
                int minimum;
                if (group < 4) {
                    scale = bits(block, 4 + group, 0, 6);
                    minimum = bits(block, 8 + group, 0, 6);
                } else {
                    scale = bits(block, 8 + group, 0, 4) | bits(block, group, 6, 2) << 4;
                    minimum = bits(block, 8 + group, 4, 4) | bits(block, 4 + group, 6, 2) << 4;
                }
                yield half(block, 0) * scale * q - half(block, 2) * minimum;
            }
            case Q6_K -> {
                int part = i / 128; // each half of the block: 64 low bytes, 32 high bytes
                int quarter = i % 128 / 32;
                int low = bits(block, part * 64 + quarter % 2 * 32 + i % 32, quarter / 2 * 4, 4);
                int high = bits(block, 128 + part * 32 + i % 32, quarter * 2, 2);
                yield half(block, 208) * block.get(ValueLayout.JAVA_BYTE, 192 + i / 16) * ((low | high << 4) - 32);
            }
            case I32 -> throw new IllegalArgumentException("I32 is no weight");
        };
    }

    private static float half(MemorySegment block, long offset) {
        return Float.float16ToFloat(block.get(ValueLayout.JAVA_SHORT_UNALIGNED, offset));
    }

    private static int bits(MemorySegment block, long offset, int from, int count) {
        return block.get(ValueLayout.JAVA_BYTE, offset) >>> from & (1 << count) - 1;
    }
}
