package io.puna.examples;

import io.puna.LlamaModel;
import io.puna.format.Checkpoint;
import io.puna.format.GgufCheckpoint;
import io.puna.format.HuggingFaceCheckpoint;
import io.puna.generate.FinishReason;
import io.puna.generate.GenerationOptions;
import io.puna.generate.GenerationResult;
import io.puna.generate.Session;
import io.puna.generate.TokenLogprob;
import io.puna.generate.TokenStream;
import io.puna.tensor.Device;
import io.puna.text.Tokenizer;
import java.io.IOException;
import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code puna generate}: continues a text. */
@Command(name = "generate", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, abbreviateSynopsis = true,
        sortOptions = false, usageHelpAutoWidth = true,
        description = {"Continues a text.",
            "The text is printed as it is generated, after the prompt; --json prints one object at the end instead."},
        footerHeading = "%nExamples:%n",
        footer = {
            "  puna generate --model model.gguf --max-tokens 64 \"Once upon a time\"",
            "  puna generate --model model.gguf --temperature 0.8 --seed 7 \"The sea\"",
            "  puna generate --model model.gguf --prompt-ids 1,403,407 --logprobs 5 --json"})
final class GenerateCommand implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Mixin
    private ModelPath path;

    @Mixin
    private RunOptions run;

    @Option(names = "--prompt", paramLabel = "TEXT", description = "The text to continue; - reads it from standard input.")
    private @Nullable String prompt;

    @Option(names = "--prompt-ids", paramLabel = "IDS", split = ",", hideParamSyntax = true,
            description = "The tokens to continue, as in 1,403,407; a model without a tokenizer takes no other prompt.")
    private int @Nullable [] promptIds;

    @Parameters(paramLabel = "TEXT", arity = "0..1", description = "As --prompt.")
    private @Nullable String text;

    @Option(names = "--max-tokens", paramLabel = "N", defaultValue = "256",
            description = "Most tokens to generate. Default: ${DEFAULT-VALUE}.")
    private int maxTokens;

    @Option(names = "--temperature", paramLabel = "T", defaultValue = "0",
            description = "0 takes the most probable token each time; higher draws more freely. Default: ${DEFAULT-VALUE}.")
    private double temperature;

    @Option(names = "--top-k", paramLabel = "N", defaultValue = "0",
            description = "Draw from the N most probable tokens, 0 for all. Default: ${DEFAULT-VALUE}.")
    private int topK;

    @Option(names = "--top-p", paramLabel = "P", defaultValue = "1",
            description = "Draw from the most probable tokens that make up P together. Default: ${DEFAULT-VALUE}.")
    private double topP;

    @Option(names = "--min-p", paramLabel = "P", defaultValue = "0",
            description = "Draw from tokens at least P times as probable as the most probable. Default: ${DEFAULT-VALUE}.")
    private double minP;

    @Option(names = "--repetition-penalty", paramLabel = "X",
            description = "Divides the logits of tokens in prompt and text; 1 for none. Default: what the model's file recommends, or"
                    + " else 1.")
    private @Nullable Double repetitionPenalty;

    @Option(names = "--presence-penalty", paramLabel = "X", defaultValue = "0",
            description = "Taken from the logits of tokens in the text. Default: ${DEFAULT-VALUE}.")
    private double presencePenalty;

    @Option(names = "--frequency-penalty", paramLabel = "X", defaultValue = "0",
            description = "Taken from a token's logit for each time it is in the text. Default: ${DEFAULT-VALUE}.")
    private double frequencyPenalty;

    @Option(names = "--logit-bias", paramLabel = "ID=X",
            description = "Added to a token's logit; -Infinity forbids it. May be repeated.")
    private Map<Integer, Float> logitBias = new HashMap<>();

    @Option(names = "--seed", paramLabel = "N", defaultValue = "0",
            description = "Where draws start: the same seed gives the same text. Default: ${DEFAULT-VALUE}.")
    private long seed;

    @Option(names = "--stop", paramLabel = "TEXT", description = "Ends the text, and is left out of it. May be repeated.")
    private List<String> stop = new ArrayList<>();

    @Option(names = "--ignore-eos", description = "Go on after an end-of-text token.")
    private boolean ignoreEos;

    @Option(names = "--logprobs", paramLabel = "K", defaultValue = "-1",
            description = "Report each token's log-probability beside the K most probable ones'; with --json.")
    private int logprobs;

    @Option(names = "--json", description = "Print one JSON object.")
    private boolean json;

    /** What --json prints. */
    record Report(List<Integer> promptTokens, List<Integer> tokens, String text, String finishReason, double loadMs,
            double prefillMs, double decodeMs, double prefillTokensPerSecond, double decodeTokensPerSecond,
            @Nullable List<Logprob> logprobs) {
    }

    /** A token's log-probability; those in {@code top} have no top themselves. */
    record Logprob(int token, float logprob, @Nullable List<Logprob> top) {
    }

    @Override
    public Integer call() throws IOException {
        requireOnePrompt();
        Progress progress = new Progress(spec.commandLine().getErr());
        GenerationOptions options = options(progress);
        long start = System.nanoTime();
        try (CtrlC ctrlC = new CtrlC(); Device device = run.device(); LlamaModel model = run.open(path.get(), device, progress);
                Session session = model.newSession()) {
            String given = promptIds == null ? promptText() : null;
            GenerationOptions complete = withPenalty(options, model.checkpoint());
            TokenStream stream = given == null ? session.stream(promptIds, complete) : session.stream(given, complete);
            double loadMillis = Text.millis(System.nanoTime() - start);
            PrintWriter out = spec.commandLine().getOut();
            if (json) {
                stream.forEachRemaining(token -> { });
            } else {
                print(out, stream, given, model.findTokenizer().orElse(null));
            }
            GenerationResult result = stream.result();
            if (result.finishReason() == FinishReason.CANCELLED) {
                return ExitCode.CANCELLED;
            }
            if (json) {
                out.println(Json.write(report(result, loadMillis)));
            } else if (Console.errorIsTerminal()) {
                summarize(model, result, loadMillis);
            }
            return ExitCode.OK;
        }
    }

    private void requireOnePrompt() {
        long given = Stream.of(prompt, promptIds, text).filter(Objects::nonNull).count();
        if (given != 1) {
            throw new ParameterException(spec.commandLine(),
                    "Expected one of TEXT, --prompt TEXT and --prompt-ids IDS, got " + (given == 0 ? "none" : given));
        }
    }

    private String promptText() throws IOException {
        return StandardInput.resolve(Objects.requireNonNull(prompt == null ? text : prompt));
    }

    private GenerationOptions options(Progress progress) {
        return GenerationOptions.builder().maxTokens(maxTokens).temperature(temperature).topK(topK).topP(topP).minP(minP)
                .repetitionPenalty(repetitionPenalty == null ? 1 : repetitionPenalty).presencePenalty(presencePenalty)
                .frequencyPenalty(frequencyPenalty)
                .logitBias(logitBias).seed(seed).stop(stop).ignoreEos(ignoreEos).logprobs(logprobs)
                .promptListener(progress).build();
    }

    /** {@return the options with the repetition penalty that the model's makers recommend, where none was asked for} */
    private GenerationOptions withPenalty(GenerationOptions options, Checkpoint checkpoint) {
        Object recommended = switch (checkpoint) {
            case GgufCheckpoint gguf -> gguf.metadata().get("general.sampling.penalty_repeat");
            case HuggingFaceCheckpoint files -> files.generationConfig().get("repetition_penalty");
        };
        return repetitionPenalty == null && recommended instanceof Number penalty
                ? options.toBuilder().repetitionPenalty(penalty.doubleValue()).build() : options;
    }

    /** Prints the prompt, then each token's text as soon as it is there. */
    private void print(PrintWriter out, TokenStream stream, @Nullable String given, @Nullable Tokenizer tokenizer) {
        if (given != null) {
            out.print(given);
        } else {
            out.print(tokenizer == null ? Arrays.stream(promptIds).mapToObj(id -> id + " ").collect(Collectors.joining())
                    : tokenizer.decode(Arrays.stream(promptIds).filter(id -> id < tokenizer.vocabularySize()).toArray()));
        }
        out.flush();
        stream.forEachRemaining(token -> {
            out.print(tokenizer == null ? token.id() + " " : token.text());
            out.flush();
        });
        out.println();
        out.flush();
    }

    private Report report(GenerationResult result, double loadMillis) {
        return new Report(result.promptTokens(), result.tokens(), result.text(),
                result.finishReason().name().toLowerCase(Locale.ROOT), loadMillis,
                Text.millis(result.prefill().toNanos()), Text.millis(result.decode().toNanos()),
                Text.rate(result.prefillTokensPerSecond()), Text.rate(result.decodeTokensPerSecond()),
                logprobs < 0 ? null : result.logprobs().stream().map(GenerateCommand::logprob).toList());
    }

    private static Logprob logprob(TokenLogprob token) {
        return new Logprob(token.token(), token.logprob(),
                token.top().stream().map(top -> new Logprob(top.token(), top.logprob(), null)).toList());
    }

    private void summarize(LlamaModel model, GenerationResult result, double loadMillis) {
        spec.commandLine().getErr().printf(Locale.ROOT,
                "%d prompt tokens in %.0f ms (%.0f/s), %d tokens in %.0f ms (%.1f/s), loaded in %.0f ms, %s%n",
                result.promptTokens().size(), result.prefill().toNanos() / 1e6, result.prefillTokensPerSecond(),
                result.tokens().size(), result.decode().toNanos() / 1e6, result.decodeTokensPerSecond(), loadMillis,
                model.backend());
    }
}
