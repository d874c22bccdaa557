package io.puna.examples;

import io.puna.LlamaModel;
import io.puna.generate.FinishReason;
import io.puna.generate.GenerationOptions;
import io.puna.generate.GenerationResult;
import io.puna.generate.Session;
import java.util.Random;

/** Puna on a prompt, and on tokens one after the other, as a program would ask for them. */
final class SingleSequence implements Contestant {
    private final LlamaModel model;
    private final int[] prompt;
    private final int generateTokens;
    private final boolean apart;

    /**
     * The model is borrowed.
     *
     * @param apart whether tokens are generated from an empty cache, as llama-bench does, and not after the prompt
     */
    SingleSequence(LlamaModel model, int promptTokens, int generateTokens, boolean apart) {
        this.model = model;
        this.prompt = new Random(0).ints(promptTokens, 0, model.config().vocabularySize()).toArray();
        this.generateTokens = generateTokens;
        this.apart = apart;
    }

    @Override
    public double[] run() throws InterruptedException {
        GenerationResult first = generate(prompt, apart ? 0 : generateTokens);
        GenerationResult second = apart ? generate(new int[] {prompt[0]}, generateTokens) : first;
        return new double[] {first.prefillTokensPerSecond(), second.decodeTokensPerSecond()};
    }

    /** The first token comes of the prompt: a number of steps of decoding give as many more. */
    private GenerationResult generate(int[] prompt, int steps) throws InterruptedException {
        try (Session session = model.newSession()) {
            GenerationResult result = session.generate(prompt,
                    GenerationOptions.builder().maxTokens(steps + 1).ignoreEos(true).build());
            if (result.finishReason() == FinishReason.CANCELLED) {
                throw new InterruptedException();
            }
            return result;
        }
    }
}
