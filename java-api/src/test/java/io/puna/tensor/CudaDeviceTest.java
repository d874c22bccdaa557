package io.puna.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.puna.CudaLibrary;
import io.puna.LlamaModel;
import io.puna.ModelOptions;
import io.puna.TestData;
import io.puna.generate.GenerationOptions;
import io.puna.generate.GenerationResult;
import io.puna.generate.Session;
import io.puna.kernel.Add;
import io.puna.kernel.ArgMax;
import io.puna.kernel.KvCache;
import io.puna.kernel.KvStep;
import io.puna.kernel.MatMul;
import io.puna.kernel.Workspace;
import io.puna.model.LlamaForward;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

/** A device with memory of its own, and the same model on it. */
@ExtendWith(CudaLibrary.class)
class CudaDeviceTest {
    @Test
    void computesOnItsOwnMemory() {
        try (Device device = Device.cuda(0); Arena arena = Arena.ofConfined()) {
            assertThat(device.backend()).startsWith("cuda:0 ");
            assertThat(device.hasOwnMemory()).isTrue();
            Tensor x = Tensor.of(arena, new float[] {1, 2, 3, 4, 5, 6}, Shape.of(2, 3));
            Tensor there = device.allocate(arena, DType.F32, x.shape());
            device.copy(there, x);
            Tensor twice = device.allocate(arena, DType.F32, x.shape());
            device.copy(twice, there);
            Add.forward(device, twice, there);
            assertThat(twice.toFloatArray()).containsExactly(2, 4, 6, 8, 10, 12);
            assertThat(twice.rows(1, 1).toFloatArray()).containsExactly(8, 10, 12);
            assertThat(twice.columns(1, 2).toFloatArray()).containsExactly(4, 6, 10, 12);
            assertThat(twice.reshape(Shape.of(3, 2)).rows(1, 1).toFloatArray()).containsExactly(6, 8);
            Tensor best = device.allocate(arena, DType.I32, Shape.of(2));
            ArgMax.forward(device, best, twice);
            assertThat(best.toIntArray()).containsExactly(2, 2);
            device.clear(twice.rows(1, 1));
            assertThat(twice.toFloatArray()).containsExactly(2, 4, 6, 0, 0, 0);
            device.clear(x);
            assertThat(x.toFloatArray()).containsOnly(0);
            assertThatThrownBy(() -> device.clear(twice.columns(1, 2))).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("contiguous");
        }
    }

    @Test
    void hostCodeCannotTouchIt() {
        try (Device device = Device.cuda(0); Arena arena = Arena.ofConfined()) {
            Tensor there = device.allocate(arena, DType.F32, Shape.of(2, 3));
            assertThat(there.segment().byteSize()).isZero();
            assertThatThrownBy(() -> there.getFloat(0, 0)).isInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("expected memory of the host, got cuda:0");
            assertThatThrownBy(() -> there.segment().get(ValueLayout.JAVA_FLOAT, 0)).isInstanceOf(IndexOutOfBoundsException.class);
            assertThatThrownBy(() -> there.rows(1, 1).segment().get(ValueLayout.JAVA_FLOAT, 0))
                    .isInstanceOf(IndexOutOfBoundsException.class);
        }
    }

    @Test
    void memoryOfTheWrongPlaceIsRefused() {
        try (Device device = Device.cuda(0); Device other = Device.cuda(0); Device cpu = Device.cpu(1);
                Arena arena = Arena.ofConfined()) {
            Tensor here = Tensor.of(arena, new float[] {1, 2}, Shape.of(2));
            Tensor there = device.allocate(arena, DType.F32, Shape.of(2));
            device.copy(there, here);
            assertThatThrownBy(() -> Add.forward(device, there, here)).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("x, 8 bytes at").hasMessageContaining("is not memory of this context's device");
            assertThatThrownBy(() -> Add.forward(cpu, here, there)).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("is not host memory");
            assertThatThrownBy(() -> Add.forward(other, there, device.allocate(arena, DType.F32, Shape.of(2)))).isInstanceOf(IllegalArgumentException.class);
            assertThatThrownBy(() -> other.copy(here, there)).isInstanceOf(IllegalArgumentException.class);
            assertThatThrownBy(() -> cpu.copy(here, there)).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("is not host memory");
            assertThatThrownBy(() -> cpu.clear(there)).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("is not host memory");
            assertThatThrownBy(() -> Add.forward(device, there, there)).isInstanceOf(IllegalArgumentException.class);
        }
    }

