package io.puna.examples;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * While open, Ctrl-C interrupts the thread that made this, which ends a generation at its next token, and the JVM waits for
 * {@link #close()} before it goes. Its exit code is then 130.
 */
final class CtrlC implements AutoCloseable {
    private static final int PATIENCE_SECONDS = 10;

    private final CountDownLatch ended = new CountDownLatch(1);
    private final Thread hook;

    CtrlC() {
        this(PATIENCE_SECONDS);
    }

    /** @param patienceSeconds how long the JVM waits */
    CtrlC(int patienceSeconds) {
        Thread working = Thread.currentThread();
        hook = new Thread(() -> {
            working.interrupt();
            try {
                ended.await(patienceSeconds, TimeUnit.SECONDS);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }, "puna-ctrl-c");
        Runtime.getRuntime().addShutdownHook(hook);
    }

    @Override
    public void close() {
        ended.countDown();
        try {
            Runtime.getRuntime().removeShutdownHook(hook);
        } catch (IllegalStateException shuttingDown) {
            // The hook runs already and has just been let go.
        }
    }
}
