package io.puna.train;

/** Batches out of an array, one after another and over again. */
final class FixedBatches implements BatchSource {
    private final int[][] ids;
    private final int[][] targets;
    private int position;

    FixedBatches(int[][] ids, int[][] targets) {
        this.ids = ids;
        this.targets = targets;
    }

    @Override
    public void next(int[] nextIds, int[] nextTargets, int sequences) {
        System.arraycopy(ids[position], 0, nextIds, 0, nextIds.length);
        System.arraycopy(targets[position], 0, nextTargets, 0, nextTargets.length);
        position = (position + 1) % ids.length;
    }

    @Override
    public String state() {
        return Integer.toString(position);
    }

    @Override
    public void restore(String state) {
        position = Integer.parseInt(state);
    }
}
