package io.puna.generate;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.puna.LlamaModel;
import io.puna.ModelOptions;
import io.puna.TestData;
import io.puna.kernel.KvCache;
import io.puna.kernel.MatMul;
import io.puna.model.LlamaForward;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

@Timeout(value = 60, unit = TimeUnit.SECONDS)
class SessionTest {
    private static final java.nio.file.Path MODEL =
            TestData.repository().resolve("java-api/src/test/resources/fixtures/gguf/f32.gguf");
    private static final java.nio.file.Path WIDE_HEADS =
            TestData.repository().resolve("java-api/src/test/resources/fixtures/models/gqa2-head128");
    private static LlamaModel model;

    @BeforeAll
    static void open() throws IOException {
        model = LlamaModel.open(MODEL, ModelOptions.defaults().withThreads(2).withContextLength(600));
    }

    @AfterAll
    static void close() {
        model.close();
    }

    private static int[] prompt(int length, long seed) {
        return new Random(seed).ints(length, 0, model.config().vocabularySize()).toArray();
    }

    private static GenerationOptions.Builder options(int tokens) {
        return GenerationOptions.builder().maxTokens(tokens).ignoreEos(true);
    }

    private static int[] join(int[] first, List<Integer> then, int... last) {
        return java.util.stream.IntStream.concat(
                java.util.stream.IntStream.concat(Arrays.stream(first), then.stream().mapToInt(i -> i)), Arrays.stream(last)).toArray();
    }

    @Test
    void aNextPromptComputesOnlyWhatDiffersAndGivesTheSameText() {
        int[] first = prompt(20, 1);
        try (Session session = model.newSession(); Session fresh = model.newSession()) {
            GenerationResult one = session.generate(first, options(10).build());
            int[] second = join(first, one.tokens(), prompt(5, 2));
            GenerationResult two = session.generate(second, options(10).build());
            assertThat(one.cachedTokens()).isZero();
            // The last token of a text is chosen but not computed until it is needed.
            assertThat(two.cachedTokens()).isEqualTo(first.length + one.tokens().size() - 1);
            assertThat(two.tokens()).isEqualTo(fresh.generate(second, options(10).build()).tokens());
            GenerationResult again = session.generate(first, options(10).build());
            assertThat(again.cachedTokens()).isEqualTo(first.length - 1);
            assertThat(again.tokens()).isEqualTo(one.tokens());
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 7, 64})
    void aPromptInPiecesGivesTheSameBits(int stepTokens) throws IOException {
        int[] prompt = prompt(150, 3);
        try (Session whole = model.newSession();
                LlamaModel inPieces = LlamaModel.open(MODEL, ModelOptions.defaults().withStepTokens(stepTokens).withContextLength(600));
                Session session = inPieces.newSession()) {
            assertThat(session.logits(prompt)).isEqualTo(whole.logits(prompt));
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 3, 7})
    void anyNumberOfThreadsGivesTheSameBits(int threads) throws IOException {
        int[] prompt = prompt(90, 4);
        GenerationOptions drawn = options(30).temperature(1).seed(42).build();
        try (Session two = model.newSession();
                LlamaModel other = LlamaModel.open(MODEL, ModelOptions.defaults().withThreads(threads).withContextLength(600));
                Session session = other.newSession()) {
            assertThat(session.logits(prompt)).isEqualTo(two.logits(prompt));
            assertThat(session.generate(prompt, drawn).tokens()).isEqualTo(two.generate(prompt, drawn).tokens());
        }
    }

    @Test
    void theLogitsOfAllPositionsAreThoseOfEachPrefix() {
        int[] prompt = prompt(12, 5);
        try (Session session = model.newSession(); Arena arena = Arena.ofConfined()) {
            Tensor all = session.logits(arena, prompt);
            assertThat(all.shape()).isEqualTo(Shape.of(12, model.config().vocabularySize()));
            for (int i = 0; i < prompt.length; i++) {
                assertThat(session.logits(Arrays.copyOf(prompt, i + 1))).isEqualTo(all.rows(i, 1).toFloatArray());
            }
        }
    }

