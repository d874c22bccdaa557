package io.puna.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.puna.TestData;
import io.puna.format.Checkpoint;
import io.puna.format.Safetensors;
import io.puna.model.LlamaConfig;
import io.puna.model.LlamaWeights;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** The gradient of whole models, and a hundred steps of training, against PyTorch's: {@code make_gradients.py} wrote what is expected. */
class GradientGoldenTest {
    /** Of a gradient's norm, as the length of the difference. */
    private static final double GRADIENT_TOLERANCE = 1e-4;
    private static final double LOSS_TOLERANCE = 1e-3;

    record Batch(int[] ids, int[] targets, int sequences, JsonNode expected) {
        static Batch read(String name) throws IOException {
            JsonNode expected = new ObjectMapper().readTree(TestData.fixture("gradients/" + name + ".json").toFile());
            return new Batch(flat(expected.get("ids")), flat(expected.get("targets")), expected.get("ids").size(), expected);
        }

        private static int[] flat(JsonNode rows) {
            List<Integer> values = new ArrayList<>();
            rows.forEach(row -> row.forEach(value -> values.add(value.intValue())));
            return values.stream().mapToInt(Integer::intValue).toArray();
        }

        int counted() {
            return (int) Arrays.stream(targets).filter(target -> target != BatchSource.IGNORED).count();
        }

        BatchSource source() {
            return new FixedBatches(new int[][] {ids}, new int[][] {targets});
        }
    }

    static Parameters parameters(Device device, Path model) throws IOException {
        try (Checkpoint checkpoint = Checkpoint.open(model)) {
            LlamaConfig config = LlamaConfig.of(checkpoint);
            return Parameters.copyOf(device, config, LlamaWeights.of(checkpoint, config));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"mha-odd", "gqa3-tied", "mistral-window", "rope-llama3"})
    void everyTensorsGradientIsTheReferences(String name) throws IOException {
        Batch batch = Batch.read(name);
        try (Device device = Device.cpu(2); Parameters weights = parameters(device, TestData.fixture("models/" + name));
                Safetensors expected = Safetensors.open(TestData.fixture("gradients/" + name + ".safetensors"))) {
            for (Recomputation recomputation : Recomputation.values()) {
                try (Parameters gradient = Parameters.zeros(device, weights.config());
                        LossGradient loss = new LossGradient(device, weights.config(), recomputation, batch.sequences,
                                batch.ids.length / batch.sequences)) {
                    double sum = loss.accumulate(gradient, weights, batch.ids, batch.targets, 1f / batch.counted());
                    double wanted = batch.expected.get("loss").doubleValue();
                    assertThat(sum / batch.counted()).isCloseTo(wanted, within(wanted * 1e-5));
                    assertThat(loss.loss(weights, batch.ids, batch.targets)).isEqualTo(sum);
                    assertThat(gradient.tensors().keySet()).containsExactlyInAnyOrderElementsOf(expected.tensors().keySet());
                    for (Map.Entry<String, Tensor> entry : gradient.tensors().entrySet()) {
                        assertThat(difference(entry.getValue(), expected.tensors().get(entry.getKey())))
                                .as(recomputation + " " + entry.getKey()).isLessThan(GRADIENT_TOLERANCE);
                    }
                }
            }
        }
    }

    /** The scalar reference rounds everywhere, the fast kernels where the processor multiplies BF16. */
    @ParameterizedTest
    @ValueSource(strings = {"mha-odd", "gqa3-tied", "mistral-window", "rope-llama3"})
    void productsInBf16StayWithinTheRule(String name) throws IOException {
        for (Device.Isa isa : List.of(Device.Isa.REFERENCE, Device.Isa.AUTO)) {
            try (Device device = Device.cpu(2, isa, Device.Precision.BF16)) {
                if (device.backend().contains("BF16")) {
                    assertWithinTheRuleOfBf16(device, name);
                }
            }
        }
    }

    /** No gradient is three times as far off as PyTorch's in BF16, all are further off than in F32, and policies share their bits. */
    static void assertWithinTheRuleOfBf16(Device device, String name) throws IOException {
        Batch batch = Batch.read(name);
        float[] bits = null;
        try (Parameters weights = parameters(device, TestData.fixture("models/" + name));
                Parameters gradient = Parameters.zeros(device, weights.config());
                Safetensors expected = Safetensors.open(TestData.fixture("gradients/" + name + ".safetensors"))) {
            assertThat(device.backend()).contains("BF16");
            for (Recomputation recomputation : Recomputation.values()) {
                try (LossGradient loss = new LossGradient(device, weights.config(), recomputation, batch.sequences,
                        batch.ids.length / batch.sequences)) {
                    gradient.clear();
                    loss.accumulate(gradient, weights, batch.ids, batch.targets, 1f / batch.counted());
                }
                float[] got = gradient.all().toFloatArray();
                assertThat(got).isEqualTo(bits == null ? got : bits);
                bits = got;
            }
            gradient.tensors().forEach((tensor, got) -> assertThat(difference(got, expected.tensors().get(tensor))).as(tensor)
                    .isBetween(GRADIENT_TOLERANCE, 3 * batch.expected.get("bf16_errors").get(tensor).doubleValue()));
        }
    }

