package io.puna.examples;

import io.puna.model.LlamaConfig;
import io.puna.train.Recomputation;
import io.puna.train.TrainingPlan;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code puna plan}: what training would take. */
@Command(name = "plan", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, abbreviateSynopsis = true,
        sortOptions = false, usageHelpAutoWidth = true,
        description = "Tells the memory and the operations that training a model takes under each policy of recomputation.",
        footerHeading = "%nExamples:%n",
        footer = "  puna plan --config config.json --batch 4 --sequence 2048")
final class PlanCommand implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Option(names = "--config", paramLabel = "FILE", required = true, description = "A config.json of any size of model.")
    private Path config;

    @Option(names = "--batch", paramLabel = "B", required = true, description = "Sequences of a batch.")
    private int batch;

    @Option(names = "--sequence", paramLabel = "T", required = true, description = "Tokens of a sequence.")
    private int sequence;

    @Option(names = "--json", description = "Print one JSON object.")
    private boolean json;

    /** What --json prints. */
    record Report(long parameters, long batch, long sequence, Map<Recomputation, TrainingPlan> policies) {
    }

    @Override
    public Integer call() throws IOException {
        LlamaConfig model = LlamaConfig.read(config);
        Map<Recomputation, TrainingPlan> plans = new LinkedHashMap<>();
        for (Recomputation recomputation : Recomputation.values()) {
            plans.put(recomputation, TrainingPlan.of(model, recomputation, batch, sequence));
        }
        TrainingPlan any = plans.get(Recomputation.STORE_ALL);
        PrintWriter out = spec.commandLine().getOut();
        if (json) {
            out.println(Json.write(new Report(any.parameters(), batch, sequence, plans)));
            return ExitCode.OK;
        }
        out.printf(Locale.ROOT, "%,d parameters: weights %s, gradient %s, moments %s%n", any.parameters(), Text.bytes(any.weightBytes()),
                Text.bytes(any.gradientBytes()), Text.bytes(any.optimizerBytes()));
        out.printf(Locale.ROOT, "a batch of %d sequences of %d tokens: %s forwards, %s backwards%n%n", batch, sequence,
                operations(any.forwardOperations()), operations(any.backwardOperations()));
        out.printf("%-10s  %12s  %12s  %12s  %12s%n", "policy", "blocks keep", "all values", "everything", "repeated");
        plans.forEach((policy, plan) -> out.printf(Locale.ROOT, "%-10s  %12s  %12s  %12s  %11.1f%%%n", policy,
                Text.bytes(plan.keptBytes()), Text.bytes(plan.activationBytes()), Text.bytes(plan.bytes()),
                100 * plan.repeatedOperations() / (plan.forwardOperations() + plan.backwardOperations())));
        return ExitCode.OK;
    }

    private static String operations(double count) {
        return count >= 1e12 ? String.format(Locale.ROOT, "%,.1f TFLOP", count / 1e12)
                : String.format(Locale.ROOT, "%,.2f GFLOP", count / 1e9);
    }
}
