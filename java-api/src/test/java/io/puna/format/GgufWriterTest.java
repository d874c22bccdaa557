package io.puna.format;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.puna.tensor.DType;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedByInterruptException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class GgufWriterTest {
    @TempDir
    private Path folder;

    @Test
    void whatIsWrittenIsRead() throws IOException {
        Map<String, Object> metadata = new LinkedHashMap<>();
        metadata.put("general.architecture", "llama");
        metadata.put("a.int", 7);
        metadata.put("a.long", 1L << 40);
        metadata.put("a.float", 0.5f);
        metadata.put("a.double", 1e-5);
        metadata.put("a.flag", true);
        metadata.put("a.texts", List.of("", "▁été"));
        metadata.put("a.ints", new int[] {1, -2});
        metadata.put("a.floats", new float[] {0.25f});
        List<GgufWriter.Entry> entries = new ArrayList<>();
        for (DType dtype : DType.values()) {
            if (dtype != DType.I32) {
                entries.add(new GgufWriter.Entry(dtype.name(), dtype, Shape.of(3, 2, dtype.blockElements())));
            }
        }
        Path file = folder.resolve("m.gguf");
        try (GgufWriter writer = GgufWriter.create(file, metadata, entries)) {
            for (GgufWriter.Entry entry : entries) {
                byte[] bytes = content(entry);
                writer.write(ByteBuffer.wrap(bytes, 0, 5));
                writer.write(ByteBuffer.wrap(bytes, 5, bytes.length - 5));
            }
            assertThat(file).doesNotExist();
            writer.finish();
        }

        try (Checkpoint checkpoint = Checkpoint.open(file)) {
            assertThat(checkpoint.format()).isEqualTo("GGUF v3");
            assertThat(checkpoint.metadata()).containsExactly(Map.entry("general.architecture", "llama"), Map.entry("a.int", 7L),
                    Map.entry("a.long", 1L << 40), Map.entry("a.float", 0.5), Map.entry("a.double", 1e-5), Map.entry("a.flag", true),
                    Map.entry("a.texts", List.of("", "▁été")), Map.entry("a.ints", List.of(1L, -2L)),
                    Map.entry("a.floats", List.of(0.25)));
            assertThat(checkpoint.tensors()).hasSameSizeAs(entries);
            for (GgufWriter.Entry entry : entries) {
                Tensor tensor = checkpoint.tensors().get(entry.name());
                assertThat(tensor.dtype()).isEqualTo(entry.dtype());
                assertThat(tensor.shape()).isEqualTo(entry.shape());
                assertThat(tensor.segment().toArray(ValueLayout.JAVA_BYTE)).isEqualTo(content(entry));
            }
        }
        assertThat(folder).isDirectoryNotContaining("glob:**.part");
    }

    private static byte[] content(GgufWriter.Entry entry) {
        byte[] bytes = new byte[(int) entry.bytes()];
        for (int i = 0; i < bytes.length; i++) {
            bytes[i] = (byte) (i * 7 + entry.dtype().ordinal());
        }
        return bytes;
    }

    @Test
    void anUnfinishedFileLeavesNothing() throws IOException {
        Path file = Files.writeString(folder.resolve("m.gguf"), "what was there");
        List<GgufWriter.Entry> entries = List.of(new GgufWriter.Entry("a", DType.F32, Shape.of(4)));
        try (GgufWriter writer = GgufWriter.create(file, Map.of(), entries)) {
            writer.write(ByteBuffer.allocate(12));
            assertThatThrownBy(writer::finish).isInstanceOf(IllegalStateException.class).hasMessageContaining("4 bytes of tensor a are missing");
        }
        assertThat(folder).isDirectoryContaining("glob:**m.gguf").isDirectoryNotContaining("glob:**.part");
        assertThat(file).hasContent("what was there");
    }

    /** Which closes the channel under the writer. */
    @Test
    void anInterruptedWriteLeavesNothing() throws IOException {
        List<GgufWriter.Entry> entries = List.of(new GgufWriter.Entry("a", DType.F32, Shape.of(4)));
        try (GgufWriter writer = GgufWriter.create(folder.resolve("m.gguf"), Map.of(), entries)) {
            Thread.currentThread().interrupt();
            assertThatThrownBy(() -> writer.write(ByteBuffer.allocate(16))).isInstanceOf(ClosedByInterruptException.class);
        } finally {
            assertThat(Thread.interrupted()).isTrue();
        }
        assertThat(folder).isEmptyDirectory();
    }

    @Test
    void moreBytesThanATensorHasAreRefused() throws IOException {
        List<GgufWriter.Entry> entries = List.of(new GgufWriter.Entry("a", DType.F32, Shape.of(4)));
        try (GgufWriter writer = GgufWriter.create(folder.resolve("m.gguf"), Map.of(), entries)) {
            assertThatThrownBy(() -> writer.write(ByteBuffer.allocate(17))).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("at most 16").hasMessageContaining("got 17");
            writer.write(ByteBuffer.allocate(16));
            assertThatThrownBy(() -> writer.write(ByteBuffer.allocate(1))).isInstanceOf(IllegalArgumentException.class);
        }
    }

    @Test
    void whatTheFormatCannotSayIsRefusedBeforeAFileIsMade() {
        refused(Map.of("k", -1), List.of(), "0 or more for key k, got -1");
        refused(Map.of("k", -1L), List.of(), "0 or more for key k, got -1");
        refused(Map.of("k", List.of("a", 1)), List.of(), "key k");
        refused(Map.of("k", 'c'), List.of(), "Character");
        refused(Map.of(), List.of(new GgufWriter.Entry("t", DType.I32, Shape.of(4))), "t of type I32");
        refused(Map.of(), List.of(new GgufWriter.Entry("t", DType.Q8_0, Shape.of(32, 33))), "whole Q8_0 blocks");
        refused(Map.of(), List.of(new GgufWriter.Entry("t", DType.F32, Shape.of(1, 1, 1, 1, 1))), "1 to 4 dimensions");
        refused(Map.of(), List.of(new GgufWriter.Entry("t", DType.F32, Shape.of(0, 4))), "dimensions above 0");
        GgufWriter.Entry entry = new GgufWriter.Entry("t", DType.F32, Shape.of(4));
        refused(Map.of(), List.of(entry, entry), "t twice");
        assertThat(folder).isEmptyDirectory();
    }

    private void refused(Map<String, ?> metadata, List<GgufWriter.Entry> entries, String sentence) {
        assertThatThrownBy(() -> GgufWriter.create(folder.resolve("m.gguf"), metadata, entries).close())
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining(sentence);
    }
}
