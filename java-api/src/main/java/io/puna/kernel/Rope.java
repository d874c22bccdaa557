package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.Objects;

/**
 * Rotary position embedding (Su et al. 2021). The rotations of a step are put into a table once, which every layer then uses.
 * Scaling (linear, llama3, YaRN, dynamic NTK) is a matter of the frequencies and the magnitude alone.
 */
public final class Rope {
    /** Which two elements of a head make a pair. The two are related by a permutation of the rows of the weights of q and k. */
    public enum Layout {
        /** Elements 2i and 2i + 1: Meta's checkpoints and GGUF. */
        INTERLEAVED(puna_h.PUNA_ROPE_INTERLEAVED()),
        /** Elements i and i + HD / 2: Hugging Face. */
        HALVES(puna_h.PUNA_ROPE_HALVES());

        private final int code;

        Layout(int code) {
            this.code = code;
        }
    }

    private Rope() {
    }

    /**
     * Makes a step's table: {@code a = positions[r] · frequencies[i]}, the product rounded to F32, then
     * {@code table[r, i, 0] = cos(a) · magnitude}, {@code table[r, i, 1] = sin(a) · magnitude}.
     *
     * @param device      what computes
     * @param table       (rows, HD / 2, 2) or (rows, HD) F32, overwritten
     * @param frequencies (HD / 2) F32, radians per position, at least one
     * @param positions   (rows) I32, each at least 0
     * @param magnitude   finite, 1 without scaling
     */
    public static void table(Device device, Tensor table, Tensor frequencies, Tensor positions, float magnitude) {
        MemorySegment context = Checks.context(device);
        Checks.input(frequencies, "frequencies", DType.F32);
        Checks.contiguous(frequencies, "frequencies");
        Checks.input(positions, "positions", DType.I32);
        Checks.contiguous(positions, "positions");
        long rows = positions.shape().elements();
        Checks.range(frequencies.shape().elements(), "elements of frequencies", 1, Integer.MAX_VALUE);
        long headWidth = 2 * frequencies.shape().elements();
        Checks.output(table, "table", DType.F32);
        Checks.contiguous(table, "table");
        checkTable(table, rows, headWidth);
        Checks.apart(table, "table", frequencies, "frequencies");
        Checks.apart(table, "table", positions, "positions");
        Checks.finite(magnitude, "magnitude");
        Device.check(puna_h.puna_rope_table(context, table.segment(), frequencies.segment(), positions.segment(), rows, headWidth,
                magnitude));
    }

    /**
     * Rotates every head of every row in place: each pair (a, b) with (c, s) of the table becomes
     * {@code (a·c - b·s, a·s + b·c)}.
     *
     * @param device    what computes
     * @param x         (rows, heads · HD) F32 of any row stride, overwritten. Queries and keys side by side in a row are rotated by
     *                  one call.
     * @param table     (rows, HD / 2, 2) or (rows, HD) F32, from {@link #table}
     * @param layout    which elements make a pair
     * @param headWidth HD, even
     */
    public static void forward(Device device, Tensor x, Tensor table, Layout layout, long headWidth) {
        MemorySegment context = Checks.context(device);
        checkHeads(x, "x", table, layout, headWidth);
        Device.check(puna_h.puna_rope_forward(context, x.segment(), x.rowStride(), table.segment(), layout.code, x.shape().rows(),
                x.shape().columns() / headWidth, headWidth));
    }

    /**
     * The backward pass in place, the rotation by the negative angle: each pair (a, b) with (c, s) of the table becomes
     * {@code (a·c + b·s, b·c - a·s)}.
     *
     * @param device    what computes
     * @param dx        (rows, heads · HD) F32 of any row stride: the gradient of the rotated heads, overwritten by that of the heads
     * @param table     (rows, HD / 2, 2) or (rows, HD) F32, from {@link #table}
     * @param layout    which elements make a pair
     * @param headWidth HD, even
     */
    public static void backward(Device device, Tensor dx, Tensor table, Layout layout, long headWidth) {
        MemorySegment context = Checks.context(device);
        checkHeads(dx, "dx", table, layout, headWidth);
        Device.check(puna_h.puna_rope_backward(context, dx.segment(), dx.rowStride(), table.segment(), layout.code,
                dx.shape().rows(), dx.shape().columns() / headWidth, headWidth));
    }

    private static void checkHeads(Tensor x, String name, Tensor table, Layout layout, long headWidth) {
        Objects.requireNonNull(layout, "layout");
        Checks.output(x, name, DType.F32);
        long columns = x.shape().columns();
        if (headWidth < 2 || headWidth % 2 != 0) {
            throw Checks.unexpected("headWidth", "an even number, at least 2", headWidth);
        }
        if (columns == 0 || columns % headWidth != 0) {
            throw Checks.unexpected(name, "rows of whole heads of " + headWidth, x);
        }
        Checks.input(table, "table", DType.F32);
        Checks.contiguous(table, "table");
        checkTable(table, x.shape().rows(), headWidth);
        Checks.apart(x, name, table, "table");
    }

    private static void checkTable(Tensor table, long rows, long headWidth) {
        long elements = table.shape().elements();
        if (elements / headWidth != rows || elements % headWidth != 0) {
            throw Checks.unexpected("table", rows + " rows of " + headWidth, table);
        }
    }
}
