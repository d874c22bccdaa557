package io.puna.format;

import com.code_intelligence.jazzer.junit.FuzzTest;
import java.nio.charset.StandardCharsets;
import java.util.stream.Stream;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Coverage-guided fuzzing of both readers: whatever the bytes, they are read or refused with {@link CheckpointException}; anything else
 * that is thrown is a finding. An ordinary run only tries the seeds; with {@code JAZZER_FUZZ=1} each target searches for a minute.
 */
class CheckpointFuzzTest {
    @MethodSource("ggufSeeds")
    @FuzzTest(maxDuration = "60s")
    void gguf(byte[] bytes) {
        GgufCheckpointTest.accepts(bytes);
    }

    @MethodSource("safetensorsSeeds")
    @FuzzTest(maxDuration = "60s")
    void safetensors(byte[] bytes) {
        HuggingFaceCheckpointTest.accepts(bytes);
    }

    static Stream<Arguments> ggufSeeds() {
        byte[] tensors = new GgufWriter().uint32("general.alignment", 64).alignment(64)
                .tensor("a", GgufWriter.F32, new byte[16], 2, 2).tensor("b", GgufWriter.Q4_0, new byte[36], 32, 2).toArray();
        return Stream.of(GgufWriter.sample().toArray(), GgufWriter.sample().version(2).toArray(), tensors).map(CheckpointFuzzTest::seed);
    }

    static Stream<Arguments> safetensorsSeeds() {
        byte[] one = new SafetensorsWriter().tensor("a", "F32", new byte[16], 2, 2).toArray();
        byte[] none = "\2\0\0\0\0\0\0\0{}".getBytes(StandardCharsets.US_ASCII);
        return Stream.of(SafetensorsWriter.sample().toArray(), one, none).map(CheckpointFuzzTest::seed);
    }

    private static Arguments seed(byte[] bytes) {
        return Arguments.of((Object) bytes);
    }
}
