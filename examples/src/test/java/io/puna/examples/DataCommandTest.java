package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class DataCommandTest {
    private static final Path TOKENIZER = Samples.fixture("tokenizers/words.json");

    @TempDir
    Path folder;

    private Path tokenizer() throws IOException {
        Path file = folder.resolve("tokenizer.json");
        return Files.exists(file) ? file : Files.copy(TOKENIZER, file);
    }

    @Test
    void eachCallIsASourceOfTheSameDirectory() throws IOException {
        Path stories = Files.writeString(folder.resolve("my stories.txt"), "the cat<|endoftext|>a hat");
        Path verse = Files.writeString(folder.resolve("verse.jsonl"), "{\"line\":\"the hat\"}\n");
        Path out = folder.resolve("out");

        Run first = Run.puna("data", "--tokenizer", tokenizer(), "--out", out, "--held-out", 0, stories);
        assertThat(first.code()).as(first.err()).isZero();
        assertThat(first.out()).contains("my-stories: weight 1.0", "in 2 documents");

        JsonNode sources = Run.puna("data", "--tokenizer", tokenizer(), "--out", out, "--held-out", 0, "--weight", 0.25, "--field", "line",
                "--json", verse).json().get("sources");
        assertThat(sources).hasSize(2);
        assertThat(sources.get(1).get("name").asText()).isEqualTo("verse");
        assertThat(sources.get(1).get("weight").asDouble()).isEqualTo(0.25);
        assertThat(sources.get(1).get("documents").asInt()).isEqualTo(1);
        assertThat(out.resolve("tokenizer.json")).hasSameBinaryContentAs(TOKENIZER);
    }

    @Test
    void failuresHaveTheirExitCodesAndLeaveNothing() throws IOException {
        Path bad = Files.writeString(folder.resolve("bad.jsonl"), "no JSON");
        Path empty = Files.writeString(folder.resolve("empty.txt"), "");
        Path out = folder.resolve("out");
        expect(Run.puna("data", "--tokenizer", tokenizer(), "--out", out, bad), ExitCode.BAD_DATA, "line 1");
        expect(Run.puna("data", "--tokenizer", tokenizer(), "--out", out, empty), ExitCode.BAD_DATA, "expected documents");
        expect(Run.puna("data", "--tokenizer", tokenizer(), "--out", out, folder.resolve("none.txt")), ExitCode.NO_INPUT, "none.txt");
        expect(Run.puna("data", "--tokenizer", folder.resolve("none.json"), "--out", out, bad), ExitCode.NO_INPUT, "none.json");
        expect(Run.puna("data", "--tokenizer", tokenizer(), "--out", out, "--weight", -1, bad), ExitCode.USAGE, "weight: expected");
        expect(Run.puna("data", "--tokenizer", tokenizer(), "--out", out), ExitCode.USAGE, "FILE");
        assertThat(out).isDirectoryNotContaining("glob:**.{tokens,part}");
    }

    private static void expect(Run run, int code, String words) {
        assertThat(run.code()).as(run.err()).isEqualTo(code);
        assertThat(run.err()).startsWith("puna: ").contains(words);
        assertThat(run.err().lines()).hasSize(1);
    }
}
