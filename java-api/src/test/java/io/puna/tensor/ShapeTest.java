package io.puna.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;

class ShapeTest {
    @Test
    void allDimensionsButTheInnermostAreRows() {
        Shape shape = Shape.of(2, 3, 5);
        assertThat(shape.rank()).isEqualTo(3);
        assertThat(shape.rows()).isEqualTo(6);
        assertThat(shape.columns()).isEqualTo(5);
        assertThat(shape.elements()).isEqualTo(30);
        assertThat(shape.dim(0)).isEqualTo(2);
        assertThat(shape.dim(-1)).isEqualTo(5);
        assertThat(shape).hasToString("(2, 3, 5)").isEqualTo(Shape.of(2, 3, 5)).hasSameHashCodeAs(Shape.of(2, 3, 5))
                .isNotEqualTo(Shape.of(6, 5));
    }

    @Test
    void aScalarIsOneRowOfOne() {
        Shape scalar = Shape.of();
        assertThat(scalar.rank()).isZero();
        assertThat(scalar.rows()).isEqualTo(1);
        assertThat(scalar.columns()).isEqualTo(1);
        assertThat(scalar.elements()).isEqualTo(1);
    }

    @Test
    void isAValueOfItsOwn() {
        long[] dims = {2, 3};
        Shape shape = Shape.of(dims);
        dims[0] = 7;
        shape.dims()[1] = 7;
        assertThat(shape.dims()).containsExactly(2, 3);
    }

    @Test
    void wrongDimensionsAreRefused() {
        assertThatThrownBy(() -> Shape.of(2, -1)).isInstanceOf(IllegalArgumentException.class)
                .hasMessage("dims: expected no negative dimension, got [2, -1]");
        assertThatThrownBy(() -> Shape.of(1L << 32, 1L << 31)).isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("exceed 2^63 - 1");
        assertThatThrownBy(() -> Shape.of(2, 3).dim(2)).isInstanceOf(IndexOutOfBoundsException.class);
        assertThatThrownBy(() -> Shape.of(2, 3).dim(-3)).isInstanceOf(IndexOutOfBoundsException.class);
    }
}
