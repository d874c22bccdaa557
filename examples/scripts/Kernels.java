// Runs kernels on this program's own off-heap memory, without a model: the parts of a LLaMA block on a few rows, each checked
// against plain Java in double. From the repository's root, once built (mvn package):
//
//   java --enable-native-access=ALL-UNNAMED -cp 'examples/target/lib/*' examples/scripts/Kernels.java

import io.puna.kernel.Attention;
import io.puna.kernel.MatMul;
import io.puna.kernel.RmsNorm;
import io.puna.kernel.Rope;
import io.puna.kernel.SwiGlu;
import io.puna.kernel.Workspace;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

// T tokens of width C, NH query heads on NKV key/value heads of width HD, FF columns in the feed-forward.
static final int T = 7, C = 48, NH = 6, NKV = 2, HD = 8, FF = 100;
static final float EPS = 1e-5f;
static final Random RANDOM = new Random(1);

void main() {
    try (Arena arena = Arena.ofConfined(); Device device = Device.cpu(); Workspace workspace = new Workspace()) {
        IO.println("on " + device.backend());
        Tensor x = random(arena, T, C);
        Tensor weight = random(arena, C);
        Tensor normed = floats(arena, T, C);
        RmsNorm.forward(device, normed, x, weight, EPS);
        check("RmsNorm", normed, (t, c) -> {
            double squares = 0;
            for (int i = 0; i < C; i++) {
                squares += (double) x.getFloat(t, i) * x.getFloat(t, i);
            }
            return x.getFloat(t, c) / Math.sqrt(squares / C + EPS) * weight.getFloat(0, c);
        });

        // Query, key and value side by side in each row: columns of one tensor, filled by one call.
        Tensor qkv = floats(arena, T, (NH + 2 * NKV) * HD);
        Tensor q = qkv.columns(0, NH * HD);
        Tensor k = qkv.columns(NH * HD, NKV * HD);
        Tensor v = qkv.columns((NH + NKV) * HD, NKV * HD);
        Tensor wq = random(arena, NH * HD, C);
        Tensor wk = random(arena, NKV * HD, C);
        Tensor wv = random(arena, NKV * HD, C);
        MatMul.forward(device, workspace, List.of(q, k, v), normed, List.of(wq, wk, wv));
        check("MatMul", q, (t, n) -> {
            double sum = 0;
            for (int c = 0; c < C; c++) {
                sum += (double) normed.getFloat(t, c) * wq.getFloat(n, c);
            }
            return sum;
        });

        // Rope works in place, on queries and keys together.
        float[] unrotated = q.toFloatArray();
        Tensor frequencies = floats(arena, HD / 2);
        for (int i = 0; i < HD / 2; i++) {
            frequencies.segment().setAtIndex(ValueLayout.JAVA_FLOAT, i, (float) Math.pow(10_000, -2.0 * i / HD));
        }
        Tensor positions = Tensor.of(arena, IntStream.range(0, T).toArray(), Shape.of(T));
        Tensor table = floats(arena, T, HD);
        Rope.table(device, table, frequencies, positions, 1);
        Rope.forward(device, qkv.columns(0, (NH + NKV) * HD), table, Rope.Layout.INTERLEAVED, HD);
        check("Rope", q, (t, n) -> {
            double a = unrotated[t * NH * HD + n / 2 * 2];
            double b = unrotated[t * NH * HD + n / 2 * 2 + 1];
            double angle = t * Math.pow(10_000, -2.0 * (n % HD / 2) / HD);
            return n % 2 == 0 ? a * Math.cos(angle) - b * Math.sin(angle) : a * Math.sin(angle) + b * Math.cos(angle);
        });

        Tensor attended = floats(arena, T, NH * HD);
        float scale = (float) (1 / Math.sqrt(HD));
        Attention.forward(device, workspace, attended, null, q, k, v, 1, NH, NKV, HD, 0, scale);
        check("Attention", attended, (t, n) -> {
            int head = n / HD;
            int keyValueHead = head / (NH / NKV);
            double sum = 0;
            double weighted = 0;
            for (int s = 0; s <= t; s++) {
                double score = 0;
                for (int i = 0; i < HD; i++) {
                    score += (double) q.getFloat(t, head * HD + i) * k.getFloat(s, keyValueHead * HD + i);
                }
                sum += Math.exp(score * scale);
                weighted += Math.exp(score * scale) * v.getFloat(s, keyValueHead * HD + n % HD);
            }
            return weighted / sum;
        });

        Tensor gate = floats(arena, T, FF);
        Tensor up = floats(arena, T, FF);
        Tensor gated = floats(arena, T, FF);
        MatMul.forward(device, workspace, List.of(gate, up), normed, List.of(random(arena, FF, C), random(arena, FF, C)));
        SwiGlu.forward(device, gated, gate, up);
        check("SwiGlu", gated, (t, n) -> gate.getFloat(t, n) / (1 + Math.exp(-gate.getFloat(t, n))) * up.getFloat(t, n));
    }
}

/** Memory of the program's own choosing: any aligned native segment serves, a mapped file's too. */
static Tensor floats(Arena arena, long... dims) {
    Shape shape = Shape.of(dims);
    MemorySegment memory = arena.allocate(shape.elements() * Float.BYTES, 64);
    return Tensor.of(memory, DType.F32, shape);
}

static Tensor random(Arena arena, long... dims) {
    Tensor tensor = floats(arena, dims);
    for (long i = 0; i < tensor.shape().elements(); i++) {
        tensor.segment().setAtIndex(ValueLayout.JAVA_FLOAT, i, (float) RANDOM.nextGaussian() / 4);
    }
    return tensor;
}

interface Expected {
    double at(int row, int column);
}

static void check(String name, Tensor got, Expected expected) {
    double worst = 0;
    for (int row = 0; row < got.shape().rows(); row++) {
        for (int column = 0; column < got.shape().columns(); column++) {
            double want = expected.at(row, column);
            double error = Math.abs(got.getFloat(row, column) - want) / Math.max(1, Math.abs(want));
            if (!(error < 1e-5)) {
                throw new AssertionError(name + "[" + row + ", " + column + "]: expected " + want + " to 1e-5, got error " + error);
            }
            worst = Math.max(worst, error);
        }
    }
    IO.println("%-10s %-10s largest error %.1e".formatted(name, got.shape(), worst));
}
