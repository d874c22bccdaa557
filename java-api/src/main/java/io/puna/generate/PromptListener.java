package io.puna.generate;

/** Follows the computation of a long prompt. */
@FunctionalInterface
public interface PromptListener {
    /**
     * Some more of the prompt was computed. Runs on the generating thread.
     *
     * @param done  prompt tokens that the session now holds
     * @param total prompt tokens in all
     */
    void progress(int done, int total);
}
