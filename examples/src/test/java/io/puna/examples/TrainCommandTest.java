package io.puna.examples;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import io.puna.LlamaModel;
import io.puna.format.Safetensors;
import io.puna.tensor.Tensor;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import java.util.stream.DoubleStream;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** {@code puna train}, {@code gradients} and {@code plan}, on a text of a few words. */
class TrainCommandTest {
    private static final String CONFIG = """
            {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": %d, "hidden_size": 16,
             "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64,
             "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 0}
            """;
    private static final List<String> WORDS = List.of("the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran");

    @TempDir
    private static Path folder;
    private static Path tokens;
    private static Path config;

    @BeforeAll
    static void makeTokens() throws IOException {
        SplittableRandom random = new SplittableRandom(1);
        StringBuilder text = new StringBuilder();
        for (int document = 0; document < 200; document++) {
            for (int word = 0; word < 40; word++) {
                text.append(WORDS.get(random.nextInt(WORDS.size()))).append(word % 9 == 8 ? ".\n" : " ");
            }
            text.append("<|endoftext|>\n");
        }
        Path file = Files.writeString(folder.resolve("words.txt"), text);
        tokens = folder.resolve("tokens");
        Path tokenizer = Files.copy(Samples.fixture("tokenizers/bytelevel-whole.json"), folder.resolve("tokenizer.json"));
        Run run = Run.puna("data", "--tokenizer", tokenizer, "--out", tokens, "--held-out", 20,
                "--json", file);
        assertThat(run.code()).as(run.err()).isZero();
        config = Files.writeString(folder.resolve("config.json"), CONFIG.formatted(run.json().get("vocabulary_size").intValue()));
    }

    private static List<Object> train(Path out, long steps, Object... more) {
        List<Object> arguments = new ArrayList<>(List.of("train", "--config", config, "--data", tokens, "--out", out, "--steps", steps,
                "--batch", 2, "--sequence", 32, "--learning-rate", "1e-2", "--schedule", "constant", "--threads", 2));
        arguments.addAll(List.of(more));
        return arguments;
    }

    private static Run puna(List<Object> arguments) {
        return Run.puna(arguments.toArray());
    }

    /** Lets CUDA devices be the emulated one of native/test/cuda, whose numbers are a GPU's. */
    private static void emulateADevice() {
        Path library = Samples.repository().resolve("bindings/target/native/libpuna_cuda_emulated.so");
        Assumptions.assumeTrue(Files.exists(library), "the native build found no C++ compiler");
        System.setProperty("puna.cuda.library", library.toString());
    }

    @Test
    void trainsOnADeviceAsOnTheCpu() throws IOException {
        emulateADevice();
        try {
            double[] losses = losses(List.of());
            assertThat(losses(List.of("--device", "cuda:0"))).containsExactly(losses, within(1e-4));
            assertThat(losses(List.of("--device", "cuda:0", "--precision", "bf16"))).containsExactly(losses, within(0.05))
                    .isNotEqualTo(losses);
            Path model = on(List.of("--device", "cuda:0"));
            List<Object> command = List.of("gradients", "--model", model, "--ids", "1,2,3,4,5,6,7,8,9,10,11,12", "--json");
            double expected = puna(command).json().get("loss").doubleValue();
            List<Object> there = new ArrayList<>(command);
            there.addAll(List.of("--device", "cuda:0", "--out", folder.resolve("device.safetensors")));
            assertThat(puna(there).json().get("loss").doubleValue()).isCloseTo(expected, within(1e-5));
            assertThat(folder.resolve("device.safetensors")).isNotEmptyFile();
        } finally {
            System.clearProperty("puna.cuda.library");
        }
    }

    /** Which a CPU that has no instructions for it takes for F32. */
    @Test
    void trainsInBf16OnTheCpu() throws IOException {
        assertThat(losses(List.of("--precision", "bf16"))).containsExactly(losses(List.of("--precision", "f32")), within(0.05));
    }

