package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/** Decoding of rows of any weight type: {@code y[r, c] = value of w[r, c]}, exact for every type. */
public final class Dequantize {
    private Dequantize() {
    }

    /**
     * Decodes.
     *
     * @param device what computes
     * @param y      (rows, C) F32, overwritten
     * @param w      (rows, C) of any type a weight can have
     */
    public static void forward(Device device, Tensor y, Tensor w) {
        MemorySegment context = Checks.context(device);
        Checks.weight(w, "w");
        Checks.output(y, "y", DType.F32);
        Checks.contiguous(y, "y");
        Shape shape = w.shape();
        long rows = shape.rows();
        long columns = shape.columns();
        Checks.shape(y, "y", rows, columns);
        Checks.apart(y, "y", w, "w");
        Device.check(puna_h.puna_dequantize(context, y.segment(), w.segment(), w.dtype().code(), rows, columns));
    }
}
