package io.puna.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.puna.kernel.Rope;
import io.puna.model.LlamaConfig;
import io.puna.model.RopeScaling;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

/** What a run does: it learns, it is taken up again with the same bits, and it stops where it should. */
class TrainerTest {
    private static final int SEQUENCES = 2;
    private static final int TOKENS = 13;

    @TempDir
    private Path folder;

    private static LlamaConfig config(int layers, boolean tied, Rope.Layout layout) {
        return new LlamaConfig("LlamaForCausalLM", 61, 24, layers, 6, 2, 8, 40, 64, 1e-5f, 10_000, new RopeScaling.None(), layout, 0,
                tied, 1, List.of(2));
    }

    private static LlamaConfig config() {
        return config(2, true, Rope.Layout.HALVES);
    }

    /** {@return batches of random tokens; a few targets do not count} */
    static FixedBatches batches(int count, int sequences, int tokens) {
        SplittableRandom random = new SplittableRandom(5);
        int[][] ids = new int[count][sequences * tokens];
        int[][] targets = new int[count][sequences * tokens];
        for (int i = 0; i < count; i++) {
            for (int j = 0; j < ids[i].length; j++) {
                ids[i][j] = random.nextInt(61);
                targets[i][j] = random.nextInt(9) == 0 ? BatchSource.IGNORED : random.nextInt(61);
            }
        }
        return new FixedBatches(ids, targets);
    }

    private static TrainingOptions options(long steps) {
        return TrainingOptions.of(steps, SEQUENCES, TOKENS, 3e-3).withSchedule(2, Schedule.COSINE);
    }

    @ParameterizedTest
    @EnumSource(Recomputation.class)
    void oneBatchIsLearntByHeart(Recomputation recomputation) {
        TrainingOptions options = TrainingOptions.of(400, SEQUENCES, TOKENS, 1e-2).withSchedule(10, Schedule.COSINE).withWeightDecay(0)
                .withRecomputation(recomputation);
        try (Device device = Device.cpu(2); Parameters weights = Parameters.random(device, config(), 1);
                Trainer trainer = new Trainer(device, weights, batches(1, SEQUENCES, TOKENS), options)) {
            double first = trainer.step().loss();
            assertThat(first).isCloseTo(Math.log(61), within(0.2));
            double last = first;
            while (trainer.steps() < options.steps()) {
                last = trainer.step().loss();
            }
            assertThat(last).isLessThan(0.01);
        }
    }

    @ParameterizedTest
    @CsvSource({"true, HALVES", "false, INTERLEAVED"})
    void theGradientIsTheSlopeOfTheLoss(boolean tied, Rope.Layout layout) {
        LlamaConfig config = config(2, tied, layout);
        int[] ids = new int[SEQUENCES * TOKENS];
        int[] targets = new int[SEQUENCES * TOKENS];
        batches(1, SEQUENCES, TOKENS).next(ids, targets, SEQUENCES);
        SplittableRandom random = new SplittableRandom(3);
        // The reference kernels sum in double: of a difference of losses more digits are left.
        try (Device device = Device.cpu(1, Device.Isa.REFERENCE); Parameters weights = Parameters.random(device, config, 2);
                Parameters gradient = Parameters.zeros(device, config);
                LossGradient loss = new LossGradient(device, config, Recomputation.FULL, SEQUENCES, TOKENS)) {
            for (long i = 0; i < weights.all().shape().elements(); i++) { // far from where attention is uniform
                set(weights.all(), i, get(weights.all(), i) * (i % 3 == 0 ? 1.3f : 9));
            }
            loss.accumulate(gradient, weights, ids, targets, 1);
            gradient.tensors().forEach((name, slopes) -> {
                Tensor tensor = weights.tensors().get(name);
                int elements = (int) tensor.shape().elements();
                float[] before = tensor.toFloatArray();
                double[] direction = random.doubles(elements).map(u -> u - 0.5).toArray();
                double expected = 0;
                double length = 0;
                for (int i = 0; i < elements; i++) {
                    expected += direction[i] * get(slopes, i);
                    length += (double) get(slopes, i) * get(slopes, i);
                }
                double step = 2e-3 / Math.sqrt(elements);
                double difference = (moved(loss, weights, tensor, before, direction, step, ids, targets)
                        - moved(loss, weights, tensor, before, direction, -step, ids, targets)) / (2 * step);
                moved(loss, weights, tensor, before, direction, 0, ids, targets);
                assertThat(difference).as(name).isCloseTo(expected, within(5e-3 * Math.sqrt(length)));
            });
        }
    }

    private static double moved(LossGradient loss, Parameters weights, Tensor tensor, float[] before, double[] direction, double step,
            int[] ids, int[] targets) {
        for (int i = 0; i < before.length; i++) {
            set(tensor, i, (float) (before[i] + step * direction[i]));
        }
        return loss.loss(weights, ids, targets);
    }

    private static float get(Tensor tensor, long i) {
        return tensor.segment().getAtIndex(ValueLayout.JAVA_FLOAT, i);
    }

