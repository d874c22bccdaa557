/*
 * One row of x with block weights on AVX-512.
 *
 * PANEL rows of w are taken side by side, sixteen bytes at a time, so that lanes are rows of w from the start and no sum crosses
 * lanes; each vector of four bytes a row meets the same four bytes of x in every lane. x is two signed bytes a number, 256 * high +
 * low: two byte products of a vector cost less than unpacking to words. Of Q8_0 and Q4_0 the factors of blocks come with the bytes.
 *
 * READING: a panel is one run of memory. The next one is fetched in that order, evenly, while this one is multiplied, and what is wanted
 * next of each row again, as long rows leave the first cache before.
 *
 * MEASURED, N = 5632, K = 2048, int16, cold weights, two threads, GB/s of Q8_0, Q4_0, Q4_K, Q6_K, old and new in turn.
 * On a quiet Granite Rapids, row by row (integer_row.h): 25.9, 25.3, 24.5, 26.4 of 29. On a Zen 5, which reads at 67:
 *   1  row by row, lines fetched from four pages by turns (2 to 5 % faster on Granite Rapids)    31, 24, 27, 29
 *   2  row by row, lines in the order they lie in                                                38, 28, 30, 30
 *   3  by columns, the next panel fetched                                                        34, 26, 37, 36
 *   4  and what is wanted next into the first cache                                              46, 31, 42, 42
 *   5  factors out of the same vectors, of Q8_0 and Q4_0, and of Q4_K; of Q4_K eight sums, not
 *      four: they had waited for one another                                                    48, 37, 43, as before
 * There the processor fetches faster by itself than when each line is asked for, but loses the thread where reading pauses: asking
 * for a line of each page alone was slower than asking for none. Adding up one panel's groups row by row while the next is read: Q4_K
 * 35, Q6_K 33, the others slower. 32 rows of w for each four bytes of x that are spread: Q4_K out of the cache 4 % faster, cold a tenth
 * slower. Two and three rows of x so, not by panels: Q4_K 1.25 and 1.17 times as fast, Q8_0 and Q6_K as before, Q4_0 slower; four rows
 * no faster: not kept.
 */
#ifndef PUNA_INTEGER_COLUMNS_H
#define PUNA_INTEGER_COLUMNS_H

#include "integer_panel.h"

typedef struct columns_space {
    factors factors;
    row_part rows[PANEL]; /* of the last rows of w, when they are less than a panel, or of the ends of rows          */
} columns_space;

/* acc[0] and acc[1] += four elements of each row of w, unsigned bytes, times those of x from k on, low digits and high ones. */
PUNA_INLINE void multiply_column(const int digits, ivec acc[2], ivec w, x_row x, int64_t k) {
    acc[0] = ivec_dot_bytes(acc[0], w, ivec_spread(x.digits[0] + k));
    if (digits == 2) acc[1] = ivec_dot_bytes(acc[1], w, ivec_spread(x.digits[1] + k));
}

/* What is fetched meanwhile: the next panel's rows, and what is wanted next of these. */
typedef struct ahead {
    const char *far, *near;
    int64_t stride; /* bytes between rows at near                                                                   */
} ahead;

/* The part-th of so many parts of the rows at near, some bytes of each. */
PUNA_INLINE void fetch_near(ahead next, int64_t bytes, int part, int parts) {
    const char *row = next.near + next.stride * PANEL / parts * part;
    for (int r = 0; r < PANEL / parts; r++, row += next.stride)
        for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 0, 3);
}

/* The sum of what columns have given. */
PUNA_INLINE ivec join_digits(const int digits, const ivec acc[2]) {
    return digits == 1 ? acc[0] : ivec_add(acc[0], ivec_shl(acc[1], 8));
}
PUNA_INLINE ivec join_sums(const int digits, const ivec a[2], const ivec b[2]) {
    const ivec both[2] = {ivec_add(a[0], b[0]), ivec_add(a[1], b[1])};
    return join_digits(digits, both);
}

/*
 * q[b], d[b]: the integer product, offset included, and the factor of block b of blocks <= 8 of PANEL rows, stride bytes apart, and x
 * from k on, for Q8_0 and Q4_0. Eight blocks are whole vectors of bytes, four a lane, factors among them: every other block of 18 or
 * 34 bytes begins in the middle of a lane. What of a lane is not a block's own is 0, so x may begin two elements early.
 */
