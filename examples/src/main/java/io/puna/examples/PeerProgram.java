package io.puna.examples;

import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.file.AccessDeniedException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * A program to compare with: a llama-bench, or one that takes its arguments and prints its JSON.
 *
 * @param name             as tables have it
 * @param command          the program and its first arguments
 * @param readsDirectories whether its models are directories in Hugging Face's layout, and not GGUF files
 */
record PeerProgram(String name, List<String> command, boolean readsDirectories) {
    private static final String SINGLE = "llama-bench";
    private static final String BATCHED = "llama-batched-bench";
    private static final Pattern NAMED = Pattern.compile("([^/\\\\=]+)=(.+)");
    /** What Maven's profile "benchmarks" builds: the class that runs each. */
    private static final Map<String, String> BUILT = Map.of("java-llama.cpp", "JavaLlamaCpp", "jlama", "Jlama");

    /**
     * {@return the program that an argument of {@code --against} names}
     *
     * @param argument a path, {@code NAME=PATH}, or a word for what the profile builds
     * @throws NoSuchFileException      if it is not there
     * @throws AccessDeniedException    if it is not a program
     * @throws IllegalArgumentException if the profile has not built it
     */
    static PeerProgram of(String argument) throws IOException {
        if (BUILT.containsKey(argument)) {
            return new PeerProgram(argument, java(argument, BUILT.get(argument)), argument.equals("jlama"));
        }
        Matcher named = NAMED.matcher(argument);
        String name = named.matches() ? named.group(1) : argument;
        Path path = Path.of(named.matches() ? named.group(2) : argument);
        if (!Files.exists(path)) {
            throw new NoSuchFileException(path.toString());
        }
        if (path.toString().endsWith(".java")) {
            List<String> command = java(argument, "Llama3");
            return new PeerProgram(name, append(command, path.toAbsolutePath().toString()), false);
        }
        if (Files.isDirectory(path) || !Files.isExecutable(path)) {
            throw new AccessDeniedException(path.toString());
        }
        return new PeerProgram(name, List.of(path.toAbsolutePath().toString()), false);
    }

    private static List<String> java(String argument, String main) {
        Path target = home().resolve("benchmarks/target");
        Path jar = target.resolve("puna-benchmarks.jar");
        if (!Files.exists(jar)) {
            throw new IllegalArgumentException("--against " + argument + ": expected it built by mvn -Pbenchmarks package -DskipTests,"
                    + " got no " + jar);
        }
        return List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString(), "--add-modules=jdk.incubator.vector",
                "--enable-native-access=ALL-UNNAMED", "-cp", jar + System.getProperty("path.separator")
                        + target.resolve("lib") + "/*", "io.puna.benchmarks." + main);
    }

    /** The examples' folder, which has this class in target. */
    private static Path home() {
        try {
            Path classes = Path.of(PeerProgram.class.getProtectionDomain().getCodeSource().getLocation().toURI());
            return classes.resolve("../..").normalize();
        } catch (URISyntaxException e) {
            throw new IllegalStateException("the place of " + PeerProgram.class.getName() + ": expected a path", e);
        }
    }

    private static List<String> append(List<String> list, String last) {
        return Stream.concat(list.stream(), Stream.of(last)).toList();
    }

    /**
     * {@return the llama-batched-bench beside this llama-bench, or this where it is one}
     *
     * @throws NoSuchFileException      if there is none
     * @throws IllegalArgumentException if this is something else
     */
    PeerProgram batched() throws IOException {
        Path program = Path.of(command.getFirst());
        if (command.size() > 1) {
            throw new IllegalArgumentException("--sequences: expected to run against a " + SINGLE + " or a " + BATCHED + ", got " + name);
        }
        Path batched = program.resolveSibling(program.getFileName().toString().replace(SINGLE, BATCHED));
        if (!Files.exists(batched)) {
            throw new NoSuchFileException(batched.toString());
        }
        return new PeerProgram(name, List.of(batched.toString()), false);
    }
}
