package io.puna.format;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.puna.TestData;
import io.puna.tensor.DType;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class CheckpointTest {
    private static final long GIB = 1L << 30;

    @TempDir
    Path folder;

    @Test
    void sayWhatIsNotThere() throws IOException {
        assertThatThrownBy(() -> Checkpoint.open(folder.resolve("none"))).isExactlyInstanceOf(NoSuchFileException.class)
                .hasMessageContaining(folder.resolve("none").toString());
        assertThatThrownBy(() -> Checkpoint.open(folder)).isExactlyInstanceOf(CheckpointException.class)
                .hasMessageContainingAll(folder.toString(), "config.json");
        Path alone = Files.write(folder.resolve("model.safetensors"), SafetensorsWriter.sample().toArray());
        assertThatThrownBy(() -> Checkpoint.open(alone)).isExactlyInstanceOf(CheckpointException.class).hasMessageContaining("config.json");
        Files.delete(alone);
        Files.writeString(folder.resolve("config.json"), "{}");
        assertThatThrownBy(() -> Checkpoint.open(folder)).isExactlyInstanceOf(CheckpointException.class)
                .hasMessageContaining("model.safetensors or model.safetensors.index.json");
        assertThatThrownBy(() -> Checkpoint.open(folder.resolve("config.json"))).isExactlyInstanceOf(CheckpointException.class)
                .hasMessageContainingAll("a GGUF file", ".safetensors", "directory with config.json", "0x7b7d");
    }

    @Test
    void sayWhichFileIsADirectory() throws IOException {
        Files.writeString(folder.resolve("config.json"), "{}");
        Files.createDirectory(folder.resolve("model.safetensors"));
        assertThatThrownBy(() -> Checkpoint.open(folder)).isExactlyInstanceOf(CheckpointException.class)
                .hasMessageContainingAll("model.safetensors", "a regular file", "a directory");
        Files.delete(folder.resolve("config.json"));
        Files.createDirectory(folder.resolve("config.json"));
        assertThatThrownBy(() -> Checkpoint.open(folder)).isExactlyInstanceOf(CheckpointException.class)
                .hasMessageContainingAll("config.json", "a JSON file", "a directory");
    }

    @Test
    @EnabledOnOs({OS.LINUX, OS.MAC})
    void refusesSpecialFiles() {
        assertThatThrownBy(() -> Checkpoint.open(Path.of("/dev/zero"))).isExactlyInstanceOf(CheckpointException.class);
    }

    @Test
    void closesOnceAndForAll() throws IOException {
        Checkpoint checkpoint = Checkpoint.open(Files.write(folder.resolve("m.gguf"), GgufBytes.sample().toArray()));
        Tensor tensor = checkpoint.tensors().get("f32");
        checkpoint.close();
        checkpoint.close();
        assertThatThrownBy(checkpoint::tensors).isExactlyInstanceOf(IllegalStateException.class).hasMessageContaining("closed");
        assertThatThrownBy(() -> tensor.getFloat(0, 0)).isExactlyInstanceOf(IllegalStateException.class);
        assertThat(checkpoint.metadata()).containsEntry("general.architecture", "llama");
    }

    @Test
    @EnabledOnOs(OS.LINUX)
    void unmapsWhenClosedAndWhenRefused() throws IOException {
        Path sound = Files.write(folder.resolve("sound.gguf"), GgufBytes.sample().toArray());
        Path broken = Files.write(folder.resolve("broken.gguf"), new GgufBytes().info("t", GgufBytes.F32, 0, 100).toArray());
        Files.writeString(folder.resolve("config.json"), "{}");
        Path weights = Files.write(folder.resolve("model.safetensors"), SafetensorsWriter.sample().toArray());
        try (Checkpoint first = Checkpoint.open(sound); Checkpoint second = Checkpoint.open(folder)) {
            assertThat(maps()).contains(sound.toString(), weights.toString());
            assertThat(first.tensors()).isNotEmpty();
            assertThat(second.tensors()).isNotEmpty();
        }
        assertThatThrownBy(() -> Checkpoint.open(broken)).isInstanceOf(CheckpointException.class);
        Files.write(weights, new byte[100]);
        assertThatThrownBy(() -> Checkpoint.open(folder)).isInstanceOf(CheckpointException.class);
        assertThat(maps()).doesNotContain(folder.toString());
    }

    @Test
    void aNativeCallInFlightDelaysClosing() throws Exception {
        Checkpoint checkpoint = Checkpoint.open(Files.write(folder.resolve("m.gguf"), GgufBytes.sample().toArray()));
        MemorySegment held = checkpoint.tensors().get("f32").segment();
        CountDownLatch inside = new CountDownLatch(1);
        CountDownLatch leave = new CountDownLatch(1);
        Thread caller = Thread.ofPlatform().start(() -> callAndWaitInside(held, inside, leave));
        assertThat(inside.await(10, TimeUnit.SECONDS)).isTrue();
        Thread closer = Thread.ofPlatform().start(checkpoint::close);
        assertThat(closer.join(Duration.ofMillis(50))).isFalse();
        assertThat(held.get(ValueLayout.JAVA_FLOAT, 0)).isEqualTo(1);
        leave.countDown();
        caller.join();
        assertThat(closer.join(Duration.ofSeconds(10))).isTrue();
        assertThat(held.scope().isAlive()).isFalse();
    }

    /** Calls C's bsearch on the segment with a comparison that waits. */
    private static void callAndWaitInside(MemorySegment segment, CountDownLatch inside, CountDownLatch leave) {
        try (Arena arena = Arena.ofConfined()) {
            Linker linker = Linker.nativeLinker();
            MethodHandle bsearch = linker.downcallHandle(linker.defaultLookup().findOrThrow("bsearch"), FunctionDescriptor.of(
                    ValueLayout.ADDRESS, ValueLayout.ADDRESS, ValueLayout.ADDRESS, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG,
                    ValueLayout.ADDRESS));
            MethodHandle compare = MethodHandles.lookup().findStatic(CheckpointTest.class, "compareWhenToldTo", MethodType.methodType(
                    int.class, CountDownLatch.class, CountDownLatch.class, MemorySegment.class, MemorySegment.class));
            MemorySegment stub = linker.upcallStub(MethodHandles.insertArguments(compare, 0, inside, leave), FunctionDescriptor.of(
                    ValueLayout.JAVA_INT, ValueLayout.ADDRESS, ValueLayout.ADDRESS), arena);
            MemorySegment found = (MemorySegment) bsearch.invokeExact(arena.allocate(4), segment, 1L, 4L, stub);
            assertThat(found.address()).isEqualTo(segment.address());
        } catch (Throwable e) {
            throw new AssertionError(e);
        }
    }

    private static int compareWhenToldTo(CountDownLatch inside, CountDownLatch leave, MemorySegment key, MemorySegment element)
            throws InterruptedException {
        inside.countDown();
        leave.await();
        return 0;
    }

    @ParameterizedTest
    @ValueSource(strings = {"gguf", "safetensors"})
    void aFileOfFiveGigabytesOpensAtOnce(String format) throws IOException {
        long large = 600_000_000; // floats: 2.4 GB, so that the second tensor begins above 2 GiB and the third above 4 GiB
        Path file = format.equals("gguf") ? sparseGguf(large) : sparseSafetensors(large);
        assertThat(Files.size(file)).isGreaterThan(4 * GIB);
        Path opened = format.equals("gguf") ? file : folder;
        Checkpoint.open(opened).close();
        long best = Long.MAX_VALUE;
        for (int i = 0; i < 5; i++) {
            System.gc();
            Runtime runtime = Runtime.getRuntime();
            long before = runtime.totalMemory() - runtime.freeMemory();
            long start = System.nanoTime();
            try (Checkpoint checkpoint = Checkpoint.open(opened)) {
                best = Math.min(best, System.nanoTime() - start);
                assertThat(runtime.totalMemory() - runtime.freeMemory() - before).as("heap growth in bytes").isLessThan(32L << 20);
                Map<String, Tensor> tensors = checkpoint.tensors();
                assertThat(tensors.get("a").getFloat(0, large - 1)).isZero();
                assertThat(tensors.get("b").getFloat(0, large - 1)).isZero();
                assertThat(tensors.get("c").getFloat(0, 0)).isEqualTo(42);
                assertThat(tensors.get("c").segment().address() - tensors.get("a").segment().address()).isGreaterThan(4 * GIB);
            }
        }
        assertThat(best).as("nanoseconds to open").isLessThan(100_000_000);
    }

    private Path sparseGguf(long large) throws IOException {
        byte[] header = new GgufBytes().info("a", GgufBytes.F32, 0, large).info("b", GgufBytes.F32, large * 4, large)
                .info("c", GgufBytes.F32, large * 8, 1).header();
        return sparse("m.gguf", header, large * 8);
    }

    private Path sparseSafetensors(long large) throws IOException {
        Files.writeString(folder.resolve("config.json"), "{}");
        String entry = "\"%s\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%d,%d]}";
        byte[] header = SafetensorsWriter.file("{" + entry.formatted("a", large, 0, large * 4) + ","
                + entry.formatted("b", large, large * 4, large * 8) + "," + entry.formatted("c", 1, large * 8, large * 8 + 4) + "}", new byte[0]);
        return sparse("model.safetensors", header, large * 8);
    }

    /** A file whose only blocks are its header and the float 42 at an offset behind it. */
    private Path sparse(String name, byte[] header, long offset) throws IOException {
        Path file = folder.resolve(name);
        try (RandomAccessFile out = new RandomAccessFile(file.toFile(), "rw")) {
            out.write(header);
            out.seek(header.length + offset);
            out.write(Bytes.floats(42));
        }
        return file;
    }

    @ParameterizedTest
    @CsvSource({"gguf/stories260K.gguf, GGUF v3, 47", "gguf/stories260K-F16.gguf, GGUF v3, 47", "gguf/babyllama-tok361.gguf, GGUF v3, 47",
        "gguf/babyllama-tok361-F16.gguf, GGUF v3, 47", "gguf/babyllama-tok361-Q8_0.gguf, GGUF v3, 47",
        "gguf/babyllama-tok361-Q4_0.gguf, GGUF v3, 47", "raw/stories260K/stories260Ktok512.gguf, GGUF v3, 48",
        "tok/llama.cpp/ggml-vocab-llama-spm.gguf, GGUF v3, 0", "tok/llama.cpp/ggml-vocab-llama-bpe.gguf, GGUF v3, 0",
        "hf/stories260K, Hugging Face safetensors, 47", "hf/babyllama-tok361, Hugging Face safetensors, 47",
        "hf/stories260K/model.safetensors, Hugging Face safetensors, 47"})
    void readsRealFiles(String name, String format, int tensors) throws IOException {
        try (Checkpoint checkpoint = Checkpoint.open(TestData.require(name))) {
            assertThat(checkpoint.format()).isEqualTo(format);
            assertThat(checkpoint.tensors()).hasSize(tensors);
            checkpoint.tensors().values().forEach(tensor -> Damage.touch(tensor.segment()));
        }
    }

    @Test
    void bothFormatsShowTheSameWeights() throws IOException {
        try (Checkpoint gguf = Checkpoint.open(TestData.require("gguf/stories260K.gguf"));
             Checkpoint hf = Checkpoint.open(TestData.require("hf/stories260K"))) {
            assertThat(gguf.metadata()).containsEntry("general.architecture", "llama").containsEntry("llama.embedding_length", 64L);
            assertThat(hf.metadata()).containsEntry("model_type", "llama").containsEntry("hidden_size", 64L).containsEntry("rms_norm_eps", 1e-5);
            Tensor table = gguf.tensors().get("token_embd.weight");
            assertThat(hf.tensors().get("model.embed_tokens.weight").shape()).isEqualTo(table.shape());
            assertThat(hf.tensors().get("model.embed_tokens.weight").toFloatArray()).isEqualTo(table.toFloatArray());
        }
    }

    private static String maps() throws IOException {
        return Files.readString(Path.of("/proc/self/maps"));
    }

    /** Several pieces long. */
    private Path large() throws IOException {
        GgufWriter.Entry entry = new GgufWriter.Entry("large", DType.F32, Shape.of(12, 1 << 20));
        Path file = folder.resolve("large.gguf");
        try (GgufWriter writer = GgufWriter.create(file, Map.of("general.architecture", "llama"), List.of(entry))) {
            for (long left = entry.bytes(); left > 0; left -= 1 << 20) {
                writer.write(ByteBuffer.allocate(1 << 20));
            }
            writer.finish();
        }
        return file;
    }

    @Test
    void readingAheadTellsHowFarItIs() throws Exception {
        List<Long> told = Collections.synchronizedList(new ArrayList<>());
        CountDownLatch all = new CountDownLatch(1);
        try (Checkpoint checkpoint = Checkpoint.open(large())) {
            checkpoint.readAhead((bytes, total) -> {
                assertThat(total).isEqualTo(checkpoint.byteSize());
                told.add(bytes);
                if (bytes == total) {
                    all.countDown();
                }
            });
            assertThat(all.await(60, TimeUnit.SECONDS)).isTrue();
            assertThat(told).hasSize(4).isSorted().endsWith(checkpoint.byteSize());
        }
    }

    /** At whatever point of it; nothing is told of it afterwards, and nothing fails. */
    @Test
    void closingEndsReadingAhead() throws Exception {
        Path file = large();
        AtomicReference<Throwable> failure = new AtomicReference<>();
        Thread.UncaughtExceptionHandler before = Thread.getDefaultUncaughtExceptionHandler();
        Thread.setDefaultUncaughtExceptionHandler((thread, thrown) -> failure.set(thrown));
        try {
            for (int i = 0; i < 100; i++) {
                Checkpoint checkpoint = Checkpoint.open(file);
                Set<Thread> readers = ConcurrentHashMap.newKeySet();
                checkpoint.readAhead((bytes, total) -> readers.add(Thread.currentThread()));
                LockSupport.parkNanos(50_000L * (i % 20));
                checkpoint.close();
                for (Thread reader : readers) {
                    assertThat(reader.join(Duration.ofSeconds(30))).isTrue();
                }
                assertThatThrownBy(() -> checkpoint.readAhead((bytes, total) -> { })).isInstanceOf(IllegalStateException.class);
            }
        } finally {
            Thread.setDefaultUncaughtExceptionHandler(before);
        }
        assertThat(failure).hasValue(null);
    }
}
