package io.puna.model;

/**
 * How rotary frequencies are stretched beyond the context a model was first trained on. Each variant turns the plain frequencies
 * {@code theta^(-2i/HD)} into those of the scaled model; angles are position times frequency. The formulas are those of the Hugging
 * Face reference, whose checkpoints carry the parameters, and so is the arithmetic: F32, rounded where the reference rounds. A
 * frequency's last bits are multiplied by the position, so that better ones would turn far tokens by another angle than the model
 * was trained with.
 */
public sealed interface RopeScaling {
    /**
     * {@return the frequencies in radians per position, one for each of the HD / 2 pairs}
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

    /** The wavelength over 2 pi. */
    private static float inverse(double theta, int headWidth, int pair) {
        return (float) Math.pow((float) theta, (float) (2 * pair) / headWidth);
    }

    private static float plain(double theta, int headWidth, int pair) {
        return 1 / inverse(theta, headWidth, pair);
    }

    /** Unscaled frequencies. */
    record None() implements RopeScaling {
        @Override
        public float[] frequencies(double theta, int headWidth, int sequenceLength) {
            float[] frequencies = new float[headWidth / 2];
            for (int i = 0; i < frequencies.length; i++) {
                frequencies[i] = plain(theta, headWidth, i);
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
                frequencies[i] = plain(theta, headWidth, i) / (float) factor;
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
                float frequency = plain(theta, headWidth, i);
                float wavelength = 1 / frequency * (float) (2 * Math.PI);
                if (wavelength > (float) (originalContext / lowFrequency)) {
                    frequency /= (float) factor;
                } else if (wavelength >= (float) (originalContext / highFrequency)) {
                    float smooth = (1 / wavelength * originalContext - (float) lowFrequency) / (float) (highFrequency - lowFrequency);
                    frequency = (1 - smooth) * frequency / (float) factor + smooth * frequency;
                }
                frequencies[i] = frequency;
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
                float inverse = inverse(theta, headWidth, i);
                float kept = 1 - Math.clamp((i - (float) low) / (float) (high - low), 0f, 1f);
                frequencies[i] = 1 / ((float) factor * inverse) * (1 - kept) + 1 / inverse * kept;
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
            float stretch = (float) factor * length / originalContext - (float) (factor - 1);
            float growth = (float) Math.pow(stretch, headWidth / (headWidth - 2.0));
            float base = headWidth == 2 ? (float) theta : (float) theta * growth;
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
                frequencies[i] /= divisors[i];
            }
            return frequencies;
        }

        @Override
        public String toString() {
            return "Divided[" + divisors.length + " divisors]";
        }
    }
}
