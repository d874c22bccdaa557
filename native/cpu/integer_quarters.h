/*
 * One row of x with block weights of four and six bits on AVX2.
 *
 * A vector is sixteen bytes of each of two rows of w, i and i + 4 of eight: a quarter holds a row, as ivec_load_sixteens loads it, and
 * meets the same sixteen elements of x in either, which stay in registers for the eight rows. x is one signed byte a number, or two,
 * 256 * high + low. Products are added up in int16 as far as they fit, and so are halves of quarters, until lanes are rows.
 *
 * Halves of nibbles, 4 * 15 * 128, may double twice in an int16, six bits, 2 * 63 * 128, once. Sums of Q8_0 would saturate.
 *
 * READING: as in integer_columns.h; the code is short, and what is fetched evenly is the next panel.
 *
 * MEASURED on a Zen 5, N 1024, K 2048, out of the cache, one thread, GB/s of Q4_0, Q4_K, Q6_K, in turn, medians of seven copies of the
 * library (a copy's place in memory alone has made loops of many kilobytes five times slower):
 *   int16, words row by row (integer_row.h) 20.5, 21.8, 18.0; so 22.7, 23.5, 19.2; by columns 19.7, 17, 18.9
 *   int8, by columns (integer_columns.h)    25.3, 26.8, 23.3; so 30.4, 32.3, 25.6
 * All sums stored first and joined in a second loop, since chains this long fill the scheduler: as fast. Both groups of a byte of Q4_K,
 * or all four of Q6_K, while it is loaded: registers spill, 5 to 15 % slower. On AVX-512 Q8_0 and Q4_K out of the cache 20 and 7 %
 * faster than by columns, cold as fast, Q6_K a fifth slower: not used there.
 */
#ifndef PUNA_INTEGER_QUARTERS_H
#define PUNA_INTEGER_QUARTERS_H

#include "integer_panel.h"

typedef struct quarters_space {
    factors factors;
    row_part rows[PANEL]; /* of the last rows of w, when they are less than a panel                                 */
} quarters_space;

/* Sums of four pairs of rows in int16, of low digits and of high ones. */
typedef struct pair_sums {
    ivec low[4], high[4];
} pair_sums;

/* Sixteen elements of x from k on, digit by digit, in either quarter. */
PUNA_INLINE void spread_sixteen(const int digits, ivec to[2], x_row x, int64_t k) {
    for (int d = 0; d < digits; d++) to[d] = ivec_spread_quarter(x.digits[d] + k);
}

/* What sums of eight rows come to, lane by lane: the integer products, offset included. */
PUNA_INLINE ivec join_pairs(const int32_t dtype, const int digits, const pair_sums *sums) {
    const ivec *low = sums->low, *high = sums->high;
    ivec a[2] = {ivec_add_halves_i16(low[0], low[1]), ivec_add_halves_i16(low[2], low[3])}, b[2];
    if (digits == 2) b[0] = ivec_add_halves_i16(high[0], high[1]), b[1] = ivec_add_halves_i16(high[2], high[3]);
    if (dtype == PUNA_DTYPE_Q6_K) {
        for (int i = 0; i < 2; i++) a[i] = digits == 2 ? ivec_join_dots(a[i], b[i]) : ivec_sum_dots(a[i]);
        return ivec_add(ivec_even(a[0], a[1]), ivec_odd(a[0], a[1]));
    }
    const ivec low_sums = ivec_add_dots(ivec_even(a[0], a[1]), ivec_odd(a[0], a[1]));
    if (digits == 1) return ivec_sum_dots(low_sums);
    return ivec_join_dots(low_sums, ivec_add_dots(ivec_even(b[0], b[1]), ivec_odd(b[0], b[1])));
}

/*
 * The integer products of a group of eight rows, stride bytes apart, and x from k on. The group's quants are both halves of sixteen bytes
 * at q, as of Q4_0; or, half by half of its elements, the low or the high halves of 32 bytes, as of Q4_K.
 */
