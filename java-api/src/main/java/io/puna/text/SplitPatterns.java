package io.puna.text;

import java.util.Set;

/**
 * The regular expressions with which tokenizers of the LLaMA family cut a text before its pieces are looked up. A vocabulary and
 * its pattern belong together: they are data, as the pieces are.
 *
 * <p>The engine's matcher gives up, and the process with it, after ten million steps back. On none of these does a match take
 * more steps than the text has characters, a small factor aside, which {@link Tokenizer#MAX_TEXT} allows for; of a pattern out of
 * a file {@link PatternCost} says how many it takes, or that nobody knows.
 */
final class SplitPatterns {
    static final String GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    static final String LLAMA3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
            + "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    /** Llama 3's, but for digits one by one. */
    static final String QWEN2 = LLAMA3.replace("\\p{N}{1,3}", "\\p{N}");
    /** Mistral's Tekken: a word ends where lower case is followed by upper case. */
    static final String TEKKEN = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
            + "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
            + "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    /** The splits of a GGUF file whose {@code tokenizer.ggml.pre} is "default", one after the other. */
    static final String DEFAULT_PUNCTUATION = "[\\p{P}\\$\\+<=>\\^~\\|]+";
    static final String DEFAULT_DIGITS = "\\p{N}+";
    static final String DEFAULT_THREE_DIGITS = "[0-9][0-9][0-9]";

    static final String LINE_BREAK = "[\\r\\n]";
    /** DeepSeek LLM's list of letters: the cased ones of the Unicode version of its day, those of some scripts and symbols left out. */
    static final String DEEPSEEK_LETTERS = "\\s?[\\p{Lu}\\p{Ll}\\p{Lt}&&[^\\u0560-\\u0588\\u10c7-\\u10ff\\u1c80-\\u1c8a\\u2d00-\\u2d2d"
            + "\\ua790-\\ua7ff\\uab30-\\uab68\\x{10570}-\\x{105bc}\\x{10d50}-\\x{10d85}\\x{16e40}-\\x{16eff}\\x{1d400}-\\x{1d7cb}"
            + "\\x{1df00}-\\x{1df2a}]]+";
    static final String DEEPSEEK_PUNCTUATION = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+";
    static final String TRAILING_SPACES = "\\s+$";
    static final String DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";
    static final String SPACE_LETTERS = "\\s?\\p{L}+";
    static final String SPACE_PUNCTUATION = "\\s?\\p{P}+";
    /** Llama 3's, but for digits one by one and punctuation that line breaks do not follow. */
    static final String SEED_CODER = LLAMA3.replace("\\p{N}{1,3}", "\\p{N}").replace("[^\\s\\p{L}\\p{N}]+[\\r\\n]*", "[^\\s\\p{L}\\p{N}]+");
    static final String VIKING = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+";

    static final String LEADING_SPACES = "\\A +";
    static final String REPEATED_SPACES = " {2,}";
    static final String TRAILING_SPACE_SYMBOLS = "\u2581+\\z";

    static final Set<String> KNOWN = Set.of(GPT2, LLAMA3, QWEN2, TEKKEN, DEFAULT_PUNCTUATION, DEFAULT_DIGITS, DEFAULT_THREE_DIGITS,
            SEED_CODER, DEEPSEEK_LETTERS, LEADING_SPACES, REPEATED_SPACES, TRAILING_SPACE_SYMBOLS);

    private SplitPatterns() {
    }
}
