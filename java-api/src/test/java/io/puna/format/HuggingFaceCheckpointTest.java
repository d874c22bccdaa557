package io.puna.format;

import static io.puna.format.SafetensorsWriter.file;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;

import io.puna.tensor.DType;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

class HuggingFaceCheckpointTest {
    private static final String INDEX = "model.safetensors.index.json";

    @TempDir
    Path folder;

    @BeforeEach
    void writeConfig() throws IOException {
        write("config.json", "{\"model_type\": \"llama\"}");
    }

    private Path write(String name, String text) throws IOException {
        return Files.writeString(folder.resolve(name), text);
    }

    private Path write(String name, byte[] bytes) throws IOException {
        return Files.write(folder.resolve(name), bytes);
    }

    @Test
    void readsTheConfigurations() throws IOException {
        write("config.json", """
                {"architectures": ["LlamaForCausalLM"], "hidden_size": 9223372036854775807, "eps": 1e-05, "tie": true, "gone": null,
                 "rope": {"factor": 8.0, "list": [1, null, []]}, "name": "\\u00e9\\ud83d\\ude00"}
                """);
        write("generation_config.json", "{\"eos_token_id\": [1, 2]}\n");
        write("model.safetensors", SafetensorsWriter.sample().toArray());
        try (HuggingFaceCheckpoint checkpoint = (HuggingFaceCheckpoint) Checkpoint.open(folder)) {
            assertThat(checkpoint.format()).isEqualTo("Hugging Face safetensors");
            assertThat(checkpoint.path()).isEqualTo(folder);
            assertThat(checkpoint.directory()).isEqualTo(folder);
            assertThat(checkpoint.metadata().entrySet()).containsExactly(
                    Map.entry("architectures", List.of("LlamaForCausalLM")), Map.entry("hidden_size", Long.MAX_VALUE),
                    Map.entry("eps", 1e-5), Map.entry("tie", true),
                    Map.entry("rope", Map.of("factor", 8.0, "list", Arrays.asList(1L, null, List.of()))), Map.entry("name", "é😀"));
            assertThat(checkpoint.generationConfig()).isEqualTo(Map.of("eos_token_id", List.of(1L, 2L)));
            assertThatThrownBy(() -> checkpoint.metadata().clear()).isInstanceOf(UnsupportedOperationException.class);
        }
    }

    @Test
    void viewsTensorsWhereTheyLie() throws IOException {
        byte[] bytes = SafetensorsWriter.sample().toArray();
        write("model.safetensors", bytes);
        try (Checkpoint checkpoint = Checkpoint.open(folder)) {
            Map<String, Tensor> tensors = checkpoint.tensors();
            assertThat(((HuggingFaceCheckpoint) checkpoint).generationConfig()).isEmpty();
            assertThat(checkpoint.byteSize()).isEqualTo(bytes.length);
            assertThat(tensors.keySet()).containsExactly("f32", "f16", "scalar", "empty", "bf16");
            assertThat(tensors.get("f32").shape()).isEqualTo(Shape.of(2, 3));
            assertThat(tensors.get("f32").toFloatArray()).containsExactly(1, 2, 3, 4, 5, 6);
            assertThat(tensors.get("scalar").shape()).isEqualTo(Shape.of());
            assertThat(tensors.get("scalar").toFloatArray()).containsExactly(7);
            assertThat(tensors.get("empty").shape()).isEqualTo(Shape.of(0, 5));
            assertThat(tensors.values().stream().map(Tensor::dtype)).containsExactly(DType.F32, DType.F16, DType.F32, DType.F32, DType.BF16);
            assertThat(tensors.values()).allMatch(tensor -> tensor.segment().isReadOnly());
            assertThatThrownBy(tensors::clear).isInstanceOf(UnsupportedOperationException.class);
        }
    }

    @Test
    void aFileInTheDirectoryOpensWithItsConfig() throws IOException {
        Path weights = write("other.safetensors", SafetensorsWriter.sample().toArray());
        try (Checkpoint checkpoint = Checkpoint.open(weights)) {
            assertThat(checkpoint.path()).isEqualTo(weights);
            assertThat(checkpoint.metadata()).isEqualTo(Map.of("model_type", "llama"));
            assertThat(checkpoint.tensors()).hasSize(5);
        }
    }

