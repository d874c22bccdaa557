package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.DisabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

class BenchCommandTest {
    /** A model without a tokenizer: none is needed. */
    private static final String MODEL = Samples.fixture("models/gqa3-tied").toString();
    private static final String GGUF = Samples.fixture("gguf/f32.gguf").toString();

    @Test
    void jsonHasTheDocumentedNames() {
        JsonNode json = Run.puna("bench", "--model", MODEL, "--prompt-tokens", 16, "--generate-tokens", 4, "--threads", 1,
                "--repeat", 3, "--json").json();

        assertThat(json.fieldNames()).toIterable().contains("load_ms", "prefill", "decode", "backend");
        assertThat(json.get("backend").asText()).contains("1 thread");
        for (String phase : new String[] {"prefill", "decode"}) {
            JsonNode spread = json.get(phase);
            assertThat(spread.fieldNames()).toIterable().containsExactly("median", "min", "max");
            assertThat(spread.get("min").asDouble()).isPositive().isLessThanOrEqualTo(spread.get("median").asDouble());
            assertThat(spread.get("median").asDouble()).isLessThanOrEqualTo(spread.get("max").asDouble());
        }
        if (System.getProperty("os.name").equals("Linux")) {
            assertThat(json.get("peak_rss_bytes").asLong()).isGreaterThan(1 << 20);
        }
    }

    @Test
    void peopleGetATable() {
        Run run = Run.puna("bench", "--model", MODEL, "--prompt-tokens", 8, "--generate-tokens", 2, "--repeat", 1);

        assertThat(run.code()).isZero();
        assertThat(run.out()).contains("backend  cpu").containsPattern("prefill +8 +[0-9.]+").containsPattern("decode +2 +[0-9.]+");
        assertThat(run.err()).isEmpty();
    }

    @Test
    void theWholeContextFitsAndOneTokenMoreDoesNot() {
        assertThat(Run.puna("bench", "--model", MODEL, "--context", 12, "--prompt-tokens", 8, "--generate-tokens", 4, "--repeat", 1,
                "--json").json().get("decode").get("median").asDouble()).isPositive();

        Run run = Run.puna("bench", "--model", MODEL, "--context", 12, "--prompt-tokens", 8, "--generate-tokens", 5, "--repeat", 1);
        assertThat(run.code()).isEqualTo(ExitCode.USAGE);
        assertThat(run.err()).contains("at most 12 together");
    }

    /** Embeddings are often padded; the ids of the padding are valid tokens without text. */
    @Test
    void aModelMayHaveMoreTokensThanItsTokenizer(@TempDir Path folder) throws IOException {
        for (String file : new String[] {"config.json", "model.safetensors"}) {
            Files.copy(Path.of(MODEL, file), folder.resolve(file));
        }
        Files.writeString(folder.resolve("tokenizer.json"), """
                {"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
                 "decoder": {"type": "ByteLevel"},
                 "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}""");

        assertThat(Run.puna("bench", "--model", folder, "--prompt-tokens", 50, "--generate-tokens", 20, "--repeat", 1).code())
                .isZero();
        Run run = Run.puna("generate", "--model", folder, "--prompt-ids", "2,100,0", "--logit-bias", "1=1000", "--max-tokens", 2);
        assertThat(run.out().strip()).isEqualTo("ababb");
    }

    @Test
    void aMedianOfAnEvenNumberOfRunsLiesBetweenTheMiddleTwo() {
        assertThat(BenchCommand.Spread.of(new double[] {4, 1, 2, 8})).isEqualTo(new BenchCommand.Spread(3, 1, 8));
        assertThat(BenchCommand.Spread.of(new double[] {4, 1, 2})).isEqualTo(new BenchCommand.Spread(2, 1, 4));
    }

    /** A stand-in for llama-bench, which notes its arguments and prints what it is told to. */
    private static Path peer(Path folder, String... lines) throws IOException {
        Path program = folder.resolve("llama-bench");
        Files.writeString(program, "#!/bin/sh\necho \"$@\" >>" + folder.resolve("calls") + "\n" + String.join("\n", lines) + "\n");
        Files.setPosixFilePermissions(program, PosixFilePermissions.fromString("rwx------"));
        return program;
    }

