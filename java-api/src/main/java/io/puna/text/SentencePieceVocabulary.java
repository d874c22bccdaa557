package io.puna.text;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;

/**
 * A SentencePiece vocabulary of the BPE kind, from a model file or from GGUF.
 *
 * @param pieces                 per id its piece; the space symbol is U+2581
 * @param scores                 per id its score: of two possible merges the one whose piece has the higher score is made first
 * @param types                  per id one of the type constants
 * @param addDummyPrefix         whether a text is given a space at its beginning
 * @param removeExtraWhitespaces whether leading and trailing spaces are dropped and runs of spaces become one
 */
record SentencePieceVocabulary(String origin, List<String> pieces, float[] scores, int[] types, boolean addDummyPrefix,
                               boolean removeExtraWhitespaces) {
    static final int NORMAL = 1;
    static final int UNKNOWN = 2;
    static final int CONTROL = 3;
    static final int USER_DEFINED = 4;
    static final int UNUSED = 5;
    static final int BYTE = 6;

    private static final String SPACE = "\u2581";

    /**
     * {@return this vocabulary as a tokenizer.json}
     *
     * @param prefix ids put before a text
     * @param suffix ids put after it
     */
    ObjectNode document(OptionalInt prefix, OptionalInt suffix) throws TokenizerException {
        ObjectNode document = Json.object();
        ArrayNode added = document.putArray("added_tokens");
        ObjectNode model = document.putObject("model");
        model.put("type", "BPE");
        ObjectNode vocabulary = Json.object();
        Map<String, Integer> ids = new HashMap<>(2 * pieces.size());
        boolean bytes = false;
        for (int id = 0; id < pieces.size(); id++) {
            String piece = pieces.get(id);
            if (piece.isEmpty()) {
                throw new TokenizerException(origin + ": expected a text for piece " + id + ", got an empty one");
            }
            if (Float.isNaN(scores[id])) {
                throw new TokenizerException(origin + ": expected a number as the score of piece " + id + ", got NaN");
            }
            if (vocabulary.has(piece)) {
                throw new TokenizerException(origin + ": expected every piece once, got " + TokenizerJson.quote(piece) + " as "
                        + vocabulary.get(piece) + " and " + id);
            }
            vocabulary.put(piece, id);
            switch (types[id]) {
                case NORMAL -> ids.put(piece, id);
                case UNKNOWN -> {
                    model.put("unk_token", piece);
                    addToken(added, id, piece, true);
                }
                case CONTROL -> addToken(added, id, piece, true);
                case USER_DEFINED -> addToken(added, id, piece, false);
                case UNUSED -> { }
                case BYTE -> bytes = true;
                default -> throw new TokenizerException(origin + ": expected a type from 1 to 6 for piece " + id + ", got " + types[id]);
            }
        }
        model.put("fuse_unk", true);
        model.put("byte_fallback", bytes);
        model.set("vocab", vocabulary);
        merges(model.putArray("merges"), ids);

        ArrayNode normalizers = document.putObject("normalizer").put("type", "Sequence").putArray("normalizers");
        if (removeExtraWhitespaces) {
            replaceRegex(normalizers, SplitPatterns.LEADING_SPACES, "");
            replaceRegex(normalizers, SplitPatterns.REPEATED_SPACES, " ");
        }
        if (addDummyPrefix) {
            normalizers.addObject().put("type", "Prepend").put("prepend", SPACE);
        }
        replace(normalizers, " ", SPACE);
        if (removeExtraWhitespaces) {
            replaceRegex(normalizers, SplitPatterns.TRAILING_SPACE_SYMBOLS, "");
        }
        ArrayNode decoders = document.putObject("decoder").put("type", "Sequence").putArray("decoders");
        replace(decoders, SPACE, " ");
        decoders.addObject().put("type", "ByteFallback");
        decoders.addObject().put("type", "Fuse");
        if (addDummyPrefix) {
            decoders.addObject().put("type", "Strip").put("content", " ").put("start", 1).put("stop", 0);
        }
        surround(document, pieces, prefix, suffix);
        return document;
    }

    /** Every way to make a piece of two pieces: the best piece first, and of one piece's, the ones of the earliest pieces first. */
    private void merges(ArrayNode merges, Map<String, Integer> ids) {
        Integer[] order = ids.values().toArray(Integer[]::new);
        Arrays.sort(order, (a, b) -> scores[a] != scores[b] ? Float.compare(scores[b], scores[a]) : Integer.compare(a, b));
        List<int[]> splits = new ArrayList<>();
        for (int id : order) {
            String piece = pieces.get(id);
            splits.clear();
            for (int i = piece.offsetByCodePoints(0, 1); i < piece.length(); i = piece.offsetByCodePoints(i, 1)) {
                Integer left = ids.get(piece.substring(0, i));
                Integer right = left == null ? null : ids.get(piece.substring(i));
                if (right != null) {
                    splits.add(new int[] {left, right});
                }
            }
            splits.sort((a, b) -> a[0] != b[0] ? Integer.compare(a[0], b[0]) : Integer.compare(a[1], b[1]));
            for (int[] split : splits) {
                merges.addArray().add(pieces.get(split[0])).add(pieces.get(split[1]));
            }
        }
    }

    static void addToken(ArrayNode added, int id, String piece, boolean special) {
        added.addObject().put("id", id).put("content", piece).put("special", special);
    }

    /** Gives a document the post-processor that puts these ids around a text. */
    static void surround(ObjectNode document, List<String> pieces, OptionalInt prefix, OptionalInt suffix) {
        ObjectNode template = document.putObject("post_processor").put("type", "TemplateProcessing");
        ArrayNode single = template.putArray("single");
        ObjectNode tokens = template.putObject("special_tokens");
        prefix.ifPresent(id -> surround(single, tokens, pieces.get(id), id));
        single.addObject().putObject("Sequence").put("id", "A");
        suffix.ifPresent(id -> surround(single, tokens, pieces.get(id), id));
    }

    private static void surround(ArrayNode single, ObjectNode tokens, String piece, int id) {
        single.addObject().putObject("SpecialToken").put("id", piece);
        tokens.putObject(piece).putArray("ids").add(id);
    }

    private static void replace(ArrayNode steps, String pattern, String content) {
        steps.addObject().put("type", "Replace").put("content", content).putObject("pattern").put("String", pattern);
    }

    private static void replaceRegex(ArrayNode steps, String pattern, String content) {
        steps.addObject().put("type", "Replace").put("content", content).putObject("pattern").put("Regex", pattern);
    }
}
