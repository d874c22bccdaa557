package io.puna.train;

/** How the learning rate goes after the warm-up, in which it rises in equal steps from none to its peak. */
public enum Schedule {
    /** Half a cosine from the peak to a tenth of it at the last step, as LLaMA was trained. */
    COSINE {
        @Override
        double share(double progress) {
            return LAST + (1 - LAST) * (1 + Math.cos(Math.PI * progress)) / 2;
        }
    },
    /** A line from the peak to a tenth of it. */
    LINEAR {
        @Override
        double share(double progress) {
            return 1 - (1 - LAST) * progress;
        }
    },
    /** The peak throughout. */
    CONSTANT {
        @Override
        double share(double progress) {
            return 1;
        }
    },
    /** Warm-up, stable, decay (Hu et al. 2024): the peak, and in the last fifth a line down to a tenth of it. */
    WSD {
        @Override
        double share(double progress) {
            return progress < STABLE ? 1 : LINEAR.share((progress - STABLE) / (1 - STABLE));
        }
    };

    private static final double LAST = 0.1;
    private static final double STABLE = 0.8;

    /**
     * {@return the share of the peak rate}
     *
     * @param progress from 0, the end of the warm-up, to 1, the last step
     */
    abstract double share(double progress);

    /**
     * {@return the learning rate of a step}
     *
     * @param peak   the highest rate
     * @param step   counted from one
     * @param warmup steps of the warm-up, at least 0
     * @param steps  of the whole run
     */
    public double rate(double peak, long step, long warmup, long steps) {
        if (step <= warmup) {
            return peak * step / warmup;
        }
        long decaying = steps - warmup;
        return peak * share(decaying <= 1 ? 1 : Math.min(1, (double) (step - warmup - 1) / (decaying - 1)));
    }
}
