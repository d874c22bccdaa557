/*
 * One row of x with block weights on AVX-512.
 *
 * PANEL rows of w are taken side by side, sixteen bytes at a time, so that lanes are rows of w from the start and no sum crosses
 * lanes; each vector of four bytes a row meets the same four bytes of x in every lane. x is two signed bytes a number, 256 * high +
 * low: two byte products of a vector cost less than unpacking to words. Of Q8_0 and Q4_0 the factors of blocks come with the bytes.
 *
 * READING: a panel is one run of memory. The next one is fetched in that order into the second cache, evenly, while this one is
 * multiplied, and what is wanted next of each row into the first.
 *
 * MEASURED, N = 5632, K = 2048, int16, cold weights, two threads, GB/s of Q8_0, Q4_0, Q4_K, Q6_K, old and new in turn.
 * On a quiet Granite Rapids, row by row (integer_row.h): 25.9, 25.3, 24.5, 26.4 of 29. On a Zen 5, which reads at 67:
 *   1  row by row, lines fetched from four pages by turns (2 to 5 % faster on Granite Rapids)    31, 24, 27, 29
 *   2  row by row, lines in the order they lie in                                                38, 28, 30, 30
 *   3  by columns, the next panel fetched                                                        34, 26, 37, 36
 *   4  and what is wanted next into the first cache                                              46, 31, 42, 42
 *   5  factors out of the same vectors, of Q8_0 and Q4_0, and of Q4_K; of Q4_K sixteen sums      48, 37, 43
 * There the processor fetches faster by itself than when each line is asked for, but loses the thread where reading pauses: asking
 * for a line of each page alone was slower than asking for none. Adding up one panel's groups row by row while the next is read: Q4_K
 * 35, Q6_K 33, the others slower.
 */
#ifndef PUNA_INTEGER_COLUMNS_H
#define PUNA_INTEGER_COLUMNS_H

#include "integer_panel.h"

typedef struct row_space {
    factors factors;
    row_part rows[PANEL]; /* of the last rows of w, when they are less than a panel, or of the end of a row          */
} row_space;

/* acc[0] and acc[1] += four elements of each row of w, unsigned bytes, times those of x from k on, low digits and high ones. */
PUNA_INLINE void multiply_column(const int digits, ivec acc[2], ivec w, x_row x, int64_t k) {
    acc[0] = ivec_dot_bytes(acc[0], w, ivec_spread(x.q[0] + k));
    if (digits == 2) acc[1] = ivec_dot_bytes(acc[1], w, ivec_spread(x.q[1] + k));
}

/* near: PANEL rows that are wanted next, stride bytes apart, some bytes of each. */
PUNA_INLINE void fetch_near(const char *near, int64_t stride, int64_t bytes, int part, int parts) {
    near += stride * PANEL / parts * part;
    for (int r = 0; r < PANEL / parts; r++, near += stride)
        for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(near + i, 0, 3);
}

/*
 * q[b], d[b]: the integer product, offset included, and the factor of block b of blocks of PANEL rows, stride bytes apart, and x
 * from k on, for Q8_0 and Q4_0. The bytes of eight blocks are taken in one go, four a lane, factors among them: of 18 or 34 bytes
 * every other block begins in the middle of a lane. What does not belong to a block is 0, so x may begin two elements early.
 */
