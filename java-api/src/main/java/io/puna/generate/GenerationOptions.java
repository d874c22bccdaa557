package io.puna.generate;

import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * How a text is continued. Immutable; {@link #defaults()} takes the most probable token each time, {@link #builder()} changes that.
 *
 * <p>The next token is chosen from the model's logits in this order: {@link #logitBias()}, {@link #logitsHook()}, repetition,
 * presence and frequency penalties, temperature, top-k, top-p, min-p, and a draw by {@link #seed()}. The same seed and options give
 * the same text whatever the number of threads.
 */
public final class GenerationOptions {
    private static final GenerationOptions DEFAULTS = builder().build();

    private final int maxTokens;
    private final float temperature;
    private final int topK;
    private final float topP;
    private final float minP;
    private final float repetitionPenalty;
    private final float presencePenalty;
    private final float frequencyPenalty;
    private final Map<Integer, Float> logitBias;
    private final long seed;
    private final List<String> stop;
    private final boolean ignoreEos;
    private final int logprobs;
    private final @Nullable LogitsHook logitsHook;
    private final @Nullable PromptListener promptListener;

    private GenerationOptions(Builder builder) {
        maxTokens = builder.maxTokens;
        temperature = builder.temperature;
        topK = builder.topK;
        topP = builder.topP;
        minP = builder.minP;
        repetitionPenalty = builder.repetitionPenalty;
        presencePenalty = builder.presencePenalty;
        frequencyPenalty = builder.frequencyPenalty;
        logitBias = builder.logitBias;
        seed = builder.seed;
        stop = builder.stop;
        ignoreEos = builder.ignoreEos;
        logprobs = builder.logprobs;
        logitsHook = builder.logitsHook;
        promptListener = builder.promptListener;
    }

    /** {@return up to 256 tokens, the most probable each time} */
    public static GenerationOptions defaults() {
        return DEFAULTS;
    }

    /** {@return a builder of the defaults} */
    public static Builder builder() {
        return new Builder();
    }

    /** {@return a builder of these options} */
    public Builder toBuilder() {
        Builder builder = new Builder();
        builder.maxTokens = maxTokens;
        builder.temperature = temperature;
        builder.topK = topK;
        builder.topP = topP;
        builder.minP = minP;
        builder.repetitionPenalty = repetitionPenalty;
        builder.presencePenalty = presencePenalty;
        builder.frequencyPenalty = frequencyPenalty;
        builder.logitBias = logitBias;
        builder.seed = seed;
        builder.stop = stop;
        builder.ignoreEos = ignoreEos;
        builder.logprobs = logprobs;
        builder.logitsHook = logitsHook;
        builder.promptListener = promptListener;
        return builder;
    }

    /** {@return the most tokens to generate} */
    public int maxTokens() {
        return maxTokens;
    }

    /** {@return what logits are divided by; 0 takes the most probable token, ties the lowest id} */
    public float temperature() {
        return temperature;
    }

    /** {@return how many of the most probable tokens may be drawn, 0 for all} */
    public int topK() {
        return topK;
    }

    /** {@return the probability that the tokens which may be drawn make up, the most probable first, 1 for all} */
    public float topP() {
        return topP;
    }

    /** {@return the share of the most probable token's probability that a token must have to be drawn, 0 for all} */
    public float minP() {
        return minP;
    }

    /** {@return what positive logits of tokens in prompt or text are divided, negative ones multiplied by; 1 for none} */
    public float repetitionPenalty() {
        return repetitionPenalty;
    }

    /** {@return what is taken from the logit of a token that was generated before} */
    public float presencePenalty() {
        return presencePenalty;
    }

    /** {@return what is taken from a token's logit for each time that it was generated} */
    public float frequencyPenalty() {
        return frequencyPenalty;
    }

    /** {@return what is added to the logits of some ids} */
    public Map<Integer, Float> logitBias() {
        return logitBias;
    }

    /** {@return where the draws start} */
    public long seed() {
        return seed;
    }

    /** {@return strings that end the text wherever they come up, across tokens too; they are left out of it} */
    public List<String> stop() {
        return stop;
    }

    /** {@return whether an end-of-text token is a token like any other} */
    public boolean ignoreEos() {
        return ignoreEos;
    }

    /** {@return how many of the most probable tokens to report beside each token's log-probability, -1 to report none at all} */
    public int logprobs() {
        return logprobs;
    }

    /** {@return what changes the logits, or null} */
    public @Nullable LogitsHook logitsHook() {
        return logitsHook;
    }

    /** {@return what follows the computation of the prompt, or null} */
    public @Nullable PromptListener promptListener() {
        return promptListener;
    }

    /** Collects options; each is checked when it is set. Not for several threads. */
    public static final class Builder {
        private int maxTokens = 256;
        private float temperature;
        private int topK;
        private float topP = 1;
        private float minP;
        private float repetitionPenalty = 1;
        private float presencePenalty;
        private float frequencyPenalty;
        private Map<Integer, Float> logitBias = Map.of();
        private long seed;
        private List<String> stop = List.of();
        private boolean ignoreEos;
        private int logprobs = -1;
        private @Nullable LogitsHook logitsHook;
        private @Nullable PromptListener promptListener;

        private Builder() {
        }

        /** Sets {@link GenerationOptions#maxTokens()}, at least 1; 256 unless set. */
        public Builder maxTokens(int maxTokens) {
            require(maxTokens >= 1, "maxTokens", "1 or more", maxTokens);
            this.maxTokens = maxTokens;
            return this;
        }

        /** Sets {@link GenerationOptions#temperature()}, 0 or more; 0 unless set. */
        public Builder temperature(double temperature) {
            require(temperature >= 0 && temperature <= 1e6, "temperature", "0 or more", temperature);
            this.temperature = (float) temperature;
            return this;
        }

        /** Sets {@link GenerationOptions#topK()}, 0 or more; 0 unless set. */
        public Builder topK(int topK) {
            require(topK >= 0, "topK", "0 or more", topK);
            this.topK = topK;
            return this;
        }

        /** Sets {@link GenerationOptions#topP()}, above 0 and at most 1; 1 unless set. */
        public Builder topP(double topP) {
            require(topP > 0 && topP <= 1, "topP", "above 0 and at most 1", topP);
            this.topP = (float) topP;
            return this;
        }

        /** Sets {@link GenerationOptions#minP()}, from 0 to 1; 0 unless set. */
        public Builder minP(double minP) {
            require(minP >= 0 && minP <= 1, "minP", "from 0 to 1", minP);
            this.minP = (float) minP;
            return this;
        }

        /** Sets {@link GenerationOptions#repetitionPenalty()}, above 0; 1 unless set. */
        public Builder repetitionPenalty(double penalty) {
            require(penalty > 0 && penalty <= 1e6, "repetitionPenalty", "above 0", penalty);
            this.repetitionPenalty = (float) penalty;
            return this;
        }

        /** Sets {@link GenerationOptions#presencePenalty()}; 0 unless set. */
        public Builder presencePenalty(double penalty) {
            require(Math.abs(penalty) <= 1e6, "presencePenalty", "a finite number", penalty);
            this.presencePenalty = (float) penalty;
            return this;
        }

        /** Sets {@link GenerationOptions#frequencyPenalty()}; 0 unless set. */
        public Builder frequencyPenalty(double penalty) {
            require(Math.abs(penalty) <= 1e6, "frequencyPenalty", "a finite number", penalty);
            this.frequencyPenalty = (float) penalty;
            return this;
        }

        /**
         * Sets {@link GenerationOptions#logitBias()}; negative infinity forbids a token. Ids are checked against the vocabulary when
         * a generation begins.
         */
        public Builder logitBias(Map<Integer, Float> bias) {
            bias.forEach((id, value) -> require(id >= 0 && !value.isNaN() && value != Float.POSITIVE_INFINITY, "logitBias",
                    "ids of 0 or more with finite numbers or -Infinity", id + "=" + value));
            this.logitBias = Map.copyOf(bias);
            return this;
        }

        /** Sets {@link GenerationOptions#seed()}; 0 unless set. */
        public Builder seed(long seed) {
            this.seed = seed;
            return this;
        }

        /** Sets {@link GenerationOptions#stop()}, none of them empty; none unless set. */
        public Builder stop(List<String> stop) {
            stop.forEach(text -> require(!text.isEmpty(), "stop", "strings that are not empty", "\"\""));
            this.stop = List.copyOf(stop);
            return this;
        }

        /** Sets {@link GenerationOptions#stop()}, none of them empty. */
        public Builder stop(String... stop) {
            return stop(List.of(stop));
        }

        /** Sets {@link GenerationOptions#ignoreEos()}; false unless set. */
        public Builder ignoreEos(boolean ignoreEos) {
            this.ignoreEos = ignoreEos;
            return this;
        }

        /** Sets {@link GenerationOptions#logprobs()}, 0 or more, or -1 for no report; -1 unless set. */
        public Builder logprobs(int top) {
            require(top >= -1, "logprobs", "-1 or more", top);
            this.logprobs = top;
            return this;
        }

        /** Sets {@link GenerationOptions#logitsHook()}. */
        public Builder logitsHook(LogitsHook hook) {
            this.logitsHook = Objects.requireNonNull(hook, "hook");
            return this;
        }

        /** Sets {@link GenerationOptions#promptListener()}. */
        public Builder promptListener(PromptListener listener) {
            this.promptListener = Objects.requireNonNull(listener, "listener");
            return this;
        }

        /** {@return the options} */
        public GenerationOptions build() {
            return new GenerationOptions(this);
        }

        private static void require(boolean holds, String name, String expected, Object got) {
            if (!holds) {
                throw new IllegalArgumentException(name + ": expected " + expected + ", got " + got);
            }
        }
    }
}
