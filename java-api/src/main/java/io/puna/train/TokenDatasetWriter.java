package io.puna.train;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadConstraints;
import io.puna.format.CheckpointException;
import io.puna.text.Tokenizer;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalInt;
import java.util.function.LongConsumer;
import org.jspecify.annotations.Nullable;

/**
 * Adds one source to a directory of tokens that {@link TokenDataset} opens. A document is its tokens between the vocabulary's
 * beginning-of-text and end-of-text tokens, where it has them. The directory gets a copy of the tokenizer's files.
 *
 * <p>Nothing is to be seen of a source before {@link #finish}, and {@link #close} without it leaves nothing behind. For use by one
 * thread.
 */
public final class TokenDatasetWriter implements AutoCloseable {
    /** Parts documents in a file of plain text. */
    public static final String SEPARATOR = "<|endoftext|>";

    /** Chars that are encoded at a time; a tokenizer takes a few million. */
    private static final int PIECE_CHARS = 1 << 20;
    private static final int READ_CHARS = 1 << 16;
    private static final int MAX_TEXT = 1 << 28;
    private static final List<String> TOKENIZERS = List.of("tokenizer.json", "tokenizer.model");
    private static final List<String> SETTINGS = List.of("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json",
            "generation_config.json");
    private static final JsonFactory JSON = JsonFactory.builder()
            .streamReadConstraints(StreamReadConstraints.builder().maxNestingDepth(64).maxStringLength(MAX_TEXT).build()).build();

    private final Path directory;
    private final Path tokenizerFile;
    private final Tokenizer tokenizer;
    private final TokenShard.Writer training;
    private final TokenShard.Writer validation;
    private final int heldOut;
    private final int[] begin;
    private final int[] end;

    private TokenDatasetWriter(Path directory, Path tokenizerFile, Tokenizer tokenizer, TokenShard.Writer training,
            TokenShard.Writer validation, int heldOut) {
        this.directory = directory;
        this.tokenizerFile = tokenizerFile;
        this.tokenizer = tokenizer;
        this.training = training;
        this.validation = validation;
        this.heldOut = heldOut;
        OptionalInt eos = tokenizer.eosIds().stream().mapToInt(Integer::intValue).min();
        OptionalInt bos = tokenizer.bosId();
        begin = bos.isPresent() && !bos.equals(eos) ? new int[] {bos.getAsInt()} : new int[0];
        end = eos.isPresent() ? new int[] {eos.getAsInt()} : new int[0];
    }

    /**
     * Begins a source, in place of one of the same name.
     *
     * @param directory made where there is none
     * @param name      of the source: letters, digits, {@code -} and {@code _}
     * @param weight    the source's share of the sequences trained on, relative to other sources
     * @param heldOut   one document in so many is held out for evaluation, drawn by a hash of its text, so that it is the same
     *                  whatever the tokenizer; 0 for none
     * @param tokenizer a tokenizer.json, a tokenizer.model, or a directory with one of them
     * @throws IllegalArgumentException              if an argument is none of that
     * @throws CheckpointException                   if the directory has tokens of another tokenizer
     * @throws io.puna.text.TokenizerException       if the tokenizer cannot be used
     * @throws IOException                           if a file cannot be read or made
     */
    public static TokenDatasetWriter create(Path directory, String name, double weight, int heldOut, Path tokenizer)
            throws IOException {
        if (!name.matches("[A-Za-z0-9_-]{1,100}")) {
            throw new IllegalArgumentException("name: expected letters, digits, - and _, got " + name);
        }
        if (!(weight > 0 && Double.isFinite(weight))) {
            throw new IllegalArgumentException("weight: expected a number above 0, got " + weight);
        }
        if (heldOut < 0 || heldOut == 1) {
            throw new IllegalArgumentException("heldOut: expected 0, or 2 or more, got " + heldOut);
        }
        Path file = tokenizerFile(tokenizer);
        Tokenizer opened = Tokenizer.open(file);
        TokenShard.Writer training = null;
        TokenShard.Writer validation = null;
        try {
            Files.createDirectories(directory);
            requireSameTokenizer(file, directory);
            training = new TokenShard.Writer(directory.resolve(name + TokenDataset.SUFFIX), opened.vocabularySize(), weight);
            validation = new TokenShard.Writer(directory.resolve(name + TokenDataset.VALIDATION_SUFFIX), opened.vocabularySize(),
                    weight);
            return new TokenDatasetWriter(directory, file, opened, training, validation, heldOut);
        } catch (Throwable e) {
            if (training != null) {
                training.close();
            }
            opened.close();
            throw e;
        }
    }

