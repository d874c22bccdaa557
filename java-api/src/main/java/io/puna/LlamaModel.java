package io.puna;

import io.puna.bindings.NativeMemory;
import io.puna.bindings.puna_h;
import io.puna.format.Checkpoint;
import io.puna.format.CheckpointException;
import io.puna.format.LoadListener;
import io.puna.generate.GenerationOptions;
import io.puna.generate.GenerationResult;
import io.puna.generate.Session;
import io.puna.model.LlamaConfig;
import io.puna.model.LlamaForward;
import io.puna.model.LlamaWeights;
import io.puna.model.LoraAdapter;
import io.puna.tensor.Device;
import io.puna.tensor.DeviceException;
import io.puna.text.Tokenizer;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * A LLaMA-family model: weights mapped from a file, a tokenizer, and a device to compute on.
 *
 * {@snippet :
 * try (LlamaModel model = LlamaModel.open(Path.of("model.gguf"))) {
 *     System.out.println(model.generate("Once upon a time", GenerationOptions.defaults()).text());
 * }
 * }
 *
 * <p>Safe for use by many threads, each with a session of its own. {@link #close()} waits for the step in flight, closes the
 * model's sessions and unmaps the weights; what uses the model afterwards gets an {@link IllegalStateException}.
 */
public final class LlamaModel implements AutoCloseable {
    private final Checkpoint checkpoint;
    private final LlamaConfig config;
    private final LlamaWeights weights;
    private final ModelOptions options;
    private final Device device;
    /** What computes the layers that the device does not; the device itself where it computes all. */
    private final Device host;
    /** Owns what an adapter changes, and the weights' copies on a device with memory of its own. */
    private final Arena merged;
    private final LlamaForward forward;
    private final Set<Session> sessions = ConcurrentHashMap.newKeySet();
    private final Object tokenizerLock = new Object();
    private Optional<Tokenizer> tokenizer;
    private volatile boolean closed;

    private LlamaModel(Checkpoint checkpoint, LlamaConfig config, LlamaWeights weights, ModelOptions options, Device device,
            Device host, Arena merged) {
        this.checkpoint = checkpoint;
        this.config = config;
        this.weights = weights;
        this.options = options;
        this.device = device;
        this.host = host;
        this.merged = merged;
        this.forward = newForward(Math.min(options.stepTokens(), contextLength()));
    }

    /**
     * Opens a model with the default options.
     *
     * @param path a GGUF file, or a directory in Hugging Face's layout
     * @throws io.puna.format.UnsupportedModelException if it is not of the LLaMA family
     * @throws CheckpointException                      if the file is damaged or contradicts itself
     * @throws IOException                              if it cannot be read
     */
    public static LlamaModel open(Path path) throws IOException {
        return open(path, ModelOptions.defaults());
    }

    /**
     * Opens a model as {@link #open(Path, ModelOptions, LoadListener)} does.
     *
     * @param path a GGUF file, or a directory in Hugging Face's layout
     * @throws io.puna.format.UnsupportedModelException if it is not of the LLaMA family
     * @throws CheckpointException                      if the file is damaged or contradicts itself
     * @throws IOException                              if it cannot be read
     * @throws IllegalArgumentException                 if the model's heads are no whole blocks of the cache's type
     */
    public static LlamaModel open(Path path, ModelOptions options) throws IOException {
        return open(path, options, (bytes, total) -> { });
    }

    /**
     * Opens a model. Weights are mapped, and read ahead in the background: the first step waits for what has not come yet. A device
     * with memory of its own gets a copy of them now.
     *
     * @param path     a GGUF file, or a directory in Hugging Face's layout
     * @param listener told how far weights are on their way, on a thread of the model's own and perhaps after this has returned; or,
     *                 with a device that has its own memory, how many are there
     * @throws io.puna.format.UnsupportedModelException if it is not of the LLaMA family
     * @throws CheckpointException                      if the file is damaged or contradicts itself
     * @throws IOException                              if it cannot be read
     */
    public static LlamaModel open(Path path, ModelOptions options, LoadListener listener) throws IOException {
        Objects.requireNonNull(listener, "listener");
        Checkpoint checkpoint = Checkpoint.open(path);
        Device device = options.device();
        Device host = null;
        Arena merged = Arena.ofShared();
        try {
            boolean copied = device != null && device.hasOwnMemory();
            checkpoint.readAhead(copied ? (bytes, total) -> { } : listener);
            LlamaConfig config = LlamaConfig.of(checkpoint);
            if (config.headWidth() % options.cacheType().blockElements() != 0) {
                throw new IllegalArgumentException("cacheType: expected F32, F16 or BF16 for heads of " + config.headWidth()
                        + " elements, no whole blocks of " + options.cacheType().blockElements() + ", got " + options.cacheType());
            }
            LlamaWeights weights = LlamaWeights.of(checkpoint, config);
            int layers = deviceLayers(options, config);
            boolean alone = device != null && (!copied || layers == config.layers() && options.adapter() == null);
            host = alone ? device : options.threads() == 0 ? Device.cpu() : Device.cpu(options.threads());
            device = device == null ? host : device;
            if (options.adapter() != null) {
                try (LoraAdapter adapter = LoraAdapter.open(host, options.adapter(), config)) {
                    weights = adapter.merge(weights, config.ropeLayout(), merged);
                }
            }
            if (copied) {
                requireRoom(device, weights, layers, config, options);
                weights = weights.to(device, merged, layers, bytes -> listener.loaded(bytes, checkpoint.byteSize()));
            }
            return new LlamaModel(checkpoint, config, weights, options, device, host, merged);
        } catch (Throwable e) {
            merged.close();
            if (host != null && host != options.device()) {
                host.close();
            }
            checkpoint.close();
            throw e;
        }
    }

    private static int deviceLayers(ModelOptions options, LlamaConfig config) {
        int layers = options.deviceLayers();
        if (layers > config.layers() || layers > 0 && (options.device() == null || !options.device().hasOwnMemory())) {
            throw new IllegalArgumentException("deviceLayers: expected 0 to " + config.layers()
                    + " layers, above 0 only with a device that has memory of its own; got " + layers);
        }
        return layers == 0 ? config.layers() : layers;
    }

    /** Weights and activations must fit; caches take what is left. */
    private static void requireRoom(Device device, LlamaWeights weights, int layers, LlamaConfig config, ModelOptions options) {
        int contextLength = options.contextLength() == 0 ? config.contextLength() : options.contextLength();
        long activations = LlamaForward.byteSize(config, Math.min(options.stepTokens(), contextLength));
        long free = device.freeMemory();
        int fitting = layers;
        while (fitting > 0 && weights.byteSize(fitting) + activations > free) {
            fitting--;
        }
        if (fitting < layers) {
            throw new DeviceException(puna_h.PUNA_STATUS_OUT_OF_MEMORY(), layers + " of " + config.layers()
                    + " layers with the output and the activations take " + (weights.byteSize(layers) + activations) + " bytes of "
                    + device.backend() + " before there is a cache, " + free + " are free; "
                    + (fitting == 0 ? "not even one layer would fit" : fitting + " layers would fit"));
        }
    }

    /**
     * Opens the model that comes with this library, as {@link #open(Path)} opens others: {@link #bundledFile}.
     *
     * @throws IOException if it cannot be written to the user's cache
     */
    public static LlamaModel bundled() throws IOException {
        return bundled(ModelOptions.defaults());
    }

    /**
     * Opens the model that comes with this library, as {@link #open(Path, ModelOptions)} opens others.
     *
     * @throws IOException if it cannot be written to the user's cache
     */
    public static LlamaModel bundled(ModelOptions options) throws IOException {
        return open(bundledFile(), options);
    }

    /**
     * {@return the model that comes with this library, a GGUF file, written to the user's cache unless it is there}
     *
     * <p>It tells short stories for small children in simple English, and does nothing else: continue "Once upon a time".
     * It has 1.4 million weights in Q8_0, a vocabulary of 2,048 tokens and a context of 512. Puna trained it on 4,627 stories of
     * TinyStories, which are under CDLA-Sharing-1.0; on 196 others its loss is 2.39 nats a token. How it was made, with every
     * command, is in {@code examples/story} of the source.
     *
     * @throws IOException if it cannot be written; the message names each directory that was tried
     */
    public static Path bundledFile() throws IOException {
        return BundledModel.file();
    }

    /** {@return the model's numbers} */
    public LlamaConfig config() {
        return config;
    }

    /** {@return the weights, views that are valid until the model is closed} */
    public LlamaWeights weights() {
        return weights;
    }

    /** {@return the file the weights come from} */
    public Checkpoint checkpoint() {
        return checkpoint;
    }

    /** {@return what computes, as in {@code cpu avx2, 2 threads}} */
    public String backend() {
        return options.deviceLayers() % config.layers() == 0 ? device.backend()
                : options.deviceLayers() + " of " + config.layers() + " layers on " + device.backend() + ", the others on " + host.backend();
    }

    /**
     * {@return another forward pass over these weights, which the caller closes before the model}
     *
     * @param maxRows the most tokens that a step may have, all sequences together
     */
    public LlamaForward newForward(int maxRows) {
        int layers = options.deviceLayers() == 0 ? config.layers() : options.deviceLayers();
        return new LlamaForward(host, device, layers, config, weights, options.activations(), maxRows);
    }

    /** {@return the most tokens of prompt and generated text together in a session} */
    public int contextLength() {
        return options.contextLength() == 0 ? config.contextLength() : options.contextLength();
    }

    /**
     * {@return the tokenizer that came with the weights}
     *
     * <p>Read when first asked for.
     *
     * @throws UncheckedIOException  if it cannot be read; the cause says why
     * @throws IllegalStateException if there is none, or the model is closed
     */
    public Tokenizer tokenizer() {
        return findTokenizer().orElseThrow(() -> new IllegalStateException(
                "tokenizer: expected one beside or inside " + checkpoint.path() + ", got none"));
    }

    /**
     * {@return the tokenizer that came with the weights, or empty when they came without}
     *
     * @throws UncheckedIOException  if it cannot be read; the cause says why
     * @throws IllegalStateException if the model is closed
     */
    public Optional<Tokenizer> findTokenizer() {
        synchronized (tokenizerLock) {
            if (closed) {
                throw new IllegalStateException("model is closed");
            }
            if (tokenizer == null) {
                try {
                    tokenizer = Tokenizer.find(checkpoint);
                } catch (IOException e) {
                    throw new UncheckedIOException(e.getMessage(), e);
                }
            }
            return tokenizer;
        }
    }

    /**
     * {@return a new session with an empty cache}
     *
     * <p>Closing it frees its memory; closing the model closes it.
     *
     * @throws IllegalStateException if the model is closed
     */
    public Session newSession() {
        Session session = new Session(forward, this::findTokenizer, contextLength(), options.cacheType(), sessions::remove);
        sessions.add(session);
        if (closed) {
            session.close();
            throw new IllegalStateException("model is closed");
        }
        return session;
    }

    /**
     * {@return the continuation of a text, in a session of its own}
     *
     * @throws io.puna.generate.ContextLengthException if the prompt has more tokens than the context holds
     * @throws IllegalArgumentException                if the prompt is empty, or an option does not fit the model
     * @throws IllegalStateException                   if the model is closed or has no tokenizer
     */
    public GenerationResult generate(String prompt, GenerationOptions options) {
        try (Session session = newSession()) {
            return session.generate(prompt, options);
        }
    }

    /** {@return the bytes of activations that a step works on, whatever the number of sessions} */
    public long activationBytes() {
        return forward.byteSize();
    }

    /** Closes the model's sessions and frees everything. Waits for calls in flight. Idempotent. */
    @Override
    public void close() {
        closed = true;
        List.copyOf(sessions).forEach(Session::close);
        forward.close();
        NativeMemory.close(merged);
        synchronized (tokenizerLock) {
            if (tokenizer != null) {
                tokenizer.ifPresent(Tokenizer::close);
                tokenizer = null;
            }
        }
        if (host != options.device()) {
            host.close();
        }
        checkpoint.close();
    }
}
