package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.ByteArrayInputStream;
import java.io.InputStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class TokenizeCommandTest {
    private static final String GGUF = Samples.fixture("gguf/f32.gguf").toString();

    @Test
    void jsonHasTheReferencesTokens() {
        for (JsonNode sample : Samples.json(Samples.fixture("gguf/f32.json")).get("texts")) {
            JsonNode json = Run.puna("tokenize", "--model", GGUF, "--no-special", "--json", "--", sample.get("text").asText()).json();
            assertThat(json.fieldNames()).toIterable().containsExactly("tokens");
            assertThat(json.get("tokens")).isEqualTo(sample.get("ids"));
        }
    }

    @Test
    void specialTokensAreAddedUnlessUnwanted() {
        int[] with = Samples.ints(Run.puna("tokenize", "--model", GGUF, "--json", "a b").json().get("tokens"));
        int[] without = Samples.ints(Run.puna("tokenize", "--model", GGUF, "--json", "--no-special", "a b").json().get("tokens"));
        assertThat(with).hasSize(without.length + 1).endsWith(without);
        assertThat(Run.puna("tokenize", "--model", GGUF, "--json", "").json().get("tokens")).hasSize(1);
    }

    @Test
    void peopleSeeEachPieceOnALineOfItsOwn() {
        Run run = Run.puna("tokenize", "--model", GGUF, "a\nb");

        int count = Run.puna("tokenize", "--model", GGUF, "--json", "a\nb").json().get("tokens").size();
        assertThat(run.code()).isZero();
        assertThat(run.out().lines()).hasSize(count).allMatch(line -> line.matches(" *[0-9]+  .+"));
    }

    @Test
    void standardInputIsTakenWholeAndMustBeUtf8() {
        assertThat(withInput("a b\n".getBytes())).isEqualTo(Run.puna("tokenize", "--model", GGUF, "--json", "a b\n"));

        Run bad = withInput(new byte[] {'a', (byte) 0xff});
        assertThat(bad.code()).isEqualTo(ExitCode.USAGE);
        assertThat(bad.err()).contains("expected UTF-8");
    }

    private static Run withInput(byte[] bytes) {
        InputStream terminal = System.in;
        System.setIn(new ByteArrayInputStream(bytes));
        try {
            return Run.puna("tokenize", "--model", GGUF, "--json", "-");
        } finally {
            System.setIn(terminal);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"hf/stories260K", "hf/stories260K/tokenizer.json", "hf/stories260K/tokenizer.model", "gguf/stories260K.gguf"})
    void everyKindOfFileGivesTheSameTokens(String file) {
        String path = Samples.data(file).toString();
        JsonNode prompt = Samples.json(Samples.data("reference/stories260K.json")).get("prompts").get(0);
        assertThat(Run.puna("tokenize", "--model", path, "--json", prompt.get("prompt").asText()).json().get("tokens"))
                .isEqualTo(prompt.get("prompt_ids"));
    }
}