    private static Path tokenizerFile(Path tokenizer) throws IOException {
        if (!Files.isDirectory(tokenizer)) {
            if (TOKENIZERS.contains(String.valueOf(tokenizer.getFileName())) || !Files.exists(tokenizer)) {
                return tokenizer;
            }
        } else {
            for (String name : TOKENIZERS) {
                if (Files.isRegularFile(tokenizer.resolve(name))) {
                    return tokenizer.resolve(name);
                }
            }
        }
        throw new IllegalArgumentException("tokenizer: expected a tokenizer.json, a tokenizer.model or a directory with one, got "
                + tokenizer);
    }

    private static void requireSameTokenizer(Path file, Path directory) throws IOException {
        for (String name : TOKENIZERS) {
            Path there = directory.resolve(name);
            if (Files.exists(there) && !(name.equals(file.getFileName().toString()) && Files.mismatch(file, there) < 0)) {
                throw new CheckpointException(there, "the tokenizer that the tokens of this directory were made by, " + file,
                        "another");
            }
        }
    }

    private static void copyTokenizer(Path file, Path directory) throws IOException {
        Path from = file.toAbsolutePath().getParent();
        if (Files.isSameFile(from, directory)) {
            return;
        }
        Files.copy(file, directory.resolve(file.getFileName()), StandardCopyOption.REPLACE_EXISTING);
        for (String name : SETTINGS) {
            if (Files.isRegularFile(from.resolve(name))) {
                Files.copy(from.resolve(name), directory.resolve(name), StandardCopyOption.REPLACE_EXISTING);
            }
        }
    }

    /** Adds a document; a blank one is passed over. One of more than a million chars is encoded in parts, cut at a line or space. */
    public void add(String text) throws IOException {
        if (text.isBlank()) {
            return;
        }
        int[][] parts = new int[text.length() / (PIECE_CHARS / 2) + 1][];
        int count = 0;
        for (int from = 0; from < text.length();) {
            int to = cut(text, from);
            parts[count++] = tokenizer.encode(text.substring(from, to), false);
            from = to;
        }
        parts = Arrays.copyOf(parts, count);
        TokenShard.Writer shard = heldOut > 0 && Integer.remainderUnsigned(hash(text), heldOut) == 0 ? validation : training;
        shard.write(begin);
        for (int[] part : parts) {
            shard.write(part);
        }
        shard.write(end);
        shard.endDocument();
    }

    private static int cut(String text, int from) {
        if (text.length() - from <= PIECE_CHARS) {
            return text.length();
        }
        int last = from + PIECE_CHARS;
        for (char c : new char[] {'\n', ' '}) {
            int at = text.lastIndexOf(c, last);
            if (at > from + PIECE_CHARS / 2) {
                return at;
            }
        }
        return Character.isLowSurrogate(text.charAt(last)) ? last - 1 : last;
    }

    /** The finaliser of MurmurHash3 over Java's hash, whose low bits alone are no lottery. */
    private static int hash(String text) {
        int h = text.hashCode();
        h = (h ^ h >>> 16) * 0x85EBCA6B;
        h = (h ^ h >>> 13) * 0xC2B2AE35;
        return h ^ h >>> 16;
    }

