package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.bindings.puna_kv_sequence;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Recording;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.Objects;

/**
 * One step of one or many sequences, each with its own cache: a prompt, a next token, or several sequences' next tokens. The rows
 * of the step's arrays are the parts' rows, one part after another; a part's rows stand at the positions that follow its cache's
 * length.
 *
 * {@snippet :
 * try (KvStep step = KvStep.begin(workspace, List.of(new KvStep.Part(cache, rows)))) {
 *     for (int layer = 0; layer < layers; layer++) {
 *         step.append(device, layer, k, v);
 *         step.attend(device, y, q, layer, heads, 0, scale);
 *     }
 *     step.commit();
 * }
 * }
 *
 * <p>A step belongs to the thread that began it; every method throws {@link WrongThreadException} on another. While it lives it
 * holds its caches: no other step takes them and closing one waits. It also holds its workspace's place for sequences, but other
 * operations may use the workspace in between. A step that is closed without {@link #commit()} leaves the caches as long as they
 * were.
 */
public final class KvStep implements AutoCloseable {
    /**
     * A sequence's part in a step.
     *
     * @param cache the sequence's keys and values so far
     * @param rows  tokens it advances by, at least 1
     */
    public record Part(KvCache cache, int rows) {
        /**
         * Checks the part.
         *
         * @throws IllegalArgumentException if {@code rows} is below 1
         */
        public Part {
            Objects.requireNonNull(cache, "cache");
            Checks.range(rows, "rows", 1, Integer.MAX_VALUE);
        }
    }

    private final Thread owner = Thread.currentThread();
    private final Workspace workspace;
    private final List<Part> parts;
    private final KvCache first;
    private final MemorySegment sequences;
    private final long rows;
    private boolean committed;
    private boolean closed;

    private KvStep(Workspace workspace, List<Part> parts) {
        this.workspace = workspace;
        this.parts = parts;
        this.first = parts.getFirst().cache();
        int held = 0;
        try {
            long sum = 0;
            for (; held < parts.size(); held++) {
                Part part = parts.get(held);
                part.cache().acquire(this);
                sum += part.rows();
            }
            for (int i = 0; i < held; i++) {
                check(i);
            }
            this.rows = sum;
            this.sequences = fill();
        } catch (Throwable e) {
            for (int i = 0; i < held; i++) {
                parts.get(i).cache().release(this);
            }
            workspace.end(this);
            throw e;
        }
    }

    /**
     * {@return a step of these sequences, which {@link #close()} must end}
     *
     * @param workspace holds the step's bookkeeping until it ends; one step at a time
     * @param parts     at least one; caches of the same layers, heads, head width and type
     * @throws IllegalArgumentException if there is no part, caches differ, or one has no room for its rows
     * @throws IllegalStateException    if a cache is closed, in another step or here twice, or the workspace is closed, busy or in
     *                                  another step
     */
    public static KvStep begin(Workspace workspace, List<Part> parts) {
        Objects.requireNonNull(workspace, "workspace");
        List<Part> copy = List.copyOf(parts);
        if (copy.isEmpty()) {
            throw Checks.unexpected("parts", "at least one", "none");
        }
        return new KvStep(workspace, copy);
    }

    private void check(int index) {
        KvCache cache = parts.get(index).cache();
        if (cache.layers() != first.layers() || cache.keyValueHeads() != first.keyValueHeads()
                || cache.headWidth() != first.headWidth() || cache.dtype() != first.dtype()) {
            throw Checks.unexpected("parts[" + index + "]", "a cache like the first, " + describe(first), describe(cache));
        }
        if (!cache.isPlacedAs(first)) {
            throw Checks.unexpected("parts[" + index + "]", "a cache whose layers are divided as those of the first",
                    "one that divides them otherwise");
        }
        int partRows = parts.get(index).rows();
        if (partRows > cache.capacity() - cache.length()) {
            throw Checks.unexpected("parts[" + index + "]", "room for its rows in a cache of capacity " + cache.capacity(),
                    partRows + " rows from position " + cache.length());
        }
    }

    private static String describe(KvCache cache) {
        return cache.dtype() + ", " + cache.layers() + " layers, " + cache.keyValueHeads() + " heads of " + cache.headWidth();
    }

    /** The sequences once for each place of the caches' layers. */
    private MemorySegment fill() {
        workspace.acquire();
        try {
            MemorySegment array = workspace.begin(this, first.places() * parts.size());
            for (int i = 0; i < first.places() * parts.size(); i++) {
                Part part = parts.get(i % parts.size());
                MemorySegment sequence = puna_kv_sequence.asSlice(array, i);
                puna_kv_sequence.cache(sequence, part.cache().memory(i / parts.size()));
                puna_kv_sequence.capacity(sequence, part.cache().capacity());
                puna_kv_sequence.position(sequence, part.cache().length());
                puna_kv_sequence.rows(sequence, part.rows());
            }
            return array;
        } finally {
            workspace.release();
        }
    }

    /** {@return the rows of all parts together} */
    public long rows() {
        return rows;
    }

    boolean isOwnedByThisThread() {
        return owner == Thread.currentThread();
    }

