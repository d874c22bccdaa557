package io.puna.kernel;

import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.Objects;

/** What every operation asks of its arguments. A passing check allocates nothing; a failing one names the argument. */
final class Checks {
    private Checks() {
    }

    static MemorySegment context(Device device) {
        return Objects.requireNonNull(device, "device").handle();
    }

    /** Checks a tensor to be read, of any row stride. */
    static void input(Tensor tensor, String name, DType dtype) {
        alive(tensor, name);
        if (tensor.dtype() != dtype) {
            throw unexpected(name, dtype.toString(), tensor);
        }
    }

    /** Checks a tensor to be written, of any row stride. */
    static void output(Tensor tensor, String name, DType dtype) {
        input(tensor, name, dtype);
        if (tensor.segment().isReadOnly()) {
            throw unexpected(name, "writable memory", "a read-only segment");
        }
    }

    /** Checks a contiguous tensor to be read, of any type a weight can have. */
    static void weight(Tensor tensor, String name) {
        alive(tensor, name);
        if (tensor.dtype().code() < 0) {
            throw unexpected(name, "a weight's type", tensor);
        }
        contiguous(tensor, name);
    }

    private static void alive(Tensor tensor, String name) {
        if (tensor == null) {
            throw new NullPointerException(name + ": expected a tensor, got null");
        }
        if (!tensor.segment().scope().isAlive()) {
            throw new IllegalStateException(name + ": its memory is closed");
        }
        if (!tensor.segment().isAccessibleBy(Thread.currentThread())) {
            throw new WrongThreadException(name + ": expected memory of this thread or a shared arena, got another thread's");
        }
    }

    static void contiguous(Tensor tensor, String name) {
        if (!tensor.isContiguous()) {
            throw unexpected(name, "contiguous rows", tensor);
        }
    }

    static void shape(Tensor tensor, String name, long rows, long columns) {
        Shape shape = tensor.shape();
        if (shape.columns() != columns || shape.rows() != rows) {
            throw unexpected(name, rows + " rows of " + columns, tensor);
        }
    }

    static void columns(Tensor tensor, String name, long columns) {
        if (tensor.shape().columns() != columns) {
            throw unexpected(name, "rows of " + columns, tensor);
        }
    }

    static void elements(Tensor tensor, String name, long elements) {
        if (tensor.shape().elements() != elements) {
            throw unexpected(name, elements + " elements", tensor);
        }
    }

    static void sameStride(Tensor tensor, String name, Tensor other, String otherName) {
        if (tensor.rowStride() != other.rowStride() && tensor.shape().rows() > 1) {
            throw unexpected(name, "the row stride of " + otherName + ", " + other.rowStride(), "row stride " + tensor.rowStride());
        }
    }

    static void range(long value, String name, long least, long most) {
        if (value < least || value > most) {
            throw unexpected(name, most == Long.MAX_VALUE ? "at least " + least : least + " to " + most, value);
        }
    }

    static void finite(float value, String name) {
        if (!Float.isFinite(value)) {
            throw unexpected(name, "a finite number", value);
        }
    }

    /** {@return the width of a row of heads} */
    static long width(long heads, String name, long headWidth) {
        range(heads, name, 1, Long.MAX_VALUE);
        range(headWidth, "headWidth", 1, Long.MAX_VALUE);
        if (heads > Long.MAX_VALUE / headWidth) {
            throw unexpected(name, "rows of fewer than 2^63 elements", heads + " heads of " + headWidth);
        }
        return heads * headWidth;
    }

    /** Checks that an output shares no element with another tensor. */
    static void apart(Tensor output, String name, Tensor other, String otherName) {
        if (overlap(output, other)) {
            throw unexpected(name, "memory apart from " + otherName, "memory that overlaps it");
        }
    }

    /** Checks that an output either is an input, element for element, or shares none with it. */
    static void sameOrApart(Tensor output, String name, Tensor input, String inputName) {
        if (output.segment().address() == input.segment().address()
                && (output.rowStride() == input.rowStride() || output.shape().rows() <= 1)) {
            return;
        }
        if (overlap(output, input)) {
            throw unexpected(name, "the memory of " + inputName + " or memory apart from it", "memory that overlaps it in part");
        }
    }

    /** Never false when an element is shared; false for different columns of rows with the same stride, as of a packed q, k, v. */
    private static boolean overlap(Tensor a, Tensor b) {
        long start = a.segment().address();
        long size = a.spanBytes();
        long otherStart = b.segment().address();
        long otherSize = b.spanBytes();
        if (size == 0 || otherSize == 0 || start + size <= otherStart || otherStart + otherSize <= start) {
            return false;
        }
        long stride = a.dtype().bytes(a.rowStride());
        if (stride != b.dtype().bytes(b.rowStride())) {
            return true;
        }
        long column = Math.floorMod(otherStart - start, stride);
        return column < a.dtype().bytes(a.shape().columns()) || column + b.dtype().bytes(b.shape().columns()) > stride;
    }

    static IllegalArgumentException unexpected(String name, String expected, Object got) {
        return new IllegalArgumentException(name + ": expected " + expected + ", got " + got);
    }
}
