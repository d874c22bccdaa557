package io.puna.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.stream.IntStream;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.Test;

/** Properties that hold by the definitions; the whole models in the fixtures compare every variant with the reference. */
class RopeScalingTest {
    private static final double THETA = 10_000;
    private static final int WIDTH = 64;
    private static final float[] PLAIN = new RopeScaling.None().frequencies(THETA, WIDTH, 0);

    @Test
    void plainFrequenciesAreAGeometricRow() {
        assertThat(PLAIN).hasSize(32);
        assertThat(PLAIN[0]).isEqualTo(1f);
        assertThat(PLAIN[16]).isEqualTo(0.01f);
    }

    /** Bits of what PyTorch makes of 1.0 / (theta ** (arange(0, HD, 2).float() / HD)); rounded once, most of them are others. */
    @Test
    void plainFrequenciesAreTheReferencesBits() {
        float[] frequencies = new RopeScaling.None().frequencies(500_000, 80, 0);
        assertThat(IntStream.of(1, 7, 13, 19, 26, 32, 39).map(i -> Float.floatToRawIntBits(frequencies[i])))
                .containsExactly(0x3f3866ec, 0x3dce115e, 0x3c66477b, 0x3b00aae8, 0x394f2486, 0x37e77aee, 0x363a549d);
    }

    @Test
    void linearDividesAll() {
        float[] scaled = new RopeScaling.Linear(4).frequencies(THETA, WIDTH, 0);
        for (int i = 0; i < PLAIN.length; i++) {
            assertThat(scaled[i]).isCloseTo(PLAIN[i] / 4, ulp(PLAIN[i]));
        }
    }

    @Test
    void llama3KeepsShortWavelengthsAndDividesLongOnes() {
        float[] scaled = new RopeScaling.Llama3(8, 1, 4, 8192).frequencies(500_000, 128, 0);
        float[] plain = new RopeScaling.None().frequencies(500_000, 128, 0);
        assertThat(scaled[0]).isEqualTo(plain[0]);
        assertThat(scaled[63]).isCloseTo(plain[63] / 8, ulp(plain[63]));
        for (int i = 0; i < plain.length; i++) {
            assertThat(scaled[i]).isBetween(plain[i] / 8 * 0.999999f, plain[i]);
        }
    }

    @Test
    void yarnKeepsQuickPairsInterpolatesSlowOnesAndRaisesTheMagnitude() {
        RopeScaling yarn = new RopeScaling.Yarn(4, 2048, 32, 1, true, (float) RopeScaling.Yarn.defaultMagnitude(4, 1));
        float[] scaled = yarn.frequencies(THETA, WIDTH, 0);
        assertThat(scaled[0]).isEqualTo(PLAIN[0]);
        assertThat(scaled[31]).isCloseTo(PLAIN[31] / 4, ulp(PLAIN[31]));
        assertThat(yarn.magnitude()).isCloseTo((float) (0.1 * Math.log(4) + 1), within(1e-6f));
        assertThat(RopeScaling.Yarn.defaultMagnitude(1, 1)).isEqualTo(1);
    }

    @Test
    void dynamicChangesNothingUpToTheOriginalLengthAndGrowsBeyond() {
        RopeScaling dynamic = new RopeScaling.DynamicNtk(2, 1024);
        assertThat(dynamic.dependsOnLength(1024)).isFalse();
        assertThat(dynamic.dependsOnLength(1025)).isTrue();
        assertThat(dynamic.frequencies(THETA, WIDTH, 1000)).isEqualTo(PLAIN);
        double base = THETA * Math.pow(2.0 * 2048 / 1024 - 1, 64 / 62.0);
        assertThat(dynamic.frequencies(THETA, WIDTH, 2048)[1]).isCloseTo((float) Math.pow(base, -2.0 / 64), ulp(1));
    }

    @Test
    void dividedDividesOneByOneAndCopiesItsDivisors() {
        float[] divisors = new float[32];
        java.util.Arrays.fill(divisors, 2);
        RopeScaling.Divided divided = new RopeScaling.Divided(divisors);
        divisors[0] = 0;
        divided.divisors()[1] = 0;
        float[] scaled = divided.frequencies(THETA, WIDTH, 0);
        assertThat(scaled[0]).isEqualTo(0.5f);
        assertThat(scaled[1]).isCloseTo(PLAIN[1] / 2, ulp(1));
    }

    private static Offset<Float> ulp(float of) {
        return within(2 * Math.ulp(of));
    }
}