    @ParameterizedTest
    @EnumSource(names = {"F32", "F16", "BF16"})
    void sequencesThatShareAStepGetTheBitsTheyGetAlone(DType cacheType) throws IOException {
        int[][] prompts = {prompt(1, 6), prompt(17, 7), prompt(40, 8)};
        int v = model.config().vocabularySize();
        try (Device device = Device.cpu(2);
                LlamaForward forward = new LlamaForward(device, model.config(), model.weights(), MatMul.Activations.F32, 100);
                Arena arena = Arena.ofConfined();
                LlamaModel own = LlamaModel.open(MODEL, ModelOptions.defaults().withThreads(1).withContextLength(600)
                        .withCacheType(cacheType));
                Session alone = own.newSession()) {
            List<KvCache> caches = new ArrayList<>();
            List<LlamaForward.Part> parts = new ArrayList<>();
            for (int[] prompt : prompts) {
                KvCache cache = KvCache.allocate(model.config().layers(), model.config().keyValueHeads(),
                        model.config().headWidth(), 64, cacheType);
                caches.add(cache);
                parts.add(new LlamaForward.Part(cache, prompt, 0, prompt.length, 1, prompt.length));
            }
            Tensor logits = Tensor.allocate(arena, DType.F32, Shape.of(prompts.length, v));
            forward.step(parts, logits);
            for (int round = 0; round < 3; round++) {
                List<LlamaForward.Part> next = new ArrayList<>();
                for (int i = 0; i < prompts.length; i++) {
                    float[] row = logits.rows(i, 1).toFloatArray();
                    assertThat(row).isEqualTo(alone.logits(prompts[i]));
                    prompts[i] = Arrays.copyOf(prompts[i], prompts[i].length + 1);
                    prompts[i][prompts[i].length - 1] = (int) (Math.abs(row[0] * 1e3) % v);
                    next.add(new LlamaForward.Part(caches.get(i), prompts[i], prompts[i].length - 1, 1, 1, prompts[i].length));
                }
                forward.step(next, logits);
            }
            caches.forEach(KvCache::close);
        }
    }

    /** Ten times what rounding changes a number by: half a unit in the last place of F16 or BF16, 1 / 254 of the largest of a block. */
    @ParameterizedTest
    @CsvSource({"F16, 5e-3", "BF16, 4e-2", "Q8_0, 4e-2"})
    void aSmallerCacheGivesNearlyTheSameLogits(DType type, double most) throws IOException {
        int[] prompt = new Random(9).ints(50, 0, 67).toArray();
        ModelOptions options = ModelOptions.defaults().withContextLength(600);
        try (LlamaModel exact = LlamaModel.open(WIDE_HEADS, options);
                LlamaModel rounded = LlamaModel.open(WIDE_HEADS, options.withCacheType(type));
                Session session = rounded.newSession(); Session full = exact.newSession()) {
            float[] got = session.logits(prompt);
            float[] want = full.logits(prompt);
            double difference = 0;
            double norm = 0;
            for (int i = 0; i < got.length; i++) {
                difference += Math.pow(got[i] - want[i], 2);
                norm += Math.pow(want[i], 2);
            }
            assertThat(Math.sqrt(difference / norm)).isBetween(1e-9, most);
        }
    }

    @ParameterizedTest
    @EnumSource(names = {"F16", "BF16", "Q8_0"})
    void aSmallerCacheGivesTheSameBitsHoweverAPromptIsCut(DType cacheType) throws IOException {
        int[] prompt = new Random(9).ints(50, 0, 67).toArray();
        ModelOptions options = ModelOptions.defaults().withContextLength(600).withCacheType(cacheType);
        try (LlamaModel one = LlamaModel.open(WIDE_HEADS, options.withThreads(1));
                LlamaModel cut = LlamaModel.open(WIDE_HEADS, options.withThreads(2).withStepTokens(7));
                Session whole = one.newSession(); Session pieces = cut.newSession()) {
            assertThat(pieces.logits(prompt)).isEqualTo(whole.logits(prompt));
        }
    }

