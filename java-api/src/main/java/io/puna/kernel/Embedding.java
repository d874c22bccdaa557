package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/** Rows of a table by token id: {@code y[r, :] = table[ids[r], :]}, decoded to F32. */
public final class Embedding {
    private Embedding() {
    }

    /**
     * Looks up.
     *
     * @param device what computes
     * @param y      (rows, C) F32, overwritten
     * @param table  (V, C) of any type a weight can have
     * @param ids    (rows) I32, each at least 0 and below V
     */
    public static void forward(Device device, Tensor y, Tensor table, Tensor ids) {
        MemorySegment context = Checks.context(device);
        Checks.weight(table, "table");
        Checks.input(ids, "ids", DType.I32);
        Checks.contiguous(ids, "ids");
        Checks.output(y, "y", DType.F32);
        Checks.contiguous(y, "y");
        long rows = ids.shape().elements();
        long columns = table.shape().columns();
        Checks.shape(y, "y", rows, columns);
        Checks.apart(y, "y", table, "table");
        Checks.apart(y, "y", ids, "ids");
        Device.check(puna_h.puna_embedding_forward(context, y.segment(), table.segment(), table.dtype().code(), ids.segment(),
                rows, table.shape().rows(), columns));
    }
}
