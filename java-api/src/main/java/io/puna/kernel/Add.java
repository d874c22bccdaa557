package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/** Addition, as of a residual: {@code y[i] += x[i]}. */
public final class Add {
    private Add() {
    }

    /**
     * Adds.
     *
     * @param device what computes
     * @param y      F32 of any shape, accumulated into
     * @param x      F32 with as many rows and columns
     */
    public static void forward(Device device, Tensor y, Tensor x) {
        MemorySegment context = Checks.context(device);
        Checks.input(x, "x", DType.F32);
        Checks.contiguous(x, "x");
        Checks.output(y, "y", DType.F32);
        Checks.contiguous(y, "y");
        Checks.shape(y, "y", x.shape().rows(), x.shape().columns());
        Checks.apart(y, "y", x, "x");
        Device.check(puna_h.puna_add_forward(context, y.segment(), x.segment(), x.shape().elements()));
    }
}