    /** {@return the losses of a run that was stopped and taken up, and its evaluation} */
    private static double[] losses(List<Object> device) throws IOException {
        Path out = on(device);
        Path log = out.resolveSibling(out.getFileName() + ".jsonl");
        for (int run = 0; run < 2; run++) {
            List<Object> arguments = train(out, 4, "--log", log, "--evaluation-batches", 1);
            arguments.addAll(device);
            if (run == 1) {
                arguments.set(arguments.indexOf("--steps") + 1, 6L);
                arguments.add("--resume");
            }
            Run done = puna(arguments);
            assertThat(done.code()).as(done.err()).isZero();
        }
        return losses(log);
    }

    private static Path on(List<Object> device) {
        return folder.resolve("on" + String.join("-", device.stream().map(Object::toString).toList()).replace(':', '-'));
    }

    private static double[] losses(Path log) throws IOException {
        List<JsonNode> lines = Files.readAllLines(log).stream().map(Samples::json).toList();
        return DoubleStream.concat(lines.stream().mapToDouble(line -> line.get("loss").doubleValue()),
                DoubleStream.of(lines.getLast().get("held_out_loss").doubleValue())).toArray();
    }

    @Test
    void trainsAModelThatGeneratesAndShowsWhatItDid() throws IOException {
        Path out = folder.resolve("model");
        Path log = folder.resolve("log.jsonl");

        Run run = puna(train(out, 40, "--log", log, "--evaluate-every", 20, "--warmup", 5));

        assertThat(run.code()).as(run.err()).isZero();
        assertThat(run.out()).contains("parameters", "held out", "step 40", "tokens/s");
        List<JsonNode> lines = Files.readAllLines(log).stream().map(Samples::json).toList();
        assertThat(lines).hasSize(40);
        assertThat(lines.getLast().get("loss").doubleValue()).isLessThan(0.7 * lines.getFirst().get("loss").doubleValue());
        assertThat(lines.get(19).has("held_out_loss")).isTrue();
        assertThat(lines.get(18).has("held_out_loss")).isFalse();
        assertThat(out.resolve("loss.svg")).content().startsWith("<svg").contains("polyline", "circle").endsWith("</svg>\n");
        assertThat(Run.puna("generate", "--model", out, "--max-tokens", 8, "--json", "the cat").json().get("tokens")).hasSize(8);

        Run again = puna(train(out, 50));
        assertThat(again.code()).isEqualTo(ExitCode.USAGE);
        assertThat(again.err()).contains("holds a run already", "--resume");
        Run more = Run.puna("train", "--from", out, "--data", tokens, "--out", folder.resolve("more"), "--steps", 2, "--batch", 1,
                "--sequence", 16, "--learning-rate", "1e-3");
        assertThat(more.code()).as(more.err()).isZero();
    }

    /** In training and in the evaluation, whose weights are the same: the rate leaves them as they were. */
    @Test
    void documentsAreKeptApartWhereAsked() throws IOException {
        List<double[]> losses = new ArrayList<>();
        for (List<Object> more : List.<List<Object>>of(List.of(), List.of("--mask-boundaries"))) {
            Path log = folder.resolve("apart" + more.size() + ".jsonl");
            List<Object> arguments = with(train(folder.resolve("apart" + more.size()), 8, "--log", log), more.toArray());
            arguments.set(arguments.indexOf("--learning-rate") + 1, "1e-30");
            Run run = puna(arguments);
            assertThat(run.code()).as(run.err()).isZero();
            losses.add(losses(log));
        }
        assertThat(Arrays.copyOf(losses.get(1), 8)).isNotEqualTo(Arrays.copyOf(losses.get(0), 8));
        assertThat(losses.get(1)[8]).isNotEqualTo(losses.get(0)[8]);
    }

