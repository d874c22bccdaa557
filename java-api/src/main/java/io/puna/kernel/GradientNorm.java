package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Objects;

/** The norm of a gradient, tensor by tensor: the squares of all of them, added in one order, are the square of the whole norm. */
public final class GradientNorm {
    private GradientNorm() {
    }

    /**
     * {@return the sum of the squares of a tensor's elements, in double}
     *
     * @param device    what computes
     * @param workspace scratch, busy until the call returns
     * @param x         F32 of any shape
     */
    public static double squared(Device device, Workspace workspace, Tensor x) {
        MemorySegment context = Checks.context(device);
        Objects.requireNonNull(workspace, "workspace");
        Checks.input(x, "x", DType.F32);
        Checks.contiguous(x, "x");
        workspace.acquire();
        try {
            MemorySegment result = workspace.size(); // eight bytes that nothing else uses here
            Device.check(puna_h.puna_squared_norm(context, result, x.segment(), x.shape().elements()));
            return result.get(ValueLayout.JAVA_DOUBLE, 0);
        } finally {
            workspace.release();
        }
    }
}
