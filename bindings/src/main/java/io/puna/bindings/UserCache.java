package io.puna.bindings;

import java.io.IOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.FileAttribute;
import java.nio.file.attribute.PosixFileAttributes;
import java.nio.file.attribute.PosixFilePermission;
import java.nio.file.attribute.PosixFilePermissions;
import java.nio.file.attribute.UserPrincipal;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.stream.Stream;

/**
 * Where what is in a jar becomes a file, once per content: the user's cache directory ({@code $XDG_CACHE_HOME} or {@code ~/.cache},
 * {@code ~/Library/Caches} on macOS, {@code %LOCALAPPDATA%} on Windows) or, where that cannot be used, {@code puna-<user>} in
 * {@code java.io.tmpdir}. A file that is there already is used only if its bytes are the content's own, and nothing of anybody
 * else's is ever deleted.
 *
 * <p>Thread-safe; many processes may write at once.
 */
public final class UserCache {
    private static final FileAttribute<Set<PosixFilePermission>> OWNER_ONLY =
            PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------"));

    private UserCache() {}

    /** {@return directories of Puna's own, best first; they need not exist} */
    static List<Path> directories() {
        // A user whom the system does not know, as containers have them, has the home "?": no cache then.
        var home = absolute(System.getProperty("user.home"));
        Optional<Path> cache = switch (NativeLibrary.os()) {
            case "macos" -> home.map(directory -> directory.resolve("Library").resolve("Caches"));
            case "windows" -> absolute(System.getenv("LOCALAPPDATA"))
                    .or(() -> home.map(directory -> directory.resolve("AppData").resolve("Local")));
            default -> absolute(System.getenv("XDG_CACHE_HOME")).or(() -> home.map(directory -> directory.resolve(".cache")));
        };
        var temporary = Path.of(System.getProperty("java.io.tmpdir")).toAbsolutePath();
        var user = System.getProperty("user.name").replaceAll("[^A-Za-z0-9._-]", "_");
        return Stream.concat(cache.map(directory -> directory.resolve("puna")).stream(),
                Stream.of(temporary.resolve("puna-" + user))).toList();
    }

    private static Optional<Path> absolute(String path) {
        // The XDG specification: a relative path is invalid and ignored.
        return Optional.ofNullable(path).filter(p -> !p.isEmpty()).map(Path::of).filter(Path::isAbsolute);
    }

    /**
     * {@return a file that holds a content, in the first directory that can be used}
     *
     * @param name of the file
     * @throws IOException if it cannot be written to any; the message has a line for each that was tried
     */
    public static Path file(byte[] content, String name) throws IOException {
        var hash = sha256(content);
        var tried = new StringBuilder(name + " could not be written");
        IOException last = null;
        for (var directory : directories()) {
            var file = directory.resolve(hash).resolve(name);
            try {
                write(content, file, directory);
                return file;
            } catch (IOException e) {
                tried.append("\n  tried ").append(file).append(": ").append(e);
                last = e;
            }
        }
        throw new IOException(tried + "\n  fix: make one of these directories writable for this user alone, or start Java with"
                + " -Djava.io.tmpdir=<directory>", last);
    }

    /**
     * Makes a file hold a content.
     *
     * @param file in a directory of its own below root, whose name is of this content alone
     * @param root one of {@link #directories}
     * @throws IOException if it cannot be written, or if others could change it
     */
    static void write(byte[] content, Path file, Path root) throws IOException {
        var directory = file.getParent();
        boolean posix = root.getFileSystem().supportedFileAttributeViews().contains("posix");
        // Windows needs none: a user's directories are his own there.
        var ownersOnly = posix ? new FileAttribute<?>[] {OWNER_ONLY} : new FileAttribute<?>[0];
        Files.createDirectories(directory, ownersOnly);
        if (posix) {
            requirePrivate(root);
            requirePrivate(directory);
        }
        if (holds(file, content)) {
            return;
        }
        var temporary = Files.createTempFile(directory, "puna", ".tmp", ownersOnly);
        try {
            Files.write(temporary, content);
            Files.move(temporary, file, StandardCopyOption.ATOMIC_MOVE);
        } catch (FileSystemException e) {
            // Windows does not replace a library in use: then another process has just written it, or it is not ours to replace.
            if (!holds(file, content)) {
                throw e;
            }
        } finally {
            Files.deleteIfExists(temporary);
        }
    }

    /** The name of the temporary directory can be guessed: only that is used which no other user could have put there. */
    private static void requirePrivate(Path directory) throws IOException {
        var attributes = Files.readAttributes(directory, PosixFileAttributes.class, LinkOption.NOFOLLOW_LINKS);
        var owner = attributes.owner().getName();
        if (!attributes.isDirectory()) {
            throw new FileAlreadyExistsException(directory.toString(), null, "is no directory");
        }
        if (attributes.permissions().contains(PosixFilePermission.GROUP_WRITE)
                || attributes.permissions().contains(PosixFilePermission.OTHERS_WRITE)) {
            throw new FileSystemException(directory.toString(), null, "other users may write to it");
        }
        if (!owner.equals("root") && !attributes.owner().equals(currentUser())) {
            throw new FileSystemException(directory.toString(), null, "belongs to " + owner);
        }
    }

    /** Whoever this process writes files as; user.name may lie in a container. */
    private static UserPrincipal currentUser() throws IOException {
        var probe = Files.createTempFile("puna", ".tmp");
        try {
            return Files.getOwner(probe);
        } finally {
            Files.deleteIfExists(probe);
        }
    }

    private static boolean holds(Path file, byte[] content) throws IOException {
        return Files.isRegularFile(file) && Files.size(file) == content.length
                && Arrays.equals(Files.readAllBytes(file), content);
    }

    /** {@return the content's SHA-256 in hexadecimal} */
    static String sha256(byte[] content) {
        try {
            return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(content));
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError("every Java platform has SHA-256", e);
        }
    }
}
