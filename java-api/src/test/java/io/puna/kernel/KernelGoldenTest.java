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
import java.util.Set;
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

    private static final Set<String> TRAINING = Set.of("embedding_backward", "rmsnorm_backward", "swiglu_backward", "rope_backward",
            "matmul_backward", "attention_backward", "cross_entropy", "adamw");

    static List<Arguments> forwardOnEveryCpu() throws IOException {
        return casesOnEveryCpu(false);
    }

    static List<Arguments> trainingOnEveryCpu() throws IOException {
        return casesOnEveryCpu(true);
    }

    private static List<Arguments> casesOnEveryCpu(boolean training) throws IOException {
        List<Arguments> arguments = new ArrayList<>();
        int index = 0;
        for (JsonNode golden : new ObjectMapper().readTree(TestData.fixture("kernels.json").toFile()).get("cases")) {
            if (TRAINING.contains(golden.get("op").textValue()) != training) {
                continue;
            }
            String name = index++ + " " + golden.get("op").textValue();
            for (Fixtures.Cpu cpu : Fixtures.cpus()) {
                arguments.add(Arguments.argumentSet(name + " " + cpu, golden, cpu));
            }
        }
        return arguments;
    }

    @ParameterizedTest
    @MethodSource("forwardOnEveryCpu")
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

    /** Against autograd's gradients. Those that accumulate begin at zero here. */
    @ParameterizedTest
    @MethodSource("trainingOnEveryCpu")
    void gradientsAsPyTorchComputesThem(JsonNode golden, Fixtures.Cpu cpu) throws IOException {
        try (Device device = cpu.open(); Workspace workspace = new Workspace(); Arena arena = Arena.ofShared()) {
            switch (golden.get("op").textValue()) {
                case "embedding_backward" -> {
                    Tensor dtable = like(arena, golden.get("dtable"));
                    Embedding.backward(device, dtable, tensor(arena, golden.get("ids")), tensor(arena, golden.get("dy")));
                    assertClose(dtable, tensor(arena, golden.get("dtable")));
                }
                case "rmsnorm_backward" -> {
                    Tensor dx = like(arena, golden.get("dx"));
                    Tensor dg = like(arena, golden.get("dg"));
                    Tensor x = tensor(arena, golden.get("x"));
                    Tensor g = tensor(arena, golden.get("g"));
                    Tensor rstd = tensor(arena, golden.get("rstd"));
                    Tensor dy = tensor(arena, golden.get("dy"));
                    RmsNorm.backward(device, dx, dg, x, g, rstd, dy, true);
                    assertClose(dx, tensor(arena, golden.get("dx")));
                    assertClose(dg, tensor(arena, golden.get("dg")));
                    RmsNorm.backward(device, dy, null, x, g, rstd, dy, false);
                    assertThat(dy.toFloatArray()).as("in place").isEqualTo(dx.toFloatArray());
                }
                case "swiglu_backward" -> {
                    Tensor gate = tensor(arena, golden.get("gate"));
                    Tensor up = tensor(arena, golden.get("up"));
                    SwiGlu.backward(device, gate, up, gate, up, tensor(arena, golden.get("dy")));
                    assertClose(gate, tensor(arena, golden.get("dgate")));
                    assertClose(up, tensor(arena, golden.get("dup")));
                }
                case "rope_backward" -> {
                    Tensor dx = tensor(arena, golden.get("dy"));
                    Rope.backward(device, dx, tensor(arena, golden.get("table")),
                            Rope.Layout.valueOf(golden.get("layout").textValue()), golden.get("HD").longValue());
                    assertClose(dx, tensor(arena, golden.get("dx")));
                }
                case "matmul_backward" -> {
                    Tensor dx = like(arena, golden.get("dx"));
                    Tensor dw = like(arena, golden.get("dw"));
                    Tensor dy = tensor(arena, golden.get("dy"));
                    Tensor w = tensor(arena, golden.get("w"));
                    MatMul.inputBackward(device, workspace, dx, w, dy, false);
                    MatMul.weightBackward(device, workspace, dw, tensor(arena, golden.get("x")), dy);
                    assertClose(dx, tensor(arena, golden.get("dx")));
                    assertClose(dw, tensor(arena, golden.get("dw")));
                    float[] once = dx.toFloatArray();
                    MatMul.inputBackward(device, workspace, dx, w, dy, true);
                    float[] twice = dx.toFloatArray();
                    for (int i = 0; i < once.length; i++) {
                        Fixtures.assertClose(twice[i], 2 * once[i], 1e-5 * Math.abs(once[i]) + 1e-5, i);
                    }
                }
                case "attention_backward" -> {
                    Tensor dq = like(arena, golden.get("dq"));
                    Tensor dk = like(arena, golden.get("dk"));
                    Tensor dv = like(arena, golden.get("dv"));
                    Attention.backward(device, workspace, dq, dk, dv, tensor(arena, golden.get("q")), tensor(arena, golden.get("k")),
                            tensor(arena, golden.get("v")), tensor(arena, golden.get("y")), tensor(arena, golden.get("lse")),
                            tensor(arena, golden.get("dy")), golden.get("B").longValue(), golden.get("NH").longValue(),
                            golden.get("NKV").longValue(), golden.get("HD").longValue(), golden.get("window").longValue(),
                            golden.get("scale").floatValue());
                    assertClose(dq, tensor(arena, golden.get("dq")));
                    assertClose(dk, tensor(arena, golden.get("dk")));
                    assertClose(dv, tensor(arena, golden.get("dv")));
                }
                case "cross_entropy" -> {
                    Tensor logits = tensor(arena, golden.get("logits"));
                    Tensor targets = tensor(arena, golden.get("targets"));
                    Tensor losses = like(arena, golden.get("losses"));
                    int ignored = golden.get("ignored").intValue();
                    CrossEntropy.forwardBackward(device, losses, null, logits, targets, ignored, 1);
                    assertClose(losses, tensor(arena, golden.get("losses")));
                    CrossEntropy.forwardBackward(device, losses, logits, logits, targets, ignored, golden.get("scale").floatValue());
                    assertClose(losses, tensor(arena, golden.get("losses")));
                    assertClose(logits, tensor(arena, golden.get("dlogits")));
                }
                case "adamw" -> {
                    Tensor w = tensor(arena, golden.get("w"));
                    Tensor m = like(arena, golden.get("w"));
                    Tensor v = like(arena, golden.get("w"));
                    Tensor gradients = tensor(arena, golden.get("gradients"));
                    for (long step = 1; step <= gradients.shape().rows(); step++) {
                        AdamW.step(device, w, m, v, gradients.rows(step - 1, 1), step, 0.01, 0.9, 0.95, 1e-8, 0.1, 0.5);
                    }
                    assertClose(w, tensor(arena, golden.get("y")));
                    double squares = 0;
                    for (float value : gradients.toFloatArray()) {
                        squares += (double) value * value;
                    }
                    Fixtures.assertClose(GradientNorm.squared(device, workspace, gradients), squares, 1e-12 * squares);
                }
                default -> throw new IllegalArgumentException("op: " + golden.get("op"));
            }
        }
    }

    /** {@return zeros of an expected tensor's shape} */
    private static Tensor like(Arena arena, JsonNode node) throws IOException {
        Tensor tensor = tensor(arena, node);
        tensor.segment().fill((byte) 0);
        return tensor;
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
