package io.puna.text;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.OptionalInt;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * Checks a tokenizer.json and takes it apart.
 *
 * <p>The engine is native and ends the process where it meets what it did not expect (a template naming a token that is not there,
 * a pattern that backtracks too long), so it is only given a document built anew from the parts that are known to be safe and
 * that tokenizers of the LLaMA family consist of. Anything else is refused with a sentence.
 */
final class TokenizerJson {
    /** Ids index arrays; no vocabulary comes near this. */
    private static final int MAX_ID = 1 << 22;
    /** The engine compares every added token with every other. */
    private static final int MAX_ADDED_TOKENS = 1 << 14;
    private static final int MAX_REPLACEMENT = 16;

    /** Tokens that end a text or a turn, for vocabularies that come without a configuration. */
    private static final List<String> END_TOKENS =
            List.of("</s>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|endoftext|>");
    private static final List<String> BEGIN_TOKENS = List.of("<s>", "<|begin_of_text|>");

    private final String origin;
    private Map<String, Integer> ids = Map.of();
    private final BitSet special = new BitSet();
    /** How much longer than the text it is given a normalizer can make one. */
    private double growth = 1;
    /** The steps back that the dearest pattern can take per character. */
    private int patternCost = 1;
    private @Nullable String[] pieces = new String[0];

    private TokenizerJson(String origin) {
        this.origin = origin;
    }

    /**
     * Checks a tokenizer.json.
     *
     * @param origin the file it came from, for messages
     * @throws TokenizerException if it is damaged, or has a part that is not among those of the LLaMA family
     */
    static TokenizerDefinition check(String origin, ObjectNode root, TokenizerSettings settings) throws TokenizerException {
        return new TokenizerJson(origin).check(root, settings);
    }

    private TokenizerDefinition check(ObjectNode root, TokenizerSettings settings) throws TokenizerException {
        if (!root.path("version").isMissingNode() && !root.path("version").asText().equals("1.0")) {
            throw refuse("version", "\"1.0\"", root.path("version").toString());
        }
        ObjectNode model = model(root.path("model"));
        ArrayNode added = addedTokens(root.path("added_tokens"), (ObjectNode) model.get("vocab"));
        moreAddedTokens(settings.added(), added, (ObjectNode) model.get("vocab"));
        trimPieces();
        if (ids.isEmpty()) {
            throw refuse("model.vocab", "at least one piece", "none");
        }
        checkUnknownToken(model);

        ObjectNode engine = Json.object();
        engine.put("version", "1.0");
        engine.set("added_tokens", added);
        engine.set("normalizer", step("normalizer", root.path("normalizer"), "normalizers", this::normalizer));
        engine.set("pre_tokenizer", step("pre_tokenizer", root.path("pre_tokenizer"), "pretokenizers", this::preTokenizer));
        engine.set("model", model);

        List<Integer> prefix = new ArrayList<>();
        List<Integer> suffix = new ArrayList<>();
        postProcessor("post_processor", root.path("post_processor"), prefix, suffix);
        OptionalInt bos = bos(settings, prefix);
        Set<Integer> eos = eos(settings);
        surround(prefix, settings.addBos(), bos);
        surround(suffix, settings.addEos(), eos.isEmpty() ? OptionalInt.empty() : OptionalInt.of(eos.iterator().next()));
        int maxText = (int) Math.min(Tokenizer.MAX_TEXT, 2.0 * Tokenizer.MAX_TEXT / growth / patternCost);
        return new TokenizerDefinition(engine, pieces, Collections.unmodifiableMap(ids), special, decoder(root.path("decoder")), array(prefix),
                array(suffix), bos, eos, maxText);
    }

    // ---- vocabulary ----

    private ObjectNode model(JsonNode model) throws TokenizerException {
        require(model.isObject(), "model", "an object", model);
        // files older than the "type" field are told apart by their merges
        String type = model.path("type").asText(model.has("merges") ? "BPE" : "none");
        if (type.equals("WordLevel")) {
            return wordLevel(model);
        }
        if (!type.equals("BPE")) {
            throw refuse("model.type", "BPE or WordLevel", type);
        }
        for (String affix : List.of("continuing_subword_prefix", "end_of_word_suffix")) {
            require(model.path(affix).asText("").isEmpty() || model.path(affix).isNull(), "model." + affix, "none", model.path(affix));
        }
        JsonNode dropout = model.path("dropout");
        require(absent(dropout) || dropout.isNumber() && dropout.doubleValue() == 0, "model.dropout", "none", dropout);

        JsonNode vocabulary = vocabulary(model);
        ObjectNode checked = Json.object();
        checked.put("type", "BPE");
        JsonNode unknown = model.path("unk_token");
        require(absent(unknown) || unknown.isTextual(), "model.unk_token", "a piece or null", unknown);
        checked.set("unk_token", absent(unknown) ? null : unknown);
        for (String flag : List.of("fuse_unk", "byte_fallback", "ignore_merges")) {
            JsonNode value = model.path(flag);
            require(absent(value) || value.isBoolean(), "model." + flag, "true or false", value);
            checked.put(flag, value.asBoolean(false));
        }
        checked.set("vocab", vocabulary);
        checked.set("merges", merges(model.path("merges")));
        return checked;
    }