    private void writeShards() throws IOException {
        write("a.safetensors", new SafetensorsWriter().tensor("x", "F32", Bytes.floats(1), 1).tensor("y", "F32", Bytes.floats(2), 1).toArray());
        write("b.safetensors", new SafetensorsWriter().tensor("z", "F32", Bytes.floats(3), 1).toArray());
        write(INDEX, """
                {"metadata": {"total_size": 12}, "weight_map": {"z": "b.safetensors", "x": "a.safetensors", "y": "a.safetensors"}}""");
    }

    @Test
    void theIndexIsPreferredAndGivesTheOrder() throws IOException {
        writeShards();
        write("model.safetensors", SafetensorsWriter.sample().toArray());
        for (Path path : List.of(folder, folder.resolve("b.safetensors"))) {
            try (Checkpoint checkpoint = Checkpoint.open(path)) {
                assertThat(checkpoint.tensors().keySet()).containsExactly("z", "x", "y");
                assertThat(checkpoint.tensors().get("z").toFloatArray()).containsExactly(3);
                assertThat(checkpoint.tensors().get("y").toFloatArray()).containsExactly(2);
                assertThat(checkpoint.byteSize())
                        .isEqualTo(Files.size(folder.resolve("a.safetensors")) + Files.size(folder.resolve("b.safetensors")));
            }
        }
        try (Checkpoint checkpoint = Checkpoint.open(folder.resolve("model.safetensors"))) {
            assertThat(checkpoint.tensors()).containsKey("bf16");
        }
    }

    @Test
    void shardsMayBeSymbolicLinks(@TempDir Path cache) throws IOException {
        writeShards();
        Path blob = Files.move(folder.resolve("b.safetensors"), cache.resolve("0123abcd"));
        Files.createSymbolicLink(folder.resolve("b.safetensors"), folder.relativize(blob));
        try (Checkpoint checkpoint = Checkpoint.open(folder)) {
            assertThat(checkpoint.tensors().get("z").toFloatArray()).containsExactly(3);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"../other", "..", ".", "", "/etc/passwd", "sub/a.safetensors", "a.safetensors/", "..\\\\other", "C:other",
        "a\\u0000b", "a\\nb"})
    void refusesAnIndexThatPointsElsewhere(String shard) throws IOException {
        writeShards();
        write(INDEX, "{\"weight_map\": {\"x\": \"" + shard + "\"}}");
        assertThatThrownBy(() -> Checkpoint.open(folder)).isExactlyInstanceOf(CheckpointException.class)
                .hasMessageContainingAll(INDEX, "the shard of tensor \"x\" to be the name of a file beside the index");
    }

    private record Malformed(String name, String text, String... sentence) {
        @Override
        public String toString() {
            return name;
        }
    }

    static Stream<Malformed> malformedIndexes() {
        return Stream.of(
                new Malformed("no weight_map", "{}", "a weight_map"),
                new Malformed("weight_map a list", "{\"weight_map\": []}", "a weight_map"),
                new Malformed("weight_map empty", "{\"weight_map\": {}}", "a weight_map"),
                new Malformed("shard a number", "{\"weight_map\": {\"x\": 1}}", "the shard of tensor \"x\""),
                new Malformed("no such shard", "{\"weight_map\": {\"x\": \"c.safetensors\"}}", "the shard \"c.safetensors\"", "no such file"),
                new Malformed("tensor in another shard", "{\"weight_map\": {\"z\": \"a.safetensors\"}}", "a.safetensors: expected tensor \"z\"",
                        "no such tensor"),
                new Malformed("tensor twice", "{\"weight_map\": {\"x\": \"a.safetensors\", \"x\": \"b.safetensors\"}}", "Duplicate"));
    }

    @ParameterizedTest
    @MethodSource("malformedIndexes")
    void refusesAnIndex(Malformed index) throws IOException {
        writeShards();
        write(INDEX, index.text);
        assertThatThrownBy(() -> Checkpoint.open(folder)).isExactlyInstanceOf(CheckpointException.class)
                .hasMessageContaining(folder.toString()).hasMessageContainingAll(index.sentence);
    }

