/*
 * One row of x with block weights on NEON and the baseline, with those of Q8_0 on AVX2, and of Q6_K on AVX-512.
 *
 * ONE ROW is bound by reading w, which memory delivers fastest in the order it lies in. So the integers of PANEL rows are computed
 * row by row, a group's lanes added up many groups at a time, and wait in the workspace until lanes are rows again. With dot products of
 * bytes x is two signed bytes a number, 256 * high + low: two byte products of a vector cost less than unpacking to words.
 *
 * MEASURED on a quiet two-core Granite Rapids, N = 5632, K = 2048, int16, cold weights, two threads, when AVX-512 had it too, GB/s of
 * Q8_0, Q4_K, Q6_K:
 *   1  through panels, as several rows are                                                       18, 14.5, 16 GB/s of 26
 *   2  row by row, of words                                                                      20, 14
 *   3  of bytes; lines called 4 KB ahead, pages 32 KB ahead: a page walk takes longer than a row 21.7, 19.5, 18.5
 *   4  lines called evenly, while groups are added up too, into the second cache; a thread's
 *      shares one after another in memory (products.h), so that what one calls serves the next   25.9, 24.5, 26.4 of 29
 * Calling into the first cache instead, or 4 KB ahead all along: 5 to 10 % slower; the first lines of a share in one go: no gain;
 * lines of four pages by turns: 2 to 5 % faster there, on a Zen 5 up to a fifth slower.
 */
#ifndef PUNA_INTEGER_ROW_H
#define PUNA_INTEGER_ROW_H

#include "integer_panel.h"

enum {
    GROUPS = 512,       /* of x that meet a panel, row by row                                                       */
    AHEAD = 8192,       /* bytes from where w is read to where it is fetched, when a panel's integers are done      */
    PAGES_AHEAD = 32768 /* bytes from where w is fetched to where pages are looked up                               */
};

/* What PANEL rows of w and some groups of x have given. A stride that is no power of two spares the cache. */
typedef struct rows_space {
    int32_t q[PANEL][GROUPS + 16]; /* integer products                                                              */
    factors factors;
    row_part rows[PANEL];
} rows_space;

#if BYTE_DOTS
/* Vectors of bytes of w times as many elements of x, from k on, which has one digit or two. */
PUNA_INLINE ivec multiply_digits(const int digits, const int vectors, const ivec *w, x_row x, int64_t k) {
    ivec sum = ivec_zero();
    for (int v = 0; v < vectors && digits == 2; v++) sum = ivec_dot_bytes(sum, w[v], ivec_load(x.digits[1] + k + v * 4 * VEC_WIDTH));
    if (digits == 2) sum = ivec_shl(sum, 8);
    for (int v = 0; v < vectors; v++) sum = ivec_dot_bytes(sum, w[v], ivec_load(x.digits[0] + k + v * 4 * VEC_WIDTH));
    return sum;
}
#endif

#if defined(PUNA_VARIANT_AVX512)
/* Lane i: the integer product, offset included, of group g + i of x and group i of a block of Q6_K. */
PUNA_INLINE ivec multiply_groups(const int32_t dtype, const int digits, const char *w, x_row x, int64_t g, const int n) {
    const ivec low_bits = ivec_set1(0x0F0F0F0F), high_bits = ivec_set1(0x30303030);
    (void)dtype, (void)n;
    ivec p[4];
    for (int half = 0; half < 2; half++) {
        const ivec l = ivec_load(w + 64 * half), h = ivec_spread_half(w + offsetof(puna_q6_k, high) + 32 * half);
        const ivec first = ivec_or(ivec_and(l, low_bits), ivec_and(ivec_shl_halves(h, 4, 2), high_bits));
        const ivec second = ivec_or(ivec_and(ivec_shr(l, 4), low_bits), ivec_and(ivec_shr_halves(h, 0, 2), high_bits));
        p[2 * half] = multiply_digits(digits, 1, &first, x, 16 * g + 128 * half);
        p[2 * half + 1] = multiply_digits(digits, 1, &second, x, 16 * g + 128 * half + 64);
    }
    return ivec_transpose_lanes(ivec_sum_quarters(p));
}
#elif BYTE_DOTS
/*
 * Lane i: the integer product, offset included, of group g + i of x and group i of a row of w, for the first n or more of them;
 * the row of w begins at a block.
 */
