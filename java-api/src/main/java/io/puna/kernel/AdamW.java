package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/**
 * One step of AdamW (Loshchilov and Hutter 2019). With {@code h = gradientScale · gradient} and t the step:
 * {@code m = beta1 · m + (1 - beta1) · h}, {@code v = beta2 · v + (1 - beta2) · h²},
 * {@code w = w · (1 - learningRate · weightDecay) - learningRate · (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)}.
 */
public final class AdamW {
    private AdamW() {
    }

    /**
     * Steps.
     *
     * @param device        what computes
     * @param w             the parameters, F32 of any shape, overwritten
     * @param m             as many elements F32, overwritten; zero before the first step
     * @param v             as many elements F32, overwritten; zero before the first step
     * @param gradient      as many elements F32
     * @param step          which step this is, counted from one
     * @param learningRate  finite, at least 0
     * @param beta1         at least 0 and below 1
     * @param beta2         at least 0 and below 1
     * @param eps           finite, at least 0
     * @param weightDecay   finite, at least 0
     * @param gradientScale finite: below 1 where the gradient's norm is clipped
     */
    public static void step(Device device, Tensor w, Tensor m, Tensor v, Tensor gradient, long step, double learningRate,
                            double beta1, double beta2, double eps, double weightDecay, double gradientScale) {
        MemorySegment context = Checks.context(device);
        Checks.output(w, "w", DType.F32);
        Checks.contiguous(w, "w");
        long elements = w.shape().elements();
        Checks.output(m, "m", DType.F32);
        Checks.contiguous(m, "m");
        Checks.elements(m, "m", elements);
        Checks.output(v, "v", DType.F32);
        Checks.contiguous(v, "v");
        Checks.elements(v, "v", elements);
        Checks.input(gradient, "gradient", DType.F32);
        Checks.contiguous(gradient, "gradient");
        Checks.elements(gradient, "gradient", elements);
        Checks.apart(m, "m", w, "w");
        Checks.apart(v, "v", w, "w");
        Checks.apart(v, "v", m, "m");
        Checks.apart(w, "w", gradient, "gradient");
        Checks.apart(m, "m", gradient, "gradient");
        Checks.apart(v, "v", gradient, "gradient");
        Checks.range(step, "step", 1, Long.MAX_VALUE);
        atLeastZero(learningRate, "learningRate");
        coefficient(beta1, "beta1");
        coefficient(beta2, "beta2");
        atLeastZero(eps, "eps");
        atLeastZero(weightDecay, "weightDecay");
        if (!Double.isFinite(gradientScale)) {
            throw Checks.unexpected("gradientScale", "a finite number", gradientScale);
        }
        Device.check(puna_h.puna_adamw_step(context, w.segment(), m.segment(), v.segment(), gradient.segment(), elements, step,
                learningRate, beta1, beta2, eps, weightDecay, gradientScale));
    }

    private static void atLeastZero(double value, String name) {
        if (!(value >= 0 && Double.isFinite(value))) {
            throw Checks.unexpected(name, "a finite number, at least 0", value);
        }
    }

    private static void coefficient(double value, String name) {
        if (!(value >= 0 && value < 1)) {
            throw Checks.unexpected(name, "at least 0 and below 1", value);
        }
    }
}
