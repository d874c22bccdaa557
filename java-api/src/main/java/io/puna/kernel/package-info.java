/**
 * The operations of LLaMA-family models on a program's own off-heap memory: one checked call each into the native kernels, over a
 * whole batch of rows. No model is needed to use them.
 *
 * <p><b>Shapes.</b> Letters are those of {@code native/include/puna.h}: B sequences, T tokens of a sequence, S key/value rows, C
 * model width, NH query heads, NKV key/value heads, HD head width, FF feed-forward width, V vocabulary, L layers, N and K rows and
 * columns of a weight, and <i>rows</i> all tokens of a step together. All dimensions of a tensor but the innermost count as rows,
 * so (B, T, C) serves where (rows, C) is asked for. Zero rows are allowed and do nothing. A tensor must be contiguous unless a row
 * stride is allowed for it.
 *
 * <p><b>Outputs</b> are overwritten unless a method says otherwise, must be writable, and may not share an element with another
 * argument except where aliasing is allowed. After an {@link java.lang.IllegalArgumentException} or
 * {@link java.lang.UnsupportedOperationException} they are untouched; after a {@link io.puna.tensor.DeviceException} they are
 * unspecified. Gradients of activations are overwritten unless a call asks to accumulate; gradients of parameters accumulate.
 *
 * <p><b>Numbers.</b> Sums are accumulated in F32 in an order that depends on the operation's own dimension alone: the same input
 * gives the same bits whatever the number of threads or of rows beside it.
 *
 * <p><b>Exceptions</b> of every operation, before any memory is touched: {@link java.lang.NullPointerException} for a missing
 * argument; {@link java.lang.IllegalArgumentException} for a wrong type, shape, stride, value or overlap, naming the argument, what
 * was expected and what came; {@link java.lang.IllegalStateException} for a closed device, workspace or cache, for memory whose
 * arena is closed, and for a workspace that another call is using; {@link java.lang.WrongThreadException} for memory confined to
 * another thread; {@link java.lang.UnsupportedOperationException} for what the device cannot do; and
 * {@link io.puna.tensor.DeviceException} when the device fails.
 *
 * <p><b>Threads.</b> Operations may be called from any thread. A {@link io.puna.kernel.Workspace} serves one call at a time and a
 * {@link io.puna.kernel.KvCache} one step at a time; a second use at once is refused. Memory, devices and caches may be closed by
 * another thread while a call runs: closing waits for the call, or (an arena of the program's own) throws.
 *
 * <p><b>Nulls.</b> No argument may be null unless its type says {@code @Nullable}.
 */
@NullMarked
package io.puna.kernel;

import org.jspecify.annotations.NullMarked;
