package io.puna.tensor;

import io.puna.bindings.puna_h;
import java.lang.foreign.MemorySegment;

/**
 * Calls that a device has recorded and carries out again with one: {@link Device#record}. A step of as many
 * sequences, be it others, replays it: {@link io.puna.kernel.KvStep#replay}.
 */
public final class Recording implements AutoCloseable {
    /** The most sequences of a step that is recorded. */
    public static final int MAX_SEQUENCES = puna_h.PUNA_RECORDING_MAX_SEQUENCES();

    private final Device recorder;

    Recording(Device recorder) {
        this.recorder = recorder;
    }

    /**
     * {@return the native recording, for kernels} It lives while a native call uses it.
     *
     * @throws IllegalStateException if it is closed
     */
    public MemorySegment handle() {
        return recorder.handle();
    }

    /** Frees it once it is not running. Later use throws {@link IllegalStateException}. Closing again does nothing. */
    @Override
    public void close() {
        recorder.close();
    }
}
