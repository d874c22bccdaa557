/*
 * The backward products of matmul_backward.c on AMX: c (M, N) (= or +=) a (M, P) times b (P, N), in pieces (bf16_pieces.h), in
 * tiles of 16 rows of a and 16 columns of b, 32 of P deep. A tile takes the first and the seventeenth of P as a pair, and so on.
 *
 * ORDER OF SUMMATION. A step of 32 after another is added to c, in a step the pieces of a after one another, and for each those of
 * b, the largest first.
 */
#ifndef PUNA_GEMM_TILES_H
#define PUNA_GEMM_TILES_H

#include "bf16_pieces.h"

/* to[i] = piece i of 16 pairs, rounded to the nearest: what is left of a falls on either side, and of the products with it. */
PUNA_INLINE void round_pairs(const int most, __m512i to[PIECES], vec a, vec b) {
    if (most == 1) {
        to[0] = _mm512_castps_si512(pairs_of_rows(a, b));
        return;
    }
    const __m512i upper = _mm512_set1_epi32((int)0xFFFF0000), half = _mm512_set1_epi32(0x8000);
    for (int i = 0; i < PIECES; i++) {
        __m512i a_i = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(a), half), upper);
        __m512i b_i = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(b), half), upper);
        to[i] = _mm512_or_si512(_mm512_srli_epi32(a_i, 16), b_i);
        a = _mm512_sub_ps(a, _mm512_castsi512_ps(a_i));
        b = _mm512_sub_ps(b, _mm512_castsi512_ps(b_i));
    }
}

/* Elements [column, column + 16) of row p of some rows, zeros where there are none. */
PUNA_INLINE vec load_columns(int32_t dtype, const char *rows, int64_t row_bytes, int64_t p, int64_t depth, int64_t column,
                             int64_t columns) {
    if (p >= depth) return vec_zero();
    if (column + SIDE <= columns) return plain_vec(dtype, rows + p * row_bytes, column);
    return plain_vec_partial(dtype, rows + p * row_bytes, column, columns - column);
}

/* to (rows / 16, depth / 32, pieces, 16, 32), zeros where a has no rows or P ends. One of a_row and a_step is 1. */
PUNA_INLINE void pack_a_tiles(const int most, char *to, const float *a, int64_t a_row, int64_t a_step, int64_t rows, int64_t depth) {
    for (int64_t m = 0; m < rows; m += SIDE)
        for (int64_t p = 0; p < depth; p += STEP, to += most * TILE_BYTES) {
            __m512i pieces[PIECES][SIDE];
            for (int i = 0; i < SIDE; i++) {
                vec first = vec_zero(), second = vec_zero();
                if (a_row == 1) {
                    first = load_columns(PUNA_DTYPE_F32, (const char *)a, a_step * 4, p + i, depth, m, rows);
                    second = load_columns(PUNA_DTYPE_F32, (const char *)a, a_step * 4, p + SIDE + i, depth, m, rows);
                } else if (m + i < rows) {
                    load_two(PUNA_DTYPE_F32, &first, &second, a + (m + i) * a_row, p, depth);
                }
                __m512i pairs[PIECES];
                round_pairs(most, pairs, first, second);
                for (int j = 0; j < most; j++) pieces[j][i] = pairs[j];
            }
            for (int j = 0; j < most; j++) {
                vec turned[SIDE];
                for (int i = 0; i < SIDE; i++) turned[i] = _mm512_castsi512_ps(pieces[j][i]);
                if (a_row == 1) vec_transpose(turned);
                for (int i = 0; i < SIDE; i++) vec_store((float *)(to + j * TILE_BYTES + i * STEP * 2), turned[i]);
            }
        }
}

