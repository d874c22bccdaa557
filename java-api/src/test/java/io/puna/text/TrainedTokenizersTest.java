package io.puna.text;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.puna.TestData;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.assertj.core.api.SoftAssertions;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Tokenizers of every part that is supported, trained and tried by make_tokenizers.py. */
class TrainedTokenizersTest {
    private static final ObjectMapper MAPPER = new ObjectMapper();
    private static final Path FIXTURES = TestData.repository().resolve("java-api/src/test/resources/fixtures/tokenizers");
    private static JsonNode golden = MAPPER.missingNode();

    @TempDir
    Path folder;

    @BeforeAll
    static void read() throws IOException {
        golden = MAPPER.readTree(FIXTURES.resolve("expected.json").toFile());
    }

    private static int[] ids(JsonNode array) {
        return MAPPER.convertValue(array, int[].class);
    }

    @ParameterizedTest
    @ValueSource(strings = {"bytelevel", "bytelevel-prefix-space", "bytelevel-whole", "bytelevel-no-decoder", "digits", "punctuation-digits",
        "split-of-its-own", "split-deepseek-coder", "split-deepseek-llm", "split-llama3", "split-possessive", "split-removed",
        "split-inverted", "metaspace-always", "metaspace-first", "metaspace-never", "whitespace", "whitespace-split", "words"})
    void hasTheIdsAndTextsOfTokenizers(String name) throws IOException {
        JsonNode expected = golden.path("tokenizers").path(name);
        SoftAssertions softly = new SoftAssertions();
        try (Tokenizer tokenizer = Tokenizer.open(FIXTURES.resolve(name + ".json"))) {
            for (int i = 0; i < golden.path("texts").size(); i++) {
                String text = golden.path("texts").get(i).textValue();
                int[] ids = ids(expected.path("ids").get(i));
                softly.assertThat(tokenizer.encode(text, false)).as("%d: %s", i, text).isEqualTo(ids);
                softly.assertThat(tokenizer.decode(ids)).as("%d: %s", i, text).isEqualTo(expected.path("text").get(i).textValue());
                softly.assertThat(streamed(tokenizer, ids)).as("%d: %s", i, text).isEqualTo(tokenizer.decode(ids));
                if (expected.path("surrounded").has(i)) {
                    softly.assertThat(tokenizer.encode(text)).as("%d: %s", i, text).isEqualTo(ids(expected.path("surrounded").get(i)));
                }
            }
            for (int i = 0; i < golden.path("drawn").size(); i++) {
                int[] ids = ids(golden.path("drawn").get(i));
                for (int k = 0; k < ids.length; k++) {
                    ids[k] %= tokenizer.vocabularySize();
                }
                softly.assertThat(tokenizer.decode(ids)).as("drawn %d", i).isEqualTo(expected.path("drawn").get(i).textValue());
                softly.assertThat(streamed(tokenizer, ids)).as("drawn %d", i).isEqualTo(tokenizer.decode(ids));
            }
        }
        softly.assertAll();
    }

    private static String streamed(Tokenizer tokenizer, int[] ids) {
        StreamDecoder stream = tokenizer.streamDecoder();
        StringBuilder text = new StringBuilder();
        for (int id : ids) {
            text.append(stream.accept(id));
        }
        return text.append(stream.finish()).toString();
    }

    /** A GGUF file names its way of cutting, where a tokenizer.json describes it. */
    @ParameterizedTest
    @CsvSource({"gpt-2, bytelevel", "trillion, bytelevel", "smollm, digits", "refact, digits", "starcoder, digits", "smaug-bpe, split-llama3",
        "deepseek-coder, split-deepseek-coder", "deepseek-llm, split-deepseek-llm"})
    void ggufNamesWaysOfCutting(String pre, String name) throws IOException {
        ObjectNode json = Json.parse(name, Files.readAllBytes(FIXTURES.resolve(name + ".json")));
        List<String> tokens = new ArrayList<>();
        List<Integer> types = new ArrayList<>();
        try (Tokenizer tokenizer = Tokenizer.open(FIXTURES.resolve(name + ".json"))) {
            for (int id = 0; id < tokenizer.vocabularySize(); id++) {
                tokens.add(tokenizer.piece(id));
                types.add(tokenizer.isSpecial(id) ? 3 : 1);
            }
        }
        List<String> merges = new ArrayList<>();
        json.at("/model/merges").forEach(merge -> merges.add(merge.get(0).textValue() + " " + merge.get(1).textValue()));
        Path file = Files.write(folder.resolve("a.gguf"), Fixtures.gguf("general.architecture", "llama", "tokenizer.ggml.model", "gpt2",
                "tokenizer.ggml.pre", pre, "tokenizer.ggml.tokens", tokens, "tokenizer.ggml.token_type", types,
                "tokenizer.ggml.merges", merges, "tokenizer.ggml.bos_token_id", -1, "tokenizer.ggml.eos_token_id", 1));
        JsonNode expected = golden.path("tokenizers").path(name).path("ids");
        SoftAssertions softly = new SoftAssertions();
        try (Tokenizer tokenizer = Tokenizer.open(file)) {
            assertThat(tokenizer.bosId()).as("an id beyond the vocabulary").isNotEqualTo(java.util.OptionalInt.of(-1));
            for (int i = 0; i < expected.size(); i++) {
                String text = golden.path("texts").get(i).textValue();
                if (!text.contains("<mask>")) {                       // GGUF does not say that it takes the spaces beside it
                    softly.assertThat(tokenizer.encode(text, false)).as("%d: %s", i, text).isEqualTo(ids(expected.get(i)));
                }
            }
        }
        softly.assertAll();
    }

