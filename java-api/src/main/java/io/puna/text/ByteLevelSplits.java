package io.puna.text;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;

/** The ways of cutting a text before byte-level BPE, and what is added and looked up by the tokenizers that have them. */
enum ByteLevelSplits {
    GPT2(false, false) {
        @Override
        void steps(ArrayNode steps) {
            split(steps, SplitPatterns.GPT2);
        }
    },
    /** A GGUF file that does not say how: llama.cpp's guess. */
    DEFAULT(false, false) {
        @Override
        void steps(ArrayNode steps) {
            split(steps, SplitPatterns.DEFAULT_PUNCTUATION);
            split(steps, SplitPatterns.GPT2);
            split(steps, SplitPatterns.DEFAULT_DIGITS);
            split(steps, SplitPatterns.DEFAULT_THREE_DIGITS);
        }
    },
    SMOLLM(false, false) {
        @Override
        void steps(ArrayNode steps) {
            digits(steps);
            split(steps, SplitPatterns.GPT2);
        }
    },
    LLAMA3(true, true) {
        @Override
        void steps(ArrayNode steps) {
            split(steps, SplitPatterns.LLAMA3);
        }
    },
    /** Llama 3's cuts, but every word is merged. */
    SMAUG(false, false) {
        @Override
        void steps(ArrayNode steps) {
            split(steps, SplitPatterns.LLAMA3);
        }
    },
    DEEPSEEK_LLM(false, false) {
        @Override
        void steps(ArrayNode steps) {
            split(steps, SplitPatterns.LINE_BREAK);
            split(steps, SplitPatterns.DEEPSEEK_LETTERS);
            split(steps, SplitPatterns.DEEPSEEK_PUNCTUATION);
            split(steps, SplitPatterns.TRAILING_SPACES);
            split(steps, SplitPatterns.DEEPSEEK_CJK);
            split(steps, SplitPatterns.DEFAULT_DIGITS);
        }
    },
    DEEPSEEK_CODER(false, false) {
        @Override
        void steps(ArrayNode steps) {
            split(steps, SplitPatterns.LINE_BREAK);
            split(steps, SplitPatterns.SPACE_LETTERS);
            split(steps, SplitPatterns.SPACE_PUNCTUATION);
            split(steps, SplitPatterns.DEEPSEEK_CJK);
            digits(steps);
        }
    },
    SEED_CODER(false, false) {
        @Override
        void steps(ArrayNode steps) {
            split(steps, SplitPatterns.SEED_CODER);
        }
    },
    VIKING(false, false) {
        @Override
        void steps(ArrayNode steps) {
            split(steps, SplitPatterns.VIKING);
            digits(steps);
        }
    },
    QWEN2(false, false) {
        @Override
        void steps(ArrayNode steps) {
            split(steps, SplitPatterns.QWEN2);
        }
    },
    TEKKEN(true, true) {
        @Override
        void steps(ArrayNode steps) {
            split(steps, SplitPatterns.TEKKEN);
        }
    };

    /** Whether a word that is a piece is taken as that piece, however its merges would go. */
    final boolean ignoreMerges;
    /** Whether a text is given a beginning where the file does not say. */
    final boolean addBos;

    ByteLevelSplits(boolean ignoreMerges, boolean addBos) {
        this.ignoreMerges = ignoreMerges;
        this.addBos = addBos;
    }

    abstract void steps(ArrayNode steps);

    /** Gives a tokenizer.json this way of cutting, and byte-level BPE's decoder. */
    void describe(ObjectNode document) {
        ArrayNode steps = document.putObject("pre_tokenizer").put("type", "Sequence").putArray("pretokenizers");
        steps(steps);
        byteLevel(steps.addObject());
        byteLevel(document.putObject("decoder"));
    }

    private static void byteLevel(ObjectNode step) {
        step.put("type", "ByteLevel").put("add_prefix_space", false).put("trim_offsets", false).put("use_regex", false);
    }

    private static void digits(ArrayNode steps) {
        steps.addObject().put("type", "Digits").put("individual_digits", true);
    }

    private static void split(ArrayNode steps, String pattern) {
        ObjectNode step = steps.addObject().put("type", "Split").put("behavior", "Isolated").put("invert", false);
        step.putObject("pattern").put("Regex", pattern);
    }
}