    @Test
    void aCacheOfBlocksThatHeadsDoNotFillIsRefused() {
        assertThatThrownBy(() -> LlamaModel.open(MODEL, ModelOptions.defaults().withCacheType(DType.Q8_0)))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageStartingWith("cacheType: expected F32, F16 or BF16 for heads of ");
    }

    @Test
    void theCacheGrowsWithTheTextUpToTheContext() {
        try (Session session = model.newSession()) {
            GenerationResult result = session.generate(prompt(300, 10), options(1000).build());
            assertThat(result.finishReason()).isEqualTo(FinishReason.LENGTH);
            // The last token needs no place of its own.
            assertThat(result.tokens()).hasSize(301);
            assertThat(session.generate(prompt(600, 11), options(5).build()).tokens()).hasSize(1);
        }
    }

    @Test
    void aPromptThatDoesNotFitIsAnErrorThatSaysSoAndLosesNothing() {
        try (Session session = model.newSession()) {
            int[] prompt = prompt(30, 12);
            session.logits(prompt);
            assertThatThrownBy(() -> session.generate(prompt(601, 13), options(1).build()))
                    .isInstanceOf(ContextLengthException.class).hasMessageContaining("at most 600 tokens").hasMessageContaining("got 601");
            assertThatThrownBy(() -> session.generate(new int[0], options(1).build()))
                    .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("at least one token");
            assertThatThrownBy(() -> session.generate("", options(1).build()))
                    .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("empty");
            int v = model.config().vocabularySize();
            for (int bad : new int[] {-1, v, Integer.MAX_VALUE, Integer.MIN_VALUE}) {
                assertThatThrownBy(() -> session.generate(new int[] {1, bad}, options(1).build()))
                        .isInstanceOf(IndexOutOfBoundsException.class).hasMessageContaining("prompt[1]").hasMessageContaining("" + bad);
            }
            assertThatThrownBy(() -> session.stream(prompt, options(1).logitBias(java.util.Map.of(v, 1f)).build()))
                    .isInstanceOf(IndexOutOfBoundsException.class);
            assertThat(session.cachedTokens()).isEqualTo(prompt);
        }
    }

    @Test
    void logprobsAreTheModelsOwnWhateverTheSamplerDoes() {
        int[] prompt = prompt(9, 14);
        try (Session session = model.newSession()) {
            float[] logits = session.logits(prompt);
            double max = logits[0];
            for (float logit : logits) {
                max = Math.max(max, logit);
            }
            double sum = 0;
            for (float logit : logits) {
                sum += Math.exp(logit - max);
            }
            GenerationResult result = session.generate(prompt, options(1).logprobs(3).temperature(2).topK(40).seed(5)
                    .logitBias(java.util.Map.of(7, 100f)).build());
            TokenLogprob logprob = result.logprobs().getFirst();
            assertThat(logprob.token()).isEqualTo(7).isEqualTo(result.tokens().getFirst());
            assertThat(logprob.logprob()).isCloseTo((float) (logits[7] - max - Math.log(sum)), org.assertj.core.api.Assertions.within(1e-4f));
            assertThat(logprob.top()).hasSize(3).isSortedAccordingTo((a, b) -> Float.compare(b.logprob(), a.logprob()));
            assertThat(logits[logprob.top().getFirst().token()]).isEqualTo((float) max);
            assertThat(session.generate(prompt, options(1).logprobs(0).build()).logprobs().getFirst().top()).isEmpty();
            assertThat(session.generate(prompt, options(1).logprobs(1 << 20).build()).logprobs().getFirst().top()).hasSize(logits.length);
        }
    }

