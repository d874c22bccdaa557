package io.puna.kernel;

import io.puna.bindings.NativeMemory;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Collections;
import java.util.EnumSet;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * One sequence's keys and values of all layers: (L, 2, NKV, capacity, HD), or two such arrays where the first layers' are with one
 * device and the others' with another. A {@link KvStep} reads and extends it.
 *
 * <p>It owns its memory, which the system provides page by page as the sequence grows, so that a large capacity costs little until
 * it is used. One step at a time; {@link #truncate} and {@link #close()} go between steps.
 */
public final class KvCache implements AutoCloseable {
    /** The types that keys and values are stored in: F32, F16, BF16 and Q8_0. */
    public static final Set<DType> DTYPES = Collections.unmodifiableSet(EnumSet.of(DType.F32, DType.F16, DType.BF16, DType.Q8_0));

    private static final long CLOSE_POLL_NANOS = 100_000;
    private static final long ALIGNMENT = 64;
    private static final Object TRUNCATING = new Object();
    private static final Object GROWING = new Object();
    private static final Object CLOSED = new Object();

    /** Consecutive layers, and the device whose memory they lie in; null for the host's. */
    private record Place(@Nullable Device device, int layers) {
    }

    private final List<Place> places;
    private volatile Arena arena = Arena.ofShared();
    /** Of each place: (its layers · 2 · NKV · capacity, HD). */
    private volatile List<Tensor> memory;
    private final int layers;
    private final int keyValueHeads;
    private final int headWidth;
    private volatile int capacity;
    private final DType dtype;
    private volatile int length;
    /** Who may touch the memory and the length: null nobody, a step, or one of the constants. */
    private final AtomicReference<@Nullable Object> holder = new AtomicReference<>();

    private KvCache(List<Place> places, int keyValueHeads, int headWidth, int capacity, DType dtype) {
        Checks.range(keyValueHeads, "keyValueHeads", 1, Integer.MAX_VALUE);
        Checks.range(headWidth, "headWidth", 1, Integer.MAX_VALUE);
        Checks.range(capacity, "capacity", 1, Integer.MAX_VALUE);
        if (!DTYPES.contains(Objects.requireNonNull(dtype, "dtype"))) {
            throw Checks.unexpected("dtype", "F32, F16, BF16 or Q8_0", dtype);
        }
        if (headWidth % dtype.blockElements() != 0) {
            throw Checks.unexpected("headWidth", "a multiple of " + dtype.blockElements() + ", the block of " + dtype, headWidth);
        }
        this.places = places;
        this.layers = places.stream().mapToInt(Place::layers).sum();
        this.keyValueHeads = keyValueHeads;
        this.headWidth = headWidth;
        this.capacity = capacity;
        this.dtype = dtype;
        requireSize(capacity);
        try {
            this.memory = allocateMemory(arena, capacity);
        } catch (Throwable e) {
            arena.close();
            throw e;
        }
    }

    private List<Tensor> allocateMemory(Arena owner, int capacity) {
        List<Tensor> tensors = new ArrayList<>();
        for (Place place : places) {
            Shape shape = Shape.of(2L * place.layers * keyValueHeads * capacity, headWidth);
            tensors.add(place.device == null || !place.device.hasOwnMemory()
                    ? Tensor.of(NativeMemory.allocateZeroed(dtype.bytes(headWidth) * shape.rows(), ALIGNMENT, owner), dtype, shape)
                    : place.device.allocate(owner, dtype, shape));
        }
        return List.copyOf(tensors);
    }

    /**
     * {@return an empty cache in the host's memory}
     *
     * @param layers        L
     * @param keyValueHeads NKV
     * @param headWidth     HD
     * @param capacity      the most tokens it can hold
     * @param dtype         what keys and values are rounded to: F32, F16 or BF16 for half the memory, or Q8_0 for little over a
     *                      quarter, where a head is whole blocks of 32
     * @throws IllegalArgumentException if a number is below 1, the type another, a head no whole blocks of it, or the size beyond
     *                                  2^63 - 1 bytes
     * @throws OutOfMemoryError         if the system refuses the memory
     */
    public static KvCache allocate(int layers, int keyValueHeads, int headWidth, int capacity, DType dtype) {
        Checks.range(layers, "layers", 1, Integer.MAX_VALUE);
        return new KvCache(List.of(new Place(null, layers)), keyValueHeads, headWidth, capacity, dtype);
    }

    /**
     * {@return an empty cache in memory that a device works on}
     *
     * @param device        what computes with it
     * @param layers        L
     * @param keyValueHeads NKV
     * @param headWidth     HD
     * @param capacity      the most tokens it can hold
     * @param dtype         what keys and values are rounded to: F32, F16 or BF16 for half the memory, or Q8_0 for little over a
     *                      quarter, where a head is whole blocks of 32
     * @throws IllegalArgumentException if a number is below 1, the type another, a head no whole blocks of it, or the size beyond
     *                                  2^63 - 1 bytes
     * @throws OutOfMemoryError         if the system refuses the memory
     * @throws io.puna.tensor.DeviceException if the device refuses it
     */
    public static KvCache allocate(Device device, int layers, int keyValueHeads, int headWidth, int capacity, DType dtype) {
        return allocate(device, layers, device, 0, keyValueHeads, headWidth, capacity, dtype);
    }

    /**
     * {@return an empty cache whose first layers lie in memory that one device works on, and whose others where another does}
     *
     * @param first         what computes the first layers
     * @param firstLayers   how many those are
     * @param rest          what computes the others
     * @param restLayers    how many those are, L together
     * @param keyValueHeads NKV
     * @param headWidth     HD
     * @param capacity      the most tokens it can hold
     * @param dtype         what keys and values are rounded to: F32, F16 or BF16 for half the memory, or Q8_0 for little over a
     *                      quarter, where a head is whole blocks of 32
     * @throws IllegalArgumentException if there is no layer, a number is below 1 or a number of layers negative, the type another, a
     *                                  head no whole blocks of it, or the size beyond 2^63 - 1 bytes
     * @throws OutOfMemoryError         if the system refuses the memory
     * @throws io.puna.tensor.DeviceException if a device refuses it
     */
    public static KvCache allocate(Device first, int firstLayers, Device rest, int restLayers, int keyValueHeads, int headWidth,
            int capacity, DType dtype) {
        Objects.requireNonNull(first, "device");
        Objects.requireNonNull(rest, "device");
        Checks.range(firstLayers, "layers", restLayers == 0 ? 1 : 0, Integer.MAX_VALUE);
        Checks.range(restLayers, "layers", 0, Integer.MAX_VALUE - firstLayers);
        List<Place> places = Stream.of(new Place(first, firstLayers), new Place(rest, restLayers)).filter(place -> place.layers > 0)
                .toList();
        return new KvCache(places, keyValueHeads, headWidth, capacity, dtype);
    }

    private void requireSize(int capacity) {
        try {
            Math.multiplyExact(Math.multiplyExact(2L * layers, keyValueHeads),
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
        return memory.stream().mapToLong(Tensor::byteSize).sum();
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
        requireSize(newCapacity);
        Arena larger = Arena.ofShared();
        List<Tensor> target;
        try {
            target = allocateMemory(larger, newCapacity);
            for (int place = 0; place < places.size(); place++) {
                for (long head = 0; head < 2L * places.get(place).layers * keyValueHeads; head++) {
                    copyRows(places.get(place).device, target.get(place).rows(head * newCapacity, length),
                            memory.get(place).rows(head * capacity, length));
                }
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

    private static void copyRows(@Nullable Device device, Tensor to, Tensor from) {
        if (device != null) {
            device.copy(to, from);
        } else {
            MemorySegment.copy(from.segment(), 0, to.segment(), 0, from.spanBytes());
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

    /** How many places the layers lie in. */
    int places() {
        return places.size();
    }

    /** The layers of a place. */
    int layers(int place) {
        return places.get(place).layers;
    }

    /** Whether each layer lies in the same place as another cache's. */
    boolean isPlacedAs(KvCache other) {
        return places.stream().map(Place::layers).toList().equals(other.places.stream().map(Place::layers).toList());
    }

    /** {@return the memory of a place} It stays only while the caller has acquired the cache. */
    MemorySegment memory(int place) {
        return memory.get(place).segment();
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
