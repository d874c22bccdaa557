package io.puna.kernel;

import io.puna.bindings.NativeMemory;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.Objects;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import org.jspecify.annotations.Nullable;

/**
 * One sequence's keys and values of all layers: (L, 2, NKV, capacity, HD). A {@link KvStep} reads and extends it.
 *
 * <p>It owns its memory, which the system provides page by page as the sequence grows, so that a large capacity costs little until
 * it is used. One step at a time; {@link #truncate} and {@link #close()} go between steps.
 */
public final class KvCache implements AutoCloseable {
    private static final long CLOSE_POLL_NANOS = 100_000;
    private static final long ALIGNMENT = 64;
    private static final Object TRUNCATING = new Object();
    private static final Object GROWING = new Object();
    private static final Object CLOSED = new Object();

    private volatile Arena arena = Arena.ofShared();
    /** (L · 2 · NKV · capacity, HD) */
    private volatile Tensor memory;
    private final @Nullable Device device;
    private final int layers;
    private final int keyValueHeads;
    private final int headWidth;
    private volatile int capacity;
    private final DType dtype;
    private volatile int length;
    /** Who may touch the memory and the length: null nobody, a step, or one of the constants. */
    private final AtomicReference<@Nullable Object> holder = new AtomicReference<>();

    private KvCache(@Nullable Device device, int layers, int keyValueHeads, int headWidth, int capacity, DType dtype, long bytes) {
        this.device = device;
        this.layers = layers;
        this.keyValueHeads = keyValueHeads;
        this.headWidth = headWidth;
        this.capacity = capacity;
        this.dtype = dtype;
        try {
            this.memory = allocateMemory(arena, capacity, bytes);
        } catch (Throwable e) {
            arena.close();
            throw e;
        }
    }

    private Tensor allocateMemory(Arena owner, int capacity, long bytes) {
        Shape shape = Shape.of(2L * layers * keyValueHeads * capacity, headWidth);
        return device == null || !device.hasOwnMemory()
                ? Tensor.of(NativeMemory.allocateZeroed(bytes, ALIGNMENT, owner), dtype, shape)
                : device.allocate(owner, dtype, shape);
    }

    /**
     * {@return an empty cache in the host's memory}
     *
     * @param layers        L
     * @param keyValueHeads NKV
     * @param headWidth     HD
     * @param capacity      the most tokens it can hold
     * @param dtype         what keys and values are rounded to: F32, F16 for half the memory, or Q8_0 for little over a quarter,
     *                      where a head is whole blocks of 32
     * @throws IllegalArgumentException if a number is below 1, the type another, a head no whole blocks of it, or the size beyond
     *                                  2^63 - 1 bytes
     * @throws OutOfMemoryError         if the system refuses the memory
     */
    public static KvCache allocate(int layers, int keyValueHeads, int headWidth, int capacity, DType dtype) {
        return create(null, layers, keyValueHeads, headWidth, capacity, dtype);
    }

    /**
     * {@return an empty cache in memory that a device works on}
     *
     * @param device        what computes with it
     * @param layers        L
     * @param keyValueHeads NKV
     * @param headWidth     HD
     * @param capacity      the most tokens it can hold
     * @param dtype         what keys and values are rounded to: F32, F16 for half the memory, or Q8_0 for little over a quarter,
     *                      where a head is whole blocks of 32
     * @throws IllegalArgumentException if a number is below 1, the type another, a head no whole blocks of it, or the size beyond
     *                                  2^63 - 1 bytes
     * @throws OutOfMemoryError         if the system refuses the memory
     * @throws io.puna.tensor.DeviceException if the device refuses it
     */
    public static KvCache allocate(Device device, int layers, int keyValueHeads, int headWidth, int capacity, DType dtype) {
        return create(Objects.requireNonNull(device, "device"), layers, keyValueHeads, headWidth, capacity, dtype);
    }

    private static KvCache create(@Nullable Device device, int layers, int keyValueHeads, int headWidth, int capacity, DType dtype) {
        Checks.range(layers, "layers", 1, Integer.MAX_VALUE);
        Checks.range(keyValueHeads, "keyValueHeads", 1, Integer.MAX_VALUE);
        Checks.range(headWidth, "headWidth", 1, Integer.MAX_VALUE);
        Checks.range(capacity, "capacity", 1, Integer.MAX_VALUE);
        if (Objects.requireNonNull(dtype, "dtype") != DType.F32 && dtype != DType.F16 && dtype != DType.Q8_0) {
            throw Checks.unexpected("dtype", "F32, F16 or Q8_0", dtype);
        }
        if (headWidth % dtype.blockElements() != 0) {
            throw Checks.unexpected("headWidth", "a multiple of " + dtype.blockElements() + ", the block of " + dtype, headWidth);
        }
        long bytes = bytes(layers, keyValueHeads, headWidth, capacity, dtype);
        return new KvCache(device, layers, keyValueHeads, headWidth, capacity, dtype, bytes);
    }

