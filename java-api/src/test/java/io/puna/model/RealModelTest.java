package io.puna.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.puna.LlamaModel;
import io.puna.ModelOptions;
import io.puna.TestData;
import io.puna.generate.GenerationOptions;
import io.puna.generate.GenerationResult;
import io.puna.generate.Session;
import io.puna.kernel.MatMul;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.util.stream.IntStream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Trained models, each from every format and weight type there is a reference for: the same text, token by token. */
class RealModelTest {
    /** Of a logit. With F32 activations weights are decoded exactly, so quantised files are held to it too. */
    private static final double TOLERANCE = 1e-4;

    private static final ModelOptions EXACT = ModelOptions.defaults().withActivations(MatMul.Activations.F32);

    @ParameterizedTest
    @CsvSource({
        "hf/stories260K, stories260K",
        "hf/stories260K/model.safetensors, stories260K",
        "gguf/stories260K.gguf, stories260K",
        "raw/stories260K/stories260Ktok512.gguf, stories260K",
        "gguf/stories260K-F16.gguf, stories260K-F16",
        "hf/babyllama-tok361, babyllama-tok361",
        "gguf/babyllama-tok361.gguf, babyllama-tok361",
        "gguf/babyllama-tok361-F16.gguf, babyllama-tok361-F16",
        "gguf/babyllama-tok361-Q8_0.gguf, babyllama-tok361-Q8_0",
        "gguf/babyllama-tok361-Q4_0.gguf, babyllama-tok361-Q4_0",
    })
    void continuesEveryPromptAsTheReference(String file, String reference) throws IOException {
        JsonNode expected = new ObjectMapper().readTree(TestData.require("reference/" + reference + ".json").toFile());
        try (LlamaModel model = LlamaModel.open(TestData.require(file), EXACT)) {
            for (JsonNode prompt : expected.get("prompts")) {
                String text = prompt.get("prompt").textValue();
                int[] ids = ReferenceModelTest.ints(prompt.get("prompt_ids"));
                assertThat(model.tokenizer().encode(text)).as(text).isEqualTo(ids);
                int[] greedy = ReferenceModelTest.ints(prompt.get("greedy_ids"));
                assertThat(greedy).hasSize(64);
                try (Session session = model.newSession()) {
                    float[] logits = session.logits(ids);
                    int[] ranked = IntStream.range(0, logits.length).boxed()
                            .sorted((a, b) -> Float.compare(logits[b], logits[a])).mapToInt(Integer::intValue).toArray();
                    int rank = 0;
                    for (JsonNode top : prompt.get("first_top5")) {
                        int id = top.get("id").intValue();
                        double logit = top.get("logit").doubleValue();
                        assertThat(ranked[rank++]).as(text).isEqualTo(id);
                        assertThat((double) logits[id]).as(text).isCloseTo(logit, within(TOLERANCE * Math.abs(logit)));
                    }
                    GenerationResult result = session.generate(text,
                            GenerationOptions.builder().maxTokens(greedy.length).ignoreEos(true).build());
                    assertThat(result.tokens()).as(text).containsExactly(ReferenceModelTest.box(greedy));
                    if (prompt.has("greedy_text")) {
                        assertThat(result.text()).isEqualTo(prompt.get("greedy_text").textValue());
                    }
                }
            }
        }
    }

    @ParameterizedTest
    @CsvSource({
        "hf/stories260K, stories260K", "gguf/stories260K-F16.gguf, stories260K-F16",
        "gguf/babyllama-tok361-Q8_0.gguf, babyllama-tok361-Q8_0", "gguf/babyllama-tok361-Q4_0.gguf, babyllama-tok361-Q4_0",
    })
    void sameBitsWhateverTheThreadsAndTheSteps(String file, String reference) throws IOException {
        JsonNode prompt = new ObjectMapper().readTree(TestData.require("reference/" + reference + ".json").toFile())
                .get("prompts").get(0);
        int[] ids = IntStream.concat(IntStream.of(ReferenceModelTest.ints(prompt.get("prompt_ids"))),
                IntStream.of(ReferenceModelTest.ints(prompt.get("greedy_ids")))).toArray();
        float[] bits = null;
        for (int threads : new int[] {1, 2}) {
            for (int stepTokens : new int[] {512, 5, 1}) {
                ModelOptions options = ModelOptions.defaults().withThreads(threads).withStepTokens(stepTokens);
                try (LlamaModel model = LlamaModel.open(TestData.require(file), options); Session session = model.newSession();
                        Arena arena = Arena.ofConfined()) {
                    float[] logits = session.logits(arena, ids).toFloatArray();
                    if (bits == null) {
                        bits = logits;
                    }
                    assertThat(logits).as("%d threads, %d tokens a step", threads, stepTokens).isEqualTo(bits);
                }
            }
        }
    }
}
