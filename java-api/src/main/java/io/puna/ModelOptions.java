package io.puna;

import io.puna.kernel.KvCache;
import io.puna.kernel.MatMul;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import java.nio.file.Path;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * How a model is opened. Each method returns changed options; {@link #defaults()} suits most programs.
 *
 * @param device        what computes, borrowed and not closed by the model; null for a CPU device of the model's own
 * @param deviceLayers  how many layers, the last ones and with them the output, a device with memory of its own computes; the model's
 *                      own CPU device computes the others. 0 for all
 * @param threads       threads of the model's own device, 0 for as many as the process may use; unused where a device computes all
 * @param contextLength the most tokens of prompt and generated text together in a session, 0 for what the model is made for
 * @param cacheType     element type of sessions' keys and values: F32 for the reference's exact numbers, F16 for half the memory or
 *                      BF16, which has fewer digits and F32's range, Q8_0 for little over a quarter, of models whose heads are whole
 *                      blocks of 32
 * @param activations   how activations meet weights of block types: rounded to 16 bits, to 8 for more speed, or F32 for the
 *                      reference's exact numbers
 * @param stepTokens    tokens of a prompt computed at a time: more is faster up to a point, and takes more memory
 * @param adapter       directory of a LoRA adapter in PEFT's layout, merged into copies of the weights it changes; null for none
 */
public record ModelOptions(@Nullable Device device, int deviceLayers, int threads, int contextLength, DType cacheType,
        MatMul.Activations activations, int stepTokens, @Nullable Path adapter) {
    private static final ModelOptions DEFAULTS = new ModelOptions(null, 0, 0, 0, DType.F32, MatMul.Activations.INT16, 512,
            null);

    /**
     * Checks the numbers.
     *
     * @throws IllegalArgumentException if one is negative, {@code stepTokens} is 0, or the cache type is none of F32, F16, BF16 and
     *                                  Q8_0
     */
    public ModelOptions {
        Objects.requireNonNull(cacheType, "cacheType");
        Objects.requireNonNull(activations, "activations");
        require(deviceLayers >= 0, "deviceLayers", "0 or more", deviceLayers);
        require(threads >= 0 && threads <= 1024, "threads", "0 to 1024", threads);
        require(contextLength >= 0, "contextLength", "0 or more", contextLength);
        require(stepTokens >= 1 && stepTokens <= 1 << 16, "stepTokens", "1 to 65536", stepTokens);
        require(KvCache.DTYPES.contains(cacheType), "cacheType", "F32, F16, BF16 or Q8_0", cacheType);
    }

    private static void require(boolean holds, String name, String expected, Object got) {
        if (!holds) {
            throw new IllegalArgumentException(name + ": expected " + expected + ", got " + got);
        }
    }

    /** {@return a CPU device with all threads, the model's own context length, an F32 cache, INT16 activations, 512 tokens a step} */
    public static ModelOptions defaults() {
        return DEFAULTS;
    }

    /** {@return these options with a device} */
    public ModelOptions withDevice(Device device) {
        return new ModelOptions(Objects.requireNonNull(device, "device"), deviceLayers, threads, contextLength, cacheType, activations,
                stepTokens, adapter);
    }

    /** {@return these options with a number of layers on the device} */
    public ModelOptions withDeviceLayers(int deviceLayers) {
        return new ModelOptions(device, deviceLayers, threads, contextLength, cacheType, activations, stepTokens, adapter);
    }

    /** {@return these options with a number of threads} */
    public ModelOptions withThreads(int threads) {
        return new ModelOptions(device, deviceLayers, threads, contextLength, cacheType, activations, stepTokens, adapter);
    }

    /** {@return these options with a context length} */
    public ModelOptions withContextLength(int contextLength) {
        return new ModelOptions(device, deviceLayers, threads, contextLength, cacheType, activations, stepTokens, adapter);
    }

    /** {@return these options with a type of cache} */
    public ModelOptions withCacheType(DType cacheType) {
        return new ModelOptions(device, deviceLayers, threads, contextLength, cacheType, activations, stepTokens, adapter);
    }

    /** {@return these options with a way for activations to meet weights of block types} */
    public ModelOptions withActivations(MatMul.Activations activations) {
        return new ModelOptions(device, deviceLayers, threads, contextLength, cacheType, activations, stepTokens, adapter);
    }

    /** {@return these options with a number of tokens a step} */
    public ModelOptions withStepTokens(int stepTokens) {
        return new ModelOptions(device, deviceLayers, threads, contextLength, cacheType, activations, stepTokens, adapter);
    }

    /** {@return these options with a LoRA adapter} */
    public ModelOptions withAdapter(Path adapter) {
        return new ModelOptions(device, deviceLayers, threads, contextLength, cacheType, activations, stepTokens,
                Objects.requireNonNull(adapter, "adapter"));
    }
}