    private static void set(Tensor tensor, long i, float value) {
        tensor.segment().setAtIndex(ValueLayout.JAVA_FLOAT, i, value);
    }

    @Test
    void aRunTakenUpAgainHasTheBitsOfOneThatNeverStopped() throws IOException {
        float[] whole;
        List<Double> losses = new ArrayList<>();
        try (Device device = Device.cpu(2); Parameters weights = Parameters.random(device, config(), 1);
                Trainer trainer = new Trainer(device, weights, batches(5, SEQUENCES, TOKENS), options(17).withAccumulate(2))) {
            while (trainer.steps() < 17) {
                losses.add(trainer.step().loss());
                if (trainer.steps() == 9) {
                    trainer.save(folder);
                }
            }
            whole = weights.all().toFloatArray();
        }
        try (Device device = Device.cpu(3); Parameters weights = Parameters.random(device, config(), 99);
                Trainer trainer = new Trainer(device, weights, batches(5, SEQUENCES, TOKENS), options(17).withAccumulate(2))) {
            trainer.restore(folder);
            assertThat(trainer.steps()).isEqualTo(9);
            while (trainer.steps() < 17) {
                assertThat(trainer.step().loss()).isEqualTo(losses.get((int) trainer.steps() - 1));
            }
            assertThat(weights.all().toFloatArray()).isEqualTo(whole);
        }
    }

    @Test
    void twoBatchesAStepAreOneOfTwiceTheSequences() {
        int[][] ids = new int[2][SEQUENCES * TOKENS];
        int[][] targets = new int[2][SEQUENCES * TOKENS];
        FixedBatches both = batches(2, SEQUENCES, TOKENS);
        both.next(ids[0], targets[0], SEQUENCES);
        both.next(ids[1], targets[1], SEQUENCES);
        int[] wideIds = IntStream.concat(Arrays.stream(ids[0]), Arrays.stream(ids[1])).toArray();
        int[] wideTargets = IntStream.concat(Arrays.stream(targets[0]), Arrays.stream(targets[1]))
                .toArray();
        try (Device device = Device.cpu(2); Parameters one = Parameters.random(device, config(), 1);
                Parameters two = Parameters.random(device, config(), 1);
                Trainer wide = new Trainer(device, one, new FixedBatches(new int[][] {wideIds}, new int[][] {wideTargets}),
                        TrainingOptions.of(9, 2 * SEQUENCES, TOKENS, 1e-3));
                Trainer accumulating = new Trainer(device, two, batches(2, SEQUENCES, TOKENS),
                        TrainingOptions.of(9, SEQUENCES, TOKENS, 1e-3).withAccumulate(2))) {
            Trainer.Step expected = wide.step();
            Trainer.Step got = accumulating.step();
            assertThat(got.loss()).isCloseTo(expected.loss(), within(1e-6));
            assertThat(got.gradientNorm()).isCloseTo(expected.gradientNorm(), within(1e-5));
            assertThat(got.tokens()).isEqualTo(expected.tokens());
        }
    }

    @Test
    void numbersThatAreNoneStopTheRunByNameAndChangeNothing() throws IOException {
        try (Device device = Device.cpu(2); Parameters weights = Parameters.random(device, config(), 1);
                Trainer trainer = new Trainer(device, weights, batches(3, SEQUENCES, TOKENS), options(9))) {
            trainer.step();
            trainer.save(folder);
            byte[] saved = Files.readAllBytes(folder.resolve("training.safetensors"));
            set(weights.tensors().get("model.layers.1.mlp.up_proj.weight"), 7, Float.NaN);
            float[] before = weights.all().toFloatArray();
            assertThatThrownBy(trainer::step).isInstanceOf(TrainingException.class)
                    .hasMessageContaining("step 2").hasMessageContaining("model.layers.1.mlp.up_proj.weight");
            assertThat(weights.all().toFloatArray()).isEqualTo(before);
            assertThat(trainer.steps()).isEqualTo(1);
            assertThat(Files.readAllBytes(folder.resolve("training.safetensors"))).isEqualTo(saved);
        }
    }

    @Test
    void aLossOutOfAllProportionStopsTheRun() {
        try (Device device = Device.cpu(2); Parameters weights = Parameters.random(device, config(), 1);
                Trainer trainer = new Trainer(device, weights, batches(3, SEQUENCES, TOKENS),
                        TrainingOptions.of(200, SEQUENCES, TOKENS, 30))) {
            assertThatThrownBy(() -> {
                while (trainer.steps() < 200) {
                    trainer.step();
                }
            }).isInstanceOf(TrainingException.class).hasMessageContaining("step ").hasMessageContaining("model.");
        }
    }

