package io.puna.examples;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;

/** Other processes that want a processor each and never stop: what a machine is like that is shared. They end with this one. */
final class BusyProcesses implements AutoCloseable {
    /** Looks now and then whether the process that wants it, its first argument, is still there. */
    private static final String LOOP = "while kill -0 $0; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; done";

    private final List<Process> processes = new ArrayList<>();

    BusyProcesses(int count) throws IOException {
        try {
            for (int i = 0; i < count; i++) {
                processes.add(new ProcessBuilder("sh", "-c", LOOP, String.valueOf(ProcessHandle.current().pid()))
                        .redirectOutput(ProcessBuilder.Redirect.DISCARD).redirectError(ProcessBuilder.Redirect.DISCARD).start());
            }
        } catch (Throwable e) {
            close();
            throw e;
        }
    }

    @Override
    public void close() {
        processes.forEach(Process::destroyForcibly);
    }
}
