package io.puna.text;

import io.puna.format.Checkpoint;
import io.puna.format.GgufCheckpoint;
import io.puna.format.HuggingFaceCheckpoint;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import java.util.stream.Stream;

/**
 * A vocabulary and the rules by which text becomes its ids. Safe for use by any number of threads; {@link #close} waits for them.
 *
 * <p>Tokens that the vocabulary marks as special are recognised in a text: whoever encodes the words of a stranger should know.
 */
public final class Tokenizer implements AutoCloseable {
    /** The longest text that can be encoded at once, in chars; less where patterns are not known to be as cheap as the usual ones. */
    static final int MAX_TEXT = 1 << 22;
    private static final List<String> FILES = List.of("tokenizer.json", "tokenizer.model");
    private static final long MAX_FILE = 1 << 28;

    private final TokenizerDefinition definition;
    private final Engine engine;

    private Tokenizer(String origin, TokenizerDefinition definition) throws TokenizerException {
        this.definition = definition;
        this.engine = new Engine(origin, Json.write(definition.engine()));
    }

    /**
     * Opens a tokenizer: a tokenizer.json, a SentencePiece or tiktoken tokenizer.model, a GGUF file, or a directory that holds one of
     * these (looked for in this order). For a tokenizer.json or tokenizer.model, tokenizer_config.json, added_tokens.json, config.json and
     * generation_config.json beside it are honoured as far as they say which tokens begin and end a text, whether they are put around
     * it, and which tokens were added to the vocabulary later.
     *
     * @throws TokenizerException if the file is damaged or of a kind that is not supported
     * @throws IOException        if it cannot be read, or a GGUF file is damaged
     */
    public static Tokenizer open(Path path) throws IOException {
        Path file = Files.isDirectory(path) ? find(path) : path;
        if (!Files.exists(file)) {
            throw new NoSuchFileException(file.toString(), null, "no such tokenizer file");
        }
        long size = Files.size(file);
        byte[] start = new byte[4];
        try (var in = Files.newInputStream(file)) {
            in.readNBytes(start, 0, 4);
        }
        if (start[0] == 'G' && start[1] == 'G' && start[2] == 'U' && start[3] == 'F') {
            try (Checkpoint checkpoint = Checkpoint.open(file)) {
                return of(checkpoint);
            }
        }
        String origin = file.toString();
        if (size > MAX_FILE) {
            throw new TokenizerException(origin + ": expected a tokenizer file of at most " + MAX_FILE + " bytes, got " + size);
        }
        byte[] bytes = Files.readAllBytes(file);
        if (bytes.length == 0) {
            throw new TokenizerException(origin + ": expected a tokenizer, got an empty file");
        }
        TokenizerSettings settings = TokenizerSettings.ofDirectory(file.toAbsolutePath().getParent());
        int first = 0;
        while (first < bytes.length - 1 && Character.isWhitespace(bytes[first])) {
            first++;
        }
        if (bytes[first] == '{') {
            return new Tokenizer(origin, TokenizerJson.check(origin, Json.parse(origin, bytes), settings));
        }
        if (TiktokenModel.recognise(bytes)) {
            return new Tokenizer(origin, TiktokenModel.read(origin, bytes, settings));
        }
        if (bytes[0] == 0x0A) {                                       // a protocol buffer whose first field is a piece
            return new Tokenizer(origin, SentencePieceModel.read(origin, bytes, settings));
        }
        throw new TokenizerException(origin + ": expected a tokenizer.json, a SentencePiece or tiktoken model, or GGUF, got none of them");
    }

    /**
     * The tokenizer of a model: of a GGUF file the one inside it, of a Hugging Face directory its tokenizer file. The checkpoint may
     * be closed afterwards.
     *
     * @throws TokenizerException if it has none, or one that cannot be used
     * @throws IOException        if a file cannot be read
     */
    public static Tokenizer of(Checkpoint checkpoint) throws IOException {
        return switch (checkpoint) {
            case GgufCheckpoint gguf -> {
                String origin = gguf.path().toString();
                yield new Tokenizer(origin, GgufVocabulary.read(origin, gguf.metadata()));
            }
            case HuggingFaceCheckpoint directory -> open(folder(directory));
        };
    }

    /**
     * {@return the tokenizer of a model as {@link #of} gives it, or empty when the model comes without one}
     *
     * @throws TokenizerException if it has one that cannot be used
     * @throws IOException        if a file cannot be read
     */
    public static Optional<Tokenizer> find(Checkpoint checkpoint) throws IOException {
        boolean present = switch (checkpoint) {
            case GgufCheckpoint gguf -> gguf.metadata().containsKey("tokenizer.ggml.model");
            case HuggingFaceCheckpoint directory -> FILES.stream().anyMatch(name -> Files.isRegularFile(folder(directory).resolve(name)));
        };
        return present ? Optional.of(of(checkpoint)) : Optional.empty();
    }

    private static Path folder(HuggingFaceCheckpoint checkpoint) {
        Path path = checkpoint.path();
        return Files.isDirectory(path) ? path : Objects.requireNonNull(path.toAbsolutePath().getParent());
    }

    private static Path find(Path directory) throws IOException {
        for (String name : FILES) {
            if (Files.isRegularFile(directory.resolve(name))) {
                return directory.resolve(name);
            }
        }
        try (Stream<Path> files = Files.list(directory)) {
            List<Path> gguf = files.filter(file -> file.toString().endsWith(".gguf")).toList();
            if (gguf.size() == 1) {
                return gguf.getFirst();
            }
            throw new TokenizerException(directory + ": expected tokenizer.json, tokenizer.model or one .gguf file, got "
                    + (gguf.isEmpty() ? "none of them" : gguf.size() + " .gguf files"));
        }
    }

