package io.puna.model;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.puna.LlamaModel;
import io.puna.ModelOptions;
import io.puna.TestData;
import io.puna.generate.GenerationOptions;
import io.puna.generate.Session;
import io.puna.kernel.KvCache;
import io.puna.kernel.MatMul;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Quantised models with activations rounded to 8 and to 16 bits.
 *
 * <p>The tolerance is that of a naive computation in the same precision: the scalar reference kernels, which round the activations
 * alike and add in double. Against the exact logits the fast kernels may be off by twice what those are.
 */
class IntegerActivationsTest {
    private static final ModelOptions EXACT = ReferenceModelTest.OPTIONS;
    private static final ModelOptions INT8 = EXACT.withActivations(MatMul.Activations.INT8);
    private static final ModelOptions INT16 = EXACT.withActivations(MatMul.Activations.INT16);

    static List<Arguments> quantisedCases() throws IOException {
        List<Arguments> quantised = new ArrayList<>();
        for (Arguments arguments : ReferenceModelTest.cases()) {
            ReferenceModelTest.Case test = (ReferenceModelTest.Case) arguments.get()[0];
            try (LlamaModel model = LlamaModel.open(test.model(), EXACT)) {
                LlamaWeights.Block block = model.weights().blocks().getFirst();
                if (block.query().dtype().isQuantized() || block.down().dtype().isQuantized()) {
                    quantised.add(arguments);
                }
            }
        }
        assertThat(quantised).hasSizeGreaterThanOrEqualTo(3);
        return quantised;
    }

    /** Logits of every position. */
    private static float[][] logits(Path file, ModelOptions options, int[] ids) throws IOException {
        try (LlamaModel model = LlamaModel.open(file, options); Session session = model.newSession();
                Arena arena = Arena.ofConfined()) {
            Tensor all = session.logits(arena, ids);
            return IntStream.range(0, ids.length).mapToObj(i -> all.rows(i, 1).toFloatArray()).toArray(float[][]::new);
        }
    }

    private static float[][] naiveLogits(Path file, int[] ids) throws IOException {
        try (Device device = Device.cpu(1, Device.Isa.REFERENCE)) {
            return logits(file, INT8.withDevice(device), ids);
        }
    }

    private static double largestDifference(float[] a, float[] b) {
        return IntStream.range(0, a.length).mapToDouble(i -> Math.abs(a[i] - b[i])).max().orElseThrow();
    }

    private static double largestDifference(float[][] a, float[][] b) {
        return IntStream.range(0, a.length).mapToDouble(i -> largestDifference(a[i], b[i])).max().orElseThrow();
    }

    private static int best(float[] logits) {
        return IntStream.range(0, logits.length).reduce((a, b) -> logits[b] > logits[a] ? b : a).orElseThrow();
    }

    /**
     * After every prefix of prompt and greedy tokens int8 chooses the token that the reference chose, or one whose exact logit is
     * less than the tolerance below: what no computation in this precision could tell apart.
     */
    private static void assertSameChoices(Path file, int[] prompt, int[] greedy, String where) throws IOException {
        int[] ids = IntStream.concat(IntStream.of(prompt), IntStream.of(greedy).limit(greedy.length - 1)).toArray();
        float[][] exact = logits(file, EXACT, ids);
        float[][] int8 = logits(file, INT8, ids);
        double tolerance = 2 * largestDifference(naiveLogits(file, ids), exact);
        assertThat(largestDifference(int8, exact)).as("%s: error of a logit", where).isPositive().isLessThanOrEqualTo(tolerance);
        for (int i = 0; i < greedy.length; i++) {
            float[] row = exact[prompt.length - 1 + i];
            int chosen = best(int8[prompt.length - 1 + i]);
            if (chosen != greedy[i]) {
                double margin = row[greedy[i]] - row[chosen];
                double error = largestDifference(int8[prompt.length - 1 + i], row);
                System.getLogger(IntegerActivationsTest.class.getName()).log(System.Logger.Level.INFO,
                        "{0}, token {1}: {2} in place of {3}, exact logits {4} apart, error {5}, tolerance {6}", where, i, chosen,
                        greedy[i], margin, error, tolerance);
                assertThat(margin).as("%s, token %d: %d in place of %d", where, i, chosen, greedy[i]).isLessThanOrEqualTo(tolerance);
            }
        }
    }

    /** The reference's text, generated freely, and logits that are off by what 8 more bits leave of the error of 8. */
    private static void assertSameText(Path file, int[] prompt, int[] greedy, String where) throws IOException {
        try (LlamaModel model = LlamaModel.open(file, INT16); Session session = model.newSession()) {
            GenerationOptions options = GenerationOptions.builder().maxTokens(greedy.length).ignoreEos(true).build();
            assertThat(session.generate(prompt, options).tokens()).as(where).isEqualTo(IntStream.of(greedy).boxed().toList());
        }
        float[][] exact = logits(file, EXACT, prompt);
        double error = largestDifference(logits(file, INT16, prompt), exact);
        assertThat(error).as("%s: error of a logit", where).isLessThan(largestDifference(logits(file, INT8, prompt), exact) / 64);
    }

