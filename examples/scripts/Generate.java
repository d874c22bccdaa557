// Continues a text, printing each token as it comes. From the repository's root, once built (mvn package):
//
//   java --enable-native-access=ALL-UNNAMED -cp 'examples/target/lib/*' examples/scripts/Generate.java MODEL "Once upon a time"

import io.puna.LlamaModel;
import io.puna.generate.GenerationOptions;
import io.puna.generate.Session;
import io.puna.generate.TokenStream;

void main(String[] args) throws IOException {
    if (args.length != 2) {
        System.err.println("usage: Generate.java MODEL PROMPT");
        System.exit(2);
    }
    var options = GenerationOptions.builder().maxTokens(64).temperature(0.7).topP(0.9).seed(1).build();

    try (LlamaModel model = LlamaModel.open(Path.of(args[0])); Session session = model.newSession()) {
        IO.print(args[1]);
        TokenStream stream = session.stream(args[1], options);
        while (stream.hasNext()) {
            IO.print(stream.next().text());
        }
        IO.println();

        // The session still holds that text: a prompt that begins with the same tokens costs only what differs.
        var again = session.generate(args[1] + ",", GenerationOptions.builder().maxTokens(16).build());
        IO.println(args[1] + "," + again.text() + " (" + again.cachedTokens() + " of " + again.promptTokens().size()
                + " prompt tokens were still there)");
    }
}
