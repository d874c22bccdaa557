package io.puna.kernel;

import io.puna.bindings.puna_h;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Causal attention with grouped queries on plain arrays; {@link KvStep} has it against caches. Query t of a sequence stands at
 * position S - T + t and sees the keys j with {@code position - window < j <= position} (window 0: all up to its position). Query
 * head h reads key/value head h / (NH / NKV). With {@code s[j] = scale · q · k[j]} over the visible j:
 * {@code y = sum over j of softmax(s)[j] · v[j]}, {@code lse = log(sum over j of exp(s[j]))}. Scores are not stored and hidden ones
 * never computed.
 */
public final class Attention {
    private Attention() {
    }

    /**
     * Attends.
     *
     * @param device         what computes
     * @param workspace      scratch, busy until the call returns
     * @param y              (B · T, NH · HD) F32 of any row stride, overwritten
     * @param lse            (B, NH, T) F32, overwritten, for a backward pass; null when it is not wanted
     * @param q              (B · T, NH · HD) F32 of any row stride
     * @param k              (B · S, NKV · HD) F32 of any row stride, S at least T
     * @param v              as k, with its row stride
     * @param sequences      B, at least 1
     * @param heads          NH, a multiple of NKV
     * @param keyValueHeads  NKV
     * @param headWidth      HD
     * @param window         keys a query sees, its own included; 0 for all
     * @param scale          finite, usually 1 / sqrt(HD)
     */
    public static void forward(Device device, Workspace workspace, Tensor y, @Nullable Tensor lse, Tensor q, Tensor k, Tensor v,
                               long sequences, long heads, long keyValueHeads, long headWidth, long window, float scale) {
        MemorySegment context = Checks.context(device);
        Objects.requireNonNull(workspace, "workspace");
        Checks.range(sequences, "sequences", 1, Long.MAX_VALUE);
        long width = Checks.width(heads, "heads", headWidth);
        long keyValueWidth = Checks.width(keyValueHeads, "keyValueHeads", headWidth);
        grouped(heads, keyValueHeads);
        Checks.range(window, "window", 0, Long.MAX_VALUE);
        Checks.finite(scale, "scale");

        Checks.input(q, "q", DType.F32);
        Checks.columns(q, "q", width);
        long tokens = perSequence(q, "q", sequences);
        Checks.input(k, "k", DType.F32);
        Checks.columns(k, "k", keyValueWidth);
        long keys = perSequence(k, "k", sequences);
        if (keys < tokens) {
            throw Checks.unexpected("k", "at least as many rows as q, " + q.shape().rows(), k);
        }
        Checks.input(v, "v", DType.F32);
        Checks.shape(v, "v", k.shape().rows(), keyValueWidth);
        Checks.sameStride(v, "v", k, "k");
        Checks.output(y, "y", DType.F32);
        Checks.shape(y, "y", q.shape().rows(), width);
        Checks.apart(y, "y", q, "q");
        Checks.apart(y, "y", k, "k");
        Checks.apart(y, "y", v, "v");
        if (lse != null) {
            Checks.output(lse, "lse", DType.F32);
            Checks.contiguous(lse, "lse");
            Checks.elements(lse, "lse", q.shape().elements() / headWidth);
            Checks.apart(lse, "lse", y, "y");
            Checks.apart(lse, "lse", q, "q");
            Checks.apart(lse, "lse", k, "k");
            Checks.apart(lse, "lse", v, "v");
        }
        workspace.acquire();
        try {
            Device.check(puna_h.puna_attention_workspace_size(context, heads, keyValueHeads, headWidth, workspace.size()));
            MemorySegment scratch = workspace.scratch();
            Device.check(puna_h.puna_attention_forward(context, y.segment(), y.rowStride(),
                    lse == null ? MemorySegment.NULL : lse.segment(), q.segment(), q.rowStride(), k.segment(), v.segment(),
                    k.rowStride(), sequences, tokens, keys, heads, keyValueHeads, headWidth, window, scale, scratch,
                    scratch.byteSize()));
        } finally {
            workspace.release();
        }
    }

