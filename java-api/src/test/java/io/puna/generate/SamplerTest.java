package io.puna.generate;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.UnaryOperator;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SamplerTest {
    private static final float[] LOGITS = {1f, 3f, 2f, -1f, 0f, 2.5f};

    private static Sampler sampler(UnaryOperator<GenerationOptions.Builder> options, int vocabulary, int... prompt) {
        return new Sampler(options.apply(GenerationOptions.builder()).build(), vocabulary, prompt);
    }

    @Test
    void zeroTemperatureTakesTheLargestAndAmongEqualsTheLowestId() {
        assertThat(sampler(o -> o, 6).choose(LOGITS.clone(), List.of())).isEqualTo(1);
        assertThat(sampler(o -> o, 4).choose(new float[] {Float.NaN, 5, 5, 4}, List.of())).isEqualTo(1);
    }

    @Test
    void aBiasForbidsAndForces() {
        assertThat(sampler(o -> o.logitBias(Map.of(1, Float.NEGATIVE_INFINITY)), 6).choose(LOGITS.clone(), List.of())).isEqualTo(5);
        assertThat(sampler(o -> o.logitBias(Map.of(3, 100f)), 6).choose(LOGITS.clone(), List.of())).isEqualTo(3);
    }

    @Test
    void theHookSeesTheTokensAndChangesTheLogits() {
        List<Integer> context = List.of(4, 2);
        Sampler sampler = sampler(o -> o.logitsHook((tokens, logits) -> logits[tokens.getLast()] = 50), 6);
        assertThat(sampler.choose(LOGITS.clone(), context)).isEqualTo(2);
    }

    @Test
    void repetitionPenaltyDividesPositiveAndMultipliesNegativeLogitsOfPromptAndText() {
        float[] logits = LOGITS.clone();
        Sampler sampler = sampler(o -> o.repetitionPenalty(2), 6, 1, 3);
        sampler.accept(5);
        sampler.choose(logits, List.of());
        assertThat(logits).containsExactly(1f, 1.5f, 2f, -2f, 0f, 1.25f);
    }

    @Test
    void presenceAndFrequencyPenaltiesCountGeneratedTokensOnly() {
        float[] logits = LOGITS.clone();
        Sampler sampler = sampler(o -> o.presencePenalty(0.5).frequencyPenalty(0.25), 6, 1, 1, 1);
        sampler.accept(2);
        sampler.accept(2);
        sampler.accept(5);
        sampler.choose(logits, List.of());
        assertThat(logits).containsExactly(1f, 3f, 1f, -1f, 0f, 1.75f);
    }

    @Test
    void nothingToChooseIsAnError() {
        float[] none = {Float.NEGATIVE_INFINITY, Float.NaN};
        assertThatThrownBy(() -> sampler(o -> o, 2).choose(none, List.of())).isInstanceOf(IllegalStateException.class)
                .hasMessageContaining("at least one token");
    }

    @Test
    void theSameSeedDrawsTheSameTokens() {
        UnaryOperator<GenerationOptions.Builder> options = o -> o.temperature(1).seed(7);
        assertThat(draws(options, LOGITS, 50)).isEqualTo(draws(options, LOGITS, 50));
        assertThat(draws(options, LOGITS, 50)).isNotEqualTo(draws(o -> o.temperature(1).seed(8), LOGITS, 50));
    }

    /** Against a plain computation of the distribution that the options describe. */
    @ParameterizedTest
    @CsvSource({"1, 0, 1, 0", "0.5, 0, 1, 0", "1, 3, 1, 0", "1, 0, 0.8, 0", "1, 0, 1, 0.3", "0.7, 4, 0.9, 0.1", "2, 1, 1, 0", "1, 0, 0.0001, 0"})
    void drawsFollowTheDistribution(double temperature, int topK, double topP, double minP) {
        int count = 20_000;
        Map<Integer, Integer> histogram = new HashMap<>();
        draws(o -> o.temperature(temperature).topK(topK).topP(topP).minP(minP).seed(1), LOGITS, count)
                .forEach(id -> histogram.merge(id, 1, Integer::sum));
        Map<Integer, Double> expected = distribution(LOGITS, temperature, topK, topP, minP);
        assertThat(histogram.keySet()).isEqualTo(expected.keySet());
        // Four standard deviations of a binomial proportion.
        expected.forEach((id, p) -> assertThat(histogram.get(id) / (double) count).isCloseTo(p,
                within(4 * Math.sqrt(p * (1 - p) / count) + 1e-12)));
    }

    /** The quick ways to rank (insertion for small k, a floor before sorting for top-p) keep what a full sort keeps. */
    @ParameterizedTest
    @CsvSource({"40, 1", "600, 1", "0, 0.9", "0, 0.999", "40, 0.5", "600, 0.95", "4999, 1", "0, 0.01"})
    void largeVocabulariesKeepExactlyTheNucleus(int topK, double topP) {
        Random random = new Random(3);
        float[] logits = new float[5000];
        IntStream.range(0, logits.length).forEach(i -> logits[i] = Math.round(random.nextGaussian() * 300) / 100f);
        Map<Integer, Double> expected = distribution(logits, 1, topK, topP, 0);
        List<Integer> drawn = draws(o -> o.temperature(1).topK(topK).topP(topP).seed(11), logits, 1000);
        assertThat(expected.keySet()).containsAll(drawn);
        double mean = drawn.stream().mapToDouble(id -> logits[id]).average().orElseThrow();
        double expectedMean = expected.entrySet().stream().mapToDouble(e -> logits[e.getKey()] * e.getValue()).sum();
        assertThat(mean).isCloseTo(expectedMean, within(0.2));
    }

    /** Tokens too improbable to be ranked still count in what the nucleus is a share of. */
    @Test
    void theNucleusIsAShareOfAllTokensNotOfThoseRanked() {
        float[] logits = new float[10_000];
        for (int id = 0; id < logits.length; id++) {
            logits[id] = (float) Math.log(id == 0 ? 0.1 : id <= 10 ? 0.0805 : 0.095 / 9989);
        }
        List<Integer> drawn = draws(o -> o.temperature(1).topP(0.9).seed(5), logits, 1000);
        assertThat(new TreeSet<>(drawn)).isEqualTo(distribution(logits, 1, 0, 0.9, 0).keySet());
    }

    @Test
    void infiniteLogitsAreDrawn() {
        float[] logits = {0, Float.POSITIVE_INFINITY, 1};
        assertThat(draws(o -> o.temperature(1), logits, 20)).containsOnly(1);
    }

    /** From the largest logits and the sums of parts the sampler chooses what it chooses from a copy of all, bit for bit. */
    @ParameterizedTest
    @CsvSource({"0, 0, 1, 0", "1, 0, 1, 0", "0.5, 0, 1, 0", "3, 0, 1, 0", "1, 40, 1, 0", "1, 700, 1, 0", "1, 2000, 1, 0", "0.7, 40, 0.95, 0.05",
            "1, 0, 0.9, 0", "0.3, 0, 0.9999, 0", "1, 0, 1, 0.01", "1, 0, 0.95, 0.2", "1, 0, 1, 1", "0.8, 1, 0.5, 0.5", "1e-6, 0, 0.9, 0"})
    void whatComesFromTheDeviceIsEnough(double temperature, int topK, double topP, double minP) {
        UnaryOperator<GenerationOptions.Builder> options = o -> o.temperature(temperature).topK(topK).topP(topP).minP(minP).seed(9);
        try (Device device = Device.cpu(1); Arena arena = Arena.ofConfined()) {
            for (int size : new int[] {1, 2, 255, 256, 257, 1000, 5003, 32000}) {
                for (int kind = 0; kind < 4; kind++) {
                    float[] row = logits(size, kind);
                    try (Logits logits = new Logits(device, size)) {
                        device.copy(logits.tensor(), Tensor.of(arena, row, Shape.of(1, size)));
                        Sampler fromAll = sampler(options, size);
                        Sampler fromFew = sampler(options, size);
                        for (int i = 0; i < 40; i++) {
                            assertThat(fromFew.choose(logits, List.of())).as("size %d, kind %d", size, kind)
                                    .isEqualTo(fromAll.choose(row.clone(), List.of()));
                        }
                    }
                }
            }
        }
    }

    /** As a model's: a few tokens stand out. */
    @ParameterizedTest
    @CsvSource({"1, 0, 1, 0", "0.7, 40, 0.95, 0.05", "1, 0, 0.9, 0", "1, 0, 1, 0.01", "1, 0, 0.95, 0.2"})
    void theWholeRowIsSeldomAskedFor(double temperature, int topK, double topP, double minP) {
        float[] row = logits(32000, 1);
        Random random = new Random(2);
        try (Device device = Device.cpu(1); Arena arena = Arena.ofConfined(); Logits logits = new Logits(device, row.length)) {
            device.copy(logits.tensor(), Tensor.of(arena, row, Shape.of(1, row.length)));
            Sampler sampler = sampler(o -> o.temperature(temperature).topK(topK).topP(topP).minP(minP), row.length);
            for (int i = 0; i < 200; i++) {
                assertThat(sampler.drawFromLargest(logits, random.nextDouble())).isNotNegative();
            }
        }
    }

    @Test
    void logitsThatLeaveNothingToChooseAreAnErrorThereToo() {
        float[] row = {Float.NaN, Float.NEGATIVE_INFINITY, Float.NaN};
        try (Device device = Device.cpu(1); Arena arena = Arena.ofConfined(); Logits logits = new Logits(device, row.length)) {
            device.copy(logits.tensor(), Tensor.of(arena, row, Shape.of(1, row.length)));
            for (double topP : new double[] {1, 0.5}) {
                assertThatThrownBy(() -> sampler(o -> o.temperature(1).topP(topP), row.length).choose(logits, List.of()))
                        .isInstanceOf(IllegalStateException.class).hasMessageContaining("at least one token");
            }
        }
    }

    /** 0: alike; 1: a few stand out; 2: many equals, some of them NaN and infinite; 3: falling steeply. */
    private static float[] logits(int size, int kind) {
        Random random = new Random(size * 4L + kind);
        float[] logits = new float[size];
        for (int id = 0; id < size; id++) {
            double noise = random.nextGaussian();
            logits[id] = (float) switch (kind) {
                case 0 -> noise / 10;
                case 1 -> random.nextInt(200) == 0 ? 12 + noise * 2 : noise * 2;
                case 2 -> random.nextInt(9) == 0 ? Double.NaN : random.nextInt(9) == 0 ? Double.NEGATIVE_INFINITY : Math.rint(noise * 2);
                default -> -2.0 * random.nextInt(size);
            };
        }
        logits[size - 1] = kind == 2 ? 7 : logits[size - 1];
        return logits;
    }

    private static List<Integer> draws(UnaryOperator<GenerationOptions.Builder> options, float[] logits, int count) {
        Sampler sampler = sampler(options, logits.length);
        List<Integer> ids = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            ids.add(sampler.choose(logits.clone(), List.of()));
        }
        return ids;
    }

    private static Map<Integer, Double> distribution(float[] logits, double temperature, int topK, double topP, double minP) {
        List<Integer> order = IntStream.range(0, logits.length).boxed()
                .sorted(Comparator.comparingDouble((Integer id) -> -logits[id]).thenComparing(id -> id)).toList();
        if (topK > 0) {
            order = order.subList(0, Math.min(topK, order.size()));
        }
        double max = logits[order.getFirst()];
        double total = order.stream().mapToDouble(id -> Math.exp((logits[id] - max) / temperature)).sum();
        Map<Integer, Double> kept = new TreeMap<>();
        double sum = 0;
        for (int id : order) {
            double p = Math.exp((logits[id] - max) / temperature) / total;
            if (sum < topP && p * total >= minP) {
                kept.put(id, p);
            }
            sum += p;
        }
        double left = kept.values().stream().mapToDouble(p -> p).sum();
        kept.replaceAll((id, p) -> p / left);
        return kept;
    }
}
