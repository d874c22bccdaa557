/**
 * Checkpoints on disk: Hugging Face directories with safetensors, and GGUF files, opened as read-only views of a memory map.
 *
 * <p>{@link io.puna.format.Checkpoint#open} recognises which it is. Nothing is copied or converted: a tensor is a view of the
 * mapped file, so opening costs what its header costs. A file is taken as untrusted: every count, length, offset and size is
 * checked against the file before it is used, and a {@link io.puna.format.CheckpointException} names the file, what was expected
 * and what came. A header takes at most 100 MB, 65,536 tensors and, in GGUF,
 * 65,536 keys and 4,194,304 array elements; real
 * models stay a hundredfold below, and memory for a hostile one stays bounded.
 *
 * <p>{@link io.puna.format.GgufWriter} writes GGUF, streamed.
 *
 * <p><b>Ownership.</b> A checkpoint owns one shared arena with the maps of all its files; its tensors borrow from it. Closing
 * unmaps: it waits for native calls in flight on a tensor, and later use of a tensor throws {@link IllegalStateException}. A file
 * must not be shortened while it is open; the operating system then faults whoever reads past its end.
 *
 * <p><b>Threads.</b> Checkpoints are immutable but for {@code close}, which may come from any thread.
 *
 * <p><b>Nulls.</b> No parameter or result is null unless it says so.
 */
@NullMarked
package io.puna.format;

import org.jspecify.annotations.NullMarked;
