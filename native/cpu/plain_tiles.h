/*
 * Products of F32, F16 and BF16 weights on AMX, in pieces (bf16_pieces.h), in tiles of 16 rows of w and 16 of x.
 * Against F64, F32 numbers of normal distribution and K of 2048, the error is 1.3 times what AVX2's kernel makes, of which each
 * addition to a sum is most. x above 2^127 * 1.99 counts as infinite.
 *
 * ORDER OF SUMMATION, the same for one row and for many: a step after another, in a step the pieces of w after one another, and
 * for each those of x, the largest first; within a tile product as the processor does it: pairs of elements from zero, one
 * after another, even and odd ones apart, then both together, then to the sum. (Vectors that follow this, lanes being steps, give
 * the same bits, but read F32 and F16 at half the speed of memory.)
 *
 * MEASURED, two threads of a Granite Rapids with memory at 29 GB/s, N = 5632, K = 2048, vectors and then tiles, F32, F16, BF16:
 *   1 row, weights from memory, GB/s    28.1 26.7    27.1 25.0    26.2 25.8
 *   16 rows, GFLOP/s                    132  209     185  329     179  422
 *   128                                 212  421     239  598     239  749
 *   512                                 220  460     225  624     220  747; AMX's own ceiling is 6,900 of BF16 with BF16
 * Packed ahead of multiplying, not meanwhile: 1 row of F32 or F16 at half the speed, 128 rows a fifth slower. 1 row with the next
 * panel fetched in the order of memory, and not elements of the same rows: a fifth slower; with two tiles of w, or four, or parts
 * of 64 or 128 elements: as fast or slower; packed two parts ahead: as fast. What is left at 512 rows: packing, a sixth; sums that
 * come and go, an eighth; x from the second cache, a fifth.
 */
#ifndef PUNA_PLAIN_TILES_H
#define PUNA_PLAIN_TILES_H

#include "bf16_pieces.h"

enum {
    PANEL_ROWS = 2 * SIDE, /* rows of w that are multiplied at once                                                 */
    PANELS = 8,            /* of w, packed together                                                                 */
    FEW_DEPTH = STEP,      /* elements of K packed together where rows of x are few                                 */
    AHEAD = 256,           /* elements of a row that are fetched before they are packed                             */
    MOST_TILED_ROWS = 512  /* rows of x that are packed at once and meet packed panels                              */
};

/*
 * Which elements a tile takes as a pair: neighbours, as they lie in memory, where w is BF16 and read in place; else the first and
 * the seventeenth, and so on, which are put together in fewer instructions.
 */
PUNA_INLINE bool pairs_neighbours(int32_t dtype) { return dtype == PUNA_DTYPE_BF16; }

/* to[i] = piece i of 32 elements of x, a and then b. */
PUNA_INLINE void split(const int most, __m512i to[PIECES], vec a, vec b) {
    for (int i = 0; i < most; i++) {
        to[i] = (__m512i)_mm512_cvtne2ps_pbh(b, a);
        if (i + 1 == most) break;
        vec a_i = vec_from_bf16_bits(_mm512_castsi512_si256(to[i])), b_i = vec_from_bf16_bits(_mm512_extracti64x4_epi64(to[i], 1));
        a = _mm512_maskz_sub_ps(~_mm512_fpclass_ps_mask(a_i, 0x99), a, a_i); /* of infinities and NaN nothing is left */
        b = _mm512_maskz_sub_ps(~_mm512_fpclass_ps_mask(b_i, 0x99), b, b_i);
    }
}

/*
 * Tiles of x (steps, most pieces, 16 pairs of elements, side rows): rows [0, rows) of x, the others, up to side, are 0. A single row
 * lies as it is.
 */
