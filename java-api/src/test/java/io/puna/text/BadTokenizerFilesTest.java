package io.puna.text;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.puna.TestData;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Damaged and strange files: a sentence that names the file, what was expected and what came; never the engine's own panic. */
class BadTokenizerFilesTest {
    @TempDir
    Path folder;

    private void refused(byte[] bytes, String... words) throws IOException {
        Path file = Files.write(folder.resolve("bad.tokenizer"), bytes);
        assertThatExceptionOfType(TokenizerException.class).isThrownBy(() -> Tokenizer.open(file).close())
                .withMessageContaining(file.toString()).withMessageContaining("expected").withMessageContaining("got")
                .satisfies(e -> {
                    for (String word : words) {
                        assertThat(e.getMessage()).contains(word);
                    }
                });
    }

    record Change(String name, Consumer<ObjectNode> edit, String... words) {
        @Override
        public String toString() {
            return name;
        }
    }

    private static ObjectNode model(ObjectNode root) {
        return (ObjectNode) root.path("model");
    }

    private static ObjectNode vocabulary(ObjectNode root) {
        return (ObjectNode) root.at("/model/vocab");
    }

    private static ArrayNode merges(ObjectNode root) {
        return (ArrayNode) root.at("/model/merges");
    }

    private static ObjectNode template(ObjectNode root) {
        return (ObjectNode) root.path("post_processor");
    }

    static List<Change> changes() {
        return List.of(
            new Change("version", r -> r.put("version", "2.0"), "version"),
            new Change("no model", r -> r.remove("model"), "model"),
            new Change("unigram", r -> model(r).put("type", "Unigram"), "BPE", "Unigram"),
            new Change("no vocabulary", r -> model(r).remove("vocab"), "model.vocab"),
            new Change("vocabulary of another kind", r -> model(r).putArray("vocab"), "model.vocab"),
            new Change("negative id", r -> vocabulary(r).put("h", -1), "\"h\"", "-1"),
            new Change("huge id", r -> vocabulary(r).put("h", 4294967295L), "4294967295"),
            new Change("id beyond any vocabulary", r -> vocabulary(r).put("h", 1 << 22), "4194304"),
            new Change("id of 30 digits", r -> vocabulary(r).put("h", new java.math.BigInteger("9".repeat(30))), "999"),
            new Change("broken id", r -> vocabulary(r).put("h", 1.5), "1.5"),
            new Change("id as text", r -> vocabulary(r).put("h", "7"), "7"),
            new Change("two pieces with one id", r -> vocabulary(r).put("h", 263), "id 263"),
            new Change("merge of unknown pieces", r -> merges(r).add("x y"), "model.merges[6]", "x y"),
            new Change("merge into an unknown piece", r -> merges(r).add("h h"), "model.merges[6]", "h h"),
            new Change("merge of one piece", r -> merges(r).add("h"), "model.merges"),
            new Change("merge of three pieces", r -> merges(r).add("h e h"), "model.merges"),
            new Change("merges in two ways", r -> merges(r).addArray().add("h").add("e"), "model.merges"),
            new Change("no merges", r -> model(r).remove("merges"), "model.merges"),
            new Change("unknown token that is not there", r -> model(r).put("unk_token", "absent"), "model.unk_token", "absent"),
            new Change("prefix of subwords", r -> model(r).put("continuing_subword_prefix", "##"), "continuing_subword_prefix"),
            new Change("dropout", r -> model(r).put("dropout", 0.1), "dropout"),
            new Change("flag as text", r -> model(r).put("byte_fallback", "yes"), "byte_fallback"),
            new Change("added token with another id", r -> r.withArray("added_tokens").addObject().put("id", 9).put("content", "he"), "259", "9"),
            new Change("added token twice", r -> r.withArray("added_tokens").addObject().put("id", 1).put("content", "<s>"), "once"),
            new Change("added token on a taken id", r -> r.withArray("added_tokens").addObject().put("id", 9).put("content", "<x>"), "id 9"),
            new Change("added token without id", r -> r.withArray("added_tokens").addObject().put("content", "<x>"), "<x>"),
            new Change("empty added token", r -> r.withArray("added_tokens").addObject().put("id", 999).put("content", ""), "content"),
            new Change("normalizer", r -> r.putObject("normalizer").put("type", "Precompiled"), "normalizer.type", "Precompiled"),
            new Change("empty pattern", r -> r.putObject("normalizer").put("type", "Replace").put("content", "x").putObject("pattern")
                    .put("String", ""), "normalizer.pattern"),
            new Change("strange pattern", r -> r.putObject("pre_tokenizer").put("type", "Split").put("behavior", "Isolated")
                    .putObject("pattern").put("Regex", "(x+x+)+y"), "pre_tokenizer.pattern", "(x+x+)+y"),
            new Change("pre-tokenizer", r -> r.putObject("pre_tokenizer").put("type", "BertPreTokenizer"), "pre_tokenizer.type"),
            new Change("split behaviour", r -> r.putObject("pre_tokenizer").put("type", "Split").put("behavior", "Odd")
                    .putObject("pattern").put("String", "x")),
            new Change("post-processor", r -> r.putObject("post_processor").put("type", "BertProcessing"), "post_processor.type"),
            new Change("template with an unknown token", r -> template(r).putObject("special_tokens"), "<s>"),
            new Change("template with an id beyond", r -> ((ArrayNode) r.at("/post_processor/special_tokens/<s>/ids")).add(99999), "99999"),
            new Change("template without a text", r -> template(r).putArray("single"), "sequence A"),
            new Change("template with another text", r -> ((ObjectNode) r.at("/post_processor/single/1/Sequence")).put("id", "B"), "sequence A"),
            new Change("words without an unknown one", r -> model(r).put("type", "WordLevel").remove("unk_token"), "model.unk_token"),
            new Change("replacement without end", r -> r.putObject("normalizer").put("type", "Replace").put("content", "x".repeat(99))
                    .putObject("pattern").put("String", "h"), "normalizer.content", "16"),
            new Change("decoder", r -> r.putObject("decoder").put("type", "WordPiece"), "decoder.type", "WordPiece"),
            new Change("decoders in another order", r -> r.withArray("/decoder/decoders").addObject().put("type", "Replace"), "Strip in this order"));
    }

