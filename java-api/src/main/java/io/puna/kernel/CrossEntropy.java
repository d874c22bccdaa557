package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/**
 * Softmax cross-entropy and its gradient in one pass. With p = softmax(logits[r]) and t = targets[r]:
 * {@code losses[r] = -log p[t]}, in nats, and {@code dlogits[r, v] = scale · (p[v] - (1 if v = t else 0))}. A row depends on itself
 * alone, so rows may be walked in chunks whose logits are never held together.
 */
public final class CrossEntropy {
    private CrossEntropy() {
    }

    /**
     * Computes losses and gradients.
     *
     * @param device  what computes
     * @param losses  (rows) F32, overwritten; 0 where the target is ignored
     * @param dlogits (rows, V) F32, overwritten, 0 where the target is ignored; may be logits; null when only the losses are wanted
     * @param logits  (rows, V) F32
     * @param targets (rows) I32, each at least 0 and below V, or ignored
     * @param ignored the target of rows that do not count
     * @param scale   of the gradient, finite: 1 / (targets that count) for the gradient of their mean loss
     */
    public static void forwardBackward(Device device, Tensor losses, @Nullable Tensor dlogits, Tensor logits, Tensor targets,
                                       int ignored, float scale) {
        MemorySegment context = Checks.context(device);
        Checks.input(logits, "logits", DType.F32);
        Checks.contiguous(logits, "logits");
        long rows = logits.shape().rows();
        long columns = logits.shape().columns();
        Checks.input(targets, "targets", DType.I32);
        Checks.contiguous(targets, "targets");
        Checks.elements(targets, "targets", rows);
        Checks.output(losses, "losses", DType.F32);
        Checks.contiguous(losses, "losses");
        Checks.elements(losses, "losses", rows);
        Checks.apart(losses, "losses", logits, "logits");
        Checks.apart(losses, "losses", targets, "targets");
        if (dlogits != null) {
            Checks.output(dlogits, "dlogits", DType.F32);
            Checks.contiguous(dlogits, "dlogits");
            Checks.shape(dlogits, "dlogits", rows, columns);
            Checks.sameOrApart(dlogits, "dlogits", logits, "logits");
            Checks.apart(dlogits, "dlogits", targets, "targets");
            Checks.apart(dlogits, "dlogits", losses, "losses");
        }
        Checks.finite(scale, "scale");
        Device.check(puna_h.puna_cross_entropy_forward_backward(context, losses.segment(),
                dlogits == null ? MemorySegment.NULL : dlogits.segment(), logits.segment(), targets.segment(), ignored, scale, rows,
                columns));
    }
}
