/**
 * Text generation: options, sampling, sessions and streams of tokens.
 *
 * <p>No parameter or result is null unless its documentation says so. Options, tokens and results are immutable values.
 */
@NullMarked
package io.puna.generate;

import org.jspecify.annotations.NullMarked;
