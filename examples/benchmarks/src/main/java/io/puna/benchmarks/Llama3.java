package io.puna.benchmarks;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * llama3.java, a single file of Java, as {@code puna bench --against PATH/Llama3.java} runs it. It reads Llama 3's own vocabulary
 * only, and gives the rates of each run itself, prompt and generation in one.
 */
final class Llama3 {
    private static final Pattern RATES = Pattern.compile("prompt: ([0-9.]+) tokens/s \\([0-9]+\\) generation: ([0-9.]+) tokens/s");

    private static final Pattern PACKAGE = Pattern.compile("(?m)^package ([a-zA-Z0-9_.]+);");

    private Llama3() {
    }

    /** @param arguments the path of the file, then llama-bench's */
    public static void main(String[] arguments) throws IOException, InterruptedException {
        Peer peer = Peer.of(Arrays.copyOfRange(arguments, 1, arguments.length));
        // A word is a token there. What its chat format adds is counted in its rate.
        String prompt = Peer.text(peer.promptTokens(), text -> text.split(" ").length);
        Path source = Path.of(arguments[0]);
        Path classes = Files.createTempDirectory("puna-llama3");
        String main = source.getFileName().toString().replace(".java", "");
        Matcher inPackage = PACKAGE.matcher(Files.readString(source));
        run("javac", "--add-modules=jdk.incubator.vector", "-d", classes.toString(), source.toString());
        String output = run("java", "--add-modules=jdk.incubator.vector", "-Djdk.incubator.vector.VECTOR_ACCESS_OOB_CHECK=0",
                "-Djava.util.concurrent.ForkJoinPool.common.parallelism=" + Math.max(1, peer.threads() - 1), "-cp", classes.toString(),
                inPackage.find() ? inPackage.group(1) + "." + main : main, "--model", peer.model(), "--prompt", prompt,
                "--stream", "false", "--temperature", "0", "--max-tokens", String.valueOf(2 * peer.promptTokens() + peer.generateTokens()));
        try (Stream<Path> files = Files.walk(classes)) {
            files.sorted(Comparator.reverseOrder()).forEach(file -> file.toFile().delete());
        }
        Matcher rates = RATES.matcher(output);
        if (!rates.find()) {
            throw new IOException("expected the rates of prompt and generation, got " + output.strip());
        }
        peer.end("", Double.parseDouble(rates.group(1)), Double.parseDouble(rates.group(2)));
    }

    /** Runs a program of this JDK, and ends as it does where it fails. */
    private static String run(String program, String... arguments) throws IOException, InterruptedException {
        List<String> command = new ArrayList<>(List.of(arguments));
        command.addFirst(Path.of(System.getProperty("java.home"), "bin", program).toString());
        Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        if (process.waitFor() != 0) {
            System.err.println(output.lines().filter(line -> line.contains("Exception")).findFirst().orElse(output.strip()));
            System.exit(1);
        }
        return output;
    }
}