    static Stream<Malformed> malformedConfigs() {
        return Stream.of(
                new Malformed("empty", "", "a JSON object", "nothing"),
                new Malformed("a list", "[]", "a JSON object", "an array"),
                new Malformed("a number", "1", "a JSON object", "1"),
                new Malformed("not JSON", "{\"a\": bad}", "well-formed JSON", "line 1"),
                new Malformed("followed by more", "{} {}", "end after one JSON object", "an object"),
                new Malformed("not a number", "{\"a\": NaN}", "well-formed JSON"),
                new Malformed("integer too large", "{\"a\": 9223372036854775808}", "out of range"),
                new Malformed("integer of 10,000 digits", "{\"a\": " + "9".repeat(10_000) + "}", "well-formed JSON"),
                new Malformed("float too large", "{\"a\": 1e999}", "fit a double", "1e999"),
                new Malformed("member twice", "{\"a\": 1, \"a\": 2}", "Duplicate field 'a'"),
                new Malformed("nested member twice", "{\"b\": {\"a\": 1, \"a\": 2}}", "Duplicate field 'a'"),
                new Malformed("nested lists", "{\"a\": " + "[".repeat(100_000), "nesting depth"),
                new Malformed("nested objects", "{\"a\":".repeat(100_000), "nesting depth"),
                new Malformed("byte-order mark", "\uFEFF{}", "JSON"),
                new Malformed("too large", "{" + " ".repeat(16 << 20) + "}", "at most 16777216 bytes"));
    }

    @ParameterizedTest
    @MethodSource("malformedConfigs")
    void refusesAConfig(Malformed config) throws IOException {
        write("model.safetensors", SafetensorsWriter.sample().toArray());
        write("config.json", config.text);
        assertThatThrownBy(() -> Checkpoint.open(folder)).isExactlyInstanceOf(CheckpointException.class)
                .hasMessageStartingWith(folder.resolve("config.json") + ": expected ").hasMessageContainingAll(config.sentence);
        write("config.json", "{}");
        write("generation_config.json", config.text);
        assertThatThrownBy(() -> Checkpoint.open(folder)).isExactlyInstanceOf(CheckpointException.class)
                .hasMessageStartingWith(folder.resolve("generation_config.json") + ": expected ");
    }

    @Test
    void refusesAConfigThatIsNotUtf8() throws IOException {
        write("config.json", new Bytes().text("{\"a\": \"").u8(0xff).text("\"}").toArray());
        assertThatThrownBy(() -> Checkpoint.open(folder)).isExactlyInstanceOf(CheckpointException.class).hasMessageContaining("malformed UTF-8");
        write("config.json", "{\"a\": 1}".getBytes(StandardCharsets.UTF_16));
        assertThatThrownBy(() -> Checkpoint.open(folder)).isExactlyInstanceOf(CheckpointException.class).hasMessageContaining("malformed UTF-8");
    }

    private record Unsound(String name, byte[] bytes, Class<?> type, String... sentence) {
        @Override
        public String toString() {
            return name;
        }
    }

    private static Unsound damaged(String name, byte[] bytes, String... sentence) {
        return new Unsound(name, bytes, CheckpointException.class, sentence);
    }

    private static Unsound header(String name, String header, int data, String... sentence) {
        return damaged(name, file(header, new byte[data]), sentence);
    }

    /** A header of one tensor "t" with these members. */
    private static Unsound tensor(String name, String members, int data, String... sentence) {
        return header(name, "{\"t\":{" + members + "}}", data, sentence);
    }

    private static Unsound unsupported(String dtype, int bytes) {
        String members = "\"t\":{\"dtype\":\"%s\",\"shape\":[1],\"data_offsets\":[0,%d]}".formatted(dtype, bytes);
        return new Unsound("dtype " + dtype, file("{" + members + "}", new byte[bytes]), UnsupportedModelException.class,
                "tensor \"t\" to be F32, F16 or BF16", "got " + dtype);
    }

    /** A sound header but for its odd length, which leaves the data at an odd place. */
    private static final String F32_HEADER = "{\"t\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}} ";

