package io.puna.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.puna.TestClassPath;
import io.puna.kernel.Rope;
import io.puna.model.LlamaConfig;
import io.puna.model.RopeScaling;
import io.puna.tensor.Device;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The plan's bytes against a process of its own, and its numbers for shapes that no machine here trains. */
class TrainingPlanTest {
    private static LlamaConfig config(int vocabulary, int width, int layers, int heads, int keyValueHeads, int feedForward, boolean tied) {
        return new LlamaConfig("LlamaForCausalLM", vocabulary, width, layers, heads, keyValueHeads, width / heads, feedForward, 8192,
                1e-5f, 10_000, new RopeScaling.None(), Rope.Layout.HALVES, 0, tied, 1, List.of(2));
    }

    private static LlamaConfig small() {
        return config(2048, 256, 4, 8, 4, 688, true);
    }

    @ParameterizedTest
    @CsvSource({"STORE_ALL, 8, 256", "LLAMA, 8, 256", "FULL, 8, 256", "LLAMA, 1, 4096"})
    @EnabledOnOs(OS.LINUX)
    void theProcessGrowsByWhatThePlanSays(Recomputation recomputation, int sequences, int tokens) throws Exception {
        // Without C2: what it takes to compile, up to 15 MB and never twice the same, is not the plan's.
        Process process = new ProcessBuilder(Path.of(System.getProperty("java.home"), "bin", "java").toString(), "-XX:TieredStopAtLevel=1",
                "-Xms64m", "-Xmx64m", "-XX:+AlwaysPreTouch", "-XX:+UseSerialGC", "--enable-native-access=ALL-UNNAMED", "-cp",
                TestClassPath.get(), TrainingPlanTest.class.getName(), recomputation.name(),
                Integer.toString(sequences), Integer.toString(tokens)).redirectErrorStream(true).start();
        String out = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertThat(process.waitFor()).as(out).isZero();
        long plan = TrainingPlan.of(small(), recomputation, sequences, tokens).bytes();
        assertThat(Double.parseDouble(out.strip())).isCloseTo(plan, within(0.1 * plan));
    }

    /** In a process of its own: prints the bytes by which a step makes it grow, once a model of almost nothing has loaded the rest. */
    public static void main(String[] args) throws IOException {
        train(config(2048, 16, 1, 2, 1, 16, true), Recomputation.LLAMA, 1, 8);
        long before = peak();
        train(small(), Recomputation.valueOf(args[0]), Integer.parseInt(args[1]), Integer.parseInt(args[2]));
        System.out.println(peak() - before);
    }

    private static void train(LlamaConfig config, Recomputation recomputation, int sequences, int tokens) {
        int[] ids = new SplittableRandom(1).ints((long) sequences * tokens, 0, config.vocabularySize()).toArray();
        TrainingOptions options = TrainingOptions.of(2, sequences, tokens, 1e-3).withRecomputation(recomputation);
        try (Device device = Device.cpu(2); Parameters weights = Parameters.random(device, config, 1);
                Trainer trainer = new Trainer(device, weights, new FixedBatches(new int[][] {ids}, new int[][] {ids}), options)) {
            trainer.step();
        }
    }

    private static long peak() throws IOException {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) {
                return 1024 * Long.parseLong(line.replaceAll("\\D", ""));
            }
        }
        throw new IOException("/proc/self/status has no VmHWM");
    }

    /** 15M, 1.1B, 7B, 8B, 70B and, with keys and values for every head, 65B. */
    @ParameterizedTest
    @CsvSource({"288, 6, 6, 6, 768", "2048, 22, 32, 4, 5632", "4096, 32, 32, 32, 11008", "4096, 32, 32, 8, 14336",
        "8192, 80, 64, 8, 28672", "8192, 80, 64, 64, 22016"})
    void theBlocksKeepSixTenthsWhereLinearLayersAloneAreKept(int width, int layers, int heads, int keyValueHeads, int feedForward) {
        LlamaConfig config = config(32_000, width, layers, heads, keyValueHeads, feedForward, false);
        assertThat(LossGradient.keptBytes(config, Recomputation.LLAMA, 4, 2048))
                .isLessThanOrEqualTo(LossGradient.keptBytes(config, Recomputation.STORE_ALL, 4, 2048) * 6 / 10);
    }

    @Test
    void aBatchThatCannotBeHasNoPlan() {
        for (long[] bad : new long[][] {{0, 1}, {1, 0}, {-1, -1}, {1L << 16, 1L << 15}, {Long.MAX_VALUE, Long.MAX_VALUE}}) {
            assertThatThrownBy(() -> TrainingPlan.of(small(), Recomputation.FULL, bad[0], bad[1]))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("fewer than 2^31 tokens in a batch, got " + bad[0] + " and " + bad[1]);
        }
        LlamaConfig largest = config(128_256, 16_384, 126, 128, 8, 53_248, false);
        assertThat(TrainingPlan.of(largest, Recomputation.STORE_ALL, 1, Integer.MAX_VALUE).bytes()).isPositive();
    }

    @Test
    void itKnowsTheModelsThatWerePublished() {
        LlamaConfig seven = config(32_000, 4096, 32, 32, 32, 11_008, false);
        LlamaConfig sixtyFive = config(32_000, 8192, 80, 64, 64, 22_016, false);
        assertThat(TrainingPlan.of(seven, Recomputation.LLAMA, 1, 2048).parameters()).isEqualTo(6_738_415_616L);
        assertThat(TrainingPlan.of(sixtyFive, Recomputation.LLAMA, 1, 2048).parameters()).isEqualTo(65_285_660_672L);
        for (LlamaConfig config : List.of(config(32_000, 288, 6, 6, 6, 768, true), seven, sixtyFive)) {
            TrainingPlan all = TrainingPlan.of(config, Recomputation.STORE_ALL, 4, 2048);
            TrainingPlan some = TrainingPlan.of(config, Recomputation.LLAMA, 4, 2048);
            TrainingPlan none = TrainingPlan.of(config, Recomputation.FULL, 4, 2048);
            assertThat((double) some.keptBytes()).isLessThan(0.6 * all.keptBytes());
            assertThat(none.keptBytes()).isEqualTo(4L * 4 * 2048 * config.width() * config.layers());
            assertThat(all.repeatedOperations()).isZero();
            assertThat(some.repeatedOperations()).isLessThan(0.1 * all.operations());
            assertThat(none.repeatedOperations()).isLessThan(all.forwardOperations()).isGreaterThan(some.repeatedOperations());
        }
    }
}
