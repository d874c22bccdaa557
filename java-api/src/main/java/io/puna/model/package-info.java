/**
 * The LLaMA graph: its configuration, its weights as views of a checkpoint, and one forward step over many sequences.
 *
 * <p>No parameter or result is null unless its documentation says so. Configurations and weights are immutable and may be shared
 * by any number of threads; what owns memory says who closes it.
 */
@NullMarked
package io.puna.model;

import org.jspecify.annotations.NullMarked;