    /**
     * Stores the step's keys and values of one layer behind those of earlier steps, rounded to the caches' type.
     *
     * @param device what computes the layer
     * @param layer  0 to L - 1
     * @param k      (rows, NKV · HD) F32 of any row stride, rotated
     * @param v      (rows, NKV · HD) F32 of the row stride of k
     * @throws IndexOutOfBoundsException if the caches have no such layer
     * @throws IllegalStateException     if the step is committed or closed
     */
    public void append(Device device, int layer, Tensor k, Tensor v) {
        MemorySegment context = Checks.context(device);
        requireOpen();
        int place = place(layer);
        long width = (long) first.keyValueHeads() * first.headWidth();
        Checks.input(k, "k", DType.F32);
        Checks.shape(k, "k", rows, width);
        Checks.input(v, "v", DType.F32);
        Checks.shape(v, "v", rows, width);
        Checks.sameStride(v, "v", k, "k");
        workspace.acquire();
        try {
            Device.check(puna_h.puna_kv_append(context, sequences(place), parts.size(), first.dtype().code(), layerIn(place, layer),
                    k.segment(), v.segment(), k.rowStride(), first.keyValueHeads(), first.headWidth()));
        } finally {
            workspace.release();
        }
    }

    /**
     * Attends to the caches, which must hold the step's own keys and values of this layer: {@link Attention} has the formula.
     *
     * @param device what computes
     * @param y      (rows, NH · HD) F32 of any row stride, overwritten
     * @param q      (rows, NH · HD) F32 of any row stride, rotated
     * @param layer  0 to L - 1
     * @param heads  NH, a multiple of the caches' NKV
     * @param window keys a query sees, its own included; 0 for all
     * @param scale  finite, usually 1 / sqrt(HD)
     * @throws IndexOutOfBoundsException if the caches have no such layer
     * @throws IllegalStateException     if the step is committed or closed
     */
    public void attend(Device device, Tensor y, Tensor q, int layer, int heads, long window, float scale) {
        MemorySegment context = Checks.context(device);
        requireOpen();
        int place = place(layer);
        Attention.grouped(heads, first.keyValueHeads());
        Checks.range(window, "window", 0, Long.MAX_VALUE);
        Checks.finite(scale, "scale");
        long width = (long) heads * first.headWidth();
        Checks.input(q, "q", DType.F32);
        Checks.shape(q, "q", rows, width);
        Checks.output(y, "y", DType.F32);
        Checks.shape(y, "y", rows, width);
        Checks.apart(y, "y", q, "q");
        workspace.acquire();
        try {
            Device.check(puna_h.puna_attention_workspace_size(context, heads, first.keyValueHeads(), first.headWidth(),
                    workspace.size()));
            MemorySegment scratch = workspace.scratch();
            Device.check(puna_h.puna_attention_cached_forward(context, y.segment(), y.rowStride(), q.segment(), q.rowStride(),
                    sequences(place), parts.size(), first.dtype().code(), layerIn(place, layer), heads, first.keyValueHeads(),
                    first.headWidth(), window, scale, scratch, scratch.byteSize()));
        } finally {
            workspace.release();
        }
    }

    /**
     * Carries recorded calls out with this step's caches in the place of those recorded. Nothing looks whether the other tensors of the
     * calls are there still: whoever made the recording answers for that.
     *
     * @param recording of a step of as many parts, one row each, whose largest cache had at least the capacity of the largest here
     * @param layer     one of those recorded
     * @throws IndexOutOfBoundsException if the caches have no such layer
     * @throws IllegalArgumentException  if the recording is of another step than that
     * @throws IllegalStateException     if the step is committed or closed, or the recording is closed
     */
    public void replay(Recording recording, int layer) {
        MemorySegment handle = recording.handle();
        requireOpen();
        int place = place(layer);
        workspace.acquire();
        try {
            Device.check(puna_h.puna_recording_replay(handle, sequences(place), parts.size()));
        } finally {
            workspace.release();
        }
    }

    /**
     * Advances every cache's length by its part's rows. Nothing but {@link #close()} may follow.
     *
     * @throws IllegalStateException if the step is committed or closed
     */
    public void commit() {
        requireOpen();
        committed = true;
        for (Part part : parts) {
            part.cache().length(part.cache().length() + part.rows());
        }
    }

    private int place(int layer) {
        if (layer < 0 || layer >= first.layers()) {
            throw new IndexOutOfBoundsException("layer: expected 0 to " + (first.layers() - 1) + ", got " + layer);
        }
        return layer < first.layers(0) ? 0 : 1;
    }

    private long layerIn(int place, int layer) {
        return place == 0 ? layer : layer - first.layers(0);
    }

    private MemorySegment sequences(int place) {
        return sequences.asSlice(place * parts.size() * puna_kv_sequence.sizeof());
    }

    private void requireThread() {
        if (!isOwnedByThisThread()) {
            throw new WrongThreadException("step: expected the thread that began it, " + owner.getName() + ", got "
                    + Thread.currentThread().getName());
        }
    }

    private void requireOpen() {
        requireThread();
        if (closed || committed) {
            throw new IllegalStateException(closed ? "step is closed" : "step is committed");
        }
    }

    /** Gives the caches and the workspace back. Closing again does nothing. */
    @Override
    public void close() {
        requireThread();
        if (closed) {
            return;
        }
        closed = true;
        for (Part part : parts) {
            part.cache().release(this);
        }
        workspace.end(this);
    }
}
