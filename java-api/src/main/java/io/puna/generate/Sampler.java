package io.puna.generate;

import io.puna.kernel.Candidates;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;

/** Chooses tokens by one generation's options: keeps what the penalties count and the random generator's state. */
final class Sampler {
    /** Up to here the k largest are kept by insertion; above, sorting everything is quicker. */
    private static final int INSERTION_LIMIT = 512;
    /** How many of the largest logits are asked for where top-p or min-p decides how many count: nearly always enough. */
    private static final int FEW = 256;

    private final GenerationOptions options;
    private final SplittableRandom random;
    private final boolean[] seen;
    private final Map<Integer, Integer> generated = new HashMap<>();
    private final double[] weights;
    private long[] candidates = new long[0];
    /** What the candidates kept weigh. */
    private double left;

    Sampler(GenerationOptions options, int vocabularySize, int[] prompt) {
        this.options = options;
        this.random = new SplittableRandom(options.seed());
        this.seen = new boolean[vocabularySize];
        this.weights = new double[vocabularySize];
        for (int id : prompt) {
            seen[id] = true;
        }
    }

    /** Counts a token towards the penalties of those after it. */
    void accept(int token) {
        seen[token] = true;
        generated.merge(token, 1, Integer::sum);
    }

    /** Chooses from logits where they lie; from a copy of all of them if options change them, or the largest leave it open. */
    int choose(Logits logits, List<Integer> tokens) {
        if (!options.logitBias().isEmpty() || options.logitsHook() != null || options.repetitionPenalty() != 1
                || options.presencePenalty() != 0 || options.frequencyPenalty() != 0) {
            return choose(logits.row(), tokens);
        }
        if (options.temperature() == 0) {
            return logits.argMax();
        }
        double draw = random.nextDouble();
        int token = drawFromLargest(logits, draw);
        if (token < 0) {
            float[] row = logits.row();
            token = draw(row, row[argMax(row)], draw);
        }
        return token;
    }

    /** Chooses from logits, which it changes. */
    int choose(float[] logits, List<Integer> tokens) {
        options.logitBias().forEach((id, bias) -> logits[id] += bias);
        if (options.logitsHook() != null) {
            options.logitsHook().process(tokens, logits);
        }
        penalise(logits);
        int best = argMax(logits);
        return options.temperature() == 0 ? best : draw(logits, logits[best], random.nextDouble());
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

    /**
     * Chooses what {@link #draw} would choose from all logits, bit for bit, given the largest of them and sums of weights that are not
     * quite those that it would add up; or returns -1 where these leave the choice open.
     */
    int drawFromLargest(Logits logits, double draw) {
        int size = logits.size();
        boolean limited = options.topK() > 0 && options.topK() < size;
        if (!limited && options.topP() == 1 && options.minP() == 0) {
            return drawFromParts(logits, draw);
        }
        int count = limited ? options.topK() : Math.min(FEW, size);
        if (count > Candidates.MAX) {
            return -1;
        }
        if (limited || options.topP() == 1) {
            logits.findLargest(count);
        } else {
            logits.findLargest(count, options.temperature());
        }
        float largest = logits.value(0);
        if (!(largest > Float.NEGATIVE_INFINITY)) {
            return -1;
        }
        grow(count);
        double whole = 0;
        double last = 0;
        for (int i = 0; i < count; i++) {
            int id = logits.id(i);
            candidates[i] = key(logits.value(i), id);
            last = weight(logits.value(i), largest);
            weights[id] = last;
            whole += last;
        }
        // Whether nothing beyond the candidates can be kept: weights fall with the logits.
        boolean enough = limited || count == size || last < options.minP() || last == 0;
        if (options.topP() == 1) {
            int kept = keep(count, Double.POSITIVE_INFINITY);
            if (!limited) { // without a rank the order is that of the ids
                for (int i = 0; i < kept; i++) {
                    candidates[i] = key(0, id(candidates[i]));
                }
                Arrays.sort(candidates, 0, kept);
                kept = keep(kept, Double.POSITIVE_INFINITY);
            }
            return enough ? pick(kept, draw) : -1;
        }
        double error = 0;
        if (!limited) {
            whole = Arrays.stream(logits.sums()).sum();
            error = error(size);
        }
        int kept = keep(count, options.topP() * whole * (1 - error));
        boolean ended = left >= options.topP() * whole * (1 + error);
        return ended || enough && left < options.topP() * whole * (1 - error) ? pick(kept, draw) : -1;
    }

    /** Finds the part of the vocabulary in which the draw ends, and the token in it. */
    private int drawFromParts(Logits logits, double draw) {
        int size = logits.size();
        logits.findLargest(1, options.temperature());
        float largest = logits.value(0);
        if (!(largest > Float.NEGATIVE_INFINITY)) {
            return -1;
        }
        double[] sums = logits.sums();
        double whole = Arrays.stream(sums).sum();
        double margin = whole * error(size);
        double target = whole * draw;
        double before = 0;
        int part = 0;
        while (part < sums.length - 1 && before + sums[part] <= target) {
            before += sums[part++];
        }
        int width = Math.ceilDiv(size, sums.length);
        int from = part * width;
        if (from >= size) {
            return -1;
        }
        for (float logit : logits.part(from, Math.min(width, size - from))) {
            double after = before + weight(logit, largest);
            if (target < after) {
                return target - before > margin && after - target > margin ? from : -1;
            }
            before = after;
            from++;
        }
        return -1;
    }

    /** More than what sums of so many weights, added up in whatever order, can differ by, as a share of them. */
    private static double error(int size) {
        return 1e-11 + 4e-16 * size;
    }

    private double weight(float logit, float largest) {
        // The largest first: infinity minus itself is no number, and its weight is 1.
        double weight = logit == largest ? 1 : Math.exp(((double) logit - largest) / options.temperature());
        return weight > 0 ? weight : 0;
    }

    private int draw(float[] logits, float largest, double draw) {
        double total = 0;
        for (int id = 0; id < logits.length; id++) {
            weights[id] = weight(logits[id], largest);
            total += weights[id];
        }
        boolean limited = options.topK() > 0 && options.topK() < logits.length;
        int count = limited || options.topP() < 1 ? rank(logits, total) : keepAll(logits.length);
        double whole = total;
        if (limited) {
            whole = 0;
            for (int i = 0; i < count; i++) {
                whole += weights[id(candidates[i])];
            }
        }
        return pick(keep(count, options.topP() < 1 ? options.topP() * whole : Double.POSITIVE_INFINITY), draw);
    }

    /** Moves those candidates to the front that top-p and min-p keep, adds up what they weigh, and returns how many they are. */
    private int keep(int count, double nucleus) {
        int kept = 0;
        left = 0;
        for (int i = 0; i < count && left < nucleus; i++) {
            double weight = weights[id(candidates[i])];
            if (weight >= options.minP() && weight > 0) {
                candidates[kept++] = candidates[i];
                left += weight;
            }
        }
        return kept;
    }

    private int pick(int kept, double draw) {
        double target = draw * left;
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
