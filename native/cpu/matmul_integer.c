/*
 * Matrix product of weights of block types with activations that are first rounded to int8 or int16 (puna.h says how).
 *
 * ORDER OF SUMMATION, the same for one row and for many: the integer product of one group of 32 elements (16 for Q6_K) is exact,
 * in whatever order; then one accumulator per element of y takes a group at a time in order of k. Lanes are rows of w. So a
 * row's bits depend on its own x and w alone, however many rows come with it.
 *
 * SEVERAL ROWS: PANEL rows of w are unpacked DEPTH elements deep into the thread's workspace, which stays in the first-level
 * cache, so that each lane of a vector holds four bytes, or two words, of its own row; those meet the same four bytes or two words
 * of x in every lane, and no sum crosses lanes. The transpose is made of raw bytes, before nibbles are taken apart.
 *
 * BYTES OR WORDS: where the set adds up products of bytes four a lane (BYTE_DOTS), weights stay bytes, and an int16 is two of them,
 * 256 * high + low: as many products, of a panel half as large and sooner unpacked. Q8_0, whose bytes are there already, gains nothing
 * from it on AVX-512 and is widened to int16, as all are elsewhere; int8 activations meet bytes on AVX2, but of Q8_0, as its byte product
 * is unsigned times signed and saturates. NEON's dot products have not been timed; i8mm would halve them once more, but wants two rows,
 * eight bytes of each, in a vector, in the panel, in x and in the sums alike: another kernel.
 *
 * ONE ROW is multiplied row by row (integer_row.h), on AVX-512 but for Q6_K, and on AVX2 but for Q8_0, by quarters of vectors
 * (integer_quarters.h), MANY ROWS on AMX by tiles (integer_tiles.h), with the same bits.
 *
 * MEASURED on a quiet two-core Granite Rapids, N = 5632, K = 2048: Q4_K 267 GOP/s int16, 470 int8 of one thread; AVX2 121, and with
 * int8 167, a quarter more since its loop is unrolled by four and not by eight (24 rows, busy machine: 106 to 134); the code before
 * this had 192. Cold weights, 2, 4 and 7 rows, two threads: fetching the next panel while one is multiplied too, and not only while
 * it is unpacked, a tenth to a quarter faster. On two threads of a Zen 5, which loads two vectors a cycle, x too, AVX-512 with 6 rows
 * and two panels a tile in place of 12 and one: 128 rows, Q8_0 454 to 539 GOP/s, int8 666 to 896, Q4_K 376 to 461, 661 to 829. A DEPTH
 * of six tiles' rows of w after another, so that x stays in the second-level cache: 512 rows as fast, 128 rows 5 % slower. AVX2 there
 * with tiles of four rows: int16 1 to 2 % faster, int8 2 to 8 % slower; blocks of 96 rows of x: 2 % slower. Two digits in place of words on
 * AVX-512: 2 rows 1.2 to 1.3 times as fast, 4 rows 1.07 to 1.13, 8 rows 1.07 to 1.1, 128 rows up to 2 % slower (Q8_0: 1.15, 1.01, 1.02,
 * 3 % slower); words for many rows beside them: the compiler then spilled in the tiles of few. On AVX2 two digits are no faster for two
 * rows, 7 to 30 % slower for more.
 */
#if defined(PUNA_VARIANT_AVX512)
#include "integer_tiles.h"
#endif
#include "integer_row.h"
#if defined(PUNA_VARIANT_AVX512) || defined(PUNA_VARIANT_AVX2)
#include "integer_quarters.h"
#endif
#include "kernels.h"
#include "products.h"
#include "rows.h"

/* Rows of x and vectors of rows of w side by side: what the registers hold. On AVX-512 the rows of w are those of two panels. */
enum {
    TILE = VEC_WIDTH == 8 ? 3 : 6,
    PANELS = VEC_WIDTH == 16 ? 2 : 1,
    TILE_VECTORS = PANELS * VECTORS,
    COLUMNS = PANELS * PANEL
};

