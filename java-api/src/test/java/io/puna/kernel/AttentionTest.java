package io.puna.kernel;

import static org.assertj.core.api.Assertions.assertThat;

import io.puna.kernel.Fixtures.Cpu;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Attention on plain arrays and against caches, held against softmax in double over a full row of scores. */
class AttentionTest {
    /** NH, NKV, HD. */
    private static final int[][] HEADS = {{1, 1, 2}, {4, 4, 8}, {8, 1, 64}, {6, 2, 80}, {3, 1, 128}, {2, 2, 17}};

    private final Arena arena = Arena.ofShared();
    private final Workspace workspace = new Workspace();
    private final Random random = new Random(3);

    static List<Cpu> cpus() {
        return Fixtures.cpus();
    }

    @AfterEach
    void close() {
        workspace.close();
        arena.close();
    }

    /** {@return y and, last, lse of one query head at a position, over the keys from row first of k and v} */
    private static double[] expected(double[] q, int head, double[][] k, double[][] v, int first, int keyValueHead, int headWidth,
                                     int position, int window, double scale) {
        int from = window == 0 ? 0 : Math.max(0, position - window + 1);
        double[] scores = new double[position + 1];
        double max = Double.NEGATIVE_INFINITY;
        for (int j = from; j <= position; j++) {
            for (int i = 0; i < headWidth; i++) {
                scores[j] += scale * q[head * headWidth + i] * k[first + j][keyValueHead * headWidth + i];
            }
            max = Math.max(max, scores[j]);
        }
        double sum = 0;
        double[] result = new double[headWidth + 1];
        for (int j = from; j <= position; j++) {
            double weight = Math.exp(scores[j] - max);
            sum += weight;
            for (int i = 0; i < headWidth; i++) {
                result[i] += weight * v[first + j][keyValueHead * headWidth + i];
            }
        }
        for (int i = 0; i < headWidth; i++) {
            result[i] /= sum;
        }
        result[headWidth] = max + Math.log(sum);
        return result;
    }

    @ParameterizedTest
    @MethodSource("cpus")
    void plainArrays(Cpu cpu) {
        try (Device device = cpu.open()) {
            for (int[] heads : HEADS) {
                for (int[] lengths : new int[][] {{1, 1}, {1, 70}, {9, 9}, {5, 12}}) {
                    for (int window : new int[] {0, 4}) {
                        plainArrays(device, heads, 2, lengths[0], lengths[1], window);
                    }
                }
            }
        }
    }

    private void plainArrays(Device device, int[] shape, int batch, int tokens, int keys, int window) {
        int heads = shape[0];
        int keyValueHeads = shape[1];
        int headWidth = shape[2];
        float scale = 2 / (float) Math.sqrt(headWidth);
        Tensor q = Fixtures.strided(arena, random, (long) batch * tokens, (long) heads * headWidth, 3);
        Tensor packed = Fixtures.strided(arena, random, (long) batch * keys, 2L * keyValueHeads * headWidth, 1);
        Tensor k = packed.columns(0, (long) keyValueHeads * headWidth);
        Tensor v = packed.columns((long) keyValueHeads * headWidth, (long) keyValueHeads * headWidth);
        Tensor y = Fixtures.strided(arena, random, (long) batch * tokens, (long) heads * headWidth, 2);
        Tensor lse = Tensor.allocate(arena, DType.F32, Shape.of(batch, heads, tokens));
        Attention.forward(device, workspace, y, lse, q, k, v, batch, heads, keyValueHeads, headWidth, window, scale);

        double[][] queries = Fixtures.values(q);
        double[][] keyRows = Fixtures.values(k);
        double[][] valueRows = Fixtures.values(v);
        for (int b = 0; b < batch; b++) {
            for (int t = 0; t < tokens; t++) {
                for (int h = 0; h < heads; h++) {
                    double[] expected = expected(queries[b * tokens + t], h, keyRows, valueRows, b * keys,
                            h / (heads / keyValueHeads), headWidth, keys - tokens + t, window, scale);
                    for (int i = 0; i < headWidth; i++) {
                        Fixtures.assertClose(y.getFloat(b * tokens + t, h * headWidth + i), expected[i], 3e-6, b, t, h, i);
                    }
                    Fixtures.assertClose(lse.getFloat(b * heads + h, t), expected[headWidth],
                            3e-6 * (1 + Math.abs(expected[headWidth])), b, h, t);
                }
            }
        }
        assertThat(Fixtures.gapsAreUntouched(y)).isTrue();

        float[] bits = y.toFloatArray();
        Attention.forward(device, workspace, y, null, q, k, v, batch, heads, keyValueHeads, headWidth, window, scale);
        assertThat(y.toFloatArray()).as("without lse").isEqualTo(bits);
    }

