package io.puna.train;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import io.puna.format.CheckpointException;
import io.puna.text.Tokenizer;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.List;
import java.util.SplittableRandom;

/**
 * Conversations to fine-tune on, one to a sequence, shuffled anew for each epoch. Only what the assistant says counts in the loss; a
 * conversation longer than a sequence is cut.
 */
public final class ChatBatches implements BatchSource {
    private static final String FORMAT = "chat2";

    private final List<Conversation> conversations;
    private final long seed;
    private final int padding;
    private long position;
    private long shuffledEpoch = -1;
    private final int[] order;

    private record Conversation(int[] tokens, BitSet counted) {
    }

    private ChatBatches(List<Conversation> conversations, long seed, int padding) {
        this.conversations = conversations;
        this.seed = seed;
        this.padding = padding;
        order = new int[conversations.size()];
    }

    /**
     * {@return the conversations of a file} Each line is an object with {@code messages}, a list of objects with {@code role}
     * ({@code system}, {@code user} or {@code assistant}) and {@code content}, or with {@code prompt} and {@code completion}.
     *
     * @param tokenizer of the model
     * @param format    how conversations become text
     * @param tokens    T, the tokens of a sequence
     * @param seed      of the order
     * @throws CheckpointException if a line is something else, or within T tokens no assistant says anything
     * @throws IOException         if the file cannot be read
     */
    public static ChatBatches read(Path file, Tokenizer tokenizer, ChatFormat format, int tokens, long seed) throws IOException {
        List<Conversation> conversations = new ArrayList<>();
        ObjectMapper mapper = JsonMapper.builder().enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS).build();
        int number = 0;
        try (BufferedReader in = Files.newBufferedReader(file)) {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                number++;
                if (!line.isBlank()) {
                    Conversation conversation = conversation(tokenizer, format.pieces(messages(file, number, mapper, line)), tokens);
                    int first = conversation.counted.nextSetBit(1);
                    if (first >= 0 && first <= tokens) {
                        conversations.add(conversation);
                    }
                }
            }
        } catch (CharacterCodingException e) {
            throw new CheckpointException(file, "text in UTF-8", "bytes that are not, after line " + number, e);
        }
        if (conversations.isEmpty()) {
            throw new CheckpointException(file, "conversations in which an assistant speaks within " + tokens + " tokens", "none");
        }
        return new ChatBatches(conversations, seed, tokenizer.eosIds().stream().findFirst().orElse(0));
    }

    private static List<ChatFormat.Message> messages(Path file, int number, ObjectMapper mapper, String line) throws CheckpointException {
        JsonNode json;
        try {
            json = mapper.readTree(line);
        } catch (JsonProcessingException e) {
            throw new CheckpointException(file, "line " + number + " to be a JSON object", e.getOriginalMessage(), e);
        }
        List<ChatFormat.Message> messages = new ArrayList<>();
        if (json.path("prompt").isTextual() && json.path("completion").isTextual()) {
            messages.add(new ChatFormat.Message("user", json.get("prompt").textValue()));
            messages.add(new ChatFormat.Message("assistant", json.get("completion").textValue()));
        }
        for (JsonNode message : json.path("messages")) {
            String role = message.path("role").asText();
            if (!List.of("system", "user", "assistant").contains(role) || !message.path("content").isTextual()) {
                throw new CheckpointException(file, "line " + number + " to have messages of a role system, user or assistant and a content",
                        message.toString());
            }
            messages.add(new ChatFormat.Message(role, message.get("content").textValue()));
        }
        if (messages.isEmpty()) {
            throw new CheckpointException(file, "line " + number + " to have messages, or prompt and completion", "neither");
        }
        return messages;
    }

    /**
     * Pieces are encoded as the one text that they are where a model is asked, from one beginning or end to the next: many a tokenizer
     * puts a space before whatever it is given. An answer's tokens are those that the text has not without it.
     */
    private static Conversation conversation(Tokenizer tokenizer, List<ChatFormat.Piece> pieces, int tokens) {
        int[] all = new int[0];
        BitSet counted = new BitSet();
        String text = "";
        int start = 0; // of its tokens
        for (ChatFormat.Piece piece : pieces) {
            if (piece.begins() && tokenizer.bosId().isPresent()) {
                all = append(all, tokenizer.bosId().getAsInt());
            }
            if (piece.begins()) {
                text = "";
                start = all.length;
            }
            text += piece.text();
            int[] encoded = tokenizer.encode(text, false);
            int mismatch = Arrays.mismatch(all, start, all.length, encoded, 0, encoded.length);
            int from = start + (mismatch < 0 ? encoded.length : mismatch);
            all = append(Arrays.copyOf(all, start), encoded);
            if (piece.ends()) {
                if (!tokenizer.eosIds().isEmpty()) {
                    all = append(all, tokenizer.eosIds().iterator().next());
                }
                text = "";
                start = all.length;
            }
            counted.set(from, all.length, piece.counted());
            if (all.length > tokens) {
                break; // the rest is cut
            }
        }
        return new Conversation(all, counted);
    }

    private static int[] append(int[] to, int... more) {
        int[] result = Arrays.copyOf(to, to.length + more.length);
        System.arraycopy(more, 0, result, to.length, more.length);
        return result;
    }

    /** {@return the number of conversations} */
    public int size() {
        return conversations.size();
    }

    @Override
    public void next(int[] ids, int[] targets, int sequences) {
        PackedBatches.requireWhole(ids, targets, sequences);
        int length = ids.length / sequences;
        for (int b = 0; b < sequences; b++, position++) {
            Conversation conversation = conversations.get(index(position));
            for (int t = 0; t < length; t++) {
                boolean there = t < conversation.tokens.length;
                ids[b * length + t] = there ? conversation.tokens[t] : padding;
                boolean counts = t + 1 < conversation.tokens.length && conversation.counted.get(t + 1);
                targets[b * length + t] = counts ? conversation.tokens[t + 1] : IGNORED;
            }
        }
    }

    private int index(long number) {
        long epoch = number / order.length;
        if (epoch != shuffledEpoch) {
            SplittableRandom random = new SplittableRandom(seed * 31 + epoch);
            for (int i = 0; i < order.length; i++) {
                int other = random.nextInt(i + 1);
                order[i] = order[other];
                order[other] = i;
            }
            shuffledEpoch = epoch;
        }
        return order[(int) (number % order.length)];
    }

    @Override
    public String state() {
        return identity() + position;
    }

    @Override
    public void restore(String state) {
        String identity = identity();
        if (!state.startsWith(identity) || !state.substring(identity.length()).matches("\\d{1,18}")) {
            throw new IllegalArgumentException("state: expected one of these conversations and this seed (" + identity + "…), got "
                    + state);
        }
        position = Long.parseLong(state.substring(identity.length()));
    }

    private String identity() {
        int fingerprint = 0;
        for (Conversation conversation : conversations) {
            fingerprint = 31 * (31 * fingerprint + Arrays.hashCode(conversation.tokens)) + conversation.counted.hashCode();
        }
        return "%s %08x %d ".formatted(FORMAT, fingerprint, seed);
    }
}