    /**
     * Adds the documents of a file of plain text in UTF-8, parted by {@value #SEPARATOR}; without one, the file is a document.
     *
     * @param progress is told the chars that have been read, now and then
     * @throws CheckpointException if it is not UTF-8, or a document has more chars than a string holds
     */
    public void addText(Path file, LongConsumer progress) throws IOException {
        StringBuilder pending = new StringBuilder();
        char[] buffer = new char[READ_CHARS];
        long read = 0;
        try (BufferedReader in = Files.newBufferedReader(file, StandardCharsets.UTF_8)) {
            for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
                int searched = Math.max(0, pending.length() - SEPARATOR.length() + 1);
                if (pending.length() > MAX_TEXT) {
                    throw new CheckpointException(file, "documents of at most " + MAX_TEXT + " chars, parted by " + SEPARATOR,
                            "a longer one");
                }
                pending.append(buffer, 0, count);
                int start = 0;
                for (int at = pending.indexOf(SEPARATOR, searched); at >= 0; at = pending.indexOf(SEPARATOR, start)) {
                    add(pending.substring(start, at).strip());
                    start = at + SEPARATOR.length();
                }
                pending.delete(0, start);
                read += count;
                progress.accept(read);
            }
        } catch (CharacterCodingException e) {
            throw new CheckpointException(file, "text in UTF-8", "bytes that are not, near char " + read, e);
        }
        add(pending.toString().strip());
    }

    /**
     * Adds the documents of a file of JSON objects, one a line.
     *
     * @param field    the member with a document's text
     * @param progress is told the chars that have been read, now and then
     * @throws CheckpointException if it is not UTF-8, or a line is no object with that member; the message has the line's number
     */
    public void addJsonLines(Path file, String field, LongConsumer progress) throws IOException {
        long number = 0;
        long read = 0;
        try (BufferedReader in = Files.newBufferedReader(file, StandardCharsets.UTF_8)) {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                number++;
                if (!line.isBlank()) {
                    String text = member(file, number, line, field);
                    if (text == null) {
                        throw new CheckpointException(file, "a text \"" + field + "\" in line " + number, "an object without one");
                    }
                    add(text);
                }
                read += line.length();
                progress.accept(read);
            }
        } catch (CharacterCodingException e) {
            throw new CheckpointException(file, "text in UTF-8", "bytes that are not, after line " + number, e);
        }
    }

    private static @Nullable String member(Path file, long number, String line, String field) throws IOException {
        String text = null;
        try (JsonParser parser = JSON.createParser(line)) {
            if (parser.nextToken() != JsonToken.START_OBJECT) {
                throw new CheckpointException(file, "a JSON object in line " + number, "something else");
            }
            for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
                JsonToken token = parser.nextToken();
                if (name.equals(field) && token == JsonToken.VALUE_STRING) {
                    text = parser.getText();
                } else {
                    parser.skipChildren();
                }
            }
            if (parser.nextToken() != null) {
                throw new CheckpointException(file, "one JSON object in line " + number, "more after it");
            }
            return text;
        } catch (JsonProcessingException e) {
            throw new CheckpointException(file, "well-formed JSON in line " + number, e.getOriginalMessage(), e);
        }
    }

    /** {@return documents added so far, those held out included} */
    public long documents() {
        return training.documents() + validation.documents();
    }

    /** {@return tokens of the documents added so far} */
    public long tokens() {
        return training.tokens() + validation.tokens();
    }

    /**
     * Ends the source and gives its files their names, once both are whole.
     *
     * @throws IllegalStateException if it has no document to train on
     * @throws IOException           if a file cannot be written
     */
    public void finish() throws IOException {
        if (training.documents() == 0) {
            throw new IllegalStateException("expected documents to train on, got "
                    + (validation.documents() == 0 ? "none" : validation.documents() + ", all held out"));
        }
        validation.seal();
        training.seal();
        copyTokenizer(tokenizerFile, directory);
        validation.finish();
        training.finish();
    }

    /** Gives up a source that is not finished; has no effect on one that is. */
    @Override
    public void close() throws IOException {
        try (tokenizer; training; validation) {
            // each closes, whatever becomes of the others
        }
    }
}
