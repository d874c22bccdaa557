package io.puna.text;

import ai.djl.huggingface.tokenizers.jni.TokenizersLibrary;
import java.util.concurrent.locks.ReadWriteLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;

/** One native tokenizer and the lock that keeps it alive during a call. */
final class Engine implements AutoCloseable {
    /** Loaded when the first engine is made, not when this class's users are. */
    private static final class Native {
        static final TokenizersLibrary LIBRARY = EngineLibrary.load();
    }

    private final ReadWriteLock lock = new ReentrantReadWriteLock();
    private long handle;

    /**
     * @param document a tokenizer.json that {@link TokenizerJson} has made
     * @throws TokenizerException if the engine refuses it all the same
     */
    Engine(String origin, String document) throws TokenizerException {
        try {
            handle = Native.LIBRARY.createTokenizerFromString(document);
        } catch (RuntimeException e) {
            throw new TokenizerException(origin + ": the tokenizer engine refuses it: " + e.getMessage(), e);
        }
    }

    /** {@return the ids of a text, which has no lone surrogates} */
    long[] encode(String text) {
        lock.readLock().lock();
        try {
            requireOpen();
            long encoding = Native.LIBRARY.encode(handle, text, false);
            try {
                return Native.LIBRARY.getTokenIds(encoding);
            } finally {
                Native.LIBRARY.deleteEncoding(encoding);
            }
        } finally {
            lock.readLock().unlock();
        }
    }

    void requireOpen() {
        lock.readLock().lock();
        try {
            if (handle == 0) {
                throw new IllegalStateException("tokenizer is closed");
            }
        } finally {
            lock.readLock().unlock();
        }
    }

    @Override
    public void close() {
        lock.writeLock().lock();
        try {
            if (handle != 0) {
                Native.LIBRARY.deleteTokenizer(handle);
                handle = 0;
            }
        } finally {
            lock.writeLock().unlock();
        }
    }
}
