/*
 * One row of x with block weights, on AVX-512 those of eight and four bits, on AVX2 those of four and six.
 *
 * VEC_WIDTH rows of w are taken side by side, sixteen bytes of one in each quarter of a vector, as load_sixteens has them. They
 * meet the same sixteen elements of x, which stay in registers meanwhile. x is one signed byte a number, or two, 256 * high + low: two
 * byte products of a vector cost less than unpacking to words. Quarters are added up so that lanes are rows.
 *
 * On AVX2 products are added up in int16 as far as they fit: halves of nibbles, 4 * 15 * 128, may double twice, six bits, 2 * 63 * 128,
 * once. Those of Q8_0 would saturate: that is multiplied by words (integer_row.h).
 *
 * READING: a panel is one run of memory. The next one is fetched in that order while this one is multiplied, a line or two at a time; of
 * Q8_0, of which two panels do not fit the first cache, what is wanted next is fetched again.
 *
 * MEASURED, N = 5632, K = 2048, int16, cold weights, two threads, GB/s of Q8_0, Q4_0, Q4_K, Q6_K, old and new in turn.
 * On a quiet Granite Rapids, row by row (integer_row.h): 25.9, 25.3, 24.5, 26.4 of 29. On a Zen 5, AVX-512, which reads at 67:
 *   1  row by row, lines fetched from four pages by turns (2 to 5 % faster on Granite Rapids)    31, 24, 27, 29
 *   2  row by row, lines in the order they lie in                                                38, 28, 30, 30
 *   3  all transposed, the next panel fetched                                                    34, 26, 37, 36
 *   4  and what is wanted next into the first cache                                              46, 31, 42, 42
 *   5  factors out of the same vectors, of Q8_0 and Q4_0, and of Q4_K; of Q4_K eight sums, not
 *      four: they had waited for one another                                                    48, 37, 43, as before
 * Later, one thread, at 50 GB/s, the same in turn; and AVX2, of Q4_0, Q4_K, Q6_K, where int16 had been row by row and int8 transposed:
 *   5  as above                                                    40, 30, 35, 36     AVX2 21, 22, 18; int8 24, 27, 23
 *   6  by quarters, but for Q6_K on AVX-512                        47, 32, 36, 36     AVX2 23, 23, 19; int8 30, 32, 26
 *   7  nothing fetched but the next panel, little by little, and
 *      factors with the bytes beside them                          49, 36, 40, 37     AVX2 27, 23.5, 21; int8 38, 33, 27
 *   8  of Q8_0 what is wanted next too                              47
 *   9  Q6_K on AVX-512 so too: 27.3 to 29.5, two threads 37 to 41 (each quarter of the next panel in one go before; AVX2 loses by it)
 *  10  both groups of Q4_K's bytes at once on AVX-512, sixteens joined once and high halves not shifted: 42.3 to 44.5, two threads
 *      57 to 60; Q6_K there row by row (integer_row.h): 30.7 to 34.8, two threads 46 to 47, at 75 GB/s 54 to 57
 * Two threads read by 8 as fast as by 5 where they read at 60 GB/s; at 44 Q4_K 6 to 12 % faster, Q8_0 5 % slower (by 7: 11 %).
 * Q8_0 and Q4_0 transposed are loops of six to nine kilobytes, which a copy of the library in other pages of memory runs 20 % faster or
 * slower, once five times slower; these are short, and the same everywhere within 2 %.
 *
 * The processor fetches faster by itself than when each line is asked for, but loses the thread where reading pauses: asking for a line of
 * each page alone was slower than asking for none. Adding up one panel's groups row by row while the next is read: Q4_K 35, Q6_K 33, the
 * others slower. Two and three rows of x transposed, not by panels: Q4_K 1.25 and 1.17 times as fast, Q8_0 and Q6_K as before, Q4_0
 * slower; four rows no faster. On AVX2 all sums stored first and joined in a second loop, as such chains fill the scheduler: as fast; both
 * groups of a byte of Q4_K, or all four of Q6_K, at once: registers spill, 5 to 15 % slower. On AVX-512 vectors of 64 bytes of one row,
 * two groups or four blocks, whose quarters are added up and sorted by rows afterwards: out of the second cache Q8_0 51 to 66, Q4_0 40 to
 * 46, Q4_K 46 to 52 GB/s, but fewer lines are under way at a time: where one thread reads 38 GB/s, Q8_0 and Q4_K a tenth slower, whole
 * models of Q4_0 too.
 */
