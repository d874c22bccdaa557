/*
 * How attention's work is cut, as pure functions: of a row's own keys and the shapes, never of what else is in the step, so that a
 * row's sums do not hang on its neighbours. native/test/cuda.c checks them.
 */
#ifndef PUNA_CUDA_ATTENTION_PLAN_H
#define PUNA_CUDA_ATTENTION_PLAN_H

#include "internal.h"

/* From so many rows of a sequence on, tiles on the tensor cores; below, a block for a stretch of keys. */
enum { PUNA_CUDA_TILE_ROWS = 16, PUNA_CUDA_SPLIT_KEYS = 128, PUNA_CUDA_MOST_WIDTH = 256 };

/* Bytes of what one row leaves for one stretch of keys: for each head its sums, their largest score and their weights' total. */
static inline int64_t puna_cuda_partial_bytes(int64_t NH, int64_t HD) { return NH * (HD + 2) * (int64_t)sizeof(float); }

/*
 * Keys of a stretch for a row that sees up to keys: 128, and twice as many until the row's partial results fit scratch_bytes. 32 heads
 * of 128 at 16k keys make 128 stretches of 16,640 bytes: 2.1 MB. 0 when not even one fits.
 */
static inline int64_t puna_cuda_split_keys(int64_t keys, int64_t NH, int64_t HD, int64_t scratch_bytes) {
    int64_t most = scratch_bytes / puna_cuda_partial_bytes(NH, HD), split = PUNA_CUDA_SPLIT_KEYS;
    if (most == 0) return 0;
    while (puna_ceil_div(keys, split) > most) split *= 2;
    return split;
}

/* The first key that the query at position sees. */
static inline int64_t puna_cuda_first_key(int64_t position, int64_t window) {
    return window > 0 && position >= window ? position - window + 1 : 0;
}

#endif
