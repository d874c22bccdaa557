package io.puna.generate;

import io.puna.kernel.KvCache;
import io.puna.model.LlamaConfig;
import io.puna.model.LlamaForward;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import io.puna.text.Tokenizer;
import java.lang.foreign.Arena;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;
import java.util.function.Supplier;

/**
 * One text in progress: a cache of the keys and values of its tokens, so that a next prompt which begins like the last text costs
 * only what differs.
 *
 * <p>Made by {@link io.puna.LlamaModel#newSession()}. A session serves one call at a time, on any thread; a second call meanwhile
 * throws {@link IllegalStateException}. Sessions of one model may run on as many threads as one likes. The cache grows with the
 * text, up to {@link #contextLength()}.
 */
public final class Session implements AutoCloseable {
    /** What a cache starts with; it doubles when the text outgrows it. */
    private static final int FIRST_CAPACITY = 256;

    private final LlamaForward forward;
    private final Supplier<Optional<Tokenizer>> tokenizer;
    private final int contextLength;
    private final KvCache cache;
    private final Consumer<Session> onClose;
    private final ReentrantLock use = new ReentrantLock();
    private final Logits logits;
    private final Set<Integer> endOfText;
    /** The tokens whose keys and values the cache holds: the first {@code cache.length()} of these. */
    private int[] history = new int[0];
    /** Set before {@link #close()} waits for its turn, so that whoever comes meanwhile hears of that and not of a busy session. */
    private volatile boolean closed;
    private boolean freed;
    private volatile int generation;

    /**
     * Opens a session on a forward pass. Programs call {@link io.puna.LlamaModel#newSession()} instead.
     *
     * @param forward       the model's forward pass, borrowed
     * @param tokenizer     gives the model's tokenizer when text is first needed; empty for a model without
     * @param contextLength the most tokens of prompt and generated text together
     * @param cacheType     F32, F16 or BF16 for half the memory, or Q8_0 for little over a quarter
     * @param onClose       told once when the session is closed
     */
    public Session(LlamaForward forward, Supplier<Optional<Tokenizer>> tokenizer, int contextLength, DType cacheType,
            Consumer<Session> onClose) {
        if (contextLength < 1) {
            throw new IllegalArgumentException("contextLength: expected at least 1, got " + contextLength);
        }
        this.forward = Objects.requireNonNull(forward, "forward");
        this.tokenizer = Objects.requireNonNull(tokenizer, "tokenizer");
        this.onClose = Objects.requireNonNull(onClose, "onClose");
        this.contextLength = contextLength;
        LlamaConfig config = forward.config();
        this.cache = forward.newCache(Math.min(contextLength, FIRST_CAPACITY), cacheType);
        try {
            this.logits = new Logits(forward.device(), config.vocabularySize());
        } catch (RuntimeException | Error e) {
            cache.close();
            throw e;
        }
        this.endOfText = Set.copyOf(config.eosTokenIds());
    }

    /** {@return the most tokens of prompt and generated text together} */
    public int contextLength() {
        return contextLength;
    }

    /**
     * {@return the continuation of a text}
     *
     * @throws ContextLengthException   if the prompt has more tokens than the context holds
     * @throws IllegalArgumentException if the prompt is empty, or an option does not fit the model
     * @throws IllegalStateException    if the session or the model is closed, the session is in use by another thread, or the model
     *                                  has no tokenizer
     */
    public GenerationResult generate(String prompt, GenerationOptions options) {
        return stream(prompt, options).drain();
    }

    /**
     * {@return the continuation of tokens}
     *
     * @throws IndexOutOfBoundsException if a token is not in the vocabulary
     * @throws ContextLengthException    if the prompt has more tokens than the context holds
     * @throws IllegalArgumentException  if the prompt is empty, or an option does not fit the model
     * @throws IllegalStateException     if the session or the model is closed, or the session is in use by another thread
     */
    public GenerationResult generate(int[] prompt, GenerationOptions options) {
        return stream(prompt, options).drain();
    }