    static Stream<Unsound> unsound() {
        String f32 = "\"dtype\":\"F32\",";
        return Stream.of(
                damaged("empty file", new byte[0], "an empty file"),
                damaged("half a length", new byte[4], "8 bytes for the length of the header", "a file of 4"),
                damaged("length of 0", new byte[8], "begin with {", "an empty header"),
                damaged("header longer than the file", new Bytes().u64(100).text("{}").toArray(), "a header of 100 bytes", "after 2"),
                damaged("header of 100,000,001 bytes", new Bytes().u64(100_000_001).text("{}").toArray(), "at most 100000000 bytes", "100000001"),
                damaged("header of 2^63 - 1 bytes", new Bytes().u64(Long.MAX_VALUE).text("{}").toArray(), "9223372036854775807"),
                damaged("header of 2^64 - 1 bytes", new Bytes().u64(-1).text("{}").toArray(), "18446744073709551615"),
                damaged("header not in UTF-8", new Bytes().u64(8).text("{\"a").u8(0xc0).u8(0x80).text("\":1").toArray(), "malformed UTF-8"),
                damaged("pickle", new Bytes().raw(new byte[] {(byte) 0x80, 2, (byte) 0x8a, 10, 108, 0, 0, 0}).zeros(100).toArray(), "at most"),
                header("not an object", "[]", 0, "begin with {"),
                header("space before it", " {}", 0, "begin with {", "0x20"),
                header("unclosed", "{\"t\":{", 0, "well-formed JSON"),
                header("two objects", "{}{}", 0, "end after one JSON object"),
                header("nesting bomb", "{\"t\":{\"shape\":" + "[".repeat(100_000), 0, "to hold integers"),
                header("metadata a string", "{\"__metadata__\":\"x\"}", 0, "__metadata__ to be an object", "\"x\""),
                header("metadata of numbers", "{\"__metadata__\":{\"a\":1}}", 0, "values of __metadata__ to be strings", "got 1"),
                header("metadata nested", "{\"__metadata__\":{\"a\":{}}}", 0, "values of __metadata__ to be strings", "an object"),
                header("metadata null", "{\"__metadata__\":null}", 0, "__metadata__ to be an object", "null"),
                header("tensor a list", "{\"t\":[]}", 0, "tensor \"t\" to be an object", "an array"),
                tensor("no members", "", 0, "\"t\" to have dtype, shape", "no dtype"),
                tensor("no shape", f32 + "\"data_offsets\":[0,4]", 4, "no shape"),
                tensor("no offsets", f32 + "\"shape\":[1]", 4, "no data_offsets"),
                tensor("unknown member", f32 + "\"stride\":[1]", 4, "dtype, shape and data_offsets", "\"stride\""),
                tensor("dtype a number", "\"dtype\":1", 4, "the dtype of tensor \"t\" to be a string", "got 1"),
                tensor("unknown dtype", "\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]", 4, "unknown dtype \"F33\""),
                unsupported("F8_E4M3", 1), unsupported("I64", 8), unsupported("F64", 8), unsupported("BOOL", 1),
                tensor("shape a number", f32 + "\"shape\":4", 4, "the shape of tensor \"t\" to be an array", "got 4"),
                tensor("shape of strings", f32 + "\"shape\":[\"1\"]", 4, "the shape of tensor \"t\" to hold integers"),
                tensor("shape of floats", f32 + "\"shape\":[1.0]", 4, "the shape of tensor \"t\" to hold integers", "got 1.0"),
                tensor("negative dimension", f32 + "\"shape\":[-1],\"data_offsets\":[0,4]", 4, "no negative number", "got -1"),
                tensor("dimension of 2^63", f32 + "\"shape\":[9223372036854775808]", 4, "out of range"),
                tensor("nine dimensions", f32 + "\"shape\":[1,1,1,1,1,1,1,1,1]", 4, "at most 8 integers"),
                tensor("elements overflow", f32 + "\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]", 0, "less than 2^63 bytes"),
                tensor("bytes overflow", f32 + "\"shape\":[4611686018427387904],\"data_offsets\":[0,0]", 0, "less than 2^63 bytes"),
                tensor("offsets descend", f32 + "\"shape\":[1],\"data_offsets\":[4,0]", 4, "data_offsets of tensor \"t\" to ascend", "[4, 0]"),
                tensor("offset negative", f32 + "\"shape\":[1],\"data_offsets\":[-4,0]", 4, "no negative number", "got -4"),
                tensor("one offset", f32 + "\"shape\":[1],\"data_offsets\":[4]", 4, "two data_offsets", "1 data_offsets"),
                tensor("three offsets", f32 + "\"shape\":[1],\"data_offsets\":[0,4,8]", 4, "at most 2 integers"),
                tensor("offsets contradict the shape", f32 + "\"shape\":[2],\"data_offsets\":[0,4]", 4, "8 bytes as F32 (2)",
                        "4 bytes of data_offsets"),
                tensor("past the end", f32 + "\"shape\":[2],\"data_offsets\":[0,8]", 4, "data of 8 bytes", "\"t\"", "after 4"),
                tensor("far past the end", f32 + "\"shape\":[1152921504606846976],\"data_offsets\":[0,4611686018427387904]", 4, "after 4"),
                tensor("hole at the start", f32 + "\"shape\":[1],\"data_offsets\":[4,8]", 8, "\"t\" to begin at offset 0", "a hole"),
                tensor("bytes after the last tensor", f32 + "\"shape\":[1],\"data_offsets\":[0,4]", 8, "cover all data", "4 bytes after"),
                header("data of no tensor", "{}", 8, "cover all data"),
                header("overlap", two(0, 8, 4, 12), 12, "\"b\" to begin at offset 8, where \"a\" ends", "offset 4, an overlap"),
                header("hole", two(0, 8, 12, 20), 20, "\"b\" to begin at offset 8, where \"a\" ends", "offset 12, a hole"),
                header("two in one place", two(0, 8, 0, 8), 8, "an overlap"),
                header("tensor twice", two(0, 8, 8, 16).replace("\"b\"", "\"a\""), 16, "Duplicate field 'a'"),
                header("member twice", "{\"t\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 0, "Duplicate field 'dtype'"));
    }

    private static String two(int beginA, int endA, int beginB, int endB) {
        return "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[%d,%d]},\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[%d,%d]}}"
                .formatted(beginA, endA, beginB, endB);
    }

    @ParameterizedTest
    @MethodSource("unsound")
    void refuses(Unsound weights) throws IOException {
        Path file = write("model.safetensors", weights.bytes);
        Throwable thrown = catchThrowable(() -> Checkpoint.open(folder).close());
        assertThat(thrown).isExactlyInstanceOf(weights.type).hasMessageStartingWith(file + ": expected ")
                .hasMessageContaining(", got ").hasMessageContainingAll(weights.sentence);
        assertThat(thrown.getMessage().length()).isLessThan(600);
    }

    @Test
    void tooManyTensorsAreRefused() throws IOException {
        StringBuilder header = new StringBuilder("{");
        for (int i = 0; i <= 1 << 16; i++) {
            header.append(i == 0 ? "" : ",").append("\"t%d\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}".formatted(i));
        }
        write("model.safetensors", file(header.append("}").toString(), new byte[0]));
        assertThatThrownBy(() -> Checkpoint.open(folder)).isExactlyInstanceOf(CheckpointException.class)
                .hasMessageContaining("at most 65536 tensors");
    }

    @Test
    void refusesEveryTruncation() throws IOException {
        byte[] bytes = SafetensorsWriter.sample().toArray();
        for (int length = 0; length < bytes.length; length++) {
            write("model.safetensors", Arrays.copyOf(bytes, length));
            assertThatThrownBy(() -> Checkpoint.open(folder)).as("first %d of %d bytes", length, bytes.length)
                    .isExactlyInstanceOf(CheckpointException.class);
        }
    }

    @Test
    void copiesTensorsThatAreNotAligned() throws IOException {
        byte[] bytes = new Bytes().u64(F32_HEADER.length()).text(F32_HEADER).f32(1.5f).toArray();
        assertThat(8 + F32_HEADER.length()).as("where the tensor lies").isOdd();
        try (Arena arena = Arena.ofConfined()) {
            Tensor tensor = SafetensorsReader.read(Path.of("odd"), Damage.mapped(arena, bytes), arena).get("t");
            assertThat(tensor.toFloatArray()).containsExactly(1.5f);
            assertThat(tensor.segment().isReadOnly()).isTrue();
        }
    }

    @Test
    void survivesRandomDamage() {
        byte[] sound = SafetensorsWriter.sample().toArray();
        Random random = new Random(42);
        int refused = 0;
        for (int i = 0; i < 5_000; i++) {
            refused += accepts(Damage.some(sound, sound.length, random)) ? 0 : 1;
        }
        assertThat(refused).isBetween(1_000, 4_999);
    }

    /** {@return whether the bytes are taken for a sound file, all of which can then be read} */
    static boolean accepts(byte[] bytes) {
        try (Arena arena = Arena.ofConfined()) {
            SafetensorsReader.read(Path.of("fuzzed"), Damage.mapped(arena, bytes), arena).values().forEach(tensor -> Damage.touch(tensor.segment()));
            return true;
        } catch (CheckpointException e) {
            assertThat(e.getMessage()).contains("expected ", ", got ");
            return false;
        }
    }
}
