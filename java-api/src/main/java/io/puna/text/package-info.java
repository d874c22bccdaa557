/**
 * Text to token ids and back.
 *
 * <p>{@link io.puna.text.Tokenizer} reads a Hugging Face {@code tokenizer.json}, a SentencePiece or tiktoken
 * {@code tokenizer.model}, or the vocabulary inside a GGUF file. Whatever the file, it is checked in Java, expressed as one
 * {@code tokenizer.json} document and given to one engine, Hugging Face's tokenizers through DJL's JNI library. Ids become text
 * in Java: a stream of ids decodes to exactly the text that decoding them together gives, and never half a character.
 *
 * <p><b>Nullness:</b> nothing is null unless it says {@code @Nullable}; a null argument is a {@link NullPointerException}.
 *
 * <p><b>Threads:</b> a tokenizer may be used from any thread at once. A {@link io.puna.text.StreamDecoder} is one thread's.
 *
 * <p><b>Ownership:</b> a tokenizer owns native memory until {@link io.puna.text.Tokenizer#close}, which waits for calls in flight;
 * using it afterwards is an {@link IllegalStateException}. It does not keep the file, nor the checkpoint, that it was read from.
 *
 * <p>Nothing here uses the network or writes to a standard stream. The engine's library is unpacked once per user into the
 * cache directory.
 */
@NullMarked
package io.puna.text;

import org.jspecify.annotations.NullMarked;
