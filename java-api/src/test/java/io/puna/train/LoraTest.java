package io.puna.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.puna.LlamaModel;
import io.puna.ModelOptions;
import io.puna.TestData;
import io.puna.format.CheckpointException;
import io.puna.format.Safetensors;
import io.puna.generate.Session;
import io.puna.kernel.Rope;
import io.puna.model.LlamaConfig;
import io.puna.model.LoraAdapter;
import io.puna.model.RopeScaling;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.EnumSet;
import java.util.List;
import java.util.Set;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Adapters: their gradient, their training, their files, and models that are opened with one. */
class LoraTest {
    private static final LlamaConfig CONFIG = new LlamaConfig("LlamaForCausalLM", 61, 24, 2, 6, 2, 8, 40, 64, 1e-5f, 10_000,
            new RopeScaling.None(), Rope.Layout.HALVES, 0, true, 1, List.of(2));
    private static final Set<LoraAdapter.Target> ALL = EnumSet.allOf(LoraAdapter.Target.class);

    @TempDir
    private Path folder;

    private static void randomise(Tensor tensor, double size, long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        for (long i = 0; i < tensor.shape().elements(); i++) {
            tensor.segment().setAtIndex(ValueLayout.JAVA_FLOAT, i, (float) (size * random.nextGaussian()));
        }
    }

    /** {@return the same weights, so large that what blocks do is heard in the logits, which can be far apart} */
    private static Parameters strong(Parameters weights) {
        randomise(weights.all(), 0.3, 7);
        Tensor norm = weights.tensors().get("model.norm.weight");
        for (int i = 0; i < norm.shape().elements(); i++) {
            norm.segment().setAtIndex(ValueLayout.JAVA_FLOAT, i, 4);
        }
        return weights;
    }

    private static FixedBatches batch() {
        SplittableRandom random = new SplittableRandom(5);
        return new FixedBatches(new int[][] {random.ints(26, 0, 61).toArray()}, new int[][] {random.ints(26, 0, 61).toArray()});
    }

    @Test
    void theGradientIsTheSlopeOfTheLoss() {
        theGradientIsTheSlopeOfTheLoss(ALL);
        theGradientIsTheSlopeOfTheLoss(EnumSet.of(LoraAdapter.Target.V_PROJ, LoraAdapter.Target.UP_PROJ));
    }

    private static void theGradientIsTheSlopeOfTheLoss(Set<LoraAdapter.Target> layers) {
        int[] ids = new int[26];
        int[] targets = new int[26];
        batch().next(ids, targets, 2);
        try (Device device = Device.cpu(1, Device.Isa.REFERENCE); Parameters base = Parameters.random(device, CONFIG, 1);
                LoraAdapter adapter = LoraAdapter.random(device, CONFIG, 3, 5, layers, 1);
                LoraAdapter gradient = adapter.zeros();
                LossGradient loss = new LossGradient(device, CONFIG, Recomputation.LLAMA, 2, 13)) {
            strong(base);
            randomise(adapter.all(), 0.1, 8);
            float[] before = base.all().toFloatArray();
            adapter.add(base.weights(), Rope.Layout.HALVES);
            loss.accumulate(gradient, adapter, base, ids, targets, 1);

            float[] at = adapter.all().toFloatArray();
            double[] direction = new SplittableRandom(4).doubles(at.length).map(u -> u - 0.5).toArray();
            double expected = 0;
            double length = 0;
            for (int i = 0; i < at.length; i++) {
                float slope = gradient.all().segment().getAtIndex(ValueLayout.JAVA_FLOAT, i);
                expected += direction[i] * slope;
                length += (double) slope * slope;
            }
            double step = 1e-4;
            double[] losses = new double[2];
            for (int side = 0; side < 2; side++) {
                for (int i = 0; i < at.length; i++) {
                    adapter.all().segment().setAtIndex(ValueLayout.JAVA_FLOAT, i, (float) (at[i] + (2 * side - 1) * step * direction[i]));
                }
                base.all().segment().copyFrom(MemorySegment.ofArray(before));
                adapter.add(base.weights(), Rope.Layout.HALVES);
                losses[side] = loss.loss(base, ids, targets);
            }
            assertThat((losses[1] - losses[0]) / (2 * step)).isCloseTo(expected, within(5e-3 * Math.sqrt(length)));
        }
    }

