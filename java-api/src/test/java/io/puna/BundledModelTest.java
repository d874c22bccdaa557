package io.puna;

import static org.assertj.core.api.Assertions.assertThat;

import io.puna.generate.FinishReason;
import io.puna.generate.GenerationOptions;
import io.puna.generate.GenerationResult;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;

class BundledModelTest {
    private static final GenerationOptions GREEDY = GenerationOptions.builder().maxTokens(40).build();

    private static final String PROMPT = "Once upon a time";
    /** Greedy: those that transformers gives, in F32 on the file's weights as the gguf package decodes them. */
    private static final List<Integer> GOLDEN = List.of(
            2014, 384, 280, 261, 379, 428, 512, 387, 2007, 321, 511, 270, 369, 689, 317, 265, 579, 2007, 417, 351, 2014,
            330, 416, 261, 411, 684, 2007, 293, 684, 280, 392, 1402, 268, 449, 270, 369, 348, 313, 2007, 13);
    private static final String TEXT = ", there was a little girl named Lily. She loved to play outside in the park."
            + " One day, she saw a big dog. The dog was very friendly and wanted to play with her.\n";

    @Test
    void tellsItsStory() throws IOException {
        try (LlamaModel model = LlamaModel.bundled()) {
            GenerationResult result = model.generate(PROMPT, GREEDY);
            assertThat(result.tokens()).isEqualTo(GOLDEN);
            assertThat(result.text()).isEqualTo(TEXT);
        }
    }

    @Test
    void itsTextIsTheSameOnAnyNumberOfThreads() throws IOException {
        GenerationOptions options = GenerationOptions.builder().maxTokens(40).temperature(0.8).seed(5).build();
        List<Integer> tokens;
        try (LlamaModel model = LlamaModel.bundled(ModelOptions.defaults().withThreads(1))) {
            tokens = model.generate(PROMPT, options).tokens();
        }
        try (LlamaModel model = LlamaModel.bundled(ModelOptions.defaults().withThreads(3))) {
            assertThat(model.generate(PROMPT, options).tokens()).isEqualTo(tokens);
        }
    }

    @Test
    void itsStoriesEnd() throws IOException {
        try (LlamaModel model = LlamaModel.bundled()) {
            GenerationOptions options = GenerationOptions.builder().maxTokens(500).temperature(0.6).seed(1).build();
            GenerationResult result = model.generate(PROMPT, options);
            assertThat(result.finishReason()).isEqualTo(FinishReason.EOS);
        }
    }

    @Test
    void theFileIsWrittenOnceAndMendedWhenItIsDamaged() throws IOException {
        Path file = LlamaModel.bundledFile();
        byte[] content = Files.readAllBytes(file);
        assertThat(content.length).isLessThanOrEqualTo(6_000_000);
        Object written = Files.getLastModifiedTime(file);
        assertThat(LlamaModel.bundledFile()).isEqualTo(file);
        assertThat(Files.getLastModifiedTime(file)).isEqualTo(written);

        Files.write(file, new byte[] {1, 2, 3});
        assertThat(LlamaModel.bundledFile()).isEqualTo(file).hasBinaryContent(content);
    }
}