PUNA_INLINE ivec multiply_groups(const int32_t dtype, const int digits, const char *w, x_row x, int64_t g, const int n) {
    const ivec low_bits = ivec_set1(0x0F0F0F0F), high_bits = ivec_set1(0x30303030);
    ivec p[VEC_WIDTH];
    if (dtype == PUNA_DTYPE_Q6_K) { /* 64 elements: half of what 64 bytes of low bits and 32 of high ones say          */
        const char *l = w + g / 8 % 2 * 64, *h = w + offsetof(puna_q6_k, high) + g / 8 % 2 * 32;
        const bool first = g % 8 == 0;
#pragma GCC unroll 4
        for (int i = 0; i < VEC_WIDTH; i++) {
            ivec w_l = ivec_load(l + 16 * i), w_h = ivec_load(h + 16 * (i % 2));
            w_l = first ? ivec_and(w_l, low_bits) : ivec_shr_u8(w_l, 4);
            w_h = first ? ivec_shl(w_h, i < 2 ? 4 : 2) : i < 2 ? w_h : ivec_shr(w_h, 2);
            w_l = ivec_or(w_l, ivec_and(w_h, high_bits));
            p[i] = multiply_digits(digits, 1, &w_l, x, 16 * (g + i));
        }
        return ivec_sums(p);
    }
    if (dtype == PUNA_DTYPE_Q4_K) w += offsetof(puna_q4_k, q) + g % 8 / 2 * 32;
#pragma GCC unroll 4
    for (int i = 0; i < VEC_WIDTH; i++) {
        ivec w_i[2];
        p[i] = ivec_zero();
        if (i >= n) continue;
        if (dtype == PUNA_DTYPE_Q8_0) {
            const char *q = w + i * sizeof(puna_q8_0) + offsetof(puna_q8_0, q);
            w_i[0] = ivec_load(q), w_i[1] = ivec_load(q + 16);
        } else if (dtype == PUNA_DTYPE_Q4_0) {
            ivec both = ivec_load(w + i * sizeof(puna_q4_0) + offsetof(puna_q4_0, q));
            w_i[0] = ivec_and(both, low_bits), w_i[1] = ivec_shr_u8(both, 4);
        } else {
            for (int v = 0; v < 2; v++) {
                ivec both = ivec_load(w + i / 2 * 32 + 16 * v);
                w_i[v] = i % 2 == 0 ? ivec_and(both, low_bits) : ivec_shr_u8(both, 4);
            }
        }
        p[i] = multiply_digits(digits, 2, w_i, x, 32 * (g + i));
    }
    return ivec_sums(p);
}
#else
/* The same of words, without offset. */
PUNA_INLINE ivec multiply_groups(const int32_t dtype, const int digits, const char *w, x_row x, int64_t g, const int n) {
    enum { WORDS = 2 * VEC_WIDTH };
    const ivec low = ivec_set1(0x000F000F), high_bits = ivec_set1(0x00300030);
    (void)digits;
    ivec p[VEC_WIDTH];
#pragma GCC unroll 8
    for (int i = 0; i < VEC_WIDTH; i++) p[i] = ivec_zero();
    if (dtype == PUNA_DTYPE_Q6_K) {
        const int half = (int)(g / 8 % 2), at = (int)(g % 8); /* where in the block g is                                  */
        const char *l = w + half * 64, *h = w + offsetof(puna_q6_k, high) + half * 32;
#pragma GCC unroll 8
        for (int i = 0; i < VEC_WIDTH; i += 2) /* two groups: a quarter of 128 elements                             */
            for (int j = 0; j < 32; j += WORDS) {
                int quarter = (at + i) / 2;
                ivec w_l = ivec_widen_u8(l + quarter % 2 * 32 + j), w_h = ivec_widen_u8(h + j);
                w_l = quarter < 2 ? ivec_and(w_l, low) : ivec_shr_u16(w_l, 4);
                w_h = quarter < 2 ? ivec_shl_i16(w_h, 4 - 2 * quarter) : ivec_shr_u16(w_h, 2 * quarter - 4);
                p[i + j / 16] = ivec_dot_i16(p[i + j / 16], ivec_or(w_l, ivec_and(w_h, high_bits)),
                                             ivec_load(x.words + 16 * (g + i) + j));
            }
        return ivec_sums(p);
    }
    if (dtype == PUNA_DTYPE_Q4_K) w += offsetof(puna_q4_k, q) + g % 8 / 2 * 32;
#pragma GCC unroll 8
    for (int i = 0; i < VEC_WIDTH; i++) {
        const int16_t *x_i = x.words + 32 * (g + i);
        if (i >= n) {
        } else if (dtype == PUNA_DTYPE_Q8_0) {
            for (int j = 0; j < 32; j += WORDS)
                p[i] = ivec_dot_i16(p[i], ivec_widen_i8(w + i * sizeof(puna_q8_0) + offsetof(puna_q8_0, q) + j),
                                    ivec_load(x_i + j));
        } else if (dtype == PUNA_DTYPE_Q4_0) {
            for (int j = 0; j < 16; j += WORDS) {
                ivec both = ivec_widen_u8(w + i * sizeof(puna_q4_0) + offsetof(puna_q4_0, q) + j);
                p[i] = ivec_dot_i16(p[i], ivec_and(both, low), ivec_load(x_i + j));
                p[i] = ivec_dot_i16(p[i], ivec_shr_u16(both, 4), ivec_load(x_i + 16 + j));
            }
        } else {
            for (int j = 0; j < 32; j += WORDS) {
                ivec both = ivec_widen_u8(w + i / 2 * 32 + j);
                p[i] = ivec_dot_i16(p[i], i % 2 == 0 ? ivec_and(both, low) : ivec_shr_u16(both, 4), ivec_load(x_i + j));
            }
        }
    }
    return ivec_sums(p);
}
#endif

