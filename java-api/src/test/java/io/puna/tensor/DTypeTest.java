package io.puna.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.puna.bindings.puna_h;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

class DTypeTest {
    @ParameterizedTest
    @EnumSource(mode = EnumSource.Mode.EXCLUDE, names = "I32")
    void blocksAreTheLibrarysOwn(DType dtype) {
        try (Device device = Device.cpu(1); Arena arena = Arena.ofConfined()) {
            assertThat(device.backend()).isNotEmpty();
            MemorySegment out = arena.allocate(ValueLayout.JAVA_LONG, 2);
            Device.check(puna_h.puna_dtype_block(dtype.code(), out, out.asSlice(8)));
            assertThat(dtype.blockElements()).isEqualTo((int) out.getAtIndex(ValueLayout.JAVA_LONG, 0));
            assertThat(dtype.blockBytes()).isEqualTo((int) out.getAtIndex(ValueLayout.JAVA_LONG, 1));
        }
    }

    @Test
    void everyTypeOfTheLibraryIsHere() {
        assertThat(DType.values()).filteredOn(dtype -> dtype.code() >= 0).hasSize(puna_h.PUNA_DTYPE_COUNT());
    }

    @ParameterizedTest
    @CsvSource({"F32, 3, 12", "F16, 3, 6", "BF16, 0, 0", "Q8_0, 64, 68", "Q4_0, 32, 18", "Q4_K, 512, 288", "Q6_K, 256, 210",
            "I32, 5, 20", "Q4_K, 9223372036854775552, 5188146770730811248"})
    void bytesOfWholeBlocks(DType dtype, long elements, long bytes) {
        assertThat(dtype.bytes(elements)).isEqualTo(bytes);
    }

    @ParameterizedTest
    @CsvSource({"F32, -1", "Q8_0, 31", "Q4_K, 32", "Q6_K, 257"})
    void aCutBlockIsRefused(DType dtype, long elements) {
        assertThatThrownBy(() -> dtype.bytes(elements)).isInstanceOf(IllegalArgumentException.class)
                .hasMessage("elements: expected a non-negative multiple of " + dtype.blockElements() + " for " + dtype + ", got "
                        + elements);
    }

    @Test
    void bytesThatDoNotFitAreRefused() {
        assertThatThrownBy(() -> DType.F32.bytes(1L << 61)).isInstanceOf(ArithmeticException.class);
    }
}
