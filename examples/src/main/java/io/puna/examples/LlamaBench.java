package io.puna.examples;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.AccessDeniedException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.List;

/** llama.cpp's own benchmark, or one that takes its arguments and prints its JSON, as the other side of a comparison. */
final class LlamaBench {
    private final Path program;
    private final Path model;

    /** The program did not do what it was run for. */
    static final class FailedException extends IOException {
        private static final long serialVersionUID = 1;

        private FailedException(Path program, String what) {
            super(program + ": " + what);
        }
    }

    /** Tokens a second of one run, and the build that made them. */
    record Rates(double prefill, double decode, String build) {
    }

    /**
     * A program to compare with.
     *
     * @throws NoSuchFileException      if it is not there
     * @throws AccessDeniedException    if it is not a program
     * @throws IllegalArgumentException if the model is a directory, which such programs do not read
     */
    LlamaBench(Path program, Path model) throws IOException {
        if (!Files.exists(program)) {
            throw new NoSuchFileException(program.toString());
        }
        if (Files.isDirectory(program) || !Files.isExecutable(program)) {
            throw new AccessDeniedException(program.toString());
        }
        if (Files.isDirectory(model)) {
            throw new IllegalArgumentException("--against: expected a GGUF file as the model, which both can read, got "
                    + "the directory " + model);
        }
        this.program = program.toAbsolutePath();
        this.model = model.toAbsolutePath();
    }

    /**
     * Runs it once, which warms up by itself: a prompt on an empty cache, then tokens one after the other from an empty cache.
     *
     * @throws FailedException      if it fails or says what is not understood
     * @throws InterruptedException if the thread is interrupted; the program is ended
     */
    Rates run(int threads, int promptTokens, int generateTokens) throws IOException, InterruptedException {
        Path out = Files.createTempFile("puna-against", ".json");
        Path err = Files.createTempFile("puna-against", ".err");
        try {
            Process process = new ProcessBuilder(program.toString(), "-m", model.toString(), "-t", String.valueOf(threads),
                    "-p", String.valueOf(promptTokens), "-n", String.valueOf(generateTokens), "-r", "1", "-o", "json")
                    .redirectOutput(out.toFile()).redirectError(err.toFile()).start();
            try {
                process.getOutputStream().close();
                int code = process.waitFor();
                if (code != 0) {
                    throw new FailedException(program, "exit code " + code + lastLine(err));
                }
            } finally {
                process.destroy();
            }
            return rates(Files.readString(out), promptTokens, generateTokens);
        } finally {
            Files.deleteIfExists(out);
            Files.deleteIfExists(err);
        }
    }

    private Rates rates(String output, int promptTokens, int generateTokens) throws IOException {
        JsonNode rows;
        try {
            rows = Json.MAPPER.readTree(output);
        } catch (JsonProcessingException e) {
            throw notUnderstood(output);
        }
        double prefill = 0;
        double decode = 0;
        String build = "";
        for (JsonNode row : rows) {
            boolean prompt = row.path("n_prompt").asInt() == promptTokens && row.path("n_gen").asInt() == 0;
            boolean generation = row.path("n_gen").asInt() == generateTokens && row.path("n_prompt").asInt() == 0;
            double rate = row.path("avg_ts").asDouble();
            prefill = prompt ? rate : prefill;
            decode = generation ? rate : decode;
            build = row.path("build_commit").asText(build);
        }
        if (!(prefill > 0) || !(decode > 0)) {
            throw notUnderstood(output);
        }
        return new Rates(prefill, decode, build);
    }

    private FailedException notUnderstood(String output) {
        String text = output.strip();
        return new FailedException(program, "expected JSON as llama-bench prints it, with n_prompt, n_gen and avg_ts of both"
                + " runs, got " + (text.isEmpty() ? "nothing" : Text.visible(text.substring(0, Math.min(text.length(), 60)))));
    }

    private static String lastLine(Path file) throws IOException {
        List<String> lines = new String(Files.readAllBytes(file), StandardCharsets.UTF_8).lines()
                .filter(line -> !line.isBlank()).toList();
        return lines.isEmpty() ? "" : ", " + Text.visible(lines.getLast());
    }
}