    @Test
    void endOfTextEndsTheTextUnlessToldOtherwise() {
        int eos = model.config().eosTokenIds().getFirst();
        LogitsHook second = (tokens, logits) -> logits[tokens.size() == 11 ? eos : 5] = 1e9f;
        try (Session session = model.newSession()) {
            GenerationResult ended = session.generate(prompt(10, 15), GenerationOptions.builder().maxTokens(6).logitsHook(second).build());
            assertThat(ended.tokens()).containsExactly(5, eos);
            assertThat(ended.finishReason()).isEqualTo(FinishReason.EOS);
            GenerationResult on = session.generate(prompt(10, 15), options(6).logitsHook(second).build());
            assertThat(on.tokens()).containsExactly(5, eos, 5, 5, 5, 5);
            assertThat(on.finishReason()).isEqualTo(FinishReason.LENGTH);
        }
    }

    @Test
    void aStreamCanBeCancelledAtAnyTokenAndTheSessionGoesOn() {
        int[] prompt = prompt(10, 16);
        try (Session session = model.newSession()) {
            List<Integer> whole = session.generate(prompt, options(8).build()).tokens();
            TokenStream stream = session.stream(prompt, options(8).build());
            List<Integer> got = new ArrayList<>();
            while (stream.hasNext()) {
                got.add(stream.next().id());
                if (got.size() == 3) {
                    stream.cancel();
                }
            }
            assertThat(got).isEqualTo(whole.subList(0, 3));
            assertThat(stream.result().finishReason()).isEqualTo(FinishReason.CANCELLED);
            assertThat(stream.result().tokens()).isEqualTo(got);
            assertThatThrownBy(stream::next).isInstanceOf(NoSuchElementException.class);
            assertThat(session.generate(prompt, options(8).build()).tokens()).isEqualTo(whole);
        }
    }

    @Test
    void aTokenThatWasPromisedIsGivenThoughCancelledSince() {
        try (Session session = model.newSession()) {
            TokenStream stream = session.stream(prompt(10, 24), options(8).build());
            assertThat(stream.hasNext()).isTrue();
            stream.cancel();
            stream.next();
            assertThat(stream.hasNext()).isFalse();
        }
    }

    @Test
    void aStreamWhoseHookThrowsIsAtItsEndAndTheSessionGoesOn() {
        int[] prompt = prompt(10, 23);
        LogitsHook third = (tokens, logits) -> {
            if (tokens.size() == 12) {
                throw new UnsupportedOperationException("hook");
            }
        };
        try (Session session = model.newSession()) {
            List<Integer> whole = session.generate(prompt, options(8).build()).tokens();
            TokenStream stream = session.stream(prompt, options(8).logitsHook(third).build());
            List<Integer> got = List.of(stream.next().id(), stream.next().id());
            assertThatThrownBy(stream::next).isInstanceOf(UnsupportedOperationException.class);
            assertThat(stream.hasNext()).isFalse();
            assertThat(stream.result().tokens()).isEqualTo(got).isEqualTo(whole.subList(0, 2));
            assertThat(session.generate(prompt, options(8).build()).tokens()).isEqualTo(whole);
        }
    }

    @Test
    void interruptingTheThreadCancels() {
        try (Session session = model.newSession()) {
            Thread.currentThread().interrupt();
            GenerationResult result = session.generate(prompt(10, 17), options(8).build());
            assertThat(Thread.interrupted()).isTrue();
            assertThat(result.finishReason()).isEqualTo(FinishReason.CANCELLED);
            assertThat(result.tokens()).isEmpty();
        }
    }

