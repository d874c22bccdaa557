package io.puna.examples;

import io.puna.format.Checkpoint;
import io.puna.format.Safetensors;
import io.puna.model.LlamaConfig;
import io.puna.model.LlamaWeights;
import io.puna.tensor.Device;
import io.puna.train.LossGradient;
import io.puna.train.Parameters;
import io.puna.train.Recomputation;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code puna gradients}: what another framework's backward pass can be compared with. */
@Command(name = "gradients", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, abbreviateSynopsis = true,
        sortOptions = false, usageHelpAutoWidth = true,
        description = {"Computes the mean cross-entropy of each token given those before it, and its gradient by every weight.",
            "The gradient is written in F32 under Hugging Face's names and in its layout, whatever the model's file is."},
        footerHeading = "%nExamples:%n",
        footer = "  puna gradients --model model --ids 1,403,407,261 --out gradients.safetensors --json")
final class GradientsCommand implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Mixin
    private ModelPath model;

    @Option(names = "--ids", paramLabel = "IDS", required = true, split = ",", hideParamSyntax = true,
            description = "Tokens, two or more, as in 1,403,407.")
    private int[] ids;

    @Option(names = "--out", paramLabel = "FILE", description = "Where the gradient goes, as safetensors.")
    private @Nullable Path out;

    @Option(names = "--recompute", paramLabel = "POLICY", defaultValue = "LLAMA",
            description = "${COMPLETION-CANDIDATES}, which give the same bits. Default: ${DEFAULT-VALUE}.")
    private Recomputation recomputation;

    @Mixin
    private DeviceOptions device;

    @Option(names = "--json", description = "Print one JSON object.")
    private boolean json;

    /** What --json prints. */
    record Report(double loss) {
    }

    @Override
    public Integer call() throws IOException {
        int count = ids.length - 1;
        if (count < 1) {
            throw new IllegalArgumentException("--ids: expected two tokens or more, got " + ids.length);
        }
        try (Checkpoint checkpoint = Checkpoint.open(model.get()); Device computer = device.open()) {
            LlamaConfig config = LlamaConfig.of(checkpoint);
            try (Parameters weights = Parameters.copyOf(computer, config, LlamaWeights.of(checkpoint, config));
                    Parameters gradient = Parameters.zeros(computer, weights.config());
                    LossGradient step = new LossGradient(computer, weights.config(), recomputation, 1, count)) {
                double loss = step.accumulate(gradient, weights, Arrays.copyOf(ids, count), Arrays.copyOfRange(ids, 1, ids.length),
                        1f / count) / count;
                if (out != null) {
                    Safetensors.write(out, gradient.tensors(), Map.of("format", "pt"));
                }
                if (json) {
                    spec.commandLine().getOut().println(Json.write(new Report(loss)));
                } else {
                    spec.commandLine().getOut().printf(Locale.ROOT, "loss %.6f%n", loss);
                }
            }
        }
        return ExitCode.OK;
    }
}