    @Test
    void aResumedRunHasTheBitsOfOneThatNeverStopped() throws IOException {
        Path whole = folder.resolve("whole");
        Path parts = folder.resolve("parts");
        assertThat(puna(train(whole, 12)).code()).isZero();

        assertThat(puna(train(parts, 5)).code()).isZero();
        assertThat(puna(train(parts, 9, "--resume")).code()).isZero();
        assertThat(puna(train(parts, 12, "--resume", "--recompute", "full")).code()).isZero();

        assertThat(parts.resolve("training.safetensors")).hasSameBinaryContentAs(whole.resolve("training.safetensors"));
        assertThat(parts.resolve("model.safetensors")).hasSameBinaryContentAs(whole.resolve("model.safetensors"));
        String written = Files.readString(parts.resolve("config.json"));
        Path wider = Files.writeString(folder.resolve("wider.json"), Files.readString(config).replace("\"intermediate_size\": 24",
                "\"intermediate_size\": 28"));
        Run other = Run.puna("train", "--config", wider, "--data", tokens, "--out", parts, "--steps", 20, "--batch", 2, "--sequence", 32,
                "--learning-rate", "1e-2", "--resume");
        assertThat(other.code()).isEqualTo(ExitCode.BAD_DATA);
        assertThat(other.err()).contains("by the model");
        assertThat(parts.resolve("config.json")).hasContent(written);
        Run none = puna(train(folder.resolve("none"), 3, "--resume"));
        assertThat(none.code()).isEqualTo(ExitCode.USAGE);
        assertThat(none.err()).contains("expected a run in");
    }

    @Test
    void aRunThatIsDoneIsOnlyMadeWhole() throws IOException {
        Path out = folder.resolve("done");
        assertThat(puna(train(out, 4)).code()).isZero();
        byte[] model = Files.readAllBytes(out.resolve("model.safetensors"));
        String picture = Files.readString(out.resolve("loss.svg"));
        Files.delete(out.resolve("model.safetensors")); // killed between the state and the model

        Run again = puna(train(out, 4, "--resume"));

        assertThat(again.code()).as(again.err()).isZero();
        assertThat(again.out()).contains("step 4, none left to do").doesNotContain("NaN");
        assertThat(out.resolve("model.safetensors")).hasBinaryContent(model);
        assertThat(out.resolve("loss.svg")).hasContent(picture);
    }

    /** SIGTERM takes the way of Ctrl-C, which a test that runs in the background may ignore. Most of its time the run evaluates. */
    @Test
    @EnabledOnOs({OS.LINUX, OS.MAC})
    void ctrlCSavesTheLastStepWhateverItComesUpon() throws Exception {
        Path out = folder.resolve("stopped");
        Path log = folder.resolve("stopped.jsonl");
        List<Object> command = new ArrayList<>(List.of(Run.java(), "-XX:+UseSerialGC", "--enable-native-access=ALL-UNNAMED", "-cp",
                System.getProperty("java.class.path"), Puna.class.getName()));
        command.addAll(train(out, 1_000_000, "--save-every", 0, "--evaluate-every", 1, "--evaluation-batches", 400, "--log", log));
        Process process = Run.start(Map.of(), command.toArray());
        String said;
        try {
            long patience = System.nanoTime() + TimeUnit.SECONDS.toNanos(300);
            while (!(Files.exists(log) && Files.size(log) > 0) && process.isAlive() && System.nanoTime() < patience) {
                Thread.sleep(5);
            }
            Thread.sleep(20);

            assertThat(new ProcessBuilder("kill", "-TERM", String.valueOf(process.pid())).start().waitFor()).isZero();

            assertThat(process.waitFor(300, TimeUnit.SECONDS)).isTrue();
            said = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        } finally {
            process.destroyForcibly();
        }
        assertThat(process.exitValue()).isEqualTo(143); // Java's own, of SIGTERM
        List<String> lines = Files.readAllLines(log);
        assertThat(saved(out)).isEqualTo(Samples.json(lines.getLast()).get("step").longValue());
        assertThat(said).contains(out + ": step " + saved(out));
        assertThat(out.resolve("model.safetensors")).exists();
        assertThat(out.resolve("loss.svg")).exists();
    }