    private static void assertSame(Path file, int[] prompt, int[] greedy, String where) throws IOException {
        assertSameChoices(file, prompt, greedy, where);
        assertSameText(file, prompt, greedy, where);
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("quantisedCases")
    void smallModelsSayWhatTheReferenceSays(ReferenceModelTest.Case test) throws IOException {
        for (JsonNode prompt : test.prompts()) {
            assertSame(test.model(), ReferenceModelTest.ints(prompt.get("ids")), ReferenceModelTest.ints(prompt.get("greedy")),
                    test + ", prompt of " + prompt.get("ids").size());
        }
    }

    @ParameterizedTest
    @CsvSource({"gguf/babyllama-tok361-Q8_0.gguf, babyllama-tok361-Q8_0", "gguf/babyllama-tok361-Q4_0.gguf, babyllama-tok361-Q4_0"})
    void trainedModelsSayWhatTheReferenceSays(String file, String reference) throws IOException {
        JsonNode expected = new ObjectMapper().readTree(TestData.require("reference/" + reference + ".json").toFile());
        for (JsonNode prompt : expected.get("prompts")) {
            assertSame(TestData.require(file), ReferenceModelTest.ints(prompt.get("prompt_ids")),
                    ReferenceModelTest.ints(prompt.get("greedy_ids")), reference + ", " + prompt.get("prompt"));
        }
    }

    /** Whatever the threads, however a prompt is cut into steps, and token by token as in generating. */
    @ParameterizedTest(name = "{0}")
    @MethodSource("quantisedCases")
    void sameBits(ReferenceModelTest.Case test) throws IOException {
        sameBits(test, INT8);
        sameBits(test, INT16);
    }

    private static void sameBits(ReferenceModelTest.Case test, ModelOptions options) throws IOException {
        int[] ids = ReferenceModelTest.ints(test.prompts().getLast().get("ids"));
        float[][] bits = logits(test.model(), options.withThreads(1), ids);
        for (int threads : new int[] {1, 2, 3, 7}) {
            for (int stepTokens : new int[] {1, 7, 64}) {
                assertThat(logits(test.model(), options.withThreads(threads).withStepTokens(stepTokens), ids))
                        .as("%s, %s, %d threads, %d tokens a step", test, options.activations(), threads, stepTokens)
                        .isDeepEqualTo(bits);
            }
        }
        try (LlamaModel model = LlamaModel.open(test.model(), options); Session session = model.newSession()) {
            List<Integer> tokens = session.generate(ids, GenerationOptions.builder().maxTokens(3).ignoreEos(true).build()).tokens();
            assertThat(tokens.getFirst()).isEqualTo(best(bits[ids.length - 1]));
        }
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("quantisedCases")
    void sequencesThatShareAStepGetTheBitsTheyGetAlone(ReferenceModelTest.Case test) throws IOException {
        sequencesThatShareAStep(test, INT8);
        sequencesThatShareAStep(test, INT16);
    }

    private static void sequencesThatShareAStep(ReferenceModelTest.Case test, ModelOptions options) throws IOException {
        int[] text = ReferenceModelTest.ints(test.prompts().getLast().get("ids"));
        int[] lengths = {1, text.length, Math.min(5, text.length)};
        try (Device device = Device.cpu(2); LlamaModel model = LlamaModel.open(test.model(), options.withDevice(device));
                LlamaForward forward = new LlamaForward(device, model.config(), model.weights(), options.activations(), 128);
                Session alone = model.newSession(); Arena arena = Arena.ofConfined()) {
            LlamaConfig config = model.config();
            List<LlamaForward.Part> parts = new ArrayList<>();
            for (int length : lengths) {
                KvCache cache = KvCache.allocate(config.layers(), config.keyValueHeads(), config.headWidth(), 128, DType.F32);
                parts.add(new LlamaForward.Part(cache, text, 0, length, 1, length));
            }
            Tensor logits = Tensor.allocate(arena, DType.F32, Shape.of(parts.size(), config.vocabularySize()));
            forward.step(parts, logits);
            for (int i = 0; i < lengths.length; i++) {
                assertThat(logits.rows(i, 1).toFloatArray()).as("%s, %d tokens", test, lengths[i])
                        .isEqualTo(alone.logits(Arrays.copyOf(text, lengths[i])));
            }
            parts.forEach(part -> part.cache().close());
        }
    }
}
