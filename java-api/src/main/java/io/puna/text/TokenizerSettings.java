package io.puna.text;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * What is said of a tokenizer outside the vocabulary itself. Absent settings are null or empty: the vocabulary decides.
 *
 * @param bos    the beginning-of-text token, by piece
 * @param bosId  the same by id
 * @param eos    end-of-text tokens by piece
 * @param eosIds the same by id
 * @param addBos whether a text is given a beginning, where the vocabulary's own file does not say
 * @param addEos likewise an end
 */
record TokenizerSettings(@Nullable String bos, @Nullable Integer bosId, Set<String> eos, Set<Integer> eosIds,
                         @Nullable Boolean addBos, @Nullable Boolean addEos) {
    static final TokenizerSettings NONE = new TokenizerSettings(null, null, Set.of(), Set.of(), null, null);

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
                tokenizer == null ? null : flag(tokenizer.path("add_eos_token")));
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
