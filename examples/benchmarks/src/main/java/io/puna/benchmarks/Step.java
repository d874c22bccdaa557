package io.puna.benchmarks;

import io.puna.LlamaModel;
import io.puna.ModelOptions;
import io.puna.kernel.KvCache;
import io.puna.kernel.MatMul;
import io.puna.model.LlamaConfig;
import io.puna.model.LlamaForward;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * One step of decoding, at position 32. Of a model of many layers with next to nothing in them it is what steps cost beside computing.
 */
@State(Scope.Thread)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
@Fork(value = 1, jvmArgsAppend = "--enable-native-access=ALL-UNNAMED")
public class Step {
    private static final int POSITION = 32;

    /** A GGUF file or a directory; empty for the model that comes with Puna. */
    @Param("")
    private String model;

    @Param({"1", "2"})
    private int threads;

    private Arena arena;
    private Device device;
    private LlamaModel opened;
    private LlamaForward forward;
    private KvCache cache;
    private Tensor logits;
    private List<LlamaForward.Part> step;

    @Setup
    public void open() throws IOException {
        arena = Arena.ofConfined();
        device = Device.cpu(threads);
        Path path = model.isEmpty() ? LlamaModel.bundledFile() : Path.of(model);
        opened = LlamaModel.open(path, ModelOptions.defaults().withDevice(device));
        LlamaConfig config = opened.config();
        forward = new LlamaForward(device, config, opened.weights(), MatMul.Activations.INT16, POSITION);
        cache = KvCache.allocate(device, config.layers(), config.keyValueHeads(), config.headWidth(), POSITION + 1, DType.F32);
        logits = device.allocate(arena, DType.F32, Shape.of(1, config.vocabularySize()));
        forward.step(List.of(new LlamaForward.Part(cache, new int[POSITION], 0, POSITION, 0, POSITION)), logits.rows(0, 0));
        step = List.of(new LlamaForward.Part(cache, new int[] {1}, 0, 1, 1, POSITION + 1));
    }

    @TearDown
    public void close() {
        forward.close();
        cache.close();
        opened.close();
        device.close();
        arena.close();
    }

    @Benchmark
    public void step() {
        cache.truncate(POSITION);
        forward.step(step, logits);
    }
}
