package io.puna.examples;

import java.io.IOException;
import java.util.List;

/** One side of a comparison, which can be asked for its speed again and again. */
interface Contestant extends AutoCloseable {
    /**
     * Something whose speed is measured.
     *
     * @param name      as JSON has it
     * @param label     as people read it
     * @param sequences that advance together, each by {@code tokens}
     */
    record Measure(String name, String label, int sequences, int tokens) {
        /** Prompts, and generation after them. */
        static List<Measure> promptAndGeneration(int promptTokens, int generateTokens) {
            return List.of(new Measure("prefill", "prefill", 1, promptTokens), new Measure("decode", "decode", 1, generateTokens));
        }

        /** Generation of so many sequences in one step. */
        static Measure batch(int sequences, int generateTokens) {
            return new Measure("decode_" + sequences, "decode x" + sequences, sequences, generateTokens);
        }
    }

    /** {@return tokens a second, all sequences together, of each measure in their order} */
    double[] run() throws IOException, InterruptedException;

    /** {@return which build ran last; empty where it does not say} */
    default String build() {
        return "";
    }

    @Override
    default void close() {
        // Most own nothing.
    }
}
