package io.puna.generate;

import io.puna.text.StreamDecoder;
import io.puna.text.Tokenizer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/**
 * A generation in progress: the first {@link #hasNext()} computes the prompt, each {@link #next()} one token.
 *
 * <p>For one thread at a time; {@link #cancel()} may come from any. Interrupting the generating thread cancels too. Leaving a stream
 * before its end costs nothing: the session stays usable.
 */
public final class TokenStream implements Iterator<GeneratedToken> {
    private final Session session;
    private final int generation;
    private final int[] prompt;
    private final GenerationOptions options;
    private final Sampler sampler;
    private final @Nullable StreamDecoder decoder;
    /** Ids from here on have no text: embeddings may be padded beyond the tokenizer's vocabulary. */
    private final int pieces;
    private final StopMatcher stops;
    private final List<Integer> context;
    private final List<Integer> tokens = new ArrayList<>();
    private final List<TokenLogprob> logprobs = new ArrayList<>();
    private final StringBuilder text = new StringBuilder();
    private volatile boolean cancelled;
    private @Nullable FinishReason finishReason;
    private boolean prompted;
    private boolean flushed;
    private int cachedTokens;
    private long prefillNanos;
    private long decodeNanos;

    TokenStream(Session session, int generation, int[] prompt, GenerationOptions options, Optional<Tokenizer> tokenizer) {
        this.session = session;
        this.generation = generation;
        this.prompt = prompt;
        this.options = options;
        this.sampler = new Sampler(options, session.vocabularySize(), prompt);
        this.pieces = tokenizer.map(Tokenizer::vocabularySize).orElse(0);
        this.decoder = tokenizer.map(t -> t.streamDecoder(Arrays.stream(prompt).filter(id -> id < pieces).toArray())).orElse(null);
        this.stops = new StopMatcher(options.stop());
        this.context = new ArrayList<>(prompt.length + Math.min(options.maxTokens(), 1024));
        Arrays.stream(prompt).forEach(context::add);
    }

    /**
     * {@return whether another token can be asked for}
     *
     * <p>The first call computes the prompt, so that one which is cancelled meanwhile ends here and a token promised is a token given.
     *
     * @throws IllegalStateException if the session or the model is closed, the session is in use by another thread, or a later
     *                               generation has begun on it
     */
    @Override
    public boolean hasNext() {
        if (finishReason == null && isCancelled()) {
            finishReason = FinishReason.CANCELLED;
        }
        if (finishReason == null && !prompted) {
            computePrompt();
        }
        return finishReason == null;
    }

    private void computePrompt() {
        session.enter(generation);
        try {
            long start = System.nanoTime();
            int held = session.prefill(prompt, this::computed);
            prefillNanos = System.nanoTime() - start;
            if (held < 0) {
                finishReason = FinishReason.CANCELLED;
            } else {
                cachedTokens = held;
                prompted = true;
            }
        } finally {
            session.leave();
        }
    }

    private boolean computed(int done, int total) {
        if (options.promptListener() != null) {
            options.promptListener().progress(done, total);
        }
        return !isCancelled();
    }

    private boolean isCancelled() {
        return cancelled || Thread.currentThread().isInterrupted();
    }

    /**
     * {@return the next token, computed now}
     *
     * <p>A stream whose hook throws is at its end.
     *
     * @throws NoSuchElementException if the generation has ended
     * @throws IllegalStateException  if the session or the model is closed, the session is in use by another thread, or a later
     *                                generation has begun on it
     */
    @Override
    public GeneratedToken next() {
        // A token that hasNext has promised is given even if the generation was cancelled since.
        if (finishReason != null || !prompted && !hasNext()) {
            throw new NoSuchElementException("the generation has ended: " + finishReason);
        }
        session.enter(generation);
        boolean computed = false;
        try {
            long start = System.nanoTime();
            if (!tokens.isEmpty()) {
                session.advance(tokens.getLast());
            }
            int token = sampler.choose(session.logits(), Collections.unmodifiableList(context));
            TokenLogprob logprob = options.logprobs() < 0 ? null : session.logits().logprob(token, options.logprobs());
            long nanos = System.nanoTime() - start;
            if (tokens.isEmpty()) {
                prefillNanos += nanos;
            } else {
                decodeNanos += nanos;
            }
            GeneratedToken accepted = accept(token, logprob);
            computed = true;
            return accepted;
        } finally {
            if (!computed) {
                // The cache may hold the last token already: to compute it once more would be another text.
                finishReason = FinishReason.CANCELLED;
            }
            session.leave();
        }
    }

    private GeneratedToken accept(int token, @Nullable TokenLogprob logprob) {
        tokens.add(token);
        context.add(token);
        sampler.accept(token);
        if (logprob != null) {
            logprobs.add(logprob);
        }
        StringBuilder certain = new StringBuilder();
        if (decoder != null && token < pieces) {
            certain.append(stops.accept(decoder.accept(token)));
        }
        if (stops.matched()) {
            finishReason = FinishReason.STOP;
            flushed = true;
        } else if (!options.ignoreEos() && session.isEos(token)) {
            finishReason = FinishReason.EOS;
        } else if (tokens.size() == options.maxTokens() || !session.hasRoom()) {
            finishReason = FinishReason.LENGTH;
        }
        if (finishReason != null) {
            certain.append(flush());
        }
        text.append(certain);
        return new GeneratedToken(token, certain.toString(), logprob);
    }

    /** What the decoder and the stop strings hold back, once the last token is known to be the last. */
    private String flush() {
        if (flushed || decoder == null) {
            return "";
        }
        flushed = true;
        String rest = stops.accept(decoder.finish());
        return rest + stops.finish();
    }

    /** Ends the generation: no token is computed after the one in progress. From any thread, any number of times. */
    public void cancel() {
        cancelled = true;
    }

    /**
     * {@return what was generated: all of it once {@link #hasNext()} is false}
     *
     * <p>Asked for earlier, it ends the generation as {@link #cancel()} does.
     */
    public GenerationResult result() {
        if (finishReason == null) {
            finishReason = FinishReason.CANCELLED;
        }
        text.append(flush());
        return new GenerationResult(Arrays.stream(prompt).boxed().toList(), tokens, text.toString(), finishReason, logprobs,
                cachedTokens, Duration.ofNanos(prefillNanos), Duration.ofNanos(decodeNanos));
    }

    GenerationResult drain() {
        while (hasNext()) {
            next();
        }
        return result();
    }
}
