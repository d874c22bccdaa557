package io.puna.examples;

import io.puna.train.TokenDataset;
import io.puna.train.TokenDatasetWriter;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code puna data}: texts to tokens, for training. */
@Command(name = "data", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, abbreviateSynopsis = true,
        sortOptions = false, usageHelpAutoWidth = true,
        description = {"Makes a directory of tokens to train on, or adds a source to it.",
            "A .jsonl file has one JSON object a line, a document each. Any other file is plain text in UTF-8, its documents parted by"
                    + " <|endoftext|>. The files of one call are one source."},
        footerHeading = "%nExamples:%n",
        footer = {
            "  puna data --tokenizer tokenizer.model --out tokens stories.jsonl",
            "  puna data --tokenizer tokenizer.model --out tokens --weight 0.2 --name verse poems.txt"})
final class DataCommand implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Option(names = "--tokenizer", paramLabel = "PATH", required = true,
            description = "A tokenizer.json, a tokenizer.model or a directory with one; it is copied to DIR.")
    private Path tokenizer;

    @Option(names = "--out", paramLabel = "DIR", required = true, description = "The directory, which may have other sources already.")
    private Path out;

    @Option(names = "--name", paramLabel = "NAME", description = "Of the source. Default: that of the first file.")
    private @Nullable String name;

    @Option(names = "--weight", paramLabel = "W", defaultValue = "1",
            description = "The source's share of training, relative to others. Default: ${DEFAULT-VALUE}.")
    private double weight;

    @Option(names = "--held-out", paramLabel = "N", defaultValue = "100",
            description = "One document in N is held out for evaluation, 0 for none. Default: ${DEFAULT-VALUE}.")
    private int heldOut;

    @Option(names = "--field", paramLabel = "NAME", defaultValue = "text",
            description = "The member of a JSON object that has the text. Default: ${DEFAULT-VALUE}.")
    private String field;

    @Option(names = "--json", description = "Print one JSON object.")
    private boolean json;

    @Parameters(paramLabel = "FILE", arity = "1..*", description = "Texts.")
    private List<Path> files;

    /** What --json prints. */
    record Report(int vocabularySize, List<TokenDataset.Source> sources) {
    }

    @Override
    public Integer call() throws IOException {
        String source = name == null ? stem(files.getFirst()) : name;
        Progress progress = new Progress(spec.commandLine().getErr());
        try (CtrlC ctrlC = new CtrlC(); TokenDatasetWriter writer = TokenDatasetWriter.create(out, source, weight, heldOut, tokenizer)) {
            for (Path file : files) {
                if (file.toString().endsWith(".jsonl")) {
                    writer.addJsonLines(file, field, chars -> show(progress, file, writer));
                } else {
                    writer.addText(file, chars -> show(progress, file, writer));
                }
            }
            writer.finish();
        } finally {
            progress.clear();
        }
        try (TokenDataset dataset = TokenDataset.open(out)) {
            PrintWriter print = spec.commandLine().getOut();
            if (json) {
                print.println(Json.write(new Report(dataset.vocabularySize(), dataset.sources())));
            } else {
                print.printf(Locale.ROOT, "%s: %d tokens in the vocabulary%n", out, dataset.vocabularySize());
                for (TokenDataset.Source s : dataset.sources()) {
                    print.printf(Locale.ROOT, "%s: weight %s, %,d tokens in %,d documents, held out %,d in %,d%n", s.name(),
                            s.weight(), s.tokens(), s.documents(), s.validationTokens(), s.validationDocuments());
                }
            }
        }
        return ExitCode.OK;
    }

    private static void show(Progress progress, Path file, TokenDatasetWriter writer) {
        progress.show(String.format(Locale.ROOT, "%s: %,d tokens in %,d documents", file.getFileName(), writer.tokens(), writer.documents()));
    }

    private static String stem(Path file) {
        String full = String.valueOf(file.getFileName());
        int dot = full.lastIndexOf('.');
        return (dot > 0 ? full.substring(0, dot) : full).replaceAll("[^A-Za-z0-9_-]", "-");
    }
}
