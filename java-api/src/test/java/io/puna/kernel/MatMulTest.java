package io.puna.kernel;

import static org.assertj.core.api.Assertions.assertThat;

import io.puna.kernel.Fixtures.Cpu;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.util.List;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** The matrix product against sums in double over weights that plain Java decoded. */
class MatMulTest {
    private final Arena arena = Arena.ofShared();
    private final Workspace workspace = new Workspace();
    private Random random;

    static Stream<Arguments> cpusAndTypes() {
        return Fixtures.cpus().stream().flatMap(cpu -> Stream.of(DType.values()).filter(dtype -> dtype.code() >= 0)
                .map(dtype -> Arguments.of(cpu, dtype)));
    }

    @BeforeEach
    void open() {
        random = new Random(7);
    }

    @AfterEach
    void close() {
        workspace.close();
        arena.close();
    }

    private static void assertProduct(Tensor y, double[][] before, Tensor x, Tensor w) {
        double[][] activations = Fixtures.values(x);
        float[][] weights = Fixtures.decode(w);
        for (int row = 0; row < activations.length; row++) {
            for (int n = 0; n < weights.length; n++) {
                double sum = before[row][n];
                double magnitude = Math.abs(sum);
                for (int k = 0; k < weights[n].length; k++) {
                    double product = activations[row][k] * weights[n][k];
                    sum += product;
                    magnitude += Math.abs(product);
                }
                Fixtures.assertClose(y.getFloat(row, n), sum, 1e-6 * magnitude, row, n);
            }
        }
        assertThat(Fixtures.gapsAreUntouched(y)).isTrue();
    }

    @ParameterizedTest
    @MethodSource("cpusAndTypes")
    void multipliesAndAccumulates(Cpu cpu, DType dtype) {
        try (Device device = cpu.open()) {
            for (int rows : new int[] {1, 2, 7, 19}) {
                for (int n : new int[] {1, 5, 33}) {
                    for (int blocks : dtype.isQuantized() ? new int[] {1, 2, 3} : new int[] {1, 29, 130}) {
                        int gap = n % 2 * 3;
                        Tensor x = Fixtures.strided(arena, random, rows, (long) blocks * dtype.blockElements(), gap);
                        Tensor w = Fixtures.weight(arena, random, dtype, n, (long) blocks * dtype.blockElements());
                        Tensor y = Fixtures.strided(arena, random, rows, n, gap);
                        MatMul.forward(device, workspace, y, x, w);
                        assertProduct(y, new double[rows][n], x, w);
                        double[][] before = Fixtures.values(y);
                        MatMul.accumulate(device, workspace, y, x, w);
                        assertProduct(y, before, x, w);
                    }
                }
            }
        }
    }

    @ParameterizedTest
    @MethodSource("cpusAndTypes")
    void severalProductsShareTheirActivations(Cpu cpu, DType dtype) {
        try (Device device = cpu.open()) {
            int rows = 5;
            int columns = 256;
            Tensor x = Fixtures.random(arena, random, rows, columns);
            Tensor packed = Fixtures.strided(arena, random, rows, 24 + 8 + 8, 2);
            List<Tensor> ys = List.of(packed.columns(0, 24), packed.columns(24, 8), packed.columns(32, 8));
            List<Tensor> ws = List.of(Fixtures.weight(arena, random, dtype, 24, columns),
                    Fixtures.weight(arena, random, DType.F16, 8, columns), Fixtures.weight(arena, random, DType.Q6_K, 8, columns));
            for (int count = 1; count <= 3; count++) {
                MatMul.forward(device, workspace, ys.subList(0, count), x, ws.subList(0, count));
                for (int i = 0; i < count; i++) {
                    Tensor alone = Fixtures.random(arena, random, rows, ws.get(i).shape().rows());
                    MatMul.forward(device, alone, x, ws.get(i));
                    assertThat(ys.get(i).toFloatArray()).isEqualTo(alone.toFloatArray());
                    assertProduct(alone, new double[rows][24], x, ws.get(i));
                }
            }
            assertThat(Fixtures.gapsAreUntouched(packed)).isTrue();
        }
    }

    @ParameterizedTest
    @MethodSource("cpusAndTypes")
    void aRowsBitsHangOnNothingBesideIt(Cpu cpu, DType dtype) {
        try (Device device = cpu.open(); Device alone = Device.cpu(1, cpu.isa())) {
            int rows = 13;
            Tensor x = Fixtures.random(arena, random, rows, 512);
            Tensor w = Fixtures.weight(arena, random, dtype, 37, 512);
            Tensor y = Fixtures.random(arena, random, rows, 37);
            MatMul.forward(device, workspace, y, x, w);
            Tensor one = Fixtures.random(arena, random, 1, 37);
            for (int row = 0; row < rows; row++) {
                MatMul.forward(alone, workspace, one, x.rows(row, 1), w);
                assertThat(one.toFloatArray()).as("row %d", row).isEqualTo(y.rows(row, 1).toFloatArray());
            }
        }
    }

    @Test
    void noRowsAreNothingToDo() {
        try (Device device = Device.cpu(2)) {
            Tensor w = Fixtures.weight(arena, random, DType.F32, 4, 8);
            MatMul.forward(device, workspace, Fixtures.random(arena, random, 0, 4), Fixtures.random(arena, random, 0, 8), w);
        }
    }
}
