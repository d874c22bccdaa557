package io.puna.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.puna.TestData;
import io.puna.format.CheckpointException;
import io.puna.text.Tokenizer;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.TreeSet;
import java.util.stream.IntStream;
import java.util.zip.CRC32C;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class TokenDatasetTest {
    private static final Path TOKENIZER = TestData.fixture("tokenizers/words.json");
    private static final int VOCABULARY = 1000;

    @TempDir
    Path folder;

    /** Documents that say where they are from: each is its number in the hundreds, then 0, 1, 2 … of its length. */
    private Path shard(String name, int vocabulary, double weight, int... lengths) throws IOException {
        Path file = folder.resolve(name + TokenDataset.SUFFIX);
        try (TokenShard.Writer writer = new TokenShard.Writer(file, vocabulary, weight)) {
            for (int document = 0; document < lengths.length; document++) {
                int first = document * 100;
                writer.write(IntStream.range(0, lengths[document]).map(i -> first + i).toArray());
                writer.endDocument();
            }
            writer.finish();
        }
        return file;
    }

    private static int[] take(BatchSource source, int sequences, int length) {
        int[] ids = new int[sequences * length];
        source.next(ids, new int[ids.length], sequences);
        return ids;
    }

    // ---- packing ----

    @Test
    void documentsAreLaidEndToEndAndTargetsFollow() throws IOException {
        shard("a", VOCABULARY, 1, 3, 2);
        shard("a.validation", VOCABULARY, 1, 3, 2);
        try (TokenDataset dataset = TokenDataset.open(folder)) {
            BatchSource source = dataset.validation();
            int[] ids = new int[8];
            int[] targets = new int[8];
            source.next(ids, targets, 2);
            assertThat(ids).containsExactly(0, 1, 2, 100, 101, 0, 1, 2);
            assertThat(targets).containsExactly(1, 2, 100, 101, 0, 1, 2, 100);
            dataset.validation(true).next(ids, targets, 2);
            assertThat(targets).containsExactly(1, 2, BatchSource.IGNORED, 101, BatchSource.IGNORED, 1, 2, BatchSource.IGNORED);
            boolean[] begins = new boolean[8];
            dataset.validation(true).next(ids, targets, begins, 2);
            assertThat(ids).containsExactly(0, 1, 2, 100, 101, 0, 1, 2);
            assertThat(targets).containsExactly(1, 2, BatchSource.IGNORED, 101, BatchSource.IGNORED, 1, 2, BatchSource.IGNORED);
            assertThat(begins).containsExactly(true, false, false, true, false, true, false, false);
            dataset.validation().next(ids, targets, begins, 2);
            assertThat(begins).containsOnly(false);
        }
    }

    @Test
    void boundariesAreMaskedWhereAsked() throws IOException {
        shard("a", VOCABULARY, 1, 3, 2);
        try (TokenDataset dataset = TokenDataset.open(folder)) {
            int[] ids = new int[50];
            int[] targets = new int[50];
            dataset.batches(1, true).next(ids, targets, 5);
            for (int i = 0; i < ids.length; i++) {
                boolean last = ids[i] == 2 || ids[i] == 101;
                assertThat(targets[i]).isEqualTo(last ? BatchSource.IGNORED : ids[i] + 1);
            }
        }
    }

    @Test
    void anEpochHasEveryDocumentOnceInAnOrderOfItsOwn() throws IOException {
        int[] lengths = new int[10];
        Arrays.fill(lengths, 7);
        shard("a", VOCABULARY, 1, lengths);
        try (TokenDataset dataset = TokenDataset.open(folder)) {
            BatchSource source = dataset.batches(3);
            List<List<Integer>> orders = new ArrayList<>();
            for (int epoch = 0; epoch < 4; epoch++) {
                List<Integer> order = new ArrayList<>();
                for (int id : take(source, 7, 10)) {
                    if (id % 100 == 0) {
                        order.add(id / 100);
                    }
                }
                assertThat(order).hasSize(10).containsExactlyInAnyOrder(0, 1, 2, 3, 4, 5, 6, 7, 8, 9);
                orders.add(order);
            }
            assertThat(orders).doesNotHaveDuplicates();
            assertThat(take(dataset.batches(3), 7, 10)).isEqualTo(take(dataset.batches(3), 7, 10))
                    .isNotEqualTo(take(dataset.batches(4), 7, 10));
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65})
    void anyNumberOfDocumentsIsShuffledWhole(int documents) throws IOException {
        int[] lengths = new int[documents];
        Arrays.fill(lengths, 1);
        shard("a", 100 * documents, 1, lengths);
        try (TokenDataset dataset = TokenDataset.open(folder)) {
            TreeSet<Integer> seen = new TreeSet<>();
            for (int id : take(dataset.batches(9), 1, documents)) {
                seen.add(id);
            }
            assertThat(seen).hasSize(documents);
        }
    }

    // ---- mixture ----

    @Test
    void sourcesAreDrawnByWeight() throws IOException {
        shard("a", VOCABULARY, 3, 20);
        shard("b", VOCABULARY, 1, 30, 10); // ids above 100 are its alone, of a quarter of its tokens
        try (TokenDataset dataset = TokenDataset.open(folder)) {
            BatchSource source = dataset.batches(5);
            int b = 0;
            int rows = 4000;
            for (int i = 0; i < rows; i++) {
                b += Arrays.stream(take(source, 1, 40)).anyMatch(id -> id >= 20) ? 1 : 0;
            }
            assertThat(b / (double) rows).isBetween(0.23, 0.27);
            assertThat(dataset.sources()).extracting(TokenDataset.Source::name).containsExactly("a", "b");
        }
    }

    // ---- resuming ----

    @ParameterizedTest
    @CsvSource({"1, 5", "3, 7", "2, 200"})
    void aRestoredSourceGoesOnExactly(int sequences, int length) throws IOException {
        shard("a", VOCABULARY, 3, 20, 1, 9, 33);
        shard("b", VOCABULARY, 1, 30, 10);
        try (TokenDataset dataset = TokenDataset.open(folder)) {
            BatchSource source = dataset.batches(-11);
            for (int i = 0; i < 50; i++) {
                String state = source.state();
                int[] next = take(source, sequences, length);
                BatchSource other = dataset.batches(-11);
                other.restore(state);
                assertThat(take(other, sequences, length)).isEqualTo(next);
                assertThat(other.state()).isEqualTo(source.state());
            }
        }
    }

    @Test
    void aStateOfOtherTokensOrNoneIsRefused() throws IOException {
        shard("a", VOCABULARY, 1, 20, 5);
        try (TokenDataset dataset = TokenDataset.open(folder)) {
            BatchSource source = dataset.batches(1);
            String start = source.state();
            String identity = start.substring(0, start.indexOf(" 0 "));
            for (String bad : List.of("", "nonsense", dataset.batches(2).state(), identity, identity + " 0", identity + " x 0:0:0",
                    identity + " -1 0:0:0", identity + " 0 0:0:0 0:0:0", identity + " 0 -1:0:0", identity + " 0 0:2:0",
                    identity + " 0 0:0:20", identity + " 0 0:0:-1", identity + " 0 0:0", start.replace("packed1", "packed2"))) {
                assertThatThrownBy(() -> source.restore(bad)).as(bad).isInstanceOf(IllegalArgumentException.class)
                        .hasMessageStartingWith("state: expected");
            }
            assertThat(source.state()).isEqualTo(start);
        }
    }

    // ---- what is written ----

    @Test
    void textsComeBackBetweenTheTokensThatTheVocabularyHas() throws IOException {
        Path text = Files.writeString(folder.resolve("in.txt"), "the cat<|endoftext|>\n  <|endoftext|>a hat\n");
        Path json = Files.writeString(folder.resolve("in.jsonl"), "{\"id\":[1,{\"text\":2}],\"text\":\"the cat\"}\n\n{\"text\":\"\"}\n");
        Path out = folder.resolve("out");
        Path tokenizerFile = Files.copy(TOKENIZER, folder.resolve("tokenizer.json"));
        try (TokenDatasetWriter writer = TokenDatasetWriter.create(out, "mixed", 2, 0, tokenizerFile)) {
            writer.addText(text, ignored -> { });
            writer.addJsonLines(json, "text", ignored -> { });
            assertThat(writer.documents()).isEqualTo(3);
            assertThat(out).isDirectoryNotContaining("glob:**.tokens");
            writer.finish();
        }
        try (TokenDataset dataset = TokenDataset.open(out); Tokenizer tokenizer = Tokenizer.open(out)) {
            assertThat(dataset.vocabularySize()).isEqualTo(tokenizer.vocabularySize());
            TokenDataset.Source source = dataset.sources().getFirst();
            assertThat(source.name()).isEqualTo("mixed");
            assertThat(source.weight()).isEqualTo(2);
            assertThat(source.documents()).isEqualTo(3);
            long around = (tokenizer.bosId().isPresent() ? 1 : 0) + (tokenizer.eosIds().isEmpty() ? 0 : 1);
            assertThat(source.tokens()).isEqualTo(2L * tokenizer.encode("the cat", false).length + tokenizer.encode("a hat", false).length
                    + 3 * around);
        }
        assertThat(out).isDirectoryNotContaining("glob:**.part");
    }

    @Test
    void oneDocumentInSoManyIsHeldOutWhateverTheRest() throws IOException {
        Path tokenizer = Files.copy(TOKENIZER, folder.resolve("tokenizer.json"));
        try (TokenDatasetWriter writer = TokenDatasetWriter.create(folder.resolve("out"), "n", 1, 4, tokenizer)) {
            for (int i = 0; i < 1000; i++) {
                writer.add("the cat " + i);
            }
            writer.finish();
        }
        try (TokenDataset dataset = TokenDataset.open(folder.resolve("out"))) {
            TokenDataset.Source source = dataset.sources().getFirst();
            assertThat(source.documents() + source.validationDocuments()).isEqualTo(1000);
            assertThat(source.validationDocuments()).isBetween(200L, 300L);
            assertThat(dataset.validationTokens()).isEqualTo(source.validationTokens());
        }
    }

    @Test
    void aSourceMadeAnewHasNothingOfTheOneBefore() throws IOException {
        Path tokenizer = Files.copy(TOKENIZER, folder.resolve("tokenizer.json"));
        for (int heldOut : new int[] {2, 0}) {
            try (TokenDatasetWriter writer = TokenDatasetWriter.create(folder.resolve("out"), "n", 1, heldOut, tokenizer)) {
                for (int i = 0; i < 100; i++) {
                    writer.add("the cat " + i);
                }
                writer.finish();
            }
        }
        try (TokenDataset dataset = TokenDataset.open(folder.resolve("out"))) {
            assertThat(dataset.sources().getFirst().documents()).isEqualTo(100);
            assertThat(dataset.hasValidation()).isFalse();
        }
    }

    @Test
    void aLongDocumentIsOneDocument() throws IOException {
        Path tokenizer = Files.copy(TOKENIZER, folder.resolve("tokenizer.json"));
        Path text = Files.writeString(folder.resolve("long.txt"), "the cat sat ".repeat(300_000));
        try (TokenDatasetWriter writer = TokenDatasetWriter.create(folder.resolve("out"), "n", 1, 0, tokenizer)) {
            writer.addText(text, ignored -> { });
            writer.finish();
            assertThat(writer.documents()).isEqualTo(1);
            assertThat(writer.tokens()).isGreaterThan(800_000);
        }
    }

    @Test
    void nothingIsLeftOfASourceWithoutDocuments() throws IOException {
        Path tokenizer = Files.copy(TOKENIZER, folder.resolve("tokenizer.json"));
        Path empty = Files.writeString(folder.resolve("empty.txt"), " \n<|endoftext|>");
        try (TokenDatasetWriter writer = TokenDatasetWriter.create(folder.resolve("out"), "n", 1, 0, tokenizer)) {
            writer.addText(empty, ignored -> { });
            assertThatThrownBy(writer::finish).isInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("expected documents to train on, got none");
        }
        assertThat(folder.resolve("out")).isEmptyDirectory();
        assertThatThrownBy(() -> TokenDataset.open(folder.resolve("out"))).isInstanceOf(CheckpointException.class)
                .hasMessageContaining("expected tokens to train on");
        assertThatThrownBy(() -> TokenDataset.open(folder.resolve("nowhere"))).isInstanceOf(NoSuchFileException.class);
    }

    @Test
    void badInputsAreNamed() throws IOException {
        Path tokenizer = Files.copy(TOKENIZER, folder.resolve("tokenizer.json"));
        Path out = folder.resolve("out");
        for (String line : List.of("{\"body\":\"x\"}", "{\"text\":1}", "[1]", "{\"text\":\"a\"", "{\"text\":\"a\"} 2", "text")) {
            Path file = Files.writeString(folder.resolve("bad.jsonl"), "{\"text\":\"good\"}\n" + line + "\n");
            try (TokenDatasetWriter writer = TokenDatasetWriter.create(out, "n", 1, 0, tokenizer)) {
                assertThatThrownBy(() -> writer.addJsonLines(file, "text", ignored -> { })).as(line)
                        .isInstanceOf(CheckpointException.class).hasMessageContaining("line 2");
            }
        }
        Path latin = Files.write(folder.resolve("latin.txt"), "caf\u00e9 au lait".getBytes(StandardCharsets.ISO_8859_1));
        try (TokenDatasetWriter writer = TokenDatasetWriter.create(out, "n", 1, 0, tokenizer)) {
            assertThatThrownBy(() -> writer.addText(latin, ignored -> { })).isInstanceOf(CheckpointException.class)
                    .hasMessageContaining("UTF-8");
        }
        assertThatThrownBy(() -> TokenDatasetWriter.create(out, "../n", 1, 0, tokenizer)).hasMessageStartingWith("name: expected");
        assertThatThrownBy(() -> TokenDatasetWriter.create(out, "n", 0, 0, tokenizer)).hasMessageStartingWith("weight: expected");
        assertThatThrownBy(() -> TokenDatasetWriter.create(out, "n", 1, 1, tokenizer)).hasMessageStartingWith("heldOut: expected");
        assertThatThrownBy(() -> TokenDatasetWriter.create(out, "n", 1, 0, latin)).hasMessageStartingWith("tokenizer: expected");

        Path other = Files.createDirectory(folder.resolve("other")).resolve("tokenizer.json");
        Files.copy(TestData.fixture("tokenizers/digits.json"), other);
        try (TokenDatasetWriter writer = TokenDatasetWriter.create(out, "n", 1, 0, tokenizer)) {
            writer.add("the cat");
            writer.finish();
        }
        assertThatThrownBy(() -> TokenDatasetWriter.create(out, "n", 1, 0, other)).isInstanceOf(CheckpointException.class)
                .hasMessageContaining("the tokenizer that the tokens of this directory were made by");
    }

    // ---- damage ----

    @Test
    void everyDamageToAHeaderOrALengthIsAnException() throws IOException {
        Path file = shard("a", VOCABULARY, 1, 20, 5, 9);
        byte[] whole = Files.readAllBytes(file);
        for (int length = 0; length < whole.length; length++) {
            Files.write(file, Arrays.copyOf(whole, length));
            refused();
        }
        Files.write(file, Arrays.copyOf(whole, whole.length + 1));
        refused();
        for (int i = 0; i < 64; i++) {
            byte[] damaged = whole.clone();
            damaged[i] ^= 1;
            Files.write(file, damaged);
            refused();
        }
    }

    @Test
    void fieldsThatLieAreExceptionsWhateverTheChecksum() throws IOException {
        Path file = shard("a", VOCABULARY, 1, 20, 5, 9);
        byte[] whole = Files.readAllBytes(file);
        Random random = new Random(1);
        long[] values = {0, 1, -1, Long.MAX_VALUE, Long.MIN_VALUE, 1L << 32, 35, 33, 4, Double.doubleToRawLongBits(Double.NaN)};
        for (int at : new int[] {8, 12, 16, 24, 32, 40}) {
            for (int i = 0; i < 40; i++) {
                ByteBuffer damaged = ByteBuffer.wrap(whole.clone()).order(ByteOrder.LITTLE_ENDIAN);
                long value = i < values.length ? values[i] : random.nextLong();
                if (at == 8 || at == 12 || at == 40) {
                    damaged.putInt(at, (int) value);
                } else {
                    damaged.putLong(at, value);
                }
                CRC32C crc = new CRC32C();
                crc.update(damaged.array(), 0, 60);
                damaged.putInt(60, (int) crc.getValue());
                Files.write(file, damaged.array());
                try (TokenDataset dataset = TokenDataset.open(folder)) {
                    take(dataset.batches(1), 3, 10); // another weight or vocabulary may be as good as the one that was
                } catch (CheckpointException e) {
                    assertThat(e).hasMessageStartingWith(file.toString()).hasMessageContaining(": expected ");
                } catch (UncheckedIOException e) {
                    assertThat(e.getCause()).isInstanceOf(CheckpointException.class);
                }
            }
        }
    }

    @Test
    void endsOfDocumentsMustAscendToTheEnd() throws IOException {
        Path file = shard("a", VOCABULARY, 1, 20, 5, 9);
        byte[] whole = Files.readAllBytes(file);
        for (int document = 0; document < 3; document++) {
            for (long end : new long[] {0, -1, 35, Long.MAX_VALUE, Long.MIN_VALUE}) {
                ByteBuffer damaged = ByteBuffer.wrap(whole.clone()).order(ByteOrder.LITTLE_ENDIAN);
                damaged.putLong(whole.length - 24 + 8 * document, end);
                Files.write(file, damaged.array());
                refused();
            }
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {300, 70_000})
    void aTokenBeyondTheVocabularyIsAnExceptionWhenItIsRead(int vocabulary) throws IOException {
        Path file = shard("a", vocabulary, 1, 20);
        byte[] whole = Files.readAllBytes(file);
        Arrays.fill(whole, 64 + 16, 64 + 20, (byte) 0xff);
        Files.write(file, whole);
        try (TokenDataset dataset = TokenDataset.open(folder)) {
            assertThatThrownBy(() -> take(dataset.batches(1), 1, 40)).isInstanceOf(UncheckedIOException.class)
                    .hasMessageContaining("below " + vocabulary);
        }
    }

    @Test
    void shardsOfTwoVocabulariesAreNoDataset() throws IOException {
        shard("a", VOCABULARY, 1, 20);
        shard("b", VOCABULARY + 1, 1, 20);
        assertThatThrownBy(() -> TokenDataset.open(folder)).isInstanceOf(CheckpointException.class)
                .hasMessageContaining("expected a vocabulary of 1000 tokens");
    }

    private void refused() {
        assertThatThrownBy(() -> TokenDataset.open(folder).close()).isInstanceOf(CheckpointException.class)
                .hasMessageContaining(": expected ");
    }

    // ---- use ----

    @Test
    void badArgumentsAreNamedAndAClosedDatasetThrows() throws IOException {
        shard("a", VOCABULARY, 1, 20);
        TokenDataset dataset = TokenDataset.open(folder);
        BatchSource source = dataset.batches(1);
        assertThatThrownBy(() -> source.next(new int[6], new int[6], 4)).hasMessageStartingWith("sequences: expected a divisor of 6");
        assertThatThrownBy(() -> source.next(new int[6], new int[6], 0)).hasMessageStartingWith("sequences: expected");
        assertThatThrownBy(() -> source.next(new int[0], new int[0], 1)).hasMessageStartingWith("sequences: expected");
        assertThatThrownBy(() -> source.next(new int[6], new int[5], 2)).hasMessageStartingWith("targets: expected 6");
        assertThatThrownBy(() -> source.next(new int[6], new int[6], new boolean[5], 2))
                .hasMessageStartingWith("begins: expected 6");
        assertThatThrownBy(dataset::validation).isInstanceOf(IllegalStateException.class).hasMessageContaining("got none");
        dataset.close();
        dataset.close();
        assertThatThrownBy(() -> take(source, 1, 5)).isInstanceOf(IllegalStateException.class);
    }
}
