package io.puna.text;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;
import static org.assertj.core.api.Assertions.assertThatNullPointerException;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TokenizerTest {
    private static final int HELLO = 263;       // ▁hello
    private static final int SPACES = 264;      // ▁▁
    private static final int SPACE = 265;       // ▁

    @TempDir
    Path folder;

    private Tokenizer open(String name, byte[] bytes) throws Exception {
        return Tokenizer.open(Files.write(folder.resolve(name), bytes));
    }

    private Tokenizer json() throws Exception {
        return open("tokenizer.json", Fixtures.bytes(Fixtures.tokenizerJson()));
    }

    @Test
    void everyKindOfFileHoldsTheSameVocabulary() throws Exception {
        List<Tokenizer> all = List.of(json(), open("a.model", Fixtures.sentencePiece(Fixtures.pieces(), 2, false)),
                open("a.gguf", Fixtures.gguf(Fixtures.sentencePieceGguf())));
        for (Tokenizer tokenizer : all) {
            try (tokenizer) {
                assertThat(tokenizer.encode("hello")).containsExactly(1, HELLO);
                assertThat(tokenizer.encode("hello", false)).containsExactly(HELLO);
                assertThat(tokenizer.encode("  hello", false)).containsExactly(SPACES, HELLO);
                assertThat(tokenizer.encode("", true)).containsExactly(1);
                assertThat(tokenizer.encode("", false)).isEmpty();
                assertThat(tokenizer.encode("é", false)).containsExactly(SPACE, 3 + 0xC3, 3 + 0xA9);
                assertThat(tokenizer.encode("hello</s>", false)).containsExactly(HELLO, 2);
                assertThat(tokenizer.decode(1, HELLO, HELLO, 2)).isEqualTo("hello hello");
                assertThat(tokenizer.decode(new int[] {1, HELLO, 2}, false)).isEqualTo("<s> hello</s>");
                assertThat(tokenizer.vocabularySize()).isEqualTo(Fixtures.pieces().size());
                assertThat(tokenizer.piece(HELLO)).isEqualTo("\u2581hello");
                assertThat(tokenizer.id("\u2581hello")).hasValue(HELLO);
                assertThat(tokenizer.id("absent")).isEmpty();
                assertThat(tokenizer.bosId()).hasValue(1);
                assertThat(tokenizer.eosIds()).containsExactly(2);
                assertThat(tokenizer.isSpecial(2)).isTrue();
                assertThat(tokenizer.isSpecial(3)).isFalse();
            }
        }
    }

    @Test
    void aSentencePieceModelMayDropExtraSpaces() throws Exception {
        try (Tokenizer tokenizer = open("a.model", Fixtures.sentencePiece(Fixtures.pieces(), 2, true))) {
            assertThat(tokenizer.encode("  hello   hello ", false)).containsExactly(HELLO, HELLO);
            assertThat(tokenizer.encode("   ", false)).isEmpty();
        }
    }

    @Test
    void tiktokenFilesAreLlama3s() throws Exception {
        try (Tokenizer tokenizer = open("tokenizer.model", Fixtures.tiktoken())) {
            assertThat(tokenizer.vocabularySize()).isEqualTo(261 + 256);
            assertThat(tokenizer.encode("hello hello")).containsExactly(261, 259, 260);
            assertThat(tokenizer.id("<|eot_id|>")).hasValue(261 + 9);
            assertThat(tokenizer.eosIds()).containsExactlyInAnyOrder(262, 270);
            assertThat(tokenizer.decode(261, 260, 0xE2, 0x82, 0xAC, 0xFF, 0xE2, 0x82)).isEqualTo(" hello€\uFFFD\uFFFD");
        }
    }

    @Test
    void aDirectorysConfigurationIsHonoured() throws Exception {
        Files.write(folder.resolve("tokenizer.json"), Fixtures.bytes(Fixtures.tokenizerJson().putNull("post_processor")));
        try (Tokenizer tokenizer = Tokenizer.open(folder)) {
            assertThat(tokenizer.encode("hello")).containsExactly(HELLO);
        }
        Files.writeString(folder.resolve("tokenizer_config.json"),
                "{\"add_bos_token\": true, \"add_eos_token\": true, \"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": \"</s>\"}");
        Files.writeString(folder.resolve("config.json"), "{\"eos_token_id\": [2, 9999, -1]}");
        Files.writeString(folder.resolve("generation_config.json"), "{\"eos_token_id\": 0}");
        try (Tokenizer tokenizer = Tokenizer.open(folder)) {
            assertThat(tokenizer.encode("hello")).containsExactly(1, HELLO, 2);
            assertThat(tokenizer.eosIds()).containsExactly(2, 0);
        }
    }

    @Test
    void ggufKeysDecideWhatIsAdded() throws Exception {
        List<Object> keys = new ArrayList<>(List.of(Fixtures.sentencePieceGguf()));
        keys.addAll(List.of("tokenizer.ggml.add_bos_token", false, "tokenizer.ggml.add_eos_token", true,
                "tokenizer.ggml.add_space_prefix", false, "tokenizer.ggml.eot_token_id", 0, "tokenizer.ggml.eom_token_id", -1));
        try (Tokenizer tokenizer = open("a.gguf", Fixtures.gguf(keys.toArray()))) {
            assertThat(tokenizer.encode(" hello")).containsExactly(HELLO, 2);
            assertThat(tokenizer.encode("hello", false)).doesNotContain(HELLO);
            assertThat(tokenizer.decode(HELLO)).isEqualTo(" hello");
            assertThat(tokenizer.eosIds()).containsExactly(2, 0);
        }
    }

    @Test
    void halfSurrogatesAndNulAreText() throws Exception {
        try (Tokenizer tokenizer = json()) {
            int[] replacement = tokenizer.encode("\uFFFD", false);
            assertThat(tokenizer.encode("\uD83D", false)).isEqualTo(replacement);
            assertThat(tokenizer.encode("\uDE42", false)).isEqualTo(replacement);
            assertThat(tokenizer.decode(tokenizer.encode("a\uD83Db\uD83D\uDE42\0c"))).isEqualTo("a\uFFFDb🙂\0c");
        }
    }

    @Test
    void longTextsAreEncodedUpToALimit() throws Exception {
        try (Tokenizer tokenizer = json()) {
            assertThat(tokenizer.encode("hello ".repeat(100_000), false)).hasSize(100_001);
            assertThatIllegalArgumentException().isThrownBy(() -> tokenizer.encode(" ".repeat(Tokenizer.MAX_TEXT + 1)))
                    .withMessageContaining("4194304").withMessageContaining("4194305");
        }
    }

    @Test
    void argumentsAreChecked() throws Exception {
        try (Tokenizer tokenizer = json()) {
            int size = tokenizer.vocabularySize();
            assertThatNullPointerException().isThrownBy(() -> tokenizer.encode(null));
            assertThatNullPointerException().isThrownBy(() -> tokenizer.decode((int[]) null));
            assertThatNullPointerException().isThrownBy(() -> tokenizer.id(null));
            for (int id : new int[] {-1, size, Integer.MAX_VALUE, Integer.MIN_VALUE}) {
                assertThatExceptionOfType(IndexOutOfBoundsException.class).isThrownBy(() -> tokenizer.decode(1, id));
                assertThatExceptionOfType(IndexOutOfBoundsException.class).isThrownBy(() -> tokenizer.piece(id));
                assertThatExceptionOfType(IndexOutOfBoundsException.class).isThrownBy(() -> tokenizer.isSpecial(id));
                assertThatExceptionOfType(IndexOutOfBoundsException.class).isThrownBy(() -> tokenizer.streamDecoder(id));
                assertThatExceptionOfType(IndexOutOfBoundsException.class).isThrownBy(() -> tokenizer.streamDecoder().accept(id));
            }
        }
    }

    @Test
    void aClosedTokenizerSaysSo() throws Exception {
        Tokenizer tokenizer = json();
        StreamDecoder stream = tokenizer.streamDecoder();
        assertThat(stream.accept(3 + 0xE2)).isEmpty();
        tokenizer.close();
        tokenizer.close();
        assertThatIllegalStateException().isThrownBy(() -> tokenizer.encode("hello")).withMessage("tokenizer is closed");
        assertThatIllegalStateException().isThrownBy(() -> tokenizer.decode(HELLO));
        assertThatIllegalStateException().isThrownBy(() -> tokenizer.streamDecoder());
        assertThatIllegalStateException().isThrownBy(() -> stream.accept(HELLO));
        assertThat(stream.finish()).isEqualTo("\uFFFD");
        assertThatIllegalStateException().isThrownBy(() -> stream.accept(HELLO)).withMessage("stream is finished");
    }

    @Test
    void closingWaitsForCallsInFlight() throws Exception {
        String text = "hello é ".repeat(2000);
        for (int round = 0; round < 20; round++) {
            Tokenizer tokenizer = json();
            int expected = tokenizer.encode(text).length;
            try (ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor()) {
                List<Future<Integer>> encoders = new ArrayList<>();
                for (int i = 0; i < 8; i++) {
                    encoders.add(threads.submit((Callable<Integer>) () -> {
                        for (int calls = 0;; calls++) {
                            try {
                                assertThat(tokenizer.encode(text)).hasSize(expected);
                            } catch (IllegalStateException e) {
                                return calls;
                            }
                        }
                    }));
                }
                Thread.sleep(5);
                tokenizer.close();
                for (Future<Integer> encoder : encoders) {
                    assertThat(encoder.get()).isNotNegative();
                }
            }
        }
    }

    @Test
    void streamedCharactersAreWhole() throws Exception {
        try (Tokenizer tokenizer = json()) {
            StreamDecoder stream = tokenizer.streamDecoder(tokenizer.encode("hello"));
            assertThat(stream.accept(HELLO)).isEqualTo(" hello");
            assertThat(stream.accept(3 + 0xF0)).isEmpty();
            assertThat(stream.accept(3 + 0x9F)).isEmpty();
            assertThat(stream.accept(3 + 0x99)).isEmpty();
            assertThat(stream.accept(3 + 0x82)).isEqualTo("🙂");
            assertThat(stream.accept(3 + 0xF0)).isEmpty();
            assertThat(stream.accept(3 + 0x9F)).isEmpty();
            assertThat(stream.accept(HELLO)).isEqualTo("\uFFFD\uFFFD hello");
            assertThat(stream.accept(2)).isEmpty();
            assertThat(stream.finish()).isEmpty();
            assertThat(tokenizer.streamDecoder().accept(HELLO)).isEqualTo("hello");
        }
    }
}
