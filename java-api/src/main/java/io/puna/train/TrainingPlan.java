package io.puna.train;

import io.puna.model.LlamaConfig;

/**
 * What training a model would take: bytes of memory, and floating-point operations of a step. Operations are those of matrix products
 * and attention, a multiplication and an addition each; what is elementwise is not counted. Attention is counted as over whole
 * sequences: where it is cut at documents, it is less.
 *
 * @param parameters         of the model
 * @param weightBytes        of the weights, F32
 * @param gradientBytes      of their gradient
 * @param optimizerBytes     of AdamW's two moments
 * @param keptBytes          of the blocks' values that are kept between forward and backward pass
 * @param activationBytes    of all values of a batch, those above included
 * @param bytes              of everything
 * @param forwardOperations  of a batch, forwards
 * @param backwardOperations backwards: twice as many
 * @param repeatedOperations computed again because they were not kept
 */
public record TrainingPlan(long parameters, long weightBytes, long gradientBytes, long optimizerBytes, long keptBytes,
        long activationBytes, long bytes, double forwardOperations, double backwardOperations, double repeatedOperations) {

    /**
     * {@return the plan for a batch}
     *
     * @param sequences B
     * @param tokens    T
     * @throws IllegalArgumentException if one is below 1 or they are more tokens than a batch can have
     */
    public static TrainingPlan of(LlamaConfig config, Recomputation recomputation, long sequences, long tokens) {
        if (sequences < 1 || tokens < 1 || sequences > Integer.MAX_VALUE / tokens) {
            throw new IllegalArgumentException("sequences, tokens: expected at least 1 of each and fewer than 2^31 tokens in a batch, got "
                    + sequences + " and " + tokens);
        }
        long parameters = Parameters.count(config);
        long weights = Float.BYTES * parameters;
        long activations = LossGradient.byteSize(config, recomputation, sequences, tokens);
        double rows = (double) sequences * tokens;
        double c = config.width();
        double q = (double) config.heads() * config.headWidth();
        double kv = (double) config.keyValueHeads() * config.headWidth();
        double ff = config.feedForwardWidth();
        double inputs = rows * 2 * c * (q + 2 * kv);
        double attention = sequences * 4 * q * visible(tokens, config.slidingWindow());
        double attentionOutput = rows * 2 * q * c;
        double gateUp = rows * 4 * c * ff;
        double down = rows * 2 * c * ff;
        double forward = config.layers() * (inputs + attention + attentionOutput + gateUp + down)
                + rows * 2 * c * config.vocabularySize();
        // What the last block left is still there when the backward pass comes to it, and nothing needs its output.
        double repeated = (config.layers() - 1) * switch (recomputation) {
            case STORE_ALL -> 0;
            case LLAMA -> attention + attentionOutput;
            case FULL -> inputs + attention + attentionOutput + gateUp;
        };
        return new TrainingPlan(parameters, weights, weights, 2 * weights,
                LossGradient.keptBytes(config, recomputation, sequences, tokens), activations, 4 * weights + activations, forward,
                2 * forward, repeated);
    }

    /** The pairs of a query and a key that it sees. */
    private static double visible(long tokens, long window) {
        long whole = window == 0 ? tokens : Math.min(window, tokens);
        return whole * (whole + 1) / 2.0 + (double) (tokens - whole) * whole;
    }

    /** {@return the operations of a step} */
    public double operations() {
        return forwardOperations + backwardOperations + repeatedOperations;
    }
}
