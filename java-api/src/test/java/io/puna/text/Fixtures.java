package io.puna.text;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;

/** Small tokenizer files of every kind, written by hand. */
final class Fixtures {
    /** A piece, its score and its type. */
    record Piece(String text, float score, int type) {
    }

    private Fixtures() {
    }

    /** Special tokens, all bytes, the characters of "▁helo wrd", and what merges into "▁hello". */
    static List<Piece> pieces() {
        List<Piece> pieces = new ArrayList<>(List.of(new Piece("<unk>", 0, 2), new Piece("<s>", 0, 3), new Piece("</s>", 0, 3)));
        for (int b = 0; b < 256; b++) {
            pieces.add(new Piece("<0x%02X>".formatted(b), 0, 6));
        }
        List<String> merged = List.of("he", "ll", "\u2581he", "llo", "\u2581hello", "\u2581\u2581");
        for (int i = 0; i < merged.size(); i++) {
            pieces.add(new Piece(merged.get(i), -i, 1));
        }
        for (String letter : List.of("\u2581", "h", "e", "l", "o", "w", "r", "d")) {
            pieces.add(new Piece(letter, -pieces.size(), 1));
        }
        return pieces;
    }

    /** Llama 2's kind of tokenizer.json. */
    static ObjectNode tokenizerJson() {
        ObjectNode root = Json.object();
        root.put("version", "1.0");
        ObjectNode model = root.putObject("model");
        model.put("type", "BPE").put("unk_token", "<unk>").put("fuse_unk", true).put("byte_fallback", true);
        ObjectNode vocabulary = model.putObject("vocab");
        ArrayNode added = root.putArray("added_tokens");
        List<Piece> pieces = pieces();
        for (int id = 0; id < pieces.size(); id++) {
            vocabulary.put(pieces.get(id).text(), id);
            if (pieces.get(id).type() == 2 || pieces.get(id).type() == 3) {
                added.addObject().put("id", id).put("content", pieces.get(id).text()).put("special", true);
            }
        }
        ArrayNode merges = model.putArray("merges");
        for (String merge : List.of("h e", "l l", "\u2581 he", "ll o", "\u2581he llo", "\u2581 \u2581")) {
            merges.add(merge);
        }
        ArrayNode normalizers = root.putObject("normalizer").put("type", "Sequence").putArray("normalizers");
        normalizers.addObject().put("type", "Prepend").put("prepend", "\u2581");
        normalizers.addObject().put("type", "Replace").put("content", "\u2581").putObject("pattern").put("String", " ");
        ArrayNode decoders = root.putObject("decoder").put("type", "Sequence").putArray("decoders");
        decoders.addObject().put("type", "Replace").put("content", " ").putObject("pattern").put("String", "\u2581");
        decoders.addObject().put("type", "ByteFallback");
        decoders.addObject().put("type", "Fuse");
        decoders.addObject().put("type", "Strip").put("content", " ").put("start", 1).put("stop", 0);
        ObjectNode template = root.putObject("post_processor").put("type", "TemplateProcessing");
        ArrayNode single = template.putArray("single");
        single.addObject().putObject("SpecialToken").put("id", "<s>").put("type_id", 0);
        single.addObject().putObject("Sequence").put("id", "A").put("type_id", 0);
        template.putObject("special_tokens").putObject("<s>").put("id", "<s>").putArray("ids").add(1);
        return root;
    }

    static byte[] bytes(ObjectNode root) {
        return Json.write(root).getBytes(StandardCharsets.UTF_8);
    }