PUNA_INLINE void pack_x(const int most, bool neighbours, char *to, const float *x, int64_t x_stride, int64_t rows, int side, int64_t K) {
    uint16_t order[STEP];
    for (int e = 0; e < STEP; e++) order[e] = (uint16_t)(neighbours ? e : e / 2 + e % 2 * SIDE);
    const __m512i pairs_of = _mm512_loadu_si512(order);
    for (int64_t k = 0; k < K; k += STEP) {
        __m512i pieces[SIDE][PIECES];
        for (int r = 0; r < rows; r++) {
            vec a, b;
            load_two(PUNA_DTYPE_F32, &a, &b, x + r * x_stride, k, K);
            split(most, pieces[r], a, b);
            for (int i = 0; i < most; i++) pieces[r][i] = _mm512_permutexvar_epi16(pairs_of, pieces[r][i]);
        }
        for (int i = 0; i < most; i++, to += SIDE * side * 4) {
            if (side == 1) {
                _mm512_storeu_si512(to, pieces[0][i]);
                continue;
            }
            vec pairs[SIDE];
            for (int r = 0; r < SIDE; r++) pairs[r] = r < rows ? _mm512_castsi512_ps(pieces[r][i]) : vec_zero();
            vec_transpose(pairs);
            for (int p = 0; p < SIDE; p++) vec_store_partial((float *)(to + p * side * 4), pairs[p], side);
        }
    }
}

/* Where the tiles of a panel's elements lie: bytes between rows, between tiles, between pieces and between steps. */
typedef struct w_tiles {
    const char *at;
    int64_t row, tile, piece, step;
} w_tiles;

/* The pieces of elements [k, k + 32) of a row of K, in pairs. */
PUNA_INLINE void load_cuts(const int32_t dtype, const int most, __m512i to[PIECES], const char *row, int64_t k, int64_t K) {
    if (pairs_neighbours(dtype)) {
        to[0] = load_neighbours(row, k, K);
    } else {
        vec a, b;
        load_two(dtype, &a, &b, row, k, K);
        cut(pieces_of(dtype, most), to, a, b);
    }
}

/* Elements [k, k + depth) of rows [n, n + rows) of w (N, K), which are packed as tiles (steps, pieces, 2, 16, 32). */
typedef struct w_part {
    const char *w;
    int64_t row_bytes, N, K, n, k, rows, depth;
    int64_t stride;     /* from a panel to the next one, in rows                                                    */
    int64_t most_depth; /* of a part                                                                                */
    int64_t most_rows;  /* of a part: one tile or two                                                               */
    char *to, *other;   /* where it and the next are packed                                                         */
    int64_t packed;     /* rows so far                                                                              */
    int64_t ahead;      /* what is fetched meanwhile lies so many bytes behind: AHEAD elements, or the next panel   */
} w_part;

PUNA_INLINE void start_part(const int32_t dtype, w_part *part, int64_t n, int64_t k) {
    part->n = n;
    part->k = k;
    part->rows = puna_max(puna_min(part->most_rows, part->N - n), 0);
    part->depth = puna_min(part->most_depth, part->K - k);
    part->packed = 0;
    part->ahead = AHEAD * element_bytes(dtype) + (k + AHEAD < part->K ? 0 : (part->stride - 1) * part->row_bytes);
}

/* Deeper, or the next panel, or, at the end, nothing. */
PUNA_INLINE void next_part(const int32_t dtype, w_part *part) {
    char *to = part->other;
    part->other = part->to;
    part->to = to;
    const bool deeper = part->k + part->depth < part->K;
    start_part(dtype, part, deeper ? part->n : part->n + part->stride, deeper ? part->k + part->depth : 0);
}

/* Packs some more rows, and fetches what comes later. */
PUNA_INLINE void pack_rows(const int32_t dtype, const int most, w_part *part, int64_t rows) {
    const int pieces = pieces_of(dtype, most);
    const int64_t first = part->packed, size = element_bytes(dtype);
    const char *w = part->w + (part->n + first) * part->row_bytes + part->k * size;
    char *to = part->to + first * STEP * 2;
    part->packed = puna_min(first + rows, part->rows);
    for (int64_t n = first; n < part->packed; n++, w += part->row_bytes, to += STEP * 2) {
        for (int64_t i = 0; i < part->depth * size + 63; i += 64) __builtin_prefetch(w + part->ahead + i, 0, 2);
#pragma GCC unroll 2
        for (int64_t s = 0; s * STEP < part->depth; s++) {
            __m512i cuts[PIECES];
            load_cuts(dtype, most, cuts, w, s * STEP, part->K - part->k);
            for (int i = 0; i < pieces; i++) _mm512_store_si512(to + (s * pieces + i) * part->most_rows * STEP * 2, cuts[i]);
        }
    }
}

