package io.puna.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.puna.TestData;
import io.puna.format.CheckpointException;
import io.puna.text.Tokenizer;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Conversations as tokens, by a vocabulary that puts a space before each text, as Llama 2's does. */
class ChatBatchesTest {
    private static final String CHAT = """
            {"messages": [{"role": "system", "content": "hi."}, {"role": "user", "content": "the cat"},
             {"role": "assistant", "content": "sat on the mat"}, {"role": "user", "content": "and"},
             {"role": "assistant", "content": "a bat"}]}
            """.replace("\n", "") + "\n";
    private static final List<String> MARKERS = List.of("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>",
            "<|eot_id|>");
    private static final int BEGIN = 0;
    private static final int END = 1;

    @TempDir
    private Path folder;
    private Tokenizer tokenizer;

    @BeforeEach
    void open() throws IOException {
        String json = Files.readString(TestData.fixture("tokenizers/metaspace-first.json"));
        int settings = json.indexOf("],\"normalizer\":null");
        int end = json.indexOf("\"post_processor\"");
        StringBuilder markers = new StringBuilder();
        for (int i = 0; i < MARKERS.size(); i++) {
            markers.append(", {\"id\": ").append(300 + i).append(", \"content\": \"").append(MARKERS.get(i))
                    .append("\", \"special\": true}");
        }
        Path file = Files.writeString(folder.resolve("tokenizer.json"), json.substring(0, settings) + markers + """
                ], "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                 {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}, "pre_tokenizer": null,
                """ + json.substring(end));
        Files.writeString(folder.resolve("tokenizer_config.json"), "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}");
        tokenizer = Tokenizer.open(file);
        assertThat(tokenizer.encode("the", false)).isNotEqualTo(tokenizer.encode(" the", false));
    }

    @AfterEach
    void close() {
        tokenizer.close();
    }

    private ChatBatches read(String lines, ChatFormat format, int tokens, long seed) throws IOException {
        return ChatBatches.read(Files.writeString(folder.resolve("chats.jsonl"), lines), tokenizer, format, tokens, seed);
    }

    /** Texts begin at {@code ^} and end at {@code $}; what is in brackets counts. */
    @ParameterizedTest
    @CsvSource(delimiter = ';', value = {
        "VICUNA; ^hi. USER: the cat ASSISTANT:{ sat on the mat$}USER: and ASSISTANT:{ a bat$}",
        "LLAMA2; ^[INST] <<SYS>>~hi.~<</SYS>>~~the cat [/INST]{ sat on the mat $}^[INST] and [/INST]{ a bat $}",
        "CHATML; ^<|im_start|>system~hi.<|im_end|>~<|im_start|>user~the cat<|im_end|>~<|im_start|>assistant~{sat on the mat<|im_end|>}"
                + "~<|im_start|>user~and<|im_end|>~<|im_start|>assistant~{a bat<|im_end|>}",
        "LLAMA3; ^<|start_header_id|>system<|end_header_id|>~~hi.<|eot_id|><|start_header_id|>user<|end_header_id|>~~the cat<|eot_id|>"
                + "<|start_header_id|>assistant<|end_header_id|>~~{sat on the mat<|eot_id|>}<|start_header_id|>user<|end_header_id|>~~and"
                + "<|eot_id|><|start_header_id|>assistant<|end_header_id|>~~{a bat<|eot_id|>}"})
    void aConversationIsTheTextThatItIsAndAnswersCount(ChatFormat format, String expected) throws IOException {
        String marked = expected.replace('~', '\n');
        List<Integer> tokens = new ArrayList<>();
        for (String part : marked.replaceAll("[{}]", "").split("(?=\\^)|(?<=[$^])|(?=[$])")) {
            switch (part) {
                case "^" -> tokens.add(BEGIN);
                case "$" -> tokens.add(END);
                default -> Arrays.stream(tokenizer.encode(part, false)).forEach(tokens::add);
            }
        }
        int length = tokens.size() + 3;
        int[] ids = new int[length];
        int[] targets = new int[length];

        read(CHAT, format, length, 1).next(ids, targets, 1);

        int[] padded = IntStream.range(0, length).map(i -> i < tokens.size() ? tokens.get(i) : END).toArray();
        assertThat(ids).isEqualTo(padded);
        int[] answers = IntStream.range(0, length).filter(i -> targets[i] != BatchSource.IGNORED).toArray();
        assertThat(Arrays.stream(answers).filter(i -> targets[i] != padded[i + 1])).isEmpty();
        String said = marked.replaceAll("[^{]*\\{([^}]*)}", "$1").replace("$", "");
        assertThat(tokenizer.decode(Arrays.stream(answers).map(i -> targets[i]).filter(token -> token != END).toArray(), false).strip())
                .isEqualTo(said.strip());
        long ends = marked.chars().filter(c -> c == '$').count();
        assertThat(Arrays.stream(answers).filter(i -> targets[i] == END).count()).isEqualTo(ends);
    }

