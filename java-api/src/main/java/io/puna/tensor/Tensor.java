package io.puna.tensor;

import io.puna.bindings.NativeMemory;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * A view of off-heap memory as a row-major array: a segment, an element type, a shape and a row stride.
 *
 * <p>A tensor owns nothing. Its memory lives as long as the segment's arena, and every use after that throws
 * {@link IllegalStateException}. Rows (all dimensions but the innermost, flattened) are contiguous inside; a view of some
 * columns of a wider tensor has a row stride above its width. Immutable and safe to share; the memory behind it is as shared as
 * its segment.
 *
 * <p>A tensor of {@link Device#allocate} may lie in memory that only its device reads: its segment then has the address and no size.
 */
public final class Tensor {
    private static final ValueLayout.OfFloat F32_LE = ValueLayout.JAVA_FLOAT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfInt I32_LE = ValueLayout.JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

    /** Memory of so many bytes lies in large pages. */
    private static final long LARGE_BYTES = 4L << 20;

    private final MemorySegment segment;
    private final DType dtype;
    private final Shape shape;
    private final long rowStride;
    /** Whose memory it is; null for the host's. */
    private final @Nullable Device device;

    private Tensor(MemorySegment segment, DType dtype, Shape shape, long rowStride, @Nullable Device device) {
        this.segment = segment;
        this.dtype = dtype;
        this.shape = shape;
        this.rowStride = rowStride;
        this.device = device;
    }

    /**
     * {@return a contiguous view of a segment}
     *
     * @param segment native memory, at least as large as the shape needs, aligned to the type; it may be read-only
     * @throws IllegalArgumentException if the segment is on the heap, too small or misaligned, or if the innermost dimension is
     *                                  not a whole number of blocks
     */
    public static Tensor of(MemorySegment segment, DType dtype, Shape shape) {
        Objects.requireNonNull(segment, "segment");
        Objects.requireNonNull(dtype, "dtype");
        Objects.requireNonNull(shape, "shape");
        if (!segment.isNative()) {
            throw new IllegalArgumentException("segment: expected off-heap memory, got a heap segment; allocate it from an Arena");
        }
        long bytes = bytes(dtype, shape);
        if (segment.byteSize() < bytes) {
            throw new IllegalArgumentException("segment: expected at least " + bytes + " bytes for " + dtype + " " + shape
                    + ", got " + segment.byteSize());
        }
        if (segment.address() % dtype.alignment() != 0) {
            throw new IllegalArgumentException("segment: expected " + dtype + " memory aligned to " + dtype.alignment()
                    + " bytes, got address 0x" + Long.toHexString(segment.address()));
        }
        return new Tensor(segment.asSlice(0, bytes), dtype, shape, shape.columns(), null);
    }

    /** A view of a device's memory, of which the segment has the address and no size. */
    static Tensor of(MemorySegment segment, DType dtype, Shape shape, @Nullable Device device) {
        bytes(dtype, shape);
        return device == null ? of(segment, dtype, shape) : new Tensor(segment, dtype, shape, shape.columns(), device);
    }

    /**
     * {@return a new zeroed tensor, its memory aligned to 64 bytes and owned by the arena}
     *
     * @throws IllegalArgumentException if the innermost dimension is not a whole number of blocks
     */
    public static Tensor allocate(Arena arena, DType dtype, Shape shape) {
        long bytes = bytes(dtype, shape);
        return of(bytes < LARGE_BYTES ? arena.allocate(bytes, 64) : NativeMemory.allocateInLargePages(bytes, arena), dtype, shape);
    }

    /**
     * {@return a new F32 tensor that holds a copy of values}
     *
     * @throws IllegalArgumentException if the number of values is not the shape's
     */
    public static Tensor of(Arena arena, float[] values, Shape shape) {
        requireCount(values.length, shape);
        Tensor tensor = allocate(arena, DType.F32, shape);
        MemorySegment.copy(values, 0, tensor.segment, ValueLayout.JAVA_FLOAT, 0, values.length);
        return tensor;
    }

    /**
     * {@return a new I32 tensor that holds a copy of values}
     *
     * @throws IllegalArgumentException if the number of values is not the shape's
     */
    public static Tensor of(Arena arena, int[] values, Shape shape) {
        requireCount(values.length, shape);
        Tensor tensor = allocate(arena, DType.I32, shape);
        MemorySegment.copy(values, 0, tensor.segment, ValueLayout.JAVA_INT, 0, values.length);
        return tensor;
    }

    private static void requireCount(int count, Shape shape) {
        if (count != shape.elements()) {
            throw new IllegalArgumentException("values: expected " + shape.elements() + " for shape " + shape + ", got " + count);
        }
    }

    static long bytes(DType dtype, Shape shape) {
        if (shape.columns() % dtype.blockElements() != 0) {
            throw new IllegalArgumentException("shape: expected rows of whole " + dtype + " blocks of " + dtype.blockElements()
                    + " elements, got " + shape);
        }
        try {
            return dtype.bytes(shape.elements());
        } catch (ArithmeticException e) {
            throw new IllegalArgumentException("shape: the bytes of " + dtype + " " + shape + " exceed 2^63 - 1", e);
        }
    }

    /**
     * {@return the memory from the first element to the last; read-only when the tensor is} Of a tensor in a device's own memory it
     * has no size.
     */
    public MemorySegment segment() {
        return segment;
    }

    /** {@return the bytes from the first element to the last, with the gaps between rows} */
    public long spanBytes() {
        long rows = shape.rows();
        return rows == 0 || shape.columns() == 0 ? 0 : dtype.bytes((rows - 1) * rowStride + shape.columns());
    }

    /** {@return whose own memory the tensor lies in, null for the host's} */
    public @Nullable Device device() {
        return device;
    }

    /** {@return the element type} */
    public DType dtype() {
        return dtype;
    }

    /** {@return the dimensions, outermost first} */
    public Shape shape() {
        return shape;
    }

    /** {@return the elements from one row to the next, the width when contiguous} */
    public long rowStride() {
        return rowStride;
    }

    /** {@return whether rows follow one another without a gap} */
    public boolean isContiguous() {
        return rowStride == shape.columns() || shape.rows() <= 1;
    }

    /** {@return the bytes of the elements themselves, without gaps between rows} */
    public long byteSize() {
        return dtype.bytes(shape.elements());
    }

    /**
     * {@return the same contiguous memory under another shape with as many elements}
     *
     * @throws IllegalArgumentException if the number of elements differs, or the tensor has gaps between rows
     */
    public Tensor reshape(Shape to) {
        if (to.elements() != shape.elements() || !isContiguous()) {
            throw new IllegalArgumentException("shape: expected " + shape.elements() + " elements of a contiguous tensor, got " + to
                    + " for " + this);
        }
        return of(segment, dtype, to, device);
    }

    /**
     * {@return a view of some rows, of shape (count, columns)}
     *
     * @throws IndexOutOfBoundsException if they are not all there
     */
    public Tensor rows(long from, long count) {
        Objects.checkFromIndexSize(from, count, shape.rows());
        long columns = shape.columns();
        long span = count == 0 ? 0 : (count - 1) * rowStride + columns;
        long start = count == 0 ? 0 : from * rowStride;
        return new Tensor(slice(start, span), dtype, Shape.of(count, columns), rowStride, device);
    }

    /**
     * {@return a view of some columns of every row, of shape (rows, count)}
     *
     * @throws IndexOutOfBoundsException if they are not all there
     * @throws IllegalArgumentException  if the view would cut a block
     */
    public Tensor columns(long from, long count) {
        Objects.checkFromIndexSize(from, count, shape.columns());
        if (from % dtype.blockElements() != 0 || count % dtype.blockElements() != 0) {
            throw new IllegalArgumentException("columns: expected whole " + dtype + " blocks of " + dtype.blockElements()
                    + " elements, got " + count + " from " + from);
        }
        long rows = shape.rows();
        long span = rows == 0 || count == 0 ? 0 : (rows - 1) * rowStride + count;
        long start = span == 0 ? 0 : from;
        return new Tensor(slice(start, span), dtype, Shape.of(rows, count), rowStride, device);
    }

    private MemorySegment slice(long start, long span) {
        return device == null ? segment.asSlice(dtype.bytes(start), dtype.bytes(span))
                : NativeMemory.further(segment, dtype.bytes(start));
    }

    /**
     * {@return one F32 element}
     *
     * @param row    index among all rows
     * @param column index within the row
     * @throws IllegalStateException     if the tensor is not F32, its memory is closed, or it lies in a device's own memory
     * @throws IndexOutOfBoundsException if there is no such element
     */
    public float getFloat(long row, long column) {
        requireType(DType.F32);
        if (device != null) {
            throw new IllegalStateException("tensor: expected memory of the host, got " + device + "; toFloatArray() copies it");
        }
        Objects.checkIndex(row, shape.rows());
        Objects.checkIndex(column, shape.columns());
        return segment.get(F32_LE, (row * rowStride + column) * Float.BYTES);
    }

    /**
     * {@return a copy of all elements of an F32 tensor, row after row, wherever it lies}
     *
     * @throws IllegalStateException    if the tensor is not F32, or its memory is closed
     * @throws IllegalArgumentException if it has more elements than an array
     */
    public float[] toFloatArray() {
        float[] values = new float[arrayLength()];
        copyTo(values);
        return values;
    }

    /**
     * Copies all elements of an F32 tensor, row after row.
     *
     * @param values as long as the tensor has elements
     * @throws IllegalStateException    if the tensor is not F32, its memory is closed, or the device it lies on is
     * @throws IllegalArgumentException if {@code values} is of another length
     * @throws DeviceException          if the device it lies on fails
     */
    public void copyTo(float[] values) {
        requireType(DType.F32);
        if (device != null) {
            try (Arena arena = Arena.ofConfined()) {
                Tensor host = new Tensor(arena.allocate(spanBytes(), Float.BYTES), dtype, shape, rowStride, null);
                device.copySpan(host, this);
                host.copyTo(values);
            }
            return;
        }
        requireCount(values.length, shape);
        int columns = (int) shape.columns();
        int rows = columns == 0 ? 0 : (int) shape.rows();
        for (int row = 0; row < rows; row++) {
            MemorySegment.copy(segment, F32_LE, row * rowStride * Float.BYTES, values, row * columns, columns);
        }
    }

    /**
     * {@return a copy of all elements of an I32 tensor, row after row}
     *
     * @throws IllegalStateException    if the tensor is not I32, or its memory is closed
     * @throws IllegalArgumentException if it has more elements than an array
     */
    public int[] toIntArray() {
        requireType(DType.I32);
        int[] values = new int[arrayLength()];
        int columns = (int) shape.columns();
        int rows = columns == 0 ? 0 : (int) shape.rows();
        for (int row = 0; row < rows; row++) {
            MemorySegment.copy(segment, I32_LE, row * rowStride * Integer.BYTES, values, row * columns, columns);
        }
        return values;
    }

    private int arrayLength() {
        if (shape.elements() > Integer.MAX_VALUE - 8) {
            throw new IllegalArgumentException("tensor: " + shape + " has more elements than an array holds; read it by rows");
        }
        return (int) shape.elements();
    }

    private void requireType(DType expected) {
        if (dtype != expected) {
            throw new IllegalStateException("tensor: expected " + expected + ", got " + this + "; decode it with Dequantize");
        }
    }

    /** {@return the type and shape, as in {@code F32 (2048, 64)}} */
    @Override
    public String toString() {
        return dtype + " " + shape + (isContiguous() ? "" : " with row stride " + rowStride);
    }
}
