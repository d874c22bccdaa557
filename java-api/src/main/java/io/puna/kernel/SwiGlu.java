package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/** The gate of LLaMA's feed-forward (Shazeer 2020): {@code y = silu(gate) · up}, {@code silu(a) = a / (1 + exp(-a))}. */
public final class SwiGlu {
    private SwiGlu() {
    }

    /**
     * Gates.
     *
     * @param device what computes
     * @param y      (rows, FF) F32 of any row stride, overwritten; may be gate or up
     * @param gate   (rows, FF) F32 of any row stride
     * @param up     (rows, FF) F32 of the row stride of gate: two tensors, or two column views of one
     */
    public static void forward(Device device, Tensor y, Tensor gate, Tensor up) {
        MemorySegment context = Checks.context(device);
        Checks.input(gate, "gate", DType.F32);
        long rows = gate.shape().rows();
        long columns = gate.shape().columns();
        Checks.input(up, "up", DType.F32);
        Checks.shape(up, "up", rows, columns);
        Checks.sameStride(up, "up", gate, "gate");
        Checks.output(y, "y", DType.F32);
        Checks.shape(y, "y", rows, columns);
        Checks.sameOrApart(y, "y", gate, "gate");
        Checks.sameOrApart(y, "y", up, "up");
        Device.check(puna_h.puna_swiglu_forward(context, y.segment(), y.rowStride(), gate.segment(), up.segment(),
                gate.rowStride(), rows, columns));
    }

    /**
     * The backward pass, with {@code s = 1 / (1 + exp(-gate))}: {@code dgate = dy · up · s · (1 + gate · (1 - s))},
     * {@code dup = dy · silu(gate)}.
     *
     * @param device what computes
     * @param dgate  (rows, FF) F32 of any row stride, overwritten; may be gate or dy
     * @param dup    (rows, FF) F32 of the row stride of dgate, overwritten; may be up or dy
     * @param gate   (rows, FF) F32 of any row stride
     * @param up     (rows, FF) F32 of the row stride of gate
     * @param dy     (rows, FF) F32 of any row stride
     */
    public static void backward(Device device, Tensor dgate, Tensor dup, Tensor gate, Tensor up, Tensor dy) {
        MemorySegment context = Checks.context(device);
        Checks.input(gate, "gate", DType.F32);
        long rows = gate.shape().rows();
        long columns = gate.shape().columns();
        Checks.input(up, "up", DType.F32);
        Checks.shape(up, "up", rows, columns);
        Checks.sameStride(up, "up", gate, "gate");
        Checks.input(dy, "dy", DType.F32);
        Checks.shape(dy, "dy", rows, columns);
        Checks.output(dgate, "dgate", DType.F32);
        Checks.shape(dgate, "dgate", rows, columns);
        Checks.output(dup, "dup", DType.F32);
        Checks.shape(dup, "dup", rows, columns);
        Checks.sameStride(dup, "dup", dgate, "dgate");
        Checks.apart(dup, "dup", dgate, "dgate");
        Checks.sameOrApart(dgate, "dgate", gate, "gate");
        Checks.apart(dgate, "dgate", up, "up");
        Checks.sameOrApart(dgate, "dgate", dy, "dy");
        Checks.apart(dup, "dup", gate, "gate");
        Checks.sameOrApart(dup, "dup", up, "up");
        Checks.sameOrApart(dup, "dup", dy, "dy");
        Device.check(puna_h.puna_swiglu_backward(context, dgate.segment(), dup.segment(), dgate.rowStride(), gate.segment(),
                up.segment(), gate.rowStride(), dy.segment(), dy.rowStride(), rows, columns));
    }
}
