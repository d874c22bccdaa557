package io.puna.tensor;

import java.util.Arrays;
import java.util.stream.Collectors;

/**
 * The dimensions of a tensor, outermost first. A value: immutable, equal when the dimensions are. Every dimension is at least
 * zero and their product fits a {@code long}.
 */
public final class Shape {
    private final long[] dims;
    private final long elements;

    private Shape(long[] dims) {
        long product = 1;
        for (long dim : dims) {
            if (dim < 0) {
                throw new IllegalArgumentException("dims: expected no negative dimension, got " + Arrays.toString(dims));
            }
            try {
                product = Math.multiplyExact(product, dim);
            } catch (ArithmeticException e) {
                throw new IllegalArgumentException("dims: the elements of " + Arrays.toString(dims) + " exceed 2^63 - 1", e);
            }
        }
        this.dims = dims;
        this.elements = product;
    }

    /**
     * {@return a shape of these dimensions; none makes a scalar}
     *
     * @throws IllegalArgumentException if one is negative or their product exceeds 2^63 - 1
     */
    public static Shape of(long... dims) {
        return new Shape(dims.clone());
    }

    /** {@return the number of dimensions} */
    public int rank() {
        return dims.length;
    }

    /**
     * {@return one dimension}
     *
     * @param index from 0 (outermost); negative counts from the innermost, -1 first
     * @throws IndexOutOfBoundsException if there is no such dimension
     */
    public long dim(int index) {
        return dims[index < 0 ? dims.length + index : index];
    }

    /** {@return the product of all dimensions, 1 for a scalar} */
    public long elements() {
        return elements;
    }

    /** {@return the innermost dimension, 1 for a scalar} */
    public long columns() {
        return dims.length == 0 ? 1 : dims[dims.length - 1];
    }

    /** {@return the product of all dimensions but the innermost} */
    public long rows() {
        long rows = 1;
        for (int i = 0; i < dims.length - 1; i++) {
            rows *= dims[i];
        }
        return rows;
    }

    /** {@return a copy of the dimensions} */
    public long[] dims() {
        return dims.clone();
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof Shape shape && Arrays.equals(dims, shape.dims);
    }

    @Override
    public int hashCode() {
        return Arrays.hashCode(dims);
    }

    /** {@return the dimensions as in {@code (2048, 64)}} */
    @Override
    public String toString() {
        return Arrays.stream(dims).mapToObj(Long::toString).collect(Collectors.joining(", ", "(", ")"));
    }
}
