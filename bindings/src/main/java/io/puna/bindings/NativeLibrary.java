package io.puna.bindings;

import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.stream.Stream;

/**
 * Loads libpuna into the class loader of this class, where {@link puna_h} looks its functions up. {@link #load} comes before the
 * first use of {@link puna_h}.
 *
 * <p>The library is the file that the system property {@value #LIBRARY_PROPERTY} names, and no other when it is set. Otherwise it
 * is the resource {@code native/<os>-<arch>/} beside this class, written once per content into the {@link UserCache}: the first of
 * its directories that can be written and executed.
 *
 * <p>Thread-safe; many processes may start at once.
 */
public final class NativeLibrary {
    /** System property with the path of a libpuna to use instead of the one in the jar. */
    public static final String LIBRARY_PROPERTY = "puna.library";

    /** System property with the path of a libpuna_cuda to use instead of the one in the jar. */
    public static final String CUDA_LIBRARY_PROPERTY = "puna.cuda.library";

    private NativeLibrary() {}

    /**
     * Loads libpuna unless it is loaded.
     *
     * @throws NativeLibraryException if it cannot be; later calls throw the same exception
     */
    public static void load() {
        path();
    }

    /**
     * The file that libpuna was loaded from; loads it unless it is loaded.
     *
     * @throws NativeLibraryException if it cannot be; later calls throw the same exception
     */
    public static Path path() {
        if (Outcome.FAILURE != null) {
            throw Outcome.FAILURE;
        }
        return Outcome.PATH;
    }

    /**
     * The file of libpuna_cuda, which libpuna opens itself: what the system property {@value #CUDA_LIBRARY_PROPERTY} names, or the
     * jar's, written where libpuna is. Empty when the jar was built without.
     *
     * @throws IOException if the jar's cannot be read, or written anywhere
     */
    public static Optional<Path> cudaPath() throws IOException {
        var explicit = System.getProperty(CUDA_LIBRARY_PROPERTY);
        if (explicit != null) {
            return Optional.of(Path.of(explicit).toAbsolutePath());
        }
        var fileName = System.mapLibraryName("puna_cuda");
        try (var in = NativeLibrary.class.getResourceAsStream("/native/" + os() + "-" + arch() + "/" + fileName)) {
            return in == null ? Optional.empty() : Optional.of(UserCache.file(in.readAllBytes(), fileName));
        }
    }

    /** What became of this process's one attempt. An initialiser that threw would leave later callers a NoClassDefFoundError. */
    private static final class Outcome {
        static final Path PATH;
        static final NativeLibraryException FAILURE;

        static {
            Path path = null;
            NativeLibraryException failure = null;
            var attempt = new Attempt();
            try {
                path = attempt.run();
            } catch (NativeLibraryException e) {
                failure = e;
            } catch (IllegalCallerException e) {
                failure = attempt.failure("start Java with --enable-native-access=" + moduleName(), e);
            } catch (RuntimeException | Error e) {
                failure = attempt.failure("report this, with this message", e);
            }
            PATH = path;
            FAILURE = failure;
        }
    }

    private static String moduleName() {
        var module = NativeLibrary.class.getModule();
        return module.isNamed() ? module.getName() : "ALL-UNNAMED";
    }

    /** One walk through the places where the library may be, and the notes it takes for the error. */
    private static final class Attempt {
        private static final String BUILD_FIX = "build Puna on this machine and start Java with -D" + LIBRARY_PROPERTY
                + "=<path of the library>";

        private final String os = os();
        private final String arch = arch();
        private final List<String> tried = new ArrayList<>();

        Path run() {
            var explicit = System.getProperty(LIBRARY_PROPERTY);
            if (explicit != null) {
                return loadExplicit(explicit);
            }
            var fileName = System.mapLibraryName("puna");
            var resource = "native/" + os + "-" + arch + "/" + fileName;
            var content = readResource(resource);
            var hash = UserCache.sha256(content);
            Throwable last = null;
            for (var directory : UserCache.directories()) {
                var file = directory.resolve(hash).resolve(fileName);
                try {
                    UserCache.write(content, file, directory);
                    System.load(file.toString());
                } catch (IOException | UnsatisfiedLinkError e) {
                    note(file, e);
                    last = e;
                    continue;
                }
                checkAbi(file);
                return file;
            }
            throw failure(fixFor(last), last);
        }