    /** As {@code head} does once it has its line, long before the last of so many evaluations is told. */
    @Test
    @EnabledOnOs({OS.LINUX, OS.MAC})
    void aReaderThatLeavesEndsNoRun() throws Exception {
        Path out = folder.resolve("unheard");

        Run run = shell("\"$@\" | head -n 1", train(out, 300, "--evaluate-every", 1, "--evaluation-batches", 1, "--save-every", 0));

        assertThat(run.code()).as(run.err()).isZero();
        assertThat(run.err()).isEmpty();
        assertThat(run.out().lines()).singleElement().asString().contains("parameters");
        assertThat(saved(out)).isEqualTo(300);
        assertThat(out.resolve("model.safetensors")).exists();
        assertThat(out.resolve("loss.svg")).exists();
    }

    /** Nor does an output that cannot be written, but that is a failure, and said. */
    @Test
    @EnabledOnOs(OS.LINUX)
    void anOutputThatIsFullIsSaidAtTheEnd() throws Exception {
        Path out = folder.resolve("unwritten");

        Run run = shell("\"$@\" >/dev/full", train(out, 3));

        assertThat(run.code()).isEqualTo(ExitCode.UNEXPECTED);
        assertThat(run.err().lines()).singleElement().asString().startsWith("puna: standard output: ");
        assertThat(saved(out)).isEqualTo(3);
        assertThat(out.resolve("model.safetensors")).exists();
    }

    /** Runs the command line in a process of its own, as {@code "$@"} of a line for the shell. */
    private static Run shell(String line, List<Object> arguments) throws IOException, InterruptedException {
        List<Object> command = new ArrayList<>(List.of("bash", "-c", "set -o pipefail; " + line, "bash", Run.java(), "-XX:-UsePerfData",
                "--enable-native-access=ALL-UNNAMED", "-cp", System.getProperty("java.class.path"), Puna.class.getName()));
        command.addAll(arguments);
        return Run.process(Map.of(), command.toArray());
    }

    @Test
    void whatCannotBeIsRefusedBeforeTheFirstStep() throws IOException {
        Path out = folder.resolve("refused");
        for (List<Object> wrong : List.<List<Object>>of(List.of("--evaluation-batches", 0), List.of("--evaluate-every", -1),
                List.of("--save-every", -1))) {
            Run run = puna(with(train(out, 2), wrong.toArray()));
            assertThat(run.code()).isEqualTo(ExitCode.USAGE);
            assertThat(run.err()).contains("--evaluate-every, --evaluation-batches, --save-every: expected at least 0, 1 and 0");
        }
        Path model = folder.resolve("begin");
        assertThat(puna(train(model, 2)).code()).isZero();
        Files.delete(model.resolve("training.safetensors"));
        byte[] weights = Files.readAllBytes(model.resolve("model.safetensors"));
        Run over = Run.puna("train", "--from", model, "--data", tokens, "--out", model, "--steps", 1, "--batch", 1, "--sequence", 8,
                "--learning-rate", "1e-3");
        assertThat(over.code()).isEqualTo(ExitCode.USAGE);
        assertThat(over.err()).contains("--out: expected another directory than that of the model to begin with");
        assertThat(model.resolve("model.safetensors")).hasBinaryContent(weights);
        assertThat(out).doesNotExist();
    }

