package io.puna.train;

import io.puna.bindings.NativeMemory;
import io.puna.format.CheckpointException;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.NotDirectoryException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;

/**
 * A directory of tokens to train on: for each source a file {@code NAME.tokens} and, of documents held out for evaluation,
 * {@code NAME.validation.tokens}, with the tokenizer they were made by. {@link TokenDatasetWriter} makes it.
 *
 * <p>Files are mapped, not read, so there may be more tokens than memory. A file that another process shortens while it is mapped can
 * end the JVM, as with any mapping. Safe for use by many threads, each with batches of its own.
 */
public final class TokenDataset implements AutoCloseable {
    static final String SUFFIX = ".tokens";
    static final String VALIDATION_SUFFIX = ".validation" + SUFFIX;

    /**
     * What a dataset has of one source.
     *
     * @param weight           the source's share of sequences, relative to that of others
     * @param tokens           to train on
     * @param validationTokens held out
     */
    public record Source(String name, double weight, long tokens, long documents, long validationTokens, long validationDocuments) {
    }

    private final Path directory;
    private final Arena arena;
    private final List<TokenShard> training;
    private final List<TokenShard> validation;

    private TokenDataset(Path directory, Arena arena, List<TokenShard> training, List<TokenShard> validation) {
        this.directory = directory;
        this.arena = arena;
        this.training = training;
        this.validation = validation;
    }

    /**
     * Opens a directory.
     *
     * @throws CheckpointException if it has no tokens to train on, a file is damaged, or two are of different vocabularies
     * @throws IOException         if it cannot be read
     */
    public static TokenDataset open(Path directory) throws IOException {
        if (Files.exists(directory) && !Files.isDirectory(directory)) {
            throw new NotDirectoryException(directory + ": expected a directory of tokens, made by puna data");
        }
        List<Path> files;
        try (Stream<Path> all = Files.list(directory)) {
            files = all.filter(file -> file.toString().endsWith(SUFFIX)).sorted().toList();
        }
        Arena arena = Arena.ofShared();
        try {
            List<TokenShard> training = new ArrayList<>();
            List<TokenShard> validation = new ArrayList<>();
            for (Path file : files) {
                TokenShard shard = TokenShard.map(file, arena);
                (file.toString().endsWith(VALIDATION_SUFFIX) ? validation : training).add(shard);
            }
            if (training.isEmpty()) {
                throw new CheckpointException(directory, "tokens to train on (*" + SUFFIX + ")", "none");
            }
            int vocabulary = training.getFirst().vocabularySize;
            for (TokenShard shard : Stream.concat(training.stream(), validation.stream()).toList()) {
                if (shard.vocabularySize != vocabulary) {
                    throw new CheckpointException(shard.file, "a vocabulary of " + vocabulary + " tokens, as "
                            + training.getFirst().file.getFileName() + " has", Integer.toString(shard.vocabularySize));
                }
            }
            return new TokenDataset(directory, arena, List.copyOf(training), List.copyOf(validation));
        } catch (Throwable e) {
            arena.close();
            throw e;
        }
    }

    /** {@return where the files and the tokenizer are} */
    public Path directory() {
        return directory;
    }

    /** {@return one more than the highest token that there may be} */
    public int vocabularySize() {
        return training.getFirst().vocabularySize;
    }

    /** {@return the sources by name} */
    public List<Source> sources() {
        List<Source> sources = new ArrayList<>();
        for (TokenShard shard : training) {
            String file = shard.file.getFileName().toString();
            String name = file.substring(0, file.length() - SUFFIX.length());
            TokenShard held = validation.stream().filter(other -> other.file.getFileName().toString().equals(name + VALIDATION_SUFFIX))
                    .findFirst().orElse(null);
            sources.add(new Source(name, shard.weight, shard.tokens, shard.documents, held == null ? 0 : held.tokens,
                    held == null ? 0 : held.documents));
        }
        return sources;
    }

    /** {@return the batches to train on, as {@link #batches(long, boolean)} gives them, no boundary masked} */
    public BatchSource batches(long seed) {
        return batches(seed, false);
    }

    /**
     * {@return the batches to train on}
     *
     * <p>A sequence is of one source, drawn in proportion to the weights. Each source's documents, shuffled anew for each of its epochs,
     * are laid end to end, and a sequence takes the next T tokens of them. The same seed gives the same batches.
     *
     * @param seed           of the order of documents and sources
     * @param maskBoundaries whether documents of a sequence are kept apart: a token sees those of its own document alone, and the
     *                       first token of a document is left out as the target of the one before it
     */
    public BatchSource batches(long seed, boolean maskBoundaries) {
        return new PackedBatches(training, seed, true, maskBoundaries);
    }

    /** {@return whether documents are held out} */
    public boolean hasValidation() {
        return !validation.isEmpty();
    }

    /** {@return the tokens that are held out} */
    public long validationTokens() {
        return validation.stream().mapToLong(shard -> shard.tokens).sum();
    }

    /** {@return batches of the documents held out, as {@link #validation(boolean)} gives them, no boundary masked} */
    public BatchSource validation() {
        return validation(false);
    }

    /**
     * {@return batches of the documents held out, in the order of their files}
     *
     * @param maskBoundaries whether documents of a sequence are kept apart, as in {@link #batches(long, boolean)}
     * @throws IllegalStateException if none are
     */
    public BatchSource validation(boolean maskBoundaries) {
        if (validation.isEmpty()) {
            throw new IllegalStateException(directory + ": expected documents held out for evaluation (*" + VALIDATION_SUFFIX + "), got none");
        }
        return new PackedBatches(validation, 0, false, maskBoundaries);
    }

    /** Unmaps the files: their batches throw {@link IllegalStateException} from then on. Idempotent. */
    @Override
    public void close() {
        NativeMemory.close(arena);
    }
}
