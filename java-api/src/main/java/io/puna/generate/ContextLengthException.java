package io.puna.generate;

/** A prompt that is longer than the context it should go into. Nothing was computed and the session is as it was. */
public final class ContextLengthException extends IllegalArgumentException {
    private static final long serialVersionUID = 1;

    /** Tokens of the prompt. */
    private final int promptTokens;
    /** Tokens that the context holds. */
    private final int contextLength;

    ContextLengthException(int promptTokens, int contextLength) {
        super("prompt: expected at most " + contextLength + " tokens, the length of the context, got " + promptTokens
                + "; shorten it or open the model with a longer context");
        this.promptTokens = promptTokens;
        this.contextLength = contextLength;
    }

    /** {@return the tokens of the prompt} */
    public int promptTokens() {
        return promptTokens;
    }

    /** {@return the tokens that the context holds} */
    public int contextLength() {
        return contextLength;
    }
}
