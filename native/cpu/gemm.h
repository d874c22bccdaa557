/*
 * The register tile of the backward products: rows of c, vectors wide, from numbers of a and vectors of b. A tile of TILE_ROWS
 * rows and TILE_VECS vectors fills the registers: 12 accumulators, two vectors of b and one of a (AVX-512: 24, three and one).
 */
#ifndef PUNA_GEMM_H
#define PUNA_GEMM_H

#include "simd.h"

#include <stdbool.h>

#if defined(PUNA_VARIANT_AVX512)
enum { TILE_ROWS = 8, TILE_VECS = 3 };
#else
enum { TILE_ROWS = 6, TILE_VECS = 2 };
#endif
enum { TILE_COLUMNS = TILE_VECS * VEC_WIDTH };

/*
 * c[m, j] (= or, where it adds, +=) sum over p < depth of a[m * a_row + p * a_step] * b[p * b_step + j], for m < TILE_ROWS and
 * j < V * VEC_WIDTH: one after another in p, from zero, with vec_fma.
 */
PUNA_INLINE void gemm_tile(const int V, float *c, int64_t c_stride, const float *a, int64_t a_row, int64_t a_step,
                           const float *b, int64_t b_step, int64_t depth, bool add) {
    vec acc[TILE_ROWS * TILE_VECS];
    for (int m = 0; m < TILE_ROWS; m++)
        for (int j = 0; j < V; j++) __builtin_prefetch(c + m * c_stride + j * VEC_WIDTH, 1);
    for (int i = 0; i < TILE_ROWS * V; i++) acc[i] = vec_zero();
    for (int64_t p = 0; p < depth; p++, a += a_step, b += b_step) {
        vec b_p[TILE_VECS];
        for (int j = 0; j < V; j++) b_p[j] = vec_keep(vec_load(b + j * VEC_WIDTH));
        for (int m = 0; m < TILE_ROWS; m++) {
            vec a_p = vec_set1(a[m * a_row]);
            for (int j = 0; j < V; j++) acc[m * V + j] = vec_fma(a_p, b_p[j], acc[m * V + j]);
        }
    }
    for (int m = 0; m < TILE_ROWS; m++)
        for (int j = 0; j < V; j++) {
            float *to = c + m * c_stride + j * VEC_WIDTH;
            vec_store(to, add ? vec_add(vec_load(to), acc[m * V + j]) : acc[m * V + j]);
        }
}

#endif
