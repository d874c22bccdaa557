package io.puna.bindings;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.Optional;
import java.util.concurrent.locks.LockSupport;
import java.util.function.Consumer;

/**
 * What the generated classes cannot express: a native pointer that an arena owns, memory whose pages stay untouched until
 * they are used, and memory in large pages. It lives here so that this module alone needs native access.
 */
public final class NativeMemory {
    private static final Linker LINKER = Linker.nativeLinker();
    private static final MethodHandle CALLOC = LINKER.downcallHandle(LINKER.defaultLookup().findOrThrow("calloc"),
            FunctionDescriptor.of(ValueLayout.ADDRESS, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG));
    private static final MethodHandle FREE = LINKER.downcallHandle(LINKER.defaultLookup().findOrThrow("free"),
            FunctionDescriptor.ofVoid(ValueLayout.ADDRESS));

    /** Of Linux alone: other systems number their advice otherwise. */
    private static final Optional<MethodHandle> MADVISE = LINKER.defaultLookup().find("madvise")
            .filter(address -> System.getProperty("os.name").equals("Linux"))
            .map(address -> LINKER.downcallHandle(address,
                    FunctionDescriptor.of(ValueLayout.JAVA_INT, ValueLayout.ADDRESS, ValueLayout.JAVA_LONG, ValueLayout.JAVA_INT)));
    private static final int MADV_HUGEPAGE = 14;
    private static final long LARGE_PAGE = 2L << 20;

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
     * {@return zeroed memory that the arena owns, in pages of 2 MiB where the system has them} For memory of many such pages, all of
     * which will be used: fewer translations are looked up.
     *
     * @param bytes at least 0
     * @throws IllegalArgumentException if {@code bytes} is negative
     * @throws OutOfMemoryError         if the system refuses
     */
    public static MemorySegment allocateInLargePages(long bytes, Arena arena) {
        MemorySegment memory = allocateZeroed(bytes, LARGE_PAGE, arena);
        if (MADVISE.isPresent()) {
            try {
                int ignored = (int) MADVISE.get().invokeExact(memory, bytes, MADV_HUGEPAGE); // a system without them refuses
            } catch (Throwable e) {
                throw new AssertionError("madvise takes a pointer, a size and an integer and throws nothing", e);
            }
        }
        return memory;
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