    /** A word is a piece or unknown; the engine cannot encode an unknown one without a piece for it. */
    private ObjectNode wordLevel(JsonNode model) throws TokenizerException {
        JsonNode unknown = model.path("unk_token");
        require(unknown.isTextual(), "model.unk_token", "a piece", unknown);
        ObjectNode checked = Json.object();
        checked.put("type", "WordLevel");
        checked.set("vocab", vocabulary(model));
        checked.set("unk_token", unknown);
        return checked;
    }

    private JsonNode vocabulary(JsonNode model) throws TokenizerException {
        JsonNode vocabulary = model.path("vocab");
        require(vocabulary.isObject(), "model.vocab", "an object of pieces and ids", vocabulary);
        ids = HashMap.newHashMap(vocabulary.size());
        for (Map.Entry<String, JsonNode> entry : vocabulary.properties()) {
            add("model.vocab", entry.getKey(), entry.getValue());
        }
        return vocabulary;
    }

    private void add(String field, String piece, JsonNode number) throws TokenizerException {
        if (!number.isIntegralNumber() || !number.canConvertToInt() || number.intValue() < 0 || number.intValue() >= MAX_ID) {
            throw refuse(field + "[" + quote(piece) + "]", "an id from 0 to " + (MAX_ID - 1), number.toString());
        }
        int id = number.intValue();
        if (id >= pieces.length) {
            pieces = Arrays.copyOf(pieces, Math.max(id + 1, Math.min(MAX_ID, pieces.length + pieces.length / 2)));
        }
        if (pieces[id] != null) {
            throw refuse(field, "one piece per id", "id " + id + " for both " + quote(pieces[id]) + " and " + quote(piece));
        }
        pieces[id] = piece;
        ids.put(piece, id);
    }

    private ArrayNode merges(JsonNode merges) throws TokenizerException {
        require(merges.isArray(), "model.merges", "an array", merges);
        int i = 0;
        for (JsonNode merge : merges) {
            String left;
            String right;
            require(merge.getNodeType() == merges.get(0).getNodeType(), "model.merges", "one way of writing merges", merge);
            if (merge.isTextual()) {
                String pair = merge.textValue();
                int space = pair.indexOf(' ');
                require(space > 0 && space == pair.lastIndexOf(' ') && space < pair.length() - 1, "model.merges",
                        "two pieces parted by a space", merge);
                left = pair.substring(0, space);
                right = pair.substring(space + 1);
            } else {
                require(merge.isArray() && merge.size() == 2 && merge.get(0).isTextual() && merge.get(1).isTextual(),
                        "model.merges", "two pieces", merge);
                left = merge.get(0).textValue();
                right = merge.get(1).textValue();
            }
            if (!ids.containsKey(left) || !ids.containsKey(right) || !ids.containsKey(left + right)) {
                throw refuse("model.merges[" + i + "]", "two pieces that make a piece, all of the vocabulary,", merge.toString());
            }
            i++;
        }
        return (ArrayNode) merges;
    }

