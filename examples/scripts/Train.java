// A training loop through the API: a model of 100,000 parameters learns to write the alphabet in turns, from random weights. From the
// repository's root, once built (mvn package):
//
//   java --enable-native-access=ALL-UNNAMED -cp 'examples/target/lib/*' examples/scripts/Train.java

import io.puna.kernel.Rope;
import io.puna.model.LlamaConfig;
import io.puna.model.RopeScaling;
import io.puna.tensor.Device;
import io.puna.train.BatchSource;
import io.puna.train.Parameters;
import io.puna.train.Recomputation;
import io.puna.train.Schedule;
import io.puna.train.Trainer;
import io.puna.train.TrainingOptions;

static final int LETTERS = 26, SEQUENCES = 8, TOKENS = 64;
static final long STEPS = 100;

void main() {
    LlamaConfig config = new LlamaConfig("LlamaForCausalLM", LETTERS, 64, 2, 4, 2, 16, 176, TOKENS, 1e-5f, 10_000, new RopeScaling.None(),
            Rope.Layout.HALVES, 0, true, -1, List.of());
    TrainingOptions options = TrainingOptions.of(STEPS, SEQUENCES, TOKENS, 3e-3).withSchedule(10, Schedule.COSINE)
            .withRecomputation(Recomputation.LLAMA);
    try (Device device = Device.cpu(); Parameters weights = Parameters.random(device, config, 1);
            Trainer trainer = new Trainer(device, weights, new Alphabet(), options)) {
        IO.println(Parameters.count(config) + " parameters on " + device.backend());
        while (trainer.steps() < STEPS) {
            Trainer.Step step = trainer.step();
            if (step.step() % 20 == 0) {
                IO.println("step %d: loss %.4f, gradient %.3f".formatted(step.step(), step.loss(), step.gradientNorm()));
            }
        }
    }
}

/** Sequences that begin at a random letter and go up by a step of their own: 1, 2 or 3 letters. */
static final class Alphabet implements BatchSource {
    private long drawn;

    @Override
    public void next(int[] ids, int[] targets, int sequences) {
        int length = ids.length / sequences;
        for (int s = 0; s < sequences; s++) {
            Random random = new Random(drawn++);
            int letter = random.nextInt(LETTERS);
            int step = 1 + random.nextInt(3);
            for (int t = 0; t < length; t++) {
                ids[s * length + t] = (letter + t * step) % LETTERS;
                targets[s * length + t] = (letter + (t + 1) * step) % LETTERS;
            }
        }
    }

    @Override
    public String state() {
        return Long.toString(drawn);
    }

    @Override
    public void restore(String state) {
        drawn = Long.parseLong(state);
    }
}
