package io.puna.text;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.MissingNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * What is said of a tokenizer outside the vocabulary itself. Absent settings are null or empty: the vocabulary decides.
 *
 * @param bos    the beginning-of-text token, by piece
 * @param bosId  the same by id
 * @param eos    end-of-text tokens by piece
 * @param eosIds the same by id
 * @param addBos whether a text is given a beginning, whatever the vocabulary's own file says
 * @param addEos likewise an end
 * @param added  added tokens, each with id, content and flags as in a tokenizer.json
 */
record TokenizerSettings(@Nullable String bos, @Nullable Integer bosId, Set<String> eos, Set<Integer> eosIds,
                         @Nullable Boolean addBos, @Nullable Boolean addEos, List<ObjectNode> added) {
    static final TokenizerSettings NONE = new TokenizerSettings(null, null, Set.of(), Set.of(), null, null, List.of());

    /** Reads what a Hugging Face directory's configuration files say, as far as it has them. */
    static TokenizerSettings ofDirectory(@Nullable Path directory) throws IOException {
        if (directory == null) {
            return NONE;
        }
        @Nullable JsonNode tokenizer = read(directory.resolve("tokenizer_config.json"));
        @Nullable JsonNode config = read(directory.resolve("config.json"));
        @Nullable JsonNode generation = read(directory.resolve("generation_config.json"));
        Set<String> eos = new LinkedHashSet<>();
        Set<Integer> eosIds = new LinkedHashSet<>();
        @Nullable String bos = tokenizer == null ? null : content(tokenizer.path("bos_token"));
        @Nullable String end = tokenizer == null ? null : content(tokenizer.path("eos_token"));
        if (end != null) {
            eos.add(end);
        }
        @Nullable Integer bosId = null;
        for (@Nullable JsonNode file : new @Nullable JsonNode[] {generation, config}) {
            if (file == null) {
                continue;
            }
            for (int id : ids(file.path("eos_token_id"))) {
                eosIds.add(id);
            }
            List<Integer> begin = ids(file.path("bos_token_id"));
            if (bosId == null && !begin.isEmpty()) {
                bosId = begin.getFirst();
            }
        }
        return new TokenizerSettings(bos, bosId, eos, eosIds, tokenizer == null ? null : flag(tokenizer.path("add_bos_token")),
                tokenizer == null ? null : flag(tokenizer.path("add_eos_token")),
                added(tokenizer, read(directory.resolve("added_tokens.json"))));
    }

    /** Those of tokenizer_config.json with their flags, then those of the older added_tokens.json, which gives pieces and ids alone. */
    private static List<ObjectNode> added(@Nullable JsonNode tokenizer, @Nullable JsonNode older) {
        List<ObjectNode> added = new ArrayList<>();
        Set<String> special = new HashSet<>();
        if (tokenizer != null) {
            for (String name : List.of("bos_token", "eos_token", "unk_token", "pad_token")) {
                special.add(content(tokenizer.path(name)));
            }
            tokenizer.path("additional_special_tokens").forEach(token -> special.add(content(token)));
            for (Map.Entry<String, JsonNode> entry : tokenizer.path("added_tokens_decoder").properties()) {
                JsonNode token = entry.getValue();
                if (entry.getKey().matches("[0-9]{1,7}") && token.path("content").isTextual()) {
                    add(added, Integer.parseInt(entry.getKey()), token, token.path("content").textValue(),
                            token.path("special").asBoolean(false));
                }
            }
        }
        if (older != null) {
            for (Map.Entry<String, JsonNode> entry : older.properties()) {
                List<Integer> id = ids(entry.getValue());
                if (id.size() == 1 && id.getFirst() >= 0) {
                    add(added, id.getFirst(), MissingNode.getInstance(), entry.getKey(), special.contains(entry.getKey()));
                }
            }
        }
        return added;
    }

    private static void add(List<ObjectNode> added, int id, JsonNode flags, String content, boolean special) {
        if (!content.isEmpty()) {
            ObjectNode token = Json.object().put("id", id).put("content", content).put("special", special);
            for (String flag : List.of("single_word", "lstrip", "rstrip", "normalized")) {
                token.put(flag, flags.path(flag).asBoolean(false));
            }
            added.add(token);
        }
    }

    private static @Nullable JsonNode read(Path file) throws IOException {
        return Files.isRegularFile(file) ? Json.parse(file.toString(), Files.readAllBytes(file)) : null;
    }

    private static @Nullable String content(JsonNode token) {
        JsonNode content = token.isObject() ? token.path("content") : token;
        return content.isTextual() ? content.textValue() : null;
    }

    private static @Nullable Boolean flag(JsonNode value) {
        return value.isBoolean() ? value.booleanValue() : null;
    }

    private static List<Integer> ids(JsonNode value) {
        List<Integer> ids = new ArrayList<>();
        if (value.canConvertToInt() && value.isIntegralNumber()) {
            ids.add(value.intValue());
        }
        if (value.isArray()) {
            value.forEach(id -> ids.addAll(ids(id)));
        }
        return ids;
    }
}
