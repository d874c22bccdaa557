package io.puna.bindings;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.concurrent.locks.LockSupport;
import java.util.function.Consumer;

/**
 * What the generated classes cannot express: a native pointer that an arena owns, and memory whose pages stay untouched until
 * they are used. It lives here so that this module alone needs native access.
 */
public final class NativeMemory {
    private static final Linker LINKER = Linker.nativeLinker();
    private static final MethodHandle CALLOC = LINKER.downcallHandle(LINKER.defaultLookup().findOrThrow("calloc"),
            FunctionDescriptor.of(ValueLayout.ADDRESS, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG));
    private static final MethodHandle FREE = LINKER.downcallHandle(LINKER.defaultLookup().findOrThrow("free"),
            FunctionDescriptor.ofVoid(ValueLayout.ADDRESS));

    private static final long CLOSE_POLL_NANOS = 100_000;

    private NativeMemory() {
    }

    /**
     * {@return the pointer as a segment of no size that lives as long as the arena}
     *
     * @param pointer a pointer that native code handed out
     * @param arena   the new owner
     * @param destroy what the arena does with the pointer when it closes; it must not throw
     */
    public static MemorySegment own(MemorySegment pointer, Arena arena, Consumer<MemorySegment> destroy) {
        return pointer.reinterpret(0, arena, destroy);
    }

    /**
     * {@return a pointer of no size some bytes further} It lives as long, and is as read-only.
     *
     * @param pointer a segment of no size
     */
    public static MemorySegment further(MemorySegment pointer, long bytes) {
        return pointer.reinterpret(bytes).asSlice(bytes);
    }

    /**
     * {@return zeroed memory that the arena owns} Unlike {@link Arena#allocate(long, long)} this writes nothing: a large area
     * takes memory page by page, when it is first used.
     *
     * @param bytes     at least 0
     * @param alignment a power of two
     * @throws IllegalArgumentException if {@code bytes} is negative
     * @throws OutOfMemoryError         if the system refuses
     */
    public static MemorySegment allocateZeroed(long bytes, long alignment, Arena arena) {
        if (bytes < 0) {
            throw new IllegalArgumentException("bytes: expected at least 0, got " + bytes);
        }
        MemorySegment block = bytes <= Long.MAX_VALUE - alignment ? calloc(bytes + alignment) : MemorySegment.NULL;
        if (block.address() == 0) {
            throw new OutOfMemoryError("the system refused " + bytes + " bytes of native memory");
        }
        MemorySegment owned = block.reinterpret(bytes + alignment, arena, NativeMemory::free);
        return owned.asSlice(-owned.address() & (alignment - 1), bytes);
    }

    /**
     * Closes a shared arena. A native call that holds its memory keeps it from closing, which it says by throwing: waits until that is
     * through. Idempotent; many threads may close the same one.
     */
    public static void close(Arena arena) {
        boolean interrupted = false;
        while (arena.scope().isAlive()) {
            try {
                arena.close();
            } catch (IllegalStateException inUseOrClosedByAnother) {
                interrupted |= Thread.interrupted(); // an interrupted thread would not park
                LockSupport.parkNanos(CLOSE_POLL_NANOS);
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private static MemorySegment calloc(long bytes) {
        try {
            return (MemorySegment) CALLOC.invokeExact(1L, bytes);
        } catch (Throwable e) {
            throw new AssertionError("calloc takes two sizes and throws nothing", e);
        }
    }

    private static void free(MemorySegment block) {
        try {
            FREE.invokeExact(block);
        } catch (Throwable e) {
            throw new AssertionError("free takes a pointer and throws nothing", e);
        }
    }
}