PUNA_INLINE void multiply_small_blocks(const int32_t dtype, const int digits, ivec *q, float d[][PANEL], const char *rows,
                                       int64_t stride, x_row x, int64_t k, int64_t blocks, ahead next) {
    const int bytes = (int)bytes_of(dtype), quants = bytes - 2;
    const ivec low_bits = ivec_set1(0x0F0F0F0F), flip = ivec_set1((int32_t)0x80808080);
    ivec acc[2][2];
#pragma GCC unroll 17
    for (int set = 0; set < bytes / 2; set++) {
        if (set * 16 >= blocks * bytes) break;
        ivec a[4];
        fetch(next.far + set * 16 * PANEL, 16 * PANEL, 0, 1);
        if (set < 8) fetch_near(next, 8 * bytes, set, 8);
        ivec_columns(a, rows + set * 16, stride);
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            const int at = set * 16 + c * 4, b = at / bytes, first = at % bytes - 2; /* element of the block            */
            const bool begins = first == (b % 2 == 0 ? -2 : 0), ends = first + 4 >= quants;
            const ivec mask = ivec_set1((int32_t)(first < 0 ? 0xFFFF0000 : first + 4 > quants ? 0x0000FFFF : 0xFFFFFFFF));
            const int64_t x_at = k + 32 * b + first;
            if (first < 0) vec_store(d[b], ivec_f16_to_f32(a[c]));
            if (first + 4 > quants) vec_store(d[b + 1], ivec_f16_to_f32(ivec_shr(a[c], 16)));
            if (begins) acc[0][0] = acc[0][1] = acc[1][0] = acc[1][1] = ivec_zero();
            if (dtype == PUNA_DTYPE_Q8_0) {
                multiply_column(digits, acc[first / 4 % 2], ivec_and(ivec_xor(a[c], flip), mask), x, x_at);
            } else {
                multiply_column(digits, acc[0], ivec_and(a[c], ivec_and(low_bits, mask)), x, x_at);
                multiply_column(digits, acc[1], ivec_and(ivec_shr(a[c], 4), ivec_and(low_bits, mask)), x, x_at + 16);
            }
            if (ends) q[b] = join_sums(digits, acc[0], acc[1]);
        }
    }
}

/* q[g]: the integer products of group g of a block of PANEL rows, stride bytes apart, and x from k on. */
PUNA_INLINE void multiply_q4_k(const int digits, ivec q[8], const char *block, int64_t stride, x_row x, int64_t k, ahead next) {
    const ivec low_bits = ivec_set1(0x0F0F0F0F);
    block += offsetof(puna_q4_k, q);
    for (int g = 0; g < 8; g += 2, block += 32, k += 64) { /* a group in the low halves of 32 bytes, one in the high ones */
        ivec acc[4][2]; /* twice as many sums as groups, which would wait for one another                            */
        for (int i = 0; i < 4; i++) acc[i][0] = acc[i][1] = ivec_zero();
#pragma GCC unroll 2
        for (int part = 0; part < 2; part++) {
            ivec a[4];
            fetch(next.far, PANEL * sizeof(puna_q4_k), g + part, 8);
            ivec_columns(a, block + 16 * part, stride);
            for (int c = 0; c < 4; c++) {
                const int64_t x_at = k + 16 * part + 4 * c;
                multiply_column(digits, acc[2 * part], ivec_and(a[c], low_bits), x, x_at);
                multiply_column(digits, acc[2 * part + 1], ivec_and(ivec_shr(a[c], 4), low_bits), x, x_at + 32);
            }
        }
        for (int i = 0; i < 2; i++) q[g + i] = join_sums(digits, acc[i], acc[2 + i]);
    }
}

