package io.puna.examples;

import static org.junit.jupiter.api.Assumptions.abort;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** Models to try the programs on: small ones of the project's own, and real ones where they are. */
final class Samples {
    private static final ObjectMapper MAPPER = new ObjectMapper();

    private Samples() {
    }

    /** {@return a model made by java-api's test scripts} */
    static Path fixture(String name) {
        return repository().resolve("java-api/src/test/resources/fixtures").resolve(name);
    }

    /** {@return real data; the test is skipped, and says so, when it is not there} */
    static Path data(String name) {
        String set = System.getProperty("puna.data", System.getenv("PUNA_DATA"));
        Path root = set != null && !set.isBlank() ? Path.of(set) : repository().resolve("../shared/data").normalize();
        Path path = root.resolve(name);
        if (!Files.exists(path)) {
            abort("skipped: " + path + " is not there; set PUNA_DATA or -Dpuna.data to the folder of real models to run this test");
        }
        return path;
    }

    /** {@return the root of the checkout} */
    static Path repository() {
        Path folder = Path.of("").toAbsolutePath();
        while (!Files.exists(folder.resolve("native/include/puna.h"))) {
            folder = folder.getParent();
        }
        return folder;
    }

    static JsonNode json(Path file) {
        try {
            return MAPPER.readTree(file.toFile());
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    static JsonNode json(String text) {
        try {
            return MAPPER.readTree(text);
        } catch (IOException e) {
            throw new UncheckedIOException(text, e);
        }
    }

    static int[] ints(JsonNode array) {
        int[] values = new int[array.size()];
        for (int i = 0; i < values.length; i++) {
            values[i] = array.get(i).asInt();
        }
        return values;
    }

    /** {@return ids as the command line takes them} */
    static String ids(JsonNode array) {
        return array.toString().replaceAll("[\\[\\]]", "");
    }
}