typedef enum nibbles { BOTH_NIBBLES, LOW_NIBBLES, HIGH_NIBBLES } nibbles;
PUNA_INLINE ivec multiply_nibbles(const nibbles which, const int digits, const char *q, int64_t stride, x_row x, int64_t k) {
    const ivec low_bits = ivec_set1(0x0F0F0F0F);
    ivec x_k[2][2];
    pair_sums sums;
    for (int i = 0; i < 2; i++) spread_sixteen(digits, x_k[i], x, k + 16 * i);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const ivec first = ivec_load_sixteens(q + i * stride, 4 * stride);
        const ivec second = which == BOTH_NIBBLES ? first : ivec_load_sixteens(q + 16 + i * stride, 4 * stride);
        const ivec w[2] = {ivec_and(which == HIGH_NIBBLES ? ivec_shr(first, 4) : first, low_bits),
                           ivec_and(which == LOW_NIBBLES ? second : ivec_shr(second, 4), low_bits)};
        sums.low[i] = ivec_dot_bytes(ivec_dot_bytes(ivec_zero(), w[0], x_k[0][0]), w[1], x_k[1][0]);
        if (digits == 2) sums.high[i] = ivec_dot_bytes(ivec_dot_bytes(ivec_zero(), w[0], x_k[0][1]), w[1], x_k[1][1]);
    }
    return join_pairs(PUNA_DTYPE_Q4_0, digits, &sums);
}

/* The same of sixteen elements of Q6_K: four bits at l and two at h, for elements of one quarter of 128. */
PUNA_INLINE ivec multiply_six_bits(const int quarter, const int digits, const char *l, const char *h, int64_t stride, x_row x, int64_t k) {
    const ivec low_bits = ivec_set1(0x0F0F0F0F), high_bits = ivec_set1(0x30303030);
    ivec x_k[2];
    pair_sums sums;
    spread_sixteen(digits, x_k, x, k);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        ivec low = ivec_load_sixteens(l + i * stride, 4 * stride), high = ivec_load_sixteens(h + i * stride, 4 * stride);
        if (quarter >= 2) low = ivec_shr(low, 4);
        high = quarter < 2 ? ivec_shl(high, 4 - 2 * quarter) : ivec_shr(high, 2 * quarter - 4);
        const ivec w = ivec_or(ivec_and(low, low_bits), ivec_and(high, high_bits));
        sums.low[i] = ivec_dot_bytes(ivec_zero(), w, x_k[0]);
        if (digits == 2) sums.high[i] = ivec_dot_bytes(ivec_zero(), w, x_k[1]);
    }
    return join_pairs(PUNA_DTYPE_Q6_K, digits, &sums);
}

/*
 * q[g]: the integer products, offset included, of group g of depth elements of eight rows of w, stride bytes apart, and x from k on.
 * Meanwhile the same of the next panel, at far, is fetched, and what is wanted next of these rows, at near, near_stride bytes apart.
 */
PUNA_INLINE void multiply_groups_of_eight(const int32_t dtype, const int digits, ivec q[], const char *rows, int64_t stride, x_row x,
                                          int64_t k, int64_t depth, const char *far, const char *near, int64_t near_stride) {
    const int64_t bytes = bytes_of(dtype), blocks = depth / elements_of(dtype), near_bytes = DEPTH / elements_of(dtype) * bytes;
    if (dtype == PUNA_DTYPE_Q4_0) {
        for (int64_t b = 0; b < blocks; b++, rows += bytes, far += VEC_WIDTH * bytes, near += near_stride) {
            fetch(far, VEC_WIDTH * bytes, 0, 1);
            fetch(near, near_bytes, 0, 1);
            q[b] = multiply_nibbles(BOTH_NIBBLES, digits, rows + offsetof(puna_q4_0, q), stride, x, k + 32 * b);
        }
        return;
    }
    for (int r = 0; r < VEC_WIDTH; r++, near += near_stride) fetch(near, near_bytes, 0, 1);
    if (dtype == PUNA_DTYPE_Q4_K) {
        rows += offsetof(puna_q4_k, q);
        for (int g = 0; g < 8; g += 2, rows += 32) {
            fetch(far, VEC_WIDTH * bytes, g / 2, 4);
            q[g] = multiply_nibbles(LOW_NIBBLES, digits, rows, stride, x, k + 32 * g);
            q[g + 1] = multiply_nibbles(HIGH_NIBBLES, digits, rows, stride, x, k + 32 * (g + 1));
        }
        return;
    }
    for (int half = 0; half < 2; half++)
        for (int part = 0; part < 2; part++) {
            const char *l = rows + 64 * half + 16 * part, *h = rows + offsetof(puna_q6_k, high) + 32 * half + 16 * part;
            fetch(far, VEC_WIDTH * bytes, 2 * half + part, 4);
#pragma GCC unroll 4
            for (int quarter = 0; quarter < 4; quarter++) {
                const int g = 8 * half + 2 * quarter + part;
                q[g] = multiply_six_bits(quarter, digits, l + quarter % 2 * 32, h, stride, x, k + 16 * g);
            }
        }
}