    /** As often as {@code -Dpuna.kills} says, whatever it does at that instant. */
    @Test
    @EnabledOnOs({OS.LINUX, OS.MAC})
    void aRunThatIsKilledGoesOnFromWhatItSavedLast() throws Exception {
        int kills = Integer.getInteger("puna.kills", 3);
        Path out = folder.resolve("killed");
        SplittableRandom random = new SplittableRandom();
        long step = 0;
        for (int i = 0; i < kills; i++) {
            List<Object> command = new ArrayList<>(List.of(Run.java(), "-XX:+UseSerialGC", "--enable-native-access=ALL-UNNAMED", "-cp",
                    System.getProperty("java.class.path"), Puna.class.getName()));
            command.addAll(train(out, 1_000_000, "--save-every", 1));
            if (i > 0) {
                command.add("--resume");
            }
            Process process = Run.start(Map.of(), command.toArray());
            long before = step;
            long patience = System.nanoTime() + TimeUnit.SECONDS.toNanos(300);
            while (saved(out) <= before && process.isAlive() && System.nanoTime() < patience) {
                Thread.sleep(5);
            }
            TimeUnit.MICROSECONDS.sleep(random.nextInt(50_000));
            assertThat(process.isAlive()).isTrue();
            process.destroyForcibly().waitFor();
            step = saved(out);
            assertThat(step).isGreaterThan(before);
            try (Safetensors model = Safetensors.open(out.resolve("model.safetensors"))) {
                assertThat(model.tensors()).isNotEmpty();
            }
        }
        Path whole = folder.resolve("unharmed");
        assertThat(puna(train(whole, step)).code()).isZero();
        assertThat(out.resolve("training.safetensors")).hasSameBinaryContentAs(whole.resolve("training.safetensors"));
    }

    private static long saved(Path out) throws IOException {
        Path file = out.resolve("training.safetensors");
        if (!Files.exists(file)) {
            return 0;
        }
        try (Safetensors state = Safetensors.open(file)) {
            return Long.parseLong(state.metadata().get("steps"));
        }
    }

    /** A limit on the size of files stands for a full disk. */
    @Test
    @EnabledOnOs(OS.LINUX)
    void aFullDiskIsSaidAndTheLastStateKept() throws Exception {
        Path out = folder.resolve("full");
        assertThat(puna(train(out, 3)).code()).isZero();
        byte[] state = Files.readAllBytes(out.resolve("training.safetensors"));
        byte[] model = Files.readAllBytes(out.resolve("model.safetensors"));

        Run run = shell("ulimit -f " + state.length / 2 / 1024 + " && exec \"$@\"", train(out, 5, "--resume"));

        assertThat(run.code()).isEqualTo(ExitCode.UNEXPECTED);
        assertThat(run.err()).contains("training.safetensors: could not be written, and is as it was before");
        assertThat(Files.readAllBytes(out.resolve("training.safetensors"))).isEqualTo(state);
        assertThat(Files.readAllBytes(out.resolve("model.safetensors"))).isEqualTo(model);
        assertThat(out.resolve("training.safetensors.part")).doesNotExist();
    }

    @Test
    void aFileThatCannotBeWrittenIsNamed() throws IOException {
        Path out = folder.resolve("blocked");
        Files.createDirectories(out.resolve("config.json.part"));

        Run run = puna(train(out, 1));

        assertThat(run.code()).isEqualTo(ExitCode.UNEXPECTED);
        assertThat(run.err()).contains("config.json: could not be written, and is as it was before");
        assertThat(out.resolve("config.json")).doesNotExist();
    }

