/** Programs on Puna: the {@code puna} command line and a service. No parameter or result is null unless it says so. */
@NullMarked
package io.puna.examples;

import org.jspecify.annotations.NullMarked;
