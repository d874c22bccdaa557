package io.puna.format;

import com.code_intelligence.jazzer.junit.FuzzTest;
import java.util.stream.Stream;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Coverage-guided fuzzing of the GGUF reader: whatever the bytes, they are read or refused with {@link CheckpointException}; anything
 * else that is thrown is a finding. An ordinary run only tries the seeds. With {@code JAZZER_FUZZ=1} it searches for a minute, or
 * for {@code JAZZER_MAX_DURATION}; Jazzer searches with one target per JVM, so each has a class of its own.
 */
class GgufFuzzTest {
    @MethodSource("seeds")
    @FuzzTest(maxDuration = "60s")
    void reads(byte[] bytes) {
        GgufCheckpointTest.accepts(bytes);
    }

    static Stream<Arguments> seeds() {
        byte[] aligned = new GgufBytes().uint32("general.alignment", 64).alignment(64)
                .tensor("a", GgufBytes.F32, new byte[16], 2, 2).tensor("b", GgufBytes.Q4_0, new byte[36], 32, 2).toArray();
        return Stream.of(GgufBytes.sample().toArray(), GgufBytes.sample().version(2).toArray(), aligned).map(Arguments::of);
    }
}
