package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class BenchCommandTest {
    /** A model without a tokenizer: none is needed. */
    private static final String MODEL = Samples.fixture("models/gqa3-tied").toString();

    @Test
    void jsonHasTheDocumentedNames() {
        JsonNode json = Run.puna("bench", "--model", MODEL, "--prompt-tokens", 16, "--generate-tokens", 4, "--threads", 1,
                "--repeat", 3, "--json").json();

        assertThat(json.fieldNames()).toIterable().contains("load_ms", "prefill", "decode", "backend");
        assertThat(json.get("backend").asText()).contains("1 thread");
        for (String phase : new String[] {"prefill", "decode"}) {
            JsonNode spread = json.get(phase);
            assertThat(spread.fieldNames()).toIterable().containsExactly("median", "min", "max");
            assertThat(spread.get("min").asDouble()).isPositive().isLessThanOrEqualTo(spread.get("median").asDouble());
            assertThat(spread.get("median").asDouble()).isLessThanOrEqualTo(spread.get("max").asDouble());
        }
        if (System.getProperty("os.name").equals("Linux")) {
            assertThat(json.get("peak_rss_bytes").asLong()).isGreaterThan(1 << 20);
        }
    }

    @Test
    void peopleGetATable() {
        Run run = Run.puna("bench", "--model", MODEL, "--prompt-tokens", 8, "--generate-tokens", 2, "--repeat", 1);

        assertThat(run.code()).isZero();
        assertThat(run.out()).contains("backend  cpu").containsPattern("prefill +8 +[0-9.]+").containsPattern("decode +2 +[0-9.]+");
        assertThat(run.err()).isEmpty();
    }

    @Test
    void theWholeContextFitsAndOneTokenMoreDoesNot() {
        assertThat(Run.puna("bench", "--model", MODEL, "--context", 12, "--prompt-tokens", 8, "--generate-tokens", 4, "--repeat", 1,
                "--json").json().get("decode").get("median").asDouble()).isPositive();

        Run run = Run.puna("bench", "--model", MODEL, "--context", 12, "--prompt-tokens", 8, "--generate-tokens", 5, "--repeat", 1);
        assertThat(run.code()).isEqualTo(ExitCode.USAGE);
        assertThat(run.err()).contains("at most 12 together");
    }

    /** Embeddings are often padded; the ids of the padding are valid tokens without text. */
    @Test
    void aModelMayHaveMoreTokensThanItsTokenizer(@TempDir Path folder) throws IOException {
        for (String file : new String[] {"config.json", "model.safetensors"}) {
            Files.copy(Path.of(MODEL, file), folder.resolve(file));
        }
        Files.writeString(folder.resolve("tokenizer.json"), """
                {"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
                 "decoder": {"type": "ByteLevel"},
                 "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}""");

        assertThat(Run.puna("bench", "--model", folder, "--prompt-tokens", 50, "--generate-tokens", 20, "--repeat", 1).code())
                .isZero();
        Run run = Run.puna("generate", "--model", folder, "--prompt-ids", "2,100,0", "--logit-bias", "1=1000", "--max-tokens", 2);
        assertThat(run.out().strip()).isEqualTo("ababb");
    }

    @Test
    void aMedianOfAnEvenNumberOfRunsLiesBetweenTheMiddleTwo() {
        assertThat(BenchCommand.Spread.of(new double[] {4, 1, 2, 8})).isEqualTo(new BenchCommand.Spread(3, 1, 8));
        assertThat(BenchCommand.Spread.of(new double[] {4, 1, 2})).isEqualTo(new BenchCommand.Spread(2, 1, 4));
    }
}
