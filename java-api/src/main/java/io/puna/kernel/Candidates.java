package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * What a sampler has to know of a row of logits: its n largest elements, and what all of them weigh. The largest comes first, among
 * equals the lowest index, NaN last.
 */
public final class Candidates {
    /** The most elements of a row that can be asked for. */
    public static final int MAX = puna_h.PUNA_CANDIDATES_MAX();
    /** In how many parts a row's weights are summed: part p are its elements from {@code p * ceil(V / PARTS)} on, as many. */
    public static final int PARTS = puna_h.PUNA_CANDIDATES_PARTS();

    private Candidates() {
    }

    /**
     * Finds the largest elements, and sums {@code exp((x[r, v] - values[r, 0]) / temperature)} over each part of a row. The sums are
     * exact to 1e-12 of themselves.
     *
     * @param device      what computes
     * @param workspace   scratch, busy until the call returns
     * @param values      (rows, n) F32 in the host's memory, overwritten; n from 1 to V, at most {@link #MAX}
     * @param ids         (rows, n) I32, overwritten with the elements' indices
     * @param sums        (rows, {@link #PARTS}), overwritten; null when they are not wanted
     * @param x           (rows, V) F32, V below 2^31
     * @param temperature finite and above 0; not looked at when {@code sums} is null
     */
    public static void forward(Device device, Workspace workspace, Tensor values, Tensor ids, double @Nullable [] sums, Tensor x,
            double temperature) {
        MemorySegment context = Checks.context(device);
        Objects.requireNonNull(workspace, "workspace");
        Checks.input(x, "x", DType.F32);
        Checks.contiguous(x, "x");
        long rows = x.shape().rows();
        long columns = x.shape().columns();
        Checks.range(columns, "columns of x", 1, Integer.MAX_VALUE);
        Checks.output(values, "values", DType.F32);
        Checks.contiguous(values, "values");
        long n = values.shape().columns();
        if (n < 1 || n > Math.min(columns, MAX)) {
            throw Checks.unexpected("values", "rows of 1 to " + Math.min(columns, MAX), values);
        }
        Checks.shape(values, "values", rows, n);
        Checks.output(ids, "ids", DType.I32);
        Checks.contiguous(ids, "ids");
        Checks.shape(ids, "ids", rows, n);
        Checks.apart(values, "values", x, "x");
        Checks.apart(ids, "ids", x, "x");
        Checks.apart(values, "values", ids, "ids");
        if (sums != null) {
            if (sums.length != rows * PARTS) {
                throw Checks.unexpected("sums", rows + " rows of " + PARTS, "an array of " + sums.length);
            }
            if (!(temperature > 0 && temperature < Double.POSITIVE_INFINITY)) {
                throw Checks.unexpected("temperature", "a finite number above 0", temperature);
            }
        }
        workspace.acquire();
        try {
            MemorySegment sumsThere = MemorySegment.NULL;
            if (sums != null) {
                workspace.size().set(ValueLayout.JAVA_LONG, 0, (long) sums.length * Double.BYTES);
                sumsThere = workspace.scratch();
            }
            Device.check(puna_h.puna_candidates_forward(context, values.segment(), ids.segment(), sumsThere, x.segment(), rows,
                    columns, n, temperature));
            if (sums != null) {
                MemorySegment.copy(sumsThere, ValueLayout.JAVA_DOUBLE, 0, sums, 0, sums.length);
            }
        } finally {
            workspace.release();
        }
    }
}
