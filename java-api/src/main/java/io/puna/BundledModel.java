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
        byte[] content;
        try (InputStream in = BundledModel.class.getResourceAsStream(NAME)) {
            if (in == null) {
                throw new IOException(NAME + ": expected the bundled model beside " + BundledModel.class.getName() + ", got none");
            }
            content = in.readAllBytes();
        }
        String hash = UserCache.sha256(content);
        StringBuilder tried = new StringBuilder();
        IOException last = null;
        for (Path directory : UserCache.directories()) {
            Path file = directory.resolve(hash).resolve(NAME);
            try {
                UserCache.write(content, file, directory);
                return file;
            } catch (IOException e) {
                tried.append("\n  tried ").append(file).append(": ").append(e);
                last = e;
            }
        }
        throw new IOException("the bundled model could not be written" + tried
                + "\n  fix: make one of these directories writable for this user alone, or start Java with"
                + " -Djava.io.tmpdir=<directory>", last);
    }
}