    @Test
    void cancellingWhileThePromptIsComputedStopsBetweenSteps() throws IOException {
        try (LlamaModel small = LlamaModel.open(MODEL, ModelOptions.defaults().withStepTokens(4).withContextLength(600));
                Session session = small.newSession()) {
            AtomicReference<TokenStream> stream = new AtomicReference<>();
            List<Integer> seen = new ArrayList<>();
            stream.set(session.stream(prompt(40, 18), options(8).promptListener((done, total) -> {
                seen.add(done);
                assertThat(total).isEqualTo(40);
                if (done == 12) {
                    stream.get().cancel();
                }
            }).build()));
            assertThat(stream.get().hasNext()).isFalse();
            assertThatThrownBy(() -> stream.get().next()).isInstanceOf(NoSuchElementException.class);
            assertThat(seen).containsExactly(4, 8, 12);
            assertThat(stream.get().result().finishReason()).isEqualTo(FinishReason.CANCELLED);
            assertThat(session.cachedTokens()).isEqualTo(Arrays.copyOf(prompt(40, 18), 12));
        }
    }

    @Test
    void aLaterGenerationEndsTheStreamBefore() {
        try (Session session = model.newSession()) {
            TokenStream first = session.stream(prompt(10, 19), options(8).build());
            first.next();
            session.generate(prompt(10, 20), options(1).build());
            assertThatThrownBy(first::next).isInstanceOf(IllegalStateException.class).hasMessageContaining("later call");
        }
    }

    @Test
    void aSecondCallMeanwhileIsRefused() throws Exception {
        CountDownLatch inHook = new CountDownLatch(1);
        CountDownLatch tried = new CountDownLatch(1);
        try (Session session = model.newSession(); ExecutorService executor = Executors.newSingleThreadExecutor()) {
            Future<GenerationResult> running = executor.submit(() -> session.generate(prompt(5, 21), options(1).logitsHook((t, l) -> {
                inHook.countDown();
                await(tried);
            }).build()));
            inHook.await();
            for (Callable<?> call : List.<Callable<?>>of(() -> session.generate(prompt(3, 1), options(1).build()),
                    () -> session.logits(1, 2), session::cachedTokens, () -> session.stream(prompt(3, 1), options(1).build()))) {
                assertThatThrownBy(call::call).isInstanceOf(IllegalStateException.class).hasMessageContaining("one call at a time");
            }
            tried.countDown();
            assertThat(running.get().tokens()).hasSize(1);
        }
    }

    @Test
    void aHookCannotUseOrCloseItsOwnSession() {
        try (Session session = model.newSession()) {
            List<Throwable> thrown = new ArrayList<>();
            session.generate(prompt(5, 22), options(1).logitsHook((t, l) -> {
                thrown.add(org.assertj.core.api.Assertions.catchThrowable(() -> session.logits(1)));
                thrown.add(org.assertj.core.api.Assertions.catchThrowable(session::close));
            }).build());
            assertThat(thrown).hasSize(2).allMatch(e -> e instanceof IllegalStateException);
        }
    }

    @Test
    void sessionsOnManyThreadsGiveWhatTheyGiveAlone() throws Exception {
        try (ExecutorService executor = Executors.newVirtualThreadPerTaskExecutor(); Session alone = model.newSession()) {
            List<Future<List<Integer>>> running = new ArrayList<>();
            for (int i = 0; i < 12; i++) {
                int[] prompt = prompt(10 + i, 100 + i);
                running.add(executor.submit(() -> {
                    try (Session session = model.newSession()) {
                        return session.generate(prompt, options(20).build()).tokens();
                    }
                }));
            }
            for (int i = 0; i < running.size(); i++) {
                assertThat(running.get(i).get()).isEqualTo(alone.generate(prompt(10 + i, 100 + i), options(20).build()).tokens());
            }
        }
    }

    @Test
    void aClosedSessionThrowsAndClosesAgainQuietly() {
        Session session = model.newSession();
        TokenStream stream = session.stream(prompt(5, 23), options(5).build());
        session.close();
        session.close();
        for (Callable<?> call : List.<Callable<?>>of(() -> session.generate(prompt(3, 1), options(1).build()), stream::next,
                () -> session.logits(1, 2), session::cachedTokens)) {
            assertThatThrownBy(call::call).isInstanceOf(IllegalStateException.class).hasMessageContaining("closed");
        }
    }

    private static void await(CountDownLatch latch) {
        try {
            latch.await();
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }
}
