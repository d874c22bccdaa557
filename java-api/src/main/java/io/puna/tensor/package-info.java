/**
 * Off-heap arrays and the device that works on them.
 *
 * <p><b>Ownership.</b> A {@link io.puna.tensor.Tensor} is a view and owns nothing: its memory belongs to the arena, or the
 * checkpoint, it came from. A {@link io.puna.tensor.Device} owns its native context and threads until it is closed.
 *
 * <p><b>Threads.</b> Everything here is immutable or guarded and may be shared. What a tensor shows is as shared as its memory:
 * nothing orders two threads that write the same elements but the program itself.
 *
 * <p><b>Nulls.</b> No argument may be null and no result is, unless its type says {@code @Nullable}.
 */
@NullMarked
package io.puna.tensor;

import org.jspecify.annotations.NullMarked;
