package io.puna.benchmarks;

import com.github.tjake.jlama.model.AbstractModel;
import com.github.tjake.jlama.model.ModelSupport;
import com.github.tjake.jlama.model.functions.Generator;
import com.github.tjake.jlama.safetensors.DType;
import com.github.tjake.jlama.safetensors.prompt.PromptContext;
import java.io.File;
import java.io.IOException;
import java.util.Optional;
import java.util.UUID;

/** Jlama, as {@code puna bench --against jlama} runs it: 8-bit activations, as its own command line has them. */
final class Jlama {
    private static final int WARM_UPS = 2;

    private Jlama() {
    }

    public static void main(String[] arguments) throws IOException {
        Peer peer = Peer.of(arguments);
        try (AbstractModel model = ModelSupport.loadModel(new File(peer.model()), null, DType.F32, DType.I8, Optional.empty(),
                Optional.of(peer.threads()))) {
            PromptContext prompt = PromptContext.of(Peer.text(peer.promptTokens(),
                    text -> model.encodePrompt(PromptContext.of(text)).length));
            PromptContext word = PromptContext.of("one");
            int promptTokens = model.encodePrompt(prompt).length;
            int wordTokens = model.encodePrompt(word).length;
            for (int i = 0; i < WARM_UPS; i++) { // Java code has to be compiled first
                model.generate(UUID.randomUUID(), prompt, 0, promptTokens + peer.generateTokens());
            }
            Generator.Response first = model.generate(UUID.randomUUID(), prompt, 0, promptTokens + 1);
            Generator.Response second = model.generate(UUID.randomUUID(), word, 0, wordTokens + peer.generateTokens());
            peer.end(Peer.version("com.github.tjake", "jlama-core"), 1e3 * promptTokens / Math.max(first.promptTimeMs, 1),
                    1e3 * second.generatedTokens / Math.max(second.generateTimeMs, 1));
        }
    }
}
