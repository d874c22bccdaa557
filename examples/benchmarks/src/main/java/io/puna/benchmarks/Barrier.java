package io.puna.benchmarks;

import io.puna.kernel.ArgMax;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
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
 * What it takes to hand work to the thread pool and to know that it is done. The maxima of two rows, each just long enough to be a
 * share of its own, cost t on one thread; on two they would cost t / 2 if threads met for nothing. What is above that is the barrier.
 */
@State(Scope.Thread)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
@Fork(value = 1, jvmArgsAppend = "--enable-native-access=ALL-UNNAMED")
public class Barrier {
    private static final int ROW = 1 << 14;

    @Param({"1", "2"})
    private int threads;

    private Arena arena;
    private Device device;
    private Tensor indices;
    private Tensor rows;

    @Setup
    public void open() {
        arena = Arena.ofConfined();
        device = Device.cpu(threads);
        indices = Tensor.allocate(arena, DType.I32, Shape.of(2));
        rows = Tensor.allocate(arena, DType.F32, Shape.of(2, ROW));
    }

    @TearDown
    public void close() {
        device.close();
        arena.close();
    }

    @Benchmark
    public void twoRows() {
        ArgMax.forward(device, indices, rows);
    }
}
