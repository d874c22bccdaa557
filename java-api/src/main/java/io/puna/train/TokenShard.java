package io.puna.train;

import io.puna.format.CheckpointException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import java.util.zip.CRC32C;

/**
 * One source's documents as tokens, in a file that is mapped, not read. Little-endian:
 * <pre>
 *   64 bytes  "PUNATOKS", u32 version, u32 vocabulary size, u64 tokens, u64 documents, f64 weight, u32 bytes of a token (2 or 4),
 *             zeros, u32 CRC-32C of the 60 bytes before it
 *   tokens    then zeros up to a multiple of 8
 *   u64       of each document, the number of tokens up to its end
 * </pre>
 */
final class TokenShard {
    private static final long MAGIC = ByteBuffer.wrap("PUNATOKS".getBytes(StandardCharsets.US_ASCII))
            .order(ByteOrder.LITTLE_ENDIAN).getLong();
    private static final int VERSION = 1;
    private static final int HEADER_BYTES = 64;
    private static final int CRC_AT = 60;
    private static final ValueLayout.OfShort U16 = ValueLayout.JAVA_SHORT.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfInt U32 = ValueLayout.JAVA_INT.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfLong U64 = ValueLayout.JAVA_LONG.withOrder(ByteOrder.LITTLE_ENDIAN);

    final Path file;
    final int vocabularySize;
    final long tokens;
    final long documents;
    final double weight;
    /** Tells apart shards that a state could be restored to by mistake. */
    final int fingerprint;

    private final int tokenBytes;
    private final MemorySegment segment;
    private final long endsAt;

    private TokenShard(Path file, MemorySegment segment, ByteBuffer header) throws CheckpointException {
        this.file = file;
        this.segment = segment;
        vocabularySize = header.getInt(12);
        tokens = header.getLong(16);
        documents = header.getLong(24);
        weight = header.getDouble(32);
        tokenBytes = header.getInt(40);
        require(vocabularySize > 0, "a vocabulary size above 0", vocabularySize);
        require(tokenBytes == tokenBytes(vocabularySize), "tokens of " + tokenBytes(vocabularySize) + " bytes", tokenBytes);
        require(weight > 0 && Double.isFinite(weight), "a weight above 0", weight);
        // Below these no product overflows.
        require(tokens > 0 && tokens < 1L << 56, "at least 1 token", tokens);
        require(documents > 0 && documents <= tokens, "1 to " + tokens + " documents", documents);
        endsAt = HEADER_BYTES + padded(tokens * tokenBytes);
        require(segment.byteSize() == endsAt + documents * Long.BYTES, (endsAt + documents * Long.BYTES) + " bytes", segment.byteSize());
        long before = 0;
        for (long document = 0; document < documents; document++) {
            long end = end(document);
            require(end > before && end <= tokens, "the end of document " + document + " after " + before + " and up to " + tokens, end);
            before = end;
        }
        require(before == tokens, "the last document to end at " + tokens, before);
        fingerprint = header.getInt(CRC_AT);
    }

