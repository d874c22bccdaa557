package io.puna.text;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.Set;

/**
 * Reads Llama 3's {@code tokenizer.model}: a line per token, its bytes in base64 and its rank. The file says neither how a text is
 * cut nor which special tokens there are; both are Llama 3's, as its reference implementation has them: 256 special tokens follow
 * the last rank.
 */
final class TiktokenModel {
    private static final int SPECIAL_TOKENS = 256;
    private static final int MAX_TOKENS = 1 << 21;

    private TiktokenModel() {
    }

    /** {@return whether a file begins with a token and a rank} */
    static boolean recognise(byte[] bytes) {
        int end = 0;
        while (end < bytes.length && end < 4096 && bytes[end] != '\n') {
            end++;
        }
        return new String(bytes, 0, end, StandardCharsets.ISO_8859_1).strip().matches("[A-Za-z0-9+/]+=* [0-9]+");
    }

    /**
     * Reads a file.
     *
     * @param settings what is said outside: whether to add a beginning (true unless it says otherwise) and an end
     * @throws TokenizerException if a line is not a token and a rank, or tokens or ranks are missing or come twice
     */
    static TokenizerDefinition read(String origin, byte[] bytes, TokenizerSettings settings) throws TokenizerException {
        Map<String, Integer> ids = HashMap.newHashMap(1 << 17);
        List<String> pieces = ranks(origin, bytes, ids);
        int special = pieces.size();
        ObjectNode document = Json.object();
        ObjectNode model = document.putObject("model");
        model.put("type", "BPE");
        // tiktoken looks a word up before it merges anything
        model.put("ignore_merges", true);
        ObjectNode vocabulary = model.putObject("vocab");
        for (int id = 0; id < special; id++) {
            vocabulary.put(pieces.get(id), id);
        }
        merges(model.putArray("merges"), pieces, ids);
        ArrayNode added = document.putArray("added_tokens");
        for (String token : specialTokens()) {
            SentencePieceVocabulary.addToken(added, pieces.size(), token, true);
            pieces.add(token);
        }
        ByteLevelSplits.LLAMA3.describe(document);
        boolean addBos = !Boolean.FALSE.equals(settings.addBos());
        boolean addEos = Boolean.TRUE.equals(settings.addEos());
        SentencePieceVocabulary.surround(document, pieces, addBos ? OptionalInt.of(special) : OptionalInt.empty(),
                addEos ? OptionalInt.of(special + 1) : OptionalInt.empty());
        TokenizerSettings own = new TokenizerSettings("<|begin_of_text|>", null, Set.of("<|end_of_text|>", "<|eot_id|>"),
                settings.eosIds(), null, null, settings.added());
        return TokenizerJson.check(origin, document, own);
    }

    private static List<String> ranks(String origin, byte[] bytes, Map<String, Integer> ids) throws TokenizerException {
        List<String> pieces = new ArrayList<>();
        int line = 0;
        for (String text : (Iterable<String>) new String(bytes, StandardCharsets.ISO_8859_1).lines()::iterator) {
            line++;
            if (text.isBlank()) {
                continue;
            }
            int space = text.indexOf(' ');
            byte[] token;
            int rank;
            try {
                token = Base64.getDecoder().decode(text.substring(0, Math.max(space, 0)));
                rank = Integer.parseInt(text, space + 1, text.length(), 10);
            } catch (IllegalArgumentException e) {
                throw new TokenizerException(origin + ": line " + line + ": expected base64, a space and a rank, got "
                        + TokenizerJson.quote(text), e);
            }
            if (rank != pieces.size() || token.length == 0 || rank >= MAX_TOKENS) {
                throw new TokenizerException(origin + ": line " + line + ": expected a token of rank " + pieces.size() + ", got "
                        + TokenizerJson.quote(text));
            }
            String piece = ByteAlphabet.piece(token);
            Integer before = ids.put(piece, rank);
            if (before != null) {
                throw new TokenizerException(origin + ": line " + line + ": expected every token once, got that of rank " + before
                        + " again");
            }
            pieces.add(piece);
        }
        if (pieces.size() < 256) {
            throw new TokenizerException(origin + ": expected at least the 256 tokens of one byte, got " + pieces.size() + " tokens");
        }
        return pieces;
    }

    /** Every way to make a token of two tokens: lowest rank first, and of one token's, the ones of the lowest ranks first. */
    private static void merges(ArrayNode merges, List<String> pieces, Map<String, Integer> ids) {
        List<int[]> splits = new ArrayList<>();
        for (String piece : pieces) {
            splits.clear();
            for (int i = 1; i < piece.length(); i++) {
                Integer left = ids.get(piece.substring(0, i));
                Integer right = left == null ? null : ids.get(piece.substring(i));
                if (right != null) {
                    splits.add(new int[] {left, right});
                }
            }
            splits.sort((a, b) -> a[0] != b[0] ? Integer.compare(a[0], b[0]) : Integer.compare(a[1], b[1]));
            for (int[] split : splits) {
                merges.add(pieces.get(split[0]) + " " + pieces.get(split[1]));
            }
        }
    }

    /** Those of Llama 3.0. Later models name some of the reserved ones, without saying so in this file. */
    private static List<String> specialTokens() {
        List<String> tokens = new ArrayList<>(SPECIAL_TOKENS);
        tokens.addAll(List.of("<|begin_of_text|>", "<|end_of_text|>"));
        int reserved = 0;
        while (tokens.size() < SPECIAL_TOKENS) {
            switch (tokens.size()) {
                case 6 -> tokens.addAll(List.of("<|start_header_id|>", "<|end_header_id|>"));
                case 9 -> tokens.add("<|eot_id|>");
                default -> tokens.add("<|reserved_special_token_" + reserved++ + "|>");
            }
        }
        return tokens;
    }
}