    @Test
    void finetunesAnAdapterOrTheWholeModel() throws IOException {
        Path model = folder.resolve("chatty");
        assertThat(puna(train(model, 10)).code()).isZero();
        Path chats = Files.writeString(folder.resolve("chats.jsonl"), """
                {"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on the mat"}]}
                {"prompt": "the dog", "completion": "ran"}
                """);
        Path adapter = folder.resolve("adapter");
        Path log = folder.resolve("chats.log");
        List<Object> common = List.of("finetune", "--from", model, "--data", chats, "--validation", chats, "--steps", 60, "--batch", 2,
                "--sequence", 48, "--learning-rate", "2e-2");

        Run run = puna(with(common, "--out", adapter, "--rank", 4, "--layers", "q_proj,v_proj,up_proj,down_proj", "--log", log));

        assertThat(run.code()).as(run.err()).isZero();
        List<JsonNode> lines = Files.readAllLines(log).stream().map(Samples::json).toList();
        assertThat(lines.getLast().get("loss").doubleValue()).isLessThan(0.9 * lines.getFirst().get("loss").doubleValue());
        assertThat(adapter).isDirectoryContaining("glob:**adapter_config.json").isDirectoryNotContaining("glob:**model.safetensors.index.json");
        JsonNode adapted = Run.puna("generate", "--model", model, "--adapter", adapter, "--max-tokens", 6, "--json", "the cat").json();

        Path merged = folder.resolve("merged");
        assertThat(puna(with(common, "--out", merged, "--rank", 4, "--layers", "q_proj,v_proj,up_proj,down_proj", "--merge")).code()).isZero();
        assertThat(Run.puna("generate", "--model", merged, "--max-tokens", 6, "--json", "the cat").json().get("tokens"))
                .isEqualTo(adapted.get("tokens"));
        assertThat(puna(with(common, "--out", folder.resolve("whole-chat"), "--rank", 0)).code()).isZero();
        Run unheld = Run.puna("finetune", "--from", model, "--data", chats, "--validation", folder.resolve("none.jsonl"), "--out",
                folder.resolve("unheld"), "--steps", 2, "--batch", 1, "--sequence", 48, "--learning-rate", "1e-3");
        assertThat(unheld.code()).isEqualTo(ExitCode.NO_INPUT);
        assertThat(folder.resolve("unheld")).doesNotExist(); // said before the first step
        Run bare = Run.puna("finetune", "--from", LlamaModel.bundledFile(), "--data", chats, "--out", folder.resolve("bare"), "--steps", 1,
                "--batch", 1, "--sequence", 48, "--learning-rate", "1e-3", "--merge");
        assertThat(bare.code()).isEqualTo(ExitCode.USAGE);
        assertThat(bare.err()).contains("--from: expected a tokenizer.json or tokenizer.model beside");
        Files.writeString(chats, "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n");
        Run silent = puna(with(common, "--out", folder.resolve("silent")));
        assertThat(silent.code()).isEqualTo(ExitCode.BAD_DATA);
        assertThat(silent.err()).contains("an assistant speaks within 48 tokens");
    }

    /** An adapter, one that is merged, and all weights, each run stopped and taken up: what is written is what the CPU writes. */
    @ParameterizedTest
    @CsvSource({"--rank=4, adapter_model.safetensors", "--merge, model.safetensors", "--rank=0, model.safetensors"})
    void finetunesOnADeviceAsOnTheCpu(String option, String file) throws IOException {
        Path model = folder.resolve("begun" + option);
        assertThat(puna(train(model, 2)).code()).isZero();
        Path chats = Files.writeString(folder.resolve("few.jsonl"), """
                {"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on the mat"}]}
                {"prompt": "the dog", "completion": "ran"}
                """);
        List<double[]> losses = new ArrayList<>();
        List<Map<String, float[]>> written = new ArrayList<>();
        emulateADevice();
        try {
            for (String device : List.of("cpu", "cuda:0")) {
                Path out = folder.resolve(device + option);
                Path log = folder.resolve(device + option + ".jsonl");
                List<Object> command = List.of("finetune", "--from", model, "--data", chats, "--validation", chats, option,
                        "--layers", "q_proj,v_proj,o_proj,down_proj", "--batch", 2, "--sequence", 48, "--learning-rate", "1e-2",
                        "--evaluation-batches", 1, "--device", device, "--out", out, "--log", log);
                assertThat(puna(with(command, "--steps", 4)).code()).isZero();
                Run resumed = puna(with(command, "--steps", 6, "--resume"));
                assertThat(resumed.code()).as(resumed.err()).isZero();
                assertThat(resumed.out().contains("emulated")).as(resumed.out()).isEqualTo(device.startsWith("cuda"));
                losses.add(losses(log));
                try (Safetensors tensors = Safetensors.open(out.resolve(file))) {
                    Map<String, float[]> values = new TreeMap<>();
                    tensors.tensors().forEach((name, tensor) -> values.put(name, tensor.toFloatArray()));
                    written.add(values);
                }
            }
        } finally {
            System.clearProperty("puna.cuda.library");
        }
        assertThat(losses.get(0)).hasSize(7);
        assertThat(losses.get(1)).containsExactly(losses.get(0), within(1e-4));
        assertThat(written.get(1).keySet()).isEqualTo(written.get(0).keySet()).isNotEmpty();
        written.get(1).forEach((name, values) ->
                assertThat(values).as(name).containsExactly(written.get(0).get(name), within(1e-3f)));
    }