    private static long bytes(int layers, int keyValueHeads, int headWidth, int capacity, DType dtype) {
        try {
            return Math.multiplyExact(Math.multiplyExact(2L * layers, keyValueHeads),
                    Math.multiplyExact((long) capacity, dtype.bytes(headWidth)));
        } catch (ArithmeticException e) {
            throw Checks.unexpected("capacity", "a cache of fewer than 2^63 bytes",
                    layers + " layers of 2 x " + keyValueHeads + " heads of " + headWidth + " for " + capacity + " tokens");
        }
    }

    /** {@return the tokens whose keys and values it holds, up to the last committed step} */
    public int length() {
        return length;
    }

    /** {@return the most tokens it can hold} */
    public int capacity() {
        return capacity;
    }

    /** {@return the number of layers} */
    public int layers() {
        return layers;
    }

    /** {@return the number of key/value heads} */
    public int keyValueHeads() {
        return keyValueHeads;
    }

    /** {@return the width of a head} */
    public int headWidth() {
        return headWidth;
    }

    /** {@return the type keys and values are stored in} */
    public DType dtype() {
        return dtype;
    }

    /** {@return the bytes of its memory, used or not} */
    public long byteSize() {
        return memory.byteSize();
    }

    /**
     * Forgets all tokens but the first.
     *
     * @param newLength tokens to keep
     * @throws IllegalArgumentException if it is negative or more than there are
     * @throws IllegalStateException    if the cache is closed or a step is using it
     */
    public void truncate(int newLength) {
        acquire(TRUNCATING);
        try {
            Checks.range(newLength, "newLength", 0, length);
            length = newLength;
        } finally {
            release(TRUNCATING);
        }
    }

    /**
     * Makes room for more tokens; those it holds stay. Does nothing when there is room already.
     *
     * @param newCapacity the most tokens it shall hold
     * @throws IllegalArgumentException if it is below 1, or the size beyond 2^63 - 1 bytes
     * @throws IllegalStateException    if the cache is closed or a step is using it
     * @throws OutOfMemoryError         if the system refuses the memory; the cache is then as it was
     */
    public void reserve(int newCapacity) {
        Checks.range(newCapacity, "newCapacity", 1, Integer.MAX_VALUE);
        acquire(GROWING);
        try {
            if (newCapacity > capacity) {
                grow(newCapacity);
            }
        } finally {
            release(GROWING);
        }
    }

    private void grow(int newCapacity) {
        long bytes = bytes(layers, keyValueHeads, headWidth, newCapacity, dtype);
        Arena larger = Arena.ofShared();
        Tensor target;
        try {
            target = allocateMemory(larger, newCapacity, bytes);
            for (long head = 0; head < 2L * layers * keyValueHeads; head++) {
                copyRows(target, head * newCapacity, memory, head * capacity);
            }
        } catch (Throwable e) {
            larger.close();
            throw e;
        }
        Arena smaller = arena;
        arena = larger;
        memory = target;
        capacity = newCapacity;
        smaller.close();
    }

    private void copyRows(Tensor target, long to, Tensor source, long from) {
        if (device != null) {
            device.copy(target.rows(to, length), source.rows(from, length));
        } else {
            long rowBytes = dtype.bytes(headWidth);
            MemorySegment.copy(source.segment(), from * rowBytes, target.segment(), to * rowBytes, length * rowBytes);
        }
    }

    /** Takes the cache, which {@link #release} must give back: until then its memory stays. */
    void acquire(Object by) {
        Object other = holder.compareAndExchange(null, by);
        if (other == CLOSED) {
            throw new IllegalStateException("cache is closed");
        }
        if (other == by) {
            throw new IllegalStateException("cache: expected each cache once in a step, got one twice");
        }
        if (other != null) {
            throw new IllegalStateException("cache: expected one step at a time, got a second use while a step is open");
        }
    }

    void release(Object by) {
        holder.compareAndSet(by, null);
    }

    /** Advances to a step's end; only for the step that holds the cache. */
    void length(int newLength) {
        length = newLength;
    }

    /** {@return the memory} It stays only while the caller has acquired the cache. */
    MemorySegment memory() {
        return memory.segment();
    }

    /**
     * Frees the memory. A step of another thread is waited for; later use throws {@link IllegalStateException}. Closing again does
     * nothing.
     *
     * @throws IllegalStateException if a step of this very thread is using the cache: close the step first
     */
    @Override
    public void close() {
        boolean interrupted = false;
        Object other;
        while ((other = holder.compareAndExchange(null, CLOSED)) != null) {
            if (other == CLOSED) {
                return;
            }
            if (other instanceof KvStep step && step.isOwnedByThisThread()) {
                throw new IllegalStateException("cache: expected its step to be closed first, got close() inside the step");
            }
            interrupted |= Thread.interrupted();
            LockSupport.parkNanos(this, CLOSE_POLL_NANOS);
        }
        arena.close();
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
