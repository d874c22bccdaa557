package io.puna.train;

import java.util.Arrays;

/**
 * Where a training run takes its tokens from: an endless row of batches, in an order that can be taken up again anywhere.
 *
 * <p>For use by one thread.
 */
public interface BatchSource {
    /** The target of a position that the loss leaves out. */
    int IGNORED = -1;

    /**
     * Writes the next batch.
     *
     * @param ids       (B, T) tokens, overwritten
     * @param targets   (B, T) the token that should follow each, or {@link #IGNORED}, overwritten; as long as {@code ids}
     * @param sequences B, a divisor of the length of {@code ids}; each sequence has T tokens
     */
    void next(int[] ids, int[] targets, int sequences);

    /**
     * Writes the next batch, and where attention is cut in it. This is what {@link Trainer} asks; a source that has the other
     * method alone cuts nowhere.
     *
     * @param ids       (B, T) tokens, overwritten
     * @param targets   (B, T) the token that should follow each, or {@link #IGNORED}, overwritten; as long as {@code ids}
     * @param begins    (B, T) whether a token is the first of a document, so that it and those after it see none of what is before
     *                  it, overwritten; as long as {@code ids}. Of a sequence's first token it tells nothing.
     * @param sequences B, a divisor of the length of {@code ids}; each sequence has T tokens
     */
    default void next(int[] ids, int[] targets, boolean[] begins, int sequences) {
        next(ids, targets, sequences);
        Arrays.fill(begins, false);
    }

    /** {@return where the source stands, for {@link #restore}: short, and independent of this machine and process} */
    String state();

    /**
     * Goes to where a source over the same tokens stood, so that the batches that follow are those that followed there.
     *
     * @throws IllegalArgumentException if the state is of other tokens or no state at all
     */
    void restore(String state);
}
