package io.puna.text;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/** Reads the vocabulary among a GGUF file's key-values: {@code tokenizer.ggml.*}. */
final class GgufVocabulary {
    private static final String PREFIX = "tokenizer.ggml.";

    private final String origin;
    private final Map<String, Object> metadata;

    private GgufVocabulary(String origin, Map<String, Object> metadata) {
        this.origin = origin;
        this.metadata = metadata;
    }

    /**
     * Reads a vocabulary.
     *
     * @throws TokenizerException if there is none, if it is of another kind than "llama" (SentencePiece) or "gpt2" (byte-level BPE),
     *                            or if its parts do not fit together
     */
    static TokenizerDefinition read(String origin, Map<String, Object> metadata) throws TokenizerException {
        return new GgufVocabulary(origin, metadata).read();
    }

    private TokenizerDefinition read() throws TokenizerException {
        String kind = value("model", String.class);
        if (kind == null) {
            throw new TokenizerException(origin + ": expected a vocabulary (" + PREFIX + "model), got none");
        }
        return switch (kind) {
            case "llama" -> sentencePiece();
            case "gpt2" -> byteLevel();
            default -> throw refuse("model", "\"llama\" or \"gpt2\"", TokenizerJson.quote(kind));
        };
    }

    private TokenizerDefinition sentencePiece() throws TokenizerException {
        List<String> pieces = pieces();
        List<?> scores = list("scores", pieces.size(), "one score per token");
        float[] score = new float[pieces.size()];
        for (int i = 0; i < score.length; i++) {
            if (!(scores.get(i) instanceof Number number)) {
                throw refuse("scores[" + i + "]", "a number", String.valueOf(scores.get(i)));
            }
            score[i] = number.floatValue();
        }
        boolean prefix = flag("add_space_prefix", true);
        SentencePieceVocabulary vocabulary = new SentencePieceVocabulary(origin, pieces, score, types(pieces.size()), prefix, false);
        OptionalInt bos = id("bos_token_id", pieces.size(), 1);
        OptionalInt eos = id("eos_token_id", pieces.size(), 2);
        return finish(vocabulary.document(flag("add_bos_token", true) ? bos : OptionalInt.empty(),
                flag("add_eos_token", false) ? eos : OptionalInt.empty()), pieces, bos, eos);
    }

    private TokenizerDefinition byteLevel() throws TokenizerException {
        List<String> pieces = pieces();
        int[] types = types(pieces.size());
        ByteLevelSplits splits = splits();
        ObjectNode document = Json.object();
        ObjectNode model = document.putObject("model");
        model.put("type", "BPE");
        model.put("ignore_merges", splits.ignoreMerges);
        ObjectNode vocabulary = model.putObject("vocab");
        ArrayNode added = document.putArray("added_tokens");
        for (int id = 0; id < types.length; id++) {
            String piece = pieces.get(id);
            if (vocabulary.has(piece)) {
                throw refuse("tokens", "every piece once", TokenizerJson.quote(piece) + " as " + vocabulary.get(piece) + " and " + id);
            }
            vocabulary.put(piece, id);
            if (types[id] == SentencePieceVocabulary.CONTROL || types[id] == SentencePieceVocabulary.USER_DEFINED) {
                SentencePieceVocabulary.addToken(added, id, piece, types[id] == SentencePieceVocabulary.CONTROL);
            }
        }
        ArrayNode merges = model.putArray("merges");
        for (Object merge : list("merges", -1, "an array of merges")) {
            if (!(merge instanceof String text)) {
                throw refuse("merges[" + merges.size() + "]", "a text", String.valueOf(merge));
            }
            merges.add(text);
        }
        splits.describe(document);
        OptionalInt bos = id("bos_token_id", pieces.size(), -1);
        OptionalInt eos = id("eos_token_id", pieces.size(), -1);
        SentencePieceVocabulary.surround(document, pieces, flag("add_bos_token", splits.addBos) ? bos : OptionalInt.empty(),
                flag("add_eos_token", false) ? eos : OptionalInt.empty());
        return finish(document, pieces, bos, eos);
    }