    private ArrayNode addedTokens(JsonNode tokens, ObjectNode vocabulary) throws TokenizerException {
        require(absent(tokens) || tokens.isArray() && tokens.size() <= MAX_ADDED_TOKENS, "added_tokens",
                "an array of at most " + MAX_ADDED_TOKENS + " tokens", tokens);
        ArrayNode checked = JsonNodeFactory.instance.arrayNode();
        Set<String> seen = new HashSet<>();
        for (JsonNode token : tokens) {
            String field = "added_tokens[" + checked.size() + "]";
            JsonNode content = token.path("content");
            require(content.isTextual() && !content.textValue().isEmpty(), field + ".content", "a text", content);
            String piece = content.textValue();
            require(seen.add(piece), "added_tokens", "each token once", content);
            Integer id = ids.get(piece);
            if (id == null) {
                // The engine numbers tokens that its model does not know as it likes: so the model is made to know them all.
                add(field, piece, token.path("id"));
                vocabulary.set(piece, token.path("id"));
            } else {
                require(token.path("id").isIntegralNumber() && token.path("id").asLong(-1) == id, field + ".id",
                        id + ", the id of " + quote(piece) + " in model.vocab,", token.path("id"));
            }
            ObjectNode copy = Json.object();
            copy.put("id", ids.get(piece));
            copy.put("content", piece);
            for (String flag : List.of("single_word", "lstrip", "rstrip", "normalized", "special")) {
                JsonNode value = token.path(flag);
                require(absent(value) || value.isBoolean(), field + "." + flag, "true or false", value);
                copy.put(flag, value.asBoolean(false));
            }
            if (copy.get("special").booleanValue()) {
                special.set(ids.get(piece));
            }
            checked.add(copy);
        }
        return checked;
    }

    /** Tokens that only the files beside this one speak of. Where they contradict it, this one counts. */
    private void moreAddedTokens(List<ObjectNode> tokens, ArrayNode added, ObjectNode vocabulary) throws TokenizerException {
        Set<String> known = new HashSet<>();
        added.forEach(token -> known.add(token.path("content").textValue()));
        for (ObjectNode token : tokens) {
            String piece = token.path("content").textValue();
            int id = token.path("id").intValue();
            Integer own = ids.get(piece);
            if (own == null && id < MAX_ID && (id >= pieces.length || pieces[id] == null)) {
                add("added_tokens", piece, token.path("id"));
                vocabulary.put(piece, id);
                own = id;
            }
            if (own != null && own == id && added.size() < MAX_ADDED_TOKENS && known.add(piece)) {
                added.add(token);
                special.set(id, token.path("special").booleanValue());
            }
        }
    }

    private void trimPieces() {
        int size = pieces.length;
        while (size > 0 && pieces[size - 1] == null) {
            size--;
        }
        pieces = Arrays.copyOf(pieces, size);
    }

    private void checkUnknownToken(ObjectNode model) throws TokenizerException {
        JsonNode unknown = model.path("unk_token");
        require(absent(unknown) || ids.containsKey(unknown.textValue()), "model.unk_token", "a piece of the vocabulary", unknown);
    }

    // ---- steps before the model ----

    @FunctionalInterface
    private interface StepCheck {
        void check(String field, String type, JsonNode step) throws TokenizerException;
    }

    private @Nullable JsonNode step(String field, JsonNode step, String members, StepCheck check) throws TokenizerException {
        if (absent(step)) {
            return null;
        }
        require(step.isObject(), field, "an object", step);
        String type = step.path("type").asText("");
        if (!type.equals("Sequence")) {
            check.check(field, type, step);
            return step;
        }
        require(step.path(members).isArray(), field + "." + members, "an array", step.path(members));
        ObjectNode sequence = Json.object();
        sequence.put("type", "Sequence");
        ArrayNode steps = sequence.putArray(members);
        for (JsonNode member : step.path(members)) {
            JsonNode checked = step(field + "." + members + "[" + steps.size() + "]", member, members, check);
            require(checked != null, field + "." + members, "no empty step", member);
            steps.add(checked);
        }
        return sequence;
    }

    private void normalizer(String field, String type, JsonNode step) throws TokenizerException {
        switch (type) {
            // the most characters that Unicode makes of one
            case "NFC", "NFD", "Lowercase" -> growth *= 4;
            case "NFKC", "NFKD" -> growth *= 18;
            case "StripAccents" -> { }
            case "Prepend" -> {
                JsonNode prepend = step.path("prepend");
                require(!prepend.asText("").isEmpty() && prepend.textValue().length() <= MAX_REPLACEMENT, field + ".prepend",
                        "a text of at most " + MAX_REPLACEMENT + " chars", prepend);
            }
            case "Strip" -> {
                require(step.path("strip_left").isBoolean(), field + ".strip_left", "true or false", step.path("strip_left"));
                require(step.path("strip_right").isBoolean(), field + ".strip_right", "true or false", step.path("strip_right"));
            }
            case "Replace" -> {
                pattern(field, step.path("pattern"));
                JsonNode content = step.path("content");
                require(content.isTextual() && content.textValue().length() <= MAX_REPLACEMENT, field + ".content",
                        "a text of at most " + MAX_REPLACEMENT + " chars", content);
                growth *= Math.max(1, (double) content.textValue().length() / step.path("pattern").path("String").asText(" ").length());
            }
            default -> throw refuse(field + ".type",
                    "Sequence, Prepend, Replace, Strip, NFC, NFD, NFKC, NFKD, Lowercase or StripAccents", quote(type));
        }
    }

