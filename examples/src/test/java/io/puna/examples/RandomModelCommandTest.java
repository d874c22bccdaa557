package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import io.puna.format.Checkpoint;
import io.puna.format.GgufWriter;
import io.puna.kernel.Dequantize;
import io.puna.tensor.DType;
import io.puna.tensor.Device;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

class RandomModelCommandTest {
    private static final List<Object> SMALL = List.of("--width", 256, "--heads", 4, "--key-value-heads", 2, "--layers", 3,
            "--feed-forward-width", 512, "--vocabulary", 400, "--context", 64);

    @TempDir
    private Path folder;

    private Run random(Object... more) {
        Object[] args = new Object[1 + SMALL.size() + more.length];
        args[0] = "random-model";
        System.arraycopy(SMALL.toArray(), 0, args, 1, SMALL.size());
        System.arraycopy(more, 0, args, 1 + SMALL.size(), more.length);
        return Run.puna(args);
    }

    @ParameterizedTest
    @EnumSource(RandomModel.Mixture.class)
    void everyTypeRunsAndHasTheDeviationOfATrainedModel(RandomModel.Mixture type) throws IOException {
        Path file = folder.resolve("m.gguf");
        Run run = random("--shape", "1.1B", "--type", type, file);

        assertThat(run.err()).isEmpty();
        assertThat(run.code()).isZero();
        assertThat(run.out()).contains(type + ",").contains("weights");
        JsonNode generated = Run.puna("generate", "--model", file, "--max-tokens", 3, "--ignore-eos", "--json", "Once upon").json();
        assertThat(generated.get("tokens")).hasSize(3);
        assertThat(generated.get("prompt_tokens")).hasSizeGreaterThan(2);
        try (Checkpoint checkpoint = Checkpoint.open(file); Device device = Device.cpu(1); Arena arena = Arena.ofConfined()) {
            for (Tensor tensor : checkpoint.tensors().values()) {
                if (tensor.shape().rank() == 2) {
                    Tensor decoded = Tensor.of(arena.allocate(4 * tensor.shape().elements(), 64), DType.F32, tensor.shape());
                    Dequantize.forward(device, decoded, tensor);
                    float[] values = decoded.segment().toArray(ValueLayout.JAVA_FLOAT);
                    double sum = 0;
                    double squares = 0;
                    for (float value : values) {
                        sum += value;
                        squares += value * value;
                    }
                    double mean = sum / values.length;
                    assertThat(Math.sqrt(squares / values.length - mean * mean)).as(tensor + "").isBetween(0.019, 0.021);
                    // Q4_0's sixteen values go from -8 to 7: half a step below 0. Q4_K's minima, one for 32 weights, are chance too.
                    assertThat(mean).isBetween(-0.003, 0.003);
                }
            }
        }
    }

    @Test
    void theSameSeedGivesTheSameFile() throws IOException {
        for (int i = 0; i < 3; i++) {
            assertThat(random("--shape", "15M", "--type", "Q4_K_M", "--seed", i / 2, folder.resolve(i + ".gguf")).code()).isZero();
        }
        assertThat(folder.resolve("1.gguf")).hasSameBinaryContentAs(folder.resolve("0.gguf"));
        assertThat(Files.mismatch(folder.resolve("1.gguf"), folder.resolve("2.gguf"))).isNotNegative();
    }

    @ParameterizedTest
    @CsvSource({"15M, 15191712", "110M, 109529856", "1.1B, 1100048384", "3B, 3212749824", "7B, 6738415616", "8B, 8030261248",
        "13B, 13015864320", "33B, 32528943616", "65B, 65285660672"})
    void publishedShapesHaveTheirNumberOfWeights(String name, long weights) {
        RandomModel.Published shape = new RandomModelCommand.ShapeConverter().convert(name);

        assertThat(RandomModel.tensors(shape.dimensions, RandomModel.Mixture.F16).stream().mapToLong(t -> t.shape().elements()).sum())
                .isEqualTo(weights);
    }

    /** Sizes and types as llama-quantize makes them of the 1.1B shape. */
    @Test
    void mixturesAreThoseOfQuantizedFiles() {
        assertThat(types("1.1B", RandomModel.Mixture.Q4_0)).isEqualTo(Map.of(DType.F32, 45, DType.Q4_0, 155, DType.Q6_K, 1));
        assertThat(types("1.1B", RandomModel.Mixture.Q4_K_M)).isEqualTo(Map.of(DType.F32, 45, DType.Q4_K, 135, DType.Q6_K, 21));
        assertThat(types("3B", RandomModel.Mixture.Q4_0)).as("a tied embedding is the output").containsEntry(DType.Q6_K, 1);
        assertThat(types("15M", RandomModel.Mixture.Q4_K_M)).as("288 columns are no blocks of 256")
                .isEqualTo(Map.of(DType.F32, 13, DType.Q4_0, 34, DType.Q8_0, 3, DType.Q4_K, 4, DType.Q6_K, 2));
    }

    private static Map<DType, Integer> types(String shape, RandomModel.Mixture mixture) {
        Map<DType, Integer> types = new TreeMap<>();
        for (GgufWriter.Entry tensor : RandomModel.tensors(new RandomModelCommand.ShapeConverter().convert(shape).dimensions, mixture)) {
            types.merge(tensor.dtype(), 1, Integer::sum);
        }
        return types;
    }

    @Test
    void helpNamesTheShapesAndTypes() {
        Run run = Run.puna("random-model", "--help");

        assertThat(run.code()).isZero();
        assertThat(run.out()).contains("1.1B", "Q4_K_M", "Examples:", "--seed");
        assertThat(Run.puna("--help").out()).contains("  random-model");
    }

    @Test
    void whatMakesNoModelIsRefused() throws IOException {
        Path file = folder.resolve("m.gguf");
        refused(file, "'2B'", "--shape", "2B", "--type", "F32");
        refused(file, "--type", "--shape", "15M", "--type", "Q5_0");
        refused(file, "--width: expected a multiple of 12, got 100", "--shape", "15M", "--type", "F32", "--width", 100);
        refused(file, "--key-value-heads: expected a divisor of 6, got 4", "--shape", "15M", "--type", "F32", "--key-value-heads", 4);
        refused(file, "--vocabulary: expected 259 to", "--shape", "15M", "--type", "F32", "--vocabulary", 258);
        refused(file, "--layers: expected 1 or more, got 0", "--shape", "15M", "--type", "F32", "--layers", 0);
        refused(folder.resolve("none/m.gguf"), "no directory", "--shape", "15M", "--type", "F32");
        assertThat(folder).isEmptyDirectory();
        refused(Files.createFile(file), "is there already", "--shape", "15M", "--type", "F32");
    }

    private static void refused(Path file, String sentence, Object... options) {
        Object[] args = new Object[options.length + 2];
        args[0] = "random-model";
        System.arraycopy(options, 0, args, 1, options.length);
        args[args.length - 1] = file;
        Run run = Run.puna(args);

        assertThat(run.code()).isEqualTo(ExitCode.USAGE);
        assertThat(run.err()).startsWith("puna: ").contains(sentence);
        assertThat(run.err().lines()).hasSize(1);
    }
}
