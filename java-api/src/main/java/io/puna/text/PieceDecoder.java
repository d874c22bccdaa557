package io.puna.text;

import java.nio.charset.StandardCharsets;
import java.util.List;

/**
 * How a vocabulary's pieces become text: the part of a tokenizer.json that is called its decoder.
 *
 * <p>The engine decodes a whole list of ids at once, and a byte that comes later can change what it made of the bytes before.
 * Here pieces are taken one by one, each leaving a constant amount of state, so that a stream costs the same per token however
 * long it is and has the text of the whole.
 */
sealed interface PieceDecoder {
    /** The state of one text being decoded. */
    State start();

    /** One text being decoded, piece by piece. */
    interface State {
        /** Appends the text that is certain once this piece has come. */
        void accept(String piece, StringBuilder out);

        /** Appends what was held back. */
        void finish(StringBuilder out);
    }

    /** Each character of a piece stands for one byte; a piece with any other character stands for its own UTF-8 form. */
    record ByteLevel() implements PieceDecoder {
        @Override
        public State start() {
            Utf8Assembler utf8 = new Utf8Assembler(false);
            return new State() {
                @Override
                public void accept(String piece, StringBuilder out) {
                    for (byte b : ByteAlphabet.isByteLevel(piece) ? ByteAlphabet.bytes(piece) : piece.getBytes(StandardCharsets.UTF_8)) {
                        utf8.accept(b & 0xFF, out);
                    }
                }

                @Override
                public void finish(StringBuilder out) {
                    utf8.flush(out);
                }
            };
        }
    }

    /** In a piece, {@code pattern} stands for {@code content}. */
    record Replacement(String pattern, String content) {
    }

    /**
     * SentencePiece's pieces: replacements, then pieces like {@code <0xE2>} as bytes, then at most {@code count} characters
     * {@code stripped} off the beginning of the text.
     */
    record SentencePiece(List<Replacement> replacements, boolean byteFallback, char stripped, int count) implements PieceDecoder {
        @Override
        public State start() {
            Utf8Assembler utf8 = new Utf8Assembler(true);
            return new State() {
                private int strip = count;

                @Override
                public void accept(String piece, StringBuilder out) {
                    int from = out.length();
                    String text = piece;
                    for (Replacement r : replacements) {
                        text = text.replace(r.pattern(), r.content());
                    }
                    int b = byteFallback ? byteOf(text) : -1;
                    if (b >= 0) {
                        utf8.accept(b, out);
                    } else {
                        utf8.flush(out);
                        out.append(text);
                    }
                    strip(out, from);
                }

                @Override
                public void finish(StringBuilder out) {
                    int from = out.length();
                    utf8.flush(out);
                    strip(out, from);
                }

                private void strip(StringBuilder out, int from) {
                    while (strip > 0 && out.length() > from) {
                        if (out.charAt(from) == stripped) {
                            out.deleteCharAt(from);
                            strip--;
                        } else {
                            strip = 0;
                        }
                    }
                }
            };
        }

        private static int byteOf(String piece) {
            if (piece.length() != 6 || !piece.startsWith("<0x") || piece.charAt(5) != '>') {
                return -1;
            }
            int high = hex(piece.charAt(3));
            int low = hex(piece.charAt(4));
            return high < 0 || low < 0 ? -1 : high << 4 | low;
        }

        private static int hex(char c) {
            return c < 0x80 ? Character.digit(c, 16) : -1;
        }
    }

    /** Pieces are words, parted by spaces: what a tokenizer without a decoder means. */
    record Words() implements PieceDecoder {
        @Override
        public State start() {
            return new State() {
                private boolean first = true;

                @Override
                public void accept(String piece, StringBuilder out) {
                    out.append(first ? "" : " ").append(piece);
                    first = false;
                }

                @Override
                public void finish(StringBuilder out) {
                    // nothing is ever held back
                }
            };
        }
    }

    /** The space symbol stands for a space, but for those of the first piece when the encoder prepended one. */
    record Metaspace(char space, boolean prepended) implements PieceDecoder {
        @Override
        public State start() {
            return new State() {
                private boolean first = prepended;

                @Override
                public void accept(String piece, StringBuilder out) {
                    out.append(first ? piece.replace(String.valueOf(space), "") : piece.replace(space, ' '));
                    first = false;
                }

                @Override
                public void finish(StringBuilder out) {
                    // every piece is whole characters: nothing is ever held back
                }
            };
        }
    }
}
