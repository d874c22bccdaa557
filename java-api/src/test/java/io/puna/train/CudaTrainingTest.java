package io.puna.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.puna.CudaLibrary;
import io.puna.TestData;
import io.puna.format.Safetensors;
import io.puna.kernel.Rope;
import io.puna.model.LlamaConfig;
import io.puna.model.LoraAdapter;
import io.puna.model.RopeScaling;
import io.puna.tensor.Device;
import io.puna.tensor.DeviceException;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Training on a device with memory of its own, held against PyTorch's gradients and the CPU's runs. */
@ExtendWith(CudaLibrary.class)
class CudaTrainingTest {
    private static final double TOLERANCE = 1e-4;
    private static final LlamaConfig CONFIG = new LlamaConfig("LlamaForCausalLM", 61, 24, 2, 6, 2, 8, 40, 64, 1e-5f, 10_000,
            new RopeScaling.None(), Rope.Layout.HALVES, 0, true, 1, List.of(2));

    @TempDir
    private Path folder;

    private static FixedBatches batches(int count) {
        return TrainerTest.batches(count, 2, 13);
    }

    private static TrainingOptions options(long steps) {
        return TrainingOptions.of(steps, 2, 13, 3e-3).withSchedule(2, Schedule.COSINE);
    }

    @ParameterizedTest
    @ValueSource(strings = {"mha-odd", "gqa3-tied", "mistral-window", "rope-llama3"})
    void everyTensorsGradientIsTheReferencesAndPoliciesShareTheirBits(String name) throws IOException {
        GradientGoldenTest.Batch batch = GradientGoldenTest.Batch.read(name);
        float[] bits = null;
        try (Device device = Device.cuda(0); Parameters weights = GradientGoldenTest.parameters(device, TestData.fixture("models/" + name));
                Parameters gradient = Parameters.zeros(device, weights.config());
                Safetensors expected = Safetensors.open(TestData.fixture("gradients/" + name + ".safetensors"))) {
            for (Recomputation recomputation : Recomputation.values()) {
                try (LossGradient loss = new LossGradient(device, weights.config(), recomputation, batch.sequences(),
                        batch.ids().length / batch.sequences())) {
                    gradient.clear();
                    double sum = loss.accumulate(gradient, weights, batch.ids(), batch.targets(), 1f / batch.counted());
                    double wanted = batch.expected().get("loss").doubleValue();
                    assertThat(sum / batch.counted()).isCloseTo(wanted, within(wanted * 1e-5));
                    assertThat(loss.loss(weights, batch.ids(), batch.targets())).isEqualTo(sum);
                    for (Map.Entry<String, Tensor> entry : gradient.tensors().entrySet()) {
                        assertThat(GradientGoldenTest.difference(entry.getValue(), expected.tensors().get(entry.getKey())))
                                .as(recomputation + " " + entry.getKey()).isLessThan(TOLERANCE);
                    }
                    float[] got = gradient.all().toFloatArray();
                    assertThat(got).isEqualTo(bits == null ? got : bits);
                    bits = got;
                }
            }
        }
    }

