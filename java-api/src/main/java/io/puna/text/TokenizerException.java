package io.puna.text;

import java.io.IOException;
import org.jspecify.annotations.Nullable;

/** A tokenizer file that cannot be used. The message names the file, what was expected and what was found. */
public final class TokenizerException extends IOException {
    private static final long serialVersionUID = 1L;

    TokenizerException(String message) {
        super(message);
    }

    TokenizerException(String message, @Nullable Throwable cause) {
        super(message, cause);
    }
}
