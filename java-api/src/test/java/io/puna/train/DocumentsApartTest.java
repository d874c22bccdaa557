package io.puna.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.puna.kernel.Rope;
import io.puna.model.LlamaConfig;
import io.puna.model.LoraAdapter;
import io.puna.model.RopeScaling;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Documents packed into a sequence, none of which sees another: what each of them is as a sequence of its own. */
class DocumentsApartTest {
    private static final int VOCABULARY = 61;
    /** Positions that count on round their rotations otherwise; nothing else differs. */
    private static final double TOLERANCE = 1e-5;

    @TempDir
    private Path folder;

    static LlamaConfig config(int window) {
        return new LlamaConfig("LlamaForCausalLM", VOCABULARY, 24, 2, 6, 2, 8, 40, 64, 1e-5f, 10_000, new RopeScaling.None(),
                Rope.Layout.HALVES, window, false, 1, List.of(2));
    }

    /** Weights far from where attention is uniform. */
    static Parameters weights(Device device, LlamaConfig config) {
        Parameters weights = Parameters.random(device, config, 2);
        Tensor all = weights.all();
        for (long i = 0; i < weights.matrixElements(); i++) {
            all.segment().setAtIndex(ValueLayout.JAVA_FLOAT, i, 6 * all.getFloat(0, i));
        }
        return weights;
    }

    /** A batch of documents of these lengths, of which none asks for what follows its last token, unless it has no other. */
    record Packed(int[] lengths, int sequences, int[] ids, int[] targets, boolean[] begins) {
        static Packed of(int sequences, int... lengths) {
            int rows = Arrays.stream(lengths).sum();
            SplittableRandom random = new SplittableRandom(7);
            int[] ids = random.ints(rows, 0, VOCABULARY).toArray();
            int[] targets = random.ints(rows, 0, VOCABULARY).toArray();
            boolean[] begins = new boolean[rows];
            int from = 0;
            for (int length : lengths) {
                begins[from] = true;
                from += length;
                targets[from - 1] = length == 1 ? targets[from - 1] : BatchSource.IGNORED;
            }
            return new Packed(lengths, sequences, ids, targets, begins);
        }

        int tokens() {
            return ids.length / sequences;
        }

        /** Adds up the gradients of the documents, each a batch of its own. */
        double accumulateEach(Device device, Parameters gradient, Parameters weights) {
            double sum = 0;
            int from = 0;
            for (int length : lengths) {
                try (LossGradient loss = new LossGradient(device, weights.config(), Recomputation.STORE_ALL, 1, length)) {
                    sum += loss.accumulate(gradient, weights, Arrays.copyOfRange(ids, from, from + length),
                            Arrays.copyOfRange(targets, from, from + length), 1);
                }
                from += length;
            }
            return sum;
        }
    }

    /** Documents of one token, those that begin at a sequence's first or last, and neighbours of one length across sequences. */
    @ParameterizedTest
    @CsvSource(delimiter = ';', value = {"0; 1; 5,8", "0; 1; 9,3,17", "0; 1; 1,6,1,1,4,1", "0; 2; 12,1,1,12", "0; 2; 6,7,7,6",
        "0; 3; 13,4,9,13", "0; 1; 1,1,1", "4; 2; 6,12,9,9", "4; 1; 23"})
    void aBatchIsTheSumOfItsDocuments(int window, int sequences, String documents) {
        Packed batch = Packed.of(sequences, Arrays.stream(documents.split(",")).mapToInt(Integer::parseInt).toArray());
        try (Device device = Device.cpu(2); Parameters weights = weights(device, config(window));
                Parameters expected = Parameters.zeros(device, weights.config());
                Parameters gradient = Parameters.zeros(device, weights.config());
                LossGradient loss = new LossGradient(device, weights.config(), Recomputation.LLAMA, sequences, batch.tokens())) {
            double wanted = batch.accumulateEach(device, expected, weights);

            double sum = loss.accumulate(gradient, weights, batch.ids, batch.targets, batch.begins, 1);

            assertThat(sum).isCloseTo(wanted, within(TOLERANCE * wanted));
            assertThat(loss.loss(weights, batch.ids, batch.targets, batch.begins)).isEqualTo(sum);
            expected.tensors().forEach((name, tensor) ->
                    assertThat(GradientGoldenTest.difference(gradient.tensors().get(name), tensor)).as(name).isLessThan(TOLERANCE));
            if (batch.lengths.length > sequences) {
                assertThat(loss.loss(weights, batch.ids, batch.targets)).isNotCloseTo(wanted, within(1e-3 * wanted));
            }
        }
    }

