package io.puna.kernel;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.puna.TestData;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** Every operation against PyTorch's, in double on the same float inputs; {@code make_kernels.py} wrote both. */
class KernelGoldenTest {
    /**
     * Of the largest expected value: 80 times the rounding unit of F32, where the longest sum here has 512 terms of random sign.
     * A wrong index, factor or mask is off by thousands of times that.
     */
    private static final double TOLERANCE = 1e-5;

    static List<Arguments> casesOnEveryCpu() throws IOException {
        List<Arguments> arguments = new ArrayList<>();
        int index = 0;
        for (JsonNode golden : new ObjectMapper().readTree(TestData.fixture("kernels.json").toFile()).get("cases")) {
            String name = index++ + " " + golden.get("op").textValue();
            for (Fixtures.Cpu cpu : Fixtures.cpus()) {
                arguments.add(Arguments.argumentSet(name + " " + cpu, golden, cpu));
            }
        }
        return arguments;
    }

    @ParameterizedTest
    @MethodSource("casesOnEveryCpu")
    void asPyTorchComputesIt(JsonNode golden, Fixtures.Cpu cpu) throws IOException {
        try (Device device = cpu.open(); Workspace workspace = new Workspace(); Arena arena = Arena.ofShared()) {
            Tensor expected = tensor(arena, golden.get("y"));
            Tensor y = Tensor.allocate(arena, DType.F32, expected.shape());
            switch (golden.get("op").textValue()) {
                case "rmsnorm" -> RmsNorm.forward(device, y, tensor(arena, golden.get("x")), tensor(arena, golden.get("g")),
                        golden.get("eps").floatValue());
                case "swiglu" -> SwiGlu.forward(device, y, tensor(arena, golden.get("gate")), tensor(arena, golden.get("up")));
                case "log_softmax" -> LogSoftmax.forward(device, y, tensor(arena, golden.get("x")));
                case "rope" -> {
                    y = tensor(arena, golden.get("x"));
                    long headWidth = golden.get("HD").longValue();
                    Tensor table = Tensor.allocate(arena, DType.F32, Shape.of(y.shape().rows(), headWidth));
                    Rope.table(device, table, tensor(arena, golden.get("frequencies")), tensor(arena, golden.get("positions")),
                            golden.get("magnitude").floatValue());
                    Rope.forward(device, y, table, Rope.Layout.valueOf(golden.get("layout").textValue()), headWidth);
                }
                case "attention" -> {
                    Tensor expectedLse = tensor(arena, golden.get("lse"));
                    Tensor lse = Tensor.allocate(arena, DType.F32, expectedLse.shape());
                    Attention.forward(device, workspace, y, lse, tensor(arena, golden.get("q")), tensor(arena, golden.get("k")),
                            tensor(arena, golden.get("v")), golden.get("B").longValue(), golden.get("NH").longValue(),
                            golden.get("NKV").longValue(), golden.get("HD").longValue(), golden.get("window").longValue(),
                            golden.get("scale").floatValue());
                    assertClose(lse, expectedLse);
                }
                case "matmul" -> MatMul.forward(device, workspace, y, tensor(arena, golden.get("x")), tensor(arena, golden.get("w")));
                default -> throw new IllegalArgumentException("op: " + golden.get("op"));
            }
            assertClose(y, expected);
        }
    }

    private static Tensor tensor(Arena arena, JsonNode node) throws IOException {
        List<Long> dims = new ArrayList<>();
        node.get("shape").forEach(dim -> dims.add(dim.longValue()));
        Shape shape = Shape.of(dims.stream().mapToLong(Long::longValue).toArray());
        Tensor tensor = Tensor.allocate(arena, DType.valueOf(node.get("dtype").textValue()), shape);
        tensor.segment().copyFrom(MemorySegment.ofArray(node.get("base64").binaryValue()));
        return tensor;
    }

    private static void assertClose(Tensor actual, Tensor expected) {
        assertThat(actual.shape()).isEqualTo(expected.shape());
        float[] actuals = actual.toFloatArray();
        float[] expecteds = expected.toFloatArray();
        double largest = 0;
        for (float value : expecteds) {
            largest = Math.max(largest, Math.abs(value));
        }
        for (int i = 0; i < expecteds.length; i++) {
            Fixtures.assertClose(actuals[i], expecteds[i], TOLERANCE * largest, i);
        }
    }
}
