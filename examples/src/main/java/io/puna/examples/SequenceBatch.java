package io.puna.examples;

import io.puna.LlamaModel;
import io.puna.kernel.KvCache;
import io.puna.model.LlamaConfig;
import io.puna.model.LlamaForward;
import io.puna.tensor.DType;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;

/** Puna on many sequences that advance together, a token each in every step, as llama-batched-bench does. */
final class SequenceBatch implements Contestant {
    private final List<Measure> measures;
    private final int[][] tokens;
    private final int promptTokens;
    private final int generateTokens;
    private final LlamaForward forward;
    private final List<KvCache> caches = new ArrayList<>();
    private final Arena arena = Arena.ofConfined();
    private final Tensor logits;

    /**
     * Allocates a cache for each sequence of the widest measure. The model is borrowed.
     *
     * @param measures of as many generated tokens each
     */
    SequenceBatch(LlamaModel model, DType cacheType, List<Measure> measures, int promptTokens) {
        this.measures = measures;
        this.promptTokens = promptTokens;
        this.generateTokens = measures.getFirst().tokens();
        int most = measures.stream().mapToInt(Measure::sequences).max().orElseThrow();
        LlamaConfig config = model.config();
        Random random = new Random(0);
        tokens = new int[most][];
        for (int i = 0; i < most; i++) {
            tokens[i] = random.ints(promptTokens + generateTokens, 0, config.vocabularySize()).toArray();
        }
        forward = model.newForward(Math.max(most, promptTokens));
        logits = forward.device().allocate(arena, DType.F32, Shape.of(most, config.vocabularySize()));
        for (int i = 0; i < most; i++) {
            caches.add(forward.newCache(promptTokens + generateTokens, cacheType));
        }
    }

    @Override
    public double[] run() throws InterruptedException {
        double[] rates = new double[measures.size()];
        for (int i = 0; i < rates.length; i++) {
            rates[i] = run(measures.get(i).sequences());
        }
        return rates;
    }

    /** The prompts are not timed. */
    private double run(int sequences) throws InterruptedException {
        for (int i = 0; i < sequences; i++) {
            caches.get(i).truncate(0);
            forward.step(List.of(part(i, 0, promptTokens, 0)), logits.rows(0, 0));
        }
        long start = System.nanoTime();
        for (int step = 0; step < generateTokens; step++) {
            List<LlamaForward.Part> parts = new ArrayList<>(sequences);
            for (int i = 0; i < sequences; i++) {
                parts.add(part(i, promptTokens + step, 1, 1));
            }
            forward.step(parts, logits.rows(0, sequences));
            if (Thread.interrupted()) {
                throw new InterruptedException();
            }
        }
        return 1e9 * sequences * generateTokens / (System.nanoTime() - start);
    }

    private LlamaForward.Part part(int sequence, int from, int count, int outputs) {
        return new LlamaForward.Part(caches.get(sequence), tokens[sequence], from, count, outputs, promptTokens + generateTokens);
    }

    @Override
    public void close() {
        forward.close();
        caches.forEach(KvCache::close);
        arena.close();
    }
}
