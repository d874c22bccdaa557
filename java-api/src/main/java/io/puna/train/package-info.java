/**
 * Training: the backward pass, the optimiser and what feeds them.
 *
 * <p><b>Nulls.</b> No argument may be null and no result is, unless its type says {@code @Nullable}.
 */
@NullMarked
package io.puna.train;

import org.jspecify.annotations.NullMarked;
