package io.puna.text;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.puna.TestData;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.assertj.core.api.SoftAssertions;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Real vocabularies against the ids that other implementations give. */
class TokenizerVectorsTest {
    private static final Map<String, Tokenizer> OPENED = new HashMap<>();

    /** The large ones take a while: each is opened once for all tests. */
    private static Tokenizer open(String file) throws IOException {
        Path path = TestData.require(file);
        Tokenizer opened = OPENED.get(file);
        if (opened == null) {
            opened = Tokenizer.open(path);
            OPENED.put(file, opened);
        }
        return opened;
    }

    @AfterAll
    static void close() {
        OPENED.values().forEach(Tokenizer::close);
        OPENED.clear();
    }

    @ParameterizedTest
    @CsvSource({
        "tok/llama.cpp/ggml-vocab-llama-spm.gguf, spm",
        "tok/llama2/tokenizer.json, spm",
        "tok/llama2/tokenizer.model, spm",
        "tok/llama.cpp/ggml-vocab-llama-bpe.gguf, bpe",
        "tok/llama3/tokenizer.json, bpe",
        "tok/llama3/tokenizer.model, bpe",
    })
    void hasTheIdsOfLlamaCpp(String file, String kind) throws Exception {
        Path vectors = TestData.require("tok/llama.cpp");
        String base = "ggml-vocab-llama-" + kind + ".gguf";
        String[] texts = Files.readString(vectors.resolve(base + ".inp")).split("\n__ggml_vocab_test__\n", -1);
        String[] lines = Files.readString(vectors.resolve(base + ".out")).split("\n", -1);
        assertThat(texts).hasSize(47);
        assertThat(lines.length).isBetween(texts.length, texts.length + 1);
        Tokenizer tokenizer = open(file);
        SoftAssertions softly = new SoftAssertions();
        for (int i = 0; i < texts.length; i++) {
            int[] expected = Arrays.stream(lines[i].strip().split(" ")).filter(s -> !s.isEmpty()).mapToInt(Integer::parseInt).toArray();
            softly.assertThat(tokenizer.encode(texts[i], false)).as("%d: %s", i, texts[i]).isEqualTo(expected);
            softly.assertThat(tokenizer.decode(expected)).as("text %d", i).isEqualTo(texts[i]);
            assertStreamsLikeTheWhole(tokenizer, expected);
        }
        softly.assertAll();
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "tok/llama2/tokenizer.model", "hf/stories260K/tokenizer.model", "hf/babyllama-tok361/tokenizer.model",
        "tok/llama3/tokenizer.model", "tok/small/tiktoken_small.model",
        "tok/llama2/tokenizer.json", "tok/llama3/tokenizer.json", "tok/small/tiny_bpe_tokenizer.json", "hf/stories260K/tokenizer.json",
    })
    void hasTheIdsOfOtherImplementations(String file) throws Exception {
        Tokenizer tokenizer = open(file);
        assertGolden(tokenizer, file);
    }

    @ParameterizedTest
    @CsvSource({
        "gguf/stories260K.gguf, hf/stories260K/tokenizer.json",
        "raw/stories260K/stories260Ktok512.gguf, hf/stories260K/tokenizer.json",
        "tok/llama.cpp/ggml-vocab-llama-spm.gguf, tok/llama2/tokenizer.json",
        "tok/llama.cpp/ggml-vocab-llama-bpe.gguf, tok/llama3/tokenizer.json",
    })
    void aGgufVocabularyHasTheIdsOfItsTokenizerJson(String file, String json) throws Exception {
        Tokenizer tokenizer = open(file);
        assertGolden(tokenizer, json);
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "tok/llama2/tokenizer.json", "tok/llama3/tokenizer.json", "tok/small/tiny_bpe_tokenizer.json", "hf/stories260K/tokenizer.json",
    })
    void decodesAsTokenizersDoes(String file) throws Exception {
        Tokenizer tokenizer = open(file);
        JsonNode cases = golden().path("decoded").path(file);
        assertThat(cases).hasSize(100);
        for (JsonNode drawn : cases) {
            int[] ids = new ObjectMapper().convertValue(drawn.get(0), int[].class);
            assertThat(tokenizer.decode(ids)).as(drawn.get(0).toString()).isEqualTo(drawn.get(1).textValue());
        }
    }

    /** Models of the project's own, with the ids that sentencepiece gives; some have no byte pieces. */
    @ParameterizedTest
    @ValueSource(strings = {"f32", "q4_0", "tied", "version2"})
    void smallGgufVocabulariesHaveSentencePiecesIds(String name) throws Exception {
        Path folder = TestData.repository().resolve("java-api/src/test/resources/fixtures/gguf");
        JsonNode texts = new ObjectMapper().readTree(folder.resolve(name + ".json").toFile()).path("texts");
        assertThat(texts).isNotEmpty();
        try (Tokenizer tokenizer = Tokenizer.open(folder.resolve(name + ".gguf"))) {
            for (JsonNode text : texts) {
                int[] expected = new ObjectMapper().convertValue(text.path("ids"), int[].class);
                assertThat(tokenizer.encode(text.path("text").textValue(), false)).as(text.toString()).isEqualTo(expected);
            }
        }
    }

    private static JsonNode golden() throws IOException {
        try (InputStream in = TokenizerVectorsTest.class.getResourceAsStream("/fixtures/tokens.json")) {
            return new ObjectMapper().readTree(in);
        }
    }

    private static void assertGolden(Tokenizer tokenizer, String file) throws IOException {
        JsonNode golden = golden();
        SoftAssertions softly = new SoftAssertions();
        for (int i = 0; i < golden.path("texts").size(); i++) {
            String text = golden.path("texts").get(i).textValue();
            int[] expected = new ObjectMapper().convertValue(golden.path("ids").path(file).get(i), int[].class);
            softly.assertThat(tokenizer.encode(text, false)).as("%d: %s", i, text).isEqualTo(expected);
            assertStreamsLikeTheWhole(tokenizer, expected);
        }
        softly.assertAll();
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "hf/stories260K", "hf/babyllama-tok361", "gguf/stories260K.gguf", "gguf/babyllama-tok361-Q4_0.gguf", "raw/stories260K/tok512.model",
    })
    void beginsATextAsLlamaDoes(String file) throws Exception {
        Tokenizer tokenizer = open(file);
        int[] ids = tokenizer.encode("Once upon a time");
        assertThat(ids[0]).isEqualTo(1);
        assertThat(Arrays.copyOfRange(ids, 1, ids.length)).isEqualTo(tokenizer.encode("Once upon a time", false));
        assertThat(tokenizer.bosId()).hasValue(1);
        assertThat(tokenizer.eosIds()).containsExactly(2);
        assertThat(tokenizer.isSpecial(1)).isTrue();
        assertThat(tokenizer.isSpecial(300)).isFalse();
        assertThat(tokenizer.decode(ids)).isEqualTo("Once upon a time");
        assertThat(tokenizer.decode(ids, false)).startsWith("<s>").endsWith("Once upon a time");
        assertThat(tokenizer.id("</s>")).hasValue(2);
        assertThat(tokenizer.encode("</s>", false)).containsExactly(2);
    }

    @Test
    void knowsLlama3sSpecialTokensFromEveryFile() throws Exception {
        for (String file : List.of("tok/llama3/tokenizer.json", "tok/llama3/tokenizer.model", "tok/llama.cpp/ggml-vocab-llama-bpe.gguf")) {
            Tokenizer tokenizer = open(file);
            assertThat(tokenizer.vocabularySize()).as(file).isEqualTo(128256);
            assertThat(tokenizer.bosId()).as(file).hasValue(128000);
            assertThat(tokenizer.eosIds()).as(file).contains(128001);
            assertThat(tokenizer.encode("<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|reserved_special_token_250|>", false))
                    .as(file).containsExactly(128006, 882, 128007, 271, 13347, 128009, 128255);
            // this tokenizer.json says nothing of a beginning, and so adds none
            assertThat(tokenizer.encode("Hi")).as(file).isEqualTo(file.endsWith(".json") ? new int[] {13347} : new int[] {128000, 13347});
            assertThat(tokenizer.decode(128006, 13347, 128009)).isEqualTo("Hi");
            assertThat(tokenizer.piece(128009)).isEqualTo("<|eot_id|>");
        }
    }

    /** Every code path of UTF-8 assembly: bytes in any order, at any place, with whole pieces and special tokens between. */
    @ParameterizedTest
    @ValueSource(strings = {"hf/stories260K", "hf/babyllama-tok361", "tok/llama3/tokenizer.json", "tok/small/tiktoken_small.model"})
    void streamsAnyIdsLikeTheWhole(String file) throws Exception {
        Random random = new Random(1);
        Tokenizer tokenizer = open(file);
        for (int round = 0; round < 2000; round++) {
            int[] ids = new int[1 + random.nextInt(20)];
            for (int i = 0; i < ids.length; i++) {
                ids[i] = random.nextInt(random.nextBoolean() ? 260 : tokenizer.vocabularySize());
            }
            assertStreamsLikeTheWhole(tokenizer, ids);
        }
    }

    private static void assertStreamsLikeTheWhole(Tokenizer tokenizer, int[] ids) {
        String whole = tokenizer.decode(ids);
        for (int split = 0; split <= ids.length; split += Math.max(1, ids.length / 3)) {
            int[] context = Arrays.copyOf(ids, split);
            StreamDecoder stream = tokenizer.streamDecoder(context);
            StringBuilder text = new StringBuilder();
            for (int i = split; i < ids.length; i++) {
                String part = stream.accept(ids[i]);
                assertThat(part.isEmpty() || !Character.isHighSurrogate(part.charAt(part.length() - 1))).isTrue();
                text.append(part);
            }
            text.append(stream.finish());
            assertThat(stream.finish()).isEmpty();
            String before = tokenizer.decode(context);
            if (before.endsWith("\uFFFD")) {
                // a context that ends inside a character is no text of its own
                assertThat(whole).endsWith(text.toString().replaceFirst("^\uFFFD+", ""));
            } else {
                assertThat(before + text).as("ids %s from %d", Arrays.toString(ids), split).isEqualTo(whole);
            }
        }
    }
}
