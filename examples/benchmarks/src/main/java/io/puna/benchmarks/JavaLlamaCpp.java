package io.puna.benchmarks;

import de.kherud.llama.InferenceParameters;
import de.kherud.llama.LlamaModel;
import de.kherud.llama.LogLevel;
import de.kherud.llama.ModelParameters;
import de.kherud.llama.args.LogFormat;
import java.io.IOException;

/** java-llama.cpp, llama.cpp through JNI, as {@code puna bench --against java-llama.cpp} runs it. */
final class JavaLlamaCpp {
    private JavaLlamaCpp() {
    }

    public static void main(String[] arguments) throws IOException {
        Peer peer = Peer.of(arguments);
        LlamaModel.setLogger(LogFormat.TEXT, (LogLevel level, String message) -> { });
        ModelParameters parameters = new ModelParameters().setModel(peer.model()).setThreads(peer.threads())
                .setThreadsBatch(peer.threads()).setCtxSize(2 * (peer.promptTokens() + peer.generateTokens()) + 64);
        try (LlamaModel model = new LlamaModel(parameters)) {
            String prompt = Peer.text(peer.promptTokens(), text -> model.encode(text).length);
            seconds(model, prompt, 1);
            // Text comes when characters are whole, not token by token: the times of whole calls tell, less the first token's.
            double prefill = model.encode(prompt).length / seconds(model, prompt, 1);
            double decode = peer.generateTokens() / (seconds(model, "one", 1 + peer.generateTokens()) - seconds(model, "one", 1));
            peer.end(Peer.version("de.kherud", "llama"), prefill, decode);
        }
    }

    private static double seconds(LlamaModel model, String prompt, int tokens) {
        long start = System.nanoTime();
        model.complete(new InferenceParameters(prompt).setNPredict(tokens).setTemperature(0).setIgnoreEos(true).setCachePrompt(false));
        return 1e-9 * (System.nanoTime() - start);
    }
}
