package io.puna.examples;

/** What the {@code puna} command ends with; 64 and above are those of sysexits.h. */
final class ExitCode {
    static final int OK = 0;
    static final int UNEXPECTED = 1;
    static final int USAGE = 2;
    static final int BAD_DATA = 65;
    static final int NO_INPUT = 66;
    static final int NO_NATIVE_LIBRARY = 69;
    static final int CANCELLED = 130;

    private ExitCode() {
    }
}
