package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Everything under examples/ as it is packaged, each run as a process of its own. */
class ProgramsIT {
    private static final Path ROOT = Samples.repository();
    private static final Path GGUF = Samples.fixture("gguf/f32.gguf");
    private static final Path STAMP = ROOT.resolve("examples/target/puna.stamp");
    private static final Path CACHE = ROOT.resolve("examples/target/puna.aot");
    private static final String JAR = "examples/target/puna.jar";

    private static FileTime stamped;

    /** The launcher builds what is out of date; what Maven has packaged just now is not. */
    @BeforeAll
    static void tellTheLauncherThatThisIsBuilt() throws Exception {
        if (Files.exists(STAMP)) {
            stamped = Files.getLastModifiedTime(STAMP);
        } else {
            Files.createFile(STAMP);
        }
        Files.setLastModifiedTime(STAMP, FileTime.fromMillis(System.currentTimeMillis()));
        Run first = Run.process(Map.of(), "examples/puna", "--version"); // makes the cache of classes
        assertThat(first.code()).as(first.err()).isZero();
    }

    @AfterAll
    static void leaveTheStampAsItWas() throws IOException {
        if (stamped == null) {
            Files.delete(STAMP);
        } else {
            Files.setLastModifiedTime(STAMP, stamped);
        }
    }

    @Test
    void theLauncherRunsTheCommandLine() throws Exception {
        JsonNode prompt = Samples.json(Samples.fixture("gguf/f32.json")).get("prompts").get(0);

        Run run = Run.process(Map.of("PUNA_MODEL", GGUF.toString()), "examples/puna", "generate", "--prompt-ids",
                Samples.ids(prompt.get("ids")), "--max-tokens", prompt.get("greedy").size(), "--ignore-eos", "--json");

        assertThat(run.err()).isEmpty();
        assertThat(run.out().lines()).as("one JSON object").hasSize(1);
        assertThat(run.json().get("tokens")).isEqualTo(prompt.get("greedy"));
    }

    @Test
    void theLauncherStartsWithACacheOfClasses() throws Exception {
        assumeTrue(Files.size(CACHE) > 0, "this JDK makes none");
        // With this mode Java ends where the cache cannot be used.
        Run run = Run.process(Map.of("JDK_JAVA_OPTIONS", "-XX:AOTMode=on"), "examples/puna", "tokenize", "--model", GGUF, "--json", "Once");

        assertThat(run.json().get("tokens")).isNotEmpty();
        assertThat(run.err().lines()).as("what Java says of the variable").hasSize(1);
    }

    @Test
    void aCacheThatCannotBeUsedIsPassedOverInSilence() throws Exception {
        byte[] whole = Files.readAllBytes(CACHE);
        try {
            Files.write(CACHE, Arrays.copyOf("no cache at all".getBytes(StandardCharsets.UTF_8), 5000));
            Run run = Run.process(Map.of(), "examples/puna", "tokenize", "--model", GGUF, "--json", "Once");

            assertThat(run.json().get("tokens")).isNotEmpty();
            assertThat(run.out().lines()).hasSize(1);
            assertThat(run.err()).isEmpty();
        } finally {
            Files.write(CACHE, whole);
        }
    }

    @Test
    void aJdkThatMakesNoCacheIsNamedOnceAndRuns() throws Exception {
        byte[] whole = Files.readAllBytes(CACHE);
        Path made = Path.of(CACHE + ".jdk");
        byte[] jdk = Files.readAllBytes(made);
        try {
            Files.delete(made);
            Map<String, String> environment = Map.of("JDK_JAVA_OPTIONS", "-XX:AOTMode=off"); // contradicts what makes one
            Run first = Run.process(environment, "examples/puna", "tokenize", "--model", GGUF, "--json", "Once");
            assertThat(first.json().get("tokens")).isNotEmpty();
            assertThat(first.err()).contains("puna: preparing faster starts", "puna: none could be made");

            Run second = Run.process(environment, "examples/puna", "tokenize", "--model", GGUF, "--json", "Once");
            assertThat(second.json()).isEqualTo(first.json());
            assertThat(second.err()).doesNotContain("puna:");
        } finally {
            Files.write(CACHE, whole);
            Files.write(made, jdk);
        }
        assertThat(ROOT.resolve("examples/target")).isDirectoryNotContaining("glob:**puna.aot.tmp*");
    }

    @Test
    void textBeyondAsciiComesThroughWhole() throws Exception {
        String text = "Grüße, 世界 🎈";
        Run run = Run.process(Map.of("LC_ALL", "C"), "examples/puna", "generate", "--model", GGUF, "--max-tokens", 1, text);

        assertThat(run.out()).startsWith(text);
    }

    @Test
    void withoutAModelTheBundledOneTellsAStory() throws Exception {
        Run run = Run.process(Map.of(), "examples/puna", "generate", "--max-tokens", 12, "Once upon a time");

        assertThat(run.err()).isEmpty();
        assertThat(run.out()).startsWith("Once upon a time, there was a");
    }

