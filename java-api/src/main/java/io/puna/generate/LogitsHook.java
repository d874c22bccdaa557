package io.puna.generate;

import java.util.List;

/** Changes the logits of the next token before it is chosen: for grammars, constraints and experiments. */
@FunctionalInterface
public interface LogitsHook {
    /**
     * Changes logits in place. Runs on the generating thread, after {@linkplain GenerationOptions#logitBias() biases} and before
     * penalties; negative infinity forbids a token.
     *
     * @param tokens ids of the prompt and of what was generated so far, a read-only view
     * @param logits one for each id in the vocabulary
     */
    void process(List<Integer> tokens, float[] logits);
}
