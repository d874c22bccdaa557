package io.puna.generate;

import java.util.List;

/**
 * What the model itself thought of a token, before any option changed its distribution.
 *
 * @param token   id in the vocabulary
 * @param logprob natural logarithm of its probability
 * @param top     the most probable tokens at this place with theirs, most probable first, themselves without a list
 */
public record TokenLogprob(int token, float logprob, List<TokenLogprob> top) {
    /** Copies the list. */
    public TokenLogprob {
        top = List.copyOf(top);
    }
}
