package io.puna.kernel;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * What every operation refuses. Each operation is described once, by a call that works; every tensor of it is then replaced by each
 * kind of wrong one, and the exception must name the argument. What is peculiar to an operation follows by hand.
 */
class ArgumentsTest {
    private static final Arena ARENA = Arena.ofShared();
    private static final Device DEVICE = Device.cpu(2);
    private static final Workspace WORKSPACE = new Workspace();

    @AfterAll
    static void close() {
        WORKSPACE.close();
        DEVICE.close();
        ARENA.close();
    }

    /** Arguments that may be null, in one operation at least. */
    private static final Set<String> OPTIONAL = Set.of("lse", "dweight", "dlogits");

    @FunctionalInterface
    private interface Call {
        void with(Device device, Tensor... tensors);
    }

    /** How a tensor is used: a name, whether it is written, whether it must be contiguous, whether any weight type will do. */
    private record Use(String name, boolean written, boolean contiguous, boolean anyType, Tensor tensor) {
    }

    private record Operation(String name, Call call, List<Use> uses) {
        Tensor[] tensors() {
            return uses.stream().map(Use::tensor).toArray(Tensor[]::new);
        }
    }

    private static Tensor f32(long... dims) {
        return Tensor.allocate(ARENA, DType.F32, Shape.of(dims));
    }

    private static Tensor i32(long... dims) {
        return Tensor.allocate(ARENA, DType.I32, Shape.of(dims));
    }

    private static Use in(String name, Tensor tensor) {
        return new Use(name, false, true, false, tensor);
    }

    private static Use weight(String name, Tensor tensor) {
        return new Use(name, false, true, true, tensor);
    }

    private static Use out(String name, Tensor tensor) {
        return new Use(name, true, true, false, tensor);
    }

    private static Use inRows(String name, Tensor tensor) {
        return new Use(name, false, false, false, tensor);
    }

    private static Use outRows(String name, Tensor tensor) {
        return new Use(name, true, false, false, tensor);
    }

