package io.puna.text;

import static org.assertj.core.api.Assertions.assertThat;

import io.puna.TestClassPath;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What a program sees of the engine that it did not ask for: nothing. In a process of its own, with an empty home. */
class EngineProcessTest {
    @TempDir
    Path folder;

    /** Run in the other process. */
    static final class Program {
        private Program() {
        }

        public static void main(String[] arguments) throws Exception {
            try (Tokenizer tokenizer = Tokenizer.open(Path.of(arguments[0]))) {
                System.exit(tokenizer.decode(tokenizer.encode("hello")).equals("hello") ? 7 : 1);
            }
        }
    }

    @Test
    void nothingIsWrittenToTheStandardStreamsNorBesideTheCache() throws Exception {
        Path home = Files.createDirectory(folder.resolve("home"));
        assertThat(run(home)).isEmpty();
        try (var files = Files.walk(home)) {
            assertThat(files.filter(Files::isRegularFile).map(file -> home.relativize(file).toString())).singleElement()
                    .asString().contains("tokenizers-").endsWith(System.mapLibraryName("tokenizers"));
        }
        assertThat(run(home)).as("a second start, from the cache").isEmpty();
    }

    @Test
    void aUserWithoutAHomeCanStillLoadIt() throws Exception {
        Path file = Files.writeString(folder.resolve("no-directory"), "");
        assertThat(run(file)).isEmpty();
    }

    private String run(Path home) throws Exception {
        Path tokenizer = Files.write(folder.resolve("tokenizer.json"), Fixtures.bytes(Fixtures.tokenizerJson()));
        Path output = folder.resolve("output.txt");
        ProcessBuilder builder = new ProcessBuilder(Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED", "-Duser.home=" + home, "-cp", TestClassPath.get(),
                Program.class.getName(), tokenizer.toString());
        builder.environment().remove("XDG_CACHE_HOME");
        builder.environment().remove("JAVA_TOOL_OPTIONS");
        Process process = builder.redirectErrorStream(true).redirectOutput(output.toFile()).start();
        assertThat(process.waitFor()).as(Files.readString(output, StandardCharsets.UTF_8)).isEqualTo(7);
        return Files.readString(output, StandardCharsets.UTF_8);
    }
}
