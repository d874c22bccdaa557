package io.puna.generate;

import org.jspecify.annotations.Nullable;

/**
 * One token of a stream.
 *
 * @param id      in the vocabulary
 * @param text    the text that became certain with this token: whole characters only, empty while a character or a possible stop
 *                string is incomplete; the texts of all tokens joined are the result's text
 * @param logprob the model's own view of the token, null unless {@link GenerationOptions#logprobs()} asks for it
 */
public record GeneratedToken(int id, String text, @Nullable TokenLogprob logprob) {
}