    @Test
    void documentsAreKeptApartAsOnTheCpuAndPoliciesShareTheirBits() {
        DocumentsApartTest.Packed batch = DocumentsApartTest.Packed.of(2, 9, 1, 13, 4, 19);
        float[] bits = null;
        try (Device cpu = Device.cpu(1); Device device = Device.cuda(0); Parameters there = Parameters.random(cpu, CONFIG, 1);
                Parameters expected = Parameters.zeros(cpu, CONFIG); Parameters weights = Parameters.random(device, CONFIG, 1);
                Parameters gradient = Parameters.zeros(device, CONFIG)) {
            double wanted = batch.accumulateEach(cpu, expected, there);
            for (Recomputation recomputation : Recomputation.values()) {
                try (LossGradient loss = new LossGradient(device, CONFIG, recomputation, 2, batch.tokens())) {
                    gradient.clear();
                    assertThat(loss.accumulate(gradient, weights, batch.ids(), batch.targets(), batch.begins(), 1))
                            .isCloseTo(wanted, within(1e-5 * wanted));
                }
                expected.tensors().forEach((name, tensor) ->
                        assertThat(GradientGoldenTest.difference(gradient.tensors().get(name), tensor))
                                .as(recomputation + " " + name).isLessThan(TOLERANCE));
                float[] got = gradient.all().toFloatArray();
                assertThat(got).isEqualTo(bits == null ? got : bits);
                bits = got;
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"mha-odd", "gqa3-tied", "mistral-window", "rope-llama3"})
    void productsInBf16StayWithinTheRule(String name) throws IOException {
        try (Device device = Device.cuda(0, Device.Precision.BF16)) {
            GradientGoldenTest.assertWithinTheRuleOfBf16(device, name);
        }
    }

    /** Both layouts of heads, blocks and plain types: decoded on the device as on the CPU. */
    @ParameterizedTest
    @ValueSource(strings = {"models/gqa3-tied", "gguf/q4_k_m.gguf", "gguf/q8_0.gguf"})
    void weightsComeToTheDeviceAsTheyAre(String name) throws IOException {
        Path file = TestData.fixture(name);
        try (Device cpu = Device.cpu(1); Device device = Device.cuda(0); Parameters expected = GradientGoldenTest.parameters(cpu, file);
                Parameters got = GradientGoldenTest.parameters(device, file)) {
            assertThat(got.config()).isEqualTo(expected.config());
            assertThat(got.all().toFloatArray()).isEqualTo(expected.all().toFloatArray());
        }
    }

    /** Clipped steps, evaluations, and the weights that a run ends with. */
    @Test
    void aRunIsTheCpus() throws IOException {
        List<Trainer.Step> expected = new ArrayList<>();
        double held;
        float[] before;
        float[] after;
        TrainingOptions options = options(12).withAccumulate(2).withClip(0.5, 0);
        try (Device cpu = Device.cpu(1); Parameters weights = Parameters.random(cpu, CONFIG, 1);
                Trainer trainer = new Trainer(cpu, weights, batches(3), options)) {
            before = weights.all().toFloatArray();
            for (int i = 0; i < 6; i++) {
                expected.add(trainer.step());
            }
            held = trainer.evaluate(batches(2), 2);
            after = weights.all().toFloatArray();
        }
        try (Device device = Device.cuda(0); Parameters weights = Parameters.random(device, CONFIG, 1);
                Trainer trainer = new Trainer(device, weights, batches(3), options)) {
            assertThat(weights.all().toFloatArray()).isEqualTo(before);
            for (Trainer.Step wanted : expected) {
                Trainer.Step step = trainer.step();
                assertThat(step.loss()).isCloseTo(wanted.loss(), within(1e-5));
                assertThat(step.gradientNorm()).isGreaterThan(0.5).isCloseTo(wanted.gradientNorm(), within(1e-4));
            }
            assertThat(trainer.evaluate(batches(2), 2)).isCloseTo(held, within(1e-5));
            assertThat(difference(weights.all().toFloatArray(), after, before)).isLessThan(1e-2);
            ModelDirectory.writeWeights(folder, weights);
            try (Safetensors written = Safetensors.open(folder.resolve("model.safetensors"))) {
                weights.tensors().forEach((name, tensor) ->
                        assertThat(written.tensors().get(name).toFloatArray()).isEqualTo(tensor.toFloatArray()));
            }
        }
    }

    /** The length of the difference over the length of the way from where both began: AdamW divides by gradients that are nearly none. */
    private static double difference(float[] got, float[] expected, float[] start) {
        double difference = 0;
        double way = 0;
        for (int i = 0; i < got.length; i++) {
            difference += Math.pow((double) got[i] - expected[i], 2);
            way += Math.pow((double) expected[i] - start[i], 2);
        }
        return Math.sqrt(difference / way);
    }

    @Test
    void aRunTakenUpAgainHasTheBitsOfOneThatNeverStopped() throws IOException {
        float[] whole;
        List<Double> losses = new ArrayList<>();
        try (Device device = Device.cuda(0); Parameters weights = Parameters.random(device, CONFIG, 1);
                Trainer trainer = new Trainer(device, weights, batches(5), options(9).withAccumulate(2))) {
            while (trainer.steps() < 9) {
                losses.add(trainer.step().loss());
                if (trainer.steps() == 4) {
                    trainer.save(folder);
                }
            }
            whole = weights.all().toFloatArray();
        }
        try (Device device = Device.cuda(0); Parameters weights = Parameters.random(device, CONFIG, 99);
                Trainer trainer = new Trainer(device, weights, batches(5),
                        options(9).withAccumulate(2).withRecomputation(Recomputation.STORE_ALL))) {
            trainer.restore(folder);
            while (trainer.steps() < 9) {
                assertThat(trainer.step().loss()).isEqualTo(losses.get((int) trainer.steps() - 1));
            }
            assertThat(weights.all().toFloatArray()).isEqualTo(whole);
        }
        // What a device saved a CPU takes up, and as far as it rounds alike.
        try (Device cpu = Device.cpu(2); Parameters weights = Parameters.random(cpu, CONFIG, 99);
                Trainer trainer = new Trainer(cpu, weights, batches(5), options(9).withAccumulate(2))) {
            trainer.restore(folder);
            assertThat(trainer.step().loss()).isCloseTo(losses.get(4), within(1e-5));
        }
    }

    @Test
    void numbersThatAreNoneStopTheRunByNameAndOutliersAreLeftOut() throws IOException {
        try (Device device = Device.cuda(0); Parameters weights = Parameters.random(device, CONFIG, 1);
                Trainer trainer = new Trainer(device, weights, batches(1), TrainingOptions.of(60, 2, 13, 1e-5).withClip(1, 1.5))) {
            for (int i = 0; i < 21; i++) {
                assertThat(trainer.step().skipped()).isFalse();
            }
            Tensor norm = weights.tensors().get("model.norm.weight");
            float[] leap = norm.toFloatArray();
            for (int i = 0; i < leap.length; i++) {
                leap[i] *= 4;
            }
            put(device, norm, leap);
            float[] before = weights.all().toFloatArray();
            assertThat(trainer.step().skipped()).isTrue();
            assertThat(weights.all().toFloatArray()).isEqualTo(before);

            Tensor up = weights.tensors().get("model.layers.1.mlp.up_proj.weight");
            float[] values = up.toFloatArray();
            values[7] = Float.NaN;
            put(device, up, values);
            before = weights.all().toFloatArray();
            assertThatThrownBy(trainer::step).isInstanceOf(TrainingException.class)
                    .hasMessageContaining("step 23").hasMessageContaining("in model.layers.1.mlp.up_proj.weight");
            assertThat(weights.all().toFloatArray()).isEqualTo(before);
        }
    }

    private static void put(Device device, Tensor tensor, float[] values) {
        try (Arena arena = Arena.ofConfined()) {
            device.copy(tensor, Tensor.of(arena, values, tensor.shape()));
        }
    }

    @Test
    void anAdapterIsTrainedAsOnTheCpu() throws IOException {
        List<Double> losses = new ArrayList<>();
        float[] expected = null;
        for (Device device : new Device[] {Device.cpu(1), Device.cuda(0)}) {
            try (device; Parameters weights = Parameters.random(device, CONFIG, 1);
                    LoraAdapter adapter = LoraAdapter.random(device, CONFIG, 3, 5, EnumSet.allOf(LoraAdapter.Target.class), 1);
                    Trainer trainer = new Trainer(device, weights, adapter, batches(2), options(9))) {
                float[] start = adapter.all().toFloatArray();
                for (int i = 0; i < 5; i++) {
                    double loss = trainer.step().loss();
                    if (expected == null) {
                        losses.add(loss);
                    } else {
                        assertThat(loss).isCloseTo(losses.get(i), within(1e-5));
                    }
                }
                if (expected == null) {
                    expected = adapter.all().toFloatArray();
                    continue;
                }
                assertThat(difference(adapter.all().toFloatArray(), expected, start)).isLessThan(1e-2);
                adapter.save(folder);
                trainer.save(folder);
                double next = trainer.step().loss();
                float[] after = weights.all().toFloatArray();
                trainer.restore(folder);
                assertThat(trainer.step().loss()).isEqualTo(next);
                assertThat(weights.all().toFloatArray()).isEqualTo(after);
                trainer.restore(folder);
                try (LoraAdapter back = LoraAdapter.open(device, folder, CONFIG)) {
                    assertThat(back.all().toFloatArray()).isEqualTo(adapter.all().toFloatArray());
                }
            }
        }
    }

    /** Heads whose pairs are interleaved, as a GGUF file has them, get an adapter's rows in their order on either device. */
    @Test
    void anAdapterIsAddedToHeadsOfEitherLayout() {
        float[] expected = null;
        for (Device device : new Device[] {Device.cpu(1), Device.cuda(0)}) {
            try (device; Parameters weights = Parameters.random(device, CONFIG, 1);
                    LoraAdapter adapter = LoraAdapter.random(device, CONFIG, 4, 8, EnumSet.of(LoraAdapter.Target.K_PROJ), 1)) {
                float[] values = new float[(int) adapter.all().shape().elements()];
                for (int i = 0; i < values.length; i++) {
                    values[i] = (i * 37 % 101 - 50) / 100f;
                }
                put(device, adapter.all(), values);
                adapter.add(weights.weights(), Rope.Layout.INTERLEAVED);
                float[] got = weights.tensors().get("model.layers.1.self_attn.k_proj.weight").toFloatArray();
                assertThat(got).containsExactly(expected == null ? got : expected, within(1e-5f));
                expected = got;
            }
        }
    }

    @Test
    void whatDoesNotFitSaysWhatIsThere() throws IOException {
        LlamaConfig large = new LlamaConfig("LlamaForCausalLM", 1 << 20, 1 << 18, 2, 1 << 11, 1 << 11, 128, 1 << 18, 64, 1e-5f, 10_000,
                new RopeScaling.None(), Rope.Layout.HALVES, 0, true, 1, List.of(2));
        try (Device device = Device.cuda(0)) {
            assertThatThrownBy(() -> Parameters.zeros(device, large)).isInstanceOf(DeviceException.class)
                    .hasMessageContaining(4 * Parameters.count(large) + " bytes asked of cuda:0").hasMessageContaining("are free");
            assertThatThrownBy(() -> new LossGradient(device, large, Recomputation.STORE_ALL, 1 << 16, 64))
                    .isInstanceOf(DeviceException.class).hasMessageContaining("bytes asked of cuda:0");
        }
    }

    @Test
    void memoryOfTheWrongPlaceIsRefusedBeforeAStep() {
        try (Device device = Device.cuda(0); Device other = Device.cuda(0); Device cpu = Device.cpu(1);
                Parameters here = Parameters.random(cpu, CONFIG, 1); Parameters there = Parameters.random(device, CONFIG, 1);
                LoraAdapter adapter = LoraAdapter.random(cpu, CONFIG, 1, 1, EnumSet.of(LoraAdapter.Target.Q_PROJ), 1)) {
            assertThatThrownBy(() -> new Trainer(device, here, batches(1), options(9))).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("weights: expected memory of cuda:0").hasMessageEndingWith("got that of the host");
            assertThatThrownBy(() -> new Trainer(other, there, batches(1), options(9))).isInstanceOf(IllegalArgumentException.class);
            assertThatThrownBy(() -> new Trainer(cpu, there, batches(1), options(9))).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("weights: expected memory of the host, got that of cuda:0");
            assertThatThrownBy(() -> new Trainer(device, there, adapter, batches(1), options(9)))
                    .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("adapter: expected memory of cuda:0");
        }
    }

    /** A file that cannot be finished, because its tensors' device is gone, is not left behind. */
    @Test
    void aDeviceThatIsClosedSavesNothing() throws IOException {
        Device device = Device.cuda(0);
        try (Parameters weights = Parameters.random(device, CONFIG, 1)) {
            Tensor row = weights.all().columns(0, 6).reshape(Shape.of(2, 3));
            assertThat(row.toFloatArray()).hasSize(6);
            device.close();
            assertThatThrownBy(() -> ModelDirectory.writeWeights(folder, weights)).isInstanceOf(IllegalStateException.class);
            try (var files = Files.list(folder)) {
                assertThat(files).isEmpty();
            }
        }
    }
}
