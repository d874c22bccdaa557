package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Product of activations with the transpose of a weight: {@code y[r, n] = sum over k of x[r, k] · w[n, k]}. Methods that are not told
 * otherwise take the activations as they are, {@link Activations#F32}.
 */
public final class MatMul {
    private static final int MAX_PRODUCTS = puna_h.PUNA_MATMUL_MAX_PRODUCTS();
    private static final String[] Y_NAMES = {"ys[0]", "ys[1]", "ys[2]"};
    private static final String[] W_NAMES = {"ws[0]", "ws[1]", "ws[2]"};

    /** How activations meet weights of block types (Q8_0, Q4_0, Q4_K, Q6_K); weights of other types always meet them as they are. */
    public enum Activations {
        /** As they are: the product is that of the decoded weights. */
        F32(puna_h.PUNA_ACTIVATIONS_F32()),
        /**
         * Rounded to 16 bits, 32 at a time by the largest of them: q = round(32512 · x / max). About twice as fast as F32; a
         * model's logits change by some 1e-4, and its text where two tokens are that near. A row with an element that is NaN or
         * infinite becomes NaN.
         */
        INT16(puna_h.PUNA_ACTIVATIONS_INT16()),
        /** Rounded to 8 bits likewise: q = round(127 · x / max). Fastest; the error is about that of a Q8_0 weight. */
        INT8(puna_h.PUNA_ACTIVATIONS_INT8());

        private final int code;

        Activations(int code) {
            this.code = code;
        }
    }

    private MatMul() {
    }

    /**
     * Multiplies, with scratch of its own: for scripts. Repeated calls are better off with a workspace.
     *
     * @param device what computes
     * @param y      (rows, N) F32 of any row stride, overwritten
     * @param x      (rows, K) F32 of any row stride
     * @param w      (N, K) of any type a weight can have
     */
    public static void forward(Device device, Tensor y, Tensor x, Tensor w) {
        try (Workspace workspace = new Workspace()) {
            forward(device, workspace, y, x, w);
        }
    }

    /**
     * Multiplies.
     *
     * @param device    what computes
     * @param workspace scratch, busy until the call returns
     * @param y         (rows, N) F32 of any row stride, overwritten
     * @param x         (rows, K) F32 of any row stride
     * @param w         (N, K) of any type a weight can have
     */
    public static void forward(Device device, Workspace workspace, Tensor y, Tensor x, Tensor w) {
        forward(device, workspace, y, x, w, Activations.F32);
    }

    /**
     * Multiplies.
     *
     * @param device      what computes
     * @param workspace   scratch, busy until the call returns
     * @param y           (rows, N) F32 of any row stride, overwritten
     * @param x           (rows, K) F32 of any row stride
     * @param w           (N, K) of any type a weight can have
     * @param activations how x meets a weight of a block type
     */
    public static void forward(Device device, Workspace workspace, Tensor y, Tensor x, Tensor w, Activations activations) {
        one(device, workspace, y, x, w, false, activations);
    }

    /**
     * Multiplies and adds: {@code y[r, n] += sum over k of x[r, k] · w[n, k]}.
     *
     * @param device    what computes
     * @param workspace scratch, busy until the call returns
     * @param y         (rows, N) F32 of any row stride, accumulated into
     * @param x         (rows, K) F32 of any row stride
     * @param w         (N, K) of any type a weight can have
     */
    public static void accumulate(Device device, Workspace workspace, Tensor y, Tensor x, Tensor w) {
        accumulate(device, workspace, y, x, w, Activations.F32);
    }

    /**
     * Multiplies and adds: {@code y[r, n] += sum over k of x[r, k] · w[n, k]}.
     *
     * @param device      what computes
     * @param workspace   scratch, busy until the call returns
     * @param y           (rows, N) F32 of any row stride, accumulated into
     * @param x           (rows, K) F32 of any row stride
     * @param w           (N, K) of any type a weight can have
     * @param activations how x meets a weight of a block type
     */
    public static void accumulate(Device device, Workspace workspace, Tensor y, Tensor x, Tensor w, Activations activations) {
        one(device, workspace, y, x, w, true, activations);
    }

    /**
     * Multiplies the same activations with one to three weights, as for query, key and value, or gate and up.
     *
     * @param device    what computes
     * @param workspace scratch, busy until the call returns
     * @param ys        (rows, N) each, F32 of any row stride, overwritten. They may be columns of one tensor.
     * @param x         (rows, K) F32 of any row stride
     * @param ws        (N, K) each, as many as ys, of any types a weight can have
     */
    public static void forward(Device device, Workspace workspace, List<Tensor> ys, Tensor x, List<Tensor> ws) {
        forward(device, workspace, ys, x, ws, Activations.F32);
    }

    /**
     * Multiplies the same activations with one to three weights, as for query, key and value, or gate and up.
     *
     * @param device      what computes
     * @param workspace   scratch, busy until the call returns
     * @param ys          (rows, N) each, F32 of any row stride, overwritten. They may be columns of one tensor.
     * @param x           (rows, K) F32 of any row stride
     * @param ws          (N, K) each, as many as ys, of any types a weight can have
     * @param activations how x meets weights of block types
     */
    public static void forward(Device device, Workspace workspace, List<Tensor> ys, Tensor x, List<Tensor> ws,
                               Activations activations) {
        MemorySegment context = Checks.context(device);
        Objects.requireNonNull(workspace, "workspace");
        Objects.requireNonNull(activations, "activations");
        int count = ys.size();
        Checks.range(count, "number of ys", 1, MAX_PRODUCTS);
        if (ws.size() != count) {
            throw Checks.unexpected("ws", count + " tensors, as many as ys", ws.size());
        }
        Tensor y0 = ys.get(0);
        Tensor w0 = ws.get(0);
        Tensor y1 = count > 1 ? ys.get(1) : null;
        Tensor w1 = count > 1 ? ws.get(1) : null;
        Tensor y2 = count > 2 ? ys.get(2) : null;
        Tensor w2 = count > 2 ? ws.get(2) : null;
        checkInput(x);
        checkProduct(y0, Y_NAMES[0], x, w0, W_NAMES[0]);
        if (count > 1) {
            checkProduct(y1, Y_NAMES[1], x, w1, W_NAMES[1]);
            checkOutputs(y1, 1, w1, y0, 0, w0);
        }
        if (count > 2) {
            checkProduct(y2, Y_NAMES[2], x, w2, W_NAMES[2]);
            checkOutputs(y2, 2, w2, y0, 0, w0);
            checkOutputs(y2, 2, w2, y1, 1, w1);
        }
        run(context, workspace, count, y0, w0, y1, w1, y2, w2, x, false, activations);
    }

    /**
     * The gradient of the activations: {@code dx[r, k] = sum over n of dy[r, n] · w[n, k]}.
     *
     * @param device     what computes
     * @param workspace  scratch, busy until the call returns
     * @param dx         (rows, K) F32 of any row stride, overwritten or accumulated into
     * @param w          (N, K) F32, F16 or BF16
     * @param dy         (rows, N) F32 of any row stride
     * @param accumulate whether dx is added to, for products that share their activations
     */
    public static void inputBackward(Device device, Workspace workspace, Tensor dx, Tensor w, Tensor dy, boolean accumulate) {
        MemorySegment context = Checks.context(device);
        Objects.requireNonNull(workspace, "workspace");
        Checks.weight(w, "w");
        if (w.dtype().isQuantized()) {
            throw Checks.unexpected("w", "F32, F16 or BF16", w);
        }
        long columns = w.shape().columns();
        Checks.input(dy, "dy", DType.F32);
        Checks.columns(dy, "dy", w.shape().rows());
        long rows = dy.shape().rows();
        Checks.output(dx, "dx", DType.F32);
        Checks.shape(dx, "dx", rows, columns);
        Checks.apart(dx, "dx", w, "w");
        Checks.apart(dx, "dx", dy, "dy");
        workspace.acquire();
        try {
            Device.check(puna_h.puna_matmul_backward_workspace_size(context, workspace.size()));
            MemorySegment scratch = workspace.scratch();
            Device.check(puna_h.puna_matmul_input_backward(context, dx.segment(), dx.rowStride(), w.segment(), w.dtype().code(),
                    dy.segment(), dy.rowStride(), rows, w.shape().rows(), columns, accumulate ? 1 : 0, scratch,
                    scratch.byteSize()));
        } finally {
            workspace.release();
        }
    }

    /**
     * The gradient of the weight: {@code dw[n, k] += sum over r of dy[r, n] · x[r, k]}.
     *
     * @param device    what computes
     * @param workspace scratch, busy until the call returns
     * @param dw        (N, K) F32, accumulated into
     * @param x         (rows, K) F32 of any row stride
     * @param dy        (rows, N) F32 of any row stride
     */
    public static void weightBackward(Device device, Workspace workspace, Tensor dw, Tensor x, Tensor dy) {
        MemorySegment context = Checks.context(device);
        Objects.requireNonNull(workspace, "workspace");
        checkInput(x);
        long rows = x.shape().rows();
        Checks.output(dw, "dw", DType.F32);
        Checks.contiguous(dw, "dw");
        Checks.columns(dw, "dw", x.shape().columns());
        Checks.input(dy, "dy", DType.F32);
        Checks.shape(dy, "dy", rows, dw.shape().rows());
        Checks.apart(dw, "dw", x, "x");
        Checks.apart(dw, "dw", dy, "dy");
        workspace.acquire();
        try {
            Device.check(puna_h.puna_matmul_backward_workspace_size(context, workspace.size()));
            MemorySegment scratch = workspace.scratch();
            Device.check(puna_h.puna_matmul_weight_backward(context, dw.segment(), x.segment(), x.rowStride(), dy.segment(),
                    dy.rowStride(), rows, dw.shape().rows(), dw.shape().columns(), scratch, scratch.byteSize()));
        } finally {
            workspace.release();
        }
    }

    private static void one(Device device, Workspace workspace, Tensor y, Tensor x, Tensor w, boolean accumulate,
                            Activations activations) {
        MemorySegment context = Checks.context(device);
        Objects.requireNonNull(workspace, "workspace");
        Objects.requireNonNull(activations, "activations");
        checkInput(x);
        checkProduct(y, "y", x, w, "w");
        run(context, workspace, 1, y, w, null, null, null, null, x, accumulate, activations);
    }

    private static void checkInput(Tensor x) {
        Checks.input(x, "x", DType.F32);
    }

    private static void checkProduct(Tensor y, String yName, Tensor x, Tensor w, String wName) {
        Checks.weight(w, wName);
        Checks.columns(w, wName, x.shape().columns());
        Checks.output(y, yName, DType.F32);
        Checks.shape(y, yName, x.shape().rows(), w.shape().rows());
        Checks.apart(y, yName, x, "x");
        Checks.apart(y, yName, w, wName);
    }

    /** Checks two outputs of a call against each other and each other's weights. */
    private static void checkOutputs(Tensor y, int index, Tensor w, Tensor other, int otherIndex, Tensor otherW) {
        Checks.apart(y, Y_NAMES[index], other, Y_NAMES[otherIndex]);
        Checks.apart(y, Y_NAMES[index], otherW, W_NAMES[otherIndex]);
        Checks.apart(other, Y_NAMES[otherIndex], w, W_NAMES[index]);
    }

    private static void run(MemorySegment context, Workspace workspace, int count, Tensor y0, Tensor w0, @Nullable Tensor y1,
                            @Nullable Tensor w1, @Nullable Tensor y2, @Nullable Tensor w2, Tensor x, boolean accumulate,
                            Activations activations) {
        long rows = x.shape().rows();
        long columns = x.shape().columns();
        workspace.acquire();
        try {
            product(workspace, 0, y0, w0, accumulate);
            product(workspace, 1, y1, w1, accumulate);
            product(workspace, 2, y2, w2, accumulate);
            MemorySegment products = workspace.products();
            Device.check(puna_h.puna_matmul_workspace_size(context, products, count, rows, columns, activations.code,
                    workspace.size()));
            MemorySegment scratch = workspace.scratch();
            Device.check(puna_h.puna_matmul_forward(context, products, count, address(y0), address(w0), address(y1), address(w1),
                    address(y2), address(w2), x.segment(), x.rowStride(), rows, columns, activations.code, scratch,
                    scratch.byteSize()));
        } finally {
            workspace.release();
        }
    }

    private static void product(Workspace workspace, int index, @Nullable Tensor y, @Nullable Tensor w, boolean accumulate) {
        if (y != null && w != null) {
            workspace.product(index, w.shape().rows(), y.rowStride(), w.dtype().code(), accumulate);
        }
    }

    private static MemorySegment address(@Nullable Tensor tensor) {
        return tensor == null ? MemorySegment.NULL : tensor.segment();
    }
}
