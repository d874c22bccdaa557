package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
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

    /** A limit on the size of files stands for a full disk: the held-out documents fit, the others do not. */
    @Test
    @EnabledOnOs(OS.LINUX)
    void aFullDiskIsSaidAndTheSourceBeforeKept() throws Exception {
        Path out = folder.resolve("out");
        Path stories = Files.writeString(folder.resolve("stories.txt"), "the cat<|endoftext|>a hat");
        assertThat(Run.puna("data", "--tokenizer", tokenizer(), "--out", out, "--held-out", 0, stories).code()).isZero();
        byte[] before = Files.readAllBytes(out.resolve("stories.tokens"));
        StringBuilder more = new StringBuilder();
        for (int i = 0; i < 2000; i++) {
            more.append("the cat ").append(i).append("<|endoftext|>");
        }
        Files.writeString(stories, more);

        Run run = Run.process(Map.of(), "bash", "-c", "ulimit -f 16 && exec \"$@\"", "bash", Run.java(), "-XX:-UsePerfData",
                "--enable-native-access=ALL-UNNAMED", "-cp", System.getProperty("java.class.path"), Puna.class.getName(), "data",
                "--tokenizer", tokenizer(), "--out", out, "--held-out", 20, stories);

        assertThat(run.code()).as(run.err()).isEqualTo(ExitCode.UNEXPECTED);
        assertThat(run.err()).contains("stories.tokens: could not be written: ");
        assertThat(out.resolve("stories.tokens")).hasBinaryContent(before);
        assertThat(out).isDirectoryNotContaining("glob:**.{validation.tokens,part}");
    }

    private static void expect(Run run, int code, String words) {
        assertThat(run.code()).as(run.err()).isEqualTo(code);
        assertThat(run.err()).startsWith("puna: ").contains(words);
        assertThat(run.err().lines()).hasSize(1);
    }
}
