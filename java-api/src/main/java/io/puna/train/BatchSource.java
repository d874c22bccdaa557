package io.puna.train;

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

    /** {@return where the source stands, for {@link #restore}: short, and independent of this machine and process} */
    String state();

    /**
     * Goes to where a source over the same tokens stood, so that the batches that follow are those that followed there.
     *
     * @throws IllegalArgumentException if the state is of other tokens or no state at all
     */
    void restore(String state);
}