    /**
     * The backward pass. Weights {@code p[j] = exp(s[j] - lse)} are computed again, block by block; with
     * {@code ds[j] = p[j] · (dy · v[j] - dy · y)}: {@code dq = scale · sum over j of ds[j] · k[j]}, and over the rows that see j, of
     * all heads that read it, {@code dk[j] = scale · sum of ds[j] · q}, {@code dv[j] = sum of p[j] · dy}.
     *
     * @param device         what computes
     * @param workspace      scratch, busy until the call returns
     * @param dq             (B · T, NH · HD) F32 of any row stride, overwritten
     * @param dk             (B · S, NKV · HD) F32 of any row stride, overwritten
     * @param dv             as dk, with its row stride, overwritten
     * @param q              (B · T, NH · HD) F32 of any row stride
     * @param k              (B · S, NKV · HD) F32 of any row stride, S at least T
     * @param v              as k, with its row stride
     * @param y              of the forward pass, (B · T, NH · HD) F32 of any row stride
     * @param lse            of the forward pass, (B, NH, T) F32
     * @param dy             (B · T, NH · HD) F32 of any row stride
     * @param sequences      B, at least 1
     * @param heads          NH, a multiple of NKV
     * @param keyValueHeads  NKV
     * @param headWidth      HD
     * @param window         keys a query sees, its own included; 0 for all
     * @param scale          finite, usually 1 / sqrt(HD)
     */
    public static void backward(Device device, Workspace workspace, Tensor dq, Tensor dk, Tensor dv, Tensor q, Tensor k, Tensor v,
                                Tensor y, Tensor lse, Tensor dy, long sequences, long heads, long keyValueHeads, long headWidth,
                                long window, float scale) {
        MemorySegment context = Checks.context(device);
        Objects.requireNonNull(workspace, "workspace");
        Checks.range(sequences, "sequences", 1, Long.MAX_VALUE);
        long width = Checks.width(heads, "heads", headWidth);
        long keyValueWidth = Checks.width(keyValueHeads, "keyValueHeads", headWidth);
        grouped(heads, keyValueHeads);
        Checks.range(window, "window", 0, Long.MAX_VALUE);
        Checks.finite(scale, "scale");

        Checks.input(q, "q", DType.F32);
        Checks.columns(q, "q", width);
        long rows = q.shape().rows();
        long tokens = perSequence(q, "q", sequences);
        Checks.input(k, "k", DType.F32);
        Checks.columns(k, "k", keyValueWidth);
        long keys = perSequence(k, "k", sequences);
        if (keys < tokens) {
            throw Checks.unexpected("k", "at least as many rows as q, " + rows, k);
        }
        Checks.input(v, "v", DType.F32);
        Checks.shape(v, "v", k.shape().rows(), keyValueWidth);
        Checks.sameStride(v, "v", k, "k");
        Checks.input(y, "y", DType.F32);
        Checks.shape(y, "y", rows, width);
        Checks.input(lse, "lse", DType.F32);
        Checks.contiguous(lse, "lse");
        Checks.elements(lse, "lse", q.shape().elements() / headWidth);
        Checks.input(dy, "dy", DType.F32);
        Checks.shape(dy, "dy", rows, width);
        Checks.output(dq, "dq", DType.F32);
        Checks.shape(dq, "dq", rows, width);
        Checks.output(dk, "dk", DType.F32);
        Checks.shape(dk, "dk", k.shape().rows(), keyValueWidth);
        Checks.output(dv, "dv", DType.F32);
        Checks.shape(dv, "dv", k.shape().rows(), keyValueWidth);
        Checks.sameStride(dv, "dv", dk, "dk");
        Checks.apart(dk, "dk", dq, "dq");
        Checks.apart(dv, "dv", dq, "dq");
        Checks.apart(dv, "dv", dk, "dk");
        apartFromInputs(dq, "dq", q, k, v, y, lse, dy);
        apartFromInputs(dk, "dk", q, k, v, y, lse, dy);
        apartFromInputs(dv, "dv", q, k, v, y, lse, dy);
        workspace.acquire();
        try {
            Device.check(puna_h.puna_attention_backward_workspace_size(context, heads, keyValueHeads, headWidth, workspace.size()));
            MemorySegment scratch = workspace.scratch();
            Device.check(puna_h.puna_attention_backward(context, dq.segment(), dq.rowStride(), dk.segment(), dv.segment(),
                    dk.rowStride(), q.segment(), q.rowStride(), k.segment(), v.segment(), k.rowStride(), y.segment(), y.rowStride(),
                    dy.segment(), dy.rowStride(), lse.segment(), sequences, tokens, keys, heads, keyValueHeads, headWidth, window,
                    scale, scratch, scratch.byteSize()));
        } finally {
            workspace.release();
        }
    }

    private static void apartFromInputs(Tensor output, String name, Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse, Tensor dy) {
        Checks.apart(output, name, q, "q");
        Checks.apart(output, name, k, "k");
        Checks.apart(output, name, v, "v");
        Checks.apart(output, name, y, "y");
        Checks.apart(output, name, lse, "lse");
        Checks.apart(output, name, dy, "dy");
    }

    static void grouped(long heads, long keyValueHeads) {
        if (heads < 1 || heads % keyValueHeads != 0) {
            throw Checks.unexpected("heads", "a multiple of the " + keyValueHeads + " key/value heads", heads);
        }
    }

    private static long perSequence(Tensor tensor, String name, long sequences) {
        long rows = tensor.shape().rows();
        if (rows % sequences != 0) {
            throw Checks.unexpected(name, "as many rows for each of " + sequences + " sequences", tensor);
        }
        return rows / sequences;
    }
}