    /**
     * Maps a file until the arena is closed.
     *
     * @throws CheckpointException if it is damaged or of another kind
     */
    static TokenShard map(Path file, Arena arena) throws IOException {
        if (Files.exists(file) && !Files.isRegularFile(file)) {
            throw new CheckpointException(file, "a regular file", "something else");
        }
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
            ByteBuffer header = ByteBuffer.allocate(HEADER_BYTES).order(ByteOrder.LITTLE_ENDIAN);
            while (header.hasRemaining() && channel.read(header) >= 0) {
                // until it is whole
            }
            if (header.hasRemaining() || header.getLong(0) != MAGIC) {
                throw new CheckpointException(file, "a shard of tokens, made by puna data", "another kind of file");
            }
            if (header.getInt(8) != VERSION) {
                throw new CheckpointException(file, "version " + VERSION, "version " + header.getInt(8));
            }
            int crc = crc(header);
            if (header.getInt(CRC_AT) != crc) {
                throw new CheckpointException(file, "a header with checksum %08x".formatted(header.getInt(CRC_AT)), "%08x".formatted(crc));
            }
            return new TokenShard(file, channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size(), arena), header);
        }
    }

    private void require(boolean holds, String expected, Object got) throws CheckpointException {
        if (!holds) {
            throw new CheckpointException(file, expected, String.valueOf(got));
        }
    }

    /** {@return the number of tokens up to a document's end} */
    long end(long document) {
        return segment.get(U64, endsAt + document * Long.BYTES);
    }

    /**
     * Copies tokens.
     *
     * @throws UncheckedIOException if one is not of the vocabulary
     */
    void read(long from, int[] into, int at, int count) {
        for (int i = 0; i < count; i++) {
            long offset = HEADER_BYTES + (from + i) * tokenBytes;
            int token = tokenBytes == Short.BYTES ? Short.toUnsignedInt(segment.get(U16, offset)) : segment.get(U32, offset);
            if (Integer.compareUnsigned(token, vocabularySize) >= 0) {
                throw new UncheckedIOException(new CheckpointException(file, "token " + (from + i) + " below " + vocabularySize,
                        Integer.toUnsignedString(token)));
            }
            into[at + i] = token;
        }
    }

    private static int tokenBytes(int vocabularySize) {
        return vocabularySize <= 1 << Short.SIZE ? Short.BYTES : Integer.BYTES;
    }

    private static long padded(long bytes) {
        return bytes + (-bytes & Long.BYTES - 1);
    }

    private static int crc(ByteBuffer header) {
        CRC32C crc = new CRC32C();
        crc.update(header.array(), 0, CRC_AT);
        return (int) crc.getValue();
    }

    /**
     * Writes a shard, document by document. The file has its name once it is whole, and once it is finished there is none where no
     * document was added.
     */
    static final class Writer implements AutoCloseable {
        private static final int BUFFER_BYTES = 1 << 20;

        private final Path file;
        private final Path unfinished;
        private final FileChannel channel;
        private final int vocabularySize;
        private final double weight;
        private final ByteBuffer buffer = ByteBuffer.allocate(BUFFER_BYTES).order(ByteOrder.LITTLE_ENDIAN);
        private long[] ends = new long[1024];
        private int documents;
        private long tokens;

        Writer(Path file, int vocabularySize, double weight) throws IOException {
            this.file = file;
            this.vocabularySize = vocabularySize;
            this.weight = weight;
            unfinished = file.resolveSibling(file.getFileName() + ".part");
            channel = FileChannel.open(unfinished, StandardOpenOption.CREATE, StandardOpenOption.TRUNCATE_EXISTING,
                    StandardOpenOption.WRITE);
            buffer.put(new byte[HEADER_BYTES]);
        }

        /** Tokens of the current document: all, or the next ones. */
        void write(int... ids) throws IOException {
            int bytes = tokenBytes(vocabularySize);
            for (int id : ids) {
                room(Integer.BYTES);
                if (bytes == Short.BYTES) {
                    buffer.putShort((short) id);
                } else {
                    buffer.putInt(id);
                }
            }
            tokens += ids.length;
        }

        void endDocument() {
            if (documents == ends.length) {
                ends = Arrays.copyOf(ends, 2 * documents);
            }
            ends[documents++] = tokens;
        }

        long documents() {
            return documents;
        }

        long tokens() {
            return tokens;
        }

        /** Writes what is left to write, so that little can go wrong any more. */
        void seal() throws IOException {
            if (documents == 0 || !channel.isOpen()) {
                return;
            }
            long bytes = tokens * tokenBytes(vocabularySize);
            room(Long.BYTES);
            buffer.put(new byte[(int) (padded(bytes) - bytes)]);
            for (int document = 0; document < documents; document++) {
                room(Long.BYTES);
                buffer.putLong(ends[document]);
            }
            flush();
            ByteBuffer header = ByteBuffer.allocate(HEADER_BYTES).order(ByteOrder.LITTLE_ENDIAN);
            header.putLong(MAGIC).putInt(VERSION).putInt(vocabularySize).putLong(tokens).putLong(documents).putDouble(weight)
                    .putInt(tokenBytes(vocabularySize));
            header.putInt(CRC_AT, crc(header)).rewind();
            try {
                while (header.hasRemaining()) {
                    channel.write(header, header.position());
                }
                channel.force(true);
                channel.close();
            } catch (IOException e) {
                throw unwritten(e);
            }
        }

        void finish() throws IOException {
            seal();
            if (documents == 0) {
                Files.deleteIfExists(file); // of a source of the same name, whose documents may be among others now
                return;
            }
            Files.move(unfinished, file, StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
        }

        @Override
        public void close() throws IOException {
            channel.close();
            Files.deleteIfExists(unfinished);
        }

        private void room(int bytes) throws IOException {
            if (buffer.remaining() < bytes) {
                flush();
            }
        }

        private void flush() throws IOException {
            buffer.flip();
            try {
                while (buffer.hasRemaining()) {
                    channel.write(buffer);
                }
            } catch (IOException e) {
                throw unwritten(e);
            }
            buffer.clear();
        }

        private IOException unwritten(IOException e) {
            return new IOException(file + ": could not be written: " + e.getMessage(), e);
        }
    }
}