/* Where vector v of a tile is, when the first is at p in a panel. */
PUNA_INLINE const void *tile_vector(const void *p, int v) {
    return (const char *)p + v * (int64_t)(PANELS > 1 ? sizeof(panel) : sizeof(vec));
}

typedef struct x_bytes {
    int8_t q[32];
    x_scale scale;
} x_bytes;

typedef struct x_words {
    union {
        int16_t q[32];        /* of every four the first, third, second, fourth: as widened weights lie             */
        int8_t digits[2][32]; /* or the low ones, then the high ones                                                */
    };
    x_scale scale;
} x_words;

/* Bytes that a number of x is made of, and multiplied with bytes of w; 0: with words, as one. */
PUNA_INLINE int digits_of(int32_t dtype, int32_t activations) {
    const bool int8 = activations == PUNA_ACTIVATIONS_INT8;
    if (BYTE_DOTS) return int8 ? 1 : SIGNED_BYTES || dtype != PUNA_DTYPE_Q8_0 ? 2 : 0;
    return int8 && VEC_WIDTH == 8 && dtype != PUNA_DTYPE_Q8_0;
}

PUNA_INLINE int64_t x_size(int digits) { return digits == 1 ? sizeof(x_bytes) : sizeof(x_words); }

PUNA_INLINE void quantize_row(int digits, float top, void *to, const float *x, int64_t K) {
    for (int64_t k = 0; k < K; k += 32) {
        ivec q[ROUNDED];
        if (digits == 1) {
            x_bytes *b = (x_bytes *)to + k / 32;
            quantize_32(q, &b->scale, x + k, top);
            store_low(b->q, q);
            continue;
        }
        x_words *b = (x_words *)to + k / 32;
        quantize_32(q, &b->scale, x + k, top);
        if (digits == 2) {
            store_low(b->digits[0], q);
            store_high(b->digits[1], q);
        } else {
            for (int i = 0; i < ROUNDED; i++) q[i] = ivec_swap_middle(q[i]);
            store_words(b->q, q);
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Multiplying
 * ------------------------------------------------------------------------------------------------------------------ */

#if defined(PUNA_VARIANT_DOTPROD)
/* acc += the products of a group of R rows of x, four bytes a step. */
PUNA_INLINE void multiply_group(const bool bytes, const int R, const int steps, ivec acc[TILE][TILE_VECTORS], const panel_row *w,
                                const char *x, int64_t x_stride) {
    (void)bytes;
    for (int s = 0; s < steps; s += 4) {
        ivec w_s[TILE_VECTORS], x_s[TILE];
        for (int r = 0; r < R; r++) x_s[r] = ivec_load(x + r * x_stride + 4 * s);
#define MULTIPLY_STEP(i)                                                                                                      \
        for (int v = 0; v < TILE_VECTORS; v++) w_s[v] = ivec_load(tile_vector(w[s + i], v));                                  \
        for (int r = 0; r < R; r++)                                                                                           \
            for (int v = 0; v < TILE_VECTORS; v++) acc[r][v] = ivec_dot_lane(acc[r][v], w_s[v], x_s[r], i);
        MULTIPLY_STEP(0) MULTIPLY_STEP(1) MULTIPLY_STEP(2) MULTIPLY_STEP(3)
    }
}
#else
PUNA_INLINE ivec multiply_step(const bool bytes, ivec acc, ivec w, ivec x) {
#if defined(PUNA_VARIANT_AVX512) || defined(PUNA_VARIANT_AVX2)
    if (bytes) return ivec_dot_bytes(acc, w, x);
#endif
    (void)bytes;
    return ivec_dot_i16(acc, w, x);
}

/* acc += the products of a group of R rows of x, four bytes or two words a step. */
PUNA_INLINE void multiply_group(const bool bytes, const int R, const int steps, ivec acc[TILE][TILE_VECTORS], const panel_row *w,
                                const char *x, int64_t x_stride) {
#if defined(PUNA_VARIANT_AVX512)
#pragma GCC unroll 16
#else /* whole, it would be spilled: three quarters of the speed */
#pragma GCC unroll 4
#endif
    for (int s = 0; s < steps; s++) {
        ivec w_s[TILE_VECTORS];
        for (int v = 0; v < TILE_VECTORS; v++) w_s[v] = ivec_load(tile_vector(w[s], v));
        for (int r = 0; r < R; r++) {
            ivec x_s = ivec_spread(x + r * x_stride + 4 * s);
            for (int v = 0; v < TILE_VECTORS; v++) acc[r][v] = multiply_step(bytes, acc[r][v], w_s[v], x_s);
        }
    }
}
#endif

#if defined(PUNA_VARIANT_AVX2)
/* The same of bytes where their products add up to int16 first. */
PUNA_INLINE void multiply_pairs(const int32_t dtype, const int R, const int steps, ivec acc[TILE][TILE_VECTORS], const panel_row *w,
                                const char *x, int64_t x_stride) {
    const int at_once = dtype == PUNA_DTYPE_Q6_K ? 2 : 8; /* 2 * 63 * 127 * 2, or 8 * 15 * 127 * 2, is what an int16 holds */
    for (int from = 0; from < steps; from += at_once) {
        ivec pairs[TILE][TILE_VECTORS];
        for (int r = 0; r < R; r++)
            for (int v = 0; v < TILE_VECTORS; v++) pairs[r][v] = ivec_zero();
        multiply_group(true, R, at_once, pairs, w + from, x + 4 * from, x_stride);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < TILE_VECTORS; v++) acc[r][v] = ivec_add(acc[r][v], ivec_sum_dots(pairs[r][v]));
    }
}
#endif

/* Continues R x COLUMNS sums over one depth; first: they start at zero. Rows of x are x_stride bytes apart. */
PUNA_INLINE void tile(const int32_t dtype, const int digits, const int R, float *sums, const char *x, int64_t x_stride,
                      const panel *w, int64_t depth, bool first, const char *next) {
    const int64_t ahead = next == NULL ? 0 : COLUMNS * bytes_of(dtype) * 32 / elements_of(dtype) / 2; /* for 32 elements */
    const bool bytes = digits > 0;
    const int group = group_of(dtype), shift = offset_shift(dtype, bytes), size = bytes ? 1 : 2;
    vec y[TILE][TILE_VECTORS];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < TILE_VECTORS; v++) y[r][v] = first ? vec_zero() : vec_load(sums + r * COLUMNS + v * VEC_WIDTH);
    for (int64_t k = 0; k < depth; k += 32, x += x_size(digits), next += ahead) {
        fetch(next, ahead, 0, 1);
        const x_scale *scale = (const x_scale *)(x + x_size(digits) - sizeof(x_scale));
        for (int part = 0; part < 32; part += group) {
            const panel_row *w_k = &w->q[(k + part) * size / 4];
            ivec acc[TILE][TILE_VECTORS];
            for (int r = 0; r < R; r++)
                for (int v = 0; v < TILE_VECTORS; v++) acc[r][v] = ivec_zero();
            if (digits == 2) multiply_group(true, R, group / 4, acc, w_k, x + 32 + part, x_stride); /* the high ones        */
            for (int r = 0; r < R; r++) {
                const int32_t *sum = (const int32_t *)((const char *)&scale->sums[group == 32 ? 2 : part / 16] + r * x_stride);
                ivec start = shift == 0 ? ivec_zero() : ivec_sub(ivec_zero(), ivec_shl(ivec_spread(sum), shift));
                for (int v = 0; v < TILE_VECTORS; v++) acc[r][v] = digits == 2 ? ivec_add(start, ivec_shl(acc[r][v], 8)) : start;
            }
#if defined(PUNA_VARIANT_AVX2)
            if (bytes) multiply_pairs(dtype, R, group / 4, acc, w_k, x + part, x_stride);
            else
#endif
                multiply_group(bytes, R, group * size / 4, acc, w_k, x + part * size, x_stride);
            const float *d = w->factors.d[(k + part) / group];
            for (int r = 0; r < R; r++) {
                float d_x;
                memcpy(&d_x, (const char *)&scale->d + r * x_stride, 4);
                for (int v = 0; v < TILE_VECTORS; v++)
                    y[r][v] = vec_fma(vec_mul(vec_load(tile_vector(d, v)), vec_set1(d_x)), ivec_to_f32(acc[r][v]), y[r][v]);
            }
        }
        if (dtype == PUNA_DTYPE_Q4_K) {
            for (int r = 0; r < R; r++) {
                float minus_d_sum;
                memcpy(&minus_d_sum, (const char *)&scale->minus_d_sum + r * x_stride, 4);
                for (int v = 0; v < TILE_VECTORS; v++)
                    y[r][v] = vec_fma(vec_load(tile_vector(w->factors.m[k / 32], v)), vec_set1(minus_d_sum), y[r][v]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < TILE_VECTORS; v++) vec_store(sums + r * COLUMNS + v * VEC_WIDTH, y[r][v]);
}

/* Rows of x against the rows of w of a tile. */
PUNA_INLINE void multiply_panel(const int32_t dtype, const int digits, float *sums, const char *x, int64_t x_stride, int64_t rows,
                                const panel *w, int64_t depth, bool first, const char *next) {
    int64_t r = 0;
    for (; r + TILE <= rows; r += TILE, next = NULL)
        tile(dtype, digits, TILE, sums + r * COLUMNS, x + r * x_stride, x_stride, w, depth, first, next);
    sums += r * COLUMNS, x += r * x_stride;
    switch (rows - r) {
#if VEC_WIDTH != 8
    case 5: tile(dtype, digits, 5, sums, x, x_stride, w, depth, first, next); break;
    case 4: tile(dtype, digits, 4, sums, x, x_stride, w, depth, first, next); break;
    case 3: tile(dtype, digits, 3, sums, x, x_stride, w, depth, first, next); break;
#endif
    case 2: tile(dtype, digits, 2, sums, x, x_stride, w, depth, first, next); break;
    case 1: tile(dtype, digits, 1, sums, x, x_stride, w, depth, first, next); break;
    default: break;
    }
}

/* A thread's part of the workspace. */
typedef struct thread_space {
    panel w[PANELS];
    float sums[ROW_BLOCK][COLUMNS];
    row_part rows[PANEL]; /* of the last rows of w, when they are less than a panel                                 */
} thread_space;

/* N rows of w against rows of x. */
PUNA_INLINE void multiply(const int32_t dtype, const int digits, float *y, int64_t y_stride, const char *w, int64_t row_bytes,
                          const char *x, int64_t rows, int64_t K, int64_t N, bool accumulate, thread_space *space) {
    int64_t x_stride = K / 32 * x_size(digits);
    for (int64_t n = 0; n < N; n += COLUMNS, w += COLUMNS * row_bytes) {
        int64_t some_N = puna_min(COLUMNS, N - n);
        for (int64_t r = 0; r < rows; r += ROW_BLOCK) {
            int64_t some_rows = puna_min(ROW_BLOCK, rows - r);
            for (int64_t k = 0; k < K; k += DEPTH) {
                int64_t depth = puna_min(DEPTH, K - k), bytes_k = depth / elements_of(dtype) * bytes_of(dtype);
                const char *w_k = w + k / elements_of(dtype) * bytes_of(dtype);
                /* The next rows', one run of memory, are fetched half while these are unpacked and half while they are multiplied. */
                const char *next = w + COLUMNS * (row_bytes + (w_k - w));
                for (int64_t p = 0; p < PANELS; p++, next += PANEL * bytes_k / 2) { /* where there is no second, the first again */
                    int64_t first = p * PANEL < some_N ? p * PANEL : 0, rows_p = puna_min(PANEL, some_N - first);
                    const char *w_p = w_k + first * row_bytes;
                    bool full = rows_p == PANEL;
                    pack(dtype, digits > 0, &space->w[p], full ? w_p : fill_up(space->rows, w_p, row_bytes, bytes_k, rows_p),
                         full ? row_bytes : (int64_t)sizeof(row_part), depth, next);
                }
                multiply_panel(dtype, digits, space->sums[0], x + r * x_stride + k / 32 * x_size(digits), x_stride, some_rows,
                               space->w, depth, k == 0, next);
            }
            for (int64_t i = 0; i < some_rows; i++) {
                float *y_i = y + (r + i) * y_stride + n;
                for (int64_t j = 0; j < some_N; j++) y_i[j] = accumulate ? y_i[j] + space->sums[i][j] : space->sums[i][j];
            }
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Shares
 * ------------------------------------------------------------------------------------------------------------------ */

typedef union one_row_space {
    rows_space rows;
#if defined(PUNA_VARIANT_AVX512) || defined(PUNA_VARIANT_AVX2)
    quarters_space quarters;
#endif
} one_row_space;

typedef struct call {
    const puna_matmul_product *products;
    float *const *y;
    const void *const *w;
    const float *x;
    int64_t x_stride, rows, K;
    int32_t activations;
    char *rounded[3];        /* rows of x by their digits; null where no product wants them                         */
    char *x_digits;          /* rounded rows for tiles, and nothing else; null where there are none                 */
    char *spaces;            /* one thread_space after another                                                      */
    int64_t round_rows;      /* of x that one share rounds                                                          */
    x_row one[2];            /* the only row of x, with what belongs to groups of 32 and of 16                      */
    product_shares shares;
} call;

/* Bytes of the rounded rows, so that what follows is aligned as this is. */
static int64_t rounded_bytes(int digits, int64_t rows, int64_t K) {
    return puna_ceil_div(rows * (K / 32) * x_size(digits), 64) * 64;
}

static int64_t space_bytes(bool one_row) {
    return puna_ceil_div(one_row ? sizeof(one_row_space) : sizeof(thread_space), 64) * 64;
}

/* The parts of a single rounded row, one after another. */
enum { ONE_DIGITS, ONE_WORDS, ONE_MINUS_D_SUM, ONE_D, ONE_SUMS, ONE_D_16, ONE_SUMS_16, ONE_PARTS };

static int64_t one_part_bytes(int part, int64_t K) {
    int64_t bytes = part == ONE_DIGITS  ? 2 * puna_ceil_div(K, 64) * 64
                    : part == ONE_WORDS ? 2 * K
                                        : K / (part < ONE_D_16 ? 32 : 16) * 4 + 64;
    return puna_ceil_div(bytes, 64) * 64;
}

static int64_t one_row_bytes(int64_t K) {
    int64_t bytes = 0;
    for (int part = 0; part < ONE_PARTS; part++) bytes += one_part_bytes(part, K);
    return bytes;
}

static void round_one_row(call *c) {
    char *parts[ONE_PARTS], *to = c->spaces;
    for (int part = 0; part < ONE_PARTS; to += one_part_bytes(part, c->K), part++) parts[part] = to;
    float *minus_d_sum = (float *)parts[ONE_MINUS_D_SUM], *d = (float *)parts[ONE_D], *d_16 = (float *)parts[ONE_D_16];
    int32_t *sums = (int32_t *)parts[ONE_SUMS], *sums_16 = (int32_t *)parts[ONE_SUMS_16];
    const float top = puna_activations_top(c->activations);
    int8_t *low = (int8_t *)parts[ONE_DIGITS], *high = low + puna_ceil_div(c->K, 64) * 64;
    int16_t *words = (int16_t *)parts[ONE_WORDS];
    x_row row = {.digits = {low, high}, .words = words, .minus_d_sum = minus_d_sum, .d = d, .sums = sums};
    for (int64_t b = 0; b < c->K / 32; b++) {
        x_scale scale;
        ivec q[ROUNDED];
        quantize_32(q, &scale, c->x + 32 * b, top);
        store_words(words + 32 * b, q);
        store_low(low + 32 * b, q);
        store_high(high + 32 * b, q);
        minus_d_sum[b] = scale.minus_d_sum;
        d[b] = d_16[2 * b] = d_16[2 * b + 1] = scale.d;
        sums_16[2 * b] = scale.sums[0], sums_16[2 * b + 1] = scale.sums[1], sums[b] = scale.sums[2];
    }
    c->one[0] = row;
    row.d = d_16, row.sums = sums_16;
    c->one[1] = row;
}

#if defined(PUNA_VARIANT_AVX512)
static int tile_digits(int32_t activations) { return activations == PUNA_ACTIVATIONS_INT16 ? 2 : 1; }

static bool uses_tiles(const puna_context *context, int64_t rows) {
    return context->isa == PUNA_ISA_AMX && rows >= FEWEST_TILE_ROWS;
}

static int64_t x_tiles_bytes(int32_t activations, int64_t rows, int64_t K) {
    return puna_ceil_div(rows, TILE_ROWS) * (K / 32) * x_tile_size(tile_digits(activations));
}
#endif

static bool any_uses(const puna_matmul_product *products, int32_t count, int32_t activations, int digits) {
    for (int32_t p = 0; p < count; p++)
        if (digits_of(products[p].w_dtype, activations) == digits) return true;
    return false;
}

static void round_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const call *c = arguments;
    float top = puna_activations_top(c->activations);
    for (int64_t r = share * c->round_rows; r < puna_min(c->rows, (share + 1) * c->round_rows); r++) {
        const float *x = c->x + r * c->x_stride;
        for (int digits = 0; digits < 3; digits++)
            if (c->rounded[digits] != NULL)
                quantize_row(digits, top, c->rounded[digits] + r * (c->K / 32) * x_size(digits), x, c->K);
#if defined(PUNA_VARIANT_AVX512)
        if (c->x_digits != NULL && tile_digits(c->activations) == 1)
            quantize_digits(1, top, c->x_digits + r / TILE_ROWS * (c->K / 32) * x_tile_size(1), r % TILE_ROWS, x, c->K);
        else if (c->x_digits != NULL)
            quantize_digits(2, top, c->x_digits + r / TILE_ROWS * (c->K / 32) * x_tile_size(2), r % TILE_ROWS, x, c->K);
#endif
    }
}

/* Calls multiply with dtype and digits constants, so that it is compiled once for each of those that are used. */
#define MULTIPLY(dtype, ...)                                                                                                  \
    if (digits == digits_of(dtype, PUNA_ACTIVATIONS_INT16))                                                                   \
        multiply(dtype, digits_of(dtype, PUNA_ACTIVATIONS_INT16), __VA_ARGS__);                                               \
    else if (digits_of(dtype, PUNA_ACTIVATIONS_INT16) != digits_of(dtype, PUNA_ACTIVATIONS_INT8))                             \
        multiply(dtype, digits_of(dtype, PUNA_ACTIVATIONS_INT8), __VA_ARGS__)

static void multiply_share(void *arguments, int64_t share, int32_t thread) {
    const call *c = arguments;
    product_share s = find_share(&c->shares, c->products, c->rows, share);
    const puna_matmul_product *product = &c->products[s.p];
    const int digits = digits_of(product->w_dtype, c->activations);
    int64_t row_bytes = c->K / elements_of(product->w_dtype) * bytes_of(product->w_dtype);
    const char *w = (const char *)c->w[s.p] + s.n * row_bytes;
    const char *x = c->rounded[digits] + s.r * (c->K / 32) * x_size(digits);
    float *y = c->y[s.p] + s.r * product->y_stride + s.n;
    thread_space *space = (thread_space *)(c->spaces + thread * space_bytes(false));
#define ARGUMENTS y, product->y_stride, w, row_bytes, x, s.rows, c->K, s.N, product->accumulate, space
    switch (product->w_dtype) {
    case PUNA_DTYPE_Q8_0: MULTIPLY(PUNA_DTYPE_Q8_0, ARGUMENTS); break;
    case PUNA_DTYPE_Q4_0: MULTIPLY(PUNA_DTYPE_Q4_0, ARGUMENTS); break;
    case PUNA_DTYPE_Q4_K: MULTIPLY(PUNA_DTYPE_Q4_K, ARGUMENTS); break;
    default: MULTIPLY(PUNA_DTYPE_Q6_K, ARGUMENTS); break;
    }
}

#if defined(PUNA_VARIANT_AVX512)
static void multiply_tiles_share(void *arguments, int64_t share, int32_t thread) {
    const call *c = arguments;
    product_share s = find_share(&c->shares, c->products, c->rows, share);
    const puna_matmul_product *product = &c->products[s.p];
    const int digits = tile_digits(c->activations);
    int64_t row_bytes = c->K / elements_of(product->w_dtype) * bytes_of(product->w_dtype);
    const char *w = (const char *)c->w[s.p] + s.n * row_bytes;
    const char *x = c->x_digits + s.r / TILE_ROWS * (c->K / 32) * x_tile_size(digits);
    float *y = c->y[s.p] + s.r * product->y_stride + s.n;
    tile_space *space = (tile_space *)(c->spaces + thread * (int64_t)sizeof(tile_space));
    load_shapes(group_of(product->w_dtype));
#define MULTIPLY_TILES(dtype)                                                                                                 \
    if (digits == 2) multiply_tiles(dtype, 2, TILE_ARGUMENTS);                                                                \
    else multiply_tiles(dtype, 1, TILE_ARGUMENTS)
#define TILE_ARGUMENTS y, product->y_stride, w, row_bytes, x, s.rows, c->K, s.N, product->accumulate, space
    switch (product->w_dtype) {
    case PUNA_DTYPE_Q8_0: MULTIPLY_TILES(PUNA_DTYPE_Q8_0); break;
    case PUNA_DTYPE_Q4_0: MULTIPLY_TILES(PUNA_DTYPE_Q4_0); break;
    case PUNA_DTYPE_Q4_K: MULTIPLY_TILES(PUNA_DTYPE_Q4_K); break;
    default: MULTIPLY_TILES(PUNA_DTYPE_Q6_K); break;
    }
    _tile_release();
}
#endif

static void multiply_one_share(void *arguments, int64_t share, int32_t thread) {
    const call *c = arguments;
    product_share s = find_share(&c->shares, c->products, 1, share);
    const puna_matmul_product *product = &c->products[s.p];
    int64_t row_bytes = c->K / elements_of(product->w_dtype) * bytes_of(product->w_dtype);
    const char *w = (const char *)c->w[s.p] + s.n * row_bytes;
    one_row_space *space = (one_row_space *)(c->spaces + thread * space_bytes(true));
#define ONE_ARGUMENTS c->y[s.p] + s.n, w, row_bytes, c->one[product->w_dtype == PUNA_DTYPE_Q6_K], c->K, s.N, product->accumulate
#define BY_DIGITS(multiply_by, dtype, space)                                                                                  \
    if (c->activations == PUNA_ACTIVATIONS_INT16) multiply_by(dtype, 2, ONE_ARGUMENTS, space);                                \
    else multiply_by(dtype, 1, ONE_ARGUMENTS, space)
#define BY_WORDS(dtype) multiply_by_rows(dtype, 0, ONE_ARGUMENTS, &space->rows)
#if defined(PUNA_VARIANT_AVX512) || defined(PUNA_VARIANT_AVX2)
#define MULTIPLY_ONE(dtype) BY_DIGITS(multiply_by_quarters, dtype, &space->quarters)
#elif BYTE_DOTS
#define MULTIPLY_ONE(dtype) BY_DIGITS(multiply_by_rows, dtype, &space->rows)
#else
#define MULTIPLY_ONE BY_WORDS
#endif
#if defined(PUNA_VARIANT_AVX2)
#define MULTIPLY_ONE_Q8_0 BY_WORDS /* as its products of bytes would saturate                                           */
#else
#define MULTIPLY_ONE_Q8_0 MULTIPLY_ONE
#endif
#if defined(PUNA_VARIANT_AVX512)
#define MULTIPLY_ONE_Q6_K(dtype) BY_DIGITS(multiply_by_rows, dtype, &space->rows)
#else
#define MULTIPLY_ONE_Q6_K MULTIPLY_ONE
#endif
    switch (product->w_dtype) {
    case PUNA_DTYPE_Q8_0: MULTIPLY_ONE_Q8_0(PUNA_DTYPE_Q8_0); break;
    case PUNA_DTYPE_Q4_0: MULTIPLY_ONE(PUNA_DTYPE_Q4_0); break;
    case PUNA_DTYPE_Q4_K: MULTIPLY_ONE(PUNA_DTYPE_Q4_K); break;
    default: MULTIPLY_ONE_Q6_K(PUNA_DTYPE_Q6_K); break;
    }
}

/* Cycles, roughly, for one row of w: reading and unpacking it, and multiplying it with every row of x. */
static double row_cycles(int64_t rows, int64_t K) { return (double)K * (0.15 + (double)rows / 32); }

int64_t PUNA_KERNEL(matmul_integer_workspace_size)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                   int64_t rows, int64_t K, int32_t activations) {
    if (rows == 1) return 63 + one_row_bytes(K) + context->threads * space_bytes(true);
#if defined(PUNA_VARIANT_AVX512)
    if (uses_tiles(context, rows))
        return 63 + x_tiles_bytes(activations, rows, K) + context->threads * (int64_t)sizeof(tile_space);
#endif
    int64_t bytes = 63 + context->threads * space_bytes(false);
    for (int digits = 0; digits < 3; digits++)
        if (any_uses(products, count, activations, digits)) bytes += rounded_bytes(digits, rows, K);
    return bytes;
}

puna_status PUNA_KERNEL(matmul_integer_forward)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                                int64_t rows, int64_t K, int32_t activations, void *workspace) {
    call c = {.products = products, .y = y, .w = w, .x = x, .x_stride = x_stride, .rows = rows, .K = K, .activations = activations};
    c.spaces = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    if (rows == 1) {
        round_one_row(&c);
        c.spaces += one_row_bytes(K);
        c.shares = share_products(context, products, count, 1, row_cycles(1, K), PANEL, 1);
        run_product_shares(context, &c.shares, count, multiply_one_share, &c);
        return PUNA_STATUS_OK;
    }
    c.round_rows = rows_per_share(K * (int64_t)sizeof(float));
#if defined(PUNA_VARIANT_AVX512)
    if (uses_tiles(context, rows)) {
        const int64_t bytes = x_tiles_bytes(activations, rows, K), last = x_tiles_bytes(activations, TILE_ROWS, K);
        c.x_digits = c.spaces;
        c.spaces += bytes;
        memset(c.spaces - last, 0, (size_t)last); /* for rows that fill up the last tile                            */
        puna_parallel(context, puna_ceil_div(rows, c.round_rows), round_share, &c);
        c.shares = share_products(context, products, count, rows, row_cycles(rows, K) / 2, PANEL, TILE_ROWS);
        run_product_shares(context, &c.shares, count, multiply_tiles_share, &c);
        return PUNA_STATUS_OK;
    }
#endif
    for (int digits = 0; digits < 3; digits++) {
        if (!any_uses(products, count, activations, digits)) continue;
        c.rounded[digits] = c.spaces;
        c.spaces += rounded_bytes(digits, rows, K);
    }
    puna_parallel(context, puna_ceil_div(rows, c.round_rows), round_share, &c);
    c.shares = share_products(context, products, count, rows, row_cycles(rows, K), COLUMNS, TILE);
    run_product_shares(context, &c.shares, count, multiply_share, &c);
    return PUNA_STATUS_OK;
}
