package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/**
 * Index of a row's largest element: the lowest {@code v} with {@code x[r, v]} equal to the maximum. NaN is never the maximum; a row
 * of nothing but NaN gives 0.
 */
public final class ArgMax {
    private ArgMax() {
    }

    /**
     * Finds.
     *
     * @param device  what computes
     * @param indices (rows) I32, overwritten
     * @param x       (rows, V) F32, V below 2^31
     */
    public static void forward(Device device, Tensor indices, Tensor x) {
        MemorySegment context = Checks.context(device);
        Checks.input(x, "x", DType.F32);
        Checks.contiguous(x, "x");
        long rows = x.shape().rows();
        long columns = x.shape().columns();
        Checks.range(columns, "columns of x", 1, Integer.MAX_VALUE);
        Checks.output(indices, "indices", DType.I32);
        Checks.contiguous(indices, "indices");
        Checks.elements(indices, "indices", rows);
        Checks.apart(indices, "indices", x, "x");
        Device.check(puna_h.puna_argmax_forward(context, indices.segment(), x.segment(), rows, columns));
    }
}
