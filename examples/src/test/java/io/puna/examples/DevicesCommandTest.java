package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class DevicesCommandTest {
    @BeforeEach
    void nameALibraryThatIsNotThere() {
        System.setProperty("puna.cuda.library", Path.of("/nowhere/libpuna_cuda.so").toString());
    }

    @AfterEach
    void forgetIt() {
        System.clearProperty("puna.cuda.library");
    }

    @Test
    void whatIsThereAndWhyNot() {
        Run run = Run.puna("devices");
        assertThat(run.code()).isZero();
        assertThat(run.out()).startsWith("cpu ").contains("no cuda ").contains("/nowhere/libpuna_cuda.so");
    }

    @Test
    void aDeviceThatIsNotThereIsASentence() {
        Run run = Run.puna("generate", "--model", Samples.fixture("gguf/f32.gguf").toString(), "--device", "cuda:0", "a");
        assertThat(run.code()).isEqualTo(ExitCode.USAGE);
        assertThat(run.err()).contains("/nowhere/libpuna_cuda.so").hasLineCount(1);
        Run bad = Run.puna("generate", "--model", Samples.fixture("gguf/f32.gguf").toString(), "--device", "gpu", "a");
        assertThat(bad.code()).isEqualTo(ExitCode.USAGE);
        assertThat(bad.err()).contains("expected cpu or cuda:N, got gpu");
    }
}