    /** As if it had not been: what comes after is what would have come without it. */
    @Test
    void aStepThatIsLeftOutLeavesTheMomentsAsTheyWere() throws IOException {
        TrainingOptions options = TrainingOptions.of(60, SEQUENCES, TOKENS, 1e-3).withSchedule(0, Schedule.CONSTANT).withClip(1, 1.5);
        try (Device device = Device.cpu(2); Parameters weights = Parameters.random(device, config(), 1);
                Trainer trainer = new Trainer(device, weights, batches(1, SEQUENCES, TOKENS), options)) {
            while (trainer.steps() < 25) {
                trainer.step();
            }
            trainer.save(folder);
            trainer.step();
            float[] expected = weights.all().toFloatArray();
            trainer.restore(folder);
            Tensor norm = weights.tensors().get("model.norm.weight");
            float[] calm = norm.toFloatArray();
            for (int i = 0; i < calm.length; i++) {
                set(norm, i, 4 * calm[i]);
            }
            assertThat(trainer.step().skipped()).isTrue();
            for (int i = 0; i < calm.length; i++) {
                set(norm, i, calm[i]);
            }
            trainer.save(folder);
            trainer.restore(folder);
            assertThat(trainer.step().skipped()).isFalse();
            assertThat(weights.all().toFloatArray()).isEqualTo(expected);
        }
    }

    @Test
    void aStepThatLeapsIsLeftOut() {
        FixedBatches calm = batches(1, SEQUENCES, TOKENS);
        try (Device device = Device.cpu(2); Parameters weights = Parameters.random(device, config(), 1);
                Trainer trainer = new Trainer(device, weights, calm,
                        TrainingOptions.of(60, SEQUENCES, TOKENS, 1e-5).withClip(1, 1.5))) {
            for (int i = 0; i < 30; i++) {
                assertThat(trainer.step().skipped()).isFalse();
            }
            float[] before = weights.all().toFloatArray();
            Tensor norm = weights.tensors().get("model.norm.weight");
            for (int i = 0; i < 24; i++) {
                set(norm, i, 4 * get(norm, i));
                before[before.length - 24 + i] *= 4;
            }
            assertThat(trainer.step().skipped()).isTrue();
            assertThat(weights.all().toFloatArray()).isEqualTo(before);
        }
    }

    @Test
    void schedulesEndWhereTheySay() {
        for (Schedule schedule : Schedule.values()) {
            assertThat(schedule.rate(2, 1, 10, 100)).isCloseTo(0.2, within(1e-12));
            assertThat(schedule.rate(2, 10, 10, 100)).isEqualTo(2);
            assertThat(schedule.rate(2, 11, 10, 100)).isCloseTo(2, within(1e-12));
            assertThat(schedule.rate(2, 100, 10, 100)).isCloseTo(schedule == Schedule.CONSTANT ? 2 : 0.2, within(1e-12));
        }
        assertThat(Schedule.COSINE.rate(1, 51, 0, 101)).isCloseTo(0.55, within(1e-12));
        assertThat(Schedule.LINEAR.rate(1, 51, 0, 101)).isCloseTo(0.55, within(1e-12));
        assertThat(Schedule.WSD.rate(1, 81, 0, 101)).isCloseTo(1, within(1e-12));
        assertThat(Schedule.WSD.rate(1, 91, 0, 101)).isCloseTo(0.55, within(1e-12));
    }

    @Test
    void argumentsAreChecked() {
        assertThatThrownBy(() -> TrainingOptions.of(0, 1, 1, 1e-3)).hasMessageContaining("steps: expected at least 1, got 0");
        assertThatThrownBy(() -> TrainingOptions.of(1, 1, 1, Double.NaN)).hasMessageContaining("learningRate");
        assertThatThrownBy(() -> TrainingOptions.of(5, 1, 1, 1).withSchedule(6, Schedule.WSD)).hasMessageContaining("warmup");
        try (Device device = Device.cpu(1); Parameters weights = Parameters.random(device, config(), 1)) {
            try (Trainer trainer = new Trainer(device, weights, batches(1, SEQUENCES, TOKENS), options(2))) {
                assertThatThrownBy(() -> trainer.evaluate(batches(1, SEQUENCES, TOKENS), 0))
                        .hasMessageContaining("batches: expected at least 1, got 0");
            }
            assertThatThrownBy(() -> new LossGradient(device, weights.config(), Recomputation.LLAMA, 1, 65))
                    .hasMessageContaining("tokens: expected 1 to the context length 64, got 65");
            try (LossGradient loss = new LossGradient(device, weights.config(), Recomputation.LLAMA, 1, 3)) {
                assertThatThrownBy(() -> loss.loss(weights, new int[] {1, 2, 61}, new int[3]))
                        .isInstanceOf(IndexOutOfBoundsException.class).hasMessageContaining("ids[2]");
                assertThatThrownBy(() -> loss.loss(weights, new int[] {1, 2, 3}, new int[] {1, -2, 3})).hasMessageContaining("targets[1]");
                assertThatThrownBy(() -> loss.loss(weights, new int[2], new int[2])).hasMessageContaining("expected 3 ids");
                assertThat(loss.loss(weights, new int[3], new int[] {-1, -1, -1})).isZero();
            }
        }
    }
}
