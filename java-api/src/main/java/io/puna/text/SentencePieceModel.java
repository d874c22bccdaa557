package io.puna.text;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalInt;
import java.util.Set;

/**
 * Reads the fields of a SentencePiece model file (a protocol buffer, ModelProto) that decide what its ids are: pieces, the kind of
 * model, and how a text is normalised. Files of the BPE kind without a character map are accepted, which is what Llama, Mistral
 * and their descendants are.
 */
final class SentencePieceModel {
    private static final List<String> KINDS = List.of("unknown", "unigram", "BPE", "word", "character");
    private static final int BPE = 2;

    private final String origin;
    private final List<String> pieces = new ArrayList<>();
    private float[] scores = new float[1024];
    private int[] types = new int[1024];
    private int kind = 1;
    private boolean spaceAsSuffix;
    private String bos = "<s>";
    private String eos = "</s>";
    private int characterMap;
    private boolean addDummyPrefix = true;
    private boolean removeExtraWhitespaces = true;
    private boolean escapeWhitespaces = true;

    private SentencePieceModel(String origin) {
        this.origin = origin;
    }

    /**
     * Reads a model file.
     *
     * @param settings what is said outside: whether to add a beginning (true unless it says otherwise) and an end
     * @throws TokenizerException if the file is damaged or of another kind
     */
    static TokenizerDefinition read(String origin, byte[] bytes, TokenizerSettings settings) throws TokenizerException {
        SentencePieceModel model = new SentencePieceModel(origin);
        model.parse(ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN));
        model.check();
        OptionalInt bos = model.id(model.bos);
        OptionalInt eos = model.id(model.eos);
        SentencePieceVocabulary vocabulary = new SentencePieceVocabulary(origin, model.pieces, model.scores, model.types,
                model.addDummyPrefix, model.removeExtraWhitespaces);
        boolean addBos = !Boolean.FALSE.equals(settings.addBos());
        boolean addEos = Boolean.TRUE.equals(settings.addEos());
        TokenizerSettings own = new TokenizerSettings(model.bos, null, Set.of(model.eos), settings.eosIds(), null, null, settings.added());
        return TokenizerJson.check(origin, vocabulary.document(addBos ? bos : OptionalInt.empty(), addEos ? eos : OptionalInt.empty()),
                own);
    }

    private OptionalInt id(String piece) {
        int id = pieces.indexOf(piece);
        return id < 0 ? OptionalInt.empty() : OptionalInt.of(id);
    }

    private void check() throws TokenizerException {
        if (pieces.isEmpty()) {
            throw refuse("a SentencePiece model with pieces", "none");
        }
        if (kind != BPE) {
            throw refuse("a SentencePiece model of the BPE kind", kind > 0 && kind < KINDS.size() ? KINDS.get(kind) : "kind " + kind);
        }
        if (characterMap > 0) {
            throw refuse("a SentencePiece model with identity normalisation", "a character map of " + characterMap + " bytes");
        }
        if (spaceAsSuffix || !escapeWhitespaces) {
            throw refuse("a SentencePiece model that writes a space as U+2581 before a word",
                    spaceAsSuffix ? "treat_whitespace_as_suffix" : "escape_whitespaces false");
        }
    }

    // ---- protocol buffers ----

    @FunctionalInterface
    private interface FieldReader {
        /** Takes a field: {@code number} holds a varint's or a 32-bit field's value, {@code content} that of a length-delimited one. */
        void field(int field, int wireType, long number, ByteBuffer content) throws TokenizerException;
    }

    private void parse(ByteBuffer in) throws TokenizerException {
        message(in, (field, wireType, number, content) -> {
            if (wireType == 2) {
                switch (field) {
                    case 1 -> piece(content);
                    case 2 -> message(content, this::trainerField);
                    case 3 -> message(content, this::normalizerField);
                    default -> { }
                }
            }
        });
    }

    private void piece(ByteBuffer in) throws TokenizerException {
        int id = pieces.size();
        if (id == scores.length) {
            scores = Arrays.copyOf(scores, 2 * id);
            types = Arrays.copyOf(types, 2 * id);
        }
        types[id] = SentencePieceVocabulary.NORMAL;
        String[] text = {""};
        message(in, (field, wireType, number, content) -> {
            if (field == 1 && wireType == 2) {
                text[0] = text(content);
            } else if (field == 2 && wireType == 5) {
                scores[id] = Float.intBitsToFloat((int) number);
            } else if (field == 3 && wireType == 0) {
                types[id] = Math.clamp(number, 0, 99);
            }
        });
        pieces.add(text[0]);
    }

    private void trainerField(int field, int wireType, long number, ByteBuffer content) throws TokenizerException {
        switch (field) {
            case 3 -> kind = Math.clamp(number, 0, 99);
            case 24 -> spaceAsSuffix = number != 0;
            case 46 -> bos = wireType == 2 ? text(content) : bos;
            case 47 -> eos = wireType == 2 ? text(content) : eos;
            default -> { }
        }
    }

    private void normalizerField(int field, int wireType, long number, ByteBuffer content) {
        switch (field) {
            case 2 -> characterMap = content.remaining();
            case 3 -> addDummyPrefix = number != 0;
            case 4 -> removeExtraWhitespaces = number != 0;
            case 5 -> escapeWhitespaces = number != 0;
            default -> { }
        }
    }

    private void message(ByteBuffer in, FieldReader reader) throws TokenizerException {
        ByteBuffer nothing = in.slice(0, 0);
        while (in.hasRemaining()) {
            long tag = varint(in);
            int wireType = (int) (tag & 7);
            int field = Math.clamp(tag >>> 3, 0, Integer.MAX_VALUE);
            switch (wireType) {
                case 0 -> reader.field(field, wireType, varint(in), nothing);
                case 1 -> bytes(in, 8);
                case 2 -> reader.field(field, wireType, 0, bytes(in, varint(in)));
                case 5 -> reader.field(field, wireType, bytes(in, 4).getInt(), nothing);
                default -> throw refuse("a protocol buffer's field", "wire type " + wireType + " before byte " + in.position());
            }
        }
    }

    private long varint(ByteBuffer in) throws TokenizerException {
        long value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            if (!in.hasRemaining()) {
                throw refuse("a SentencePiece model", "a file that ends inside a number");
            }
            byte b = in.get();
            value |= (long) (b & 0x7F) << shift;
            if (b >= 0) {
                return value;
            }
        }
        throw refuse("a SentencePiece model", "a number of more than 64 bits");
    }

    private ByteBuffer bytes(ByteBuffer in, long length) throws TokenizerException {
        if (length < 0 || length > in.remaining()) {
            throw refuse("a SentencePiece model", "a field of " + Long.toUnsignedString(length) + " bytes where " + in.remaining()
                    + " are left");
        }
        ByteBuffer slice = in.slice(in.position(), (int) length).order(ByteOrder.LITTLE_ENDIAN);
        in.position(in.position() + (int) length);
        return slice;
    }

    private String text(ByteBuffer content) throws TokenizerException {
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(content).toString();
        } catch (CharacterCodingException e) {
            throw new TokenizerException(origin + ": expected pieces in UTF-8, got bytes that are not, in piece " + pieces.size(), e);
        }
    }

    private TokenizerException refuse(String expected, String got) {
        return new TokenizerException(origin + ": expected " + expected + ", got " + got);
    }
}
