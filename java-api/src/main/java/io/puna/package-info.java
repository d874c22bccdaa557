/**
 * LLaMA-family models in the JVM: {@link io.puna.LlamaModel} opens one, and what a first program needs is here.
 *
 * <p>No parameter or result is null unless its documentation says so.
 */
@NullMarked
package io.puna;

import org.jspecify.annotations.NullMarked;
