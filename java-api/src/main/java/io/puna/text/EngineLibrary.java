package io.puna.text;

import ai.djl.huggingface.tokenizers.jni.TokenizersLibrary;
import java.io.IOException;
import java.io.InputStream;
import java.net.JarURLConnection;
import java.net.URL;
import java.net.URLConnection;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/**
 * Finds and loads the engine's native library, once, when the first tokenizer is made.
 *
 * <p>DJL's own loader is passed by: it probes for CUDA and may download a library built for it, reports to its makers over the
 * network from its first use, and logs through SLF4J, which complains on standard error where there is no provider. What is left
 * is the JNI class and the library in DJL's jar.
 */
final class EngineLibrary {
    private static final String PATH_PROPERTY = "puna.tokenizers.library";

    private EngineLibrary() {
    }

    /** Loads the library, for which module io.puna needs native access; an {@link UnsatisfiedLinkError} says what was tried and what to do. */
    @SuppressWarnings("restricted")
    static TokenizersLibrary load() {
        String platform = platform();
        String file = System.mapLibraryName("tokenizers");
        String resource = "/native/lib/" + platform + "/cpu/" + file;
        if (TokenizersLibrary.class.getClassLoader() != EngineLibrary.class.getClassLoader()) {
            throw new UnsatisfiedLinkError("ai.djl.huggingface:tokenizers must have the class loader of io.puna.text, because a "
                    + "native library belongs to one class loader");
        }
        @Nullable String given = System.getProperty(PATH_PROPERTY);
        Path library = given == null ? unpack(resource, platform, file) : Path.of(given).toAbsolutePath();
        try {
            System.load(library.toString());
        } catch (UnsatisfiedLinkError e) {
            UnsatisfiedLinkError error = new UnsatisfiedLinkError("the tokenizers library " + library + " (" + platform
                    + ") does not load: " + e.getMessage() + ". Another build of it can be named with -D" + PATH_PROPERTY + "=FILE");
            error.initCause(e);
            throw error;
        }
        return TokenizersLibrary.LIB;
    }

    private static Path unpack(String resource, String platform, String file) {
        @Nullable URL url = TokenizersLibrary.class.getResource(resource);
        if (url == null) {
            throw new UnsatisfiedLinkError("ai.djl.huggingface:tokenizers has no library for " + platform + " (no " + resource
                    + "); name one with -D" + PATH_PROPERTY + "=FILE");
        }
        try {
            URLConnection connection = url.openConnection();
            connection.setUseCaches(false);
            try (InputStream in = connection.getInputStream()) {
                long length = connection.getContentLengthLong();
                String content = connection instanceof JarURLConnection jar ? Long.toHexString(jar.getJarEntry().getCrc()) : "" + length;
                Path folder = folder("tokenizers-" + content + "-" + platform);
                Path library = folder.resolve(file);
                if (!Files.isRegularFile(library) || Files.size(library) != length) {
                    // Others may be unpacking it too: whoever is last replaces it whole, under those that have it loaded.
                    Path unfinished = Files.createTempFile(folder, file, ".tmp");
                    try {
                        Files.copy(in, unfinished, StandardCopyOption.REPLACE_EXISTING);
                        Files.move(unfinished, library, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
                    } finally {
                        Files.deleteIfExists(unfinished);
                    }
                }
                return library;
            }
        } catch (IOException e) {
            UnsatisfiedLinkError error = new UnsatisfiedLinkError("the tokenizers library cannot be unpacked from " + url + ": " + e
                    + "; unpack it by hand and name it with -D" + PATH_PROPERTY + "=FILE");
            error.initCause(e);
            throw error;
        }
    }

    /** A folder of the user's cache, or, for a user who has none, one of this process's own that goes with it. */
    private static Path folder(String name) throws IOException {
        String os = System.getProperty("os.name").toLowerCase(Locale.ROOT);
        Path home = Path.of(System.getProperty("user.home"));
        @Nullable String given = System.getenv(os.startsWith("windows") ? "LOCALAPPDATA" : "XDG_CACHE_HOME");
        Path cache = given != null && Path.of(given).isAbsolute() ? Path.of(given)
                : os.startsWith("mac") ? home.resolve("Library/Caches") : home.resolve(".cache");
        try {
            Path folder = Files.createDirectories(cache.resolve("puna").resolve(name));
            if (Files.isWritable(folder)) {
                return folder;
            }
        } catch (IOException e) {
            // no such place for this user
        }
        Path folder = Files.createTempDirectory("puna-");
        folder.toFile().deleteOnExit();
        folder.resolve(System.mapLibraryName("tokenizers")).toFile().deleteOnExit();
        return folder;
    }

    private static String platform() {
        String os = System.getProperty("os.name").toLowerCase(Locale.ROOT);
        String arch = System.getProperty("os.arch");
        return (os.startsWith("mac") ? "osx" : os.startsWith("windows") ? "win" : "linux") + "-"
                + (arch.equals("amd64") ? "x86_64" : arch);
    }
}
