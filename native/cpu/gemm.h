/*
 * The register tile of the products that are bound by arithmetic, a prompt's and those of backward passes: rows of c, vectors wide,
 * from numbers of a and vectors of b. A tile of TILE_ROWS rows and TILE_VECS vectors fills the registers: 12 accumulators, three vectors
 * of b and one of a (AVX-512: 24, three and one). VEC_WIDTH is a multiple of TILE_ROWS.
 */
#ifndef PUNA_GEMM_H
#define PUNA_GEMM_H

#include "internal.h"
#include "lanes.h"

#include <stdbool.h>

#if defined(PUNA_VARIANT_AVX512)
enum { TILE_ROWS = 8, TILE_VECS = 3 };
#else
enum { TILE_ROWS = 4, TILE_VECS = 3 };
#endif
enum { TILE_COLUMNS = TILE_VECS * VEC_WIDTH };

/* Elements filled up to whole vectors. */
PUNA_INLINE int64_t padded(int64_t n) { return puna_ceil_div(n, VEC_WIDTH) * VEC_WIDTH; }

/*
 * acc[m, j] = sum over p < depth of a[m * a_row + p * a_step] * b[p * b_step + j], for m < TILE_ROWS and vectors j < V: one after
 * another in p, from zero, with multiply_add, lanes holding each elements.
 */
PUNA_INLINE void gemm_sums(const int each, const int V, vec acc[TILE_ROWS * TILE_VECS], const float *a, int64_t a_row, int64_t a_step,
                           const float *b, int64_t b_step, int64_t depth) {
    for (int m = 0; m < TILE_ROWS; m++)
        for (int j = 0; j < V; j++) acc[m * V + j] = vec_zero();
    for (int64_t p = 0; p < depth; p++, a += a_step, b += b_step) {
        vec b_p[TILE_VECS];
        for (int j = 0; j < V; j++) b_p[j] = vec_keep(vec_load(b + j * VEC_WIDTH));
        for (int m = 0; m < TILE_ROWS; m++) {
            vec a_p = vec_set1(a[m * a_row]);
            for (int j = 0; j < V; j++) acc[m * V + j] = multiply_add(each, a_p, b_p[j], acc[m * V + j]);
        }
    }
}

/* c[m, j] (= or, where it adds, +=) acc[m, j], for the first rows and columns of the tile. */
PUNA_INLINE void gemm_store(const int V, float *c, int64_t c_stride, int64_t rows, int64_t columns,
                            const vec acc[TILE_ROWS * TILE_VECS], bool add) {
    if (rows >= TILE_ROWS && columns >= V * VEC_WIDTH) {
        for (int m = 0; m < TILE_ROWS; m++)
            for (int j = 0; j < V; j++) {
                float *to = c + m * c_stride + j * VEC_WIDTH;
                vec_store(to, add ? vec_add(vec_load(to), acc[m * V + j]) : acc[m * V + j]);
            }
        return;
    }
    float tile[TILE_ROWS * TILE_COLUMNS];
    for (int i = 0; i < TILE_ROWS * V; i++) vec_store(tile + i * VEC_WIDTH, acc[i]);
    for (int64_t m = 0; m < puna_min(TILE_ROWS, rows); m++)
        for (int64_t n = 0; n < puna_min(V * VEC_WIDTH, columns); n++) {
            const float sum = tile[m * V * VEC_WIDTH + n];
            c[m * c_stride + n] = add ? c[m * c_stride + n] + sum : sum;
        }
}

/* Calls for the lines of c that a tile is going to be stored to. */
PUNA_INLINE void gemm_fetch(const int V, const float *c, int64_t c_stride) {
    for (int m = 0; m < TILE_ROWS; m++)
        for (int j = 0; j < V; j++) __builtin_prefetch(c + m * c_stride + j * VEC_WIDTH, 1);
}

/* A whole tile of c (= or +=) a times b, as gemm_sums. */
PUNA_INLINE void gemm_tile(const int V, float *c, int64_t c_stride, const float *a, int64_t a_row, int64_t a_step,
                           const float *b, int64_t b_step, int64_t depth, bool add) {
    vec acc[TILE_ROWS * TILE_VECS];
    gemm_fetch(V, c, c_stride);
    gemm_sums(1, V, acc, a, a_row, a_step, b, b_step, depth);
    gemm_store(V, c, c_stride, TILE_ROWS, V * VEC_WIDTH, acc, add);
}

#endif
