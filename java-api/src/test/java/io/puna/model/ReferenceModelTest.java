package io.puna.model;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.puna.LlamaModel;
import io.puna.ModelOptions;
import io.puna.TestData;
import io.puna.generate.GenerationOptions;
import io.puna.generate.GenerationResult;
import io.puna.generate.Session;
import io.puna.generate.TokenLogprob;
import io.puna.kernel.ArgMax;
import io.puna.kernel.KvCache;
import io.puna.kernel.MatMul;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Small random-weight models against what transformers computes for them in float32, in both formats: every shape of attention,
 * every RoPE scaling, every weight type. {@code make_models.py} and {@code make_gguf.py} wrote models and expectations.
 */
class ReferenceModelTest {
    /**
     * Of a logit, or of 1 for smaller ones. The reference itself is up to 5e-5 from the same model in double (its script asserts
     * that); leaving out what a case is about changes some logit by 0.01 at least (asserted there too).
     */
    static final double TOLERANCE = 1e-4;

    /** Holds prompt and greedy tokens of every case; some cases are made for less, so that their scaling sets in. */
    static final ModelOptions OPTIONS = ModelOptions.defaults().withContextLength(128).withThreads(2)
            .withActivations(MatMul.Activations.F32);

    /** A model and what is expected of it. */
    record Case(Path model, JsonNode expected) {
        @Override
        public String toString() {
            return model.getFileName().toString();
        }

        List<JsonNode> prompts() {
            List<JsonNode> prompts = new ArrayList<>();
            expected.get("prompts").forEach(prompts::add);
            return prompts;
        }
    }

    static List<Arguments> cases() throws IOException {
        List<Arguments> cases = new ArrayList<>();
        for (Path folder : list(TestData.fixture("models"))) {
            cases.add(arguments(folder, folder.resolve("expected.json")));
        }
        for (Path file : list(TestData.fixture("gguf"))) {
            String name = file.getFileName().toString();
            if (name.endsWith(".gguf")) {
                cases.add(arguments(file, file.resolveSibling(name.replace(".gguf", ".json"))));
            }
        }
        return cases;
    }

    private static Arguments arguments(Path model, Path expected) throws IOException {
        return Arguments.of(new Case(model, new ObjectMapper().readTree(expected.toFile())));
    }

    private static List<Path> list(Path folder) throws IOException {
        try (Stream<Path> paths = Files.list(folder)) {
            return paths.sorted().toList();
        }
    }

