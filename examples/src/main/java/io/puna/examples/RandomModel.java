package io.puna.examples;

import io.puna.format.GgufWriter;
import io.puna.tensor.DType;
import io.puna.tensor.Shape;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.function.LongConsumer;

/**
 * Writes models of any shape with random weights: as fast as trained ones of that shape, and of as little use as text goes. Weights
 * have a mean of 0 and a standard deviation near 0.02; norms are 1. The same seed gives the same bytes.
 */
final class RandomModel {
    /** SentencePiece's unknown, begin and end tokens, and a token for every byte. */
    static final int LEAST_VOCABULARY = 259;
    private static final double DEVIATION = 0.02;
    private static final int BUFFER_BYTES = 1 << 20;

    /** Dimensions of a LLaMA. */
    record Dimensions(int width, int layers, int heads, int keyValueHeads, int feedForwardWidth, int vocabulary, int context,
            float theta, boolean tied) {
        int headWidth() {
            return width / heads;
        }
    }

    /** Published shapes. Those of Llama 3 have the context that they have before RoPE is scaled. */
    enum Published {
        STORIES_15M("15M", 288, 6, 6, 6, 768, 32000, 256, 10_000, true),
        STORIES_110M("110M", 768, 12, 12, 12, 2048, 32000, 1024, 10_000, true),
        TINYLLAMA_1_1B("1.1B", 2048, 22, 32, 4, 5632, 32000, 2048, 10_000, false),
        LLAMA_3_2_3B("3B", 3072, 28, 24, 8, 8192, 128256, 8192, 500_000, true),
        LLAMA_7B("7B", 4096, 32, 32, 32, 11008, 32000, 2048, 10_000, false),
        LLAMA_3_8B("8B", 4096, 32, 32, 8, 14336, 128256, 8192, 500_000, false),
        LLAMA_13B("13B", 5120, 40, 40, 40, 13824, 32000, 2048, 10_000, false),
        LLAMA_33B("33B", 6656, 60, 52, 52, 17920, 32000, 2048, 10_000, false),
        LLAMA_65B("65B", 8192, 80, 64, 64, 22016, 32000, 2048, 10_000, false);

        final String label;
        final Dimensions dimensions;

        Published(String label, int width, int layers, int heads, int keyValueHeads, int feedForwardWidth, int vocabulary, int context,
                float theta, boolean tied) {
            this.label = label;
            this.dimensions = new Dimensions(width, layers, heads, keyValueHeads, feedForwardWidth, vocabulary, context, theta, tied);
        }

        @Override
        public String toString() {
            return label;
        }
    }

    /** What a file is said to be, with its number in {@code general.file_type}. */
    enum Mixture {
        F32(0), F16(1), Q4_0(2), Q8_0(7), Q4_K_M(15), BF16(32);

        private final int fileType;

        Mixture(int fileType) {
            this.fileType = fileType;
        }

        /**
         * The type that the usual quantiser gives a matrix: more bits to the output, and in Q4_K_M to the values and the second
         * feed-forward matrix of the outer layers and every third one between. Rows that are no whole blocks take the next
         * larger type of smaller blocks that Puna reads.
         *
         * @param role   {@code output} for the matrix that makes the logits, else the last part of the tensor's name
         * @param layers of the model
         */
        private DType of(String role, int layer, int layers, int columns) {
            boolean moreBits = layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
            DType type = switch (this) {
                case F32 -> DType.F32;
                case F16 -> DType.F16;
                case BF16 -> DType.BF16;
                case Q8_0 -> DType.Q8_0;
                case Q4_0 -> role.equals("output") ? DType.Q6_K : DType.Q4_0;
                case Q4_K_M -> role.equals("output") || moreBits && (role.equals("attn_v") || role.equals("ffn_down"))
                        ? DType.Q6_K : DType.Q4_K;
            };
            if (columns % type.blockElements() != 0) {
                type = type == DType.Q4_K ? DType.Q4_0 : DType.Q8_0;
            }
            return columns % type.blockElements() == 0 ? type : DType.F16;
        }
    }

    private RandomModel() {
    }