    @ParameterizedTest
    @MethodSource("changes")
    void whatATokenizerJsonMayNotSay(Change change) throws IOException {
        ObjectNode root = Fixtures.tokenizerJson();
        change.edit().accept(root);
        Path file = Files.write(folder.resolve("tokenizer.json"), Fixtures.bytes(root));
        assertThatExceptionOfType(TokenizerException.class).isThrownBy(() -> Tokenizer.open(file).close())
                .withMessageStartingWith(file.toString()).satisfies(e -> {
                    for (String word : change.words()) {
                        assertThat(e.getMessage()).contains(word);
                    }
                });
    }

    @ParameterizedTest
    @ValueSource(strings = {"{", "{}", "{\"a\":1,\"a\":2}", "{\"model\":nul}", "{} {}", "{\"a\":\"\\ud83d\"}", "[1]", "null", "hello", " ", "\n"})
    void whatIsNoTokenizerJson(String text) throws IOException {
        refused(text.getBytes(StandardCharsets.UTF_8));
    }

    @Test
    void nestingWithoutEndAndBytesThatAreNoText() throws IOException {
        refused(("{\"a\":" + "[".repeat(100_000)).getBytes(StandardCharsets.UTF_8));
        refused(new byte[] {'{', '"', (byte) 0xC3, '"', ':', '1', '}'}, "UTF-8");
        refused(new byte[0], "empty");
        refused(new byte[] {(byte) 0xFF, 0, 1, 2});
    }

