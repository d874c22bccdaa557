package io.puna.generate;

import java.time.Duration;
import java.util.List;

/**
 * What a generation gave.
 *
 * @param promptTokens ids of the prompt
 * @param tokens       ids generated, an end-of-text token included
 * @param text         their text, without special tokens and without a stop string
 * @param finishReason why it ended
 * @param logprobs     one for each token when asked for, else empty
 * @param cachedTokens prompt tokens that the session still held and did not compute again
 * @param prefill      time from the prompt to the first token
 * @param decode       time from the first token to the last
 */
public record GenerationResult(
        List<Integer> promptTokens,
        List<Integer> tokens,
        String text,
        FinishReason finishReason,
        List<TokenLogprob> logprobs,
        int cachedTokens,
        Duration prefill,
        Duration decode) {

    /** Copies the lists. */
    public GenerationResult {
        promptTokens = List.copyOf(promptTokens);
        tokens = List.copyOf(tokens);
        logprobs = List.copyOf(logprobs);
    }

    /** {@return prompt tokens computed in a second} */
    public double prefillTokensPerSecond() {
        return rate(promptTokens.size() - cachedTokens, prefill);
    }

    /** {@return tokens generated in a second after the first, 0 when there was no second token} */
    public double decodeTokensPerSecond() {
        return rate(tokens.size() - 1, decode);
    }

    private static double rate(int count, Duration time) {
        return count > 0 && time.toNanos() > 0 ? count * 1e9 / time.toNanos() : 0;
    }
}
