package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/**
 * Root-mean-square normalisation (Zhang and Sennrich 2019, as LLaMA uses it):
 * {@code rstd[r] = 1 / sqrt(mean over c of x[r, c]² + eps)}, {@code y[r, c] = x[r, c] · rstd[r] · weight[c]}.
 */
public final class RmsNorm {
    private RmsNorm() {
    }

    /**
     * Normalises.
     *
     * @param device what computes
     * @param y      (rows, C) F32, overwritten; may be x
     * @param x      (rows, C) F32
     * @param weight (C) F32, F16 or BF16
     * @param eps    finite, at least 0
     */
    public static void forward(Device device, Tensor y, Tensor x, Tensor weight, float eps) {
        MemorySegment context = Checks.context(device);
        check(y, x, weight, eps);
        run(context, y, MemorySegment.NULL, x, weight, eps);
    }

    /**
     * Normalises, and keeps what a backward pass wants.
     *
     * @param device what computes
     * @param y      (rows, C) F32, overwritten; may be x
     * @param rstd   (rows) F32, overwritten
     * @param x      (rows, C) F32
     * @param weight (C) F32, F16 or BF16
     * @param eps    finite, at least 0
     */
    public static void forward(Device device, Tensor y, Tensor rstd, Tensor x, Tensor weight, float eps) {
        MemorySegment context = Checks.context(device);
        check(y, x, weight, eps);
        Checks.output(rstd, "rstd", DType.F32);
        Checks.contiguous(rstd, "rstd");
        Checks.elements(rstd, "rstd", x.shape().rows());
        Checks.apart(rstd, "rstd", y, "y");
        Checks.apart(rstd, "rstd", x, "x");
        Checks.apart(rstd, "rstd", weight, "weight");
        run(context, y, rstd.segment(), x, weight, eps);
    }

    private static void check(Tensor y, Tensor x, Tensor weight, float eps) {
        Checks.input(x, "x", DType.F32);
        Checks.contiguous(x, "x");
        Checks.weight(weight, "weight");
        if (weight.dtype().isQuantized()) {
            throw Checks.unexpected("weight", "F32, F16 or BF16", weight);
        }
        Checks.elements(weight, "weight", x.shape().columns());
        Checks.output(y, "y", DType.F32);
        Checks.contiguous(y, "y");
        Checks.shape(y, "y", x.shape().rows(), x.shape().columns());
        Checks.sameOrApart(y, "y", x, "x");
        Checks.apart(y, "y", weight, "weight");
        Checks.finite(eps, "eps");
        if (eps < 0) {
            throw Checks.unexpected("eps", "at least 0", eps);
        }
    }

    private static void run(MemorySegment context, Tensor y, MemorySegment rstd, Tensor x, Tensor weight, float eps) {
        Shape shape = x.shape();
        Device.check(puna_h.puna_rmsnorm_forward(context, y.segment(), rstd, x.segment(), weight.segment(), weight.dtype().code(),
                shape.rows(), shape.columns(), eps));
    }

    /**
     * The backward pass. With {@code a[r] = mean over c of dy[r, c] · weight[c] · x[r, c]}:
     * {@code dx[r, c] = rstd[r] · (dy[r, c] · weight[c] - x[r, c] · rstd[r]² · a[r])},
     * {@code dweight[c] += sum over r of dy[r, c] · x[r, c] · rstd[r]}.
     *
     * @param device     what computes
     * @param dx         (rows, C) F32, overwritten or accumulated into; may be dy where it is overwritten
     * @param dweight    (C) F32, accumulated into; null when it is not wanted
     * @param x          (rows, C) F32
     * @param weight     (C) F32, F16 or BF16
     * @param rstd       (rows) F32, from the forward pass
     * @param dy         (rows, C) F32
     * @param accumulate whether dx is added to, as the gradient of a residual stream
     */
    public static void backward(Device device, Tensor dx, @Nullable Tensor dweight, Tensor x, Tensor weight, Tensor rstd, Tensor dy,
                                boolean accumulate) {
        MemorySegment context = Checks.context(device);
        Checks.input(x, "x", DType.F32);
        Checks.contiguous(x, "x");
        long rows = x.shape().rows();
        long columns = x.shape().columns();
        Checks.weight(weight, "weight");
        if (weight.dtype().isQuantized()) {
            throw Checks.unexpected("weight", "F32, F16 or BF16", weight);
        }
        Checks.elements(weight, "weight", columns);
        Checks.input(rstd, "rstd", DType.F32);
        Checks.contiguous(rstd, "rstd");
        Checks.elements(rstd, "rstd", rows);
        Checks.input(dy, "dy", DType.F32);
        Checks.contiguous(dy, "dy");
        Checks.shape(dy, "dy", rows, columns);
        Checks.output(dx, "dx", DType.F32);
        Checks.contiguous(dx, "dx");
        Checks.shape(dx, "dx", rows, columns);
        Checks.apart(dx, "dx", x, "x");
        Checks.apart(dx, "dx", weight, "weight");
        Checks.apart(dx, "dx", rstd, "rstd");
        if (accumulate) {
            Checks.apart(dx, "dx", dy, "dy");
        } else {
            Checks.sameOrApart(dx, "dx", dy, "dy");
        }
        if (dweight != null) {
            Checks.output(dweight, "dweight", DType.F32);
            Checks.contiguous(dweight, "dweight");
            Checks.elements(dweight, "dweight", columns);
            Checks.apart(dweight, "dweight", dx, "dx");
            Checks.apart(dweight, "dweight", x, "x");
            Checks.apart(dweight, "dweight", weight, "weight");
            Checks.apart(dweight, "dweight", rstd, "rstd");
            Checks.apart(dweight, "dweight", dy, "dy");
        }
        Device.check(puna_h.puna_rmsnorm_backward(context, dx.segment(), dweight == null ? MemorySegment.NULL : dweight.segment(),
                x.segment(), weight.segment(), weight.dtype().code(), rstd.segment(), dy.segment(), rows, columns,
                accumulate ? 1 : 0));
    }
}