/* to (columns / 16, depth / 32, pieces, 16 pairs, 16 columns). */
PUNA_INLINE void pack_b_tiles(const int32_t dtype, const int most, char *to, const char *b, int64_t row_bytes, int64_t columns,
                              int64_t depth) {
    const int pieces = pieces_of(dtype, most);
    const int64_t steps = puna_ceil_div(depth, STEP);
    for (int64_t s = 0; s < steps; s++)
        for (int i = 0; i < SIDE; i++)
            for (int64_t n = 0; n < columns; n += SIDE) {
                __m512i pairs[PIECES];
                cut(pieces, pairs, load_columns(dtype, b, row_bytes, s * STEP + i, depth, n, columns),
                    load_columns(dtype, b, row_bytes, s * STEP + SIDE + i, depth, n, columns));
                char *tile = to + (n / SIDE * steps + s) * pieces * TILE_BYTES + i * STEP * 2;
                for (int j = 0; j < pieces; j++) _mm512_store_si512(tile + j * TILE_BYTES, pairs[j]);
            }
}

/* c[:rows, :columns] (= or, where it adds, +=) packed a times packed b. */
PUNA_INLINE void multiply_gemm_tiles(const int32_t dtype, const int most, float *c, int64_t c_stride, int64_t rows, int64_t columns,
                                     const char *a, const char *b, int64_t steps, bool add) {
    const int pieces = pieces_of(dtype, most);
    const int64_t a_tile = steps * most * TILE_BYTES, b_tile = steps * pieces * TILE_BYTES;
    for (int64_t m = 0; m < rows; m += 2 * SIDE)
        for (int64_t n = 0; n < columns; n += 2 * SIDE) {
            float edge[4][SIDE][SIDE]; /* tiles over an edge of c, or outside                                           */
            float *at[4];
            int64_t stride[4];
            for (int t = 0; t < 4; t++) {
                const int64_t r = m + t / 2 * SIDE, k = n + t % 2 * SIDE;
                const bool inside = r + SIDE <= rows && k + SIDE <= columns;
                at[t] = inside ? c + r * c_stride + k : edge[t][0];
                stride[t] = (inside ? c_stride : SIDE) * 4;
                for (int64_t i = 0; i < SIDE && !inside && add; i++)
                    vec_store(edge[t][i], r + i < rows && k < columns
                              ? vec_load_partial(c + (r + i) * c_stride + k, puna_min(columns - k, SIDE)) : vec_zero());
            }
            __asm__ volatile("" ::: "memory"); /* loads of tiles do not say that they read                          */
            if (add) {
                _tile_loadd(0, at[0], stride[0]);
                _tile_loadd(1, at[1], stride[1]);
                _tile_loadd(2, at[2], stride[2]);
                _tile_loadd(3, at[3], stride[3]);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            const char *a0 = a + m / SIDE * a_tile, *a1 = m + SIDE < rows ? a0 + a_tile : a0;
            const char *b0 = b + n / SIDE * b_tile, *b1 = n + SIDE < columns ? b0 + b_tile : b0;
            for (int64_t s = 0; s < steps; s++) {
                for (int i = 0; i < most; i++) {
                    _tile_loadd(4, a0 + (s * most + i) * TILE_BYTES, STEP * 2);
                    _tile_loadd(5, a1 + (s * most + i) * TILE_BYTES, STEP * 2);
                    for (int j = 0; j < pieces && i + j < most; j++) {
                        _tile_loadd(6, b0 + (s * pieces + j) * TILE_BYTES, STEP * 2);
                        _tile_dpbf16ps(0, 4, 6);
                        _tile_dpbf16ps(2, 5, 6);
                        _tile_loadd(7, b1 + (s * pieces + j) * TILE_BYTES, STEP * 2);
                        _tile_dpbf16ps(1, 4, 7);
                        _tile_dpbf16ps(3, 5, 7);
                    }
                }
            }
            _tile_stored(0, at[0], stride[0]);
            _tile_stored(1, at[1], stride[1]);
            _tile_stored(2, at[2], stride[2]);
            _tile_stored(3, at[3], stride[3]);
            for (int t = 0; t < 4; t++) {
                const int64_t r = m + t / 2 * SIDE, k = n + t % 2 * SIDE;
                for (int64_t i = 0; i < SIDE && at[t] == edge[t][0] && r + i < rows && k < columns; i++)
                    vec_store_partial(c + (r + i) * c_stride + k, vec_load(edge[t][i]), puna_min(columns - k, SIDE));
            }
        }
}

#endif