    private void preTokenizer(String field, String type, JsonNode step) throws TokenizerException {
        switch (type) {
            case "ByteLevel", "Digits", "Metaspace", "Punctuation", "Whitespace", "WhitespaceSplit" -> { }
            case "Split" -> pattern(field, step.path("pattern"));
            default -> throw refuse(field + ".type",
                    "Sequence, Split, ByteLevel, Digits, Metaspace, Punctuation, Whitespace or WhitespaceSplit", quote(type));
        }
    }

    private void pattern(String field, JsonNode pattern) throws TokenizerException {
        require(pattern.isObject() && pattern.size() == 1, field + ".pattern", "a String or a Regex", pattern);
        JsonNode text = pattern.path("String");
        JsonNode regex = pattern.path("Regex");
        require(!text.asText("").isEmpty() || !regex.asText("").isEmpty(), field + ".pattern", "a String or a Regex", pattern);
        if (!text.isTextual() && !SplitPatterns.KNOWN.contains(regex.textValue())) {
            OptionalInt cost = PatternCost.of(regex.textValue());
            require(cost.isPresent(), field + ".pattern.Regex",
                    "a pattern whose matching takes steps in proportion to the text (others end the process on a long one)", regex);
            patternCost = Math.max(patternCost, cost.getAsInt());
        }
    }

    // ---- what surrounds a text ----

    private void postProcessor(String field, JsonNode processor, List<Integer> prefix, List<Integer> suffix) throws TokenizerException {
        if (absent(processor)) {
            return;
        }
        switch (processor.path("type").asText("")) {
            case "ByteLevel" -> { }                                   // moves offsets, which are not asked for
            case "Sequence" -> {
                int i = 0;
                for (JsonNode member : processor.path("processors")) {
                    postProcessor(field + ".processors[" + i++ + "]", member, prefix, suffix);
                }
            }
            case "TemplateProcessing" -> template(field, processor, prefix, suffix);
            default -> throw refuse(field + ".type", "TemplateProcessing, ByteLevel or Sequence", processor.path("type").toString());
        }
    }

    private void template(String field, JsonNode template, List<Integer> prefix, List<Integer> suffix) throws TokenizerException {
        boolean before = true;
        List<Integer> left = new ArrayList<>();
        List<Integer> right = new ArrayList<>();
        for (JsonNode part : template.path("single")) {
            if (part.has("Sequence")) {
                require(before && part.path("Sequence").path("id").asText("").equals("A"), field + ".single", "sequence A once", part);
                before = false;
                continue;
            }
            String name = part.path("SpecialToken").path("id").asText("");
            JsonNode named = template.path("special_tokens").path(name).path("ids");
            require(named.isArray(), field + ".special_tokens", "the ids of " + quote(name), template.path("special_tokens"));
            for (JsonNode id : named) {
                require(id.isIntegralNumber() && id.canConvertToInt() && exists(id.intValue()), field + ".special_tokens",
                        "an id below " + pieces.length, id);
                (before ? left : right).add(id.intValue());
            }
        }
        require(!before, field + ".single", "a template with sequence A", template.path("single"));
        prefix.addAll(0, left);
        suffix.addAll(right);
    }

    /** What the configuration says outright about this end of a text replaces what the template says. */
    private static void surround(List<Integer> tokens, @Nullable Boolean add, OptionalInt token) {
        if (Boolean.FALSE.equals(add)) {
            tokens.clear();
        } else if (Boolean.TRUE.equals(add) && token.isPresent() && !tokens.contains(token.getAsInt())) {
            tokens.clear();
            tokens.add(token.getAsInt());
        }
    }

    private OptionalInt bos(TokenizerSettings settings, List<Integer> prefix) {
        Integer id = settings.bos() == null ? settings.bosId() : ids.get(settings.bos());
        if (id == null || !exists(id)) {
            id = prefix.isEmpty() ? null : prefix.getFirst();
        }
        if (id == null && settings.bos() == null && settings.bosId() == null) {
            id = BEGIN_TOKENS.stream().map(ids::get).filter(Objects::nonNull).findFirst().orElse(null);
        }
        return id == null ? OptionalInt.empty() : OptionalInt.of(id);
    }

