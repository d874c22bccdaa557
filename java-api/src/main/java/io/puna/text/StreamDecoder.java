package io.puna.text;

import java.util.Objects;

/**
 * Turns ids that come one after the other into text, never emitting half a character.
 *
 * <p>What all calls return, joined, is the text by which {@link Tokenizer#decode(int...)} of the context and the ids is longer than that of
 * the context alone, wherever the context does not end inside a character; where it does, its bytes begin the text. A call takes
 * the same time however many came before. Not for use by several threads at once.
 */
public final class StreamDecoder {
    private final Tokenizer tokenizer;
    private final PieceDecoder.State state;
    private final StringBuilder out = new StringBuilder();
    private boolean finished;

    StreamDecoder(Tokenizer tokenizer, PieceDecoder.State state, int[] context) {
        this.tokenizer = tokenizer;
        this.state = state;
        for (int id : context) {
            tokenizer.decodeTo(state, id, true, out);
            out.setLength(0);
        }
    }

    /**
     * {@return the text that is certain now that this id has come; empty for a special token or a part of a character}
     *
     * @throws IndexOutOfBoundsException if the id is not below the vocabulary size
     * @throws IllegalStateException     if the tokenizer is closed or the stream is finished
     */
    public String accept(int id) {
        if (finished) {
            throw new IllegalStateException("stream is finished");
        }
        tokenizer.requireOpen();
        Objects.checkIndex(id, tokenizer.vocabularySize());
        tokenizer.decodeTo(state, id, true, out);
        return take();
    }

    /** {@return what was held back: bytes of a character that never was completed, as U+FFFD; empty the second time} */
    public String finish() {
        if (!finished) {
            finished = true;
            state.finish(out);
        }
        return take();
    }

    private String take() {
        String text = out.toString();
        out.setLength(0);
        return text;
    }
}
