package io.puna.examples;

import io.puna.tensor.Device;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import picocli.CommandLine.Option;

/** What computes, as every command that computes is told. */
final class DeviceOptions {
    private static final Pattern CUDA = Pattern.compile("cuda(?::([0-9]{1,4}))?");

    @Option(names = "--threads", paramLabel = "N", description = "Threads that compute. Default: all that the process may use.")
    private int threads;

    @Option(names = "--device", paramLabel = "cpu|cuda:N", defaultValue = "cpu",
            description = "What computes: cpu, or a GPU as puna devices lists them. Default: ${DEFAULT-VALUE}.")
    private String device;

    @Option(names = "--precision", paramLabel = "f32|bf16", defaultValue = "f32",
            description = "Of matrix products: bf16 rounds their operands where that is faster (a GPU; a CPU with AVX512-BF16 or "
                    + "AMX, for weights that are not quantised). Default: ${DEFAULT-VALUE}.")
    private Device.Precision precision;

    /** {@return the threads that will compute on a CPU} */
    int threads() {
        return threads == 0 ? Math.min(Runtime.getRuntime().availableProcessors(), Device.MAX_THREADS) : threads;
    }

    /** {@return what computes, which the caller closes after all that is on it} */
    Device open() {
        if (device.equals("cpu")) {
            return Device.cpu(threads(), Device.Isa.AUTO, precision);
        }
        Matcher matcher = CUDA.matcher(device);
        if (!matcher.matches()) {
            throw new IllegalArgumentException("--device: expected cpu or cuda:N, got " + device);
        }
        return Device.cuda(matcher.group(1) == null ? 0 : Integer.parseInt(matcher.group(1)), precision);
    }
}