    private static String row(int prompt, int generate, String rate) {
        return "{\"build_commit\": \"abc123\", \"n_prompt\": " + prompt + ", \"n_gen\": " + generate + ", \"avg_ts\": " + rate + "}";
    }

    @Test
    @DisabledOnOs(OS.WINDOWS)
    void anotherProgramIsRunInTurnAndCompared(@TempDir Path folder) throws IOException {
        // The rates go up by 100 with every call.
        Path program = peer(folder, "n=$(wc -l <" + folder.resolve("calls") + ")", "echo \"loading\" >&2",
                "echo '[" + row(16, 0, "'${n}00.5'") + ", " + row(0, 4, "'${n}00'") + "]'");

        JsonNode json = Run.puna("bench", "--model", GGUF, "--prompt-tokens", 16, "--generate-tokens", 4, "--threads", 1, "--repeat", 3,
                "--against", program, "--json").json();

        assertThat(Files.readAllLines(folder.resolve("calls"))).hasSize(3)
                .allMatch(("-m " + GGUF + " -t 1 -p 16 -n 4 -r 1 -o json")::equals);
        JsonNode against = json.get("against");
        assertThat(against.get("program").asText()).isEqualTo(program.toString());
        assertThat(against.get("build").asText()).isEqualTo("abc123");
        assertThat(against.get("prefill").toString()).isEqualTo("{\"median\":200.5,\"min\":100.5,\"max\":300.5}");
        assertThat(against.get("decode").toString()).isEqualTo("{\"median\":200.0,\"min\":100.0,\"max\":300.0}");
        assertThat(against.get("prefill_ratio").asDouble()).isCloseTo(json.get("prefill").get("median").asDouble() / 200.5, within(1e-3));
        assertThat(against.get("decode_ratio").asDouble()).isCloseTo(json.get("decode").get("median").asDouble() / 200, within(1e-3));

        Run table = Run.puna("bench", "--model", GGUF, "--prompt-tokens", 16, "--generate-tokens", 4, "--repeat", 1, "--against", program);
        assertThat(table.err()).isEmpty();
        assertThat(table.out()).contains("against  " + program + ", build abc123").containsPattern("prefill +16 +400\\.5")
                .containsPattern("decode +4 +400\\.0").containsPattern("[0-9.]+ times the other's in prefill, [0-9.]+ times in decode");
    }

    @Test
    @DisabledOnOs(OS.WINDOWS)
    void aPeerThatDoesNotAnswerIsOneSentence(@TempDir Path folder) throws IOException {
        failed(folder.resolve("none"), GGUF, ExitCode.NO_INPUT, "none: no such file");
        failed(Files.createFile(folder.resolve("text")), GGUF, ExitCode.NO_INPUT, "text: permission denied");
        failed(peer(folder, "exit 0"), MODEL, ExitCode.USAGE, "GGUF");
        failed(peer(folder, "echo 'error: no such model' >&2", "exit 3"), GGUF, ExitCode.UNEXPECTED, "exit code 3, error: no such model");
        failed(peer(folder, "echo usage: something else"), GGUF, ExitCode.UNEXPECTED, "JSON as llama-bench prints it");
        failed(peer(folder, "exit 0"), GGUF, ExitCode.UNEXPECTED, "got nothing");
        failed(peer(folder, "echo '[" + row(8, 0, "1.5") + "]'"), GGUF, ExitCode.UNEXPECTED, "both runs");
    }

    private static void failed(Path program, String model, int code, String sentence) {
        Run run = Run.puna("bench", "--model", model, "--prompt-tokens", 8, "--generate-tokens", 2, "--repeat", 1, "--against", program);

        assertThat(run.code()).isEqualTo(code);
        assertThat(run.err()).startsWith("puna: ").contains(sentence);
        assertThat(run.err().lines()).hasSize(1);
        assertThat(run.out()).isEmpty();
    }
}
