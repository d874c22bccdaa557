/*
 * Many rows of x on AMX, whose registers are tiles of 16 rows of 64 bytes: the integers of a group of 16 rows of x and 16 of w
 * are one instruction for each digit of x. What is left, scaling them and adding them up as matmul_integer.c says, takes as long
 * again.
 *
 * MEASURED, one thread of a Granite Rapids, N = K = 2048, int16 and int8 in GOP/s, without tiles and with: 128 rows Q4_K 215 to
 * 350 and 330 to 480, Q8_0 225 to 320 and 305 to 450; 512 rows 175 to 318 and 300 to 450; 16 rows alike, 8 and 12 a quarter
 * slower. x row by row and not tile by tile, and a single panel for each stretch of x: an eighth slower with 128 rows, two fifths
 * with 512. One set of tiles in place of two: no slower.
 */
#ifndef PUNA_INTEGER_TILES_H
#define PUNA_INTEGER_TILES_H

#include "integer_panel.h"

enum {
    TILE_ROWS = 16,        /* rows of x in a tile                                                                   */
    FEWEST_TILE_ROWS = 17, /* from how many on tiles are worth their while: two tiles                               */
    TILE_PANELS = 4        /* panels that rows of x meet one after another                                          */
};

/*
 * Rounded rows of x as tiles take them: for TILE_ROWS rows and 32 elements the factors d and minus_d_sum of each row, then the low
 * digits, a row after another, then the high ones where there are two. All such pieces of the same rows follow each other.
 */
PUNA_INLINE int64_t x_tile_size(int digits) { return TILE_ROWS * (2 * (int64_t)sizeof(float) + 32 * digits); }
enum { X_TILE_DIGITS = 2 * TILE_ROWS * sizeof(float), DIGITS_BYTES = TILE_ROWS * 32 };

/* Row r of such a piece and of those that follow it. */
PUNA_INLINE void quantize_digits(const int digits, float top, char *to, int64_t r, const float *x, int64_t K) {
    for (int64_t k = 0; k < K; k += 32, to += x_tile_size(digits)) {
        ivec q[ROUNDED];
        x_scale scale;
        quantize_32(q, &scale, x + k, top);
        memcpy(to + r * 4, &scale.d, 4);
        memcpy(to + (TILE_ROWS + r) * 4, &scale.minus_d_sum, 4);
        int8_t *low = (int8_t *)to + X_TILE_DIGITS + r * 32;
        store_low(low, q);
        if (digits == 2) store_high(low + DIGITS_BYTES, q);
    }
}

/* A thread loads the tiles' shapes before it uses them: four of products, two of x, two of w. */
static void load_shapes(int group) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) shapes.rows[i] = TILE_ROWS, shapes.row_bytes[i] = PANEL * sizeof(int32_t);
    shapes.row_bytes[4] = shapes.row_bytes[5] = (uint16_t)group;
    shapes.rows[6] = shapes.rows[7] = (uint8_t)(group / 4);
    __asm__ volatile("" :: "m"(shapes)); /* the load does not say that it reads all of them */
    _tile_loadconfig(&shapes);
}

/* Integer products of TILE_ROWS rows of x and a panel: of the high digits, then of the low ones. */
typedef int32_t tile_products[2][TILE_ROWS][PANEL];

/* PANEL rows of w for tiles: signed bytes, four of a row. */
typedef struct tile_panel {
    panel_row q[DEPTH / 4];
    factors factors;
} tile_panel;

/* A thread's part of the workspace. */
typedef struct tile_space {
    tile_products products[2];
    tile_panel w[TILE_PANELS];
    float sums[TILE_PANELS][ROW_BLOCK][PANEL];
    row_part rows[PANEL]; /* of the last rows of w, when they are less than a panel                                 */
} tile_space;

PUNA_INLINE void pack_tiles(const int32_t dtype, tile_panel *to, const char *rows, int64_t stride, int64_t depth,
                            const char *next) {
    pack_halves(dtype, &to->factors, rows, stride, depth);
    for (int64_t b = 0; b < depth / elements_of(dtype); b++, next += VEC_WIDTH * bytes_of(dtype))
        pack_quants(dtype, true, to->q + b * elements_of(dtype) / 4, rows + b * bytes_of(dtype), stride, next,
                    VEC_WIDTH * bytes_of(dtype));
    const int shift = offset_shift(dtype, true);
    for (int64_t k = 0; k < depth / 4 && shift > 0; k++)
        ivec_store(to->q[k], ivec_sub_i8(ivec_load(to->q[k]), ivec_set1((int32_t)(0x01010101u << shift))));
    pack_scales(dtype, &to->factors, rows, stride, depth);
}

/* The products of group g of x and w. Groups take turns with two sets of tiles, so that one need not wait for the other's. */
#define MULTIPLY_TILE(HIGH, LOW, X, W)                                                                                        \
    do {                                                                                                                      \
        _tile_zero(LOW);                                                                                                      \
        _tile_loadd(W, w->q[g * group / 4], sizeof(panel_row));                                                               \
        _tile_loadd(X, x_low, 32);                                                                                            \
        _tile_dpbssd(LOW, X, W);                                                                                              \
        if (digits == 2) {                                                                                                    \
            _tile_zero(HIGH);                                                                                                 \
            _tile_loadd(X, x_low + DIGITS_BYTES, 32);                                                                         \
            _tile_dpbssd(HIGH, X, W);                                                                                         \
        }                                                                                                                     \
        _tile_stored(LOW, to[1], sizeof to[1][0]);                                                                            \
        if (digits == 2) _tile_stored(HIGH, to[0], sizeof to[0][0]);                                                          \
    } while (0)

