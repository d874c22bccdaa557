package io.puna.examples;

import io.puna.format.LoadListener;
import io.puna.generate.PromptListener;
import java.io.PrintWriter;

/** Says on a terminal how far a long computation is, on one line that vanishes at its end. Anywhere else it says nothing. */
final class Progress implements LoadListener, PromptListener {
    /** Short waits need no explanation. */
    private static final long PATIENCE_NANOS = 500_000_000;
    private static final String ERASE = "\r\033[K";

    private final PrintWriter err;
    private final boolean shown = Console.errorIsTerminal();
    private final long start = System.nanoTime();
    private boolean dirty;
    /** Whether the weights' progress is still news: once tokens are computed it is not. */
    private boolean loading = true;

    Progress(PrintWriter err) {
        this.err = err;
    }

    @Override
    public synchronized void loaded(long bytes, long total) {
        if (loading) {
            show("weights: " + Text.bytes(bytes) + " of " + Text.bytes(total));
        }
    }

    @Override
    public synchronized void progress(int done, int total) {
        loading = false;
        if (done < total) {
            show("prompt: " + done + " of " + total + " tokens");
        } else {
            clear();
        }
    }

    synchronized void show(String line) {
        if (shown && System.nanoTime() - start > PATIENCE_NANOS) {
            err.print(ERASE + line);
            err.flush();
            dirty = true;
        }
    }

    synchronized void clear() {
        if (dirty) {
            err.print(ERASE);
            err.flush();
            dirty = false;
        }
    }
}
