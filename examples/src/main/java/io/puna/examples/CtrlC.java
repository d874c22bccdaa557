package io.puna.examples;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * While open, Ctrl-C interrupts the thread that made this, which ends a generation at its next token, or is only noted, and the JVM
 * waits for {@link #close()} before it goes. Its exit code is then 130.
 */
final class CtrlC implements AutoCloseable {
    private static final int PATIENCE_SECONDS = 10;

    private final CountDownLatch ended = new CountDownLatch(1);
    private final Thread hook;
    private volatile boolean pressed;

    CtrlC() {
        this(Thread.currentThread()::interrupt, PATIENCE_SECONDS);
    }

    private CtrlC(Runnable interruption, int patienceSeconds) {
        hook = new Thread(() -> {
            pressed = true;
            interruption.run();
            try {
                ended.await(patienceSeconds, TimeUnit.SECONDS);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }, "puna-ctrl-c");
        Runtime.getRuntime().addShutdownHook(hook);
    }

    /**
     * {@return one that interrupts nobody} An interrupted thread cannot write files: for what has to be saved first.
     *
     * @param patienceSeconds how long the JVM waits
     */
    static CtrlC noted(int patienceSeconds) {
        return new CtrlC(() -> { }, patienceSeconds);
    }

    /** {@return whether the process is to end} */
    boolean pressed() {
        return pressed;
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
