package io.puna.format;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.locks.LockSupport;

/** Files mapped read-only, all in one shared arena. */
final class Mapping implements AutoCloseable {
    private static final long WAIT_NANOS = 100_000;
    /** Read ahead at a time: closing waits for no more. */
    private static final long PIECE_BYTES = 16 << 20;

    private final Arena arena = Arena.ofShared();
    private final List<MemorySegment> files = new ArrayList<>();
    private long byteSize;

    /**
     * {@return the whole of a file as a read-only segment, never empty}
     *
     * @throws CheckpointException if it is not a regular file, or empty
     */
    MemorySegment map(Path file) throws IOException {
        if (Files.exists(file) && !Files.isRegularFile(file)) {
            throw new CheckpointException(file, "a regular file", Files.isDirectory(file) ? "a directory" : "a special file");
        }
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
            long size = channel.size();
            if (size == 0) {
                throw new CheckpointException(file, "a checkpoint", "an empty file");
            }
            byteSize += size;
            MemorySegment mapped = channel.map(FileChannel.MapMode.READ_ONLY, 0, size, arena);
            files.add(mapped);
            return mapped;
        }
    }

    /** As {@link Checkpoint#readAhead} has it. */
    void readAhead(LoadListener listener) {
        requireOpen();
        Thread.ofPlatform().daemon().name("puna-read-ahead").start(() -> {
            try {
                long done = 0;
                for (MemorySegment file : files) {
                    for (long at = 0; at < file.byteSize(); at += PIECE_BYTES) {
                        MemorySegment piece = file.asSlice(at, Math.min(PIECE_BYTES, file.byteSize() - at));
                        piece.load();
                        done += piece.byteSize();
                        listener.loaded(done, byteSize);
                    }
                }
            } catch (IllegalStateException | InternalError closedOrNotReadable) {
                // Nobody waits for this. Whoever computes meets the same page again, and says so.
            }
        });
    }

    /** {@return what owns the files' memory, and what is to live as long} */
    Arena arena() {
        return arena;
    }

    /** {@return the bytes of all files mapped so far} */
    long byteSize() {
        return byteSize;
    }

    /** @throws IllegalStateException if closed */
    void requireOpen() {
        if (!arena.scope().isAlive()) {
            throw new IllegalStateException("checkpoint is closed");
        }
    }

    /** Unmaps. A native call that holds a segment keeps the arena from closing, which it says by throwing: ask until it is through. */
    @Override
    public void close() {
        boolean interrupted = false;
        while (arena.scope().isAlive()) {
            try {
                arena.close();
            } catch (IllegalStateException inUseOrClosedByAnother) {
                LockSupport.parkNanos(WAIT_NANOS);
                interrupted |= Thread.interrupted(); // an interrupted thread would not park again
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