    /** Several sequences, each cut into steps at its own places, some truncated and run again. */
    @ParameterizedTest
    @MethodSource("cpus")
    void cachesOfManySequences(Cpu cpu) {
        int layers = 2;
        int[][][] stepsOfSequences = {{{5, 3}, {1, 1}, {70, 1}}, {{1, 1, 1}}, {{2, 40, 9}, {33, 2, 1}}};
        try (Device device = cpu.open()) {
            for (int[][] steps : stepsOfSequences) {
                for (DType dtype : KvCache.DTYPES) {
                    for (int window : new int[] {0, 6}) {
                        caches(device, layers, new int[] {6, 2, dtype == DType.Q8_0 ? 32 : 16}, steps, dtype, window);
                    }
                }
            }
        }
    }

    private void caches(Device device, int layers, int[] shape, int[][] steps, DType dtype, int window) {
        int heads = shape[0];
        int keyValueHeads = shape[1];
        int headWidth = shape[2];
        int count = steps[0].length;
        float scale = 1 / (float) Math.sqrt(headWidth);
        int[] totals = new int[count];
        for (int[] step : steps) {
            for (int s = 0; s < count; s++) {
                totals[s] += step[s];
            }
        }
        KvCache[] caches = new KvCache[count];
        Tensor[][] q = new Tensor[layers][count];
        Tensor[][] k = new Tensor[layers][count];
        Tensor[][] v = new Tensor[layers][count];
        Tensor[][] y = new Tensor[layers][count];
        for (int s = 0; s < count; s++) {
            caches[s] = KvCache.allocate(layers, keyValueHeads, headWidth, totals[s] + s, dtype);
            for (int layer = 0; layer < layers; layer++) {
                q[layer][s] = Fixtures.random(arena, random, totals[s], (long) heads * headWidth);
                k[layer][s] = Fixtures.random(arena, random, totals[s], (long) keyValueHeads * headWidth);
                v[layer][s] = Fixtures.random(arena, random, totals[s], (long) keyValueHeads * headWidth);
                y[layer][s] = Fixtures.random(arena, random, totals[s], (long) heads * headWidth);
            }
        }
        for (int[] step : steps) {
            step(device, caches, step, heads, window, scale, q, k, v, y);
        }
        float[][][] bits = new float[layers][count][];
        for (int s = 0; s < count; s++) {
            assertThat(caches[s].length()).isEqualTo(totals[s]);
            for (int layer = 0; layer < layers; layer++) {
                assertSequence(y[layer][s], q[layer][s], k[layer][s], v[layer][s], shape, dtype, window, scale);
                bits[layer][s] = y[layer][s].toFloatArray();
            }
        }

        int[] again = new int[count];
        for (int s = 0; s < count; s++) {
            again[s] = (totals[s] + 1) / 2;
            caches[s].truncate(totals[s] - again[s]);
        }
        step(device, caches, again, heads, window, scale, q, k, v, y);
        for (int s = 0; s < count; s++) {
            for (int layer = 0; layer < layers; layer++) {
                assertThat(y[layer][s].toFloatArray()).as("the same bits however a sequence is cut").isEqualTo(bits[layer][s]);
            }
            caches[s].close();
        }
    }

