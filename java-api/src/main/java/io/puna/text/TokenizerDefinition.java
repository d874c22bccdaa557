package io.puna.text;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.BitSet;
import java.util.Map;
import java.util.OptionalInt;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * A checked tokenizer: what the engine is built from and what Java does itself.
 *
 * @param engine   the tokenizer.json for the engine: nothing in it that was not checked
 * @param pieces   per id its piece, null where the file has none
 * @param ids      per piece its id
 * @param special  the ids of special tokens
 * @param decoder  how pieces become text
 * @param prefix   ids put before a text
 * @param suffix   ids put after a text
 * @param maxText  the longest text, in chars, that the engine is given: its matcher has a limit that ends the process
 */
record TokenizerDefinition(ObjectNode engine, @Nullable String[] pieces, Map<String, Integer> ids, BitSet special,
                           PieceDecoder decoder, int[] prefix, int[] suffix, OptionalInt bosId, Set<Integer> eosIds, int maxText) {
}