    private Set<Integer> eos(TokenizerSettings settings) {
        Set<Integer> eos = new LinkedHashSet<>();
        settings.eos().stream().map(ids::get).filter(Objects::nonNull).forEach(eos::add);
        settings.eosIds().stream().filter(this::exists).forEach(eos::add);
        if (eos.isEmpty()) {
            END_TOKENS.stream().map(ids::get).filter(id -> id != null && special.get(id)).forEach(eos::add);
        }
        return Collections.unmodifiableSet(eos);
    }

    private boolean exists(int id) {
        return id >= 0 && id < pieces.length && pieces[id] != null;
    }

    // ---- from pieces to text ----

    private PieceDecoder decoder(JsonNode decoder) throws TokenizerException {
        if (absent(decoder)) {
            return new PieceDecoder.Words();
        }
        switch (decoder.path("type").asText("")) {
            case "ByteLevel" -> {
                return new PieceDecoder.ByteLevel();
            }
            case "Metaspace" -> {
                String space = decoder.path("replacement").asText("\u2581");
                require(space.length() == 1, "decoder.replacement", "one character", decoder.path("replacement"));
                boolean never = decoder.path("prepend_scheme").asText("always").equals("never")
                        || !decoder.path("add_prefix_space").asBoolean(true);
                return new PieceDecoder.Metaspace(space.charAt(0), !never);
            }
            case "Sequence" -> {
                return sequenceDecoder(decoder.path("decoders"));
            }
            default -> throw refuse("decoder.type", "ByteLevel, Metaspace or Sequence", decoder.path("type").toString());
        }
    }

    /** Replace …, ByteFallback, Fuse, Strip: each at most once and in this order, but for Replace, which may be repeated. */
    private PieceDecoder sequenceDecoder(JsonNode steps) throws TokenizerException {
        List<PieceDecoder.Replacement> replacements = new ArrayList<>();
        boolean byteFallback = false;
        boolean fused = false;
        char stripped = ' ';
        int count = 0;
        int stage = 0;
        for (JsonNode step : steps) {
            String type = step.path("type").asText("");
            int place = List.of("Replace", "ByteFallback", "Fuse", "Strip").indexOf(type);
            if (steps.size() == 1 && (type.equals("ByteLevel") || type.equals("Metaspace"))) {
                return decoder(step);
            }
            if (place < stage || place > 0 && place == stage || type.equals("Strip") && !fused) {
                throw refuse("decoder.decoders", "Replace, ByteFallback, Fuse and Strip in this order", steps.toString());
            }
            stage = place;
            switch (type) {
                case "Replace" -> {
                    String pattern = step.path("pattern").path("String").asText("");
                    require(!pattern.isEmpty() && step.path("content").isTextual(), "decoder.decoders", "a String to replace", step);
                    replacements.add(new PieceDecoder.Replacement(pattern, step.path("content").textValue()));
                }
                case "ByteFallback" -> byteFallback = true;
                case "Fuse" -> fused = true;
                default -> {
                    String content = step.path("content").asText("");
                    require(content.length() == 1 && step.path("stop").asInt(-1) == 0 && step.path("start").asInt(-1) >= 0,
                            "decoder.decoders", "one character to strip from the start", step);
                    stripped = content.charAt(0);
                    count = step.path("start").intValue();
                }
            }
        }
        return new PieceDecoder.SentencePiece(List.copyOf(replacements), byteFallback, stripped, count);
    }

    // ---- sentences ----

    private void require(boolean holds, String field, String expected, JsonNode got) throws TokenizerException {
        if (!holds) {
            throw refuse(field, expected, got.isMissingNode() ? "nothing" : abbreviate(got));
        }
    }

    private TokenizerException refuse(String field, String expected, String got) {
        return new TokenizerException(origin + ": " + field + ": expected " + expected + ", got " + got);
    }

    private static boolean absent(JsonNode node) {
        return node.isMissingNode() || node.isNull();
    }

    private static String abbreviate(JsonNode node) {
        if (node.isContainerNode() && node.size() > 8) {
            return kind(node) + " of " + node.size();
        }
        String text = node.toString();
        return text.length() <= 200 ? text : text.substring(0, 200) + "…";
    }

    private static String kind(JsonNode node) {
        return node.isMissingNode() ? "nothing" : node.getNodeType().toString().toLowerCase(Locale.ROOT);
    }

    static String quote(String piece) {
        return '"' + (piece.length() <= 60 ? piece : piece.substring(0, 60) + "…") + '"';
    }

    private static int[] array(List<Integer> values) {
        return values.stream().mapToInt(Integer::intValue).toArray();
    }
}