    /** A SentencePiece model. */
    static byte[] sentencePiece(List<Piece> pieces, int kind, boolean removeExtraWhitespaces) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        for (Piece piece : pieces) {
            ByteArrayOutputStream message = new ByteArrayOutputStream();
            field(message, 1, piece.text().getBytes(StandardCharsets.UTF_8));
            message.write(2 << 3 | 5);
            message.writeBytes(ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putFloat(piece.score()).array());
            number(message, 3, piece.type());
            field(out, 1, message.toByteArray());
        }
        ByteArrayOutputStream trainer = new ByteArrayOutputStream();
        number(trainer, 3, kind);
        field(out, 2, trainer.toByteArray());
        ByteArrayOutputStream normalizer = new ByteArrayOutputStream();
        number(normalizer, 4, removeExtraWhitespaces ? 1 : 0);
        field(out, 3, normalizer.toByteArray());
        return out.toByteArray();
    }

    static void field(ByteArrayOutputStream out, int field, byte[] content) {
        out.write(field << 3 | 2);
        varint(out, content.length);
        out.writeBytes(content);
    }

    static void number(ByteArrayOutputStream out, int field, int value) {
        out.write(field << 3);
        varint(out, value);
    }

    private static void varint(ByteArrayOutputStream out, int value) {
        int rest = value;
        while (rest >= 0x80) {
            out.write(rest & 0x7F | 0x80);
            rest >>>= 7;
        }
        out.write(rest);
    }

    /** All bytes, then "he", "ll", "llo", "hello" and " hello". */
    static byte[] tiktoken() {
        StringBuilder out = new StringBuilder();
        List<byte[]> tokens = new ArrayList<>();
        for (int b = 0; b < 256; b++) {
            tokens.add(new byte[] {(byte) b});
        }
        for (String token : List.of("he", "ll", "llo", "hello", " hello")) {
            tokens.add(token.getBytes(StandardCharsets.UTF_8));
        }
        for (int rank = 0; rank < tokens.size(); rank++) {
            out.append(Base64.getEncoder().encodeToString(tokens.get(rank))).append(' ').append(rank).append('\n');
        }
        return out.toString().getBytes(StandardCharsets.US_ASCII);
    }

    /** A GGUF file of key-values alone: texts, booleans, unsigned ints, and arrays of texts, floats (scores) and ints (types). */
    static byte[] gguf(Object... keysAndValues) {
        ByteBuffer out = ByteBuffer.allocate(1 << 20).order(ByteOrder.LITTLE_ENDIAN);
        out.put("GGUF".getBytes(StandardCharsets.US_ASCII)).putInt(3).putLong(0).putLong(keysAndValues.length / 2);
        for (int i = 0; i < keysAndValues.length; i += 2) {
            text(out, (String) keysAndValues[i]);
            switch (keysAndValues[i + 1]) {
                case String value -> text(out.putInt(8), value);
                case Boolean value -> out.putInt(7).put((byte) (value ? 1 : 0));
                case Integer value -> out.putInt(4).putInt(value);
                case List<?> values -> {
                    Object first = values.getFirst();
                    out.putInt(9).putInt(first instanceof String ? 8 : first instanceof Float ? 6 : 5).putLong(values.size());
                    for (Object value : values) {
                        switch (value) {
                            case String text -> text(out, text);
                            case Float number -> out.putFloat(number);
                            default -> out.putInt((Integer) value);
                        }
                    }
                }
                default -> throw new IllegalArgumentException(keysAndValues[i + 1].toString());
            }
        }
        byte[] bytes = new byte[out.position()];
        out.get(0, bytes);
        return bytes;
    }

    private static void text(ByteBuffer out, String text) {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        out.putLong(bytes.length).put(bytes);
    }

    /** The key-values of a SentencePiece vocabulary. */
    static Object[] sentencePieceGguf() {
        return new Object[] {"general.architecture", "llama", "tokenizer.ggml.model", "llama",
            "tokenizer.ggml.tokens", pieces().stream().map(Piece::text).toList(),
            "tokenizer.ggml.scores", pieces().stream().map(Piece::score).toList(),
            "tokenizer.ggml.token_type", pieces().stream().map(Piece::type).toList(),
            "tokenizer.ggml.bos_token_id", 1, "tokenizer.ggml.eos_token_id", 2};
    }
}
