package io.puna.generate;

/** Why a generation ended. */
public enum FinishReason {
    /** As many tokens as asked for, or as many as the context holds. */
    LENGTH,
    /** A stop string came up. */
    STOP,
    /** The model ended the text. */
    EOS,
    /** {@link TokenStream#cancel()}, the generating thread was interrupted, or a hook or listener threw. */
    CANCELLED
}
