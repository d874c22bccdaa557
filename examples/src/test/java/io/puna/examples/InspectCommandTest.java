package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import io.puna.LlamaModel;
import io.puna.tensor.Tensor;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class InspectCommandTest {
    @ParameterizedTest
    @ValueSource(strings = {"gguf/f32.gguf", "gguf/q4_k_m.gguf", "gguf/key-length.gguf", "gguf/rope-yarn.gguf", "models/gqa3-tied",
        "models/sharded", "models/rope-llama3", "models/mistral-window"})
    void jsonAgreesWithTheModel(String name) throws Exception {
        Path path = Samples.fixture(name);
        JsonNode json = Run.puna("inspect", "--model", path, "--json").json();

        try (LlamaModel model = LlamaModel.open(path)) {
            JsonNode config = json.get("config");
            assertThat(config.get("vocabulary_size").asInt()).isEqualTo(model.config().vocabularySize());
            assertThat(config.get("head_width").asInt()).isEqualTo(model.config().headWidth());
            assertThat(config.get("rope_layout").asText()).isEqualToIgnoringCase(model.config().ropeLayout().name());
            assertThat(config.get("rope_scaling").get("type").asText().replace("_", ""))
                    .isEqualToIgnoringCase(model.config().ropeScaling().getClass().getSimpleName());
            assertThat(json.get("parameter_count").asLong()).isEqualTo(model.weights().parameterCount());
            assertThat(json.get("bytes").asLong()).isEqualTo(model.checkpoint().byteSize());
            assertThat(json.get("memory").get("activations").asLong()).isEqualTo(model.activationBytes());

            assertThat(json.get("tensors")).hasSize(model.checkpoint().tensors().size());
            long bytes = 0;
            for (JsonNode row : json.get("tensors")) {
                Tensor tensor = model.checkpoint().tensors().get(row.get("name").asText());
                assertThat(row.get("dtype").asText()).isEqualTo(tensor.dtype().name());
                assertThat(row.get("bytes").asLong()).isEqualTo(tensor.byteSize());
                assertThat(row.get("shape")).hasSize(tensor.shape().rank());
                bytes += tensor.byteSize();
            }
            long totals = 0;
            for (JsonNode total : json.get("dtypes")) {
                totals += total.get("bytes").asLong();
            }
            assertThat(totals).isEqualTo(bytes);
        }
    }

    @Test
    void aCacheTakesTwoVectorsALayerForEachToken() {
        JsonNode json = Run.puna("inspect", "--model", Samples.fixture("models/gqa3-tied"), "--json").json();

        JsonNode config = json.get("config");
        long vector = config.get("key_value_heads").asLong() * config.get("head_width").asLong();
        JsonNode cache = json.get("memory").get("cache_f32");
        assertThat(cache.get("per_token").asLong()).isEqualTo(2 * config.get("layers").asLong() * vector * 4);
        assertThat(cache.get("full_context").asLong()).isEqualTo(cache.get("per_token").asLong() * config.get("context_length").asLong());
        assertThat(json.get("memory").get("cache_f16").get("per_token").asLong()).isEqualTo(cache.get("per_token").asLong() / 2);
        assertThat(json.has("tokenizer")).as("it has none").isFalse();
    }

    @Test
    void peopleSeeTheSame() {
        Run run = Run.puna("inspect", "--model", Samples.fixture("gguf/q4_k_m.gguf"));

        assertThat(run.code()).isZero();
        assertThat(run.out()).contains("GGUF v3", "vocabulary_size", "activations", "token_embd.weight", "Q4_K", "Q6_K", "eos_token_ids");
    }

    @ParameterizedTest
    @ValueSource(strings = {"tok/llama.cpp/ggml-vocab-llama-spm.gguf", "tok/llama.cpp/ggml-vocab-llama-bpe.gguf"})
    void aVocabularyAloneShowsWhatItHas(String name) throws Exception {
        Path path = Samples.data(name);
        JsonNode json = Run.puna("inspect", "--model", path, "--json").json();

        assertThat(json.get("tensors")).isEmpty();
        assertThat(json.get("tokenizer").get("vocabulary_size").asInt()).isGreaterThanOrEqualTo(32000);
        assertThat(json.get("bytes").asLong()).isEqualTo(Files.size(path));
        assertThat(Run.puna("inspect", "--model", path).out()).contains("a vocabulary alone");
    }
}