#ifndef PUNA_INTEGER_QUARTERS_H
#define PUNA_INTEGER_QUARTERS_H

#include "integer_panel.h"

typedef struct quarters_space {
    factors factors;
    row_part rows[PANEL]; /* of the last rows of w, when they are less than a panel                                 */
} quarters_space;

/* Sums of VEC_WIDTH rows, of low digits and of high ones: those of row r in quarter r / 4 of vector r % 4. */
typedef struct row_sums {
    ivec low[4], high[4];
} row_sums;

/* How many lines so many bytes are. */
PUNA_INLINE int lines_of(int64_t bytes) { return (int)((bytes + 63) / 64); }
/* Fetches the i-th quarter of so many lines. */
PUNA_INLINE void fetch_quarter(const char *far, const int lines, const int i) {
    for (int line = lines * i / 4; line < lines * (i + 1) / 4; line++) __builtin_prefetch(far + 64 * line, 0, 3);
}

/* Sixteen elements of x from k on, digit by digit, in every quarter. */
PUNA_INLINE void spread_sixteen(const int digits, ivec to[2], x_row x, int64_t k) {
    for (int d = 0; d < digits; d++) to[d] = ivec_spread_quarter(x.digits[d] + k);
}

/* What sums of rows, which may double once or twice, come to, lane by lane: the integer products, offset included. */
PUNA_INLINE ivec join_rows(const bool twice, const int digits, const row_sums *sums) {
    const ivec *low = sums->low, *high = sums->high;
#if BYTE_DOTS
    (void)twice;
    ivec both[4];
    for (int i = 0; i < 4; i++) both[i] = digits == 1 ? low[i] : ivec_add(low[i], ivec_shl(high[i], 8));
    return ivec_sum_quarters(both);
#else
    ivec a[2] = {ivec_add_halves_i16(low[0], low[1]), ivec_add_halves_i16(low[2], low[3])}, b[2];
    if (digits == 2) b[0] = ivec_add_halves_i16(high[0], high[1]), b[1] = ivec_add_halves_i16(high[2], high[3]);
    if (!twice) {
        for (int i = 0; i < 2; i++) a[i] = digits == 2 ? ivec_join_dots(a[i], b[i]) : ivec_sum_dots(a[i]);
        return ivec_add(ivec_even(a[0], a[1]), ivec_odd(a[0], a[1]));
    }
    const ivec low_sums = ivec_add_dots(ivec_even(a[0], a[1]), ivec_odd(a[0], a[1]));
    if (digits == 1) return ivec_sum_dots(low_sums);
    return ivec_join_dots(low_sums, ivec_add_dots(ivec_even(b[0], b[1]), ivec_odd(b[0], b[1])));
#endif
}

/*
 * The integer products of a group of VEC_WIDTH rows, stride bytes apart, and x from k on. The group's quants are 32 bytes at q, as of
 * Q8_0; both halves of sixteen, as of Q4_0; or the low or the high halves of 32, as of Q4_K. Meanwhile so many lines from far on are
 * fetched.
 */