    /** A file cut short is refused, or, where the cut leaves a whole file, is one. */
    @ParameterizedTest
    @ValueSource(strings = {"tokenizer.json", "a.model", "tiktoken.model", "a.gguf"})
    void truncations(String name) throws IOException {
        byte[] whole = switch (name) {
            case "tokenizer.json" -> Fixtures.bytes(Fixtures.tokenizerJson());
            case "a.model" -> Fixtures.sentencePiece(Fixtures.pieces(), 2, true);
            case "tiktoken.model" -> Fixtures.tiktoken();
            default -> Fixtures.gguf(Fixtures.sentencePieceGguf());
        };
        int opened = 0;
        for (int length = 0; length < whole.length; length += length < 100 || length > whole.length - 100 ? 1 : 101) {
            Path file = Files.write(folder.resolve(name), Arrays.copyOf(whole, length));
            try (Tokenizer tokenizer = Tokenizer.open(file)) {
                assertThat(tokenizer.vocabularySize()).isPositive();
                opened++;
            } catch (IOException e) {
                assertThat(e).hasMessageContaining(file.toString());
            }
        }
        assertThat(opened).as("only a file of lines or of fields can be cut without harm").isLessThan(20);
    }

    /** Bytes changed at random are refused or read as something: whatever it is, it encodes and decodes. */
    @ParameterizedTest
    @ValueSource(strings = {"tokenizer.json", "a.model", "tiktoken.model", "a.gguf"})
    void changedBytes(String name) throws IOException {
        byte[] whole = switch (name) {
            case "tokenizer.json" -> Fixtures.bytes(Fixtures.tokenizerJson());
            case "a.model" -> Fixtures.sentencePiece(Fixtures.pieces(), 2, true);
            case "tiktoken.model" -> Fixtures.tiktoken();
            default -> Fixtures.gguf(Fixtures.sentencePieceGguf());
        };
        Random random = new Random(11);
        for (int round = 0; round < 500; round++) {
            byte[] bytes = whole.clone();
            for (int changes = 1 + random.nextInt(3); changes > 0; changes--) {
                bytes[random.nextInt(bytes.length)] = (byte) (random.nextBoolean() ? random.nextInt(256) : "{}[]\",:0 \n".charAt(random.nextInt(10)));
            }
            try (Tokenizer tokenizer = Tokenizer.open(Files.write(folder.resolve(name), bytes))) {
                tokenizer.decode(tokenizer.encode("  hello wörld </s> 🙂\0"));
            } catch (IOException e) {
                assertThat(e.getMessage()).contains(name);
            }
        }
    }

    /** The same for every part that a tokenizer.json may have. */
    @ParameterizedTest
    @ValueSource(strings = {"bytelevel", "punctuation-digits", "split-possessive", "split-inverted", "metaspace-first", "whitespace", "words"})
    void changedBytesOfTrainedTokenizers(String name) throws IOException {
        byte[] whole = Files.readAllBytes(TestData.repository().resolve("java-api/src/test/resources/fixtures/tokenizers/" + name + ".json"));
        String syntax = "{}[]\",:0 \\ntfsSp+*?()|";
        Random random = new Random(13);
        for (int round = 0; round < 300; round++) {
            byte[] bytes = whole.clone();
            for (int changes = 1 + random.nextInt(2); changes > 0; changes--) {
                // the vocabulary is most of a file, what comes before it is what differs
                int at = random.nextInt(random.nextBoolean() ? Math.min(1500, bytes.length) : bytes.length);
                bytes[at] = (byte) syntax.charAt(random.nextInt(syntax.length()));
            }
            try (Tokenizer tokenizer = Tokenizer.open(Files.write(folder.resolve("tokenizer.json"), bytes))) {
                tokenizer.decode(tokenizer.encode("  hello wörld </s> 🙂\0 12345\r\n\n it's <mask> a"));
            } catch (IOException e) {
                assertThat(e.getMessage()).contains("tokenizer.json");
            }
        }
    }

    @Test
    void sentencePieceModelsOfAnotherKind() throws IOException {
        List<Fixtures.Piece> pieces = Fixtures.pieces();
        refused(Fixtures.sentencePiece(pieces, 1, false), "BPE", "unigram");
        refused(Fixtures.sentencePiece(pieces, 4, false), "character");
        refused(Fixtures.sentencePiece(pieces, 77, false), "77");
        ByteArrayOutputStream map = new ByteArrayOutputStream();
        map.writeBytes(Fixtures.sentencePiece(pieces, 2, false));
        ByteArrayOutputStream normalizer = new ByteArrayOutputStream();
        Fixtures.field(normalizer, 2, new byte[100]);
        Fixtures.field(map, 3, normalizer.toByteArray());
        refused(map.toByteArray(), "character map of 100 bytes");
        List<Fixtures.Piece> twice = new ArrayList<>(pieces);
        twice.add(pieces.get(260));
        refused(Fixtures.sentencePiece(twice, 2, false), "\"ll\"", "260");
        twice.set(pieces.size(), new Fixtures.Piece("new", Float.NaN, 1));
        refused(Fixtures.sentencePiece(twice, 2, false), "NaN");
        twice.set(pieces.size(), new Fixtures.Piece("new", 0, 9));
        refused(Fixtures.sentencePiece(twice, 2, false), "type", "9");
    }

