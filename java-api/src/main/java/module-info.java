/** LLaMA-family models and their kernels for the JVM. */
module io.puna {
    requires io.puna.bindings;
    requires com.fasterxml.jackson.databind;
    requires ai.djl.tokenizers;
    requires static org.jspecify;

    exports io.puna;
    exports io.puna.format;
    exports io.puna.generate;
    exports io.puna.kernel;
    exports io.puna.model;
    exports io.puna.tensor;
    exports io.puna.text;
    exports io.puna.train;
}
