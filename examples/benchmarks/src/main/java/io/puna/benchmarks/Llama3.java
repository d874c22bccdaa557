package io.puna.benchmarks;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * llama3.java, a single file of Java, as {@code puna bench --against PATH/Llama3.java} runs it. It reads Llama 3's own vocabulary
 * only, and gives the rates of each run itself, prompt and generation in one.
 */
final class Llama3 {
    private static final Pattern RATES = Pattern.compile("prompt: ([0-9.]+) tokens/s \\([0-9]+\\) generation: ([0-9.]+) tokens/s");

    private Llama3() {
    }

    /** @param arguments the path of the file, then llama-bench's */
    public static void main(String[] arguments) throws IOException, InterruptedException {
        Peer peer = Peer.of(Arrays.copyOfRange(arguments, 1, arguments.length));
        // A word is a token there. What its chat format adds is counted in its rate.
        String prompt = Peer.text(peer.promptTokens(), text -> text.split(" ").length);
        Process process = new ProcessBuilder(Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--add-modules=jdk.incubator.vector", "-Djdk.incubator.vector.VECTOR_ACCESS_OOB_CHECK=0",
                "-Djava.util.concurrent.ForkJoinPool.common.parallelism=" + Math.max(1, peer.threads() - 1),
                arguments[0], "--model", peer.model(), "--prompt", prompt, "--stream", "false", "--temperature", "0",
                "--max-tokens", String.valueOf(2 * peer.promptTokens() + peer.generateTokens()))
                .redirectErrorStream(true).start();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        Matcher rates = RATES.matcher(output);
        if (process.waitFor() != 0 || !rates.find()) {
            System.err.println(output.lines().filter(line -> line.contains("Exception")).findFirst().orElse(output.strip()));
            System.exit(1);
        }
        peer.end("", Double.parseDouble(rates.group(1)), Double.parseDouble(rates.group(2)));
    }
}