    /** {@return the tensors of a model in the order of its file} */
    static List<GgufWriter.Entry> tensors(Dimensions d, Mixture mixture) {
        int keyValueWidth = d.keyValueHeads * d.headWidth();
        List<GgufWriter.Entry> entries = new ArrayList<>();
        // A tied embedding makes the logits too.
        entries.add(matrix("token_embd", d.vocabulary, d.width, mixture.of(d.tied ? "output" : "token_embd", 0, 0, d.width)));
        for (int layer = 0; layer < d.layers; layer++) {
            String block = "blk." + layer + ".";
            entries.add(norm(block + "attn_norm", d.width));
            entries.add(block(d, mixture, layer, "attn_q", d.width, d.width));
            entries.add(block(d, mixture, layer, "attn_k", keyValueWidth, d.width));
            entries.add(block(d, mixture, layer, "attn_v", keyValueWidth, d.width));
            entries.add(block(d, mixture, layer, "attn_output", d.width, d.width));
            entries.add(norm(block + "ffn_norm", d.width));
            entries.add(block(d, mixture, layer, "ffn_gate", d.feedForwardWidth, d.width));
            entries.add(block(d, mixture, layer, "ffn_up", d.feedForwardWidth, d.width));
            entries.add(block(d, mixture, layer, "ffn_down", d.width, d.feedForwardWidth));
        }
        entries.add(norm("output_norm", d.width));
        if (!d.tied) {
            entries.add(matrix("output", d.vocabulary, d.width, mixture.of("output", 0, 0, d.width)));
        }
        return entries;
    }

    private static GgufWriter.Entry block(Dimensions d, Mixture mixture, int layer, String role, int rows, int columns) {
        return matrix("blk." + layer + "." + role, rows, columns, mixture.of(role, layer, d.layers, columns));
    }

    private static GgufWriter.Entry matrix(String name, int rows, int columns, DType dtype) {
        return new GgufWriter.Entry(name + ".weight", dtype, Shape.of(rows, columns));
    }

    private static GgufWriter.Entry norm(String name, int width) {
        return new GgufWriter.Entry(name + ".weight", DType.F32, Shape.of(width));
    }

    /**
     * Writes a model.
     *
     * @param progress is told the bytes of weights written so far, every megabyte or less
     */
    static void write(Path file, String name, Dimensions d, Mixture mixture, long seed, LongConsumer progress) throws IOException {
        List<GgufWriter.Entry> tensors = tensors(d, mixture);
        SplittableRandom random = new SplittableRandom(seed);
        byte[] buffer = new byte[BUFFER_BYTES];
        long done = 0;
        try (GgufWriter writer = GgufWriter.create(file, metadata(name, d, mixture), tensors)) {
            for (GgufWriter.Entry tensor : tensors) {
                int blockBytes = tensor.dtype().blockBytes();
                int piece = BUFFER_BYTES / blockBytes * blockBytes;
                for (long left = tensor.bytes(); left > 0; left -= piece) {
                    ByteBuffer bytes = ByteBuffer.wrap(buffer, 0, (int) Math.min(left, piece)).order(ByteOrder.LITTLE_ENDIAN);
                    if (tensor.shape().rank() == 1) {
                        for (int i = 0; i < bytes.limit(); i += Float.BYTES) {
                            bytes.putFloat(i, 1);
                        }
                    } else {
                        fill(bytes, tensor.dtype(), random);
                    }
                    done += bytes.remaining();
                    writer.write(bytes);
                    progress.accept(done);
                }
            }
            writer.finish();
        }
    }

    /** Random elements; of blocks random quants, and scales that give the elements their deviation. */
    private static void fill(ByteBuffer bytes, DType dtype, SplittableRandom random) {
        int end = bytes.limit();
        // Uniform between -1 and 1, times this.
        float range = (float) (DEVIATION * Math.sqrt(3));
        switch (dtype) {
            case F32 -> {
                for (int i = 0; i < end; i += Float.BYTES) {
                    bytes.putFloat(i, random.nextInt() * 0x1p-31f * range);
                }
            }
            case F16 -> {
                for (int i = 0; i < end; i += Short.BYTES) {
                    bytes.putShort(i, Float.floatToFloat16(random.nextInt() * 0x1p-31f * range));
                }
            }
            case BF16 -> {
                for (int i = 0; i < end; i += Short.BYTES) {
                    bytes.putShort(i, (short) (Float.floatToRawIntBits(random.nextInt() * 0x1p-31f * range) >>> 16));
                }
            }
            default -> {
                int i = 0;
                for (; i + Long.BYTES <= end; i += Long.BYTES) {
                    bytes.putLong(i, random.nextLong());
                }
                for (; i < end; i++) {
                    bytes.put(i, (byte) random.nextInt());
                }
                scale(bytes, dtype);
            }
        }
    }

