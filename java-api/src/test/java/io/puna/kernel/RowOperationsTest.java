package io.puna.kernel;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.puna.kernel.Fixtures.Cpu;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Operations on rows against their formulas in double, on every instruction set, alone and with helpers. */
class RowOperationsTest {
    private static final long[][] SHAPES = {{1, 1}, {1, 64}, {3, 7}, {5, 33}, {2, 1021}, {67, 40}, {0, 8}};

    private final Arena arena = Arena.ofShared();
    private final Random random = new Random(42);

    static List<Cpu> cpus() {
        return Fixtures.cpus();
    }

    @AfterEach
    void close() {
        arena.close();
    }

    @ParameterizedTest
    @MethodSource("cpus")
    void dequantizeIsExact(Cpu cpu) {
        try (Device device = cpu.open()) {
            for (DType dtype : DType.values()) {
                if (dtype.code() < 0) {
                    continue;
                }
                for (int blocks : new int[] {1, 3}) {
                    Tensor w = Fixtures.weight(arena, random, dtype, 5, (long) blocks * dtype.blockElements());
                    Tensor y = Fixtures.random(arena, random, 5, w.shape().columns());
                    Dequantize.forward(device, y, w);
                    float[][] expected = Fixtures.decode(w);
                    for (int row = 0; row < 5; row++) {
                        assertThat(y.rows(row, 1).toFloatArray()).as("%s row %d", dtype, row).isEqualTo(expected[row]);
                    }
                }
            }
        }
    }

    @ParameterizedTest
    @MethodSource("cpus")
    void embeddingIsExact(Cpu cpu) {
        int[] ids = {6, 0, 3, 3, 5};
        try (Device device = cpu.open()) {
            for (DType dtype : DType.values()) {
                if (dtype.code() < 0) {
                    continue;
                }
                Tensor table = Fixtures.weight(arena, random, dtype, 7, 2L * dtype.blockElements());
                Tensor y = Fixtures.random(arena, random, ids.length, table.shape().columns());
                Embedding.forward(device, y, table, Tensor.of(arena, ids, Shape.of(ids.length)));
                float[][] expected = Fixtures.decode(table);
                for (int row = 0; row < ids.length; row++) {
                    assertThat(y.rows(row, 1).toFloatArray()).as("%s row %d", dtype, row).isEqualTo(expected[ids[row]]);
                }
            }
        }
    }

    @ParameterizedTest
    @MethodSource("cpus")
    void rmsNorm(Cpu cpu) {
        float eps = 1e-5f;
        try (Device device = cpu.open()) {
            for (long[] shape : SHAPES) {
                for (DType dtype : List.of(DType.F32, DType.F16, DType.BF16)) {
                    Tensor x = Fixtures.random(arena, random, shape[0], shape[1]);
                    Tensor weight = Fixtures.weight(arena, random, dtype, 1, shape[1]).reshape(Shape.of(shape[1]));
                    Tensor y = Fixtures.random(arena, random, shape[0], shape[1]);
                    Tensor rstd = Fixtures.random(arena, random, 1, shape[0]);
                    RmsNorm.forward(device, y, rstd, x, weight, eps);
                    float[] g = Fixtures.decode(weight)[0];
                    double[][] values = Fixtures.values(x);
                    for (int row = 0; row < shape[0]; row++) {
                        double squares = 0;
                        for (double value : values[row]) {
                            squares += value * value;
                        }
                        double expected = 1 / Math.sqrt(squares / shape[1] + eps);
                        Fixtures.assertClose(rstd.getFloat(0, row), expected, 2e-6 * expected, row);
                        for (int column = 0; column < shape[1]; column++) {
                            double scaled = values[row][column] * expected * g[column];
                            Fixtures.assertClose(y.getFloat(row, column), scaled, 2e-6 * Math.abs(scaled) + 1e-30, row, column);
                        }
                    }
                    RmsNorm.forward(device, x, x, weight, eps);
                    assertThat(x.toFloatArray()).as("in place").isEqualTo(y.toFloatArray());
                }
            }
        }
    }