typedef enum quants { BYTES, BOTH_NIBBLES, LOW_NIBBLES, HIGH_NIBBLES } quants;
PUNA_INLINE ivec multiply_32(const quants which, const int digits, const char *q, int64_t stride, x_row x, int64_t k,
                             const char *far, const int lines) {
    const ivec low_bits = ivec_set1(0x0F0F0F0F), flip = ivec_set1((int32_t)0x80808080);
    ivec x_k[2][2];
    row_sums sums;
    const side_by_side rows = lay_rows(q, stride);
    for (int i = 0; i < 2; i++) spread_sixteen(digits, x_k[i], x, k + 16 * i);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        fetch_quarter(far, lines, i);
        const ivec first = load_sixteens(&rows, i, 0);
        const ivec second = which == BOTH_NIBBLES ? first : load_sixteens(&rows, i, 16);
        ivec w[2];
        if (which == BYTES) {
            w[0] = ivec_xor(first, flip), w[1] = ivec_xor(second, flip);
        } else {
            w[0] = ivec_and(which == HIGH_NIBBLES ? ivec_shr(first, 4) : first, low_bits);
            w[1] = ivec_and(which == LOW_NIBBLES ? second : ivec_shr(second, 4), low_bits);
        }
        sums.low[i] = ivec_dot_bytes(ivec_dot_bytes(ivec_zero(), w[0], x_k[0][0]), w[1], x_k[1][0]);
        if (digits == 2) sums.high[i] = ivec_dot_bytes(ivec_dot_bytes(ivec_zero(), w[0], x_k[0][1]), w[1], x_k[1][1]);
    }
    return join_rows(true, digits, &sums);
}

#if BYTE_DOTS
/*
 * The same of two groups of Q4_K, which share 32 bytes at w. High halves stay where they are: their products are 16 times what they
 * should be until they have been added up.
 */
PUNA_INLINE void multiply_both_nibbles(const int digits, ivec q[2], const char *w, int64_t stride, x_row x, int64_t k, const char *far,
                                       const int lines) {
    const ivec low_bits = ivec_set1(0x0F0F0F0F), high_bits = ivec_set1((int32_t)0xF0F0F0F0);
    ivec x_k[2][2][2], sums[2][4];
    const side_by_side rows = lay_rows(w, stride);
    for (int g = 0; g < 2; g++)
        for (int i = 0; i < 2; i++) spread_sixteen(digits, x_k[g][i], x, k + 32 * g + 16 * i);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        fetch_quarter(far, lines, i);
        const ivec w_i[2] = {load_sixteens(&rows, i, 0), load_sixteens(&rows, i, 16)};
        for (int g = 0; g < 2; g++) {
            const ivec bits = g == 0 ? low_bits : high_bits;
            const ivec first = ivec_and(w_i[0], bits), second = ivec_and(w_i[1], bits);
            ivec sum = ivec_zero();
            for (int d = digits - 1; d >= 0; d--) {
                sum = ivec_dot_bytes(ivec_dot_bytes(sum, first, x_k[g][0][d]), second, x_k[g][1][d]);
                if (d == 1) sum = ivec_shl(sum, 8);
            }
            sums[g][i] = sum;
        }
    }
    q[0] = ivec_sum_quarters(sums[0]);
    q[1] = ivec_sra(ivec_sum_quarters(sums[1]), 4);
}
#else
/* The same of one group of Q6_K: four bits of each byte at l, and two at h, for elements of one quarter of 128. */
PUNA_INLINE ivec multiply_16(const int quarter, const int digits, const char *l, const char *h, int64_t stride, x_row x, int64_t k) {
    const ivec low_bits = ivec_set1(0x0F0F0F0F), high_bits = ivec_set1(0x30303030);
    ivec x_k[2];
    row_sums sums;
    const side_by_side l_rows = lay_rows(l, stride), h_rows = lay_rows(h, stride);
    spread_sixteen(digits, x_k, x, k);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        ivec low = load_sixteens(&l_rows, i, 0), high = load_sixteens(&h_rows, i, 0);
        if (quarter >= 2) low = ivec_shr(low, 4);
        high = quarter < 2 ? ivec_shl(high, 4 - 2 * quarter) : ivec_shr(high, 2 * quarter - 4);
        const ivec w = ivec_or(ivec_and(low, low_bits), ivec_and(high, high_bits));
        sums.low[i] = ivec_dot_bytes(ivec_zero(), w, x_k[0]);
        if (digits == 2) sums.high[i] = ivec_dot_bytes(ivec_zero(), w, x_k[1]);
    }
    return join_rows(false, digits, &sums);
}
#endif