    /** A scale s of random factors is chosen such that s times the factors' deviation is the elements'. */
    private static void scale(ByteBuffer bytes, DType dtype) {
        double byteDeviation = Math.sqrt((256 * 256 - 1) / 12.0);
        double sixBitDeviation = Math.sqrt((64 * 64 - 1) / 12.0);
        double sixBitMean = 63 / 2.0;
        double nibbleDeviation = Math.sqrt((16 * 16 - 1) / 12.0);
        double nibbleMean = 15 / 2.0;
        short scale;
        short minimum = 0;
        int at;
        switch (dtype) {
            case Q8_0 -> {
                scale = half(DEVIATION / byteDeviation);
                at = 0;
            }
            case Q4_0 -> {
                scale = half(DEVIATION / nibbleDeviation);
                at = 0;
            }
            case Q4_K -> {
                // s·a·q - t·b with factors a, b of six bits and nibbles q: t = s·E[q] makes the mean 0.
                double product = square(sixBitDeviation) * (square(nibbleDeviation) + square(nibbleMean))
                        + square(sixBitMean) * square(nibbleDeviation);
                double s = DEVIATION / Math.sqrt(product + square(nibbleMean) * square(sixBitDeviation));
                scale = half(s);
                minimum = half(s * nibbleMean);
                at = 0;
            }
            case Q6_K -> {
                scale = half(DEVIATION / (byteDeviation * sixBitDeviation));
                at = dtype.blockBytes() - Short.BYTES;
            }
            default -> throw new IllegalArgumentException("dtype: expected blocks, got " + dtype);
        }
        for (int block = 0; block < bytes.limit(); block += dtype.blockBytes()) {
            bytes.putShort(block + at, scale);
            if (dtype == DType.Q4_K) {
                bytes.putShort(block + Short.BYTES, minimum);
            }
        }
    }

    private static double square(double x) {
        return x * x;
    }

    private static short half(double value) {
        return Float.floatToFloat16((float) value);
    }

    private static Map<String, Object> metadata(String name, Dimensions d, Mixture mixture) {
        Map<String, Object> keys = new LinkedHashMap<>();
        keys.put("general.architecture", "llama");
        keys.put("general.name", name);
        keys.put("general.file_type", mixture.fileType);
        keys.put("general.quantization_version", 2);
        keys.put("llama.vocab_size", d.vocabulary);
        keys.put("llama.context_length", d.context);
        keys.put("llama.embedding_length", d.width);
        keys.put("llama.block_count", d.layers);
        keys.put("llama.feed_forward_length", d.feedForwardWidth);
        keys.put("llama.attention.head_count", d.heads);
        keys.put("llama.attention.head_count_kv", d.keyValueHeads);
        keys.put("llama.attention.layer_norm_rms_epsilon", 1e-5f);
        keys.put("llama.rope.dimension_count", d.headWidth());
        keys.put("llama.rope.freq_base", d.theta);
        vocabulary(keys, d.vocabulary);
        return keys;
    }

    /** A SentencePiece vocabulary: the special tokens, every byte, then words of ever more letters, each longer than its parts. */
    private static void vocabulary(Map<String, Object> keys, int size) {
        List<String> pieces = new ArrayList<>(List.of("<unk>", "<s>", "</s>"));
        int[] types = new int[size];
        float[] scores = new float[size];
        Arrays.fill(types, 1);
        types[0] = 2;
        types[1] = 3;
        types[2] = 3;
        for (int i = 0; i < 256; i++) {
            types[pieces.size()] = 6;
            pieces.add("<0x%02X>".formatted(i));
        }
        if (pieces.size() < size) {
            pieces.add("\u2581");
        }
        for (char c = '!'; c <= '~' && pieces.size() < size; c++) {
            pieces.add(String.valueOf(c));
        }
        String letters = "etaoinshrdlucmfwypvbgkjqxz";
        List<String> stems = List.of("");
        for (int length = 1; pieces.size() < size; length++) {
            List<String> words = new ArrayList<>();
            for (int i = 0; i < stems.size() && pieces.size() < size; i++) {
                for (int k = 0; k < letters.length() && pieces.size() < size; k++) {
                    String word = stems.get(i) + letters.charAt(k);
                    words.add(word);
                    if (length > 1) {
                        pieces.add(word);
                    }
                }
            }
            stems = words;
        }
        for (int id = LEAST_VOCABULARY; id < size; id++) {
            scores[id] = LEAST_VOCABULARY - id;
        }
        keys.put("tokenizer.ggml.model", "llama");
        keys.put("tokenizer.ggml.pre", "default");
        keys.put("tokenizer.ggml.tokens", pieces);
        keys.put("tokenizer.ggml.scores", scores);
        keys.put("tokenizer.ggml.token_type", types);
        keys.put("tokenizer.ggml.bos_token_id", 1);
        keys.put("tokenizer.ggml.eos_token_id", 2);
        keys.put("tokenizer.ggml.unknown_token_id", 0);
        keys.put("tokenizer.ggml.add_bos_token", true);
        keys.put("tokenizer.ggml.add_eos_token", false);
    }
}
