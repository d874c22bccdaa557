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

    /**
     * The backward pass: {@code dtable[ids[r], :] += dy[r, :]}, in the order of r, also where an id repeats.
     *
     * @param device what computes
     * @param dtable (V, C) F32, accumulated into
     * @param ids    (rows) I32, each at least 0 and below V
     * @param dy     (rows, C) F32
     */
    public static void backward(Device device, Tensor dtable, Tensor ids, Tensor dy) {
        MemorySegment context = Checks.context(device);
        Checks.input(ids, "ids", DType.I32);
        Checks.contiguous(ids, "ids");
        Checks.input(dy, "dy", DType.F32);
        Checks.contiguous(dy, "dy");
        Checks.output(dtable, "dtable", DType.F32);
        Checks.contiguous(dtable, "dtable");
        long rows = ids.shape().elements();
        long columns = dtable.shape().columns();
        Checks.shape(dy, "dy", rows, columns);
        Checks.apart(dtable, "dtable", ids, "ids");
        Checks.apart(dtable, "dtable", dy, "dy");
        Device.check(puna_h.puna_embedding_backward(context, dtable.segment(), ids.segment(), dy.segment(), rows,
                dtable.shape().rows(), columns));
    }
}