    /** Runs one step of all sequences, from their caches' lengths on. */
    private void step(Device device, KvCache[] caches, int[] rows, int heads, int window, float scale, Tensor[][] q, Tensor[][] k,
                      Tensor[][] v, Tensor[][] y) {
        List<KvStep.Part> parts = new ArrayList<>();
        for (int s = 0; s < caches.length; s++) {
            parts.add(new KvStep.Part(caches[s], rows[s]));
        }
        try (KvStep step = KvStep.begin(workspace, parts)) {
            for (int layer = 0; layer < q.length; layer++) {
                Tensor stepQ = gather(q[layer], parts, 5);
                Tensor stepY = Fixtures.strided(arena, random, step.rows(), stepQ.shape().columns(), 2);
                step.append(device, layer, gather(k[layer], parts, 3), gather(v[layer], parts, 3));
                step.attend(device, stepY, stepQ, layer, heads, window, scale);
                assertThat(Fixtures.gapsAreUntouched(stepY)).isTrue();
                long row = 0;
                for (int s = 0; s < caches.length; s++) {
                    copy(stepY.rows(row, rows[s]), y[layer][s].rows(caches[s].length(), rows[s]));
                    row += rows[s];
                }
            }
            step.commit();
        }
    }

    /** {@return the rows of a step, each sequence's from its cache's length on} */
    private Tensor gather(Tensor[] sequences, List<KvStep.Part> parts, int gap) {
        long rows = parts.stream().mapToLong(KvStep.Part::rows).sum();
        Tensor gathered = Fixtures.strided(arena, random, rows, sequences[0].shape().columns(), gap);
        long row = 0;
        for (int s = 0; s < sequences.length; s++) {
            KvStep.Part part = parts.get(s);
            copy(sequences[s].rows(part.cache().length(), part.rows()), gathered.rows(row, part.rows()));
            row += part.rows();
        }
        return gathered;
    }

    private static void copy(Tensor from, Tensor to) {
        for (long row = 0; row < from.shape().rows(); row++) {
            for (long column = 0; column < from.shape().columns(); column++) {
                Fixtures.set(to, row, column, from.getFloat(row, column));
            }
        }
    }

    private static void assertSequence(Tensor y, Tensor q, Tensor k, Tensor v, int[] shape, DType dtype, int window, float scale) {
        int heads = shape[0];
        int keyValueHeads = shape[1];
        int headWidth = shape[2];
        double[][] queries = Fixtures.values(q);
        double[][] keys = stored(k, dtype);
        double[][] rows = stored(v, dtype);
        for (int t = 0; t < queries.length; t++) {
            for (int h = 0; h < heads; h++) {
                double[] expected = expected(queries[t], h, keys, rows, 0, h / (heads / keyValueHeads), headWidth, t, window, scale);
                for (int i = 0; i < headWidth; i++) {
                    Fixtures.assertClose(y.getFloat(t, h * headWidth + i), expected[i], 3e-6, t, h, i);
                }
            }
        }
    }

    private static void quantise(double[] row, int from) {
        float largest = 0;
        for (int i = from; i < from + 32; i++) {
            largest = (float) Math.max(largest, Math.abs(row[i]));
        }
        float d = Float.float16ToFloat(Float.floatToFloat16(largest / 127));
        for (int i = from; i < from + 32; i++) {
            row[i] = d * Math.rint((float) row[i] * (127 / largest));
        }
    }

    /** Eight significant bits, ties to even. */
    private static double toBf16(double value) {
        double unit = Math.scalb(1.0, Math.getExponent(value) - 7);
        return Math.rint(value / unit) * unit;
    }

    private static double[][] stored(Tensor tensor, DType dtype) {
        double[][] values = Fixtures.values(tensor);
        if (dtype == DType.F16) {
            for (double[] row : values) {
                Arrays.setAll(row, i -> Float.float16ToFloat(Float.floatToFloat16((float) row[i])));
            }
        } else if (dtype == DType.BF16) {
            for (double[] row : values) {
                Arrays.setAll(row, i -> toBf16(row[i]));
            }
        } else if (dtype == DType.Q8_0) {
            for (double[] row : values) {
                for (int i = 0; i < row.length; i += 32) {
                    quantise(row, i);
                }
            }
        }
        return values;
    }
}