    @Test
    void anAdapterLearnsWhileTheModelStaysAsItWas() throws IOException {
        TrainingOptions options = TrainingOptions.of(310, 2, 13, 2e-2).withSchedule(10, Schedule.COSINE).withWeightDecay(0);
        try (Device device = Device.cpu(2); Parameters weights = Parameters.random(device, CONFIG, 1);
                Parameters same = Parameters.random(device, CONFIG, 1);
                LoraAdapter adapter = LoraAdapter.random(device, CONFIG, 4, 8, ALL, 1);
                Trainer trainer = new Trainer(device, strong(weights), adapter, batch(), options)) {
            strong(same);
            double first = trainer.step().loss();
            while (trainer.steps() < 300) {
                trainer.step();
            }
            trainer.save(folder);
            double last = trainer.step().loss();
            assertThat(last).isLessThan(0.5 * first);
            float[] after = adapter.all().toFloatArray();
            adapter.add(same.weights(), Rope.Layout.HALVES);
            assertThat(weights.all().toFloatArray()).isEqualTo(same.all().toFloatArray());
            trainer.restore(folder);
            assertThat(trainer.step().loss()).isEqualTo(last);
            assertThat(adapter.all().toFloatArray()).isEqualTo(after);
        }
    }

    @Test
    void aRunOfAnotherAdapterIsNotTakenUp() throws IOException {
        TrainingOptions options = TrainingOptions.of(3, 2, 13, 1e-3);
        Set<LoraAdapter.Target> some = EnumSet.of(LoraAdapter.Target.GATE_PROJ);
        Set<LoraAdapter.Target> others = EnumSet.of(LoraAdapter.Target.UP_PROJ); // of as many numbers
        try (Device device = Device.cpu(1); Parameters weights = Parameters.random(device, CONFIG, 1);
                LoraAdapter saved = LoraAdapter.random(device, CONFIG, 4, 8, some, 1);
                Trainer trainer = new Trainer(device, weights, saved, batch(), options)) {
            trainer.step();
            trainer.save(folder);
            for (LoraAdapter other : List.of(LoraAdapter.random(device, CONFIG, 4, 16, some, 1),
                    LoraAdapter.random(device, CONFIG, 4, 8, others, 1))) {
                try (other; Parameters fresh = Parameters.random(device, CONFIG, 1);
                        Trainer another = new Trainer(device, fresh, other, batch(), options)) {
                    assertThatThrownBy(() -> another.restore(folder)).isInstanceOf(CheckpointException.class)
                            .hasMessageContaining("expected an adapter of " + other).hasMessageContaining("got " + saved);
                    assertThat(another.steps()).isZero();
                }
            }
            trainer.restore(folder);
        }
    }

    /** Whoever has the old file open, or dies meanwhile, has all of it. */
    @Test
    void aSavedConfigIsReplacedWhole() throws IOException {
        Path config = folder.resolve("adapter_config.json");
        Path before = folder.resolve("before.json");
        for (double alpha : new double[] {8, 16}) {
            try (Device device = Device.cpu(1); LoraAdapter adapter = LoraAdapter.random(device, CONFIG, 4, alpha, ALL, 1)) {
                adapter.save(folder);
            }
            if (!Files.exists(before)) {
                Files.createLink(before, config);
            }
        }
        assertThat(before).content().contains("\"lora_alpha\" : 8,");
        assertThat(config).content().contains("\"lora_alpha\" : 16,");
        assertThat(folder).isDirectoryNotContaining("glob:**.part");
    }

