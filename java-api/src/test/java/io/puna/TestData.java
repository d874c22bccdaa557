package io.puna;

import static org.junit.jupiter.api.Assumptions.abort;

import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Real weights, tokenizers and reference outputs that are not the project's own and so not in the repository: looked for where the
 * property {@code puna.data} or the variable {@code PUNA_DATA} says, else in {@code ../shared/data} beside the checkout.
 */
public final class TestData {
    private TestData() {
    }

    /** {@return the path of a file or directory of the data; the test is skipped, and says so, when it is not there} */
    public static Path require(String name) {
        Path path = root().resolve(name);
        if (!Files.exists(path)) {
            abort("skipped: " + path + " is not there; set PUNA_DATA or -Dpuna.data to the folder of real models to run this test");
        }
        return path;
    }

    private static Path root() {
        String set = System.getProperty("puna.data", System.getenv("PUNA_DATA"));
        return set != null && !set.isBlank() ? Path.of(set) : repository().resolve("../shared/data").normalize();
    }

    /** {@return the path of a file or directory that the scripts in {@code src/test/python} wrote} */
    public static Path fixture(String name) {
        return repository().resolve("java-api/src/test/resources/fixtures").resolve(name);
    }

    /** {@return the root of the checkout, the nearest folder above the working directory that holds the C header} */
    public static Path repository() {
        Path folder = Path.of("").toAbsolutePath();
        while (folder != null && !Files.exists(folder.resolve("native/include/puna.h"))) {
            folder = folder.getParent();
        }
        if (folder == null) {
            throw new IllegalStateException("expected to run inside the repository, got " + Path.of("").toAbsolutePath());
        }
        return folder;
    }
}
