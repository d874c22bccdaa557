/** Programs on Puna. */
package io.puna.examples;
