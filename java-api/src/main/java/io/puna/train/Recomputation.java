package io.puna.train;

/**
 * What the forward pass keeps of each block for the backward pass, and what that pass computes again. Gradients have the same bits
 * under every policy.
 *
 * <p>A block's values are, for each token: its input and the sum after attention (C each), the two normalised inputs (C each), query,
 * key and value (NH·HD + 2·NKV·HD), the heads' outputs (NH·HD) with their log-sum-exp (NH), gate and up (2·FF), the gated product
 * (FF) and two scales of RMSNorm. Attention's weights are never kept: its backward pass makes them from the log-sum-exp.
 */
public enum Recomputation {
    /** Keeps all of it and computes nothing again. */
    STORE_ALL,
    /**
     * As LLaMA was trained: keeps the block's input and what its wide linear layers give (query, key and value, gate and up), and
     * computes RMSNorm, attention, the sum after it and SwiGLU again.
     */
    LLAMA,
    /** Keeps the block's input alone and computes the whole block again. */
    FULL;

    /** {@return whether the outputs of the wide linear layers are kept} */
    boolean keepsLinear() {
        return this != FULL;
    }

    /** {@return whether everything else is kept} */
    boolean keepsCheap() {
        return this == STORE_ALL;
    }
}
