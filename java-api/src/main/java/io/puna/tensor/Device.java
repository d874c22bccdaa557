package io.puna.tensor;

import io.puna.bindings.NativeLibrary;
import io.puna.bindings.NativeMemory;
import io.puna.bindings.puna_context_options;
import io.puna.bindings.puna_h;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.Objects;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * What computes: a backend with its threads. Kernels take it first.
 *
 * <p>Calls on one device run one after another, calls on two devices side by side; both may come from any thread. The device owns
 * its worker threads, which sleep between calls, until {@link #close()}.
 */
public final class Device implements AutoCloseable {
    /** The most threads of a CPU device, the caller's included. */
    public static final int MAX_THREADS = 1024;
    private static final long TEXT_BYTES = 1024;

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
        /** AVX-512 F, BW, DQ, VL and VNNI. */
        AVX512(puna_h.PUNA_ISA_AVX512()),
        /** The same kernels with the same bits, and products of many rows with rounded activations on AMX's tiles. */
        AMX(puna_h.PUNA_ISA_AMX()),
        /** NEON with dot products of bytes: on aarch64, Armv8.2 and later. */
        DOTPROD(puna_h.PUNA_ISA_DOTPROD());

        private final int code;

        Isa(int code) {
            this.code = code;
        }
    }

    /** How matrix products, and attention on a GPU, meet their operands. */
    public enum Precision {
        /** As they are: products are as exact as F32's. */
        F32(puna_h.PUNA_PRECISION_F32()),
        /**
         * Rounded to BF16, 8 significant bits, for the tensor cores of a GPU (products of more than eight rows, all of their backward
         * passes, and attention of many rows) or for a CPU's AMX or AVX512-BF16 (products with F32, F16 and BF16 weights, some twice as
         * fast). Sums, and whatever is no product, stay F32; so do weights that are trained and the optimiser's state. A CPU that would
         * not be faster for it computes in F32 all the same: {@link #backend()} says which it is.
         */
        BF16(puna_h.PUNA_PRECISION_BF16());

        private final int code;

        Precision(int code) {
            this.code = code;
        }
    }

    /** Owns the native context. Shared, so that a call in flight on any thread keeps the context alive. */
    private final Arena arena;
    private final MemorySegment context;
    private final String backend;
    private final boolean ownMemory;
    private volatile boolean closed;

    private Device(Arena arena, MemorySegment context, String backend, boolean ownMemory) {
        this.arena = arena;
        this.context = context;
        this.backend = backend;
        this.ownMemory = ownMemory;
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
        return cpu(threads, isa, Precision.F32);
    }

    /**
     * {@return a CPU device as {@link #cpu(int, Isa)} opens it}
     *
     * @param threads   threads that compute, the caller's included, 1 to 1024
     * @param isa       the instruction set of its kernels
     * @param precision of its matrix products
     */
    public static Device cpu(int threads, Isa isa, Precision precision) {
        if (threads < 1 || threads > MAX_THREADS) {
            throw new IllegalArgumentException("threads: expected 1 to " + MAX_THREADS + ", got " + threads);
        }
        Objects.requireNonNull(isa, "isa");
        Objects.requireNonNull(precision, "precision");
        return create(puna_h.PUNA_BACKEND_CPU(), 0, threads, isa, precision, null);
    }

    /**
     * {@return a CUDA device as {@link #cuda(int, Precision)} opens it, with products in F32}
     *
     * @param ordinal which device, from 0
     */
    public static Device cuda(int ordinal) {
        return cuda(ordinal, Precision.F32);
    }

    /**
     * {@return a CUDA device} It has memory of its own: tensors for it come from {@link #allocate}.
     *
     * @param ordinal   which device, from 0
     * @param precision of its matrix products
     * @throws IllegalArgumentException      if {@code ordinal} is negative
     * @throws UnsupportedOperationException if there is no CUDA library, driver or device, or the driver is too old: the message says
     *                                       which and what to do
     * @throws DeviceException               if the device fails
     * @throws RuntimeException              if the native library cannot be loaded; the message says what was tried and what to do
     */
    public static Device cuda(int ordinal, Precision precision) {
        if (ordinal < 0) {
            throw new IllegalArgumentException("ordinal: expected at least 0, got " + ordinal);
        }
        Objects.requireNonNull(precision, "precision");
        return create(puna_h.PUNA_BACKEND_CUDA(), ordinal, 0, Isa.AUTO, precision, cudaLibrary());
    }

    private static Path cudaLibrary() {
        try {
            return NativeLibrary.cudaPath().orElseThrow(() -> new UnsupportedOperationException(
                    "this copy of Puna was built without CUDA: build it where nvcc is on the PATH, or name a libpuna_cuda by -D"
                            + NativeLibrary.CUDA_LIBRARY_PROPERTY + "=<path of the library>"));
        } catch (IOException e) {
            throw new UnsupportedOperationException(e.getMessage(), e);
        }
    }

    private static Device create(int backend, int ordinal, int threads, Isa isa, Precision precision, @Nullable Path library) {
        NativeLibrary.load();
        // Links the function before it is needed: nothing may come between a failure and the reading of its sentence.
        puna_h.puna_last_error(MemorySegment.NULL, 0);
        try (Arena scratch = Arena.ofConfined()) {
            MemorySegment options = puna_context_options.allocate(scratch);
            puna_context_options.backend(options, backend);
            puna_context_options.device(options, ordinal);
            puna_context_options.threads(options, threads);
            puna_context_options.isa(options, isa.code);
            puna_context_options.precision(options, precision.code);
            MemorySegment out = scratch.allocate(ValueLayout.ADDRESS);
            check(puna_h.puna_context_create(options,
                    library == null ? MemorySegment.NULL : scratch.allocateFrom(library.toString()), out));
            Arena arena = Arena.ofShared();
            MemorySegment context = NativeMemory.own(out.get(ValueLayout.ADDRESS, 0), arena, puna_h::puna_context_destroy);
            MemorySegment line = scratch.allocate(TEXT_BYTES);
            puna_h.puna_context_describe(context, line, TEXT_BYTES);
            return new Device(arena, context, line.getString(0), backend != puna_h.PUNA_BACKEND_CPU());
        }
    }

    /** {@return one line about what runs, as in {@code cpu avx2, 8 threads}} */
    public String backend() {
        return backend;
    }

    /** {@return whether tensors of numbers have to come from {@link #allocate}, because the device cannot work on the host's memory} */
    public boolean hasOwnMemory() {
        return ownMemory;
    }

    /**
     * {@return the bytes of its own memory that nobody uses now, this program or another}
     *
     * @throws UnsupportedOperationException if it works on the host's memory
     * @throws IllegalStateException         if the device is closed
     * @throws DeviceException               if the device fails
     */
    public long freeMemory() {
        try (Arena scratch = Arena.ofConfined()) {
            MemorySegment out = scratch.allocate(ValueLayout.JAVA_LONG, 2);
            check(puna_h.puna_memory_available(handle(), out, out.asSlice(Long.BYTES)));
            return out.get(ValueLayout.JAVA_LONG, 0);
        }
    }

    /**
     * {@return a recording of calls, which the caller closes} Carried out again they cost one call of the driver. Everything is recorded
     * but the sequences of {@link io.puna.kernel.KvStep}s, which have one row each; all tensors must stay where they are.
     *
     * @param calls makes the calls, on the device that it is given; these are recorded only, and none may copy or give a result to the
     *              host
     * @throws UnsupportedOperationException if it works on the host's memory, or a call cannot be recorded
     * @throws IllegalStateException         if the device is closed
     * @throws DeviceException               if the device fails
     */
    public Recording record(Consumer<Device> calls) {
        try (Arena scratch = Arena.ofConfined()) {
            MemorySegment out = scratch.allocate(ValueLayout.ADDRESS);
            check(puna_h.puna_recording_begin(handle(), out));
            Arena owner = Arena.ofShared();
            MemorySegment recording = NativeMemory.own(out.get(ValueLayout.ADDRESS, 0), owner, puna_h::puna_context_destroy);
            Device recorder = new Device(owner, recording, backend, ownMemory);
            try {
                calls.accept(recorder);
                check(puna_h.puna_recording_end(recording));
                return new Recording(recorder);
            } catch (Throwable e) {
                recorder.close();
                throw e;
            }
        }
    }

    /**
     * {@return a new tensor that this device works on, owned by the arena} On a device with memory of its own it lies there, and the
     * content is undefined: kernels, {@link #copy} and {@link #clear} write it, {@link Tensor#toFloatArray()} and {@link #copy} read it,
     * every other access throws. I32 tensors lie in the host's memory always, and where the device works on that, all do, zeroed.
     *
     * <p>The memory lives until the arena closes, also when the device is closed before.
     *
     * @throws IllegalArgumentException if the innermost dimension is not a whole number of blocks
     * @throws IllegalStateException    if the device is closed
     * @throws DeviceException          if the device has not that much memory; the message says how much it has
     */
    public Tensor allocate(Arena arena, DType dtype, Shape shape) {
        Objects.requireNonNull(arena, "arena");
        if (!ownMemory || dtype == DType.I32) {
            return Tensor.allocate(arena, dtype, shape);
        }
        try (Arena scratch = Arena.ofConfined()) {
            MemorySegment out = scratch.allocate(ValueLayout.ADDRESS);
            check(puna_h.puna_memory_allocate(handle(), Math.max(Tensor.bytes(dtype, shape), 1), out));
            MemorySegment pointer = out.get(ValueLayout.ADDRESS, 0);
            // The native context outlives this object for as long as it has memory.
            MemorySegment owner = MemorySegment.ofAddress(context.address());
            MemorySegment memory;
            try {
                memory = NativeMemory.own(pointer, arena, p -> puna_h.puna_memory_free(owner, p));
            } catch (Throwable e) {
                puna_h.puna_memory_free(owner, pointer);
                throw e;
            }
            return Tensor.of(memory, dtype, shape, this);
        }
    }

    /**
     * Copies a tensor. Either may lie on this device, the other, or both, in the host's memory.
     *
     * @param to   of the type and as many rows and columns as {@code from}; contiguous
     * @param from contiguous
     * @throws IllegalArgumentException if they differ, have gaps between rows, overlap, lie on another device, or {@code to} is
     *                                  read-only
     * @throws IllegalStateException    if the device, or memory of either, is closed
     * @throws DeviceException          if the device fails
     */
    public void copy(Tensor to, Tensor from) {
        if (to.dtype() != from.dtype() || to.shape().rows() != from.shape().rows()
                || to.shape().columns() != from.shape().columns() || !to.isContiguous() || !from.isContiguous()) {
            throw new IllegalArgumentException("to: expected the type and shape of from, both contiguous, got " + to + " for " + from);
        }
        copySpan(to, from);
    }

    /**
     * Sets every element of a tensor to zero. It may lie on this device or in the host's memory.
     *
     * @param tensor contiguous
     * @throws IllegalArgumentException if it has gaps between rows, is read-only, or lies on another device
     * @throws IllegalStateException    if the device, or the memory, is closed
     * @throws DeviceException          if the device fails
     */
    public void clear(Tensor tensor) {
        if (!tensor.isContiguous()) {
            throw new IllegalArgumentException("tensor: expected contiguous rows, got " + tensor);
        }
        requireWritable(tensor, "tensor");
        MemorySegment device = handle();
        if (tensor.device() == null && isForJava(tensor)) {
            tensor.segment().fill((byte) 0);
        } else {
            check(puna_h.puna_memory_clear(device, tensor.segment(), tensor.byteSize()));
        }
    }

    /** Whether Java moves bytes of the host's memory: where a mapped file ends early it throws, and native code would crash. */
    private boolean isForJava(Tensor tensor) {
        return ownMemory || tensor.segment().isMapped();
    }

    private static void requireWritable(Tensor tensor, String name) {
        if (tensor.segment().isReadOnly()) {
            throw new IllegalArgumentException(name + ": expected writable memory, got a read-only segment");
        }
    }

    /** Copies from the first element to the last, gaps between rows included. */
    void copySpan(Tensor to, Tensor from) {
        requireWritable(to, "to");
        MemorySegment device = handle();
        if (to.device() == null && from.device() == null && (isForJava(to) || isForJava(from))) {
            MemorySegment.copy(from.segment(), 0, to.segment(), 0, from.spanBytes());
        } else {
            check(puna_h.puna_memory_copy(device, to.segment(), from.segment(), from.spanBytes()));
        }
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
        NativeMemory.close(arena);
    }

    /** {@return {@link #backend()}} */
    @Override
    public String toString() {
        return backend;
    }
}