PUNA_INLINE void multiply_small_blocks(const int32_t dtype, const int digits, ivec *q, float d[][PANEL], const char *rows,
                                       int64_t stride, x_row x, int64_t k, int64_t blocks, const char *next, const char *near,
                                       int64_t near_stride) {
    const int bytes = (int)bytes_of(dtype), quants = bytes - 2;
    const bool nibbles = dtype == PUNA_DTYPE_Q4_0;
    const ivec low_bits = ivec_set1(0x0F0F0F0F), flip = ivec_set1((int32_t)0x80808080);
    ivec acc[2][2];
#pragma GCC unroll 17
    for (int set = 0; set < bytes / 2; set++) {
        if (set * 16 >= blocks * bytes) break;
        ivec a[4];
        fetch(next + set * 16 * PANEL, 16 * PANEL, 0, 1);
        if (set < 8) fetch_near(near, near_stride, 8 * bytes, set, 8);
        ivec_columns(a, rows + set * 16, stride);
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            const int at = set * 16 + c * 4, b = at / bytes, offset = at % bytes, element = offset - 2;
            const int32_t mask = (int32_t)(offset == 0 ? 0xFFFF0000 : element + 4 > quants ? 0x0000FFFF : 0xFFFFFFFF);
            if (offset == 0) vec_store(d[b], ivec_f16_to_f32(a[c]));
            if (element + 4 > quants) vec_store(d[b + 1], ivec_f16_to_f32(ivec_shr(a[c], 16)));
            if (offset == 0 || (b % 2 == 1 && element == 0))
                acc[0][0] = acc[0][1] = acc[1][0] = acc[1][1] = ivec_zero();
            if (nibbles) {
                const ivec bits = ivec_and(low_bits, ivec_set1(mask));
                multiply_column(digits, acc[0], ivec_and(a[c], bits), x, k + 32 * b + element);
                multiply_column(digits, acc[1], ivec_and(ivec_shr(a[c], 4), bits), x, k + 32 * b + 16 + element);
            } else {
                multiply_column(digits, acc[element / 4 % 2], ivec_and(ivec_xor(a[c], flip), ivec_set1(mask)), x,
                                k + 32 * b + element);
            }
            if (element + 4 >= quants)
                q[b] = ivec_add(ivec_add(acc[0][0], acc[1][0]), ivec_shl(ivec_add(acc[0][1], acc[1][1]), 8));
        }
    }
}

/*
 * q[g]: the integer products, offset included, of group g of a block of PANEL rows, stride bytes apart, and x from k on. Meanwhile
 * bytes from next on are fetched.
 */
PUNA_INLINE void multiply_block(const int32_t dtype, const int digits, ivec *q, const char *block, int64_t stride, x_row x,
                                int64_t k, const char *next, int64_t bytes) {
    const ivec low_bits = ivec_set1(0x0F0F0F0F), high_bits = ivec_set1(0x30303030);
    ivec acc[4][2], a[4], b[4], h[4];
    for (int i = 0; i < 4; i++) acc[i][0] = acc[i][1] = ivec_zero();
    if (dtype == PUNA_DTYPE_Q4_K) {
        for (int j = 0; j < 4; j++) {
            for (int i = 0; i < 4; i++) acc[i][0] = acc[i][1] = ivec_zero();
#pragma GCC unroll 2
            for (int part = 0; part < 32; part += 16) {
                ivec(*to)[2] = acc + part / 8;
                fetch(next, bytes, 2 * j + part / 16, 8);
                ivec_columns(a, block + offsetof(puna_q4_k, q) + 32 * j + part, stride);
                for (int c = 0; c < 4; c++) {
                    multiply_column(digits, to[0], ivec_and(a[c], low_bits), x, k + 64 * j + part + 4 * c);
                    multiply_column(digits, to[1], ivec_and(ivec_shr(a[c], 4), low_bits), x, k + 64 * j + 32 + part + 4 * c);
                }
            }
            for (int i = 0; i < 2; i++)
                q[2 * j + i] = ivec_add(ivec_add(acc[i][0], acc[2 + i][0]), ivec_shl(ivec_add(acc[i][1], acc[2 + i][1]), 8));
        }
    } else {
        for (int half = 0; half < 2; half++)
            for (int part = 0; part < 32; part += 16) {
                fetch(next, bytes, 2 * half + part / 16, 4);
                ivec_columns(a, block + 64 * half + part, stride);
                ivec_columns(b, block + 64 * half + 32 + part, stride);
                ivec_columns(h, block + offsetof(puna_q6_k, high) + 32 * half + part, stride);
                for (int i = 0; i < 4; i++) acc[i][0] = acc[i][1] = ivec_zero();
                for (int c = 0; c < 4; c++) {
                    const int64_t at = k + 128 * half + part + 4 * c;
                    multiply_column(digits, acc[0], ivec_or(ivec_and(a[c], low_bits), ivec_and(ivec_shl(h[c], 4), high_bits)), x, at);
                    multiply_column(digits, acc[1], ivec_or(ivec_and(b[c], low_bits), ivec_and(ivec_shl(h[c], 2), high_bits)), x, at + 32);
                    multiply_column(digits, acc[2], ivec_or(ivec_and(ivec_shr(a[c], 4), low_bits), ivec_and(h[c], high_bits)), x, at + 64);
                    multiply_column(digits, acc[3],
                                    ivec_or(ivec_and(ivec_shr(b[c], 4), low_bits), ivec_and(ivec_shr(h[c], 2), high_bits)), x, at + 96);
                }
                for (int i = 0; i < 4; i++) q[8 * half + part / 16 + 2 * i] = ivec_add(acc[i][0], ivec_shl(acc[i][1], 8));
            }
    }
}