    /** The length of the difference over the length of what is expected. */
    static double difference(Tensor got, Tensor expected) {
        float[] a = got.toFloatArray();
        float[] b = expected.toFloatArray();
        assertThat(a).hasSameSizeAs(b);
        double difference = 0;
        double whole = 0;
        for (int i = 0; i < a.length; i++) {
            difference += ((double) a[i] - b[i]) * ((double) a[i] - b[i]);
            whole += (double) b[i] * b[i];
        }
        return Math.sqrt(difference / whole);
    }

    @ParameterizedTest
    @CsvSource({"mha-odd, LLAMA", "gqa3-tied, STORE_ALL", "mistral-window, FULL", "rope-llama3, LLAMA"})
    void aHundredStepsFollowTheReference(String name, Recomputation recomputation) throws IOException {
        Batch batch = Batch.read(name);
        TrainingOptions options = TrainingOptions.of(100, batch.sequences, batch.ids.length / batch.sequences, 1e-3)
                .withSchedule(0, Schedule.CONSTANT).withRecomputation(recomputation);
        try (Device device = Device.cpu(2); Parameters weights = parameters(device, TestData.fixture("models/" + name));
                Trainer trainer = new Trainer(device, weights, batch.source(), options)) {
            for (JsonNode wanted : batch.expected.get("losses")) {
                Trainer.Step step = trainer.step();
                assertThat(step.loss()).as("step " + step.step()).isCloseTo(wanted.doubleValue(), within(LOSS_TOLERANCE));
            }
            assertThat(trainer.steps()).isEqualTo(100);
        }
    }

    /** A real model, whose gradient is too large to be kept here: sums of it with patterns of signs are, which tell as much. */
    @ParameterizedTest
    @ValueSource(strings = {"hf/stories260K", "gguf/stories260K.gguf"})
    void aRealModelsGradientAndStepsAreTheReferences(String file) throws IOException {
        Batch batch = Batch.read("stories260K");
        TrainingOptions options = TrainingOptions.of(100, batch.sequences, batch.ids.length / batch.sequences, 1e-3)
                .withSchedule(0, Schedule.CONSTANT);
        try (Device device = Device.cpu(2); Parameters weights = parameters(device, TestData.require(file));
                Parameters gradient = Parameters.zeros(device, weights.config());
                LossGradient loss = new LossGradient(device, weights.config(), Recomputation.LLAMA, batch.sequences,
                        batch.ids.length / batch.sequences);
                Trainer trainer = new Trainer(device, weights, batch.source(), options)) {
            loss.accumulate(gradient, weights, batch.ids, batch.targets, 1f / batch.counted());
            JsonNode sketches = batch.expected.get("sketches");
            assertThat(gradient.tensors()).hasSize(sketches.size());
            gradient.tensors().forEach((name, tensor) -> {
                double[] sums = signedSums(tensor.toFloatArray());
                double squares = 0;
                for (int k = 0; k < sums.length; k++) {
                    squares += Math.pow(sums[k] - sketches.get(name).get("sums").get(k).doubleValue(), 2);
                }
                double norm = sketches.get(name).get("norm").doubleValue();
                assertThat(Math.sqrt(squares / sums.length) / norm).as(name).isLessThan(GRADIENT_TOLERANCE);
            });
            for (JsonNode wanted : batch.expected.get("losses")) {
                Trainer.Step step = trainer.step();
                assertThat(step.loss()).as("step " + step.step()).isCloseTo(wanted.doubleValue(), within(LOSS_TOLERANCE));
            }
        }
    }

    private static double[] signedSums(float[] values) {
        double[] sums = new double[16];
        for (int i = 0; i < values.length; i++) {
            int h = i * (int) 2654435761L;
            h ^= h >>> 15;
            h *= (int) 2246822519L;
            h ^= h >>> 13;
            for (int k = 0; k < sums.length; k++) {
                sums[k] += (h >>> k & 1) == 1 ? values[i] : -values[i];
            }
        }
        return sums;
    }

    @Test
    void everyPolicyAndNumberOfThreadsGivesTheSameBits() throws IOException {
        Batch batch = Batch.read("gqa3-tied");
        float[] bits = null;
        for (int threads : new int[] {1, 2, 3}) {
            for (Recomputation recomputation : Recomputation.values()) {
                try (Device device = Device.cpu(threads); Parameters weights = parameters(device, TestData.fixture("models/gqa3-tied"));
                        Parameters gradient = Parameters.zeros(device, weights.config());
                        LossGradient loss = new LossGradient(device, weights.config(), recomputation, batch.sequences,
                                batch.ids.length / batch.sequences)) {
                    loss.accumulate(gradient, weights, batch.ids, batch.targets, 1f / batch.counted());
                    float[] got = gradient.all().toFloatArray();
                    assertThat(got).isEqualTo(bits == null ? got : bits);
                    bits = got;
                }
            }
        }
    }
}