    @Test
    void anAdaptersGradientIsTheSumOfTheDocuments() {
        Packed batch = Packed.of(1, 9, 3, 17);
        LlamaConfig config = config(0);
        try (Device device = Device.cpu(2); Parameters weights = weights(device, config);
                LoraAdapter adapter = LoraAdapter.random(device, config, 3, 6, EnumSet.allOf(LoraAdapter.Target.class), 1);
                LoraAdapter expected = adapter.zeros(); LoraAdapter gradient = adapter.zeros();
                LossGradient loss = new LossGradient(device, config, Recomputation.LLAMA, 1, batch.tokens())) {
            int from = 0;
            for (int length : batch.lengths) {
                try (LossGradient each = new LossGradient(device, config, Recomputation.LLAMA, 1, length)) {
                    each.accumulate(expected, adapter, weights, Arrays.copyOfRange(batch.ids, from, from + length),
                            Arrays.copyOfRange(batch.targets, from, from + length), 1);
                }
                from += length;
            }

            loss.accumulate(gradient, adapter, weights, batch.ids, batch.targets, batch.begins, 1);

            assertThat(GradientGoldenTest.difference(gradient.all(), expected.all())).isLessThan(TOLERANCE);
        }
    }

    /** What the second document is asked hangs on the first where they are not kept apart, and on no bit of it where they are. */
    @Test
    void anotherDocumentsTokensChangeNothing() {
        int first = 6;
        Packed batch = Packed.of(1, first, 8);
        int[] ids = IntStream.range(0, 14).toArray();
        int[] others = ids.clone();
        Arrays.setAll(others, i -> i < first ? 40 + i : ids[i]);
        int[] targets = batch.targets.clone();
        Arrays.fill(targets, 0, first, BatchSource.IGNORED);
        try (Device device = Device.cpu(2); Parameters weights = weights(device, config(0));
                Parameters gradient = Parameters.zeros(device, weights.config());
                LossGradient loss = new LossGradient(device, weights.config(), Recomputation.FULL, 1, batch.tokens())) {
            assertThat(loss.loss(weights, others, targets)).isNotEqualTo(loss.loss(weights, ids, targets));
            assertThat(loss.loss(weights, others, targets, batch.begins)).isEqualTo(loss.loss(weights, ids, targets, batch.begins));

            loss.accumulate(gradient, weights, ids, targets, batch.begins, 1);
            Tensor embedding = gradient.weights().embedding();
            assertThat(embedding.rows(0, first).toFloatArray()).containsOnly(0);
            assertThat(embedding.rows(first, 7).toFloatArray()).doesNotContain(0);
            loss.accumulate(gradient, weights, ids, targets, 1);
            assertThat(embedding.rows(0, first).toFloatArray()).doesNotContain(0);
        }
    }

    @Test
    void everyPolicyAndNumberOfThreadsGivesTheSameBits() {
        Packed batch = Packed.of(2, 9, 1, 13, 4, 19);
        float[] bits = null;
        for (int threads : new int[] {1, 2, 3}) {
            for (Recomputation recomputation : Recomputation.values()) {
                try (Device device = Device.cpu(threads); Parameters weights = weights(device, config(0));
                        Parameters gradient = Parameters.zeros(device, weights.config());
                        LossGradient loss = new LossGradient(device, weights.config(), recomputation, 2, batch.tokens())) {
                    loss.accumulate(gradient, weights, batch.ids, batch.targets, batch.begins, 1);
                    float[] got = gradient.all().toFloatArray();
                    assertThat(got).isEqualTo(bits == null ? got : bits);
                    bits = got;
                }
            }
        }
    }

    /** One call for the whole batch, as without documents. */
    @Test
    void documentsThatAreWholeSequencesHaveTheBitsOfABatchWithout() {
        Packed batch = Packed.of(3, 13, 13, 13);
        try (Device device = Device.cpu(2); Parameters weights = weights(device, config(0));
                Parameters expected = Parameters.zeros(device, weights.config());
                Parameters gradient = Parameters.zeros(device, weights.config());
                LossGradient loss = new LossGradient(device, weights.config(), Recomputation.LLAMA, 3, 13)) {
            double sum = loss.accumulate(expected, weights, batch.ids, batch.targets, 1);
            assertThat(loss.accumulate(gradient, weights, batch.ids, batch.targets, batch.begins, 1)).isEqualTo(sum);
            assertThat(gradient.all().toFloatArray()).isEqualTo(expected.all().toFloatArray());
            assertThatThrownBy(() -> loss.loss(weights, batch.ids, batch.targets, new boolean[3]))
                    .hasMessageContaining("expected 39 ids, targets and begins, got 39, 39 and 3");
        }
    }