    @Test
    void memoryOutlivesItsDeviceAndNotItsArena() {
        Device device = Device.cuda(0);
        try (Device cpu = Device.cpu(1)) {
            Tensor late;
            try (Arena arena = Arena.ofConfined()) {
                late = device.allocate(arena, DType.F32, Shape.of(2));
                device.close();
                Tensor there = late;
                assertThatThrownBy(there::toFloatArray).isInstanceOf(IllegalStateException.class).hasMessageContaining("closed");
                assertThatThrownBy(() -> Add.forward(cpu, Tensor.allocate(arena, DType.F32, Shape.of(2)), there))
                        .isInstanceOf(IllegalArgumentException.class);
            }
            Tensor gone = late;
            assertThatThrownBy(() -> Add.forward(cpu, gone, gone)).isInstanceOf(IllegalStateException.class);
        }
    }

    @Test
    void moreThanThereIsSaysSo() {
        try (Device device = Device.cuda(0); Arena arena = Arena.ofConfined()) {
            assertThatThrownBy(() -> device.allocate(arena, DType.F32, Shape.of(1L << 40, 1L << 10)))
                    .isInstanceOf(DeviceException.class).hasMessageContaining("4503599627370496 bytes asked of cuda:0");
            assertThatThrownBy(() -> KvCache.allocate(device, 1 << 20, 1 << 10, 1 << 10, 1 << 10, DType.F32))
                    .isInstanceOf(DeviceException.class);
        }
    }

    @Test
    void whatIsNotThereHasASentence() {
        assertThatThrownBy(() -> Device.cuda(-1)).isInstanceOf(IllegalArgumentException.class);
        assertThatThrownBy(() -> Device.cuda(1000)).isInstanceOf(UnsupportedOperationException.class)
                .hasMessageContaining("there is no device cuda:1000");
        String library = System.getProperty(CudaLibrary.PROPERTY);
        try {
            System.setProperty(CudaLibrary.PROPERTY, "/nowhere/libpuna_cuda.so");
            assertThatThrownBy(() -> Device.cuda(0)).isInstanceOf(UnsupportedOperationException.class)
                    .hasMessageContaining("/nowhere/libpuna_cuda.so");
        } finally {
            System.setProperty(CudaLibrary.PROPERTY, library);
        }
    }

