package io.puna.train;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;

/** Sequences of several sources, drawn by weight, of documents laid end to end in an order that the seed alone decides. */
final class PackedBatches implements BatchSource {
    private static final String FORMAT = "packed1";

    private final List<TokenShard> shards;
    private final long seed;
    private final boolean shuffled;
    private final boolean maskBoundaries;
    private final double[] shares; // cumulative, of sequences
    private long sequence;         // the number of the next one
    private Place[] places;

    /** Where a source stands: at a token of the rank-th document of an epoch. */
    private record Place(long epoch, long rank, long offset) {
    }

    PackedBatches(List<TokenShard> shards, long seed, boolean shuffled, boolean maskBoundaries) {
        this.shards = shards;
        this.seed = seed;
        this.shuffled = shuffled;
        this.maskBoundaries = maskBoundaries;
        shares = new double[shards.size()];
        places = new Place[shards.size()];
        double sum = shards.stream().mapToDouble(shard -> shard.weight).sum();
        double before = 0;
        for (int i = 0; i < shares.length; i++) {
            before += shards.get(i).weight / sum;
            shares[i] = before;
            places[i] = new Place(0, 0, 0);
        }
    }

    @Override
    public void next(int[] ids, int[] targets, int sequences) {
        next(ids, targets, new boolean[ids.length], sequences);
    }

    @Override
    public void next(int[] ids, int[] targets, boolean[] begins, int sequences) {
        requireWhole(ids, targets, sequences);
        if (begins.length != ids.length) {
            throw new IllegalArgumentException("begins: expected " + ids.length + " of them, as many as ids, got " + begins.length);
        }
        int length = ids.length / sequences;
        int[] row = new int[length + 1];
        boolean[] firsts = new boolean[length + 1];
        for (int b = 0; b < sequences; b++) {
            int source = draw(sequence);
            places[source] = read(source, places[source], row, firsts);
            sequence++;
            for (int t = 0; t < length; t++) {
                ids[b * length + t] = row[t];
                targets[b * length + t] = maskBoundaries && firsts[t + 1] ? IGNORED : row[t + 1];
                begins[b * length + t] = maskBoundaries && firsts[t];
            }
        }
    }

    static void requireWhole(int[] ids, int[] targets, int sequences) {
        if (sequences < 1 || ids.length == 0 || ids.length % sequences != 0) {
            throw new IllegalArgumentException("sequences: expected a divisor of " + ids.length + " ids, got " + sequences);
        }
        if (targets.length != ids.length) {
            throw new IllegalArgumentException("targets: expected " + ids.length + " of them, as many as ids, got " + targets.length);
        }
    }

    private int draw(long sequence) {
        double u = (mix(seed ^ mix(sequence)) >>> 11) * 0x1p-53;
        int source = 0;
        while (source < shares.length - 1 && u >= shares[source]) {
            source++;
        }
        return source;
    }

    /** Reads the tokens from a place on; the last of them is the first of the next sequence. */
    private Place read(int source, Place place, int[] row, boolean[] firsts) {
        TokenShard shard = shards.get(source);
        long epoch = place.epoch;
        long rank = place.rank;
        long offset = place.offset;
        int at = 0;
        while (true) {
            long document = document(shard, source, epoch, rank);
            long start = document == 0 ? 0 : shard.end(document - 1);
            long length = shard.end(document) - start;
            int count = (int) Math.min(row.length - at, length - offset);
            shard.read(start + offset, row, at, count);
            Arrays.fill(firsts, at, at + count, false);
            firsts[at] = offset == 0;
            at += count;
            offset += count;
            if (at == row.length) {
                return new Place(epoch, rank, offset - 1); // a document has at least one token, so this is in it
            }
            offset = 0;
            if (++rank == shard.documents) {
                rank = 0;
                epoch++;
            }
        }
    }

    /**
     * {@return the rank-th document of an epoch}
     *
     * <p>A Feistel network permutes the numbers of an even count of bits; a number beyond the documents is sent through again until one
     * of them comes out. It takes no memory, and a place in the middle costs no more than the first.
     */
    private long document(TokenShard shard, int source, long epoch, long rank) {
        if (!shuffled) {
            return rank;
        }
        int half = (65 - Long.numberOfLeadingZeros(shard.documents)) / 2;
        long mask = (1L << half) - 1;
        long key = mix(seed + 0x9E3779B97F4A7C15L * mix(epoch * shares.length + source + 1));
        long value = rank;
        do {
            long left = value >>> half;
            long right = value & mask;
            for (int round = 0; round < 4; round++) {
                long next = left ^ mix(key + round ^ right * 0xD1342543DE82EF95L) & mask;
                left = right;
                right = next;
            }
            value = left << half | right;
        } while (value >= shard.documents);
        return value;
    }

    /** The finaliser of MurmurHash3 in Stafford's thirteenth variant: every bit of the input moves every bit of the output. */
    private static long mix(long z) {
        z = (z ^ z >>> 30) * 0xBF58476D1CE4E5B9L;
        z = (z ^ z >>> 27) * 0x94D049BB133111EBL;
        return z ^ z >>> 31;
    }

    @Override
    public String state() {
        StringBuilder state = new StringBuilder(identity()).append(' ').append(sequence);
        for (Place place : places) {
            state.append(' ').append(place.epoch).append(':').append(place.rank).append(':').append(place.offset);
        }
        return state.toString();
    }

    private String identity() {
        int fingerprint = 0;
        for (TokenShard shard : shards) {
            fingerprint = 31 * fingerprint + shard.fingerprint;
        }
        return "%s %08x %d".formatted(FORMAT, fingerprint, seed);
    }

    @Override
    public void restore(String state) {
        String identity = identity() + " ";
        if (!Objects.requireNonNull(state, "state").startsWith(identity)) {
            throw new IllegalArgumentException("state: expected one of these tokens and this seed (" + identity + "…), got " + state);
        }
        String[] parts = state.substring(identity.length()).split(" ");
        List<Place> restored = new ArrayList<>();
        try {
            long number = Long.parseLong(parts[0]);
            for (int i = 1; i < parts.length; i++) {
                String[] place = parts[i].split(":");
                restored.add(new Place(Long.parseLong(place[0]), Long.parseLong(place[1]), Long.parseLong(place[2])));
            }
            if (number < 0 || restored.size() != shards.size()) {
                throw new IllegalArgumentException("places of " + restored.size() + " sources");
            }
            for (int i = 0; i < restored.size(); i++) {
                check(i, restored.get(i));
            }
            sequence = number;
        } catch (IllegalArgumentException | IndexOutOfBoundsException e) {
            throw new IllegalArgumentException("state: expected a number of sequences and a place in each of " + shards.size()
                    + " sources, got " + state, e);
        }
        places = restored.toArray(Place[]::new);
    }

    private void check(int source, Place place) {
        TokenShard shard = shards.get(source);
        if (place.epoch < 0) {
            throw new IllegalArgumentException("epoch " + place.epoch);
        }
        Objects.checkIndex(place.rank, shard.documents);
        long document = document(shard, source, place.epoch, place.rank);
        Objects.checkIndex(place.offset, shard.end(document) - (document == 0 ? 0 : shard.end(document - 1)));
    }
}