    /** {@return the ids of a text, with what the model's own tokenizer puts around it} The same as {@code encode(text, true)}. */
    public int[] encode(String text) {
        return encode(text, true);
    }

    /**
     * {@return the ids of a text} Surrogates without their other half count as U+FFFD.
     *
     * @param addSpecial whether to add what the model's own tokenizer adds, commonly a beginning-of-text token
     * @throws IllegalArgumentException if the text is longer than 4,194,304 chars, or than the fewer that this vocabulary's patterns
     *                                  allow for: the message says how many
     * @throws IllegalStateException    if this tokenizer is closed
     */
    public int[] encode(String text, boolean addSpecial) {
        if (text.length() > definition.maxText()) {
            throw new IllegalArgumentException("text: expected at most " + definition.maxText() + " chars, got " + text.length()
                    + "; encode it in parts");
        }
        long[] ids = engine.encode(wellFormed(text));
        int[] prefix = addSpecial ? definition.prefix() : new int[0];
        int[] suffix = addSpecial ? definition.suffix() : new int[0];
        int[] all = new int[prefix.length + ids.length + suffix.length];
        System.arraycopy(prefix, 0, all, 0, prefix.length);
        for (int i = 0; i < ids.length; i++) {
            all[prefix.length + i] = Math.toIntExact(ids[i]);
        }
        System.arraycopy(suffix, 0, all, prefix.length + ids.length, suffix.length);
        return all;
    }

    /** The engine takes strings in Java's modified UTF-8 and, where one surrogate stands alone, misreads all of it. */
    private static String wellFormed(String text) {
        for (int i = 0; i < text.length(); i++) {
            if (Character.isSurrogate(text.charAt(i))) {
                return text.codePoints().map(c -> c >= 0xD800 && c <= 0xDFFF ? 0xFFFD : c)
                        .collect(StringBuilder::new, StringBuilder::appendCodePoint, StringBuilder::append).toString();
            }
        }
        return text;
    }

    /**
     * {@return the text of ids, special tokens left out} Bytes that are not UTF-8 become U+FFFD.
     *
     * @throws IndexOutOfBoundsException if an id is not below the vocabulary size
     * @throws IllegalStateException     if this tokenizer is closed
     */
    public String decode(int... ids) {
        return decode(ids, true);
    }

    /**
     * {@return the text of ids} Bytes that are not UTF-8 become U+FFFD.
     *
     * @param skipSpecial whether special tokens are left out, or stand in the text by their piece
     * @throws IndexOutOfBoundsException if an id is not below the vocabulary size
     * @throws IllegalStateException     if this tokenizer is closed
     */
    public String decode(int[] ids, boolean skipSpecial) {
        requireOpen();
        check(ids);
        PieceDecoder.State state = definition.decoder().start();
        StringBuilder out = new StringBuilder();
        for (int id : ids) {
            decodeTo(state, id, skipSpecial, out);
        }
        state.finish(out);
        return out.toString();
    }

    /**
     * {@return a decoder for the ids that follow}
     *
     * @param context the ids before them, commonly the prompt: they decide whether the text's first space is kept
     * @throws IndexOutOfBoundsException if an id is not below the vocabulary size
     * @throws IllegalStateException     if this tokenizer is closed
     */
    public StreamDecoder streamDecoder(int... context) {
        requireOpen();
        check(context);
        return new StreamDecoder(this, definition.decoder().start(), context);
    }

    /** {@return one more than the highest id} */
    public int vocabularySize() {
        return definition.pieces().length;
    }

    /**
     * {@return an id's piece as the vocabulary spells it, which is not the text it decodes to; empty where the vocabulary skips an id}
     *
     * @throws IndexOutOfBoundsException if the id is not below the vocabulary size
     */
    public String piece(int id) {
        String piece = definition.pieces()[Objects.checkIndex(id, vocabularySize())];
        return piece == null ? "" : piece;
    }

    /** {@return the id of a piece as the vocabulary spells it} */
    public OptionalInt id(String piece) {
        Integer id = definition.ids().get(Objects.requireNonNull(piece, "piece"));
        return id == null ? OptionalInt.empty() : OptionalInt.of(id);
    }

    /** {@return the id of the token that begins a text, whether or not it is added} */
    public OptionalInt bosId() {
        return definition.bosId();
    }

    /** {@return the ids of tokens that end a text or a turn} */
    public Set<Integer> eosIds() {
        return definition.eosIds();
    }

    /**
     * {@return whether an id is that of a special token}
     *
     * @throws IndexOutOfBoundsException if the id is not below the vocabulary size
     */
    public boolean isSpecial(int id) {
        return definition.special().get(Objects.checkIndex(id, vocabularySize()));
    }

    /** Frees the native memory once calls in flight have returned. Has no effect the second time. */
    @Override
    public void close() {
        engine.close();
    }

    void requireOpen() {
        engine.requireOpen();
    }

    void decodeTo(PieceDecoder.State state, int id, boolean skipSpecial, StringBuilder out) {
        String piece = definition.pieces()[id];
        if (piece != null && !(skipSpecial && definition.special().get(id))) {
            state.accept(piece, out);
        }
    }

    private void check(int[] ids) {
        for (int id : ids) {
            Objects.checkIndex(id, vocabularySize());
        }
    }
}