    @Test
    void filesAreThoseOfPeftAndComeBackAsTheyWere() throws IOException {
        EnumSet<LoraAdapter.Target> two = EnumSet.of(LoraAdapter.Target.K_PROJ, LoraAdapter.Target.DOWN_PROJ);
        try (Device device = Device.cpu(1); LoraAdapter adapter = LoraAdapter.random(device, CONFIG, 4, 8, two, 1)) {
            randomise(adapter.all(), 1, 3);
            adapter.save(folder);
            try (LoraAdapter back = LoraAdapter.open(device, folder, CONFIG);
                    Safetensors file = Safetensors.open(folder.resolve("adapter_model.safetensors"))) {
                assertThat(back.all().toFloatArray()).isEqualTo(adapter.all().toFloatArray());
                assertThat(file.tensors()).hasSize(8);
                assertThat(file.tensors().get("base_model.model.model.layers.1.mlp.down_proj.lora_A.weight").shape().dims())
                        .containsExactly(4, 40);
                assertThat(file.tensors().get("base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight").shape().dims())
                        .containsExactly(16, 4);
            }
        }
        Path config = folder.resolve("adapter_config.json");
        String json = Files.readString(config);
        for (String bad : List.of(json.replace("LORA", "IA3"), json.replace("k_proj", "lm_head"), json.replace("\"r\" : 4", "\"r\" : 5"),
                json.replace("\"r\" : 4", "\"r\" : 0"), json.replace("lora_alpha", "x"), json.replace("\"none\"", "\"all\""),
                json.replace("\"fan_in_fan_out\" : false", "\"fan_in_fan_out\" : true"),
                json.replace("\"r\" : 4", "\"r\" : 4, \"alpha_pattern\" : {\"k_proj\" : 2}"),
                json.replaceFirst(", *\"down_proj\"|\"down_proj\", *", ""))) { // leaves its tensors behind
            assertThat(bad).isNotEqualTo(json);
            Files.writeString(config, bad);
            try (Device device = Device.cpu(1)) {
                assertThatThrownBy(() -> LoraAdapter.open(device, folder, CONFIG)).isInstanceOf(CheckpointException.class);
            }
        }
    }

    /** The same model in both layouts of heads, with an adapter. */
    @Test
    void aModelOpenedWithAnAdapterIsTheMergedOne() throws IOException {
        int[] ids = {1, 403, 407, 261, 378};
        Path plain = TestData.require("hf/stories260K");
        float[] expected;
        try (Device device = Device.cpu(2); Parameters weights = GradientGoldenTest.parameters(device, plain);
                LoraAdapter adapter = LoraAdapter.random(device, weights.config(), 4, 8, ALL, 1)) {
            randomise(adapter.all(), 0.05, 3);
            adapter.save(folder.resolve("adapter"));
            adapter.add(weights.weights(), Rope.Layout.HALVES);
            ModelDirectory.prepare(folder.resolve("merged"), weights.config(), plain);
            ModelDirectory.writeWeights(folder.resolve("merged"), weights);
        }
        expected = logits(folder.resolve("merged"), ModelOptions.defaults(), ids);
        ModelOptions adapted = ModelOptions.defaults().withAdapter(folder.resolve("adapter"));
        assertThat(logits(plain, adapted, ids)).isEqualTo(expected);
        assertThat(logits(TestData.require("gguf/stories260K.gguf"), adapted, ids)).containsExactly(expected, within(1e-4f));
        assertThat(logits(plain, ModelOptions.defaults(), ids)).isNotEqualTo(expected);
    }

    private static float[] logits(Path path, ModelOptions options, int[] ids) throws IOException {
        try (LlamaModel model = LlamaModel.open(path, options); Session session = model.newSession()) {
            return session.logits(ids);
        }
    }
}
