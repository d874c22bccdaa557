package io.puna.bindings;

/**
 * libpuna could not be loaded. The message names every file tried, the platform, the words of the system's loader, and what to
 * do about it.
 *
 * <p>A {@link RuntimeException} and not a {@link LinkageError}: a service can report it and go on without models, and nothing of
 * the virtual machine is broken.
 */
public final class NativeLibraryException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    NativeLibraryException(String message, Throwable cause) {
        super(message, cause);
    }
}
