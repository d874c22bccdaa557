package io.puna.benchmarks;

import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.util.Locale;
import java.util.Properties;
import java.util.function.ToIntFunction;

/**
 * What llama-bench is asked for, {@code -m MODEL -t THREADS -p TOKENS -n TOKENS}, and what it answers.
 *
 * @param out          standard output, which has nothing but the answer: what engines print goes to standard error
 * @param promptTokens   of a prompt on an empty cache
 * @param generateTokens after a prompt as short as can be
 */
record Peer(PrintStream out, String model, int threads, int promptTokens, int generateTokens) {

    static Peer of(String... arguments) {
        String model = "";
        int threads = 0;
        int prompt = 0;
        int generate = 0;
        for (int i = 0; i + 1 < arguments.length; i += 2) {
            String value = arguments[i + 1];
            switch (arguments[i]) {
                case "-m" -> model = value;
                case "-t" -> threads = Integer.parseInt(value);
                case "-p" -> prompt = Integer.parseInt(value);
                case "-n" -> generate = Integer.parseInt(value);
                default -> { } // -r 1 -o json: nothing else is done here
            }
        }
        if (model.isEmpty() || threads < 1 || prompt < 1 || generate < 1) {
            throw new IllegalArgumentException("arguments: expected -m MODEL -t THREADS -p TOKENS -n TOKENS, got "
                    + String.join(" ", arguments));
        }
        PrintStream out = System.out;
        System.setOut(System.err);
        return new Peer(out, model, threads, prompt, generate);
    }

    /** {@return a text of about so many tokens: these engines take no ids} Rates are of the tokens that it really has. */
    static String text(int tokens, ToIntFunction<String> count) {
        StringBuilder text = new StringBuilder("one");
        while (count.applyAsInt(text.toString()) < tokens) {
            text.append(" two");
        }
        return text.toString();
    }

    /** {@return the version of an artifact on the class path, as Maven left it in its jar} */
    static String version(String group, String artifact) throws IOException {
        try (InputStream in = Peer.class.getResourceAsStream("/META-INF/maven/" + group + "/" + artifact + "/pom.properties")) {
            Properties properties = new Properties();
            properties.load(in);
            return artifact + " " + properties.getProperty("version");
        }
    }

    /** Prints what a run reached, in tokens a second, and ends the process: some engines leave threads that would keep it. */
    void end(String build, double prefill, double decode) {
        out.printf(Locale.ROOT, "[%s, %s]%n", row(build, promptTokens, 0, prefill), row(build, 0, generateTokens, decode));
        out.flush();
        Runtime.getRuntime().halt(0);
    }

    private static String row(String build, int prompt, int generate, double rate) {
        return String.format(Locale.ROOT, "{\"build_commit\": \"%s\", \"n_prompt\": %d, \"n_gen\": %d, \"avg_ts\": %f}", build, prompt,
                generate, rate);
    }
}