    private ByteLevelSplits splits() throws TokenizerException {
        String name = value("pre", String.class);
        return switch (name == null ? "default" : name) {
            case "default" -> ByteLevelSplits.DEFAULT;
            case "gpt-2", "trillion" -> ByteLevelSplits.GPT2;
            case "llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0" -> ByteLevelSplits.LLAMA3;
            case "smaug-bpe" -> ByteLevelSplits.SMAUG;
            case "smollm", "smollm2", "refact", "starcoder", "codeshell", "minerva-7b" -> ByteLevelSplits.SMOLLM;
            case "qwen2", "megrez" -> ByteLevelSplits.QWEN2;
            case "tekken" -> ByteLevelSplits.TEKKEN;
            case "deepseek-llm" -> ByteLevelSplits.DEEPSEEK_LLM;
            case "deepseek-coder" -> ByteLevelSplits.DEEPSEEK_CODER;
            case "seed-coder" -> ByteLevelSplits.SEED_CODER;
            case "viking" -> ByteLevelSplits.VIKING;
            default -> throw refuse("pre", "one that models of the LLaMA family have (default, gpt-2, llama-bpe, smaug-bpe, smollm, refact, "
                    + "tekken, qwen2, deepseek-llm, deepseek-coder, seed-coder, viking and others of the same cuts)",
                    TokenizerJson.quote(name));
        };
    }

    private TokenizerDefinition finish(ObjectNode document, List<String> pieces, OptionalInt bos, OptionalInt eos)
            throws TokenizerException {
        Set<Integer> eosIds = new LinkedHashSet<>();
        eos.ifPresent(eosIds::add);
        for (String key : List.of("eot_token_id", "eom_token_id")) {
            id(key, pieces.size(), -1).ifPresent(eosIds::add);
        }
        // Files of chat models from before those keys name only one end.
        Set<String> ends = Set.of("<|eot_id|>", "<|eom_id|>", "<|im_end|>");
        return TokenizerJson.check(origin, document, new TokenizerSettings(null, bos.isPresent() ? bos.getAsInt() : null, ends, eosIds,
                null, null, List.of()));
    }

    private List<String> pieces() throws TokenizerException {
        List<?> tokens = list("tokens", -1, "an array of tokens");
        for (int i = 0; i < tokens.size(); i++) {
            if (!(tokens.get(i) instanceof String)) {
                throw refuse("tokens[" + i + "]", "a text", String.valueOf(tokens.get(i)));
            }
        }
        @SuppressWarnings("unchecked")
        List<String> pieces = (List<String>) tokens;
        return pieces;
    }

    private int[] types(int size) throws TokenizerException {
        int[] types = new int[size];
        if (!metadata.containsKey(PREFIX + "token_type")) {
            java.util.Arrays.fill(types, SentencePieceVocabulary.NORMAL);
            return types;
        }
        List<?> values = list("token_type", size, "one type per token");
        for (int i = 0; i < size; i++) {
            if (!(values.get(i) instanceof Long type) || type < 1 || type > 6) {
                throw refuse("token_type[" + i + "]", "a type from 1 to 6", String.valueOf(values.get(i)));
            }
            types[i] = type.intValue();
        }
        return types;
    }

    private List<?> list(String key, int size, String expected) throws TokenizerException {
        List<?> list = value(key, List.class);
        if (list == null || size >= 0 && list.size() != size) {
            throw refuse(key, expected + (size < 0 ? "" : " (" + size + ")"), list == null ? "nothing" : list.size() + " values");
        }
        return list;
    }

    private boolean flag(String key, boolean otherwise) throws TokenizerException {
        Boolean value = value(key, Boolean.class);
        return value == null ? otherwise : value;
    }

    /** An id that is not a token's, such as 4294967295, means that there is none. */
    private OptionalInt id(String key, int size, int otherwise) throws TokenizerException {
        Long value = value(key, Long.class);
        long id = value == null ? otherwise : value;
        return id >= 0 && id < size ? OptionalInt.of((int) id) : OptionalInt.empty();
    }

    private <T> @Nullable T value(String key, Class<T> type) throws TokenizerException {
        Object value = metadata.get(PREFIX + key);
        if (value != null && !type.isInstance(value)) {
            throw refuse(key, type.getSimpleName(), value.getClass().getSimpleName());
        }
        return type.cast(value);
    }

    private TokenizerException refuse(String key, String expected, String got) {
        return new TokenizerException(origin + ": " + PREFIX + key + ": expected " + expected + ", got " + got);
    }
}