/*
 * q[g]: the integer products, offset included, of group g of depth elements of VEC_WIDTH rows of w, stride bytes apart, and x from k on.
 * Meanwhile as many bytes of the next panel, from far on, are fetched.
 */
PUNA_INLINE void multiply_depth(const int32_t dtype, const int digits, ivec q[], uint16_t (*halves)[PANEL], const char *rows,
                                int64_t stride, x_row x, int64_t k, int64_t depth, const char *far) {
    const int64_t bytes = bytes_of(dtype), blocks = depth / elements_of(dtype);
    const int64_t some_bytes = VEC_WIDTH * bytes * 32 / elements_of(dtype); /* of 32 elements of the rows            */
    if (elements_of(dtype) == 32) {
        const char *next = rows + DEPTH / 32 * bytes; /* what is wanted of a row after this                           */
        for (int64_t b = 0; b < blocks; b++, rows += bytes, far += some_bytes) {
            for (int r = 0; r < VEC_WIDTH / 8 && dtype == PUNA_DTYPE_Q8_0; r++, next += stride) fetch(next, DEPTH / 32 * bytes, 0, 1);
            collect_halves(halves[b], VEC_WIDTH, rows, stride);
            q[b] = multiply_32(dtype == PUNA_DTYPE_Q8_0 ? BYTES : BOTH_NIBBLES, digits, rows + 2, stride, x, k + 32 * b, far,
                               lines_of(some_bytes));
        }
        return;
    }
    if (dtype == PUNA_DTYPE_Q4_K) {
        rows += offsetof(puna_q4_k, q);
        for (int g = 0; g < 8; g += 2, rows += 32, far += 2 * some_bytes) {
#if BYTE_DOTS
            multiply_both_nibbles(digits, q + g, rows, stride, x, k + 32 * g, far, lines_of(2 * some_bytes));
#else
            q[g] = multiply_32(LOW_NIBBLES, digits, rows, stride, x, k + 32 * g, far, lines_of(some_bytes));
            q[g + 1] = multiply_32(HIGH_NIBBLES, digits, rows, stride, x, k + 32 * (g + 1), far + some_bytes, lines_of(some_bytes));
#endif
        }
        return;
    }
#if !BYTE_DOTS
    for (int half = 0; half < 2; half++)
        for (int part = 0; part < 2; part++, far += 2 * some_bytes) {
            const char *l = rows + 64 * half + 16 * part, *h = rows + offsetof(puna_q6_k, high) + 32 * half + 16 * part;
            fetch(far, 2 * some_bytes, 0, 1);
#pragma GCC unroll 4
            for (int quarter = 0; quarter < 4; quarter++) {
                const int g = 8 * half + 2 * quarter + part;
                q[g] = multiply_16(quarter, digits, l + quarter % 2 * 32, h, stride, x, k + 16 * g);
            }
        }
#endif
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
            const char *rows = w_k;
            int64_t stride = row_bytes;
            if (some_N < PANEL) {
                rows = fill_up(space->rows, w_k, row_bytes, depth / elements_of(dtype) * bytes_of(dtype), some_N);
                stride = sizeof(row_part);
            }
            ivec q[VECTORS][DEPTH / 16];
            const bool small = elements_of(dtype) == 32;
            if (!small) pack_halves(dtype, &space->factors, rows, stride, depth);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) {
                const int64_t first = v * VEC_WIDTH;
                multiply_depth(dtype, digits, q[v], (uint16_t(*)[PANEL])(space->factors.halves[0] + first), rows + first * stride, stride,
                               x, k, depth, far + first * depth_bytes);
                if (!small && v == 0) pack_scales(dtype, &space->factors, rows, stride, depth); /* well after the halves    */
            }
            if (small) pack_scales(dtype, &space->factors, rows, stride, depth);
            add_products(dtype, sums, &space->factors, q, x, k, depth);
        }
        float some[PANEL];
        for (int v = 0; v < VECTORS; v++) vec_store(some + v * VEC_WIDTH, sums[v]);
        for (int64_t j = 0; j < some_N; j++) y[n + j] = accumulate ? y[n + j] + some[j] : some[j];
    }
}

#endif