    @ParameterizedTest
    @MethodSource("cpus")
    void addIsExact(Cpu cpu) {
        try (Device device = cpu.open()) {
            for (long[] shape : SHAPES) {
                Tensor x = Fixtures.random(arena, random, shape[0], shape[1]);
                Tensor y = Fixtures.random(arena, random, shape[0], shape[1]);
                float[] expected = y.toFloatArray();
                float[] addend = x.toFloatArray();
                for (int i = 0; i < expected.length; i++) {
                    expected[i] += addend[i];
                }
                Add.forward(device, y, x);
                assertThat(y.toFloatArray()).isEqualTo(expected);
            }
        }
    }

    @ParameterizedTest
    @MethodSource("cpus")
    void swiGlu(Cpu cpu) {
        try (Device device = cpu.open()) {
            for (long[] shape : SHAPES) {
                for (int gap : new int[] {0, 5}) {
                    long rows = shape[0];
                    long columns = shape[1];
                    Tensor packed = Fixtures.strided(arena, random, rows, 2 * columns, gap);
                    Tensor gate = packed.columns(0, columns);
                    Tensor up = packed.columns(columns, columns);
                    for (long row = 0; row < rows; row++) {
                        Fixtures.set(gate, row, 0, (row - 1) * 60); // far out, where exp(-a) overflows F32
                    }
                    Tensor y = Fixtures.strided(arena, random, rows, columns, gap);
                    SwiGlu.forward(device, y, gate, up);
                    double[][] a = Fixtures.values(gate);
                    double[][] b = Fixtures.values(up);
                    for (int row = 0; row < rows; row++) {
                        for (int column = 0; column < columns; column++) {
                            double expected = a[row][column] / (1 + Math.exp(-a[row][column])) * b[row][column];
                            Fixtures.assertClose(y.getFloat(row, column), expected, 2e-6 * Math.abs(expected) + 1e-24, row, column);
                        }
                    }
                    assertThat(Fixtures.gapsAreUntouched(y)).isTrue();
                    SwiGlu.forward(device, gate, gate, up);
                    assertThat(gate.toFloatArray()).as("in place").isEqualTo(y.toFloatArray());
                }
            }
        }
    }

    @ParameterizedTest
    @MethodSource("cpus")
    void logSoftmax(Cpu cpu) {
        try (Device device = cpu.open()) {
            for (long[] shape : SHAPES) {
                Tensor x = Fixtures.random(arena, random, shape[0], shape[1]);
                for (long row = 0; row < shape[0]; row++) {
                    Fixtures.set(x, row, row % shape[1], 30 * row - 90); // differences that exp turns to 0 or would overflow
                }
                Tensor y = Fixtures.random(arena, random, shape[0], shape[1]);
                LogSoftmax.forward(device, y, x);
                double[][] values = Fixtures.values(x);
                for (int row = 0; row < shape[0]; row++) {
                    double max = Double.NEGATIVE_INFINITY;
                    for (double value : values[row]) {
                        max = Math.max(max, value);
                    }
                    double sum = 0;
                    for (double value : values[row]) {
                        sum += Math.exp(value - max);
                    }
                    for (int column = 0; column < shape[1]; column++) {
                        double expected = values[row][column] - max - Math.log(sum);
                        Fixtures.assertClose(y.getFloat(row, column), expected, 2e-6 * (1 + Math.abs(expected)), row, column);
                    }
                }
                LogSoftmax.forward(device, x, x);
                assertThat(x.toFloatArray()).as("in place").isEqualTo(y.toFloatArray());
            }
        }
    }

    @ParameterizedTest
    @MethodSource("cpus")
    void argMaxIsTheLowestOfEquals(Cpu cpu) {
        try (Device device = cpu.open()) {
            for (long[] shape : SHAPES) {
                int rows = (int) shape[0];
                int columns = (int) shape[1];
                Tensor x = Fixtures.random(arena, random, rows, columns);
                int[] expected = new int[rows];
                for (int row = 0; row < rows; row++) {
                    for (int column = 0; column < columns; column += 2) {
                        Fixtures.set(x, row, column, Float.NaN);
                    }
                    if (columns > 1) {
                        int first = 2 * random.nextInt(columns / 2) + 1; // odd: even columns are NaN
                        expected[row] = first;
                        for (int column = first; column < columns; column += 4) {
                            Fixtures.set(x, row, column, 2);
                        }
                    }
                }
                Tensor indices = Tensor.allocate(arena, DType.I32, Shape.of(rows));
                ArgMax.forward(device, indices, x);
                assertThat(indices.toIntArray()).isEqualTo(expected);
            }
        }
    }

