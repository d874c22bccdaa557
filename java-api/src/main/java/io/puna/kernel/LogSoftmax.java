package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/** Logarithm of softmax, in nats: {@code y[r, v] = x[r, v] - max - log(sum over j of exp(x[r, j] - max))}. */
public final class LogSoftmax {
    private LogSoftmax() {
    }

    /**
     * Computes log-probabilities of logits.
     *
     * @param device what computes
     * @param y      (rows, V) F32, overwritten; may be x
     * @param x      (rows, V) F32
     */
    public static void forward(Device device, Tensor y, Tensor x) {
        MemorySegment context = Checks.context(device);
        Checks.input(x, "x", DType.F32);
        Checks.contiguous(x, "x");
        long rows = x.shape().rows();
        long columns = x.shape().columns();
        Checks.output(y, "y", DType.F32);
        Checks.contiguous(y, "y");
        Checks.shape(y, "y", rows, columns);
        Checks.sameOrApart(y, "y", x, "x");
        Device.check(puna_h.puna_log_softmax_forward(context, y.segment(), x.segment(), rows, columns));
    }
}