/* What the products of a group have too much when unsigned quants, as multiply_groups takes them, are less an offset 2^shift. */
PUNA_INLINE int one_row_shift(int32_t dtype) { return offset_shift(dtype, BYTE_DOTS); }

/* Sixteenths of a panel's bytes that are fetched while its groups are added up: about what that takes of the time. */
PUNA_INLINE int adding_16ths(int32_t dtype) {
    return dtype == PUNA_DTYPE_Q8_0 ? 4 : dtype == PUNA_DTYPE_Q6_K ? 6 : 8;
}

/*
 * Fetches the next bytes of w. What is called here stays the same distance ahead, on average: the processor reads no memory while
 * it adds groups up unless it is told to.
 */
PUNA_INLINE void fetch_ahead(const char **ahead, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(*ahead + i, 0, 2);
    __builtin_prefetch(*ahead + PAGES_AHEAD, 0, 2);
    *ahead += bytes;
}

/* The integer products of a row of w, from a block on, and G groups of x. */
PUNA_INLINE void multiply_row(const int32_t dtype, const int digits, int32_t *to, const char *w, x_row x, int G,
                              const char **ahead) {
    const int per_block = (int)elements_of(dtype) / group_of(dtype), shift = one_row_shift(dtype);
    const int64_t block_bytes = bytes_of(dtype), step_bytes = VEC_WIDTH * block_bytes / per_block;
    for (int g = 0; g < G; g += VEC_WIDTH) {
        const char *block = w + g / per_block * block_bytes;
        fetch_ahead(ahead, step_bytes - step_bytes * adding_16ths(dtype) / 16);
        ivec q = G - g >= VEC_WIDTH ? multiply_groups(dtype, digits, block, x, g, VEC_WIDTH)
                                    : multiply_groups(dtype, digits, block, x, g, G - g);
        if (shift != 0) q = ivec_sub(q, ivec_shl(ivec_load(x.sums + g), shift));
        ivec_store(to + g, q);
    }
}

