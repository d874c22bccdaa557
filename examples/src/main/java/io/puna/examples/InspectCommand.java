package io.puna.examples;

import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import io.puna.ModelOptions;
import io.puna.format.Checkpoint;
import io.puna.format.CheckpointException;
import io.puna.format.GgufCheckpoint;
import io.puna.format.HuggingFaceCheckpoint;
import io.puna.format.UnsupportedModelException;
import io.puna.model.LlamaConfig;
import io.puna.model.LlamaForward;
import io.puna.model.LlamaWeights;
import io.puna.tensor.DType;
import io.puna.tensor.Shape;
import io.puna.tensor.Tensor;
import io.puna.text.Tokenizer;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code puna inspect}: what is in a model. Computes nothing, so it needs no kernels. */
@Command(name = "inspect", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, abbreviateSynopsis = true,
        sortOptions = false, usageHelpAutoWidth = true,
        description = {"Shows a model's configuration, tensors, tokenizer and the memory it needs.",
            "A GGUF file without weights shows what it has."},
        footerHeading = "%nExamples:%n",
        footer = {
            "  puna inspect --model model.gguf",
            "  puna inspect --model models/llama --json"})
final class InspectCommand implements Callable<Integer> {
    private static final SnakeCaseStrategy SNAKE_CASE = new SnakeCaseStrategy();

    @Spec
    private CommandSpec spec;

    @Mixin
    private ModelPath model;

    @Option(names = "--json", description = "Print one JSON object.")
    private boolean json;

    /** What --json prints. Numbers of bytes throughout. */
    record Report(String path, String format, @Nullable Map<String, Object> config, long parameterCount, long bytes,
            Map<DType, DTypeTotal> dtypes, @Nullable Memory memory, @Nullable TokenizerReport tokenizer,
            List<TensorReport> tensors) {
    }

    /** All tensors of one type. */
    record DTypeTotal(int tensors, long parameters, long bytes) {
        DTypeTotal plus(Tensor tensor) {
            return new DTypeTotal(tensors + 1, parameters + tensor.shape().elements(), bytes + tensor.byteSize());
        }
    }

    /** What running the model takes: weights stay in the file's map, a cache belongs to each session. */
    record Memory(long weights, long activations, Cache cacheF32, Cache cacheF16) {
    }

    /** Keys and values, by the token and for the model's whole context. */
    record Cache(long perToken, long fullContext) {
        static Cache of(LlamaConfig config, DType dtype) {
            long perToken = config.cacheBytesPerToken(dtype.blockBytes());
            return new Cache(perToken, perToken * config.contextLength());
        }
    }

    /** The vocabulary and its special tokens. */
    record TokenizerReport(String kind, int vocabularySize, @Nullable Integer bosTokenId, Set<Integer> eosTokenIds) {
    }

    /** One tensor. */
    record TensorReport(String name, DType dtype, long[] shape, long bytes) {
    }

    @Override
    public Integer call() throws IOException {
        try (Checkpoint checkpoint = Checkpoint.open(model.get())) {
            Report report = report(checkpoint);
            PrintWriter out = spec.commandLine().getOut();
            if (json) {
                out.println(Json.write(report));
            } else {
                print(out, report);
            }
            return ExitCode.OK;
        }
    }

    private static Report report(Checkpoint checkpoint) throws IOException {
        Map<String, Tensor> tensors = checkpoint.tensors();
        LlamaConfig config = tensors.isEmpty() ? configOfVocabulary(checkpoint) : LlamaConfig.of(checkpoint);
        long parameters = tensors.isEmpty() || config == null ? 0 : LlamaWeights.of(checkpoint, config).parameterCount();
        Map<DType, DTypeTotal> dtypes = new EnumMap<>(DType.class);
        for (Tensor tensor : tensors.values()) {
            dtypes.merge(tensor.dtype(), new DTypeTotal(0, 0, 0).plus(tensor), (total, one) -> total.plus(tensor));
        }
        return new Report(checkpoint.path().toString(), checkpoint.format(), config == null ? null : values(config), parameters,
                checkpoint.byteSize(), dtypes, config == null ? null : memory(checkpoint, config), tokenizer(checkpoint),
                tensors.entrySet().stream().map(e -> new TensorReport(e.getKey(), e.getValue().dtype(),
                        e.getValue().shape().dims(), e.getValue().byteSize())).toList());
    }

