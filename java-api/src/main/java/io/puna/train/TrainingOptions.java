package io.puna.train;

import java.util.Objects;

/**
 * How a model is trained. The numbers that are not given are those LLaMA was trained with. Immutable.
 *
 * @param steps         of the whole run, which the schedule depends on
 * @param sequences     B, sequences of a batch
 * @param tokens        T, tokens of a sequence
 * @param accumulate    batches whose gradients make one step
 * @param learningRate  the highest rate
 * @param warmup        steps in which the rate rises to it
 * @param schedule      how it goes on
 * @param beta1         decay of the gradient's mean
 * @param beta2         decay of the mean of its square
 * @param epsilon       of AdamW
 * @param weightDecay   of matrices, times the rate; the weights of RMSNorm are spared
 * @param clip          longest norm that a gradient keeps, 0 for any
 * @param outlier       a step whose gradient is this many times longer than those of late is left out, 0 for none
 * @param recomputation what the backward pass computes again
 */
public record TrainingOptions(long steps, int sequences, int tokens, int accumulate, double learningRate, long warmup,
        Schedule schedule, double beta1, double beta2, double epsilon, double weightDecay, double clip, double outlier,
        Recomputation recomputation) {

    /**
     * Checks that the numbers make a run.
     *
     * @throws IllegalArgumentException if one is out of range
     */
    public TrainingOptions {
        require("steps", steps, steps >= 1, "at least 1");
        require("sequences", sequences, sequences >= 1, "at least 1");
        require("tokens", tokens, tokens >= 1, "at least 1");
        require("accumulate", accumulate, accumulate >= 1, "at least 1");
        require("learningRate", learningRate, finite(learningRate) && learningRate > 0, "a finite number above 0");
        require("warmup", warmup, warmup >= 0 && warmup <= steps, "0 to the steps of the run");
        Objects.requireNonNull(schedule, "schedule");
        require("beta1", beta1, beta1 >= 0 && beta1 < 1, "at least 0 and below 1");
        require("beta2", beta2, beta2 >= 0 && beta2 < 1, "at least 0 and below 1");
        require("epsilon", epsilon, finite(epsilon) && epsilon >= 0, "a finite number, at least 0");
        require("weightDecay", weightDecay, finite(weightDecay) && weightDecay >= 0, "a finite number, at least 0");
        require("clip", clip, finite(clip) && clip >= 0, "a finite number, at least 0");
        require("outlier", outlier, outlier == 0 || finite(outlier) && outlier > 1, "0 or a finite number above 1");
        Objects.requireNonNull(recomputation, "recomputation");
    }

    /**
     * {@return a run with LLaMA's numbers: a cosine, β = (0.9, 0.95), weight decay 0.1, gradients clipped at 1} without warm-up, which is
     * for the run to say.
     */
    public static TrainingOptions of(long steps, int sequences, int tokens, double learningRate) {
        return new TrainingOptions(steps, sequences, tokens, 1, learningRate, 0, Schedule.COSINE, 0.9, 0.95, 1e-8, 0.1, 1, 0,
                Recomputation.LLAMA);
    }

    /** {@return these with another number of batches a step} */
    public TrainingOptions withAccumulate(int accumulate) {
        return new TrainingOptions(steps, sequences, tokens, accumulate, learningRate, warmup, schedule, beta1, beta2, epsilon,
                weightDecay, clip, outlier, recomputation);
    }

    /** {@return these with another warm-up and schedule} */
    public TrainingOptions withSchedule(long warmup, Schedule schedule) {
        return new TrainingOptions(steps, sequences, tokens, accumulate, learningRate, warmup, schedule, beta1, beta2, epsilon,
                weightDecay, clip, outlier, recomputation);
    }

    /** {@return these with another weight decay} */
    public TrainingOptions withWeightDecay(double weightDecay) {
        return new TrainingOptions(steps, sequences, tokens, accumulate, learningRate, warmup, schedule, beta1, beta2, epsilon,
                weightDecay, clip, outlier, recomputation);
    }

    /** {@return these with another bound on the gradient's norm, and on how far it may leap} */
    public TrainingOptions withClip(double clip, double outlier) {
        return new TrainingOptions(steps, sequences, tokens, accumulate, learningRate, warmup, schedule, beta1, beta2, epsilon,
                weightDecay, clip, outlier, recomputation);
    }

    /** {@return these with another policy} */
    public TrainingOptions withRecomputation(Recomputation recomputation) {
        return new TrainingOptions(steps, sequences, tokens, accumulate, learningRate, warmup, schedule, beta1, beta2, epsilon,
                weightDecay, clip, outlier, recomputation);
    }

    private static boolean finite(double value) {
        return Double.isFinite(value);
    }

    private static void require(String name, Object value, boolean right, String expected) {
        if (!right) {
            throw new IllegalArgumentException(name + ": expected " + expected + ", got " + value);
        }
    }
}
