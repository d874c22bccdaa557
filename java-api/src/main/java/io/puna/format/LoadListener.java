package io.puna.format;

/** Follows weights on their way into memory. */
@FunctionalInterface
public interface LoadListener {
    /**
     * Told after every few megabytes, by whichever thread reads.
     *
     * @param bytes that are in memory
     * @param total bytes there are
     */
    void loaded(long bytes, long total);
}
