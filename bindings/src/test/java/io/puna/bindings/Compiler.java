package io.puna.bindings;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** The machine's C compiler, which built the library under test. */
final class Compiler {
    private Compiler() {}

    /** Compiles and links source, C11, into output; the compiler's complaints are the failure's message. */
    static void compile(String source, Path output, String... options) throws IOException, InterruptedException {
        var file = Files.writeString(output.resolveSibling(output.getFileName() + ".c"), source);
        var compiler = System.getenv().getOrDefault("CC", "cc");
        var command = new ArrayList<>(List.of(compiler, "-std=c11", "-o", output.toString(), file.toString()));
        command.addAll(List.of(options));
        run(command);
    }

    /** Runs command and returns what it printed. */
    static String run(List<String> command) throws IOException, InterruptedException {
        var process = new ProcessBuilder(command).redirectErrorStream(true).start();
        var text = new String(process.getInputStream().readAllBytes());
        if (process.waitFor() != 0) {
            throw new AssertionError(String.join(" ", command) + "\n" + text);
        }
        return text;
    }
}