        private Path loadExplicit(String explicit) {
            var file = Path.of(explicit).toAbsolutePath();
            try {
                System.load(file.toString());
            } catch (UnsatisfiedLinkError e) {
                note(file, e);
                throw failure(Files.exists(file) ? fixFor(e) : "correct -D" + LIBRARY_PROPERTY + ", which names that file", e);
            }
            checkAbi(file);
            return file;
        }

        private byte[] readResource(String resource) {
            try (InputStream in = NativeLibrary.class.getResourceAsStream("/" + resource)) {
                if (in == null) {
                    tried.add(resource + " on the " + (NativeLibrary.class.getModule().isNamed() ? "module" : "class")
                            + " path: not there, this copy of puna-bindings was not built for " + os + "-" + arch);
                    throw failure("use a puna-bindings jar built for " + os + "-" + arch + ", or " + BUILD_FIX, null);
                }
                return in.readAllBytes();
            } catch (IOException e) {
                tried.add(resource + ": " + e);
                throw failure("replace the puna-bindings jar, which cannot be read", e);
            }
        }

        /** Refuses a library of another version before anything of it is called but this one function. */
        private void checkAbi(Path file) {
            Optional<MemorySegment> function = SymbolLookup.loaderLookup().find("puna_abi_version");
            if (function.isEmpty()) {
                tried.add(file + ": loaded, but it has no function puna_abi_version");
                throw failure("name a libpuna, this is another library", null);
            }
            int version;
            try {
                version = (int) Linker.nativeLinker()
                        .downcallHandle(function.get(), FunctionDescriptor.of(ValueLayout.JAVA_INT)).invokeExact();
            } catch (RuntimeException | Error e) {
                throw e;
            } catch (Throwable e) {
                throw new AssertionError(e);
            }
            if (version != puna_h.PUNA_ABI_VERSION()) {
                tried.add(file + ": loaded, but its ABI version is " + version + " and this Java code was built for "
                        + puna_h.PUNA_ABI_VERSION());
                throw failure("use a library and a puna-bindings jar of the same version", null);
            }
        }

        private void note(Path file, Throwable e) {
            var words = e instanceof UnsatisfiedLinkError ? String.valueOf(e.getMessage()) : e.toString();
            // Both Java and the system's loader begin with the path.
            var prefix = file + ": ";
            while (words.startsWith(prefix)) {
                words = words.substring(prefix.length());
            }
            tried.add(prefix + words);
        }

        NativeLibraryException failure(String fix, Throwable cause) {
            var message = new StringBuilder("libpuna could not be loaded on ").append(os).append('-').append(arch)
                    .append(" (Java ").append(Runtime.version()).append(" in ").append(System.getProperty("java.home")).append(')');
            for (var line : tried) {
                message.append("\n  tried ").append(line);
            }
            if (tried.isEmpty() && cause != null) {
                message.append("\n  ").append(cause);
            }
            return new NativeLibraryException(message.append("\n  fix: ").append(fix).toString(), cause);
        }

        private static String fixFor(Throwable e) {
            var words = e instanceof UnsatisfiedLinkError ? String.valueOf(e.getMessage()) : "";
            if (words.contains("already loaded in another classloader")) {
                return "put Puna on a class loader that everything that uses it shares: a library belongs to one";
            }
            if (mentions(words, "ld-linux", "ld-musl", "libc.musl", "libc.so.6", "GLIBC", "Error relocating")) {
                return "the library was built for another C library (glibc or musl, or a newer one) than this machine has: "
                        + BUILD_FIX;
            }
            if (mentions(words, "ELF", "file too short", "mach-o", "wrong architecture", "invalid")) {
                return "the file is damaged or for another platform: replace it, or " + BUILD_FIX;
            }
            if (e instanceof IOException || words.contains("failed to map segment")) {
                return "make one of these directories writable and executable for this user, or start Java with"
                        + " -Djava.io.tmpdir=<directory> or -D" + LIBRARY_PROPERTY + "=<path of the library>";
            }
            return BUILD_FIX;
        }

        private static boolean mentions(String words, String... any) {
            return Stream.of(any).anyMatch(words::contains);
        }
    }

    static String os() {
        var name = System.getProperty("os.name").toLowerCase(Locale.ROOT);
        if (name.startsWith("mac")) {
            return "macos";
        }
        return name.startsWith("windows") ? "windows" : name.replace(' ', '_');
    }

    private static String arch() {
        var name = System.getProperty("os.arch").toLowerCase(Locale.ROOT);
        return switch (name) {
            case "amd64", "x86_64" -> "x86_64";
            case "arm64", "aarch64" -> "aarch64";
            default -> name;
        };
    }
}
