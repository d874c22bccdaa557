package io.puna.bindings;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class NativeLibraryTest {
    private static final Path CLASSES = Path.of("target", "classes").toAbsolutePath();
    private static final Path TEST_CLASSES = Path.of("target", "test-classes").toAbsolutePath();
    private static final String FILE_NAME = System.mapLibraryName("puna");

    @TempDir
    private Path directory;

    private Path cache;
    private Path temporary;
    /** The resource as the build put it, below {@link #CLASSES}. */
    private Path resource;

    @BeforeEach
    void platform() throws IOException {
        assumeTrue(System.getProperty("os.name").equals("Linux"), "the tests steer the cache through XDG_CACHE_HOME");
        cache = directory.resolve("cache");
        temporary = Files.createDirectory(directory.resolve("tmp"));
        try (Stream<Path> files = Files.walk(CLASSES.resolve("native"))) {
            resource = CLASSES.relativize(files.filter(file -> file.endsWith(FILE_NAME)).findFirst().orElseThrow());
        }
    }

    @Test
    void loadsFromTheCacheAndWritesItOnce() throws Exception {
        var path = loaded(probe());
        assertThat(path).startsWith(cache.resolve("puna")).hasSameBinaryContentAs(CLASSES.resolve(resource));
        assertThat(PosixFilePermissions.toString(Files.getPosixFilePermissions(path))).isEqualTo("rwx------");
        assertThat(PosixFilePermissions.toString(Files.getPosixFilePermissions(path.getParent()))).isEqualTo("rwx------");

        var key = Files.readAttributes(path, "unix:ino");
        assertThat(loaded(probe())).isEqualTo(path);
        assertThat(Files.readAttributes(path, "unix:ino")).isEqualTo(key);
    }

    @Test
    void replacesAFileThatIsNotTheLibraryAndTouchesNothingElse() throws Exception {
        var path = loaded(probe());
        var neighbour = Files.writeString(path.resolveSibling("libpuna1234.tmp"), "another process is writing this");
        var content = Files.readAllBytes(path);

        Files.write(path, Arrays.copyOf(content, content.length / 2));
        assertThat(loaded(probe())).isEqualTo(path).hasBinaryContent(content);

        var tampered = content.clone();
        tampered[content.length / 2] ^= 1;
        Files.write(path, tampered);
        assertThat(loaded(probe())).isEqualTo(path).hasBinaryContent(content);
        assertThat(neighbour).hasContent("another process is writing this");
    }

    @Test
    void manyProcessesMayStartAtOnce() throws Exception {
        var processes = new ArrayList<Process>();
        for (int i = 0; i < 6; i++) {
            processes.add(start(command(CLASSES)));
        }
        for (var process : processes) {
            assertThat(loaded(output(process))).startsWith(cache);
        }
        try (Stream<Path> files = Files.walk(cache)) {
            assertThat(files.filter(Files::isRegularFile)).hasSize(1);
        }
    }

    @Test
    void fallsBackToTheTemporaryDirectory() throws Exception {
        Files.writeString(cache, "a file, where a directory cannot be made");
        assertThat(loaded(probe())).startsWith(temporary.resolve("puna-" + System.getProperty("user.name")));
    }

    @Test
    void writesNothingToTheWorkingDirectoryOfAUserWithoutAHome() throws Exception {
        var builder = new ProcessBuilder(command(CLASSES, "-Duser.home=?")).redirectError(ProcessBuilder.Redirect.DISCARD);
        builder.environment().put("XDG_CACHE_HOME", "relative");
        builder.directory(Files.createDirectory(directory.resolve("work")).toFile());
        assertThat(loaded(output(builder.start()))).startsWith(temporary);
        assertThat(builder.directory()).isEmptyDirectory();
    }

    @Test
    void namesEveryDirectoryThatCannotBeUsed() throws Exception {
        Files.writeString(cache, "a file, where a directory cannot be made");
        var others = Files.createDirectory(temporary.resolve("puna-" + System.getProperty("user.name")));
        Files.setPosixFilePermissions(others, PosixFilePermissions.fromString("rwxrwxrwx"));
        assertThat(failure(probe())).contains("tried " + cache.resolve("puna"), "tried " + others, "other users may write to it",
                "fix: make one of these directories writable and executable for this user");
        try (Stream<Path> files = Files.walk(others)) {
            assertThat(files.filter(Files::isRegularFile)).isEmpty();
        }
    }

    @Test
    void saysWhichPlatformTheJarLacks() throws Exception {
        var classes = copyOfClasses();
        Files.delete(classes.resolve(resource));
        assertThat(failure(output(start(command(classes))))).contains("tried " + resource + " on the class path: not there",
                "not built for " + resource.getParent().getFileName(), "-Dpuna.library=");
    }

    @Test
    void quotesTheLoaderOnADamagedLibrary() throws Exception {
        var classes = copyOfClasses();
        Files.writeString(classes.resolve(resource), "no library at all".repeat(100));
        assertThat(failure(output(start(command(classes))))).contains("tried " + cache, "tried " + temporary, "invalid ELF header",
                "fix: the file is damaged or for another platform");
    }

    @Test
    void takesAnExplicitPathAndNoOther() throws Exception {
        assertThat(loaded(probe("-Dpuna.library=" + CLASSES.resolve(resource)))).isEqualTo(CLASSES.resolve(resource));
        assertThat(cache).doesNotExist();

        var absent = directory.resolve("absent.so");
        assertThat(failure(probe("-Dpuna.library=" + absent))).contains("tried " + absent + ": ", "fix: correct -Dpuna.library");
    }

    @Test
    void refusesALibraryOfAnotherVersion() throws Exception {
        var library = directory.resolve("libfake.so");
        Compiler.compile("int puna_abi_version(void) { return 4711; }", library, "-shared", "-fPIC");
        assertThat(failure(probe("-Dpuna.library=" + library))).contains(
                "tried " + library + ": loaded, but its ABI version is 4711 and this Java code was built for "
                        + puna_h.PUNA_ABI_VERSION(),
                "fix: use a library and a puna-bindings jar of the same version");
    }

    @Test
    void refusesAnotherLibrary() throws Exception {
        var library = directory.resolve("libother.so");
        Compiler.compile("int other(void) { return 1; }", library, "-shared", "-fPIC");
        assertThat(failure(probe("-Dpuna.library=" + library)))
                .contains("tried " + library + ": loaded, but it has no function puna_abi_version");
    }

    @Test
    void saysThatTheCLibraryIsAnother() throws Exception {
        var musl = directory.resolve("libc.musl-x86_64.so.1");
        Compiler.compile("int nothing(void) { return 1; }", musl, "-shared", "-fPIC", "-Wl,-soname,libc.musl-x86_64.so.1");
        var library = directory.resolve("libfake.so");
        Compiler.compile("int nothing(void); int puna_abi_version(void) { return nothing(); }", library, "-shared", "-fPIC",
                musl.toString());
        Files.delete(musl);
        assertThat(failure(probe("-Dpuna.library=" + library))).contains("libc.musl-x86_64.so.1: cannot open shared object file",
                "fix: the library was built for another C library (glibc or musl, or a newer one) than this machine has");
    }

    @Test
    void saysWhichFlagJavaWants() throws Exception {
        assertThat(failure(output(start(java("--illegal-native-access=deny", "-cp", CLASSES + File.pathSeparator + TEST_CLASSES,
                LoaderProbe.class.getName()))))).contains("fix: start Java with --enable-native-access=ALL-UNNAMED");
        assertThat(failure(output(start(java("--illegal-native-access=deny", "--module-path", CLASSES.toString(), "--patch-module",
                "io.puna.bindings=" + TEST_CLASSES, "-m", "io.puna.bindings/" + LoaderProbe.class.getName())))))
                        .contains("fix: start Java with --enable-native-access=io.puna.bindings");
    }

    private List<String> probe(String... options) throws Exception {
        return output(start(command(CLASSES, options)));
    }

    private List<String> command(Path classes, String... options) {
        var command = java("--enable-native-access=ALL-UNNAMED");
        command.addAll(List.of(options));
        command.addAll(List.of("-cp", classes + File.pathSeparator + TEST_CLASSES, LoaderProbe.class.getName()));
        return command;
    }

    private List<String> java(String... arguments) {
        var command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-Djava.io.tmpdir=" + temporary));
        command.addAll(List.of(arguments));
        return command;
    }

    private Process start(List<String> command) throws IOException {
        var builder = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.DISCARD);
        builder.environment().put("XDG_CACHE_HOME", cache.toString());
        return builder.start();
    }

    private static List<String> output(Process process) throws IOException, InterruptedException {
        var lines = new String(process.getInputStream().readAllBytes()).lines().toList();
        assertThat(process.waitFor()).as("exit code after %s", lines).isZero();
        return lines;
    }

    /** The path in the output of a probe that loaded the library and printed nothing else. */
    private static Path loaded(List<String> lines) {
        assertThat(lines).hasSize(2).allMatch(line -> line.startsWith("loaded "));
        return Path.of(lines.getFirst().substring("loaded ".length(), lines.getFirst().indexOf(" abi ")));
    }

    /** The message of a probe that failed twice in the same way. */
    private static String failure(List<String> lines) {
        assertThat(lines.getFirst()).startsWith("libpuna could not be loaded on linux-");
        assertThat(lines.getLast()).isEqualTo("again");
        return String.join("\n", lines);
    }

    private Path copyOfClasses() throws IOException {
        var copy = directory.resolve("classes");
        try (Stream<Path> files = Files.walk(CLASSES)) {
            for (var file : (Iterable<Path>) files::iterator) {
                Files.copy(file, copy.resolve(CLASSES.relativize(file)));
            }
        }
        return copy;
    }
}
