package io.puna.format;

import com.code_intelligence.jazzer.junit.FuzzTest;
import java.util.stream.Stream;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** Coverage-guided fuzzing of the safetensors reader, as {@link GgufFuzzTest} does for GGUF. */
class SafetensorsFuzzTest {
    @MethodSource("seeds")
    @FuzzTest(maxDuration = "60s")
    void reads(byte[] bytes) {
        HuggingFaceCheckpointTest.accepts(bytes);
    }

    static Stream<Arguments> seeds() {
        byte[] one = new SafetensorsWriter().tensor("a", "F32", new byte[16], 2, 2).toArray();
        return Stream.of(SafetensorsWriter.sample().toArray(), one, SafetensorsWriter.file("{}", new byte[0])).map(Arguments::of);
    }
}