/* The same of Q6_K, offset included. */
PUNA_INLINE void multiply_q6_k(const int digits, ivec q[16], const char *block, int64_t stride, x_row x, int64_t k, ahead next) {
    const ivec low_bits = ivec_set1(0x0F0F0F0F), high_bits = ivec_set1(0x30303030);
    for (int half = 0; half < 2; half++)
        for (int part = 0; part < 2; part++) { /* 16 bytes of high bits serve four groups                             */
            ivec acc[4][2], a[4], b[4], h[4];
            fetch(next.far, PANEL * sizeof(puna_q6_k), 2 * half + part, 4);
            ivec_columns(a, block + 64 * half + 16 * part, stride);
            ivec_columns(b, block + 64 * half + 32 + 16 * part, stride);
            ivec_columns(h, block + offsetof(puna_q6_k, high) + 32 * half + 16 * part, stride);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) {
                const ivec low[4] = {a[c], b[c], ivec_shr(a[c], 4), ivec_shr(b[c], 4)};
                const ivec high[4] = {ivec_shl(h[c], 4), ivec_shl(h[c], 2), h[c], ivec_shr(h[c], 2)};
                for (int i = 0; i < 4; i++) {
                    if (c == 0) acc[i][0] = acc[i][1] = ivec_zero();
                    multiply_column(digits, acc[i], ivec_or(ivec_and(low[i], low_bits), ivec_and(high[i], high_bits)), x,
                                    k + 128 * half + 32 * i + 16 * part + 4 * c);
                    if (c == 3) q[8 * half + 2 * i + part] = join_digits(digits, acc[i]);
                }
            }
        }
}

/* sum + depth elements of PANEL rows of w, stride bytes apart, times x from k on. */
PUNA_INLINE vec multiply_depth(const int32_t dtype, const int digits, vec sum, factors *f, const char *rows, int64_t stride, x_row x,
                               int64_t k, int64_t depth, ahead next) {
    const int64_t g = k / group_of(dtype);
    const int G = (int)depth / group_of(dtype), shift = offset_shift(dtype, true);
    ivec q[DEPTH / 16];
    if (elements_of(dtype) == 32) {
        multiply_small_blocks(dtype, digits, q, f->d, rows, stride, x, k, depth / 32, next);
    } else { /* factors in two parts, so that nobody waits for what has been written byte by byte                          */
        fetch_near(next, bytes_of(dtype), 0, 1);
        pack_halves(dtype, f, rows, stride, depth);
        if (dtype == PUNA_DTYPE_Q4_K) multiply_q4_k(digits, q, rows, stride, x, k, next);
        else multiply_q6_k(digits, q, rows, stride, x, k, next);
        pack_scales(dtype, f, rows, stride, depth);
    }
    for (int i = 0; i < G; i++) {
        if (shift != 0) q[i] = ivec_sub(q[i], ivec_set1(x.sums[g + i] * (1 << shift)));
        sum = vec_fma(vec_mul(vec_load(f->d[i]), vec_set1(x.d[g + i])), ivec_to_f32(q[i]), sum);
        if (dtype == PUNA_DTYPE_Q4_K) sum = vec_fma(vec_load(f->m[i]), vec_set1(x.minus_d_sum[g + i]), sum);
    }
    return sum;
}

/* N rows of w against one row of x. */
PUNA_INLINE void multiply_by_columns(const int32_t dtype, const int digits, float *y, const char *w, int64_t row_bytes, x_row x,
                                     int64_t K, int64_t N, bool accumulate, columns_space *space) {
    const int64_t depth_bytes = DEPTH / elements_of(dtype) * bytes_of(dtype);
    for (int64_t n = 0; n < N; n += PANEL, w += PANEL * row_bytes) {
        const int64_t some_N = puna_min(PANEL, N - n);
        vec sum = vec_zero();
        const char *w_k = w, *far = w + PANEL * row_bytes;
        for (int64_t k = 0; k < K; k += DEPTH, w_k += depth_bytes, far += PANEL * depth_bytes) {
            const int64_t depth = puna_min(DEPTH, K - k);
            const char *rows = w_k, *near = k + DEPTH < K ? w_k + depth_bytes : w + PANEL * row_bytes;
            int64_t stride = row_bytes;
            if (some_N < PANEL || depth < DEPTH) { /* whole vectors are read of each of PANEL rows                    */
                rows = fill_up(space->rows, w_k, row_bytes, depth / elements_of(dtype) * bytes_of(dtype), some_N);
                stride = sizeof(row_part);
            }
            sum = multiply_depth(dtype, digits, sum, &space->factors, rows, stride, x, k, depth, (ahead){far, near, row_bytes});
        }
        float some[PANEL];
        vec_store(some, sum);
        for (int64_t j = 0; j < some_N; j++) y[n + j] = accumulate ? y[n + j] + some[j] : some[j];
    }
}

#endif
