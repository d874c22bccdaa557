package io.puna.format;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.core.StreamReadFeature;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Reads untrusted JSON, and makes what writes it: strict UTF-8, bounded size and nesting, no duplicate members, numbers that fit. */
final class Json {
    private static final int MAX_FILE_BYTES = 16 << 20;
    private static final int MAX_NESTING = 64;

    // Names come from the file: they are neither interned nor kept in the factory's symbol table.
    private static final JsonFactory FACTORY = JsonFactory.builder()
            .streamReadConstraints(StreamReadConstraints.builder().maxNestingDepth(MAX_NESTING).build())
            .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
            .disable(JsonFactory.Feature.INTERN_FIELD_NAMES)
            .disable(JsonFactory.Feature.CANONICALIZE_FIELD_NAMES)
            .build();

    private Json() {
    }

    /**
     * {@return the members of the object that a file holds}
     *
     * @throws CheckpointException if the file is not one well-formed JSON object of at most 16 MiB
     */
    static Map<String, Object> readObject(Path file) throws IOException {
        if (Files.exists(file) && !Files.isRegularFile(file)) {
            throw new CheckpointException(file, "a JSON file", Files.isDirectory(file) ? "a directory" : "a special file");
        }
        byte[] bytes;
        try (InputStream in = Files.newInputStream(file)) {
            bytes = in.readNBytes(MAX_FILE_BYTES + 1);
        }
        if (bytes.length > MAX_FILE_BYTES) {
            throw new CheckpointException(file, "a JSON file of at most " + MAX_FILE_BYTES + " bytes", Files.size(file) + " bytes");
        }
        try (JsonParser parser = parser(file, "the file", bytes)) {
            Map<String, Object> members = object(file, parser);
            requireEnd(file, "the file", parser);
            return members;
        } catch (JsonProcessingException e) {
            throw malformed(file, "the file", e);
        }
    }

    /**
     * {@return a parser that stands on the opening brace of an object}
     *
     * @param what the part of the file that the bytes are, for messages
     * @throws CheckpointException if the bytes are not UTF-8 or do not begin an object
     */
    static JsonParser parser(Path file, String what, byte[] bytes) throws IOException {
        String text;
        try {
            text = Utf8.decode(bytes, bytes.length);
        } catch (CharacterCodingException e) {
            throw new CheckpointException(file, what + " to be JSON in UTF-8", "malformed UTF-8", e);
        }
        JsonParser parser = FACTORY.createParser(text);
        if (parser.nextToken() != JsonToken.START_OBJECT) {
            throw new CheckpointException(file, what + " to be a JSON object", found(parser));
        }
        return parser;
    }

    /** {@return a generator that writes UTF-8 to a stream} */
    static JsonGenerator generator(OutputStream out) throws IOException {
        return FACTORY.createGenerator(out);
    }

    /** @throws CheckpointException if anything but white space follows */
    static void requireEnd(Path file, String what, JsonParser parser) throws IOException {
        if (parser.nextToken() != null) {
            throw new CheckpointException(file, what + " to end after one JSON object", found(parser));
        }
    }

    /** {@return what the parser stands on, for messages} */
    static String found(JsonParser parser) throws IOException {
        JsonToken token = parser.currentToken();
        return switch (token) {
            case null -> "nothing";
            case START_OBJECT -> "an object";
            case START_ARRAY -> "an array";
            case VALUE_STRING -> CheckpointException.quote(parser.getText());
            default -> parser.getText();
        };
    }

    static CheckpointException malformed(Path file, String what, JsonProcessingException e) {
        String place = e.getLocation() == null ? "" : " at line " + e.getLocation().getLineNr() + ", column " + e.getLocation().getColumnNr();
        return new CheckpointException(file, what + " to be well-formed JSON", "this" + place + ": " + e.getOriginalMessage(), e);
    }

    private static Map<String, Object> object(Path file, JsonParser parser) throws IOException {
        Map<String, Object> members = new LinkedHashMap<>();
        for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
            parser.nextToken();
            Object value = value(file, parser);
            if (value != null) {
                members.put(name, value);
            }
        }
        return Collections.unmodifiableMap(members);
    }

    private static @Nullable Object value(Path file, JsonParser parser) throws IOException {
        return switch (parser.currentToken()) {
            case START_OBJECT -> object(file, parser);
            case START_ARRAY -> {
                List<@Nullable Object> values = new ArrayList<>();
                while (parser.nextToken() != JsonToken.END_ARRAY) {
                    values.add(value(file, parser));
                }
                yield Collections.unmodifiableList(values);
            }
            case VALUE_STRING -> parser.getText();
            case VALUE_NUMBER_INT -> parser.getLongValue();
            case VALUE_NUMBER_FLOAT -> {
                double value = parser.getDoubleValue();
                if (!Double.isFinite(value)) {
                    throw new CheckpointException(file, "numbers that fit a double", CheckpointException.quote(parser.getText()));
                }
                yield value;
            }
            case VALUE_TRUE -> Boolean.TRUE;
            case VALUE_FALSE -> Boolean.FALSE;
            default -> null; // VALUE_NULL: the parser itself refuses whatever else could stand here
        };
    }
}
