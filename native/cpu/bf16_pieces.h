/*
 * What products of F32, F16 and BF16 have in common on AMX, whose tiles multiply 16 rows and 16 columns in BF16, 32 elements deep.
 *
 * PIECES. F32 is the sum of three BF16 numbers of 8 bits each, F16 of two. Of the products of pieces the smallest are left out,
 * which are at most 2^-22 of the whole, most of the time far less: a step of 32 elements is 3 tile products of F32 and BF16, 5 of
 * F32 and F16, 6 of F32 and F32, which add up in F32. Numbers below 2^-126 count as 0, and what infinite ones are multiplied with
 * may become NaN.
 *
 * most: the pieces of F32 that are taken, a constant: PIECES, or 1 where a context rounds operands to BF16: then a step is one product.
 */
#ifndef PUNA_BF16_PIECES_H
#define PUNA_BF16_PIECES_H

#include "lanes.h"

enum {
    SIDE = 16,                    /* rows and columns of a tile                                                     */
    STEP = 32,                    /* elements of K of a tile                                                        */
    PIECES = 3,                   /* of F32                                                                         */
    TILE_BYTES = SIDE * STEP * 2,
    TILE_DEPTH = 128              /* elements packed together: two tiles' stay in the first-level cache             */
};

PUNA_INLINE int pieces_of(int32_t dtype, const int most) {
    return most == 1 || dtype == PUNA_DTYPE_BF16 ? 1 : dtype == PUNA_DTYPE_F16 ? 2 : PIECES;
}

/* to[i] = piece i of 16 pairs, a and b, each cut off: of what is left the last piece holds all. A single one is rounded. */
PUNA_INLINE void cut(const int pieces, __m512i to[PIECES], vec a, vec b) {
    if (pieces == 1) {
        to[0] = _mm512_castps_si512(pairs_of_rows(a, b));
        return;
    }
    const __m512i upper = _mm512_set1_epi32((int)0xFFFF0000);
    for (int i = 0; i < pieces; i++) {
        __m512i a_i = _mm512_castps_si512(a), b_i = _mm512_castps_si512(b);
        to[i] = _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(a_i, 16), b_i);
        if (i + 1 == pieces) break;
        a = _mm512_sub_ps(a, _mm512_castsi512_ps(_mm512_and_si512(a_i, upper)));
        b = _mm512_sub_ps(b, _mm512_castsi512_ps(_mm512_and_si512(b_i, upper)));
    }
}

/*
 * A thread loads the tiles' shapes before it uses them: 0 to 3 for sums, 4 and 5 for the left factor, 6 and 7 for the right one,
 * which has so many columns.
 */
PUNA_INLINE void load_shapes(int columns) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) shapes.rows[i] = SIDE, shapes.row_bytes[i] = (uint16_t)(i == 4 || i == 5 ? STEP * 2 : columns * 4);
    __asm__ volatile("" :: "m"(shapes)); /* the load does not say that it reads all of them */
    _tile_loadconfig(&shapes);
}

#endif
