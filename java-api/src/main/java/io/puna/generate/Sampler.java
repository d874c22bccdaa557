package io.puna.generate;

import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;

/** Chooses tokens by one generation's options: keeps what the penalties count and the random generator's state. */
final class Sampler {
    /** Up to here the k largest are kept by insertion; above, sorting everything is quicker. */
    private static final int INSERTION_LIMIT = 512;

    private final GenerationOptions options;
    private final SplittableRandom random;
    private final boolean[] seen;
    private final Map<Integer, Integer> generated = new HashMap<>();
    private final double[] weights;
    private long[] candidates = new long[0];

    Sampler(GenerationOptions options, int vocabularySize, int[] prompt) {
        this.options = options;
        this.random = new SplittableRandom(options.seed());
        this.seen = new boolean[vocabularySize];
        this.weights = new double[vocabularySize];
        for (int id : prompt) {
            seen[id] = true;
        }
    }

    /** Whether the choice is the raw logits' maximum, which needs none of the rest. */
    static boolean isArgMax(GenerationOptions options) {
        return options.temperature() == 0 && options.logitBias().isEmpty() && options.logitsHook() == null
                && options.repetitionPenalty() == 1 && options.presencePenalty() == 0 && options.frequencyPenalty() == 0;
    }

    /** Counts a token towards the penalties of those after it. */
    void accept(int token) {
        seen[token] = true;
        generated.merge(token, 1, Integer::sum);
    }

    /** Chooses from logits, which it changes. */
    int choose(float[] logits, List<Integer> tokens) {
        options.logitBias().forEach((id, bias) -> logits[id] += bias);
        if (options.logitsHook() != null) {
            options.logitsHook().process(tokens, logits);
        }
        penalise(logits);
        int best = argMax(logits);
        return options.temperature() == 0 ? best : draw(logits, logits[best]);
    }

    private void penalise(float[] logits) {
        float repetition = options.repetitionPenalty();
        if (repetition != 1) {
            for (int id = 0; id < logits.length; id++) {
                if (seen[id]) {
                    logits[id] = logits[id] > 0 ? logits[id] / repetition : logits[id] * repetition;
                }
            }
        }
        if (options.presencePenalty() != 0 || options.frequencyPenalty() != 0) {
            generated.forEach((id, count) -> logits[id] -= options.presencePenalty() + count * options.frequencyPenalty());
        }
    }

    private static int argMax(float[] logits) {
        int best = -1;
        for (int id = 0; id < logits.length; id++) {
            if (best < 0 ? logits[id] > Float.NEGATIVE_INFINITY : logits[id] > logits[best]) {
                best = id;
            }
        }
        if (best < 0) {
            throw new IllegalStateException("logits: expected at least one token that may be chosen, got only -Infinity or NaN");
        }
        return best;
    }

    private int draw(float[] logits, float largest) {
        double total = 0;
        for (int id = 0; id < logits.length; id++) {
            // The largest first: infinity minus itself is no number, and its weight is 1.
            double weight = logits[id] == largest ? 1 : Math.exp(((double) logits[id] - largest) / options.temperature());
            weights[id] = weight > 0 ? weight : 0;
            total += weights[id];
        }
        boolean ranked = options.topK() > 0 && options.topK() < logits.length || options.topP() < 1;
        int count = ranked ? rank(logits, total) : keepAll(logits.length);
        double left = 0;
        double floor = options.minP();
        int kept = 0;
        double whole = total;
        if (options.topK() > 0 && options.topK() < logits.length) {
            whole = 0;
            for (int i = 0; i < count; i++) {
                whole += weights[id(candidates[i])];
            }
        }
        double nucleus = options.topP() < 1 ? options.topP() * whole : Double.POSITIVE_INFINITY;
        for (int i = 0; i < count && left < nucleus; i++) {
            double weight = weights[id(candidates[i])];
            if (weight >= floor && weight > 0) {
                candidates[kept++] = candidates[i];
                left += weight;
            }
        }
        double target = random.nextDouble() * left;
        for (int i = 0; i < kept; i++) {
            target -= weights[id(candidates[i])];
            if (target < 0) {
                return id(candidates[i]);
            }
        }
        return id(candidates[kept - 1]);
    }

    private int keepAll(int count) {
        grow(count);
        for (int id = 0; id < count; id++) {
            candidates[id] = key(0, id);
        }
        return count;
    }

    /** Fills candidates with those that top-k and top-p may keep, the most probable first, and returns how many. */
    private int rank(float[] logits, double total) {
        int k = options.topK() > 0 ? Math.min(options.topK(), logits.length) : logits.length;
        int count = 0;
        if (k <= INSERTION_LIMIT) {
            grow(k + 1);
            for (int id = 0; id < logits.length; id++) {
                long key = key(logits[id], id);
                if (count < k || key < candidates[count - 1]) {
                    int at = -(Arrays.binarySearch(candidates, 0, count, key) + 1);
                    System.arraycopy(candidates, at, candidates, at + 1, count - at);
                    candidates[at] = key;
                    count = Math.min(count + 1, k);
                }
            }
            return count;
        }
        // All tokens below this weight together cannot make up what the nucleus leaves out, so it never reaches them.
        double floor = k == logits.length ? (1 - options.topP()) * total / logits.length : 0;
        grow(logits.length);
        for (int id = 0; id < logits.length; id++) {
            if (weights[id] >= floor) {
                candidates[count++] = key(logits[id], id);
            }
        }
        Arrays.sort(candidates, 0, count);
        return Math.min(count, k);
    }

    private void grow(int count) {
        if (candidates.length < count) {
            candidates = new long[count];
        }
    }

    /** Orders by logit, the largest first, then by id; NaN comes last. */
    static long key(float logit, int id) {
        int bits = Float.floatToIntBits(Float.isNaN(logit) ? Float.NEGATIVE_INFINITY : logit + 0f);
        int ascending = bits >= 0 ? bits : bits ^ 0x7fffffff;
        return ((long) ~ascending << 32) | id;
    }

    static int id(long key) {
        return (int) key;
    }
}
