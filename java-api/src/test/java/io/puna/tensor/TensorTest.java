package io.puna.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class TensorTest {
    private final Arena arena = Arena.ofConfined();

    @AfterEach
    void close() {
        arena.close();
    }

    /** (3, 4) of 0 to 11. */
    private Tensor counting() {
        float[] values = new float[12];
        for (int i = 0; i < values.length; i++) {
            values[i] = i;
        }
        return Tensor.of(arena, values, Shape.of(3, 4));
    }

    @Test
    void isAViewOfTheCallersMemory() {
        MemorySegment segment = arena.allocate(100, 4);
        Tensor tensor = Tensor.of(segment, DType.F32, Shape.of(2, 3));
        segment.setAtIndex(ValueLayout.JAVA_FLOAT, 4, 1.5f);
        assertThat(tensor.getFloat(1, 1)).isEqualTo(1.5f);
        assertThat(tensor.segment().byteSize()).isEqualTo(24);
        assertThat(tensor.byteSize()).isEqualTo(24);
        assertThat(tensor.rowStride()).isEqualTo(3);
        assertThat(tensor.isContiguous()).isTrue();
        assertThat(tensor).hasToString("F32 (2, 3)");
    }

    @Test
    void allocatesZeroedAlignedMemory() {
        Tensor tensor = Tensor.allocate(arena, DType.F32, Shape.of(5));
        assertThat(tensor.segment().address() % 64).isZero();
        assertThat(tensor.toFloatArray()).containsOnly(0);
        assertThat(Tensor.of(arena, new int[] {3, 1}, Shape.of(2)).toIntArray()).containsExactly(3, 1);
    }

    @Test
    void largeMemoryIsZeroedAlignedAndTheArenas() {
        Tensor tensor;
        try (Arena shorter = Arena.ofConfined()) {
            tensor = Tensor.allocate(shorter, DType.F32, Shape.of(1_300_001));
            assertThat(tensor.segment().address() % 64).isZero();
            assertThat(tensor.toFloatArray()).containsOnly(0);
        }
        assertThatThrownBy(tensor::toFloatArray).isInstanceOf(IllegalStateException.class);
        assertThatThrownBy(() -> Tensor.allocate(arena, DType.F32, Shape.of(1L << 60))).isInstanceOf(OutOfMemoryError.class);
    }

    @Test
    void rowsAndColumnsAreViews() {
        Tensor tensor = counting();
        Tensor columns = tensor.columns(1, 2);
        assertThat(columns.shape()).isEqualTo(Shape.of(3, 2));
        assertThat(columns.rowStride()).isEqualTo(4);
        assertThat(columns.isContiguous()).isFalse();
        assertThat(columns).hasToString("F32 (3, 2) with row stride 4");
        assertThat(columns.toFloatArray()).containsExactly(1, 2, 5, 6, 9, 10);
        assertThat(columns.getFloat(2, 1)).isEqualTo(10);
        assertThat(columns.byteSize()).isEqualTo(24);
        assertThat(columns.rows(1, 2).toFloatArray()).containsExactly(5, 6, 9, 10);
        assertThat(columns.rows(1, 2).columns(1, 1).toFloatArray()).containsExactly(6, 10);
        assertThat(columns.rows(2, 1).isContiguous()).isTrue();
        assertThat(tensor.rows(1, 2).reshape(Shape.of(8)).toFloatArray()).containsExactly(4, 5, 6, 7, 8, 9, 10, 11);
    }

    @ParameterizedTest
    @CsvSource({"0, 0", "1, 0", "3, 0"})
    void emptyViewsAreAllowedAnywhere(long from, long count) {
        Tensor columns = counting().columns(2, 2);
        assertThat(columns.rows(from, count).toFloatArray()).isEmpty();
        assertThat(columns.columns(Math.min(from, 2), count).toFloatArray()).isEmpty();
        assertThat(Tensor.allocate(arena, DType.F32, Shape.of(0, 4)).columns(from, count).toFloatArray()).isEmpty();
    }

    @Test
    void quantizedViewsKeepBlocksWhole() {
        Tensor tensor = Tensor.allocate(arena, DType.Q8_0, Shape.of(4, 96));
        assertThat(tensor.segment().byteSize()).isEqualTo(4 * 3 * 34);
        Tensor middle = tensor.rows(1, 2).columns(32, 32);
        assertThat(middle.segment().address() - tensor.segment().address()).isEqualTo(3 * 34 + 34);
        assertThat(middle.segment().byteSize()).isEqualTo(3 * 34 + 34);
        assertThatThrownBy(() -> tensor.columns(16, 32)).isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("columns: expected whole Q8_0 blocks of 32");
        assertThatThrownBy(() -> tensor.getFloat(0, 0)).isInstanceOf(IllegalStateException.class)
                .hasMessageContaining("expected F32, got Q8_0 (4, 96)");
    }

    @Test
    void whatIsNotThereIsRefused() {
        Tensor tensor = counting();
        assertThatThrownBy(() -> tensor.rows(2, 2)).isInstanceOf(IndexOutOfBoundsException.class);
        assertThatThrownBy(() -> tensor.rows(-1, 1)).isInstanceOf(IndexOutOfBoundsException.class);
        assertThatThrownBy(() -> tensor.rows(1, Long.MAX_VALUE)).isInstanceOf(IndexOutOfBoundsException.class);
        assertThatThrownBy(() -> tensor.columns(3, 2)).isInstanceOf(IndexOutOfBoundsException.class);
        assertThatThrownBy(() -> tensor.getFloat(3, 0)).isInstanceOf(IndexOutOfBoundsException.class);
        assertThatThrownBy(() -> tensor.columns(0, 2).getFloat(0, 2)).isInstanceOf(IndexOutOfBoundsException.class);
        assertThatThrownBy(() -> tensor.columns(0, 2).reshape(Shape.of(6))).isInstanceOf(IllegalArgumentException.class);
        assertThatThrownBy(() -> tensor.reshape(Shape.of(11))).isInstanceOf(IllegalArgumentException.class);
        assertThatThrownBy(tensor::toIntArray).isInstanceOf(IllegalStateException.class);
    }

    @Test
    void wrongMemoryIsRefused() {
        MemorySegment segment = arena.allocate(64, 64);
        assertThatThrownBy(() -> Tensor.of(MemorySegment.ofArray(new float[4]), DType.F32, Shape.of(4)))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("segment: expected off-heap memory");
        assertThatThrownBy(() -> Tensor.of(segment, DType.F32, Shape.of(17))).isInstanceOf(IllegalArgumentException.class)
                .hasMessage("segment: expected at least 68 bytes for F32 (17), got 64");
        assertThatThrownBy(() -> Tensor.of(segment.asSlice(2), DType.F32, Shape.of(4))).isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("segment: expected F32 memory aligned to 4 bytes");
        assertThat(Tensor.of(segment.asSlice(2), DType.Q8_0, Shape.of(32)).byteSize()).isEqualTo(34);
        assertThatThrownBy(() -> Tensor.of(segment, DType.Q8_0, Shape.of(2, 16))).isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("shape: expected rows of whole Q8_0 blocks of 32");
        assertThatThrownBy(() -> Tensor.of(segment, DType.F32, Shape.of(1L << 62))).isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("exceed 2^63 - 1");
        assertThatThrownBy(() -> Tensor.of(arena, new float[3], Shape.of(2, 2))).isInstanceOf(IllegalArgumentException.class)
                .hasMessage("values: expected 4 for shape (2, 2), got 3");
    }

    @Test
    void closedMemoryIsRefused() {
        Arena own = Arena.ofConfined();
        Tensor tensor = Tensor.of(own, new float[] {1, 2}, Shape.of(2));
        own.close();
        assertThatThrownBy(() -> tensor.getFloat(0, 0)).isInstanceOf(IllegalStateException.class);
        assertThatThrownBy(tensor::toFloatArray).isInstanceOf(IllegalStateException.class);
    }

    @Test
    void readOnlyMemoryMakesAReadOnlyTensor() {
        Tensor tensor = Tensor.of(arena.allocate(16, 4).asReadOnly(), DType.F32, Shape.of(2, 2));
        assertThat(tensor.segment().isReadOnly()).isTrue();
        assertThat(tensor.columns(1, 1).segment().isReadOnly()).isTrue();
    }
}
