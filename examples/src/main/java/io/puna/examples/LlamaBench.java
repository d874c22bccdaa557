package io.puna.examples;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.MappingIterator;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;

/**
 * llama.cpp's own benchmarks, or programs that take their arguments and print their JSON, as the other side of a comparison: each
 * starts with an empty cache and warms up by itself.
 */
final class LlamaBench implements Contestant {
    private final PeerProgram program;
    private final List<String> command = new ArrayList<>();
    private final List<Measure> measures;
    private final boolean batched;
    private String build = "";

    /** The program did not do what it was run for. */
    static final class FailedException extends IOException {
        private static final long serialVersionUID = 1;

        private FailedException(PeerProgram program, String what) {
            super(program.name() + ": " + what);
        }
    }

    private LlamaBench(PeerProgram program, Path model, List<Measure> measures, boolean batched) {
        if (Files.isDirectory(model) != program.readsDirectories()) {
            throw new IllegalArgumentException("--against " + program.name() + ": expected "
                    + (program.readsDirectories() ? "a directory in Hugging Face's layout" : "a GGUF file")
                    + " as the model, which both can read, got " + model);
        }
        this.program = program;
        this.measures = measures;
        this.batched = batched;
        command.addAll(program.command());
        add("-m", model.toAbsolutePath());
    }

    /** {@return a llama-bench, for a prompt and tokens one after the other} */
    static LlamaBench single(PeerProgram program, Path model, int threads, int promptTokens, int generateTokens) {
        LlamaBench bench = new LlamaBench(program, model, Measure.promptAndGeneration(promptTokens, generateTokens), false);
        bench.add("-t", threads, "-p", promptTokens, "-n", generateTokens, "-r", 1, "-o", "json");
        return bench;
    }

    /** {@return a llama-batched-bench, for sequences that advance together} */
    static LlamaBench batched(PeerProgram program, Path model, int threads, int promptTokens, List<Measure> measures) {
        LlamaBench bench = new LlamaBench(program, model, measures, true);
        int generateTokens = measures.getFirst().tokens();
        int most = measures.stream().mapToInt(Measure::sequences).max().orElseThrow();
        bench.add("-t", threads, "-c", (long) most * (promptTokens + generateTokens), "-npp", promptTokens, "-ntg", generateTokens,
                "-npl", measures.stream().map(m -> String.valueOf(m.sequences())).collect(Collectors.joining(",")),
                "--output-format", "jsonl");
        return bench;
    }

    private void add(Object... arguments) {
        for (Object argument : arguments) {
            command.add(argument.toString());
        }
    }

    /**
     * Runs it once.
     *
     * @throws FailedException      if it fails or says what is not understood
     * @throws InterruptedException if the thread is interrupted; the program is ended
     */
    @Override
    public double[] run() throws IOException, InterruptedException {
        Path out = Files.createTempFile("puna-against", ".json");
        Path err = Files.createTempFile("puna-against", ".err");
        try {
            Process process = new ProcessBuilder(command).redirectOutput(out.toFile()).redirectError(err.toFile()).start();
            try {
                process.getOutputStream().close();
                int code = process.waitFor();
                if (code != 0) {
                    throw new FailedException(program, "exit code " + code + lastLine(err));
                }
            } finally {
                process.destroy();
            }
            return rates(Files.readString(out));
        } finally {
            Files.deleteIfExists(out);
            Files.deleteIfExists(err);
        }
    }

    private double[] rates(String output) throws IOException {
        double[] rates = new double[measures.size()];
        // llama-bench prints one array, llama-batched-bench a line for each width.
        try (MappingIterator<JsonNode> values = Json.MAPPER.readerFor(JsonNode.class).readValues(output)) {
            while (values.hasNext()) {
                JsonNode value = values.next();
                for (JsonNode row : value.isArray() ? value : List.of(value)) {
                    read(row, rates);
                }
            }
        } catch (JsonProcessingException e) {
            throw notUnderstood(output);
        }
        for (double rate : rates) {
            if (!(rate > 0)) {
                throw notUnderstood(output);
            }
        }
        return rates;
    }

    private void read(JsonNode row, double[] rates) {
        build = row.path("build_commit").asText(build);
        for (int i = 0; i < rates.length; i++) {
            Measure measure = measures.get(i);
            if (batched && row.path("pl").asInt() == measure.sequences() && row.path("tg").asInt() == measure.tokens()) {
                rates[i] = row.path("speed_tg").asDouble();
            }
            boolean prompt = i == 0;
            if (!batched && row.path("n_prompt").asInt() == (prompt ? measure.tokens() : 0)
                    && row.path("n_gen").asInt() == (prompt ? 0 : measure.tokens())) {
                rates[i] = row.path("avg_ts").asDouble();
            }
        }
    }

    private FailedException notUnderstood(String output) {
        String text = output.strip();
        return new FailedException(program, "expected JSON as "
                + (batched ? "llama-batched-bench prints it, with pl, tg and speed_tg of each width"
                        : "llama-bench prints it, with n_prompt, n_gen and avg_ts of both runs") + ", got " + (text.isEmpty() ? "nothing" : Text.visible(text.substring(0, Math.min(text.length(), 60)))));
    }

    private static String lastLine(Path file) throws IOException {
        List<String> lines = new String(Files.readAllBytes(file), StandardCharsets.UTF_8).lines()
                .filter(line -> !line.isBlank()).toList();
        return lines.isEmpty() ? "" : ", " + Text.visible(lines.getLast());
    }

    @Override
    public String build() {
        return build;
    }
}
