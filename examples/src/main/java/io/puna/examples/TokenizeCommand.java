package io.puna.examples;

import io.puna.text.Tokenizer;
import java.io.IOException;
import java.io.PrintWriter;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code puna tokenize}: the ids of a text. */
@Command(name = "tokenize", mixinStandardHelpOptions = true, versionProvider = Puna.Version.class, abbreviateSynopsis = true,
        sortOptions = false, usageHelpAutoWidth = true,
        description = {"Shows the tokens of a text.",
            "The model may also be a tokenizer alone: a tokenizer.json, a tokenizer.model or a GGUF file without weights."},
        footerHeading = "%nExamples:%n",
        footer = {
            "  puna tokenize --model model.gguf \"Once upon a time\"",
            "  printf 'Once upon a time' | puna tokenize --model tokenizer.json --no-special --json -"})
final class TokenizeCommand implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Mixin
    private ModelPath model;

    @Option(names = "--no-special", description = "Leave out what the model's tokenizer puts around a text, such as its beginning.")
    private boolean noSpecial;

    @Option(names = "--json", description = "Print one JSON object.")
    private boolean json;

    @Parameters(paramLabel = "TEXT", description = "The text; - reads it from standard input.")
    private String text;

    /** What --json prints. */
    record Report(int[] tokens) {
    }

    @Override
    public Integer call() throws IOException {
        try (Tokenizer tokenizer = Tokenizer.open(model.get())) {
            int[] ids = tokenizer.encode(StandardInput.resolve(text), !noSpecial);
            PrintWriter out = spec.commandLine().getOut();
            if (json) {
                out.println(Json.write(new Report(ids)));
            } else {
                for (int id : ids) {
                    out.printf("%7d  %s%n", id, Text.visible(tokenizer.piece(id)));
                }
            }
            return ExitCode.OK;
        }
    }
}
