package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;

import io.puna.format.CheckpointException;
import io.puna.text.Tokenizer;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** What every command has: help, a version, and one sentence with an exit code where something is wrong. */
class PunaTest {
    private static final String GGUF = Samples.fixture("gguf/f32.gguf").toString();
    private static final String WITHOUT_TOKENIZER = Samples.fixture("models/gqa3-tied").toString();

    @TempDir
    private static Path folder;

    @ParameterizedTest
    @ValueSource(strings = {"generate", "bench", "tokenize", "inspect"})
    void everyCommandHasHelpWithExamples(String command) {
        Run run = Run.puna(command, "--help");

        assertThat(run.code()).isZero();
        assertThat(run.out()).contains("Usage: puna " + command, "--model", "--json", "Examples:", "puna " + command + " --model");
        assertThat(run.err()).isEmpty();
        assertThat(Run.puna("--help").out()).contains("  " + command);
    }

    @ParameterizedTest
    @ValueSource(strings = {"train", "finetune", "plan", "gradients"})
    void everyCommandOfTrainingHasHelpWithExamples(String command) {
        Run run = Run.puna(command, "--help");

        assertThat(run.code()).isZero();
        assertThat(run.out()).contains("Usage: puna " + command, "Example", "puna " + command + " --");
        assertThat(Run.puna("--help").out()).contains("  " + command);
    }

    @Test
    void helpTellsTheExitCodesAndVersionWhatRuns() {
        assertThat(Run.puna("--help").out()).contains("Exit codes:").contains(" 65 ", " 66 ", " 69 ", " 130 ");
        assertThat(Run.puna("--version").out()).contains("puna", "Java " + Runtime.version().feature(), "cpu");
    }

    static Stream<Arguments> badInputs() throws IOException {
        Path empty = Files.createFile(folder.resolve("empty.gguf"));
        Path text = Files.writeString(folder.resolve("notes.txt"), "no model at all");
        byte[] whole = Files.readAllBytes(Path.of(GGUF));
        Path truncated = Files.write(folder.resolve("truncated.gguf"), Arrays.copyOf(whole, whole.length / 2));
        Path magic = Files.write(folder.resolve("magic.gguf"), new byte[] {'G', 'G', 'U', 'F', 9, 0, 0, 0, 0, 0, 0, 0});
        Path otherModel = Files.createDirectory(folder.resolve("bert"));
        Files.writeString(otherModel.resolve("config.json"), "{\"architectures\":[\"BertModel\"]}");
        Files.copy(Path.of(WITHOUT_TOKENIZER, "model.safetensors"), otherModel.resolve("model.safetensors"));
        Path badTokenizer = Files.writeString(folder.resolve("tokenizer.json"), "{\"model\":{\"type\":\"Unknown\"}}");
        Path noModel = Files.createDirectory(folder.resolve("nothing"));
        return Stream.of(
                bad(2, "Missing required subcommand"),
                bad(2, "learningRate", "train", "--config", "c.json", "--data", "d", "--out", "o", "--steps", "9", "--batch", "1",
                        "--sequence", "8", "--learning-rate", "-1"),
                bad(2, "--config", "train", "--data", "d", "--out", "o", "--steps", "9", "--batch", "1", "--sequence", "8",
                        "--learning-rate", "1"),
                bad(66, "no such file", "train", "--config", "c.json", "--data", "/none", "--out", "o", "--steps", "9", "--batch", "1",
                        "--sequence", "8", "--learning-rate", "1"),
                bad(66, "no such file", "plan", "--config", "/none.json", "--batch", "1", "--sequence", "8"),
                bad(2, "frobnicate", "frobnicate"),
                bad(2, "--frob", "generate", "--model", GGUF, "--frob", "x"),
                bad(2, "got none", "generate", "--model", GGUF),
                bad(2, "got 2", "generate", "--model", GGUF, "--prompt", "a", "b"),
                bad(2, "'b'", "generate", "--model", GGUF, "a", "b"),
                bad(2, "'x' is not an int", "generate", "--model", GGUF, "--prompt-ids", "1,x"),
                bad(2, "'ten' is not an int", "generate", "--model", GGUF, "--max-tokens", "ten", "a"),
                bad(2, "maxTokens", "generate", "--model", GGUF, "--max-tokens", "0", "a"),
                bad(2, "temperature", "generate", "--model", GGUF, "--temperature", "-1", "a"),
                bad(2, "temperature", "generate", "--model", GGUF, "--temperature", "NaN", "a"),
                bad(2, "topP", "generate", "--model", GGUF, "--top-p", "0", "a"),
                bad(2, "minP", "generate", "--model", GGUF, "--min-p", "2", "a"),
                bad(2, "repetitionPenalty", "generate", "--model", GGUF, "--repetition-penalty", "0", "a"),
                bad(2, "logprobs", "generate", "--model", GGUF, "--logprobs", "-2", "a"),
                bad(2, "stop", "generate", "--model", GGUF, "--stop", "", "a"),
                bad(2, "threads", "generate", "--model", GGUF, "--threads", "-1", "a"),
                bad(2, "contextLength", "generate", "--model", GGUF, "--context", "-1", "a"),
                bad(2, "F32, F16 or BF16 for heads of 8 elements", "generate", "--model", GGUF, "--cache-type", "q8_0", "a"),
                bad(2, "F32, F16, BF16 or Q8_0", "generate", "--model", GGUF, "--cache-type", "q4_0", "a"),
                bad(2, "cache-type", "generate", "--model", GGUF, "--cache-type", "f17", "a"),
                bad(2, "logitBias: expected token ids", "generate", "--model", GGUF, "--logit-bias", "99999=1", "a"),
                bad(2, "logit-bias", "generate", "--model", GGUF, "--logit-bias", "1=x", "a"),
                bad(2, "prompt", "generate", "--model", GGUF, ""),
                bad(2, "got 99999", "generate", "--model", GGUF, "--prompt-ids", "1,99999"),
                bad(2, "got -1", "generate", "--model", GGUF, "--prompt-ids", "-1"),
                bad(2, "at most 4 tokens", "generate", "--model", GGUF, "--context", "4", "--prompt-ids", "1,2,3,4,5"),
                bad(2, "--repeat", "bench", "--model", GGUF, "--repeat", "0"),
                bad(2, "--prompt-tokens", "bench", "--model", GGUF, "--prompt-tokens", "-5"),
                bad(2, "together", "bench", "--model", GGUF, "--prompt-tokens", "2000000000", "--generate-tokens", "2000000000"),
                bad(2, "TEXT", "tokenize", "--model", GGUF),
                bad(65, "without a tokenizer", "generate", "--model", WITHOUT_TOKENIZER, "a"),
                bad(65, "tokenizer", "tokenize", "--model", WITHOUT_TOKENIZER, "a"),
                bad(65, "empty", "generate", "--model", empty, "a"),
                bad(65, "GGUF", "inspect", "--model", text),
                bad(65, "truncated.gguf", "generate", "--model", truncated, "a"),
                bad(65, "truncated.gguf", "inspect", "--model", truncated),
                bad(65, "version", "bench", "--model", magic),
                bad(65, "BertModel", "inspect", "--model", otherModel),
                bad(65, "BertModel", "generate", "--model", otherModel, "--prompt-ids", "1"),
                bad(65, "tokenizer", "tokenize", "--model", badTokenizer, "a"),
                bad(65, "config.json", "generate", "--model", noModel, "a"),
                bad(66, "no such file", "generate", "--model", folder.resolve("missing.gguf"), "a"),
                bad(66, "no such file", "bench", "--model", folder.resolve("missing.gguf")),
                bad(66, "no such file", "tokenize", "--model", folder.resolve("missing.gguf"), "a"),
                bad(66, "no such file", "inspect", "--model", folder.resolve("missing.gguf")));
    }

