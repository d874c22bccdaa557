package io.puna.model;

/**
 * How rotary frequencies are stretched beyond the context a model was first trained on. Each variant turns the plain frequencies
 * {@code theta^(-2i/HD)} into those of the scaled model; angles are position times frequency. The formulas are those of the Hugging
 * Face reference, whose checkpoints carry the parameters.
 */
public sealed interface RopeScaling {
    /**
     * {@return the frequencies in radians per position, one for each of the HD / 2 pairs}
     *
     * <p>Computed in double and rounded to F32 once.
     *
     * @param theta          base of the plain frequencies
     * @param headWidth      HD, even
     * @param sequenceLength positions in the sequence, which {@link DynamicNtk} depends on; the others ignore it
     */
    float[] frequencies(double theta, int headWidth, int sequenceLength);

    /** {@return the factor on cosine and sine, 1 except for {@link Yarn}} */
    default float magnitude() {
        return 1f;
    }

    /** {@return whether the frequencies change with the length of the sequence, at this length} */
    default boolean dependsOnLength(int sequenceLength) {
        return false;
    }

    private static double plain(double theta, int headWidth, int pair) {
        return 1.0 / Math.pow(theta, (double) (2 * pair) / headWidth);
    }

    /** Unscaled frequencies. */
    record None() implements RopeScaling {
        @Override
        public float[] frequencies(double theta, int headWidth, int sequenceLength) {
            float[] frequencies = new float[headWidth / 2];
            for (int i = 0; i < frequencies.length; i++) {
                frequencies[i] = (float) plain(theta, headWidth, i);
            }
            return frequencies;
        }
    }

    /**
     * Position interpolation (Chen et al. 2023): every frequency divided by the factor.
     *
     * @param factor how much longer the context became
     */
    record Linear(double factor) implements RopeScaling {
        @Override
        public float[] frequencies(double theta, int headWidth, int sequenceLength) {
            float[] frequencies = new float[headWidth / 2];
            for (int i = 0; i < frequencies.length; i++) {
                frequencies[i] = (float) (plain(theta, headWidth, i) / factor);
            }
            return frequencies;
        }
    }

    /**
     * Llama 3.1: long wavelengths divided by the factor, short ones kept, those between blended.
     *
     * @param factor          divisor of the long wavelengths
     * @param lowFrequency    wavelengths above {@code originalContext / lowFrequency} are long
     * @param highFrequency   wavelengths below {@code originalContext / highFrequency} are short
     * @param originalContext positions the model was first trained on
     */
    record Llama3(double factor, double lowFrequency, double highFrequency, int originalContext) implements RopeScaling {
        @Override
        public float[] frequencies(double theta, int headWidth, int sequenceLength) {
            float[] frequencies = new float[headWidth / 2];
            for (int i = 0; i < frequencies.length; i++) {
                double frequency = plain(theta, headWidth, i);
                double wavelength = 2 * Math.PI / frequency;
                if (wavelength > originalContext / lowFrequency) {
                    frequency /= factor;
                } else if (wavelength >= originalContext / highFrequency) {
                    double smooth = (originalContext / wavelength - lowFrequency) / (highFrequency - lowFrequency);
                    frequency = (1 - smooth) * frequency / factor + smooth * frequency;
                }
                frequencies[i] = (float) frequency;
            }
            return frequencies;
        }
    }

    /**
     * YaRN (Peng et al. 2023): pairs that turn often keep their frequency, pairs that turn less than once are interpolated, and the
     * rotations are scaled by a magnitude that keeps attention's entropy.
     *
     * @param factor          how much longer the context became
     * @param originalContext positions the model was first trained on
     * @param betaFast        turns over the original context above which a pair is kept
     * @param betaSlow        turns below which a pair is interpolated
     * @param truncate        whether the bounds between the two are rounded outwards to whole pairs
     * @param magnitude       factor on cosine and sine; {@link #defaultMagnitude} gives the paper's
     */
    record Yarn(double factor, int originalContext, double betaFast, double betaSlow, boolean truncate, float magnitude)
            implements RopeScaling {

        /** {@return the paper's magnitude, {@code 0.1 * weight * ln(factor) + 1}, or 1 when the factor stretches nothing} */
        public static double defaultMagnitude(double factor, double weight) {
            return factor <= 1 ? 1.0 : 0.1 * weight * Math.log(factor) + 1.0;
        }

        @Override
        public float[] frequencies(double theta, int headWidth, int sequenceLength) {
            double low = bound(betaFast, theta, headWidth);
            double high = bound(betaSlow, theta, headWidth);
            if (truncate) {
                low = Math.floor(low);
                high = Math.ceil(high);
            }
            low = Math.max(low, 0);
            high = Math.min(high, headWidth - 1);
            if (low == high) {
                high += 0.001;
            }
            float[] frequencies = new float[headWidth / 2];
            for (int i = 0; i < frequencies.length; i++) {
                double frequency = plain(theta, headWidth, i);
                double interpolated = Math.clamp((i - low) / (high - low), 0.0, 1.0);
                frequencies[i] = (float) (frequency / factor * interpolated + frequency * (1 - interpolated));
            }
            return frequencies;
        }

        /** The pair that makes this many turns over the original context. */
        private double bound(double turns, double theta, int headWidth) {
            return headWidth * Math.log(originalContext / (turns * 2 * Math.PI)) / (2 * Math.log(theta));
        }
    }

    /**
     * Dynamic NTK: the base grows with the sequence once it is longer than the original context. Keys already cached keep the
     * rotation of the length they were computed at, as in the reference.
     *
     * @param factor          strength of the growth
     * @param originalContext length up to which nothing changes
     */
    record DynamicNtk(double factor, int originalContext) implements RopeScaling {
        @Override
        public float[] frequencies(double theta, int headWidth, int sequenceLength) {
            int length = Math.max(sequenceLength, originalContext);
            double stretch = factor * length / originalContext - (factor - 1);
            double base = headWidth == 2 ? theta : theta * Math.pow(stretch, headWidth / (headWidth - 2.0));
            return new None().frequencies(base, headWidth, length);
        }

        @Override
        public boolean dependsOnLength(int sequenceLength) {
            return sequenceLength > originalContext;
        }
    }

    /**
     * Frequencies divided one by one, as GGUF files store them in the tensor {@code rope_freqs.weight}: for Llama 3.1 the divisors
     * that {@link Llama3} would compute.
     *
     * @param divisors one for each pair
     */
    record Divided(float[] divisors) implements RopeScaling {
        /** Copies the divisors. */
        public Divided {
            divisors = divisors.clone();
        }

        /** {@return a copy of the divisors} */
        @Override
        public float[] divisors() {
            return divisors.clone();
        }

        @Override
        public float[] frequencies(double theta, int headWidth, int sequenceLength) {
            float[] frequencies = new None().frequencies(theta, headWidth, sequenceLength);
            for (int i = 0; i < frequencies.length; i++) {
                frequencies[i] = (float) (plain(theta, headWidth, i) / divisors[i]);
            }
            return frequencies;
        }

        @Override
        public String toString() {
            return "Divided[" + divisors.length + " divisors]";
        }
    }
}
