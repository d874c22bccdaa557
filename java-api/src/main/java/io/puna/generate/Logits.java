package io.puna.generate;

import io.puna.kernel.ArgMax;
import io.puna.kernel.Candidates;
import io.puna.kernel.LogSoftmax;
import io.puna.kernel.Workspace;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.List;
import java.util.stream.IntStream;

/** The logits of a next token, where they were computed: what choosing one takes is all that comes to the host. */
final class Logits implements AutoCloseable {
    private final Device device;
    private final Arena arena = Arena.ofShared();
    private final Workspace workspace = new Workspace();
    private final Tensor logits;
    private final Tensor logSoftmax;
    private final Tensor best;
    private final Tensor values;
    private final Tensor ids;
    private final double[] sums = new double[Candidates.PARTS];
    private final float[] row;

    Logits(Device device, int vocabularySize) {
        this.device = device;
        try {
            Shape shape = Shape.of(1, vocabularySize);
            logits = device.allocate(arena, DType.F32, shape);
            logSoftmax = device.allocate(arena, DType.F32, shape);
            best = Tensor.allocate(arena, DType.I32, Shape.of(1));
            Shape largest = Shape.of(1, Math.min(vocabularySize, Candidates.MAX));
            values = Tensor.allocate(arena, DType.F32, largest);
            ids = Tensor.allocate(arena, DType.I32, largest);
            row = new float[vocabularySize];
        } catch (RuntimeException | Error e) {
            arena.close();
            throw e;
        }
    }

    /** Where a step writes them: (1, V). */
    Tensor tensor() {
        return logits;
    }

    int size() {
        return row.length;
    }

    /** The id of the largest. */
    int argMax() {
        ArgMax.forward(device, best, logits);
        int id = best.segment().get(ValueLayout.JAVA_INT, 0);
        if (Float.isNaN(part(id, 1)[0])) {
            throw new IllegalStateException("logits: expected numbers, got NaN; the weights may be damaged");
        }
        return id;
    }

    /** Finds the n largest for {@link #value} and {@link #id}. */
    void findLargest(int n) {
        Candidates.forward(device, workspace, values.columns(0, n), ids.columns(0, n), null, logits, 0);
    }

    /** Finds the n largest, and the {@link #sums} of weights exp((logit - largest) / temperature). */
    void findLargest(int n, double temperature) {
        Candidates.forward(device, workspace, values.columns(0, n), ids.columns(0, n), sums, logits, temperature);
    }

    /** The i-th of the largest. */
    float value(int i) {
        return values.segment().getAtIndex(ValueLayout.JAVA_FLOAT, i);
    }

    /** The id of the i-th of the largest. */
    int id(int i) {
        return ids.segment().getAtIndex(ValueLayout.JAVA_INT, i);
    }

    /** What each part weighs, always the same array: {@link Candidates#PARTS}. */
    double[] sums() {
        return sums;
    }

    /** A copy of some of them. */
    float[] part(int from, int count) {
        return logits.columns(from, count).toFloatArray();
    }

    /** A copy of all that may be changed, always the same array. */
    float[] row() {
        logits.copyTo(row);
        return row;
    }

    TokenLogprob logprob(int token, int top) {
        LogSoftmax.forward(device, logSoftmax, logits);
        return new TokenLogprob(token, logSoftmax.columns(token, 1).toFloatArray()[0], mostProbable(Math.min(top, row.length)));
    }

    private List<TokenLogprob> mostProbable(int count) {
        if (count > Candidates.MAX) {
            float[] logprobs = logSoftmax.toFloatArray();
            return IntStream.range(0, logprobs.length).mapToLong(id -> Sampler.key(logprobs[id], id)).sorted().limit(count)
                    .mapToInt(Sampler::id).mapToObj(id -> new TokenLogprob(id, logprobs[id], List.of())).toList();
        }
        if (count > 0) {
            Candidates.forward(device, workspace, values.columns(0, count), ids.columns(0, count), null, logSoftmax, 0);
        }
        return IntStream.range(0, count).mapToObj(i -> new TokenLogprob(id(i), value(i), List.of())).toList();
    }

    @Override
    public void close() {
        workspace.close();
        arena.close();
    }
}
