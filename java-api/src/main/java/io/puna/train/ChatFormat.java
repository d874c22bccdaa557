package io.puna.train;

import java.util.ArrayList;
import java.util.List;

/** How a conversation becomes text: what a family of chat models was trained on. */
public enum ChatFormat {
    /** Llama 2: {@code [INST] … [/INST] …}, the system's message inside the first. Every exchange begins and ends a text. */
    LLAMA2 {
        @Override
        List<Piece> pieces(List<Message> messages) {
            List<Piece> pieces = new ArrayList<>();
            String system = "";
            for (Message message : messages) {
                switch (message.role) {
                    case "system" -> system = "<<SYS>>\n" + message.content + "\n<</SYS>>\n\n";
                    case "user" -> {
                        pieces.add(new Piece("[INST] " + system + message.content.strip() + " [/INST]", true, false, false));
                        system = "";
                    }
                    default -> pieces.add(new Piece(" " + message.content.strip() + " ", false, true, true));
                }
            }
            return pieces;
        }
    },
    /** Llama 3: a header with the role before each message, {@code <|eot_id|>} after it. */
    LLAMA3 {
        @Override
        List<Piece> pieces(List<Message> messages) {
            return headed(messages, "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", "");
        }
    },
    /** ChatML: {@code <|im_start|>} with the role before each message, {@code <|im_end|>} after it. */
    CHATML {
        @Override
        List<Piece> pieces(List<Message> messages) {
            return headed(messages, "<|im_start|>", "\n", "<|im_end|>", "\n");
        }
    },
    /** Vicuna: {@code USER: … ASSISTANT: …}, which any tokenizer can say. An answer ends a text. */
    VICUNA {
        @Override
        List<Piece> pieces(List<Message> messages) {
            List<Piece> pieces = new ArrayList<>();
            for (Message message : messages) {
                switch (message.role) {
                    case "system" -> pieces.add(new Piece(message.content.strip() + " ", pieces.isEmpty(), false, false));
                    case "user" -> pieces.add(new Piece("USER: " + message.content.strip() + " ASSISTANT:", pieces.isEmpty(), false, false));
                    default -> pieces.add(new Piece(" " + message.content.strip(), pieces.isEmpty(), true, true));
                }
            }
            return pieces;
        }
    };

    /**
     * A message.
     *
     * @param role {@code system}, {@code user} or {@code assistant}
     */
    record Message(String role, String content) {
    }

    /**
     * A stretch of text.
     *
     * @param begins  whether a beginning-of-text token comes before it
     * @param counted whether the loss counts its tokens: it is the assistant's
     * @param ends    whether an end-of-text token comes after it, counted as it is
     */
    record Piece(String text, boolean begins, boolean counted, boolean ends) {
    }

    abstract List<Piece> pieces(List<Message> messages);

    private static List<Piece> headed(List<Message> messages, String before, String after, String end, String gap) {
        List<Piece> pieces = new ArrayList<>();
        for (Message message : messages) {
            boolean counted = message.role.equals("assistant");
            pieces.add(new Piece((pieces.isEmpty() ? "" : gap) + before + message.role + after, pieces.isEmpty(), false, false));
            pieces.add(new Piece(message.content.strip() + end, false, counted, false));
        }
        return pieces;
    }
}