/* Packs what is left. Rows from part->rows on are left as they are: nobody reads what comes of them. */
PUNA_INLINE w_tiles pack_all(const int32_t dtype, const int most, w_part *part) {
    pack_rows(dtype, most, part, PANEL_ROWS);
    __asm__ volatile("" ::: "memory"); /* loads of tiles do not say that they read                                  */
    const int64_t piece = part->most_rows * STEP * 2;
    return (w_tiles){part->to, STEP * 2, TILE_BYTES, piece, pieces_of(dtype, most) * piece};
}

/*
 * Continues the sums of a tile of w and one of x by a step. Meanwhile, while tile products are waited for, some of the next
 * elements are packed, or those in place fetched.
 */
PUNA_INLINE void multiply_few(const int32_t dtype, const int most, w_tiles w, const char *x, int side, w_part *next,
                              const bool in_place) {
    const int part = most == 1 ? SIDE : in_place ? 6 : dtype == PUNA_DTYPE_F16 ? 4 : 3; /* of SIDE rows, by one product     */
    for (int i = 0; i < pieces_of(dtype, most); i++) {
        _tile_loadd(4, w.at + i * w.piece, w.row);
        for (int j = 0; i + j < most; j++) {
            _tile_loadd(6, x + j * SIDE * side * 4, side * 4);
            _tile_dpbf16ps(0, 4, 6);
            if (!in_place) pack_rows(dtype, most, next, part);
            else for (int n = part * j; n < part * (j + 1); n++) __builtin_prefetch(w.at + n * w.row + next->ahead, 0, 2);
        }
    }
}

