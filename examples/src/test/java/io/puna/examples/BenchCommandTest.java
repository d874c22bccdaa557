package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
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

        assertThat(json.fieldNames()).toIterable().contains("model", "load_ms", "prefill", "decode", "backend");
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
        assertThat(BenchReport.Spread.of(new double[] {4, 1, 2, 8})).isEqualTo(new BenchReport.Spread(3, 1, 8));
        assertThat(BenchReport.Spread.of(new double[] {4, 1, 2})).isEqualTo(new BenchReport.Spread(2, 1, 4));
    }

    @Test
    void severalModelsAreMeasuredOneAfterTheOther() {
        Run run = Run.puna("bench", "--model", MODEL, "--model", GGUF, "--prompt-tokens", 4, "--generate-tokens", 2, "--repeat", 1,
                "--json");

        assertThat(run.code()).as(run.err()).isZero();
        assertThat(run.out().lines().map(line -> Samples.json(line).get("model").asText())).containsExactly(MODEL, GGUF);
        assertThat(Samples.json(run.out().lines().findFirst().orElseThrow()).has("peak_rss_bytes")).as("whose it would be").isFalse();
    }

    /** The widths need not be the widest last, and every one gets its own rate. */
    @Test
    void sequencesAdvanceTogether() {
        JsonNode json = Run.puna("bench", "--model", MODEL, "--sequences", "1,3,2", "--prompt-tokens", 5, "--generate-tokens", 3,
                "--repeat", 2, "--json").json();

        assertThat(json.fieldNames()).toIterable().contains("decode_1", "decode_3", "decode_2", "falls_at").doesNotContain("prefill");
        assertThat(json.get("decode_3").get("median").asDouble()).isPositive();

        Run run = Run.puna("bench", "--model", MODEL, "--sequences", "1,2", "--prompt-tokens", 5, "--generate-tokens", 3, "--repeat", 1);
        assertThat(run.out()).containsPattern("decode x1 +3 +[0-9.]+").containsPattern("decode x2 +6 +[0-9.]+")
                .containsPattern("With more sequences in a step Puna's tokens a second (never fall|fall, at 2)");
    }

    @Test
    void aFallIsSeenFromWidthToWidth() {
        List<Contestant.Measure> measures = Stream.of(1, 4, 8, 16).map(width -> Contestant.Measure.batch(width, 1)).toList();
        BenchReport.Side puna = new BenchReport.Side("Puna", "", Stream.of(5.0, 9.0, 8.5, 8.6)
                .map(rate -> new BenchReport.Spread(rate, rate, rate)).toList(), List.of());

        assertThat(new BenchReport(Path.of("m"), 1, "cpu", 1, null, measures, 0, puna, List.of()).falls()).containsExactly(8);
    }

    @Test
    @DisabledOnOs(OS.WINDOWS)
    void whatRemainsWhileOthersComputeIsShown() throws Exception {
        JsonNode json = Run.puna("bench", "--model", MODEL, "--busy", 2, "--prompt-tokens", 8, "--generate-tokens", 4, "--repeat", 2,
                "--json").json();

        JsonNode busy = json.get("busy");
        assertThat(busy.get("processes").asInt()).isEqualTo(2);
        assertThat(busy.get("decode_share").asDouble()).isCloseTo(
                busy.get("decode").get("median").asDouble() / json.get("decode").get("median").asDouble(), within(1e-3));
        assertThat(Run.puna("bench", "--model", MODEL, "--busy", 1, "--prompt-tokens", 8, "--generate-tokens", 4, "--repeat", 1).out())
                .containsPattern("  busy +8 .*[0-9]+ % with --busy 1");
    }

    /** Each takes a processor, and none outlives its purpose. */
    @Test
    @DisabledOnOs(OS.WINDOWS)
    void busyProcessesComputeUntilTheyAreClosed() throws Exception {
        List<ProcessHandle> before = ProcessHandle.current().children().toList();
        List<ProcessHandle> others;
        try (BusyProcesses busy = new BusyProcesses(2)) {
            others = ProcessHandle.current().children().filter(child -> !before.contains(child)).toList();
            assertThat(others).hasSize(2);
            for (ProcessHandle other : others) {
                Duration first = other.info().totalCpuDuration().orElseThrow();
                for (int i = 0; i < 600 && other.info().totalCpuDuration().orElseThrow().compareTo(first.plusMillis(50)) < 0; i++) {
                    Thread.sleep(50);
                }
                assertThat(other.info().totalCpuDuration().orElseThrow()).isGreaterThan(first);
            }
        }
        for (ProcessHandle other : others) {
            other.onExit().get(30, TimeUnit.SECONDS);
        }
    }

    @Test
    void numbersOutOfRangeAreRefusedBeforeAnythingRuns() {
        refused("--sequences: expected 1 to 1024, got 0", "--sequences", "4,0");
        refused("--sequences: expected 1 to 1024, got 2000", "--sequences", "2000");
        refused("--busy: expected 0 or more, got -1", "--busy", -1);
        refused("--repeat: expected 1 or more, got 0", "--repeat", 0);
    }

    private static void refused(String sentence, Object option, Object value) {
        Run run = Run.puna("bench", "--model", MODEL, option, value);

        assertThat(run.code()).isEqualTo(ExitCode.USAGE);
        assertThat(run.err()).isEqualTo("puna: " + sentence + System.lineSeparator());
    }

    /** A stand-in for llama-bench, which notes its arguments and prints what it is told to. */
    private static Path peer(Path folder, String... lines) throws IOException {
        return peer(folder, "llama-bench", lines);
    }

    private static Path peer(Path folder, String name, String[] lines) throws IOException {
        Path program = folder.resolve(name);
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
        JsonNode against = json.get("against").get(0);
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
    void allProgramsTakeTurnsUnderTheirNames(@TempDir Path folder) throws IOException {
        Path calls = folder.resolve("calls");
        Path first = peer(Files.createDirectory(folder.resolve("a")), "echo a >>" + calls,
                "echo '[" + row(4, 0, "100") + ", " + row(0, 2, "10") + "]'");
        Path second = peer(Files.createDirectory(folder.resolve("b")), "echo b >>" + calls,
                "echo '[" + row(4, 0, "1e9") + ", " + row(0, 2, "1234") + "]'");

        Run run = Run.puna("bench", "--model", GGUF, "--prompt-tokens", 4, "--generate-tokens", 2, "--repeat", 2, "--against", first,
                "--against", "other=" + second, "--busy", 1, "--markdown");

        assertThat(run.code()).as(run.err()).isZero();
        assertThat(Files.readAllLines(calls)).containsExactly("a", "b", "a", "b", "a", "b", "a", "b");
        List<String> lines = run.out().lines().toList();
        assertThat(lines.getFirst()).isEqualTo("| model |  | Puna tokens/s | " + first + " tokens/s | other tokens/s | Puna / " + first
                + " | Puna / other | Puna, 1 busy | " + first + ", 1 busy | other, 1 busy |");
        assertThat(lines.get(2)).startsWith("| f32.gguf | prefill, 4 tokens | ").contains(" | 100 | 1000000000 | ")
                .endsWith(" | 100 % | 100 % |");
        assertThat(lines.get(3)).startsWith("| f32.gguf | decode, 2 tokens | ").contains(" | 10.0 | 1234 | ");
        assertThat(lines).hasSize(4).allMatch(line -> line.chars().filter(c -> c == '|').count() == 11);
    }

    @Test
    @DisabledOnOs(OS.WINDOWS)
    void sequencesRunAgainstTheBatchedBenchmarkBesideIt(@TempDir Path folder) throws IOException {
        Path single = peer(folder, "echo it is the other one that is to run >&2", "exit 1");
        Path batched = peer(folder, "llama-batched-bench", new String[] {"echo", "echo '{\"pl\": 1, \"tg\": 3, \"speed_tg\": 50.5}'",
                "echo '{\"pl\": 4, \"tg\": 3, \"speed_tg\": 150}'"});

        for (Path program : new Path[] {single, batched}) {
            JsonNode json = Run.puna("bench", "--model", GGUF, "--sequences", "1,4", "--prompt-tokens", 5, "--generate-tokens", 3,
                    "--threads", 1, "--repeat", 1, "--against", program, "--json").json();

            assertThat(Files.readAllLines(folder.resolve("calls"))).allMatch(("-m " + GGUF
                    + " -t 1 -c 32 -npp 5 -ntg 3 -npl 1,4 --output-format jsonl")::equals);
            JsonNode against = json.get("against").get(0);
            assertThat(against.get("decode_1").get("median").asDouble()).isEqualTo(50.5);
            assertThat(against.get("decode_4_ratio").asDouble())
                    .isCloseTo(json.get("decode_4").get("median").asDouble() / 150, within(1e-3));
        }

        Files.delete(batched);
        Run none = Run.puna("bench", "--model", GGUF, "--sequences", "1", "--against", single);
        assertThat(none.code()).isEqualTo(ExitCode.NO_INPUT);
        assertThat(none.err()).contains("llama-batched-bench: no such file");
        peer(folder, "llama-batched-bench", new String[] {"echo '{\"pl\": 1, \"tg\": 3, \"speed_tg\": 50.5}'"});
        Run half = Run.puna("bench", "--model", GGUF, "--sequences", "1,4", "--prompt-tokens", 5, "--generate-tokens", 3, "--against",
                single);
        assertThat(half.code()).isEqualTo(ExitCode.UNEXPECTED);
        assertThat(half.err()).contains("speed_tg of each width");
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

    @Test
    void aPeerThatMavenHasNotBuiltSaysHow(@TempDir Path folder) throws IOException {
        assumeFalse(Files.exists(Samples.repository().resolve("examples/benchmarks/target/puna-benchmarks.jar")), "it is built here");
        for (Object peer : new Object[] {"java-llama.cpp", "jlama", Files.createFile(folder.resolve("Llama3.java"))}) {
            Run run = Run.puna("bench", "--model", GGUF, "--against", peer);
            assertThat(run.code()).isEqualTo(ExitCode.USAGE);
            assertThat(run.err()).startsWith("puna: --against " + peer + ": expected it built by mvn -Pbenchmarks package");
        }
    }

    private static void failed(Path program, String model, int code, String sentence) {
        Run run = Run.puna("bench", "--model", model, "--prompt-tokens", 8, "--generate-tokens", 2, "--repeat", 1, "--against", program);

        assertThat(run.code()).isEqualTo(code);
        assertThat(run.err()).startsWith("puna: ").contains(sentence);
        assertThat(run.err().lines()).hasSize(1);
        assertThat(run.out()).isEmpty();
    }
}
