package io.puna.model;

import io.puna.format.Checkpoint;
import io.puna.format.CheckpointException;
import io.puna.kernel.Rope;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;

/**
 * The numbers that make one LLaMA-family model differ from another. In the letters of the C header: {@code width} is C,
 * {@code layers} L, {@code heads} NH, {@code keyValueHeads} NKV, {@code headWidth} HD, {@code feedForwardWidth} FF and
 * {@code vocabularySize} V.
 *
 * @param architecture     what the file calls the model, such as {@code LlamaForCausalLM} or {@code llama}
 * @param vocabularySize   rows of the embedding
 * @param width            width of the residual stream
 * @param layers           decoder blocks
 * @param heads            query heads
 * @param keyValueHeads    key/value heads, a divisor of {@code heads}
 * @param headWidth        width of a head, even; need not be {@code width / heads}
 * @param feedForwardWidth width of the gate
 * @param contextLength    positions the model is made for, by way of RoPE scaling too
 * @param normEpsilon      added to the mean square in RMSNorm
 * @param ropeTheta        base of the rotary frequencies
 * @param ropeScaling      how the frequencies are stretched
 * @param ropeLayout       which elements of a head make a pair in this file
 * @param slidingWindow    latest positions that a query sees, 0 for all
 * @param tiedEmbeddings   whether the output layer is the embedding, unless the file stores one of its own
 * @param bosTokenId       token that begins a text, -1 when the file names none
 * @param eosTokenIds      tokens that end a text
 */
public record LlamaConfig(
        String architecture,
        int vocabularySize,
        int width,
        int layers,
        int heads,
        int keyValueHeads,
        int headWidth,
        int feedForwardWidth,
        int contextLength,
        float normEpsilon,
        double ropeTheta,
        RopeScaling ropeScaling,
        Rope.Layout ropeLayout,
        int slidingWindow,
        boolean tiedEmbeddings,
        int bosTokenId,
        List<Integer> eosTokenIds) {

    /**
     * Checks that the numbers make a model.
     *
     * @throws IllegalArgumentException if a dimension is not positive, {@code headWidth} is odd, {@code keyValueHeads} does not divide
     *                                  {@code heads}, or epsilon or theta is not a positive number
     */
    public LlamaConfig {
        requirePositive("vocabularySize", vocabularySize);
        requirePositive("width", width);
        requirePositive("layers", layers);
        requirePositive("heads", heads);
        requirePositive("keyValueHeads", keyValueHeads);
        requirePositive("headWidth", headWidth);
        requirePositive("feedForwardWidth", feedForwardWidth);
        requirePositive("contextLength", contextLength);
        if (headWidth % 2 != 0) {
            throw new IllegalArgumentException("headWidth: expected an even number, got " + headWidth);
        }
        if (heads % keyValueHeads != 0) {
            throw new IllegalArgumentException(
                    "keyValueHeads: expected a divisor of the " + heads + " query heads, got " + keyValueHeads);
        }
        if (!(normEpsilon > 0) || normEpsilon >= 1) {
            throw new IllegalArgumentException("normEpsilon: expected a small positive number, got " + normEpsilon);
        }
        if (!(ropeTheta > 0) || Double.isInfinite(ropeTheta)) {
            throw new IllegalArgumentException("ropeTheta: expected a positive number, got " + ropeTheta);
        }
        if (slidingWindow < 0) {
            throw new IllegalArgumentException("slidingWindow: expected 0 or more, got " + slidingWindow);
        }
        eosTokenIds = List.copyOf(eosTokenIds);
    }

    /**
     * {@return the configuration of a checkpoint}
     *
     * @throws io.puna.format.UnsupportedModelException if it is another architecture than LLaMA's
     * @throws CheckpointException                      if a number is missing, of the wrong type or contradicts another
     */
    public static LlamaConfig of(Checkpoint checkpoint) throws CheckpointException {
        return ConfigReader.read(checkpoint);
    }

    /**
     * {@return the configuration in a file in the layout of Hugging Face's {@code config.json}, of a model that may have no weights yet}
     *
     * @throws io.puna.format.UnsupportedModelException if it is another architecture than LLaMA's
     * @throws CheckpointException                      if a number is missing, of the wrong type or contradicts another
     * @throws IOException                              if the file cannot be read
     */
    public static LlamaConfig read(Path file) throws IOException {
        return ConfigReader.read(file);
    }

    /** {@return the number of query heads that share one key/value head} */
    public int groupSize() {
        return heads / keyValueHeads;
    }

    /** {@return the bytes that one position of one sequence takes in a cache of this element size} */
    public long cacheBytesPerToken(int elementBytes) {
        return 2L * layers * keyValueHeads * headWidth * elementBytes;
    }

    private static void requirePositive(String name, int value) {
        if (value <= 0) {
            throw new IllegalArgumentException(name + ": expected a positive number, got " + value);
        }
    }
}