    @Test
    void tiktokenLinesOutOfOrder() throws IOException {
        String text = new String(Fixtures.tiktoken(), StandardCharsets.US_ASCII);
        refused(text.replace(" 7\n", " 8\n").getBytes(StandardCharsets.US_ASCII), "line 8", "rank 7");
        refused(text.replace("aGU= 256", "!!!! 256").getBytes(StandardCharsets.US_ASCII), "line 257", "!!!!");
        refused(text.replace("aGU= 256", "aA== 256").getBytes(StandardCharsets.US_ASCII), "line 257", "every token once");
        refused("AA== 0\nAQ== 1\n".getBytes(StandardCharsets.US_ASCII), "256", "2 tokens");
    }

    @Test
    void ggufFilesWhosePartsDoNotFit() throws IOException {
        refused(Fixtures.gguf("general.architecture", "llama"), "tokenizer.ggml.model");
        refused(gguf("tokenizer.ggml.model", "bert"), "tokenizer.ggml.model", "bert");
        refused(gguf("tokenizer.ggml.model", 3), "tokenizer.ggml.model");
        refused(gguf("tokenizer.ggml.scores", List.of(1f)), "tokenizer.ggml.scores");
        refused(gguf("tokenizer.ggml.tokens", List.of(1)), "tokenizer.ggml.tokens[0]");
        refused(gguf("tokenizer.ggml.token_type", Fixtures.pieces().stream().map(p -> 8).toList()), "token_type[0]", "8");
        refused(gguf("tokenizer.ggml.add_bos_token", "yes"), "add_bos_token");
        refused(gguf("tokenizer.ggml.model", "gpt2"), "tokenizer.ggml.merges");
        refused(Fixtures.gguf("tokenizer.ggml.model", "gpt2", "tokenizer.ggml.tokens", List.of("a", "b"), "tokenizer.ggml.merges",
                List.of("a b")), "model.merges[0]");
        refused(Fixtures.gguf("tokenizer.ggml.model", "gpt2", "tokenizer.ggml.tokens", List.of("a", "a"), "tokenizer.ggml.merges",
                List.of("a a")), "every piece once");
        refused(Fixtures.gguf("tokenizer.ggml.model", "gpt2", "tokenizer.ggml.tokens", List.of("a", "b"), "tokenizer.ggml.merges",
                List.of("a a"), "tokenizer.ggml.pre", "odd"), "tokenizer.ggml.pre", "odd");
    }

    private static byte[] gguf(String key, Object value) {
        Object[] keys = Fixtures.sentencePieceGguf();
        int at = Arrays.asList(keys).indexOf(key);
        if (at < 0) {
            keys = Arrays.copyOf(keys, keys.length + 2);
            at = keys.length - 2;
            keys[at] = key;
        }
        keys[at + 1] = value;
        return Fixtures.gguf(keys);
    }

    @Test
    void directoriesAndPathsWithoutATokenizer() throws IOException {
        assertThatExceptionOfType(TokenizerException.class).isThrownBy(() -> Tokenizer.open(folder))
                .withMessageContaining("tokenizer.json").withMessageContaining("none of them");
        assertThatExceptionOfType(IOException.class).isThrownBy(() -> Tokenizer.open(folder.resolve("absent")))
                .withMessageContaining("absent");
        Files.writeString(folder.resolve("tokenizer_config.json"), "{");
        Files.write(folder.resolve("tokenizer.json"), Fixtures.bytes(Fixtures.tokenizerJson()));
        assertThatExceptionOfType(TokenizerException.class).isThrownBy(() -> Tokenizer.open(folder))
                .withMessageContaining("tokenizer_config.json");
    }
}
