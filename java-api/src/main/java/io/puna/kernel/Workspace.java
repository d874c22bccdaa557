package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.bindings.puna_kv_sequence;
import io.puna.bindings.puna_matmul_product;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import org.jspecify.annotations.Nullable;

/**
 * Off-heap scratch for operations that need it. It grows to the largest use, is reused by every later one, and is freed by
 * {@link #close()}. One call at a time: a second call at once throws {@link IllegalStateException}, so give every thread of
 * generation its own.
 */
public final class Workspace implements AutoCloseable {
    private static final int FREE = 0;
    private static final int BUSY = 1;
    private static final int CLOSED = 2;
    private static final long CLOSE_POLL_NANOS = 100_000;
    private static final long ALIGNMENT = 64;

    private final AtomicInteger state = new AtomicInteger(FREE);
    /** The step whose sequences this workspace holds: a second one would overwrite them. */
    private final AtomicReference<@Nullable KvStep> step = new AtomicReference<>();

    // Touched only by who made the state BUSY.
    private final Buffer scratch = new Buffer();
    private final Buffer sequences = new Buffer();
    private final Buffer structs = new Buffer();
    private final MemorySegment size;
    private final MemorySegment products;

    /** Memory that grows. Arenas are shared, for whichever thread calls next. */
    private static final class Buffer {
        private Arena arena = Arena.ofShared();
        private MemorySegment memory = MemorySegment.NULL;

        MemorySegment atLeast(long bytes) {
            if (memory.byteSize() < bytes) {
                Arena larger = Arena.ofShared();
                try {
                    memory = larger.allocate(bytes, ALIGNMENT);
                } catch (Throwable e) {
                    larger.close();
                    throw e;
                }
                arena.close();
                arena = larger;
            }
            return memory;
        }
    }

    /** Makes an empty workspace. */
    public Workspace() {
        long productBytes = puna_h.PUNA_MATMUL_MAX_PRODUCTS() * puna_matmul_product.sizeof();
        MemorySegment memory = structs.atLeast(productBytes + Long.BYTES);
        products = memory.asSlice(0, productBytes);
        size = memory.asSlice(productBytes, Long.BYTES);
    }

    /** Takes the workspace for one call, which {@link #release()} must end. */
    void acquire() {
        if (!state.compareAndSet(FREE, BUSY)) {
            throw new IllegalStateException(state.get() == CLOSED ? "workspace is closed"
                    : "workspace: expected one call at a time, got a second one while another runs");
        }
    }

    void release() {
        state.set(FREE);
    }

    /** {@return where a native function writes the bytes it wants} */
    MemorySegment size() {
        return size;
    }

    /** {@return scratch of at least the bytes that were written to {@link #size()}} */
    MemorySegment scratch() {
        return scratch.atLeast(size.get(ValueLayout.JAVA_LONG, 0));
    }

    /** {@return the array of products} */
    MemorySegment products() {
        return products;
    }

    void product(int index, long rows, long stride, int dtype, boolean accumulate) {
        long offset = index * puna_matmul_product.sizeof();
        products.set(ValueLayout.JAVA_LONG, offset + puna_matmul_product.N$offset(), rows);
        products.set(ValueLayout.JAVA_LONG, offset + puna_matmul_product.y_stride$offset(), stride);
        products.set(ValueLayout.JAVA_INT, offset + puna_matmul_product.w_dtype$offset(), dtype);
        products.set(ValueLayout.JAVA_INT, offset + puna_matmul_product.accumulate$offset(), accumulate ? 1 : 0);
    }

    /** Makes room for the sequences of a step, which {@link #end} must end. Between {@link #acquire()} and {@link #release()}. */
    MemorySegment begin(KvStep newStep, int count) {
        if (step.get() != null) {
            throw new IllegalStateException("workspace: expected one step at a time, got a second one while another is open");
        }
        MemorySegment memory = sequences.atLeast(count * puna_kv_sequence.sizeof());
        step.set(newStep);
        return memory;
    }

    void end(KvStep oldStep) {
        step.compareAndSet(oldStep, null);
    }

    /**
     * Frees the memory. A call in flight is waited for; later ones throw {@link IllegalStateException}. Closing again does nothing.
     */
    @Override
    public void close() {
        boolean interrupted = false;
        while (!state.compareAndSet(FREE, CLOSED)) {
            if (state.get() == CLOSED) {
                return;
            }
            interrupted |= Thread.interrupted();
            LockSupport.parkNanos(this, CLOSE_POLL_NANOS);
        }
        scratch.arena.close();
        sequences.arena.close();
        structs.arena.close();
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
