package io.puna.examples;

import io.puna.LlamaModel;
import io.puna.ModelOptions;
import io.puna.format.LoadListener;
import io.puna.kernel.MatMul;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import java.io.IOException;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** What every command that computes takes beside a model, and models opened by it. */
final class RunOptions {
    @Option(names = "--context", paramLabel = "N", description = "Most tokens of prompt and text together. Default: the model's own.")
    private int context;

    @Option(names = "--cache-type", paramLabel = "f32|f16|bf16|q8_0", defaultValue = "f32",
            description = "Type of cached keys and values; f16 and bf16 take half the memory, q8_0 little over a quarter. "
                    + "Default: ${DEFAULT-VALUE}.")
    private DType cacheType;

    @Option(names = "--activations", paramLabel = "f32|int16|int8", defaultValue = "int16",
            description = "How activations meet quantised weights: f32 is exact, int16 gives the same text quicker, int8 is quickest. "
                    + "Default: ${DEFAULT-VALUE}.")
    private MatMul.Activations activations;

    @Option(names = "--adapter", paramLabel = "DIR", description = "A LoRA adapter in PEFT's layout, merged into the weights it changes.")
    private @Nullable Path adapter;

    @Mixin
    private DeviceOptions device;

    @Option(names = "--gpu-layers", paramLabel = "N", defaultValue = "0",
            description = "How many layers the GPU computes, the last ones; the CPU computes the others. 0 for all. Default: ${DEFAULT-VALUE}.")
    private int gpuLayers;

    /** {@return the threads that will compute} */
    int threads() {
        return device.threads();
    }

    DType cacheType() {
        return cacheType;
    }

    /** {@return what computes, which the caller closes after the models on it} */
    Device device() {
        return device.open();
    }

    LlamaModel open(Path path, Device device, LoadListener listener) throws IOException {
        ModelOptions options = ModelOptions.defaults().withDevice(device).withContextLength(context).withCacheType(cacheType)
                .withActivations(activations).withDeviceLayers(gpuLayers).withThreads(threads());
        return LlamaModel.open(path, adapter == null ? options : options.withAdapter(adapter), listener);
    }
}
