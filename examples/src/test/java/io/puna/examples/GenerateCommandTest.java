package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import io.puna.LlamaModel;
import io.puna.format.Checkpoint;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class GenerateCommandTest {
    private static final Path GGUF = Samples.fixture("gguf/f32.gguf");
    private static final Path WITHOUT_TOKENIZER = Samples.fixture("models/gqa3-tied");
    private static final String PROMPT = "Once upon a time";

    @Test
    void jsonHasTheReferencesTokensUnderTheDocumentedNames() {
        for (JsonNode prompt : Samples.json(Samples.fixture("gguf/f32.json")).get("prompts")) {
            JsonNode json = Run.puna("generate", "--model", GGUF, "--prompt-ids", Samples.ids(prompt.get("ids")), "--max-tokens",
                    prompt.get("greedy").size(), "--temperature", 0, "--ignore-eos", "--json").json();

            assertThat(json.fieldNames()).toIterable().containsExactly("prompt_tokens", "tokens", "text", "finish_reason", "load_ms",
                    "prefill_ms", "decode_ms", "prefill_tokens_per_second", "decode_tokens_per_second");
            assertThat(json.get("prompt_tokens")).isEqualTo(prompt.get("ids"));
            assertThat(json.get("tokens")).isEqualTo(prompt.get("greedy"));
            assertThat(json.get("finish_reason").asText()).isEqualTo("length");
            for (String figure : List.of("load_ms", "prefill_ms", "decode_ms", "prefill_tokens_per_second", "decode_tokens_per_second")) {
                assertThat(json.get(figure).asDouble()).as(figure).isPositive();
            }
        }
    }

    @Test
    void logprobsAreTheModelsOwnAsTheReferenceComputesThem() {
        JsonNode prompt = null;
        for (JsonNode each : Samples.json(WITHOUT_TOKENIZER.resolve("expected.json")).get("prompts")) {
            prompt = each.has("top_ids") ? each : prompt;
        }

        // A temperature changes what is drawn, never what is reported.
        JsonNode json = Run.puna("generate", "--model", WITHOUT_TOKENIZER, "--prompt-ids", Samples.ids(prompt.get("ids")),
                "--max-tokens", 1, "--ignore-eos", "--temperature", 9, "--logprobs", 5, "--json").json();

        JsonNode first = json.get("logprobs").get(0);
        assertThat(json.get("logprobs")).hasSize(1);
        assertThat(first.fieldNames()).toIterable().containsExactly("token", "logprob", "top");
        assertThat(first.get("token")).isEqualTo(json.get("tokens").get(0));
        assertThat(first.get("top")).hasSize(5);
        for (int i = 0; i < 5; i++) {
            JsonNode top = first.get("top").get(i);
            assertThat(top.fieldNames()).toIterable().containsExactly("token", "logprob");
            assertThat(top.get("token")).isEqualTo(prompt.get("top_ids").get(0).get(i));
            assertThat(top.get("logprob").asDouble()).isCloseTo(prompt.get("top_logprobs").get(0).get(i).asDouble(), within(1e-4));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"argument", "option", "standard input"})
    void aTextIsContinuedBehindItself(String way) {
        JsonNode json = Run.puna("generate", "--model", GGUF, "--max-tokens", 20, "--json", PROMPT).json();

        Run run = switch (way) {
            case "argument" -> Run.puna("generate", "--model", GGUF, "--max-tokens", 20, PROMPT);
            case "option" -> Run.puna("generate", "--model", GGUF, "--max-tokens", 20, "--prompt", PROMPT);
            default -> {
                InputStream terminal = System.in;
                System.setIn(new ByteArrayInputStream(PROMPT.getBytes(StandardCharsets.UTF_8)));
                try {
                    yield Run.puna("generate", "--model", GGUF, "--max-tokens", 20, "-");
                } finally {
                    System.setIn(terminal);
                }
            }
        };

        assertThat(run.out()).isEqualTo(PROMPT + json.get("text").asText() + System.lineSeparator());
        assertThat(json.get("text").asText()).isNotEmpty();
        assertThat(run.err()).as("no terminal, no summary").isEmpty();
        assertThat(run.code()).isZero();
    }

    @Test
    void withoutATokenizerIdsAreContinuedByIds() {
        JsonNode json = Run.puna("generate", "--model", WITHOUT_TOKENIZER, "--prompt-ids", "3,5", "--max-tokens", 4, "--ignore-eos",
                "--json").json();
        Run run = Run.puna("generate", "--model", WITHOUT_TOKENIZER, "--prompt-ids", "3,5", "--max-tokens", 4, "--ignore-eos");

        assertThat(run.out().strip()).isEqualTo("3 5 " + Samples.ids(json.get("tokens")).replace(',', ' '));
        assertThat(json.get("text").asText()).isEmpty();
    }

    @Test
    void aStopStringEndsTheTextBeforeIt() {
        String text = Run.puna("generate", "--model", GGUF, "--max-tokens", 20, "--ignore-eos", "--json", PROMPT).json().get("text").asText();
        String stop = text.substring(text.length() / 2, text.length() / 2 + 2);

        JsonNode json = Run.puna("generate", "--model", GGUF, "--max-tokens", 20, "--ignore-eos", "--json", "--stop", "never said", "--stop",
                stop, PROMPT).json();

        assertThat(json.get("finish_reason").asText()).isEqualTo("stop");
        assertThat(json.get("text").asText()).isEqualTo(text.substring(0, text.indexOf(stop)));
    }

    @Test
    void biasMakesOrForbidsATokenAndEndOfTextEnds() {
        JsonNode tokenizer = Run.puna("inspect", "--model", GGUF, "--json").json().get("tokenizer");
        int eos = tokenizer.get("eos_token_ids").get(0).asInt();

        JsonNode ended = Run.puna("generate", "--model", GGUF, "--logit-bias", eos + "=1000", "--json", PROMPT).json();
        assertThat(ended.get("finish_reason").asText()).isEqualTo("eos");
        assertThat(Samples.ints(ended.get("tokens"))).containsExactly(eos);
        JsonNode ignored = Run.puna("generate", "--model", GGUF, "--logit-bias", eos + "=1000", "--ignore-eos", "--max-tokens", 3, "--json",
                PROMPT).json();
        assertThat(ignored.get("finish_reason").asText()).isEqualTo("length");
        assertThat(Samples.ints(ignored.get("tokens"))).containsExactly(eos, eos, eos);

        JsonNode first = Run.puna("generate", "--model", GGUF, "--max-tokens", 1, "--json", PROMPT).json().get("tokens").get(0);
        JsonNode other = Run.puna("generate", "--model", GGUF, "--max-tokens", 1, "--json", "--logit-bias", first + "=-Infinity", PROMPT)
                .json().get("tokens").get(0);
        assertThat(other).isNotEqualTo(first);
    }

    @Test
    void everySamplingOptionTakesEffect() {
        List<Object> plain = List.of("generate", "--model", GGUF, "--max-tokens", 40, "--ignore-eos", "--json", PROMPT, "--temperature", 1.5);
        JsonNode drawn = tokens(plain);
        assertThat(tokens(plain, "--threads", 1)).as("whatever the threads").isEqualTo(drawn);
        assertThat(tokens(plain, "--seed", 1)).isNotEqualTo(drawn);
        assertThat(tokens(plain, "--top-k", 1)).isNotEqualTo(drawn);
        assertThat(tokens(plain, "--top-p", 0.1)).isNotEqualTo(drawn);
        assertThat(tokens(plain, "--min-p", 0.9)).isNotEqualTo(drawn);
        assertThat(tokens(plain, "--repetition-penalty", 4)).isNotEqualTo(drawn);
        assertThat(tokens(plain, "--presence-penalty", 9)).isNotEqualTo(drawn);
        assertThat(tokens(plain, "--frequency-penalty", 9)).isNotEqualTo(drawn);
    }

    @Test
    void theModelsOwnRepetitionPenaltyHoldsUnlessAnotherIsGiven(@TempDir Path folder) throws IOException {
        Path gguf = LlamaModel.bundledFile();
        Object inFile;
        try (Checkpoint checkpoint = Checkpoint.open(gguf)) {
            inFile = checkpoint.metadata().get("general.sampling.penalty_repeat");
        }
        Path files = Files.createDirectory(folder.resolve("model"));
        try (DirectoryStream<Path> each = Files.newDirectoryStream(WITHOUT_TOKENIZER)) {
            for (Path file : each) {
                Files.copy(file, files.resolve(file.getFileName()));
            }
        }
        Files.writeString(files.resolve("generation_config.json"), "{\"repetition_penalty\": 3}");

        penaltyHolds(inFile, List.of("generate", "--model", gguf, "--max-tokens", 80, "--json", PROMPT));
        penaltyHolds(3, List.of("generate", "--model", files, "--max-tokens", 20, "--ignore-eos", "--json", "--prompt-ids", "3,5"));
    }

    private static void penaltyHolds(Object penalty, List<Object> plain) {
        JsonNode asTheFileSays = tokens(plain);
        assertThat(tokens(plain, "--repetition-penalty", penalty)).isEqualTo(asTheFileSays);
        assertThat(tokens(plain, "--repetition-penalty", 1)).isNotEqualTo(asTheFileSays);
    }

    private static JsonNode tokens(List<Object> plain, Object... more) {
        List<Object> args = new ArrayList<>(plain);
        args.addAll(List.of(more));
        return Run.puna(args.toArray()).json().get("tokens");
    }

    @ParameterizedTest
    @ValueSource(strings = {"F16", "bf16"})
    void aShorterContextEndsTheText(String cacheType) {
        JsonNode json = Run.puna("generate", "--model", GGUF, "--context", 8, "--cache-type", cacheType, "--prompt-ids", "1,2,3",
                "--ignore-eos", "--json").json();

        // Eight places: the three of the prompt and five of the text, and the token after them.
        assertThat(json.get("tokens")).hasSize(6);
        assertThat(json.get("finish_reason").asText()).isEqualTo("length");
    }

    @ParameterizedTest
    @ValueSource(strings = {"gguf/stories260K.gguf", "gguf/stories260K-F16.gguf", "hf/stories260K"})
    void realModelsContinueAsTheReference(String model) {
        Path path = Samples.data(model);
        String reference = model.contains("F16") ? "reference/stories260K-F16.json" : "reference/stories260K.json";
        for (JsonNode prompt : Samples.json(Samples.data(reference)).get("prompts")) {
            JsonNode json = Run.puna("generate", "--model", path, "--max-tokens", 64, "--ignore-eos", "--json", "--prompt",
                    prompt.get("prompt").asText()).json();
            assertThat(json.get("prompt_tokens")).isEqualTo(prompt.get("prompt_ids"));
            assertThat(json.get("tokens")).isEqualTo(prompt.get("greedy_ids"));
        }
    }
}
