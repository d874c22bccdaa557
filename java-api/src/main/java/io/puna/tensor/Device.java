package io.puna.tensor;

import io.puna.bindings.NativeLibrary;
import io.puna.bindings.NativeMemory;
import io.puna.bindings.puna_context_options;
import io.puna.bindings.puna_h;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Objects;
import java.util.concurrent.locks.LockSupport;

/**
 * What computes: a backend with its threads. Kernels take it first.
 *
 * <p>Calls on one device run one after another, calls on two devices side by side; both may come from any thread. The device owns
 * its worker threads, which sleep between calls, until {@link #close()}.
 */
public final class Device implements AutoCloseable {
    /** The most threads a CPU device takes. */
    private static final int MAX_THREADS = 1024;
    private static final long TEXT_BYTES = 1024;
    private static final long CLOSE_POLL_NANOS = 100_000;

    /** Instruction sets of CPU kernels. */
    public enum Isa {
        /** The best this processor has. */
        AUTO(puna_h.PUNA_ISA_AUTO()),
        /** The scalar kernels that specify the others: one thread, sums in F64, slow. */
        REFERENCE(puna_h.PUNA_ISA_REFERENCE()),
        /** What every processor of the architecture has: SSE2 on x86-64, NEON on aarch64. */
        BASELINE(puna_h.PUNA_ISA_BASELINE()),
        /** AVX2, FMA and F16C. */
        AVX2(puna_h.PUNA_ISA_AVX2()),
        /** AVX-512 F, BW, DQ and VL. */
        AVX512(puna_h.PUNA_ISA_AVX512());

        private final int code;

        Isa(int code) {
            this.code = code;
        }
    }

    /** Owns the native context. Shared, so that a call in flight on any thread keeps the context alive. */
    private final Arena arena;
    private final MemorySegment context;
    private final String backend;
    private volatile boolean closed;

    private Device(Arena arena, MemorySegment context, String backend) {
        this.arena = arena;
        this.context = context;
        this.backend = backend;
    }

    /**
     * {@return a CPU device with as many threads as this process has processors, on the best instruction set there is}
     *
     * @throws DeviceException  if the threads cannot be started
     * @throws RuntimeException if the native library cannot be loaded; the message says what was tried and what to do
     */
    public static Device cpu() {
        return cpu(Math.min(Runtime.getRuntime().availableProcessors(), MAX_THREADS));
    }

    /**
     * {@return a CPU device on the best instruction set there is}
     *
     * @param threads threads that compute, the caller's included, 1 to 1024
     * @throws IllegalArgumentException if {@code threads} is out of range
     * @throws DeviceException          if the threads cannot be started
     * @throws RuntimeException         if the native library cannot be loaded; the message says what was tried and what to do
     */
    public static Device cpu(int threads) {
        return cpu(threads, Isa.AUTO);
    }

    /**
     * {@return a CPU device}
     *
     * @param threads threads that compute, the caller's included, 1 to 1024
     * @param isa     the instruction set of its kernels
     * @throws IllegalArgumentException      if {@code threads} is out of range
     * @throws UnsupportedOperationException if the processor or the library lacks the instruction set
     * @throws DeviceException               if the threads cannot be started
     * @throws RuntimeException              if the native library cannot be loaded; the message says what was tried and what to do
     */
    public static Device cpu(int threads, Isa isa) {
        if (threads < 1 || threads > MAX_THREADS) {
            throw new IllegalArgumentException("threads: expected 1 to " + MAX_THREADS + ", got " + threads);
        }
        Objects.requireNonNull(isa, "isa");
        NativeLibrary.load();
        // Links the function before it is needed: nothing may come between a failure and the reading of its sentence.
        puna_h.puna_last_error(MemorySegment.NULL, 0);
        try (Arena scratch = Arena.ofConfined()) {
            MemorySegment options = puna_context_options.allocate(scratch);
            puna_context_options.backend(options, puna_h.PUNA_BACKEND_CPU());
            puna_context_options.device(options, 0);
            puna_context_options.threads(options, threads);
            puna_context_options.isa(options, isa.code);
            MemorySegment out = scratch.allocate(ValueLayout.ADDRESS);
            check(puna_h.puna_context_create(options, MemorySegment.NULL, out));
            Arena arena = Arena.ofShared();
            MemorySegment context = NativeMemory.own(out.get(ValueLayout.ADDRESS, 0), arena, puna_h::puna_context_destroy);
            MemorySegment line = scratch.allocate(TEXT_BYTES);
            puna_h.puna_context_describe(context, line, TEXT_BYTES);
            return new Device(arena, context, line.getString(0));
        }
    }

    /** {@return one line about what runs, as in {@code cpu avx2, 8 threads}} */
    public String backend() {
        return backend;
    }

    /**
     * {@return the native context, for kernels} It lives while a native call uses it, however soon the device is closed.
     *
     * @throws IllegalStateException if the device is closed
     */
    public MemorySegment handle() {
        if (closed) {
            throw new IllegalStateException("device is closed");
        }
        return context;
    }

    /**
     * Throws what a status of a native call means, with the sentence of the calling thread's last failure. For kernels: it must
     * directly follow the call.
     *
     * @param status a {@code PUNA_STATUS_*} value
     * @throws IllegalArgumentException      if the library refused an argument; nothing was written
     * @throws UnsupportedOperationException if the device cannot do what was asked; nothing was written
     * @throws DeviceException               if the device failed
     */
    public static void check(int status) {
        if (status != 0) {
            throw failure(status);
        }
    }

    private static RuntimeException failure(int status) {
        String sentence;
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment text = arena.allocate(TEXT_BYTES);
            puna_h.puna_last_error(text, TEXT_BYTES);
            sentence = text.getString(0);
        }
        if (status == puna_h.PUNA_STATUS_INVALID_ARGUMENT()) {
            return new IllegalArgumentException(sentence);
        }
        if (status == puna_h.PUNA_STATUS_UNSUPPORTED()) {
            return new UnsupportedOperationException(sentence);
        }
        return new DeviceException(status, sentence);
    }

    /**
     * Ends the threads and frees the native context. Calls in flight are waited for; later ones throw
     * {@link IllegalStateException}. Closing again does nothing.
     */
    @Override
    public void close() {
        closed = true;
        boolean interrupted = false;
        while (arena.scope().isAlive()) {
            try {
                arena.close();
            } catch (IllegalStateException inUse) {
                // A call in flight holds the arena, or another thread has just closed it; interrupted, parking would not wait.
                interrupted |= Thread.interrupted();
                LockSupport.parkNanos(this, CLOSE_POLL_NANOS);
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    /** {@return {@link #backend()}} */
    @Override
    public String toString() {
        return backend;
    }
}
