package io.puna;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.puna.generate.GenerationOptions;
import io.puna.generate.GenerationResult;
import io.puna.generate.Session;
import io.puna.tensor.Device;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.RepeatedTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;

@Timeout(value = 120, unit = TimeUnit.SECONDS)
class LlamaModelTest {
    private static final Path FIXTURES = TestData.repository().resolve("java-api/src/test/resources/fixtures");
    private static final Path MODEL = FIXTURES.resolve("gguf/f32.gguf");
    private static final GenerationOptions SOME = GenerationOptions.builder().maxTokens(20).ignoreEos(true).build();
    private static final int[] PROMPT = {1, 5, 9, 3};

    @Test
    void aClosedModelThrowsAndClosesAgainQuietly() throws IOException {
        LlamaModel model = LlamaModel.open(MODEL);
        Session session = model.newSession();
        model.close();
        model.close();
        for (Callable<?> call : List.<Callable<?>>of(model::newSession, model::tokenizer,
                () -> model.generate("Once", SOME), () -> session.generate(PROMPT, SOME), () -> session.logits(PROMPT),
                () -> model.weights().norm().toFloatArray())) {
            assertThatThrownBy(call::call).isInstanceOf(IllegalStateException.class);
        }
        session.close();
    }

    @Test
    void whoOpensAModelHearsOfItsWeights() throws Exception {
        CountDownLatch all = new CountDownLatch(1);
        long size = Files.size(MODEL);
        try (LlamaModel model = LlamaModel.open(MODEL, ModelOptions.defaults(), (bytes, total) -> {
            if (bytes == size && total == size) {
                all.countDown();
            }
        })) {
            assertThat(all.await(60, TimeUnit.SECONDS)).isTrue();
        }
    }

    @RepeatedTest(10)
    void closingWhileOthersGenerateWaitsOrThrows() throws Exception {
        LlamaModel model = LlamaModel.open(MODEL, ModelOptions.defaults().withThreads(2));
        try (ExecutorService executor = Executors.newFixedThreadPool(3)) {
            List<Future<?>> running = new ArrayList<>();
            for (int i = 0; i < 3; i++) {
                running.add(executor.submit(() -> {
                    try (Session session = model.newSession()) {
                        while (true) {
                            session.generate(PROMPT, SOME);
                        }
                    } catch (IllegalStateException e) {
                        assertThat(e).hasMessageContaining("closed");
                        return null;
                    }
                }));
            }
            Thread.sleep(ThreadLocalRandom.current().nextInt(30));
            model.close();
            for (Future<?> future : running) {
                future.get();
            }
        }
    }

    @Test
    void aDeviceThatIsPassedInIsBorrowed() throws IOException {
        try (Device device = Device.cpu(1)) {
            for (int i = 0; i < 2; i++) {
                try (LlamaModel model = LlamaModel.open(MODEL, ModelOptions.defaults().withDevice(device));
                        Session session = model.newSession()) {
                    assertThat(session.generate(PROMPT, SOME).tokens()).hasSize(20);
                }
            }
            assertThat(device.backend()).contains("1 thread");
        }
    }

    @Test
    void aModelWithoutATokenizerTakesIdsAndSaysSoOfText() throws IOException {
        try (LlamaModel model = LlamaModel.open(FIXTURES.resolve("models/gqa3-tied"))) {
            try (Session session = model.newSession()) {
                GenerationResult result = session.generate(PROMPT, SOME);
                assertThat(result.tokens()).hasSize(20);
                assertThat(result.text()).isEmpty();
                assertThatThrownBy(() -> session.generate(PROMPT, SOME.toBuilder().stop("x").build()))
                        .isInstanceOf(IllegalStateException.class).hasMessageContaining("tokenizer");
            }
            assertThatThrownBy(() -> model.generate("Once", SOME)).isInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("tokenizer");
            assertThatThrownBy(model::tokenizer).isInstanceOf(IllegalStateException.class).hasMessageContaining("tokenizer");
        }
    }

    @Test
    @EnabledOnOs(OS.LINUX)
    void openingAndClosingAHundredTimesLeavesMemoryFlat() throws IOException {
        cycle(20);
        long before = residentBytes();
        cycle(100);
        // Leaking one cache, one set of activations or one mapping a time would come to more than this.
        assertThat(residentBytes() - before).isLessThan(16L << 20);
    }

    private static void cycle(int times) throws IOException {
        for (int i = 0; i < times; i++) {
            try (LlamaModel model = LlamaModel.open(MODEL); Session session = model.newSession()) {
                session.generate(PROMPT, SOME);
            }
        }
    }

    private static long residentBytes() throws IOException {
        System.gc();
        return Files.readAllLines(Path.of("/proc/self/status")).stream().filter(line -> line.startsWith("VmRSS:"))
                .mapToLong(line -> Long.parseLong(line.replaceAll("\\D", "")) << 10).findFirst().orElseThrow();
    }
}