    private static Arguments bad(int code, String words, Object... args) {
        return Arguments.of(code, words, List.of(args));
    }

    @ParameterizedTest(name = "{0}, {1}")
    @MethodSource("badInputs")
    void badInputIsOneSentence(int code, String words, List<Object> args) {
        Run run = Run.puna(args.toArray());

        assertThat(run.err()).startsWith("puna: ").contains(words);
        assertThat(run.err().lines()).as(run.err()).hasSize(1);
        assertThat(run.out()).isEmpty();
        assertThat(run.code()).isEqualTo(code);
    }

    @Test
    void verboseShowsWhereItCameFrom() {
        Path missing = folder.resolve("missing.gguf");
        assertThat(Run.puna("inspect", "--verbose", "--model", missing).err()).contains("NoSuchFileException", "\tat io.puna");
        assertThat(Run.puna("--verbose", "inspect", "--model", missing).err()).contains("\tat io.puna");
    }

    @Test
    void everyFailureHasItsCode() throws IOException {
        assertThat(code(new AccessDeniedException("weights"))).isEqualTo(ExitCode.NO_INPUT);
        assertThat(code(new UncheckedIOException(new CheckpointException(folder, "a", "b")))).isEqualTo(ExitCode.BAD_DATA);
        assertThat(code(new UnsatisfiedLinkError("library"))).isEqualTo(ExitCode.NO_NATIVE_LIBRARY);
        assertThat(Failure.of(new OutOfMemoryError("Java heap space")).sentence()).contains("not enough memory", "--context", "--recompute");
        assertThat(code(new OutOfMemoryError())).isEqualTo(ExitCode.UNEXPECTED);
        assertThat(code(new IOException("Input/output error"))).isEqualTo(ExitCode.UNEXPECTED);
        assertThat(Failure.of(new NullPointerException()).sentence()).contains("unexpected", "--verbose");
    }

    private static int code(Throwable thrown) {
        return Failure.of(thrown).exitCode();
    }

    @Test
    void aPromptThatBeginsWithAnAtSignIsNoFile() throws IOException {
        Path file = Files.writeString(folder.resolve("args"), "--help");
        Run run = Run.puna("tokenize", "--model", GGUF, "--json", "@" + file);

        try (Tokenizer tokenizer = Tokenizer.open(Path.of(GGUF))) {
            assertThat(Samples.ints(run.json().get("tokens"))).isEqualTo(tokenizer.encode("@" + file));
        }
    }
}