    /** {@return the configuration if it is whole, which without weights it need not be} */
    private static @Nullable LlamaConfig configOfVocabulary(Checkpoint checkpoint) throws UnsupportedModelException {
        try {
            return LlamaConfig.of(checkpoint);
        } catch (UnsupportedModelException e) {
            throw e;
        } catch (CheckpointException e) {
            return null;
        }
    }

    private static Map<String, Object> values(LlamaConfig config) {
        Map<String, Object> values = Json.MAPPER.convertValue(config, new TypeReference<LinkedHashMap<String, Object>>() { });
        Map<String, Object> scaling = new LinkedHashMap<>();
        scaling.put("type", SNAKE_CASE.translate(config.ropeScaling().getClass().getSimpleName()));
        scaling.putAll(Json.MAPPER.convertValue(config.ropeScaling(), new TypeReference<Map<String, Object>>() { }));
        values.put("rope_scaling", scaling);
        values.put("rope_layout", config.ropeLayout().name().toLowerCase(Locale.ROOT));
        return values;
    }

    private static Memory memory(Checkpoint checkpoint, LlamaConfig config) {
        int rows = Math.min(ModelOptions.defaults().stepTokens(), config.contextLength());
        return new Memory(checkpoint.byteSize(), LlamaForward.byteSize(config, rows), Cache.of(config, DType.F32),
                Cache.of(config, DType.F16));
    }

    private static @Nullable TokenizerReport tokenizer(Checkpoint checkpoint) throws IOException {
        Optional<Tokenizer> found = Tokenizer.find(checkpoint);
        if (found.isEmpty()) {
            return null;
        }
        try (Tokenizer tokenizer = found.get()) {
            OptionalInt bos = tokenizer.bosId();
            return new TokenizerReport(kind(checkpoint), tokenizer.vocabularySize(), bos.isPresent() ? bos.getAsInt() : null,
                    new TreeSet<>(tokenizer.eosIds()));
        }
    }

    /** {@return what a GGUF file calls its vocabulary, or the file that a directory has it in} */
    private static String kind(Checkpoint checkpoint) {
        return switch (checkpoint) {
            case GgufCheckpoint gguf -> "GGUF " + gguf.metadata().get("tokenizer.ggml.model");
            case HuggingFaceCheckpoint files ->
                Files.exists(files.directory().resolve("tokenizer.json")) ? "tokenizer.json" : "tokenizer.model";
        };
    }

    private static void print(PrintWriter out, Report report) {
        out.printf("%s%n%s, %,d parameters, %s%n", report.path, report.format, report.parameterCount, Text.bytes(report.bytes));
        if (report.config != null) {
            out.printf("%nconfiguration%n");
            report.config.forEach((name, value) -> out.printf("  %-20s %s%n", name, Text.plain(value)));
        }
        if (report.memory != null) {
            Memory memory = report.memory;
            out.printf("%nmemory%n  %-20s %s, mapped%n", "weights", Text.bytes(memory.weights));
            out.printf("  %-20s %s%n", "activations", Text.bytes(memory.activations));
            print(out, "cache f32", memory.cacheF32);
            print(out, "cache f16, bf16", memory.cacheF16);
        }
        if (report.tokenizer != null) {
            out.printf("%ntokenizer%n  %-20s %s%n", "kind", report.tokenizer.kind);
            out.printf("  %-20s %d%n", "vocabulary_size", report.tokenizer.vocabularySize);
            out.printf("  %-20s %s%n", "bos_token_id", report.tokenizer.bosTokenId == null ? "none" : report.tokenizer.bosTokenId);
            out.printf("  %-20s %s%n", "eos_token_ids", report.tokenizer.eosTokenIds);
        } else {
            out.printf("%ntokenizer%n  none%n");
        }
        if (report.tensors.isEmpty()) {
            out.printf("%nno tensors: this is a vocabulary alone%n");
            return;
        }
        out.printf("%ntypes%n");
        report.dtypes.forEach((dtype, total) -> out.printf("  %-6s %5d tensors %,17d elements %12s%n", dtype, total.tensors,
                total.parameters, Text.bytes(total.bytes)));
        out.printf("%ntensors%n");
        for (TensorReport tensor : report.tensors) {
            out.printf("  %-50s %-5s %-18s %12s%n", Text.visible(tensor.name), tensor.dtype,
                    Shape.of(tensor.shape), Text.bytes(tensor.bytes));
        }
    }

    private static void print(PrintWriter out, String name, Cache cache) {
        out.printf("  %-20s %s a token, %s for the whole context%n", name, Text.bytes(cache.perToken),
                Text.bytes(cache.fullContext));
    }
}