    @Test
    void aLongConversationIsCut() throws IOException {
        int[] whole = new int[60];
        int[] targets = new int[60];
        read(CHAT, ChatFormat.VICUNA, 60, 1).next(whole, targets, 1);
        int answer = IntStream.range(0, 60).filter(i -> targets[i] != BatchSource.IGNORED).findFirst().orElseThrow();
        int[] ids = new int[answer + 1];
        int[] expected = new int[answer + 1];

        read(CHAT, ChatFormat.VICUNA, answer + 1, 1).next(ids, expected, 1);

        assertThat(ids).isEqualTo(Arrays.copyOf(whole, answer + 1));
        assertThat(expected).isEqualTo(Arrays.copyOf(targets, answer + 1));
        assertThatThrownBy(() -> read(CHAT, ChatFormat.VICUNA, answer, 1)).isInstanceOf(CheckpointException.class)
                .hasMessageContaining("an assistant speaks within " + answer + " tokens");
    }

    @Test
    void everyEpochHasEachConversationOnceAndIsTakenUpAnywhere() throws IOException {
        StringBuilder lines = new StringBuilder();
        for (String word : List.of("the", "cat", "sat", "on", "mat")) {
            lines.append("{\"prompt\": \"a\", \"completion\": \"").append(word).append("\"}\n");
        }
        ChatBatches source = read(lines.toString(), ChatFormat.VICUNA, 40, 3);
        assertThat(source.size()).isEqualTo(5);
        List<String> orders = new ArrayList<>();
        for (int epoch = 0; epoch < 3; epoch++) {
            List<String> seen = new ArrayList<>();
            for (int i = 0; i < 5; i++) {
                String state = source.state();
                int[] ids = take(source, 1, 40);
                ChatBatches other = read(lines.toString(), ChatFormat.VICUNA, 40, 3);
                other.restore(state);
                assertThat(take(other, 1, 40)).isEqualTo(ids);
                seen.add(Arrays.toString(ids));
            }
            assertThat(seen).doesNotHaveDuplicates();
            orders.add(seen.toString());
        }
        assertThat(orders).doesNotHaveDuplicates();
    }

    private static int[] take(BatchSource source, int sequences, int length) {
        int[] ids = new int[sequences * length];
        source.next(ids, new int[ids.length], sequences);
        return ids;
    }

    @Test
    void aStateOfOtherConversationsIsRefused() throws IOException {
        ChatBatches source = read(CHAT, ChatFormat.VICUNA, 40, 3);
        String state = source.state();
        for (String bad : List.of("", "nonsense", state + "x", read(CHAT, ChatFormat.VICUNA, 40, 4).state(),
                read(CHAT, ChatFormat.CHATML, 200, 3).state(), read(CHAT.replace("mat", "hat"), ChatFormat.VICUNA, 40, 3).state())) {
            assertThatThrownBy(() -> source.restore(bad)).as(bad).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageStartingWith("state: expected");
        }
        assertThatThrownBy(() -> source.next(new int[6], new int[6], 4)).hasMessageStartingWith("sequences: expected a divisor of 6");
        assertThatThrownBy(() -> source.next(new int[6], new int[6], 0)).hasMessageStartingWith("sequences: expected");
        assertThatThrownBy(() -> source.next(new int[6], new int[5], 2)).hasMessageStartingWith("targets: expected 6");
        assertThat(source.state()).isEqualTo(state);
    }

    @Test
    void badLinesAreNamed() throws IOException {
        for (String line : List.of("no JSON", "[1]", "3", "{}", "{\"messages\": []}",
                "{\"messages\": [{\"role\": \"tool\", \"content\": \"a\"}]}", "{\"messages\": [{\"role\": \"user\"}]}", "{\"prompt\": \"a\"}", "{\"prompt\": \"a\", \"completion\": \"b\"} {}")) {
            assertThatThrownBy(() -> read(CHAT + "\n" + line + "\n", ChatFormat.VICUNA, 40, 1)).as(line)
                    .isInstanceOf(CheckpointException.class).hasMessageContaining("line 3");
        }
        Path latin = Files.write(folder.resolve("latin.jsonl"), CHAT.replace("cat", "caf\u00e9").getBytes(StandardCharsets.ISO_8859_1));
        assertThatThrownBy(() -> ChatBatches.read(latin, tokenizer, ChatFormat.VICUNA, 40, 1)).isInstanceOf(CheckpointException.class)
                .hasMessageContaining("UTF-8");
    }
}
