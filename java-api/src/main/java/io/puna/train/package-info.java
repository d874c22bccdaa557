/**
 * Training: the backward pass, the optimiser and what feeds them.
 *
 * <p><b>Data.</b> {@link io.puna.train.TokenDatasetWriter} makes shards of tokens of texts, a source at a time;
 * {@link io.puna.train.TokenDataset} maps them, and its {@link io.puna.train.BatchSource} mixes sources by weight, shuffles their
 * documents by a seed and packs them into sequences. Its state is a line of text that takes it up again exactly.
 *
 * <p><b>Nulls.</b> No argument may be null and no result is, unless its type says {@code @Nullable}.
 */
@NullMarked
package io.puna.train;

import org.jspecify.annotations.NullMarked;