/* y (PANEL) += depth elements of PANEL rows of w, stride bytes apart, times x from k on. */
PUNA_INLINE void multiply_depth(const int32_t dtype, const int digits, vec y[VECTORS], factors *f, const char *rows, int64_t stride,
                                x_row x, int64_t k, int64_t depth, const char *next, const char *near, int64_t near_stride) {
    const int64_t elements = elements_of(dtype), bytes = PANEL * bytes_of(dtype);
    const int G = (int)depth / group_of(dtype), shift = offset_shift(dtype, true);
    const int64_t g = k / group_of(dtype);
    ivec q[DEPTH / 16];
    if (elements == 32) {
        multiply_small_blocks(dtype, digits, q, f->d, rows, stride, x, k, depth / 32, next, near, near_stride);
    } else {
        fetch_near(near, near_stride, bytes_of(dtype), 0, 1);
        pack_halves(dtype, f, rows, stride, depth);
        multiply_block(dtype, digits, q, rows, stride, x, k, next, bytes);
        pack_scales(dtype, f, rows, stride, depth);
    }
    for (int i = 0; i < G; i++) {
        if (shift != 0) q[i] = ivec_sub(q[i], ivec_set1(x.sums[g + i] << shift));
        y[0] = vec_fma(vec_mul(vec_load(f->d[i]), vec_set1(x.d[g + i])), ivec_to_f32(q[i]), y[0]);
        if (dtype == PUNA_DTYPE_Q4_K) y[0] = vec_fma(vec_load(f->m[i]), vec_set1(x.minus_d_sum[g + i]), y[0]);
    }
}

/* N rows of w against one row of x. */
PUNA_INLINE void multiply_one(const int32_t dtype, const int digits, float *y, const char *w, int64_t row_bytes, x_row x,
                              int64_t K, int64_t N, bool accumulate, row_space *space) {
    const int64_t depth_bytes = DEPTH / elements_of(dtype) * bytes_of(dtype);
    for (int64_t n = 0; n < N; n += PANEL, w += PANEL * row_bytes) {
        const int64_t some_N = puna_min(PANEL, N - n);
        vec sums[VECTORS] = {vec_zero()};
        const char *w_k = w, *next = w + PANEL * row_bytes;
        for (int64_t k = 0; k < K; k += DEPTH, w_k += depth_bytes, next += PANEL * depth_bytes) {
            const int64_t depth = puna_min(DEPTH, K - k);
            const char *rows = w_k;
            int64_t stride = row_bytes;
            if (some_N < PANEL || depth < DEPTH) { /* whole vectors of bytes are read                        */
                rows = fill_up(space->rows, w_k, row_bytes, depth / elements_of(dtype) * bytes_of(dtype), some_N);
                stride = sizeof(row_part);
            }
            multiply_depth(dtype, digits, sums, &space->factors, rows, stride, x, k, depth, next,
                           k + DEPTH < K ? w_k + depth_bytes : w + PANEL * row_bytes, row_bytes);
        }
        float some[PANEL];
        vec_store(some, sums[0]);
        for (int64_t j = 0; j < some_N; j++) y[n + j] = accumulate ? y[n + j] + some[j] : some[j];
    }
}

#endif
