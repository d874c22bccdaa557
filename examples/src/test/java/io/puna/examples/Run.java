package io.puna.examples;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** What a command did. */
record Run(int code, String out, String err) {
    private static final int PATIENCE_SECONDS = 300;

    /** Runs the command line in this process. */
    static Run puna(Object... args) {
        StringWriter out = new StringWriter();
        StringWriter err = new StringWriter();
        int code = Puna.run(new PrintWriter(out), new PrintWriter(err, true), strings(args));
        return new Run(code, out.toString(), err.toString());
    }

    /** Runs a program from the repository's root. */
    static Run process(Map<String, String> environment, Object... command) throws IOException, InterruptedException {
        Process process = start(environment, command);
        CompletableFuture<String> out = CompletableFuture.supplyAsync(() -> read(process.getInputStream()));
        CompletableFuture<String> err = CompletableFuture.supplyAsync(() -> read(process.getErrorStream()));
        if (!process.waitFor(PATIENCE_SECONDS, TimeUnit.SECONDS)) {
            process.destroyForcibly();
            throw new AssertionError("no end after " + PATIENCE_SECONDS + " s: " + List.of(command) + " " + err.join());
        }
        return new Run(process.exitValue(), out.join(), err.join());
    }

    static Process start(Map<String, String> environment, Object... command) throws IOException {
        ProcessBuilder builder = new ProcessBuilder(strings(command)).directory(Samples.repository().toFile());
        builder.environment().remove("PUNA_MODEL");
        builder.environment().putAll(environment);
        builder.redirectInput(new File("/dev/null"));
        return builder.start();
    }

    /** {@return the java that runs this test} */
    static Path java() {
        return Path.of(System.getProperty("java.home"), "bin", "java");
    }

    JsonNode json() {
        if (code != 0) {
            throw new AssertionError("exit code " + code + ": " + err);
        }
        return Samples.json(out);
    }

    private static String read(InputStream in) {
        try (in) {
            return new String(in.readAllBytes(), StandardCharsets.UTF_8);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static String[] strings(Object... args) {
        List<String> strings = new ArrayList<>();
        for (Object arg : args) {
            strings.add(String.valueOf(arg));
        }
        return strings.toArray(String[]::new);
    }
}