    @ParameterizedTest
    @MethodSource("cpus")
    void candidatesAreTheLargestInOrderAndWhatAllWeigh(Cpu cpu) {
        try (Device device = cpu.open(); Workspace workspace = new Workspace()) {
            float[] values = {1, 4, -2, 4, 3, Float.NaN};
            Tensor x = Tensor.of(arena, values, Shape.of(1, 6));
            Tensor largest = Tensor.allocate(arena, DType.F32, Shape.of(1, 4));
            Tensor ids = Tensor.allocate(arena, DType.I32, Shape.of(1, 4));
            double[] sums = new double[Candidates.PARTS];
            Candidates.forward(device, workspace, largest, ids, sums, x, 0.5);
            assertThat(largest.toFloatArray()).containsExactly(4, 4, 3, 1);
            assertThat(ids.toIntArray()).containsExactly(1, 3, 4, 0);
            for (int i = 0; i < 5; i++) {
                assertThat(sums[i]).isCloseTo(Math.exp((values[i] - 4) / 0.5), within(1e-12));
            }
            assertThat(Arrays.stream(sums, 5, sums.length)).containsOnly(0.0);
            assertThatThrownBy(() -> Candidates.forward(device, workspace, largest, ids, new double[255], x, 1))
                    .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("sums: expected 1 rows of 256");
            assertThatThrownBy(() -> Candidates.forward(device, workspace, largest, ids, sums, x, 0))
                    .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("temperature: expected");
            Candidates.forward(device, workspace, largest, ids, null, x, 0);
            assertThat(ids.toIntArray()).containsExactly(1, 3, 4, 0);
        }
    }

    @ParameterizedTest
    @MethodSource("cpus")
    void ropeRotatesPairsOfEitherLayout(Cpu cpu) {
        int[] positions = {0, 1, 17, 4095, 131071};
        int rows = positions.length;
        float magnitude = 1.25f;
        try (Device device = cpu.open()) {
            for (int headWidth : new int[] {2, 6, 64, 80}) {
                float[] frequencies = new float[headWidth / 2];
                for (int i = 0; i < frequencies.length; i++) {
                    frequencies[i] = (float) Math.pow(10000, -2.0 * i / headWidth);
                }
                Tensor table = Tensor.allocate(arena, DType.F32, Shape.of(rows, headWidth / 2, 2));
                Rope.table(device, table, Tensor.of(arena, frequencies, Shape.of(headWidth / 2)),
                        Tensor.of(arena, positions, Shape.of(rows)), magnitude);
                double[][] rotations = Fixtures.values(table.reshape(Shape.of(rows, headWidth)));
                for (int row = 0; row < rows; row++) {
                    for (int i = 0; i < headWidth / 2; i++) {
                        double angle = positions[row] * frequencies[i]; // rounded to F32
                        Fixtures.assertClose(rotations[row][2 * i], Math.cos(angle) * magnitude, 1e-6, row, i, 0);
                        Fixtures.assertClose(rotations[row][2 * i + 1], Math.sin(angle) * magnitude, 1e-6, row, i, 1);
                    }
                }
                for (Rope.Layout layout : Rope.Layout.values()) {
                    for (int gap : new int[] {0, 3}) {
                        int heads = 3;
                        Tensor x = Fixtures.strided(arena, random, rows, (long) heads * headWidth, gap);
                        double[][] before = Fixtures.values(x);
                        Rope.forward(device, x, table, layout, headWidth);
                        for (int row = 0; row < rows; row++) {
                            for (int head = 0; head < heads; head++) {
                                for (int i = 0; i < headWidth / 2; i++) {
                                    boolean interleaved = layout == Rope.Layout.INTERLEAVED;
                                    int first = head * headWidth + (interleaved ? 2 * i : i);
                                    int second = first + (interleaved ? 1 : headWidth / 2);
                                    double a = before[row][first];
                                    double b = before[row][second];
                                    double c = rotations[row][2 * i];
                                    double s = rotations[row][2 * i + 1];
                                    Fixtures.assertClose(x.getFloat(row, first), a * c - b * s, 5e-7, row, first);
                                    Fixtures.assertClose(x.getFloat(row, second), a * s + b * c, 5e-7, row, second);
                                }
                            }
                        }
                        assertThat(Fixtures.gapsAreUntouched(x)).isTrue();
                    }
                }
            }
        }
    }
}