/* sums += depth elements of PANEL rows of w, factor by factor: integer products q, offset included, and x from k on. */
PUNA_INLINE void add_products(const int32_t dtype, vec sums[VECTORS], const factors *f, ivec q[VECTORS][DEPTH / 16], x_row x, int64_t k,
                              int64_t depth) {
    const int group = group_of(dtype), shift = offset_shift(dtype, true);
    for (int64_t g = 0, x_g = k / group; g < depth / group; g++, x_g++) {
        const ivec offset = ivec_shl(ivec_spread(&x.sums[x_g]), shift);
        for (int v = 0; v < VECTORS; v++) {
            const vec d = vec_mul(vec_load(f->d[g] + v * VEC_WIDTH), vec_set1(x.d[x_g]));
            sums[v] = vec_fma(d, ivec_to_f32(shift == 0 ? q[v][g] : ivec_sub(q[v][g], offset)), sums[v]);
            if (dtype == PUNA_DTYPE_Q4_K)
                sums[v] = vec_fma(vec_load(f->m[g] + v * VEC_WIDTH), vec_set1(x.minus_d_sum[x_g]), sums[v]);
        }
    }
}

/* N rows of w against one row of x. */
PUNA_INLINE void multiply_by_quarters(const int32_t dtype, const int digits, float *y, const char *w, int64_t row_bytes, x_row x,
                                      int64_t K, int64_t N, bool accumulate, quarters_space *space) {
    const int64_t depth_bytes = DEPTH / elements_of(dtype) * bytes_of(dtype);
    for (int64_t n = 0; n < N; n += PANEL, w += PANEL * row_bytes) {
        const int64_t some_N = puna_min(PANEL, N - n);
        vec sums[VECTORS];
        for (int v = 0; v < VECTORS; v++) sums[v] = vec_zero();
        const char *w_k = w, *far = w + PANEL * row_bytes;
        for (int64_t k = 0; k < K; k += DEPTH, w_k += depth_bytes, far += PANEL * depth_bytes) {
            const int64_t depth = puna_min(DEPTH, K - k);
            const char *rows = w_k, *near = k + DEPTH < K ? w_k + depth_bytes : w + PANEL * row_bytes;
            int64_t stride = row_bytes;
            if (some_N < PANEL) {
                rows = fill_up(space->rows, w_k, row_bytes, depth / elements_of(dtype) * bytes_of(dtype), some_N);
                stride = sizeof(row_part);
            }
            ivec q[VECTORS][DEPTH / 16];
            pack_halves(dtype, &space->factors, rows, stride, depth);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) {
                const int64_t first = v * VEC_WIDTH;
                multiply_groups_of_eight(dtype, digits, q[v], rows + first * stride, stride, x, k, depth, far + first * depth_bytes,
                                         near + first * row_bytes, row_bytes);
                if (v == 0) pack_scales(dtype, &space->factors, rows, stride, depth); /* well after the halves are written  */
            }
            add_products(dtype, sums, &space->factors, q, x, k, depth);
        }
        float some[PANEL];
        for (int v = 0; v < VECTORS; v++) vec_store(some + v * VEC_WIDTH, sums[v]);
        for (int64_t j = 0; j < some_N; j++) y[n + j] = accumulate ? y[n + j] + some[j] : some[j];
    }
}

#endif
