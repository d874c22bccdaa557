package io.puna.examples;

import io.puna.format.Checkpoint;
import io.puna.model.LlamaConfig;
import io.puna.model.LlamaWeights;
import io.puna.model.LoraAdapter;
import io.puna.tensor.Device;
import io.puna.text.Tokenizer;
import io.puna.train.BatchSource;
import io.puna.train.ChatBatches;
import io.puna.train.ChatFormat;
import io.puna.train.ModelDirectory;
import io.puna.train.Parameters;
import io.puna.train.Trainer;
import io.puna.train.TrainingOptions;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.EnumSet;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code puna finetune}: teaches a model to answer, by a low-rank adapter or whole. */
@Command(name = "finetune", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, abbreviateSynopsis = true,
        sortOptions = false, usageHelpAutoWidth = true,
        description = {"Trains a model on conversations; only what the assistant says counts.",
            "Each line of FILE is an object with \"messages\" of \"role\" and \"content\", or with \"prompt\" and \"completion\".",
            "OUT becomes an adapter in PEFT's layout, or with --merge or --rank 0 a model directory."},
        footerHeading = "%nExamples:%n",
        footer = {
            "  puna finetune --from model --data chat.jsonl --out adapter --rank 8 --steps 200 --batch 4 --sequence 256 --learning-rate 1e-4",
            "  puna generate --model model --adapter adapter \"USER: Hello ASSISTANT:\""})
final class FinetuneCommand implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Option(names = "--from", paramLabel = "PATH", required = true, description = "The model: a GGUF file or a model directory.")
    private Path from;

    @Option(names = "--data", paramLabel = "FILE", required = true, description = "Conversations to train on.")
    private Path data;

    @Option(names = "--validation", paramLabel = "FILE", description = "Conversations to evaluate on.")
    private @Nullable Path validation;

    @Option(names = "--format", paramLabel = "NAME", defaultValue = "VICUNA",
            description = "How conversations become text: ${COMPLETION-CANDIDATES}. Default: ${DEFAULT-VALUE}.")
    private ChatFormat format;

    @Option(names = "--rank", paramLabel = "R", defaultValue = "8",
            description = "Of the adapter; 0 trains all weights. Default: ${DEFAULT-VALUE}.")
    private int rank;

    @Option(names = "--alpha", paramLabel = "X", defaultValue = "16",
            description = "The adapter is scaled by alpha / rank. Default: ${DEFAULT-VALUE}.")
    private double alpha;

    @Option(names = "--layers", paramLabel = "NAMES", split = ",", defaultValue = "Q_PROJ,V_PROJ", hideParamSyntax = true,
            description = "What the adapter changes, among ${COMPLETION-CANDIDATES}. Default: ${DEFAULT-VALUE}.")
    private Set<LoraAdapter.Target> layers;

    @Option(names = "--merge", description = "Write a model with the adapter merged into it, not the adapter alone.")
    private boolean merge;

    @Mixin
    private TrainingRun run;

    @Override
    public Integer call() throws IOException {
        TrainingOptions options = run.options();
        boolean whole = rank == 0 || merge;
        run.requireRightFolder(whole ? from : null);
        try (CtrlC ctrlC = run.ctrlC(); Checkpoint checkpoint = Checkpoint.open(from); Tokenizer tokenizer = Tokenizer.of(checkpoint);
                Device device = run.device()) {
            LlamaConfig config = LlamaConfig.of(checkpoint);
            BatchSource source = ChatBatches.read(data, tokenizer, format, run.sequence(), run.seed());
            Supplier<BatchSource> held = validation == null ? null
                    : fromItsBeginning(ChatBatches.read(validation, tokenizer, format, run.sequence(), run.seed()));
            try (Parameters weights = Parameters.copyOf(device, config, LlamaWeights.of(checkpoint, config));
                    LoraAdapter adapter = rank == 0 ? null
                            : LoraAdapter.random(device, weights.config(), rank, alpha, EnumSet.copyOf(layers), run.seed());
                    Trainer trainer = new Trainer(device, weights, adapter, source, options)) {
                run.restore(trainer);
                if (whole) {
                    ModelDirectory.prepare(run.out(), weights.config(), tokenizerFolder());
                }
                return run.run(spec.commandLine(), device, ctrlC, trainer, held, () -> {
                    if (whole) {
                        ModelDirectory.writeWeights(run.out(), weights);
                    } else {
                        adapter.save(run.out());
                    }
                });
            }
        }
    }

    /** A GGUF file's own tokenizer cannot be copied. */
    private Path tokenizerFolder() {
        if (Files.isDirectory(from)) {
            return from;
        }
        Path folder = from.toAbsolutePath().getParent();
        if (!Files.exists(folder.resolve("tokenizer.json")) && !Files.exists(folder.resolve("tokenizer.model"))) {
            throw new IllegalArgumentException("--from: expected a tokenizer.json or tokenizer.model beside " + from
                    + ", which a whole model needs; an adapter does not");
        }
        return folder;
    }

    private static Supplier<BatchSource> fromItsBeginning(BatchSource source) {
        String beginning = source.state();
        return () -> {
            source.restore(beginning);
            return source;
        };
    }
}
