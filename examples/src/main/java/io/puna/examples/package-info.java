/** Programs on Puna, and nothing that another program would build on. */
package io.puna.examples;
