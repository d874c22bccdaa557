package io.puna;

import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.extension.AfterEachCallback;
import org.junit.jupiter.api.extension.BeforeEachCallback;
import org.junit.jupiter.api.extension.ExtensionContext;

/**
 * Lets a test's CUDA devices be the emulated one of native/test/cuda, whose memory no host code can read; or, where the system property
 * {@code puna.cuda.library} is set, what that library finds.
 */
public final class CudaLibrary implements BeforeEachCallback, AfterEachCallback {
    /** Names the library. */
    public static final String PROPERTY = "puna.cuda.library";

    private boolean named;

    @Override
    public void beforeEach(ExtensionContext context) {
        if (System.getProperty(PROPERTY) == null) {
            Path emulated = TestData.repository().resolve("bindings/target/native/libpuna_cuda_emulated.so");
            Assumptions.assumeTrue(Files.exists(emulated), "the native build found no C++ compiler");
            System.setProperty(PROPERTY, emulated.toString());
            named = true;
        }
    }

    @Override
    public void afterEach(ExtensionContext context) {
        if (named) {
            System.clearProperty(PROPERTY);
            named = false;
        }
    }
}