/* y (PANEL) += what depth elements gave: PANEL rows of w, stride bytes apart, against groups from g on. */
PUNA_INLINE void add_groups(const int32_t dtype, vec y[VECTORS], rows_space *space, const char *rows, int64_t stride, x_row x,
                            int g, int64_t depth, const char **ahead) {
    factors *f = &space->factors;
    pack_halves(dtype, f, rows, stride, depth);
    pack_scales(dtype, f, rows, stride, depth);
    const int G = (int)depth / group_of(dtype);
    for (int i = 0; i < G; i += 4) {
        fetch_ahead(ahead, PANEL * 4 * bytes_of(dtype) * group_of(dtype) / elements_of(dtype) * adding_16ths(dtype) / 16);
        ivec q[VECTORS][4];
        for (int v = 0; v < VECTORS; v++)
            ivec_columns(q[v], (const char *)&space->q[v * VEC_WIDTH][g + i], sizeof space->q[0]);
        for (int c = 0; c < 4 && c < G - i; c++) {
            vec d_x = vec_set1(x.d[g + i + c]);
            for (int v = 0; v < VECTORS; v++) {
                vec d = vec_mul(vec_load(f->d[i + c] + v * VEC_WIDTH), d_x);
                y[v] = vec_fma(d, ivec_to_f32(q[v][c]), y[v]);
                if (dtype == PUNA_DTYPE_Q4_K)
                    y[v] = vec_fma(vec_load(f->m[i + c] + v * VEC_WIDTH), vec_set1(x.minus_d_sum[g + i + c]), y[v]);
            }
        }
    }
}

/* N rows of w against one row of x. */
PUNA_INLINE void multiply_by_rows(const int32_t dtype, const int digits, float *y, const char *w, int64_t row_bytes, x_row x,
                                  int64_t K, int64_t N, bool accumulate, rows_space *space) {
    const int group = group_of(dtype);
    const int64_t depth_bytes = DEPTH / elements_of(dtype) * bytes_of(dtype);
    const char *ahead = w + AHEAD + PANEL * row_bytes * adding_16ths(dtype) / 16;
    for (int64_t n = 0; n < N; n += PANEL, w += PANEL * row_bytes) {
        const int64_t some_N = puna_min(PANEL, N - n);
        vec sums[VECTORS];
        for (int v = 0; v < VECTORS; v++) sums[v] = vec_zero();
        const char *w_k = w;
        x_row x_k = x;
        for (int64_t k = 0; k < K; k += GROUPS * group) {
            const int64_t some_K = puna_min(GROUPS * group, K - k);
            for (int r = 0; r < PANEL; r++)
                multiply_row(dtype, digits, space->q[r], w_k + puna_min(r, some_N - 1) * row_bytes, x_k, (int)(some_K / group),
                             &ahead);
            for (int64_t at = 0; at < some_K; at += DEPTH, w_k += depth_bytes) {
                const int64_t depth = puna_min(DEPTH, some_K - at);
                if (some_N == PANEL) {
                    add_groups(dtype, sums, space, w_k, row_bytes, x_k, (int)(at / group), depth, &ahead);
                } else {
                    int64_t bytes = depth / elements_of(dtype) * bytes_of(dtype);
                    add_groups(dtype, sums, space, fill_up(space->rows, w_k, row_bytes, bytes, some_N), sizeof(row_part), x_k,
                               (int)(at / group), depth, &ahead);
                }
            }
            x_k.minus_d_sum += GROUPS * group / 32, x_k.d += GROUPS, x_k.sums += GROUPS;
            x_k.digits[0] += GROUPS * group, x_k.digits[1] += GROUPS * group, x_k.words += GROUPS * group;
        }
        float some[PANEL];
        for (int v = 0; v < VECTORS; v++) vec_store(some + v * VEC_WIDTH, sums[v]);
        for (int64_t j = 0; j < some_N; j++) y[n + j] = accumulate ? y[n + j] + some[j] : some[j];
    }
}

#endif
