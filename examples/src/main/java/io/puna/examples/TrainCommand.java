package io.puna.examples;

import io.puna.format.Checkpoint;
import io.puna.model.LlamaConfig;
import io.puna.model.LlamaWeights;
import io.puna.tensor.Device;
import io.puna.train.ModelDirectory;
import io.puna.train.Parameters;
import io.puna.train.TokenDataset;
import io.puna.train.Trainer;
import io.puna.train.TrainingOptions;
import java.io.IOException;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code puna train}: trains a model, from nothing or from one there is. */
@Command(name = "train", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, abbreviateSynopsis = true,
        sortOptions = false, usageHelpAutoWidth = true,
        description = {"Trains a model on tokens that puna data made.",
            "OUT becomes a model directory that every command reads, with the optimiser's state beside the weights. Ctrl-C saves;"
                    + " --resume goes on as if nothing had happened."},
        footerHeading = "%nExamples:%n",
        footer = {
            "  puna train --config config.json --data tokens --out model --steps 5000 --batch 16 --sequence 256 --learning-rate 1e-3"
                    + " --warmup 100",
            "  puna train --from stories.gguf --data tokens --out tuned --steps 200 --batch 4 --sequence 256 --learning-rate 1e-4"})
final class TrainCommand implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @ArgGroup(exclusive = true, multiplicity = "1")
    private Start start;

    /** Where the weights come from. */
    static final class Start {
        @Option(names = "--config", paramLabel = "FILE", description = "Start with random weights of the shape that a config.json gives.")
        private @Nullable Path config;

        @Option(names = "--from", paramLabel = "PATH", description = "Start with a model's weights: a GGUF file or a model directory.")
        private @Nullable Path from;
    }

    @Option(names = "--data", paramLabel = "DIR", required = true, description = "Tokens that puna data made.")
    private Path data;

    @Mixin
    private TrainingRun run;

    @Option(names = "--mask-boundaries",
            description = "Keep documents apart: no token sees one of another document, or is asked for its first.")
    private boolean maskBoundaries;

    @Override
    public Integer call() throws IOException {
        TrainingOptions options = run.options();
        run.requireRightFolder(start.from);
        try (CtrlC ctrlC = run.ctrlC(); TokenDataset dataset = TokenDataset.open(data);
                Device device = run.device(); Parameters weights = weights(device)) {
            if (dataset.vocabularySize() > weights.config().vocabularySize()) {
                throw new IllegalArgumentException("--data: expected tokens of a vocabulary of at most "
                        + weights.config().vocabularySize() + ", the model's, got " + dataset.vocabularySize());
            }
            try (Trainer trainer = new Trainer(device, weights, dataset.batches(run.seed(), maskBoundaries), options)) {
                run.restore(trainer);
                ModelDirectory.prepare(run.out(), weights.config(), data); // the data knows the tokenizer it was made by
                return run.run(spec.commandLine(), device, ctrlC, trainer,
                        dataset.hasValidation() ? () -> dataset.validation(maskBoundaries) : null,
                        () -> ModelDirectory.writeWeights(run.out(), trainer.weights()));
            }
        }
    }

    private Parameters weights(Device device) throws IOException {
        if (start.config != null) {
            return Parameters.random(device, LlamaConfig.read(start.config), run.seed());
        }
        try (Checkpoint checkpoint = Checkpoint.open(start.from)) {
            LlamaConfig config = LlamaConfig.of(checkpoint);
            return Parameters.copyOf(device, config, LlamaWeights.of(checkpoint, config));
        }
    }
}