    @Test
    void aLibraryThatDoesNotLoadHasItsExitCode() throws Exception {
        Run run = Run.process(Map.of(), Run.java(), "-Dpuna.library=/nonexistent/libpuna.so", "-jar", JAR, "generate", "--model", GGUF, "a");

        assertThat(run.code()).isEqualTo(ExitCode.NO_NATIVE_LIBRARY);
        assertThat(run.err()).startsWith("puna: ").contains("/nonexistent/libpuna.so", "fix:").doesNotContain("\tat ");
        assertThat(Run.process(Map.of(), Run.java(), "-Dpuna.library=/nonexistent/libpuna.so", "-jar", JAR, "inspect", "--model", GGUF)
                .code()).as("inspect computes nothing").isZero();
    }

    @Test
    void aReaderThatLeavesEndsItQuietly() throws Exception {
        Run run = Run.process(Map.of(), "bash", "-c", "set -o pipefail; " + Run.java() + " -jar " + JAR + " generate --model " + GGUF
                + " --context 1000000 --max-tokens 1000000 --ignore-eos --temperature 2 Once | head -c 4");

        assertThat(run.out()).isEqualTo("Once");
        assertThat(run.err()).isEmpty();
        assertThat(run.code()).isZero();
    }

    @Test
    void aDiskThatIsFullIsNot() throws Exception {
        assumeTrue(Files.exists(Path.of("/dev/full")), "no /dev/full here");
        Run run = Run.process(Map.of(), "bash", "-c", Run.java() + " -jar " + JAR + " generate --model " + GGUF + " Once >/dev/full");

        assertThat(run.err()).startsWith("puna: ").contains("standard output");
        assertThat(run.err().lines()).hasSize(1);
        assertThat(run.code()).isEqualTo(ExitCode.UNEXPECTED);
    }

    @Test
    void ctrlCCancels() throws Exception {
        Process process = Run.start(Map.of(), Run.java(), "-jar", JAR, "generate", "--model", GGUF, "--context", 1_000_000,
                "--max-tokens", 1_000_000, "--ignore-eos", "--temperature", 2, "Once");
        try {
            assertThat(process.getInputStream().readNBytes(20)).as("it has begun").hasSize(20);
            signal("INT", process);
            CompletableFuture.delayedExecutor(60, TimeUnit.SECONDS).execute(process::destroyForcibly); // else read for ever
            String rest = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            assertThat(process.waitFor(30, TimeUnit.SECONDS)).isTrue();
            assertThat(process.exitValue()).as("killed after a minute where SIGINT is inherited as ignored (nohup, a script's &)")
                    .isEqualTo(ExitCode.CANCELLED);
            assertThat(rest).endsWith("\n");
            assertThat(new String(process.getErrorStream().readAllBytes(), StandardCharsets.UTF_8)).isEmpty();
        } finally {
            process.destroyForcibly();
        }
    }

    /** {@link Process#destroy} would close the streams that are still to be read. */
    private static void signal(String name, Process process) throws IOException, InterruptedException {
        assertThat(new ProcessBuilder("kill", "-" + name, String.valueOf(process.pid())).start().waitFor()).isZero();
    }

    @Test
    void theKernelsScriptAgreesWithPlainJava() throws Exception {
        Run run = Run.process(Map.of(), script("Kernels.java"));

        assertThat(run.err()).isEmpty();
        assertThat(run.code()).isZero();
        assertThat(run.out()).contains("RmsNorm", "MatMul", "Rope", "Attention", "SwiGlu");
    }

    @Test
    void theTrainingScriptLearns() throws Exception {
        Run run = Run.process(Map.of(), script("Train.java"));

        assertThat(run.err()).isEmpty();
        assertThat(run.code()).isZero();
        assertThat(run.out()).contains("parameters", "step 100: loss 0.");
    }

    @Test
    void theGenerateScriptContinuesAText() throws Exception {
        Run run = Run.process(Map.of(), script("Generate.java", GGUF, "Once upon a time"));

        assertThat(run.err()).isEmpty();
        assertThat(run.code()).isZero();
        assertThat(run.out()).startsWith("Once upon a time").contains("prompt tokens were still there");
    }

    /** As the first lines of each script say, from the repository's root. */
    private static Object[] script(String name, Object... args) {
        Object[] command = new Object[5 + args.length];
        System.arraycopy(new Object[] {Run.java(), "--enable-native-access=ALL-UNNAMED", "-cp", "examples/target/lib/*",
            "examples/scripts/" + name}, 0, command, 0, 5);
        System.arraycopy(args, 0, command, 5, args.length);
        return command;
    }

    @Test
    void theServiceStartsAndEndsWhenTold() throws Exception {
        Process process = Run.start(Map.of(), Run.java(), "-cp", JAR, "--enable-native-access=ALL-UNNAMED", "io.puna.examples.Service",
                GGUF, 0);
        try (var err = process.errorReader()) {
            assertThat(err.readLine()).matches("listening on http://(127\\.0\\.0\\.1|\\[.*]):[1-9][0-9]*/generate");
            signal("TERM", process);
            assertThat(process.waitFor(30, TimeUnit.SECONDS)).isTrue();
            assertThat(err.readLine()).isNull();
        } finally {
            process.destroyForcibly();
        }
    }
}
