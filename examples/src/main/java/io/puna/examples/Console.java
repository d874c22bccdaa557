package io.puna.examples;

import java.io.BufferedOutputStream;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.FilterOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintWriter;
import java.io.UncheckedIOException;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.Charset;
import java.nio.charset.StandardCharsets;
import java.util.Optional;

/** The standard streams, as a program in a pipe needs them. */
final class Console {
    private static final int STDOUT = 1;
    private static final int STDERR = 2;

    /** Standard output could not be written: the reader is gone, or the disk is full. */
    static final class OutputException extends UncheckedIOException {
        private static final long serialVersionUID = 1;

        private OutputException(IOException cause) {
            super("standard output: " + cause.getMessage(), cause);
        }

        /** {@return whether the reader left, as {@code head} does once it has what it wants} */
        boolean readerIsGone() {
            String message = String.valueOf(getCause().getMessage());
            return message.contains("Broken pipe") || message.contains("pipe is being closed");
        }
    }

    private Console() {
    }

    /** {@return standard output, UTF-8 unless it is a terminal of another mind; a failure to write is thrown, not kept} */
    static PrintWriter out() {
        Charset charset = isTerminal(STDOUT) ? System.out.charset() : StandardCharsets.UTF_8;
        OutputStream loud = new FilterOutputStream(new FileOutputStream(FileDescriptor.out)) {
            @Override
            public void write(byte[] bytes, int from, int count) {
                try {
                    out.write(bytes, from, count);
                } catch (IOException e) {
                    throw new OutputException(e); // a PrintWriter would swallow the IOException
                }
            }
        };
        return new PrintWriter(new BufferedOutputStream(loud), false, charset);
    }

    /** {@return whether somebody reads standard error as it is written} */
    static boolean errorIsTerminal() {
        return isTerminal(STDERR);
    }

    /** Java's own Console speaks for input and output together; the C library knows each stream. */
    private static boolean isTerminal(int descriptor) {
        boolean windows = System.getProperty("os.name").startsWith("Windows");
        Optional<MemorySegment> isatty = Linker.nativeLinker().defaultLookup().find(windows ? "_isatty" : "isatty");
        if (isatty.isEmpty()) {
            return false;
        }
        try {
            return (int) Linker.nativeLinker()
                    .downcallHandle(isatty.get(), FunctionDescriptor.of(ValueLayout.JAVA_INT, ValueLayout.JAVA_INT))
                    .invokeExact(descriptor) != 0;
        } catch (Throwable e) {
            throw new AssertionError("isatty throws nothing", e);
        }
    }
}