    @Test
    void patternsOfUnknownCostAreRefusedAndDearOnesShortenTheText() throws IOException {
        assertThat(PatternCost.of("\\p{N}{1,3}")).hasValue(1);
        assertThat(PatternCost.of("\\w+|[^\\w\\s]+")).hasValue(1);
        assertThat(PatternCost.of("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")).hasValue(3);
        assertThat(PatternCost.of("[^\\r\\n]?[\\p{Lu}]*[\\p{Ll}]+(?i:'s|'t)?")).hasValue(2);
        assertThat(PatternCost.of("x{0,9}y+z")).hasValue(10);
        assertThat(PatternCost.of("x*+y++z*")).hasValue(1);
        for (String pattern : List.of("(x+x+)+y", "x*y*z", "(a|b)+", "(?:ab)*", "(?<=a)b", "(?<!a)b", "(a)\\1", "[[a]b]", "[a&&b]", "(?!a+b)c",
                "x{1,3}+", "x**", "(?>a+)b", "\\Ka", "[a", "[]", "(a", "a)", "a|", "x*", "\\p{L", "\\u12", "\\", "x{9999}{9999}",
                "(".repeat(40) + "a" + ")".repeat(40))) {
            assertThat(PatternCost.of(pattern)).as(pattern).isEmpty();
        }
        ObjectNode root = Fixtures.tokenizerJson();
        root.putObject("pre_tokenizer").put("type", "Split").put("behavior", "Isolated").put("invert", false).putObject("pattern")
                .put("Regex", "x{0,9}y+z|[^z]+|z");
        try (Tokenizer tokenizer = Tokenizer.open(Files.write(folder.resolve("tokenizer.json"), Fixtures.bytes(root)))) {
            int most = 2 * Tokenizer.MAX_TEXT / 10;
            // dead ends enough to end the process, were they ten times as many
            assertThat(tokenizer.encode("y".repeat(most), false)).isNotEmpty();
            assertThatIllegalArgumentException().isThrownBy(() -> tokenizer.encode("y".repeat(most + 1))).withMessageContaining("" + most);
        }
    }

    @Test
    void tokensThatOnlyTheConfigurationNamesAreAdded() throws IOException {
        Files.write(folder.resolve("tokenizer.model"), Fixtures.sentencePiece(Fixtures.pieces(), 2, false));
        int size = Fixtures.pieces().size();
        Files.writeString(folder.resolve("added_tokens.json"), "{\"<end>\": " + size + ", \"<old>\": " + (size + 1) + ", \"hello\": 3}");
        Files.writeString(folder.resolve("tokenizer_config.json"), "{\"eos_token\": \"<end>\", \"added_tokens_decoder\": {\"" + size
                + "\": {\"content\": \"<end>\", \"special\": true, \"rstrip\": true}, \"2\": {\"content\": \"he\"}, \"x\": {\"content\": \"y\"}}}");
        try (Tokenizer tokenizer = Tokenizer.open(folder)) {
            assertThat(tokenizer.vocabularySize()).isEqualTo(size + 2);
            assertThat(tokenizer.encode("<old><end>  </s>", false)).containsExactly(size + 1, size, 2);
            assertThat(tokenizer.isSpecial(size)).isTrue();
            assertThat(tokenizer.isSpecial(size + 1)).isFalse();
            assertThat(tokenizer.id("hello")).isEmpty();
        }
    }

    @ParameterizedTest
    @CsvSource({"true, true", "false, false", "true, false", "false, true"})
    void theConfigurationDecidesWhatIsPutAround(boolean bos, boolean eos) throws IOException {
        Files.write(folder.resolve("tokenizer.json"), Fixtures.bytes(Fixtures.tokenizerJson()));
        Files.writeString(folder.resolve("tokenizer_config.json"), "{\"bos_token\": {\"__type\": \"AddedToken\", \"content\": \"<s>\"}, "
                + "\"eos_token\": \"</s>\", \"add_bos_token\": " + bos + ", \"add_eos_token\": " + eos + "}");
        try (Tokenizer tokenizer = Tokenizer.open(folder)) {
            List<Integer> expected = new ArrayList<>(bos ? List.of(1) : List.of());
            expected.add(263);
            expected.addAll(eos ? List.of(2) : List.of());
            assertThat(tokenizer.encode("hello")).containsExactly(expected.stream().mapToInt(Integer::intValue).toArray());
        }
    }
}