    private static List<Operation> operations() {
        return List.of(
                new Operation("Dequantize", (d, t) -> Dequantize.forward(d, t[0], t[1]),
                        List.of(out("y", f32(3, 8)), weight("w", f32(3, 8)))),
                new Operation("Embedding", (d, t) -> Embedding.forward(d, t[0], t[1], t[2]),
                        List.of(out("y", f32(3, 8)), weight("table", f32(5, 8)), in("ids", i32(3)))),
                new Operation("RmsNorm", (d, t) -> RmsNorm.forward(d, t[0], t[1], t[2], t[3], 1e-5f),
                        List.of(out("y", f32(3, 8)), out("rstd", f32(3)), in("x", f32(3, 8)), weight("weight", f32(8)))),
                new Operation("Add", (d, t) -> Add.forward(d, t[0], t[1]), List.of(out("y", f32(3, 8)), in("x", f32(3, 8)))),
                new Operation("SwiGlu", (d, t) -> SwiGlu.forward(d, t[0], t[1], t[2]),
                        List.of(outRows("y", f32(3, 8)), inRows("gate", f32(3, 8)), inRows("up", f32(3, 8)))),
                new Operation("LogSoftmax", (d, t) -> LogSoftmax.forward(d, t[0], t[1]),
                        List.of(out("y", f32(3, 8)), in("x", f32(3, 8)))),
                new Operation("ArgMax", (d, t) -> ArgMax.forward(d, t[0], t[1]),
                        List.of(out("indices", i32(3)), in("x", f32(3, 8)))),
                new Operation("Candidates", (d, t) -> Candidates.forward(d, WORKSPACE, t[0], t[1], new double[3 * Candidates.PARTS], t[2], 1),
                        List.of(out("values", f32(3, 2)), out("ids", i32(3, 2)), in("x", f32(3, 8)))),
                new Operation("Rope.table", (d, t) -> Rope.table(d, t[0], t[1], t[2], 1),
                        List.of(out("table", f32(3, 4, 2)), in("frequencies", f32(4)), in("positions", i32(3)))),
                new Operation("Rope", (d, t) -> Rope.forward(d, t[0], t[1], Rope.Layout.HALVES, 4),
                        List.of(outRows("x", f32(3, 8)), in("table", f32(3, 2, 2)))),
                new Operation("MatMul", (d, t) -> MatMul.forward(d, WORKSPACE, t[0], t[1], t[2]),
                        List.of(outRows("y", f32(3, 5)), inRows("x", f32(3, 8)), weight("w", f32(5, 8)))),
                new Operation("MatMul alone", (d, t) -> MatMul.forward(d, t[0], t[1], t[2]),
                        List.of(outRows("y", f32(3, 5)), inRows("x", f32(3, 8)), weight("w", f32(5, 8)))),
                new Operation("MatMul.accumulate", (d, t) -> MatMul.accumulate(d, WORKSPACE, t[0], t[1], t[2]),
                        List.of(outRows("y", f32(3, 5)), inRows("x", f32(3, 8)), weight("w", f32(5, 8)))),
                new Operation("MatMul of three",
                        (d, t) -> MatMul.forward(d, WORKSPACE, list(t[0], t[2], t[4]), t[6], list(t[1], t[3], t[5])),
                        List.of(outRows("ys[0]", f32(3, 5)), weight("ws[0]", f32(5, 8)), outRows("ys[1]", f32(3, 2)),
                                weight("ws[1]", f32(2, 8)), outRows("ys[2]", f32(3, 2)), weight("ws[2]", f32(2, 8)),
                                inRows("x", f32(3, 8)))),
                new Operation("Attention", (d, t) -> Attention.forward(d, WORKSPACE, t[0], t[1], t[2], t[3], t[4], 1, 4, 2, 2, 0, 1),
                        List.of(outRows("y", f32(3, 8)), out("lse", f32(4, 3)), inRows("q", f32(3, 8)), inRows("k", f32(5, 4)),
                                inRows("v", f32(5, 4)))),
                new Operation("Embedding.backward", (d, t) -> Embedding.backward(d, t[0], t[1], t[2]),
                        List.of(out("dtable", f32(5, 8)), in("ids", i32(3)), in("dy", f32(3, 8)))),
                new Operation("RmsNorm.backward", (d, t) -> RmsNorm.backward(d, t[0], t[1], t[2], t[3], t[4], t[5], true),
                        List.of(out("dx", f32(3, 8)), out("dweight", f32(8)), in("x", f32(3, 8)), weight("weight", f32(8)),
                                in("rstd", f32(3)), in("dy", f32(3, 8)))),
                new Operation("SwiGlu.backward", (d, t) -> SwiGlu.backward(d, t[0], t[1], t[2], t[3], t[4]),
                        List.of(outRows("dgate", f32(3, 8)), outRows("dup", f32(3, 8)), inRows("gate", f32(3, 8)),
                                inRows("up", f32(3, 8)), inRows("dy", f32(3, 8)))),
                new Operation("Rope.backward", (d, t) -> Rope.backward(d, t[0], t[1], Rope.Layout.HALVES, 4),
                        List.of(outRows("dx", f32(3, 8)), in("table", f32(3, 2, 2)))),
                new Operation("MatMul.inputBackward", (d, t) -> MatMul.inputBackward(d, WORKSPACE, t[0], t[1], t[2], false),
                        List.of(outRows("dx", f32(3, 8)), weight("w", f32(5, 8)), inRows("dy", f32(3, 5)))),
                new Operation("MatMul.weightBackward", (d, t) -> MatMul.weightBackward(d, WORKSPACE, t[0], t[1], t[2]),
                        List.of(out("dw", f32(5, 8)), inRows("x", f32(3, 8)), inRows("dy", f32(3, 5)))),
                new Operation("Attention.backward",
                        (d, t) -> Attention.backward(d, WORKSPACE, t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], 1, 4, 2, 2,
                                0, 1),
                        List.of(outRows("dq", f32(3, 8)), outRows("dk", f32(5, 4)), outRows("dv", f32(5, 4)), inRows("q", f32(3, 8)),
                                inRows("k", f32(5, 4)), inRows("v", f32(5, 4)), inRows("y", f32(3, 8)), in("lse", f32(4, 3)),
                                inRows("dy", f32(3, 8)))),
                new Operation("CrossEntropy", (d, t) -> CrossEntropy.forwardBackward(d, t[0], t[1], t[2], t[3], -1, 1),
                        List.of(out("losses", f32(3)), out("dlogits", f32(3, 8)), in("logits", f32(3, 8)), in("targets", i32(3)))),
                new Operation("AdamW", (d, t) -> AdamW.step(d, t[0], t[1], t[2], t[3], 1, 0.1, 0.9, 0.9, 0, 0, 1),
                        List.of(out("w", f32(3, 8)), out("m", f32(3, 8)), out("v", f32(3, 8)), in("gradient", f32(3, 8)))),
                new Operation("KvStep.append", (d, t) -> inStep(step -> step.append(d, 0, t[0], t[1])),
                        List.of(inRows("k", f32(3, 4)), inRows("v", f32(3, 4)))),
                new Operation("KvStep.attend", (d, t) -> inStep(step -> step.attend(d, t[0], t[1], 0, 4, 0, 1)),
                        List.of(outRows("y", f32(3, 8)), inRows("q", f32(3, 8)))));
    }

    private static List<Tensor> list(Tensor... tensors) {
        List<Tensor> list = new ArrayList<>();
        list.addAll(Arrays.asList(tensors)); // unlike List.of it takes a null
        return list;
    }

    /** Runs an action in a step of 3 rows against 2 layers of 2 heads of 2. */
    private static void inStep(Consumer<KvStep> action) {
        try (KvCache cache = KvCache.allocate(2, 2, 2, 4, DType.F32);
             KvStep step = KvStep.begin(WORKSPACE, List.of(new KvStep.Part(cache, 3)))) {
            action.accept(step);
        }
    }

    @TestFactory
    Stream<DynamicTest> wrongTensorsAreRefusedByName() {
        List<DynamicTest> tests = new ArrayList<>();
        for (Operation operation : operations()) {
            tests.add(DynamicTest.dynamicTest(operation.name() + " works", () -> operation.call().with(DEVICE, operation.tensors())));
            tests.add(DynamicTest.dynamicTest(operation.name() + ": no device",
                    () -> assertThatThrownBy(() -> operation.call().with(null, operation.tensors()))
                            .isInstanceOf(NullPointerException.class).hasMessageContaining("device")));
            tests.add(DynamicTest.dynamicTest(operation.name() + ": closed device", () -> {
                Device closed = Device.cpu(1);
                closed.close();
                assertThatThrownBy(() -> operation.call().with(closed, operation.tensors()))
                        .isInstanceOf(IllegalStateException.class).hasMessage("device is closed");
            }));
            for (int i = 0; i < operation.uses().size(); i++) {
                Use use = operation.uses().get(i);
                Tensor tensor = use.tensor();
                long rows = tensor.shape().rows();
                long columns = tensor.shape().columns();
                if (!OPTIONAL.contains(use.name())) {
                    refused(tests, operation, i, "null", null, NullPointerException.class);
                }
                DType other = tensor.dtype() == DType.F32 ? DType.I32 : DType.F32;
                refused(tests, operation, i, "wrong type", Tensor.of(tensor.segment(), other, tensor.shape()),
                        IllegalArgumentException.class);
                if (!use.anyType()) {
                    refused(tests, operation, i, "F16", Tensor.allocate(ARENA, DType.F16, tensor.shape()),
                            IllegalArgumentException.class);
                }
                refused(tests, operation, i, "closed memory", closed(tensor), IllegalStateException.class);
                if (!Set.of("ArgMax", "Candidates").contains(operation.name()) || use.written()) { // these take rows of any width
                    refused(tests, operation, i, "a column more", like(tensor, rows, columns + 1), IllegalArgumentException.class);
                }
                refused(tests, operation, i, "no columns", like(tensor, rows, 0), IllegalArgumentException.class);
                boolean anyRows = use.name().endsWith("table") && operation.name().startsWith("Embedding");
                if (rows > 1 && !anyRows) {
                    refused(tests, operation, i, "a row more", like(tensor, rows + 1, columns), IllegalArgumentException.class);
                    refused(tests, operation, i, "a row less", like(tensor, rows - 1, columns), IllegalArgumentException.class);
                    if (use.contiguous()) {
                        refused(tests, operation, i, "a gap", like(tensor, rows, columns + 1).columns(0, columns),
                                IllegalArgumentException.class);
                    }
                }
                if (use.written()) {
                    refused(tests, operation, i, "read-only memory",
                            Tensor.of(tensor.segment().asReadOnly(), tensor.dtype(), tensor.shape()), IllegalArgumentException.class);
                    for (int j = 0; j < operation.uses().size(); j++) {
                        if (j != i) {
                            overlap(tests, operation, i, j);
                        }
                    }
                }
            }
        }
        return tests.stream();
    }

    private static Tensor like(Tensor tensor, long rows, long columns) {
        return Tensor.allocate(ARENA, tensor.dtype(), Shape.of(rows, columns));
    }

    private static Tensor closed(Tensor tensor) {
        try (Arena arena = Arena.ofConfined()) {
            return Tensor.allocate(arena, tensor.dtype(), tensor.shape());
        }
    }

    private static void refused(List<DynamicTest> tests, Operation operation, int index, String what, Tensor wrong,
                                Class<? extends Exception> exception) {
        String name = operation.uses().get(index).name();
        tests.add(DynamicTest.dynamicTest(operation.name() + ", " + name + ": " + what, () -> {
            Tensor[] tensors = operation.tensors();
            tensors[index] = wrong;
            // A shape that two arguments must share may be blamed on the other one, so the test asks for any argument's name there.
            String names = what.contains("row") || what.contains("column")
                    ? String.join("|", operation.uses().stream().map(Use::name).toList()) + "|columns of x|elements of frequencies"
                    : name;
            assertThatThrownBy(() -> operation.call().with(DEVICE, tensors)).isExactlyInstanceOf(exception)
                    .hasMessageMatching("(" + names.replace("[", "\\[") + "): .+|puna_\\w+: .+ is 0, expected at least 1");
        }));
    }

    /** An output that begins inside another argument, one element in. */
    private static void overlap(List<DynamicTest> tests, Operation operation, int index, int otherIndex) {
        Use use = operation.uses().get(index);
        Use other = operation.uses().get(otherIndex);
        tests.add(DynamicTest.dynamicTest(operation.name() + ", " + use.name() + ": overlaps " + other.name(), () -> {
            Tensor[] tensors = operation.tensors();
            long bytes = Math.max(use.tensor().byteSize() + 4, other.tensor().byteSize());
            var memory = ARENA.allocate(bytes, 64);
            tensors[index] = Tensor.of(memory.asSlice(4), use.tensor().dtype(), use.tensor().shape());
            tensors[otherIndex] = Tensor.of(memory, other.tensor().dtype(), other.tensor().shape());
            assertThatThrownBy(() -> operation.call().with(DEVICE, tensors)).isExactlyInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining(use.name()).hasMessageContaining(other.name()).hasMessageContaining("overlaps it");
        }));
    }

    @Test
    void confinedMemoryOfAnotherThreadIsRefused() throws InterruptedException {
        Throwable[] thrown = new Throwable[1];
        try (Arena confined = Arena.ofConfined()) {
            Tensor y = Tensor.allocate(confined, DType.F32, Shape.of(8));
            Thread thread = Thread.ofPlatform().start(() -> {
                try {
                    Add.forward(DEVICE, y, f32(8));
                } catch (Throwable e) {
                    thrown[0] = e;
                }
            });
            thread.join();
        }
        assertThat(thrown[0]).isInstanceOf(WrongThreadException.class).hasMessageContaining("y: expected memory of this thread");
    }

    @ParameterizedTest
    @CsvSource({"-1", "5", "2147483647", "-2147483648"})
    void idsOutOfRangeAreRefusedUntouched(int id) {
        Tensor y = Tensor.of(ARENA, new float[] {1, 2, 3, 4}, Shape.of(2, 2));
        Tensor ids = Tensor.of(ARENA, new int[] {0, id}, Shape.of(2));
        assertThatThrownBy(() -> Embedding.forward(DEVICE, y, f32(5, 2), ids)).isExactlyInstanceOf(IllegalArgumentException.class)
                .hasMessage("puna_embedding_forward: ids[1] is " + id + ", expected 0 to 4");
        assertThat(y.toFloatArray()).containsExactly(1, 2, 3, 4);
    }

    @Test
    void numbersOutOfRangeAreRefusedByName() {
        Tensor x = f32(3, 8);
        for (float eps : new float[] {-1, Float.NaN, Float.POSITIVE_INFINITY}) {
            refused("eps: ", () -> RmsNorm.forward(DEVICE, f32(3, 8), x, f32(8), eps));
        }
        refused("weight: expected F32, F16 or BF16, got Q8_0 (32)", () -> RmsNorm.forward(DEVICE, f32(3, 32), f32(3, 32),
                Tensor.allocate(ARENA, DType.Q8_0, Shape.of(32)), 1));
        refused("magnitude: ", () -> Rope.table(DEVICE, f32(3, 8), f32(4), i32(3), Float.NaN));
        refused("puna_rope_table: positions[0] is -1",
                () -> Rope.table(DEVICE, f32(1, 8), f32(4), Tensor.of(ARENA, new int[] {-1}, Shape.of(1)), 1));
        for (long headWidth : new long[] {0, -2, 3, Long.MIN_VALUE}) {
            refused("headWidth: expected an even number, at least 2, got " + headWidth,
                    () -> Rope.forward(DEVICE, x, f32(3, 8), Rope.Layout.HALVES, headWidth));
        }
        refused("x: expected rows of whole heads of 6", () -> Rope.forward(DEVICE, x, f32(3, 6), Rope.Layout.HALVES, 6));
        assertThatThrownBy(() -> Rope.forward(DEVICE, x, f32(3, 8), null, 8)).isInstanceOf(NullPointerException.class)
                .hasMessage("layout");
        refused("up: expected the row stride of gate, 8, got row stride 9",
                () -> SwiGlu.forward(DEVICE, f32(3, 8), x, f32(3, 9).columns(0, 8)));
    }

    @Test
    void trainingsNumbersAreChecked() {
        Tensor targets = Tensor.of(ARENA, new int[] {0, -1, 8}, Shape.of(3));
        refused("puna_cross_entropy_forward_backward: targets[2] is 8, expected 0 to 7, or -1 to ignore the row",
                () -> CrossEntropy.forwardBackward(DEVICE, f32(3), f32(3, 8), f32(3, 8), targets, -1, 1));
        refused("scale: ", () -> CrossEntropy.forwardBackward(DEVICE, f32(3), null, f32(3, 8), i32(3), -1, Float.NaN));
        refused("puna_embedding_backward: ids[0] is -1",
                () -> Embedding.backward(DEVICE, f32(5, 2), Tensor.of(ARENA, new int[] {-1}, Shape.of(1)), f32(1, 2)));
        refused("w: expected F32, F16 or BF16, got Q8_0 (5, 32)", () -> MatMul.inputBackward(DEVICE, WORKSPACE, f32(3, 32),
                Tensor.allocate(ARENA, DType.Q8_0, Shape.of(5, 32)), f32(3, 5), false));
        refused("x: expected F32", () -> GradientNorm.squared(DEVICE, WORKSPACE, i32(3)));
        adamW("step: ", 0, 0.1, 0.9, 0.95, 0, 0, 1);
        adamW("learningRate: ", 1, Double.POSITIVE_INFINITY, 0.9, 0.95, 0, 0, 1);
        adamW("beta1: ", 1, 0.1, 1, 0.95, 0, 0, 1);
        adamW("beta2: ", 1, 0.1, 0.9, Double.NaN, 0, 0, 1);
        adamW("eps: ", 1, 0.1, 0.9, 0.95, -1, 0, 1);
        adamW("weightDecay: ", 1, 0.1, 0.9, 0.95, 0, -1, 1);
        adamW("gradientScale: ", 1, 0.1, 0.9, 0.95, 0, 0, Double.NEGATIVE_INFINITY);
    }

    private static void adamW(String message, long step, double learningRate, double beta1, double beta2, double eps,
                              double weightDecay, double gradientScale) {
        refused(message, () -> AdamW.step(DEVICE, f32(8), f32(8), f32(8), f32(8), step, learningRate, beta1, beta2, eps, weightDecay,
                gradientScale));
    }

    @Test
    void attentionsNumbersAreChecked() {
        attention("sequences: ", 0, 4, 2, 2, 0, 1);
        attention("q: expected as many rows for each of 2 sequences", 2, 4, 2, 2, 0, 1);
        attention("heads: expected at least 1, got 0", 1, 0, 2, 2, 0, 1);
        attention("heads: expected a multiple of the 3 key/value heads, got 4", 1, 4, 3, 2, 0, 1);
        attention("keyValueHeads: ", 1, 4, -2, 2, 0, 1);
        attention("headWidth: ", 1, 4, 2, 0, 0, 1);
        attention("heads: expected rows of fewer than 2^63 elements", 1, Long.MAX_VALUE, 2, 2, 0, 1);
        attention("keyValueHeads: expected rows of fewer than 2^63 elements", 1, 4, Long.MAX_VALUE, 2, 0, 1);
        attention("window: ", 1, 4, 2, 2, -1, 1);
        attention("scale: ", 1, 4, 2, 2, 0, Float.NEGATIVE_INFINITY);
        refused("k: expected at least as many rows as q, 3", () -> Attention.forward(DEVICE, WORKSPACE, f32(3, 8), null, f32(3, 8),
                f32(2, 4), f32(2, 4), 1, 4, 2, 2, 0, 1));
        refused("v: expected the row stride of k, 4", () -> Attention.forward(DEVICE, WORKSPACE, f32(3, 8), null, f32(3, 8),
                f32(5, 4), f32(5, 6).columns(0, 4), 1, 4, 2, 2, 0, 1));
    }

    private static void attention(String message, long sequences, long heads, long keyValueHeads, long headWidth, long window,
                                  float scale) {
        refused(message, () -> Attention.forward(DEVICE, WORKSPACE, f32(3, 8), null, f32(3, 8), f32(5, 4), f32(5, 4), sequences,
                heads, keyValueHeads, headWidth, window, scale));
    }

    @Test
    void productsAreOneToThreeOnOneWorkspace() {
        Tensor x = f32(3, 8);
        Tensor w = f32(5, 8);
        Tensor y = f32(3, 5);
        refused("number of ys: expected 1 to 3, got 0", () -> MatMul.forward(DEVICE, WORKSPACE, List.of(), x, List.of()));
        refused("number of ys: expected 1 to 3, got 4",
                () -> MatMul.forward(DEVICE, WORKSPACE, List.of(y, y, y, y), x, List.of(w, w, w, w)));
        refused("ws: expected 2 tensors, as many as ys, got 1",
                () -> MatMul.forward(DEVICE, WORKSPACE, List.of(y, f32(3, 5)), x, List.of(w)));
        refused("ys[1]: expected memory apart from ys[0]",
                () -> MatMul.forward(DEVICE, WORKSPACE, List.of(y, y), x, List.of(w, w)));
        assertThatThrownBy(() -> MatMul.forward(DEVICE, null, y, x, w)).isInstanceOf(NullPointerException.class)
                .hasMessage("workspace");
    }

    @Test
    void aliasingIsRefusedOnlyInPart() {
        Tensor packed = f32(3, 16);
        Tensor gate = packed.columns(0, 8);
        Tensor up = packed.columns(8, 8);
        assertThatCode(() -> SwiGlu.forward(DEVICE, up, gate, up)).doesNotThrowAnyException();
        refused("y: expected the memory of gate or memory apart from it",
                () -> SwiGlu.forward(DEVICE, packed.columns(4, 8), gate, up));
        assertThatCode(() -> MatMul.forward(DEVICE, WORKSPACE, up, gate, f32(8, 8))).doesNotThrowAnyException();
        refused("y: expected memory apart from x", () -> MatMul.forward(DEVICE, WORKSPACE, packed.columns(7, 8), gate, f32(8, 8)));
        refused("y: expected memory apart from x", () -> Add.forward(DEVICE, packed, packed));
        Tensor rows = f32(6, 8);
        assertThatCode(() -> Add.forward(DEVICE, rows.rows(0, 3), rows.rows(3, 3))).doesNotThrowAnyException();
        refused("y: ", () -> LogSoftmax.forward(DEVICE, rows.rows(1, 3), rows.rows(0, 3)));
    }

    @Test
    void cachesHaveSaneSizes() {
        cache("layers: expected 1 to 2147483647, got 0", 0, 1, 1, 1, DType.F32);
        cache("keyValueHeads: ", 1, -1, 1, 1, DType.F32);
        cache("headWidth: ", 1, 1, 0, 1, DType.F32);
        cache("capacity: ", 1, 1, 1, Integer.MIN_VALUE, DType.F32);
        cache("dtype: expected F32, F16, BF16 or Q8_0, got Q4_0", 1, 1, 32, 1, DType.Q4_0);
        cache("headWidth: expected a multiple of 32, the block of Q8_0, got 80", 1, 1, 80, 1, DType.Q8_0);
        cache("capacity: expected a cache of fewer than 2^63 bytes", Integer.MAX_VALUE, Integer.MAX_VALUE, 2, 2, DType.F16);
        assertThatThrownBy(() -> KvCache.allocate(1 << 20, 1 << 20, 1 << 10, 1 << 10, DType.F16)).isInstanceOf(OutOfMemoryError.class)
                .hasMessageContaining("bytes of native memory");
    }

    private static void cache(String message, int layers, int keyValueHeads, int headWidth, int capacity, DType dtype) {
        refused(message, () -> KvCache.allocate(layers, keyValueHeads, headWidth, capacity, dtype).close());
    }

    @Test
    void stepsAreChecked() {
        try (KvCache cache = KvCache.allocate(2, 2, 2, 4, DType.F32);
             KvCache other = KvCache.allocate(2, 2, 2, 4, DType.F16)) {
            refused("rows: expected 1 to 2147483647, got 0", () -> new KvStep.Part(cache, 0));
            assertThatThrownBy(() -> new KvStep.Part(null, 1)).isInstanceOf(NullPointerException.class).hasMessage("cache");
            refused("parts: expected at least one, got none", () -> KvStep.begin(WORKSPACE, List.of()));
            refused("parts[0]: expected room for its rows in a cache of capacity 4, got 5 rows from position 0",
                    () -> KvStep.begin(WORKSPACE, List.of(new KvStep.Part(cache, 5))));
            refused("parts[1]: expected a cache like the first, F32, 2 layers, 2 heads of 2, got F16, 2 layers, 2 heads of 2",
                    () -> KvStep.begin(WORKSPACE, List.of(new KvStep.Part(cache, 1), new KvStep.Part(other, 1))));
            inStep(step -> {
                for (int layer : new int[] {-1, 2, Integer.MAX_VALUE}) {
                    assertThatThrownBy(() -> step.append(DEVICE, layer, f32(3, 4), f32(3, 4)))
                            .isInstanceOf(IndexOutOfBoundsException.class).hasMessage("layer: expected 0 to 1, got " + layer);
                    assertThatThrownBy(() -> step.attend(DEVICE, f32(3, 8), f32(3, 8), layer, 4, 0, 1))
                            .isInstanceOf(IndexOutOfBoundsException.class).hasMessage("layer: expected 0 to 1, got " + layer);
                }
                refused("heads: expected a multiple of the 2 key/value heads, got 3",
                        () -> step.attend(DEVICE, f32(3, 6), f32(3, 6), 0, 3, 0, 1));
                refused("heads: ", () -> step.attend(DEVICE, f32(3, 8), f32(3, 8), 0, 0, 0, 1));
                refused("window: ", () -> step.attend(DEVICE, f32(3, 8), f32(3, 8), 0, 4, -1, 1));
                refused("scale: ", () -> step.attend(DEVICE, f32(3, 8), f32(3, 8), 0, 4, 0, Float.NaN));
                refused("v: expected the row stride of k", () -> step.append(DEVICE, 0, f32(3, 4), f32(3, 6).columns(0, 4)));
            });
            assertThatCode(() -> KvStep.begin(WORKSPACE, List.of(new KvStep.Part(cache, 4))).close())
                    .as("what was refused holds nothing").doesNotThrowAnyException();
            refused("newLength: expected 0 to 0, got 1", () -> cache.truncate(1));
            refused("newLength: expected 0 to 0, got -1", () -> cache.truncate(-1));
        }
    }

    private static void refused(String message, ThrowingCallable call) {
        assertThatThrownBy(call).isExactlyInstanceOf(IllegalArgumentException.class).hasMessageStartingWith(message);
    }
}