PUNA_INLINE void multiply_tile(const int32_t dtype, const int digits, tile_products to, const char *x, const tile_panel *w, int g) {
    const int group = group_of(dtype);
    const char *x_low = x + g * group / 32 * x_tile_size(digits) + X_TILE_DIGITS + g * group % 32;
    if (g % 2 == 0) MULTIPLY_TILE(0, 1, 4, 6);
    else MULTIPLY_TILE(2, 3, 5, 7);
}

/* Continues the sums of TILE_ROWS rows of x and a panel over one depth; first: they start at zero. */
PUNA_INLINE void tile_rows(const int32_t dtype, const int digits, float (*sums)[PANEL], const char *x, const tile_panel *w,
                           int64_t depth, bool first, tile_products products[2]) {
    const int group = group_of(dtype), G = (int)depth / group;
    vec y[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; r++) y[r] = first ? vec_zero() : vec_load(sums[r]);
    multiply_tile(dtype, digits, products[0], x, w, 0);
    for (int g = 0; g < G; g++) {
        /* A group ahead: what a tile has stored is not there at once. */
        if (g + 1 < G) multiply_tile(dtype, digits, products[(g + 1) % 2], x, w, g + 1);
        const float *d_x = (const float *)(x + g * group / 32 * x_tile_size(digits)), *minus_d_sum = d_x + TILE_ROWS;
        const vec d = vec_load(w->factors.d[g]), m = dtype == PUNA_DTYPE_Q4_K ? vec_load(w->factors.m[g]) : vec_zero();
        int32_t(*high)[PANEL] = products[g % 2][0], (*low)[PANEL] = products[g % 2][1];
#pragma GCC unroll 16
        for (int r = 0; r < TILE_ROWS; r++) {
            ivec q = ivec_load(low[r]);
            if (digits == 2) q = ivec_add(q, ivec_shl(ivec_load(high[r]), 8));
            y[r] = vec_fma(vec_mul(d, vec_set1(d_x[r])), ivec_to_f32(q), y[r]);
            if (dtype == PUNA_DTYPE_Q4_K) y[r] = vec_fma(m, vec_set1(minus_d_sum[r]), y[r]);
        }
    }
    for (int r = 0; r < TILE_ROWS; r++) vec_store(sums[r], y[r]);
}

/* N rows of w against rows of x, which begin with a tile. */
PUNA_INLINE void multiply_tiles(const int32_t dtype, const int digits, float *y, int64_t y_stride, const char *w, int64_t row_bytes,
                                const char *x, int64_t rows, int64_t K, int64_t N, bool accumulate, tile_space *space) {
    const int64_t x_stride = K / 32 * x_tile_size(digits); /* of TILE_ROWS rows                                     */
    for (int64_t n = 0; n < N; n += TILE_PANELS * PANEL, w += TILE_PANELS * PANEL * row_bytes) {
        const int64_t some_N = puna_min(TILE_PANELS * PANEL, N - n);
        for (int64_t from = 0; from < rows; from += ROW_BLOCK) {
            const int64_t some_rows = puna_min(ROW_BLOCK, rows - from);
            for (int64_t k = 0; k < K; k += DEPTH) {
                const int64_t depth = puna_min(DEPTH, K - k), bytes_k = depth / elements_of(dtype) * bytes_of(dtype);
                for (int64_t p = 0; p * PANEL < some_N; p++) {
                    const char *w_p = w + p * PANEL * row_bytes, *w_k = w_p + k / elements_of(dtype) * bytes_of(dtype);
                    const char *next = w_p + TILE_PANELS * PANEL * row_bytes + PANEL * (w_k - w_p);
                    if (some_N - p * PANEL >= PANEL)
                        pack_tiles(dtype, &space->w[p], w_k, row_bytes, depth, next);
                    else
                        pack_tiles(dtype, &space->w[p], fill_up(space->rows, w_k, row_bytes, bytes_k, some_N - p * PANEL),
                                   sizeof(row_part), depth, next);
                }
                /* Rows of x stay in the first-level cache for all panels. */
                for (int64_t r = 0; r < some_rows; r += TILE_ROWS)
                    for (int64_t p = 0; p * PANEL < some_N; p++) {
                        float(*sums)[PANEL] = space->sums[p] + r;
                        const char *x_k = x + (from + r) / TILE_ROWS * x_stride + k / 32 * x_tile_size(digits);
                        tile_rows(dtype, digits, sums, x_k, &space->w[p], depth, k == 0, space->products);
                    }
            }
            for (int64_t r = 0; r < some_rows; r++) {
                float *y_r = y + (from + r) * y_stride + n;
                for (int64_t j = 0; j < some_N; j++) {
                    float sum = space->sums[j / PANEL][r][j % PANEL];
                    y_r[j] = accumulate ? y_r[j] + sum : sum;
                }
            }
        }
    }
}

#endif