    @Test
    void thereAreCasesOfBothFormats() throws IOException {
        assertThat(list(TestData.fixture("models"))).hasSizeGreaterThan(20);
        assertThat(list(TestData.fixture("gguf"))).hasSizeGreaterThan(20);
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("cases")
    void logits(Case test) throws IOException {
        for (Device.Isa isa : List.of(Device.Isa.AUTO, Device.Isa.REFERENCE)) {
            try (Device device = Device.cpu(2, isa); LlamaModel model = LlamaModel.open(test.model(), OPTIONS.withDevice(device));
                    Session session = model.newSession(); Arena arena = Arena.ofConfined()) {
                for (JsonNode prompt : test.prompts()) {
                    int[] ids = ints(prompt.get("ids"));
                    assertClose(session.logits(ids), prompt.get("logits"), test + ", " + isa + ", prompt of " + ids.length);
                    if (prompt.has("every_position")) {
                        Tensor every = session.logits(arena, ids);
                        for (int position = 0; position < ids.length; position++) {
                            assertClose(every.rows(position, 1).toFloatArray(), prompt.get("every_position").get(position),
                                    test + ", " + isa + ", position " + position);
                        }
                    }
                }
            }
        }
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("cases")
    void greedyTokensAndLogprobs(Case test) throws IOException {
        try (LlamaModel model = LlamaModel.open(test.model(), OPTIONS)) {
            for (JsonNode prompt : test.prompts()) {
                int[] ids = ints(prompt.get("ids"));
                int[] expected = ints(prompt.get("greedy"));
                try (Session session = model.newSession()) {
                    GenerationResult result = session.generate(ids,
                            GenerationOptions.builder().maxTokens(expected.length).ignoreEos(true).logprobs(5).build());
                    assertThat(result.tokens()).as("%s, prompt of %d", test, ids.length).containsExactly(box(expected));
                    if (prompt.has("top_ids")) {
                        assertLogprobs(test, result.logprobs(), prompt);
                    }
                }
            }
        }
    }

    private static void assertLogprobs(Case test, List<TokenLogprob> logprobs, JsonNode prompt) {
        for (int i = 0; i < logprobs.size(); i++) {
            List<TokenLogprob> top = logprobs.get(i).top();
            assertThat(top).extracting(TokenLogprob::token).as("%s, token %d", test, i)
                    .containsExactly(box(ints(prompt.get("top_ids").get(i))));
            float[] values = new float[top.size()];
            for (int rank = 0; rank < values.length; rank++) {
                values[rank] = top.get(rank).logprob();
            }
            assertClose(values, prompt.get("top_logprobs").get(i), test + ", token " + i);
            assertThat(logprobs.get(i).logprob()).as("%s, token %d", test, i).isEqualTo(values[0]); // greedy takes the likeliest
        }
    }

    /** All prompts in one step, then the next token of each in one step: nobody's tokens depend on who else is in the step. */
    @ParameterizedTest(name = "{0}")
    @MethodSource("cases")
    void sequencesSideBySide(Case test) throws IOException {
        try (Device device = Device.cpu(2); LlamaModel model = LlamaModel.open(test.model(), OPTIONS.withDevice(device));
                LlamaForward forward = new LlamaForward(device, model.config(), model.weights(), OPTIONS.activations(), 128);
                Arena arena = Arena.ofShared()) {
            LlamaConfig config = model.config();
            List<int[]> texts = new ArrayList<>();
            List<KvCache> caches = new ArrayList<>();
            for (JsonNode prompt : test.prompts()) {
                texts.add(ints(prompt.get("ids")));
                caches.add(KvCache.allocate(config.layers(), config.keyValueHeads(), config.headWidth(), 128, DType.F32));
            }
            Tensor logits = Tensor.allocate(arena, DType.F32, Shape.of(texts.size(), config.vocabularySize()));
            Tensor best = Tensor.allocate(arena, DType.I32, Shape.of(texts.size()));
            for (int step = 0; step < test.prompts().getFirst().get("greedy").size(); step++) {
                List<LlamaForward.Part> parts = new ArrayList<>();
                for (int i = 0; i < texts.size(); i++) {
                    int length = texts.get(i).length;
                    int held = Math.toIntExact(caches.get(i).length());
                    parts.add(new LlamaForward.Part(caches.get(i), texts.get(i), held, length - held, 1, length));
                }
                forward.step(parts, logits);
                ArgMax.forward(device, best, logits);
                for (int i = 0; i < texts.size(); i++) {
                    int token = best.segment().getAtIndex(ValueLayout.JAVA_INT, i);
                    assertThat(token).as("%s, prompt %d, step %d", test, i, step)
                            .isEqualTo(test.prompts().get(i).get("greedy").get(step).intValue());
                    texts.set(i, append(texts.get(i), token));
                }
            }
            caches.forEach(KvCache::close);
        }
    }

    private static int[] append(int[] ids, int id) {
        int[] longer = Arrays.copyOf(ids, ids.length + 1);
        longer[ids.length] = id;
        return longer;
    }

    /** Whatever the threads, however a prompt is cut into steps, and whether a session held its beginning. */
    @ParameterizedTest(name = "{0}")
    @MethodSource("cases")
    void sameBits(Case test) throws IOException {
        int[] ids = ints(test.prompts().getLast().get("ids"));
        float[] bits;
        try (LlamaModel model = LlamaModel.open(test.model(), OPTIONS.withThreads(1)); Session session = model.newSession();
                Arena arena = Arena.ofConfined()) {
            bits = session.logits(arena, ids).toFloatArray();
        }
        for (int stepTokens : new int[] {1, 7, 64}) {
            try (LlamaModel model = LlamaModel.open(test.model(), OPTIONS.withStepTokens(stepTokens));
                    Session session = model.newSession(); Arena arena = Arena.ofConfined()) {
                assertThat(session.logits(arena, ids).toFloatArray()).as("%s, %d tokens a step", test, stepTokens).isEqualTo(bits);
                session.logits(Arrays.copyOf(ids, 23));
                float[] last = Arrays.copyOfRange(bits, bits.length - model.config().vocabularySize(), bits.length);
                assertThat(session.logits(ids)).as("%s, after the prompt's beginning", test).isEqualTo(last);
            }
        }
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("cases")
    void embeddedVocabularies(Case test) throws IOException {
        try (LlamaModel model = LlamaModel.open(test.model(), OPTIONS)) {
            for (JsonNode text : test.expected().path("texts")) {
                assertThat(model.tokenizer().encode(text.get("text").textValue(), false)).as("%s, %s", test, text)
                        .isEqualTo(ints(text.get("ids")));
            }
        }
    }

    static void assertClose(float[] actual, JsonNode expected, String where) {
        assertThat(actual).as(where).hasSize(expected.size());
        for (int i = 0; i < actual.length; i++) {
            float value = expected.get(i).floatValue();
            if (!(Math.abs(actual[i] - value) <= TOLERANCE * Math.max(1, Math.abs(value)))) {
                throw new AssertionError(where + ", index " + i + ": expected " + value + ", got " + actual[i]);
            }
        }
    }

    static int[] ints(JsonNode array) {
        int[] values = new int[array.size()];
        for (int i = 0; i < values.length; i++) {
            values[i] = array.get(i).intValue();
        }
        return values;
    }

    static Integer[] box(int[] values) {
        return Arrays.stream(values).boxed().toArray(Integer[]::new);
    }
}
