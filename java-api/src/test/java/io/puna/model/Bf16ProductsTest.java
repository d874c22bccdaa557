package io.puna.model;

import static org.assertj.core.api.Assertions.assertThat;

import io.puna.LlamaModel;
import io.puna.ModelOptions;
import io.puna.generate.Session;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Models on a CPU whose products round their operands to BF16. The tolerance is that of a naive computation in the same precision: the
 * scalar reference kernels, which round alike and add in double. Against exact logits the fast kernels may be off by twice what those
 * are.
 */
class Bf16ProductsTest {
    static List<Arguments> cases() throws IOException {
        return ReferenceModelTest.cases();
    }

    /** Logits of every position, computed {@code chunk} tokens at a time. */
    private static float[][] logits(Path file, Device device, int[] ids, int chunk) throws IOException {
        ModelOptions options = ReferenceModelTest.OPTIONS.withDevice(device).withStepTokens(chunk);
        try (LlamaModel model = LlamaModel.open(file, options); Session session = model.newSession(); Arena arena = Arena.ofConfined()) {
            Tensor all = session.logits(arena, ids);
            return IntStream.range(0, ids.length).mapToObj(i -> all.rows(i, 1).toFloatArray()).toArray(float[][]::new);
        }
    }

    private static boolean hasPlainProducts(Path file) throws IOException {
        try (LlamaModel model = LlamaModel.open(file, ReferenceModelTest.OPTIONS)) {
            LlamaWeights weights = model.weights();
            LlamaWeights.Block block = weights.blocks().getFirst();
            return Stream.of(block.query(), block.value(), block.down(), weights.output()).anyMatch(w -> !w.dtype().isQuantized());
        }
    }

    private static double largestDifference(float[][] a, float[][] b) {
        return IntStream.range(0, a.length).mapToDouble(i -> IntStream.range(0, a[i].length)
                .mapToDouble(j -> Math.abs(a[i][j] - b[i][j])).max().orElseThrow()).max().orElseThrow();
    }

    @ParameterizedTest
    @MethodSource("cases")
    void logitsStayWithinTheRule(ReferenceModelTest.Case test) throws IOException {
        try (Device exact = Device.cpu(2); Device naive = Device.cpu(1, Device.Isa.REFERENCE, Device.Precision.BF16);
                Device rounding = Device.cpu(2, Device.Isa.AUTO, Device.Precision.BF16)) {
            Assumptions.assumeTrue(rounding.backend().contains("BF16"), "this processor has no products in BF16");
            int[] ids = ReferenceModelTest.ints(test.prompts().getFirst().get("ids"));
            float[][] wanted = logits(test.model(), exact, ids, ids.length);
            float[][] got = logits(test.model(), rounding, ids, ids.length);
            double tolerance = 2 * largestDifference(logits(test.model(), naive, ids, ids.length), wanted);
            assertThat(largestDifference(got, wanted)).isLessThanOrEqualTo(tolerance);
            assertThat(largestDifference(got, wanted) > 0).as("rounded").isEqualTo(hasPlainProducts(test.model()));
            assertThat(logits(test.model(), rounding, ids, 3)).as("three tokens a step").isDeepEqualTo(got);
        }
    }
}