    /** Files of documents that fill sequences of eight tokens. */
    private TokenDataset dataset() throws IOException {
        SplittableRandom random = new SplittableRandom(3);
        for (String suffix : List.of(TokenDataset.SUFFIX, TokenDataset.VALIDATION_SUFFIX)) {
            try (TokenShard.Writer writer = new TokenShard.Writer(folder.resolve("a" + suffix), VOCABULARY, 1)) {
                for (int length : new int[] {5, 3, 8, 1, 7, 2, 4, 2}) {
                    writer.write(random.ints(length, 0, VOCABULARY).toArray());
                    writer.endDocument();
                }
                writer.finish();
            }
        }
        return TokenDataset.open(folder);
    }

    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void anEvaluationIsThatOfEachDocument(boolean apart) throws IOException {
        try (Device device = Device.cpu(2); TokenDataset dataset = dataset(); Parameters weights = weights(device, config(0));
                Parameters gradient = Parameters.zeros(device, weights.config());
                Trainer trainer = new Trainer(device, weights, dataset.batches(1, true), TrainingOptions.of(9, 2, 8, 1e-3))) {
            int[] ids = new int[32];
            int[] targets = new int[32];
            dataset.validation(true).next(ids, targets, 4);
            Packed all = new Packed(new int[] {5, 3, 8, 1, 7, 2, 4, 2}, 4, ids, targets, new boolean[0]);
            double expected = all.accumulateEach(device, gradient, weights) / Arrays.stream(targets).filter(t -> t >= 0).count();

            double got = trainer.evaluate(apart ? dataset.validation(true) : new Joined(dataset.validation(true)), 2);

            if (apart) {
                assertThat(got).isCloseTo(expected, within(TOLERANCE * expected));
            } else {
                assertThat(got).isNotCloseTo(expected, within(1e-3 * expected));
            }
        }
    }

    /** A program's own source, of before there were documents to keep apart. */
    private record Joined(BatchSource source) implements BatchSource {
        @Override
        public void next(int[] ids, int[] targets, int sequences) {
            source.next(ids, targets, sequences);
        }

        @Override
        public String state() {
            return source.state();
        }

        @Override
        public void restore(String state) {
            source.restore(state);
        }
    }

    @Test
    void aSourceOfOldCutsNowhere() throws IOException {
        try (TokenDataset dataset = dataset()) {
            boolean[] begins = new boolean[16];
            Arrays.fill(begins, true);
            new Joined(dataset.batches(1, true)).next(new int[16], new int[16], begins, 2);
            assertThat(begins).containsOnly(false);
        }
    }

    @Test
    void aRunTakenUpAgainHasTheBitsOfOneThatNeverStopped() throws IOException {
        TrainingOptions options = TrainingOptions.of(9, 2, 11, 3e-3).withAccumulate(2);
        List<Double> losses = new ArrayList<>();
        float[] whole;
        try (Device device = Device.cpu(2); TokenDataset dataset = dataset(); Parameters weights = weights(device, config(0));
                Trainer trainer = new Trainer(device, weights, dataset.batches(1, true), options)) {
            while (trainer.steps() < 9) {
                losses.add(trainer.step().loss());
                if (trainer.steps() == 4) {
                    trainer.save(folder);
                }
            }
            whole = weights.all().toFloatArray();
        }
        try (Device device = Device.cpu(3); TokenDataset dataset = dataset();
                Parameters weights = Parameters.random(device, config(0), 9);
                Trainer trainer = new Trainer(device, weights, dataset.batches(1, true),
                        options.withRecomputation(Recomputation.FULL))) {
            trainer.restore(folder);
            while (trainer.steps() < 9) {
                assertThat(trainer.step().loss()).isEqualTo(losses.get((int) trainer.steps() - 1));
            }
            assertThat(weights.all().toFloatArray()).isEqualTo(whole);
        }
        try (Device device = Device.cpu(2); TokenDataset dataset = dataset(); Parameters weights = weights(device, config(0));
                Trainer trainer = new Trainer(device, weights, new Joined(dataset.batches(1, true)), options)) {
            assertThat(trainer.step().loss()).isNotCloseTo(losses.getFirst(), within(1e-3));
        }
    }
}