    /**
     * {@return the continuation of a text, token by token as it is computed}
     *
     * <p>The prompt is checked now and computed when the stream is first asked. A session has one stream at a time: the next
     * generation ends the one before.
     *
     * @throws ContextLengthException   if the prompt has more tokens than the context holds
     * @throws IllegalArgumentException if the prompt is empty, or an option does not fit the model
     * @throws IllegalStateException    if the session or the model is closed, the session is in use by another thread, or the model
     *                                  has no tokenizer
     */
    public TokenStream stream(String prompt, GenerationOptions options) {
        if (prompt.isEmpty()) {
            throw new IllegalArgumentException("prompt: expected some text, got an empty string");
        }
        Tokenizer text = tokenizer.get().orElseThrow(() -> new IllegalStateException(
                "prompt: expected token ids, because the model comes without a tokenizer; got text"));
        return stream(text.encode(prompt), options);
    }

    /**
     * {@return the continuation of tokens, token by token as it is computed}
     *
     * @throws IndexOutOfBoundsException if a token is not in the vocabulary
     * @throws ContextLengthException    if the prompt has more tokens than the context holds
     * @throws IllegalArgumentException  if the prompt is empty, or an option does not fit the model
     * @throws IllegalStateException     if the session or the model is closed, or the session is in use by another thread
     */
    public TokenStream stream(int[] prompt, GenerationOptions options) {
        Objects.requireNonNull(options, "options");
        int[] ids = prompt.clone();
        enter();
        try {
            checkPrompt(ids);
            for (int id : options.logitBias().keySet()) {
                if (id < 0 || id >= vocabularySize()) {
                    throw new IndexOutOfBoundsException("logitBias: expected token ids from 0 to " + (vocabularySize() - 1)
                            + ", got " + id);
                }
            }
            if (!options.stop().isEmpty() && tokenizer.get().isEmpty()) {
                throw new IllegalStateException("stop: expected no stop strings, because the model comes without a tokenizer; got "
                        + options.stop());
            }
            generation++;
            return new TokenStream(this, generation, ids, options, tokenizer.get());
        } finally {
            use.unlock();
        }
    }

    /**
     * {@return the logits of the token after these, one for each id in the vocabulary}
     *
     * @throws IndexOutOfBoundsException if a token is not in the vocabulary
     * @throws ContextLengthException    if there are more tokens than the context holds
     * @throws IllegalArgumentException  if there are no tokens
     * @throws IllegalStateException     if the session or the model is closed, or the session is in use by another thread
     */
    public float[] logits(int... tokens) {
        int[] ids = tokens.clone();
        enter();
        try {
            checkPrompt(ids);
            generation++;
            prefill(ids, (done, total) -> true);
            return logits.row().clone();
        } finally {
            use.unlock();
        }
    }

    /**
     * {@return the logits after each of these tokens, F32 (tokens, V)}
     *
     * @param arena owns the result
     * @throws IndexOutOfBoundsException if a token is not in the vocabulary
     * @throws ContextLengthException    if there are more tokens than the context holds
     * @throws IllegalArgumentException  if there are no tokens
     * @throws IllegalStateException     if the session or the model is closed, or the session is in use by another thread
     */
    public Tensor logits(Arena arena, int... tokens) {
        int[] ids = tokens.clone();
        enter();
        try {
            checkPrompt(ids);
            generation++;
            Tensor all = Tensor.allocate(arena, DType.F32, Shape.of(ids.length, vocabularySize()));
            cache.truncate(0);
            reserve(ids.length);
            history = ids;
            for (int from = 0; from < ids.length;) {
                int count = Math.min(ids.length - from, forward.maxRows());
                logits(List.of(new LlamaForward.Part(cache, ids, from, count, count, ids.length)), all.rows(from, count));
                from += count;
            }
            return all;
        } finally {
            use.unlock();
        }
    }

    /** Computes a step whose logits go to memory of the host, wherever they are computed. */
    private void logits(List<LlamaForward.Part> parts, Tensor host) {
        Device device = forward.device();
        if (!device.hasOwnMemory()) {
            forward.step(parts, host);
            return;
        }
        try (Arena scratch = Arena.ofConfined()) {
            Tensor computed = device.allocate(scratch, DType.F32, host.shape());
            forward.step(parts, computed);
            device.copy(host, computed);
        }
    }