    private static List<Object> with(List<Object> arguments, Object... more) {
        List<Object> all = new ArrayList<>(arguments);
        all.addAll(List.of(more));
        return all;
    }

    @Test
    void gradientsAreThoseOfTheMeanLoss() throws IOException {
        Path model = Samples.fixture("models/gqa3-tied");
        Path file = folder.resolve("gradients.safetensors");

        Run run = Run.puna("gradients", "--model", model, "--ids", "1,5,9,100,7", "--out", file, "--json");

        double loss = run.json().get("loss").doubleValue();
        assertThat(loss).isPositive();
        try (Safetensors gradients = Safetensors.open(file); Safetensors weights = Safetensors.open(model.resolve("model.safetensors"))) {
            assertThat(gradients.tensors().keySet()).isEqualTo(weights.tensors().keySet());
            for (Map.Entry<String, Tensor> entry : gradients.tensors().entrySet()) {
                assertThat(entry.getValue().shape()).isEqualTo(weights.tensors().get(entry.getKey()).shape());
            }
        }
        assertThat(Run.puna("gradients", "--model", model, "--ids", "1,5,9,100,7", "--recompute", "full", "--json").json().get("loss")
                .doubleValue()).isEqualTo(loss);
        // The log-probabilities of the same tokens, by the model's own forward pass.
        Run one = Run.puna("gradients", "--model", model, "--ids", "1,5", "--json");
        assertThat(one.json().get("loss").doubleValue()).isCloseTo(logprob(model), within(1e-4));
        assertThat(Run.puna("gradients", "--model", model, "--ids", "1").err()).contains("--ids: expected two tokens or more");
        assertThat(Run.puna("gradients", "--model", model, "--ids", "1,99999").err()).contains("targets[0]");
    }

    private static double logprob(Path model) {
        JsonNode top = Run.puna("generate", "--model", model, "--prompt-ids", "1", "--max-tokens", 1, "--logprobs", 131, "--json").json()
                .get("logprobs").get(0).get("top");
        for (JsonNode entry : top) {
            if (entry.get("token").intValue() == 5) {
                return -entry.get("logprob").doubleValue();
            }
        }
        throw new AssertionError(top);
    }

    @Test
    void plansTellWhatEachPolicyTakes() {
        JsonNode plan = Run.puna("plan", "--config", config, "--batch", 2, "--sequence", 64, "--json").json();
        long all = plan.get("policies").get("STORE_ALL").get("kept_bytes").longValue();
        assertThat(plan.get("policies").get("LLAMA").get("kept_bytes").longValue()).isLessThan(all);
        assertThat(Run.puna("plan", "--config", config, "--batch", 2, "--sequence", 64).out())
                .contains("STORE_ALL", "LLAMA", "FULL", "repeated", "GFLOP");
        assertThat(Run.puna("plan", "--config", config, "--batch", 0, "--sequence", 64).code()).isEqualTo(ExitCode.USAGE);
    }
}