    /** Nothing but the device differs: prompts whole and cut, a cache that grows, next tokens, probabilities, sampling. */
    @ParameterizedTest
    @ValueSource(strings = {"models/gqa3-head80", "models/mistral-window", "models/rope-dynamic", "gguf/q4_k_m.gguf", "gguf/q8_0.gguf"})
    void aModelSaysTheSame(String name) throws Exception {
        int[] prompt = {1, 5, 9, 2, 7, 3, 3, 8, 4, 6, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
        Path path = TestData.fixture(name);
        GenerationOptions options = GenerationOptions.builder().maxTokens(12).temperature(0).logprobs(3).build();
        float[] exact = exactLogits(path, prompt);
        for (MatMul.Activations activations : List.of(MatMul.Activations.F32, MatMul.Activations.INT16)) {
            assertSame(path, ModelOptions.defaults().withActivations(activations), prompt, exact, options);
        }
    }

    /** A cache that rounds, for few rows and many: as the CPU rounds, so that little is left of what rounding moves logits by. */
    @ParameterizedTest
    @EnumSource(names = {"F16", "BF16", "Q8_0"})
    void aSmallerCacheIsTheCpus(DType cacheType) throws Exception {
        int[] prompt = {1, 5, 9, 2, 7, 3, 3, 8, 4, 6, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
        Path path = TestData.fixture("models/gqa2-head128");
        float[] exact = exactLogits(path, prompt);
        for (int stepTokens : new int[] {512, 7}) {
            ModelOptions onCpu = ModelOptions.defaults().withContextLength(64).withStepTokens(stepTokens).withCacheType(cacheType);
            try (Device device = Device.cuda(0); LlamaModel expected = LlamaModel.open(path, onCpu);
                    LlamaModel model = LlamaModel.open(path, onCpu.withDevice(device));
                    Session reference = expected.newSession(); Session session = model.newSession()) {
                float[] rounded = reference.logits(prompt);
                float[] logits = session.logits(prompt);
                float off = 0;
                float apart = 0;
                for (int i = 0; i < exact.length; i++) {
                    off = Math.max(off, Math.abs(rounded[i] - exact[i]));
                    apart = Math.max(apart, Math.abs(logits[i] - rounded[i]));
                }
                assertThat(apart).isLessThan(off / 100);
            }
        }
    }

    /** The first layers on the CPU, the others on the device: the same model, whatever the cut. */
    @ParameterizedTest
    @ValueSource(strings = {"models/gqa3-head80", "models/mistral-window", "models/rope-dynamic"})
    void layersAreDividedBetweenCpuAndDevice(String name) throws Exception {
        int[] prompt = {1, 5, 9, 2, 7, 3, 3, 8, 4, 6};
        Path path = TestData.fixture(name);
        GenerationOptions options = GenerationOptions.builder().maxTokens(8).ignoreEos(true).logprobs(2).build();
        ModelOptions onCpu = ModelOptions.defaults().withActivations(MatMul.Activations.F32).withContextLength(64).withStepTokens(7)
                .withThreads(1);
        try (Device device = Device.cuda(0); LlamaModel expected = LlamaModel.open(path, onCpu); Session reference = expected.newSession()) {
            float[] logits = reference.logits(prompt);
            List<Integer> tokens = reference.generate(prompt, options).tokens();
            int layers = expected.config().layers();
            assertThat(layers).isGreaterThan(1);
            for (int deviceLayers = 1; deviceLayers <= layers; deviceLayers++) {
                try (LlamaModel model = LlamaModel.open(path, onCpu.withDevice(device).withDeviceLayers(deviceLayers));
                        Session session = model.newSession()) {
                    assertThat(session.logits(prompt)).containsExactly(logits, within(1e-4f));
                    assertThat(session.generate(prompt, options).tokens()).isEqualTo(tokens);
                    assertThat(model.backend()).contains(deviceLayers < layers ? deviceLayers + " of " + layers + " layers on cuda:0" : "cuda:0");
                }
            }
            assertThatThrownBy(() -> LlamaModel.open(path, onCpu.withDevice(device).withDeviceLayers(layers + 1)))
                    .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("deviceLayers: expected 0 to " + layers);
        }
        assertThatThrownBy(() -> LlamaModel.open(path, onCpu.withDeviceLayers(1))).isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("only with a device that has memory of its own");
    }

    /** Two stages on the CPU: cutting changes nothing, bit for bit, with sequences of different lengths in a step. */
    @Test
    void aCutChangesNoBit() throws Exception {
        try (LlamaModel model = LlamaModel.open(TestData.fixture("models/gqa3-head80")); Device first = Device.cpu(1);
                Device last = Device.cpu(2); Arena arena = Arena.ofConfined()) {
            List<float[]> results = new ArrayList<>();
            for (int lastLayers = 1; lastLayers <= model.config().layers(); lastLayers++) {
                try (LlamaForward forward = new LlamaForward(first, last, lastLayers, model.config(), model.weights(),
                        MatMul.Activations.F32, 16); KvCache a = forward.newCache(4, DType.F32); KvCache b = forward.newCache(9, DType.F32)) {
                    Tensor logits = Tensor.allocate(arena, DType.F32, Shape.of(3, model.config().vocabularySize()));
                    int[] tokens = {3, 1, 4, 1, 5, 9, 2, 6};
                    forward.step(List.of(new LlamaForward.Part(a, tokens, 0, 3, 0, 8), new LlamaForward.Part(b, tokens, 2, 5, 0, 8)),
                            logits.rows(0, 0));
                    a.reserve(8);
                    forward.step(List.of(new LlamaForward.Part(a, tokens, 3, 5, 2, 8), new LlamaForward.Part(b, tokens, 0, 1, 1, 8)), logits);
                    results.add(logits.toFloatArray());
                }
            }
            assertThat(results).hasSizeGreaterThan(1).allSatisfy(result -> assertThat(result).isEqualTo(results.getFirst()));
        }
    }

    /**
     * Next tokens of three sequences, whose steps are recorded and replayed, and the same with a second output row asked of no one, which
     * is computed call by call: the same bits, while caches grow and sequences change places.
     */
    @ParameterizedTest
    @EnumSource(names = {"F32", "F16", "BF16"})
    void aReplayedStepHasTheBitsOfItsCalls(DType cacheType) throws Exception {
        try (Device device = Device.cuda(0);
                LlamaModel model = LlamaModel.open(TestData.fixture("models/gqa3-head80"), ModelOptions.defaults().withDevice(device));
                LlamaForward replayed = model.newForward(8); LlamaForward called = model.newForward(8); Arena arena = Arena.ofConfined()) {
            int vocabulary = model.config().vocabularySize();
            Tensor some = device.allocate(arena, DType.F32, Shape.of(3, vocabulary));
            Tensor others = device.allocate(arena, DType.F32, Shape.of(3, vocabulary));
            List<KvCache> caches = new ArrayList<>();
            List<KvCache> copies = new ArrayList<>();
            for (int i = 0; i < 4; i++) {
                caches.add(replayed.newCache(4 + i, cacheType));
                copies.add(called.newCache(4 + i, cacheType));
            }
            for (int t = 0; t < 12; t++) {
                List<LlamaForward.Part> parts = new ArrayList<>();
                List<LlamaForward.Part> same = new ArrayList<>();
                for (int i = 0; i < 3; i++) {
                    int[] token = {(7 * t + i) % vocabulary};
                    parts.add(grown(caches.get((i + t) % 3), token));
                    same.add(grown(copies.get((i + t) % 3), token));
                }
                replayed.step(parts, some);
                same.add(new LlamaForward.Part(copies.get(3), new int[] {1}, 0, 1, 0, 64)); // a row without logits
                copies.get(3).truncate(0);
                called.step(same, others);
                assertThat(some.toFloatArray()).as("step %d", t).isEqualTo(others.toFloatArray());
            }
            caches.forEach(KvCache::close);
            copies.forEach(KvCache::close);
        }
    }

    private static LlamaForward.Part grown(KvCache cache, int[] token) {
        if (cache.length() == cache.capacity()) {
            cache.reserve(2 * cache.capacity());
        }
        return new LlamaForward.Part(cache, token, 0, 1, 1, 64);
    }

    @Test
    void recordingsAreRefusedWhereTheyMakeNoSense() {
        try (Device device = Device.cuda(0); Device cpu = Device.cpu(1); Workspace workspace = new Workspace();
                Arena arena = Arena.ofConfined(); KvCache cache = KvCache.allocate(device, 1, 1, 8, 4, DType.F32)) {
            Tensor x = device.allocate(arena, DType.F32, Shape.of(1, 8));
            assertThatThrownBy(() -> cpu.record(on -> { })).isInstanceOf(UnsupportedOperationException.class)
                    .hasMessageContaining("CPU, which carries calls out as they come");
            Tensor best = device.allocate(arena, DType.I32, Shape.of(1));
            assertThatThrownBy(() -> device.record(on -> ArgMax.forward(on, best, x))).isInstanceOf(UnsupportedOperationException.class)
                    .hasMessageContaining("puna_argmax_forward: cannot be recorded");
            assertThatThrownBy(() -> device.record(on -> on.allocate(arena, DType.F32, Shape.of(8))))
                    .isInstanceOf(UnsupportedOperationException.class);
            Device[] kept = new Device[1];
            try (KvStep step = KvStep.begin(workspace, List.of(new KvStep.Part(cache, 1)));
                    Recording recording = device.record(on -> {
                        step.append(on, 0, x, x);
                        kept[0] = on;
                    })) {
                step.replay(recording, 0);
                assertThatThrownBy(() -> step.append(kept[0], 0, x, x)).isInstanceOf(IllegalArgumentException.class)
                        .hasMessageContaining("a recording that has ended");
                assertThatThrownBy(() -> step.replay(recording, 1)).isInstanceOf(IndexOutOfBoundsException.class);
                recording.close();
                assertThatThrownBy(() -> step.replay(recording, 0)).isInstanceOf(IllegalStateException.class);
            }
            try (KvStep step = KvStep.begin(workspace, List.of(new KvStep.Part(cache, 2)))) {
                Tensor two = device.allocate(arena, DType.F32, Shape.of(2, 8));
                assertThatThrownBy(() -> device.record(on -> step.append(on, 0, two, two)))
                        .isInstanceOf(UnsupportedOperationException.class).hasMessageContaining("one row each");
            }
        }
    }

    /** What does not fit says how many layers would; all but the emulated device have more than can be taken here. */
    @Test
    void aModelThatDoesNotFitSaysHowManyLayersWould() throws Exception {
        Path path = TestData.fixture("models/gqa3-head80");
        try (Device device = Device.cuda(0); LlamaModel onCpu = LlamaModel.open(path); Arena arena = Arena.ofConfined()) {
            Assumptions.assumeTrue(device.backend().contains("emulated"));
            ModelOptions options = ModelOptions.defaults().withDevice(device).withContextLength(32);
            long activations = LlamaForward.byteSize(onCpu.config(), 32);
            long room = onCpu.weights().byteSize(1) + activations + 64;
            device.allocate(arena, DType.Q8_0, Shape.of((device.freeMemory() - room) / 34, 32));
            int layers = onCpu.config().layers();
            assertThatThrownBy(() -> LlamaModel.open(path, options)).isInstanceOf(DeviceException.class)
                    .hasMessageContaining(layers + " of " + layers + " layers with the output and the activations take "
                            + (onCpu.weights().byteSize(layers) + activations) + " bytes of cuda:0")
                    .hasMessageContaining(device.freeMemory() + " are free; 1 layers would fit");
            device.allocate(arena, DType.F32, Shape.of(room / 8));
            assertThatThrownBy(() -> LlamaModel.open(path, options.withDeviceLayers(1))).isInstanceOf(DeviceException.class)
                    .hasMessageContaining("not even one layer would fit");
        }
    }

    private static float[] exactLogits(Path path, int[] prompt) throws Exception {
        try (LlamaModel model = LlamaModel.open(path, ModelOptions.defaults().withActivations(MatMul.Activations.F32).withContextLength(64));
                Session session = model.newSession()) {
            return session.logits(prompt);
        }
    }

    /** Draws are those of the CPU: both have the same logits to four digits, and no draw here is that near to a bound. */
    private static void assertDrawsTheSame(Session session, Session reference, int[] prompt) {
        GenerationOptions.Builder draws = GenerationOptions.builder().maxTokens(6).ignoreEos(true).seed(3).logprobs(2);
        for (GenerationOptions options : List.of(draws.temperature(0.8).topK(40).topP(0.95).minP(0.05).build(),
                draws.temperature(1).topK(0).topP(0.9).minP(0).build(), draws.topP(1).minP(0.02).build(), draws.minP(0).build(),
                draws.repetitionPenalty(1.1).build())) {
            assertThat(session.generate(prompt, options).tokens()).isEqualTo(reference.generate(prompt, options).tokens());
        }
    }

    /** The device's logits: as near to the exact ones as 1e-4, or as twice what the CPU is off by where it rounds activations too. */
    private static void assertSame(Path path, ModelOptions base, int[] prompt, float[] exact, GenerationOptions options) throws Exception {
        for (int stepTokens : new int[] {512, 7}) {
            ModelOptions onCpu = base.withContextLength(64).withStepTokens(stepTokens).withThreads(1);
            try (Device device = Device.cuda(0); LlamaModel expected = LlamaModel.open(path, onCpu);
                    LlamaModel model = LlamaModel.open(path, onCpu.withDevice(device)); Arena arena = Arena.ofConfined();
                    Session reference = expected.newSession(); Session session = model.newSession()) {
                float[] logits = session.logits(prompt);
                float[] rounded = reference.logits(prompt);
                float off = 0;
                for (int i = 0; i < exact.length; i++) {
                    off = Math.max(off, Math.abs(rounded[i] - exact[i]));
                }
                for (int i = 0; i < exact.length; i++) {
                    assertThat(logits[i]).isCloseTo(exact[i], within(Math.max(2 * off, 1e-4f * Math.max(1, Math.abs(exact[i])))));
                }
                assertThat(session.logits(arena, prompt).rows(19, 1).toFloatArray()).containsExactly(logits, within(1e-4f));
                GenerationResult result = session.generate(prompt, options);
                GenerationResult same = reference.generate(prompt, options);
                assertThat(result.tokens()).isEqualTo(same.tokens());
                assertDrawsTheSame(session, reference, prompt);
            }
        }
    }
}
