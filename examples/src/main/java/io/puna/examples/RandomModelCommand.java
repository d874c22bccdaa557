package io.puna.examples;

import io.puna.format.GgufWriter;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;
import picocli.CommandLine.TypeConversionException;

/** {@code puna random-model}: a model to measure with, where none can be had. */
@Command(name = "random-model", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, abbreviateSynopsis = true,
        sortOptions = false, usageHelpAutoWidth = true,
        description = {"Writes a GGUF file of a published shape, or any other, with random weights: for measuring.",
            "Its types are mixed as a quantised file's are: Q4_0 has a Q6_K output, Q4_K_M has Q6_K there and in part of the values and"
                    + " feed-forward matrices."},
        footerHeading = "%nExamples:%n",
        footer = {
            "  puna random-model --shape 1.1B --type Q4_K_M random-1.1B-Q4_K_M.gguf",
            "  puna random-model --shape 15M --layers 2 --vocabulary 1000 --type F32 tiny.gguf"})
final class RandomModelCommand implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Option(names = "--shape", paramLabel = "SHAPE", required = true, converter = ShapeConverter.class,
            description = "15M and 110M (stories), 1.1B (TinyLlama), 3B and 8B (Llama 3), 7B, 13B, 33B or 65B (LLaMA). Options below"
                    + " change one dimension each.")
    private RandomModel.Published shape;

    @Option(names = "--type", paramLabel = "TYPE", required = true, description = "${COMPLETION-CANDIDATES}.")
    private RandomModel.Mixture type;

    @Parameters(paramLabel = "OUT.gguf", description = "The file to write, which must not be there yet.")
    private Path out;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "0",
            description = "The same seed gives the same file. Default: ${DEFAULT-VALUE}.")
    private long seed;

    @Option(names = "--width", paramLabel = "C", description = "Width of the model, a multiple of twice the heads.")
    private @Nullable Integer width;

    @Option(names = "--layers", paramLabel = "L")
    private @Nullable Integer layers;

    @Option(names = "--heads", paramLabel = "NH")
    private @Nullable Integer heads;

    @Option(names = "--key-value-heads", paramLabel = "NKV", description = "A divisor of the heads; where only those are given, as many.")
    private @Nullable Integer keyValueHeads;

    @Option(names = "--feed-forward-width", paramLabel = "FF")
    private @Nullable Integer feedForwardWidth;

    @Option(names = "--vocabulary", paramLabel = "V", description = "Tokens, 259 or more.")
    private @Nullable Integer vocabulary;

    @Option(names = "--context", paramLabel = "N", description = "Length of the context.")
    private @Nullable Integer context;

    /** By the name that a shape has on the command line. */
    static final class ShapeConverter implements ITypeConverter<RandomModel.Published> {
        @Override
        public RandomModel.Published convert(String value) {
            for (RandomModel.Published shape : RandomModel.Published.values()) {
                if (shape.label.equalsIgnoreCase(value)) {
                    return shape;
                }
            }
            throw new TypeConversionException("expected one of " + List.of(RandomModel.Published.values()) + ", got '" + value + "'");
        }
    }

    @Override
    public Integer call() throws IOException {
        RandomModel.Dimensions dimensions = dimensions();
        if (Files.exists(out)) {
            throw new IllegalArgumentException("OUT.gguf: " + out + " is there already; delete it, or name another file");
        }
        Path folder = out.toAbsolutePath().getParent();
        if (folder != null && !Files.isDirectory(folder)) {
            throw new IllegalArgumentException("OUT.gguf: there is no directory " + folder);
        }
        List<GgufWriter.Entry> tensors = RandomModel.tensors(dimensions, type);
        long bytes = tensors.stream().mapToLong(GgufWriter.Entry::bytes).sum();
        long weights = tensors.stream().mapToLong(tensor -> tensor.shape().elements()).sum();
        Progress progress = new Progress(spec.commandLine().getErr());
        try (CtrlC ctrlC = new CtrlC()) {
            RandomModel.write(out, "random " + shape + " " + type, dimensions, type, seed,
                    done -> progress.show(Text.bytes(done) + " of " + Text.bytes(bytes)));
        } finally {
            progress.clear();
        }
        spec.commandLine().getOut().printf(Locale.ROOT, "%s: %s, %,d weights, %s%n", out, type, weights, Text.bytes(Files.size(out)));
        return ExitCode.OK;
    }

    private RandomModel.Dimensions dimensions() {
        RandomModel.Dimensions base = shape.dimensions;
        int nh = or(heads, base.heads());
        int nkv = or(keyValueHeads, heads == null ? base.keyValueHeads() : nh);
        RandomModel.Dimensions d = new RandomModel.Dimensions(or(width, base.width()), or(layers, base.layers()), nh, nkv,
                or(feedForwardWidth, base.feedForwardWidth()), or(vocabulary, base.vocabulary()), or(context, base.context()),
                base.theta(), base.tied());
        require("--layers", d.layers(), d.layers() >= 1, "1 or more");
        require("--heads", d.heads(), d.heads() >= 1, "1 or more");
        require("--width", d.width(), d.width() >= 1 && d.width() % (2L * d.heads()) == 0, "a multiple of " + 2L * d.heads());
        require("--key-value-heads", d.keyValueHeads(), d.keyValueHeads() >= 1 && d.heads() % d.keyValueHeads() == 0,
                "a divisor of " + d.heads());
        require("--feed-forward-width", d.feedForwardWidth(), d.feedForwardWidth() >= 1, "1 or more");
        require("--vocabulary", d.vocabulary(), d.vocabulary() >= RandomModel.LEAST_VOCABULARY && d.vocabulary() <= 1 << 20,
                RandomModel.LEAST_VOCABULARY + " to " + (1 << 20));
        require("--context", d.context(), d.context() >= 1, "1 or more");
        return d;
    }

    private static int or(@Nullable Integer given, int otherwise) {
        return given == null ? otherwise : given;
    }

    private static void require(String option, int value, boolean right, String expected) {
        if (!right) {
            throw new IllegalArgumentException(option + ": expected " + expected + ", got " + value);
        }
    }
}
