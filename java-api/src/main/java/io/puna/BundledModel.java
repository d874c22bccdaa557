package io.puna;

import io.puna.bindings.UserCache;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Path;

/** The model in this jar, as a file that can be mapped. */
final class BundledModel {
    private static final String NAME = "story.gguf";

    private BundledModel() {
    }

    /** {@return the file, in the first directory of the user's cache that can be used} */
    static Path file() throws IOException {
        try (InputStream in = BundledModel.class.getResourceAsStream(NAME)) {
            if (in == null) {
                throw new IOException(NAME + ": expected the bundled model beside " + BundledModel.class.getName() + ", got none");
            }
            return UserCache.file(in.readAllBytes(), NAME);
        }
    }
}
