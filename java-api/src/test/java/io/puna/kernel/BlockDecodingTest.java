package io.puna.kernel;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.puna.TestData;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** Every weight type decodes bit for bit as the gguf package decodes the same bytes; {@code make_blocks.py} wrote both. */
class BlockDecodingTest {
    private static final Path FOLDER = TestData.fixture("blocks");

    static List<Arguments> typesOnEveryCpu() throws IOException {
        List<Arguments> arguments = new ArrayList<>();
        for (JsonNode type : new ObjectMapper().readTree(FOLDER.resolve("blocks.json").toFile()).get("types")) {
            DType dtype = DType.valueOf(type.get("dtype").textValue());
            for (Fixtures.Cpu cpu : Fixtures.cpus()) {
                arguments.add(Arguments.of(dtype, Shape.of(type.get("rows").longValue(), type.get("columns").longValue()), cpu));
            }
        }
        return arguments;
    }

    @ParameterizedTest
    @MethodSource("typesOnEveryCpu")
    void bitForBit(DType dtype, Shape shape, Fixtures.Cpu cpu) throws IOException {
        try (Device device = cpu.open(); Arena arena = Arena.ofShared()) {
            Tensor weight = Tensor.allocate(arena, dtype, shape);
            byte[] bytes = Files.readAllBytes(FOLDER.resolve(dtype + ".bin"));
            assertThat(bytes).hasSize(Math.toIntExact(weight.byteSize()));
            weight.segment().copyFrom(MemorySegment.ofArray(bytes));
            int[] expected = MemorySegment.ofArray(Files.readAllBytes(FOLDER.resolve(dtype + ".f32")))
                    .toArray(ValueLayout.JAVA_INT_UNALIGNED);

            Tensor rows = Tensor.allocate(arena, DType.F32, shape);
            Dequantize.forward(device, rows, weight);
            assertThat(rows.segment().toArray(ValueLayout.JAVA_INT)).isEqualTo(expected);

            // The other reader of whole rows: the last first, so that a row is found by its number.
            int count = Math.toIntExact(shape.rows());
            int[] ids = new int[count];
            int[] reversed = new int[expected.length];
            int columns = Math.toIntExact(shape.columns());
            for (int row = 0; row < count; row++) {
                ids[row] = count - 1 - row;
                System.arraycopy(expected, ids[row] * columns, reversed, row * columns, columns);
            }
            Embedding.forward(device, rows, weight, Tensor.of(arena, ids, Shape.of(count)));
            assertThat(rows.segment().toArray(ValueLayout.JAVA_INT)).isEqualTo(reversed);
        }
    }
}
