package io.puna.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.puna.LlamaModel;
import io.puna.TestData;
import io.puna.format.CheckpointException;
import io.puna.format.UnsupportedModelException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Files that are whole but make no model: numbers out of range, tensors that are missing, left over, or of another shape. */
class ContradictionTest {
    @TempDir
    private Path folder;

    @BeforeEach
    void copy() throws IOException {
        for (String name : new String[] {"config.json", "model.safetensors"}) {
            Files.copy(TestData.fixture("models/eps-large").resolve(name), folder.resolve(name));
        }
    }

    @ParameterizedTest(name = "{0}: {1}")
    @CsvSource(delimiter = '|', textBlock = """
            hidden_size             | 0                          | width: expected a positive number, got 0
            hidden_size             | -24                        | width: expected a positive number, got -24
            hidden_size             | 25                         | of shape
            hidden_size             | 2147483648                 | hidden_size as a 32-bit integer
            hidden_size             | 24.5                       | hidden_size as a 32-bit integer
            hidden_size             | null                       | an integer hidden_size, got none
            intermediate_size       | 2147483647                 | of shape (2147483647, 24) by the configuration, got (40, 24)
            num_hidden_layers       | 0                          | layers: expected a positive number
            num_hidden_layers       | 3                          | a tensor model.layers.2.input_layernorm.weight of shape (24), got none
            num_hidden_layers       | 2147483647                 | a tensor model.layers.2.input_layernorm.weight of shape (24), got none
            num_hidden_layers       | 1                          | also model.layers.1.
            num_attention_heads     | 0                          | heads: expected a positive number
            num_attention_heads     | 2147483646                 | of shape (34359738336, 24) by the configuration
            num_attention_heads     | 5                          | keyValueHeads: expected a divisor of the 5 query heads
            num_key_value_heads     | 4                          | k_proj.weight of shape (64, 24) by the configuration, got (32, 24)
            num_key_value_heads     | -2                         | keyValueHeads: expected a positive number
            head_dim                | 15                         | headWidth: expected an even number
            head_dim                | 2147483646                 | by the configuration
            vocab_size              | 68                         | of shape (68, 24) by the configuration, got (67, 24)
            max_position_embeddings | 0                          | contextLength: expected a positive number
            rms_norm_eps            | 0                          | normEpsilon: expected a small positive number
            rms_norm_eps            | "x"                        | rms_norm_eps as a finite number
            rope_theta              | -1                         | ropeTheta: expected a positive number
            rope_theta              | 1e400                      | numbers that fit a double
            hidden_act              | "gelu"                     | the activation 'silu', got hidden_act 'gelu'
            attention_bias          | true                       | a model without biases
            attention_bias          | 1                          | attention_bias as true or false
            rope_scaling            | {"type":"linear"}          | a positive factor
            rope_scaling            | {"type":"longrope"}        | RoPE scaling default, linear, dynamic, llama3 or yarn, got 'longrope'
            rope_scaling            | []                         | rope_scaling as an object
            eos_token_id            | [1, "x"]                   | eos_token_id as a 32-bit integer
            tie_word_embeddings     | "no"                       | tie_word_embeddings as true or false
            """)
    void aConfigurationThatMakesNoModelOfTheseTensorsIsRefused(String key, String value, String words) throws IOException {
        Path config = folder.resolve("config.json");
        String text = Files.readString(config).replaceAll("\"" + key + "\": [^\\n]*,\\n", "");
        Files.writeString(config, "{\"" + key + "\": " + value + "," + text.substring(1));
        refused(words);
    }

    @ParameterizedTest(name = "{0} as {1}")
    @CsvSource(delimiter = '|', textBlock = """
            "model.norm.weight"         | "model.norn.weight"         | a tensor model.norm.weight of shape (24), got none
            "lm_head.weight"            | "lm_haed.weight"            | a tensor lm_head.weight of shape (67, 24), got none
            "model.embed_tokens.weight" | "model.embed_token5.weight" | a tensor model.embed_tokens.weight of shape (67, 24), got none
            [40,24]                     | [24,40]                     | of shape (40, 24) by the configuration, got (24, 40)
            """)
    void aTensorThatIsMissingOrOfAnotherShapeIsNamed(String from, String to, String words) throws IOException {
        assertThat(to).hasSameSizeAs(from);
        Path file = folder.resolve("model.safetensors");
        String bytes = Files.readString(file, StandardCharsets.ISO_8859_1);
        assertThat(bytes).contains(from);
        Files.writeString(file, bytes.replace(from, to), StandardCharsets.ISO_8859_1);
        refused(words);
    }

    @Test
    void theFilesAsTheyAreMakeAModel() throws IOException {
        try (LlamaModel model = LlamaModel.open(folder)) {
            assertThat(model.config().width()).isEqualTo(24);
        }
    }

    private void refused(String words) {
        assertThatThrownBy(() -> LlamaModel.open(folder).close())
                .isInstanceOfAny(CheckpointException.class, UnsupportedModelException.class)
                .hasMessageContaining(words).hasMessageStartingWith(folder.toString());
    }
}