/* Continues the sums of two tiles of w, 0 and 2 with one tile of x, 1 and 3 with a second one, and packs rows in each step. */
PUNA_INLINE void multiply_many(const int32_t dtype, const int most, const bool two, w_tiles w, const char *x, int64_t x_stride,
                               int64_t steps, w_part *next, int64_t rows) {
    for (int64_t s = 0; s < steps; s++, w.at += w.step, x += most * TILE_BYTES) {
        for (int i = 0; i < pieces_of(dtype, most); i++) {
            _tile_loadd(4, w.at + i * w.piece, w.row);
            _tile_loadd(5, w.at + i * w.piece + w.tile, w.row);
            for (int j = 0; i + j < most; j++) {
                _tile_loadd(6, x + j * TILE_BYTES, SIDE * 4);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(2, 5, 6);
                if (!two) continue;
                _tile_loadd(7, x + x_stride + j * TILE_BYTES, SIDE * 4);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        pack_rows(dtype, most, next, rows);
    }
}

/* y[r, n] (= or +=) sums[n][r] for rows rows of x and N of w. */
PUNA_INLINE void store_tile(float *y, int64_t y_stride, const float sums[SIDE][SIDE], int64_t rows, int64_t N, bool accumulate) {
    vec to[SIDE];
    for (int n = 0; n < SIDE; n++) to[n] = vec_load(sums[n]);
    vec_transpose(to);
    for (int r = 0; r < rows; r++, y += y_stride)
        vec_store_partial(y, accumulate ? vec_add(vec_load_partial(y, N), to[r]) : to[r], N);
}

/* A thread's part of the workspace. */
typedef struct tile_space {
    float sums[PANELS][MOST_TILED_ROWS / SIDE][2][SIDE][SIDE]; /* of each panel and each tile of x                  */
    char w[PANELS][2][TILE_DEPTH / STEP * PIECES * 2 * TILE_BYTES];
} tile_space;

/* Up to SIDE rows of x, a tile of so many: w is packed, or read as it lies in memory, while what came before is multiplied. */
PUNA_INLINE void few_rows(const int32_t dtype, const int most, float *y, int64_t y_stride, const char *w, int64_t row_bytes, const char *x,
                          int rows, int64_t K, int64_t N, bool accumulate, tile_space *space) {
    const int64_t x_step = most * SIDE * rows * 4, size = element_bytes(dtype);
    w_part part = {.w = w, .row_bytes = row_bytes, .N = N, .K = K};
    part.stride = part.most_rows = SIDE, part.most_depth = FEW_DEPTH;
    part.to = space->w[0][0], part.other = space->w[0][1];
    start_part(dtype, &part, 0, 0);
    for (int64_t n = 0; n < N; n += SIDE) {
        _tile_zero(0);
        for (int64_t k = 0; k < K; k += FEW_DEPTH) {
            const bool in_place = dtype == PUNA_DTYPE_BF16 && part.rows == SIDE && part.depth % STEP == 0;
            w_tiles tiles = {w + n * row_bytes + k * size, row_bytes, 0, 0, STEP * size};
            if (!in_place) tiles = pack_all(dtype, most, &part);
            next_part(dtype, &part);
            if (in_place) multiply_few(dtype, most, tiles, x + k / STEP * x_step, rows, &part, true);
            else multiply_few(dtype, most, tiles, x + k / STEP * x_step, rows, &part, false);
        }
        float(*sums)[SIDE] = space->sums[0][0][0];
        _tile_stored(0, sums, SIDE * 4);
        store_tile(y + n, y_stride, sums, rows, puna_min(SIDE, N - n), accumulate);
    }
}

/* Up to MOST_TILED_ROWS rows of x, in tiles of SIDE: what is packed of some panels stays in the cache while x meets it. */
PUNA_INLINE void tiled_rows(const int32_t dtype, const int most, float *y, int64_t y_stride, const char *w, int64_t row_bytes,
                            const char *x, int64_t rows, int64_t K, int64_t N, bool accumulate, tile_space *space) {
    const int64_t x_step = most * TILE_BYTES, x_stride = puna_ceil_div(K, STEP) * x_step; /* of SIDE rows       */
    const int64_t pack_in_step = puna_ceil_div(PANEL_ROWS, puna_ceil_div(rows, 2 * SIDE) * (TILE_DEPTH / STEP));
    w_part parts[PANELS];
    for (int p = 0; p < PANELS; p++) {
        parts[p] = (w_part){.w = w, .row_bytes = row_bytes, .N = N, .K = K};
        parts[p].stride = PANELS * PANEL_ROWS, parts[p].most_rows = PANEL_ROWS, parts[p].most_depth = TILE_DEPTH;
        parts[p].to = space->w[p][0], parts[p].other = space->w[p][1];
        start_part(dtype, &parts[p], p * PANEL_ROWS, 0);
    }
    for (int64_t n = 0; n < N; n += PANELS * PANEL_ROWS) {
        const int64_t some_N = puna_min(PANELS * PANEL_ROWS, N - n), panels = puna_ceil_div(some_N, PANEL_ROWS);
        for (int64_t k = 0; k < K; k += TILE_DEPTH) {
            const int64_t steps = puna_ceil_div(puna_min(TILE_DEPTH, K - k), STEP);
            w_tiles tiles[PANELS];
            for (int64_t p = 0; p < panels; p++) {
                tiles[p] = pack_all(dtype, most, &parts[p]);
                next_part(dtype, &parts[p]);
            }
            for (int64_t r = 0; r < rows; r += 2 * SIDE) {
                const char *x_k = x + r / SIDE * x_stride + k / STEP * x_step;
                const bool two = r + SIDE < rows;
                for (int64_t p = 0; p < panels; p++) {
                    float(*first)[SIDE][SIDE] = space->sums[p][r / SIDE], (*second)[SIDE][SIDE] = first + 2;
#define SUMS(operation)                                                                                                       \
    operation(0, first[0], SIDE * 4);                                                                                         \
    operation(2, first[1], SIDE * 4);                                                                                         \
    if (two) {                                                                                                                \
        operation(1, second[0], SIDE * 4);                                                                                    \
        operation(3, second[1], SIDE * 4);                                                                                    \
    }
#define ZERO(tile, sums, row) _tile_zero(tile)
                    if (k == 0) { SUMS(ZERO) }
                    else { SUMS(_tile_loadd) }
                    if (two) multiply_many(dtype, most, true, tiles[p], x_k, x_stride, steps, &parts[p], pack_in_step);
                    else multiply_many(dtype, most, false, tiles[p], x_k, x_stride, steps, &parts[p], pack_in_step);
                    SUMS(_tile_stored)
                }
            }
        }
        for (int64_t t = 0; t * SIDE < some_N; t++)
            for (int64_t r = 0; r < rows; r += SIDE)
                store_tile(y + r * y_stride + n + t * SIDE, y_stride, space->sums[t / 2][r / SIDE][t % 2],
                           puna_min(SIDE, rows - r), puna_min(SIDE, some_N - t * SIDE), accumulate);
    }
}

#endif