    /** {@return the tokens whose keys and values the session holds} */
    public int[] cachedTokens() {
        enter();
        try {
            return Arrays.copyOf(history, Math.toIntExact(cache.length()));
        } finally {
            use.unlock();
        }
    }

    /**
     * Frees the cache. Waits for a call in flight on another thread; later calls throw. Idempotent.
     *
     * @throws IllegalStateException if called by the session's own hook or listener
     */
    @Override
    public void close() {
        if (use.isHeldByCurrentThread()) {
            throw new IllegalStateException("session: expected close() outside of its own hooks and listeners");
        }
        closed = true;
        use.lock();
        try {
            if (!freed) {
                freed = true;
                cache.close();
                logits.close();
                onClose.accept(this);
            }
        } finally {
            use.unlock();
        }
    }

    int vocabularySize() {
        return forward.config().vocabularySize();
    }

    LlamaConfig config() {
        return forward.config();
    }

    boolean isEos(int token) {
        return endOfText.contains(token);
    }

    void enter() {
        boolean entered = !use.isHeldByCurrentThread() && use.tryLock();
        if (closed) {
            if (entered) {
                use.unlock();
            }
            throw new IllegalStateException("session is closed");
        }
        if (!entered) {
            throw new IllegalStateException("session: expected one call at a time, got a second; give each thread a session of its own");
        }
    }

    void enter(int generation) {
        enter();
        if (this.generation != generation) {
            use.unlock();
            throw new IllegalStateException("stream: expected the session's latest generation, got one that a later call has ended");
        }
    }

    void leave() {
        use.unlock();
    }

    /** Follows a prefill between steps, and says whether it should go on. */
    interface Progress {
        boolean computed(int done, int total);
    }

    /**
     * Computes what the cache does not hold of a prompt, and the logits after it. Returns the tokens that were held, or -1 when
     * told to stop on the way.
     */
    int prefill(int[] prompt, Progress progress) {
        int held = Math.toIntExact(cache.length());
        int keep = 0;
        // The last token is always computed: its logits are wanted. Where rotations depend on the length nothing can be kept.
        boolean changing = config().ropeScaling().dependsOnLength(Math.max(held, prompt.length));
        while (!changing && keep < Math.min(held, prompt.length - 1) && history[keep] == prompt[keep]) {
            keep++;
        }
        cache.truncate(keep);
        history = prompt;
        reserve(prompt.length);
        for (int from = keep; from < prompt.length;) {
            int count = Math.min(prompt.length - from, forward.maxRows());
            boolean last = from + count == prompt.length;
            forward.step(List.of(new LlamaForward.Part(cache, prompt, from, count, last ? 1 : 0, prompt.length)),
                    last ? logits.tensor() : logits.tensor().rows(0, 0));
            from += count;
            if (!progress.computed(from, prompt.length) && !last) {
                return -1;
            }
        }
        return keep;
    }

    /** Whether one more token has a place in the context. */
    boolean hasRoom() {
        return cache.length() < contextLength;
    }

    /** Computes the logits after one more token. */
    void advance(int token) {
        int length = Math.toIntExact(cache.length());
        reserve(length + 1);
        if (history.length <= length) {
            history = Arrays.copyOf(history, Math.max(2 * length, FIRST_CAPACITY));
        }
        history[length] = token;
        forward.step(List.of(new LlamaForward.Part(cache, history, length, 1, 1, length + 1)), logits.tensor());
    }

    /** The logits after the last token. */
    Logits logits() {
        return logits;
    }

    private void checkPrompt(int[] prompt) {
        if (prompt.length == 0) {
            throw new IllegalArgumentException("prompt: expected at least one token, got none");
        }
        if (prompt.length > contextLength) {
            throw new ContextLengthException(prompt.length, contextLength);
        }
        for (int i = 0; i < prompt.length; i++) {
            if (prompt[i] < 0 || prompt[i] >= vocabularySize()) {
                throw new IndexOutOfBoundsException("prompt[" + i + "]: expected a token id from 0 to " + (vocabularySize() - 1)
                        + ", got " + prompt[i]);
            }
        }
    }

    private void reserve(int tokens) {
        if (tokens > cache.capacity()) {
            cache.reserve((int) Math.min(contextLength, Math.max(tokens, 2L * cache.capacity())));
        }
    }
}
