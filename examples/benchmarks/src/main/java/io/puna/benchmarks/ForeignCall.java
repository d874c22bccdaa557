package io.puna.benchmarks;

import io.puna.bindings.puna_h;
import io.puna.kernel.Add;
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
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/** What it takes to go from Java to C and back: bare, and with the checks on both sides that an operation has. */
@State(Scope.Thread)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
@Fork(value = 1, jvmArgsAppend = "--enable-native-access=ALL-UNNAMED")
public class ForeignCall {
    private Arena arena;
    private Device device;
    private Tensor y;
    private Tensor x;

    @Setup
    public void open() {
        arena = Arena.ofConfined();
        device = Device.cpu(1);
        y = Tensor.allocate(arena, DType.F32, Shape.of(1));
        x = Tensor.allocate(arena, DType.F32, Shape.of(1));
    }

    @TearDown
    public void close() {
        device.close();
        arena.close();
    }

    /** A function that returns a constant. */
    @Benchmark
    public int bare() {
        return puna_h.puna_abi_version();
    }

    /** The smallest operation there is: one number added to another. */
    @Benchmark
    public void operation() {
        Add.forward(device, y, x);
    }
}
