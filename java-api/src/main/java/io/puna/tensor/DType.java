package io.puna.tensor;

/**
 * Element types of tensors. The block types are laid out along a row as in GGUF files; {@code native/include/puna.h} states
 * each one's layout and decoding formula.
 */
public enum DType {
    /** IEEE 754 binary32. */
    F32(0, 1, 4),
    /** IEEE 754 binary16. */
    F16(1, 1, 2),
    /** The upper half of a binary32. */
    BF16(2, 1, 2),
    /** Blocks of 32: an F16 scale and 32 signed bytes. */
    Q8_0(3, 32, 34),
    /** Blocks of 32: an F16 scale and 32 nibbles. */
    Q4_0(4, 32, 18),
    /** Blocks of 256: two F16 scales, eight 6-bit scales and minima, 256 nibbles. */
    Q4_K(5, 256, 144),
    /** Blocks of 256: an F16 scale, sixteen 8-bit scales, 256 six-bit values. */
    Q6_K(6, 256, 210),
    /** Signed 32-bit integers: token ids, positions and indices. Never a weight. */
    I32(-1, 1, 4);

    private final int code;
    private final int blockElements;
    private final int blockBytes;

    DType(int code, int blockElements, int blockBytes) {
        this.code = code;
        this.blockElements = blockElements;
        this.blockBytes = blockBytes;
    }

    /** {@return the {@code PUNA_DTYPE_*} value of the C header, or -1 for a type that kernels do not take as a weight} */
    public int code() {
        return code;
    }

    /** {@return the elements of a block, 1 for plain types} */
    public int blockElements() {
        return blockElements;
    }

    /** {@return the bytes of a block, the element's size for plain types} */
    public int blockBytes() {
        return blockBytes;
    }

    /** {@return whether elements are packed into blocks that share scales} */
    public boolean isQuantized() {
        return blockElements > 1;
    }

    /** {@return the alignment in bytes that kernels ask of this type's memory} */
    public int alignment() {
        return isQuantized() ? 2 : blockBytes;
    }

    /**
     * {@return the bytes that a number of elements takes}
     *
     * @param elements a whole number of blocks
     * @throws IllegalArgumentException if {@code elements} is negative or cuts a block
     * @throws ArithmeticException      if the size does not fit a {@code long}
     */
    public long bytes(long elements) {
        if (elements < 0 || elements % blockElements != 0) {
            throw new IllegalArgumentException(
                    "elements: expected a non-negative multiple of " + blockElements + " for " + this + ", got " + elements);
        }
        return Math.multiplyExact(elements / blockElements, (long) blockBytes);
    }
}
