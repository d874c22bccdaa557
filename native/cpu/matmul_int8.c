/*
 * Matrix product of weights of block types with activations that are first rounded to int8 (puna.h says how).
 *
 * ORDER OF SUMMATION, the same for one row and for many: the integer product of one block is exact, in whatever order; then
 * one accumulator per element of y takes a block at a time, acc = fma(d_w * d_x, (float)dot, acc), in order k, and for Q4_K
 * acc = fma(-m_w * d_x, (float)mins, acc) after it. Lanes are rows of w. So a row's bits depend on its own x and w alone.
 *
 * FEW ROWS are bound by reading w: eight rows of w side by side, straight from where they lie; their eight vectors are added up by
 * a tree of unpacks into one vector of eight products.
 *
 * MORE ROWS are bound by arithmetic: PANEL rows of w are unpacked DEPTH elements deep into the thread's workspace, four bytes of
 * a row beside four bytes of the next, and meet four bytes of x in every lane.
 *
 * MEASURED, one thread of a Zen 4 that five others wanted (AVX2, N = 5632, K = 2048, beside the F32 path in the same run):
 *   1 row    Q8_0 10.6 GB/s (F32 path 7.6), Q4_0 9.2 to 13.5 (2.9), Q4_K 7.8 to 9.5 (3.9), Q6_K 8.4 (3.9)
 *   2 rows   through panels Q4_K 2.4 ms, Q6_K 3.9 ms; a group of rows again for each row of x 1.3 and 1.2 ms
 *   4 rows   the panel is what costs: Q4_K 0.92 and Q6_K 0.77 times the F32 path's speed
 *   512      Q8_0 110 GOP/s (1.5 times the F32 path), Q4_0 153 (2.1), Q4_K 133 (1.7), Q6_K 165 (2.1)
 */
#include "int8.h"
#include "kernels.h"
#include "rows.h"

enum {
    GROUP = 8,      /* rows of w side by side for one row of x                                                      */
    FEW_ROWS = 3,   /* rows of x up to which reading a group again for each costs less than a panel                 */
    PANEL = 16,     /* rows of w unpacked together                                                                  */
    DEPTH = 1024,   /* elements of K unpacked together: a whole number of the largest block                         */
    ROW_BLOCK = 256 /* rows of x that meet an unpacked panel                                                        */
};

/* Activations for blocks of 32 and of 256. */
typedef struct x_32 {
    int8_t q[32];
    float d;
    int32_t sum; /* of q                                                                                            */
} x_32;

typedef struct x_256 {
    int8_t q[256];
    int16_t sums_16[16]; /* of every 16 q, those of even number first                                               */
    int16_t zeros[8];    /* so that one vector of 8 scales and 8 mins meets zeros and sums_32                       */
    int16_t sums_32[8];  /* of every 32                                                                             */
    float d;
} x_256;

PUNA_INLINE bool is_wide(int32_t dtype) { return dtype == PUNA_DTYPE_Q4_K || dtype == PUNA_DTYPE_Q6_K; }
PUNA_INLINE int64_t elements_of(int32_t dtype) { return is_wide(dtype) ? 256 : 32; }
PUNA_INLINE int64_t bytes_of(int32_t dtype) {
    switch (dtype) {
    case PUNA_DTYPE_Q8_0: return sizeof(puna_q8_0);
    case PUNA_DTYPE_Q4_0: return sizeof(puna_q4_0);
    case PUNA_DTYPE_Q4_K: return sizeof(puna_q4_k);
    default: return sizeof(puna_q6_k);
    }
}
PUNA_INLINE int64_t offset_of_d(int32_t dtype) { return dtype == PUNA_DTYPE_Q6_K ? (int64_t)offsetof(puna_q6_k, d) : 0; }
PUNA_INLINE int64_t x_bytes_of(int32_t dtype) { return is_wide(dtype) ? sizeof(x_256) : sizeof(x_32); }

/* ---------------------------------------------------------------------------------------------------------------------
 * Rounding x
 * ------------------------------------------------------------------------------------------------------------------ */

/* puna_quantize, vectors at a time; n is a multiple of 32. */
PUNA_INLINE float quantize(int8_t *q, const float *x, const int64_t n) {
    vec largest = vec_zero(), special = vec_zero(); /* special: NaN where an element is NaN or infinite, else 0 */
    for (int64_t i = 0; i < n; i += VEC_WIDTH) {
        vec x_i = vec_load(x + i);
        largest = vec_max(largest, vec_max(x_i, vec_sub(vec_zero(), x_i)));
        special = vec_fma(x_i, vec_zero(), special);
    }
    bool finite = vec_hsum(special) == 0;
    float top = vec_hmax(largest);
    if (!finite || top < PUNA_QUANTIZED_ZERO) {
        memset(q, 0, (size_t)n);
        return finite ? 0 : NAN;
    }
    /* Adding 1.5 * 2^23 rounds to an integer, to even where it is a tie, which then stands in the low bits. */
    vec inverse = vec_set1(127 / top), magic = vec_set1(12582912.0f);
    uint32_t bits[32];
    for (int64_t i = 0; i < n; i += 32) {
        for (int k = 0; k < 32; k += VEC_WIDTH) {
            vec rounded = vec_add(vec_mul(vec_load(x + i + k), inverse), magic);
            memcpy(bits + k, &rounded, sizeof rounded);
        }
        for (int k = 0; k < 32; k++) q[i + k] = (int8_t)bits[k];
    }
    return top / 127;
}

static int32_t sum_of(const int8_t *q, int n) {
    int32_t sum = 0;
    for (int i = 0; i < n; i++) sum += q[i];
    return sum;
}

static void quantize_row_32(x_32 *to, const float *x, int64_t K) {
    for (int64_t k = 0; k < K; k += 32, to++) {
        to->d = quantize(to->q, x + k, 32);
        to->sum = sum_of(to->q, 32);
    }
}

static void quantize_row_256(x_256 *to, const float *x, int64_t K) {
    for (int64_t k = 0; k < K; k += 256, to++) {
        to->d = quantize(to->q, x + k, 256);
        for (int j = 0; j < 8; j++) {
            int32_t even = sum_of(to->q + 32 * j, 16), odd = sum_of(to->q + 32 * j + 16, 16);
            to->sums_16[j] = (int16_t)even;
            to->sums_16[8 + j] = (int16_t)odd;
            to->sums_32[j] = (int16_t)(even + odd);
            to->zeros[j] = 0;
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Taking blocks apart
 * ------------------------------------------------------------------------------------------------------------------ */

/* The j-th 32 quants of a block: signed for Q8_0, for the others unsigned, without the offset of 8 or 32. */
PUNA_INLINE ivec quants(int32_t dtype, const void *block, int j) {
    const ivec low_bits = ivec_set1_i16(0x0F0F), high_bits = ivec_set1_i16(0x3030);
    switch (dtype) {
    case PUNA_DTYPE_Q8_0: return ivec_load(((const puna_q8_0 *)block)->q);
    case PUNA_DTYPE_Q4_0: return ivec_nibbles(((const puna_q4_0 *)block)->q);
    case PUNA_DTYPE_Q4_K: {
        ivec q = ivec_load(((const puna_q4_k *)block)->q + j / 2 * 32);
        return ivec_and(j % 2 == 0 ? q : ivec_shr_u16(q, 4), low_bits);
    }
    default: {
        const puna_q6_k *b = block;
        int half = j / 4, quarter = j % 4;
        ivec low = ivec_load(b->low + 64 * half + 32 * (quarter % 2)), high = ivec_load(b->high + 32 * half);
        low = ivec_and(quarter < 2 ? low : ivec_shr_u16(low, 4), low_bits);
        high = quarter == 0 ? ivec_shl_i16(high, 4) : quarter == 1 ? ivec_shl_i16(high, 2)
               : quarter == 2 ? high : ivec_shr_u16(high, 2);
        return ivec_or(low, ivec_and(high, high_bits));
    }
    }
}

/* The 8 scales and 8 mins of Q4_K, the six-bit fields of puna_q4_k_scale four bytes at a time. */
PUNA_INLINE void scales_and_mins(const puna_q4_k *block, int8_t six[16]) {
    uint32_t in[3], out[4];
    memcpy(in, block->scales, 12);
    out[0] = in[0] & 0x3F3F3F3F;
    out[1] = (in[2] & 0x0F0F0F0F) | (in[0] >> 2 & 0x30303030);
    out[2] = in[1] & 0x3F3F3F3F;
    out[3] = (in[2] >> 4 & 0x0F0F0F0F) | (in[1] >> 2 & 0x30303030);
    memcpy(six, out, 16);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Few rows of x
 * ------------------------------------------------------------------------------------------------------------------ */

/* Fetches the stretch of the next group of rows that lies where bytes [from, from + bytes) of this one do. */
PUNA_INLINE void prefetch(const char *next, int64_t from, const int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(next + from + i);
}

/* y[g] (= or +=) x . w[g] for the first N <= GROUP of GROUP rows of w; the others repeat the last. */
PUNA_INLINE void one_row_group(const int32_t dtype, float *y, const char *w, int64_t row_bytes, const void *x, int64_t K,
                               int64_t N, bool accumulate) {
    const int64_t block_bytes = bytes_of(dtype);
    const ivec ones = ivec_set1_i16(1);
    const void *w_g[GROUP];
    fvec acc = fvec_set1(0);
    for (int g = 0; g < GROUP; g++) w_g[g] = w + puna_min(g, N - 1) * row_bytes;
    for (int64_t b = 0; b < K / elements_of(dtype); b++) {
        ivec dots, part[GROUP];
        fvec d_w = fvec_gather_f16(w_g, offset_of_d(dtype));
        prefetch(w + GROUP * row_bytes, b * block_bytes * GROUP, block_bytes * GROUP);
        if (!is_wide(dtype)) {
            const x_32 *x_b = (const x_32 *)x + b;
            ivec x_q = ivec_load(x_b->q);
            if (dtype == PUNA_DTYPE_Q4_0) {
                for (int g = 0; g < GROUP; g++) part[g] = ivec_pairs_u8(quants(dtype, w_g[g], 0), x_q);
                dots = ivec_sub_i32(ivec_sums_i16(part), ivec_set1_i32(8 * x_b->sum)); /* 8 * 15 * 127 * 2 fits an int16 */
            } else {
                for (int g = 0; g < GROUP; g++) part[g] = ivec_pairs_i16(ivec_pairs_i8(quants(dtype, w_g[g], 0), x_q), ones);
                dots = ivec_sums_i32(part);
            }
            acc = fvec_fma(fvec_mul(d_w, fvec_set1(x_b->d)), fvec_from_i32(dots), acc);
        } else {
            const x_256 *x_b = (const x_256 *)x + b;
            fvec d_x = fvec_set1(x_b->d);
            if (dtype == PUNA_DTYPE_Q4_K) {
                ivec mins[GROUP], sums = ivec_load(x_b->zeros);
                for (int g = 0; g < GROUP; g++) {
                    int8_t six[16];
                    scales_and_mins(w_g[g], six);
                    ivec both = ivec_widen_i8(six), scales = ivec_first_half(both);
                    mins[g] = ivec_pairs_i16(both, sums);
                    part[g] = ivec_zero();
                    for (int j = 0; j < 8; j++)
                        part[g] = ivec_add_i32(part[g], ivec_pairs_i16(ivec_pairs_u8(quants(dtype, w_g[g], j),
                                                                                     ivec_load(x_b->q + 32 * j)),
                                                                       ivec_spread_i16(scales, j)));
                }
                fvec m_w = fvec_gather_f16(w_g, offsetof(puna_q4_k, m));
                acc = fvec_fma(fvec_mul(d_w, d_x), fvec_from_i32(ivec_sums_i32(part)), acc);
                acc = fvec_fnma(fvec_mul(m_w, d_x), fvec_from_i32(ivec_sums_i32(mins)), acc);
            } else {
                ivec sums = ivec_load(x_b->sums_16);
                for (int g = 0; g < GROUP; g++) {
                    ivec scales = ivec_widen_even_odd_i8(((const puna_q6_k *)w_g[g])->scales), sum = ivec_zero();
                    for (int j = 0; j < 8; j++)
                        sum = ivec_add_i32(sum, ivec_pairs_i16(ivec_pairs_u8(quants(dtype, w_g[g], j),
                                                                             ivec_load(x_b->q + 32 * j)),
                                                               ivec_spread_i16(scales, j)));
                    part[g] = ivec_sub_i32(sum, ivec_shl_i32(ivec_pairs_i16(scales, sums), 5));
                }
                acc = fvec_fma(fvec_mul(d_w, d_x), fvec_from_i32(ivec_sums_i32(part)), acc);
            }
        }
        for (int g = 0; g < GROUP; g++) w_g[g] = (const char *)w_g[g] + block_bytes;
    }
    float sums[GROUP];
    fvec_store(sums, acc);
    for (int g = 0; g < GROUP && g < N; g++) y[g] = accumulate ? y[g] + sums[g] : sums[g];
}

PUNA_INLINE void few_rows(const int32_t dtype, float *y, int64_t y_stride, const char *w, int64_t row_bytes, const char *x,
                          int64_t rows, int64_t K, int64_t N, bool accumulate) {
    int64_t x_stride = K / elements_of(dtype) * x_bytes_of(dtype);
    for (int64_t n = 0; n < N; n += GROUP)
        for (int64_t r = 0; r < rows; r++)
            one_row_group(dtype, y + r * y_stride + n, w + n * row_bytes, row_bytes, x + r * x_stride, K, N - n, accumulate);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Many rows of x
 * ------------------------------------------------------------------------------------------------------------------ */

/* PANEL rows of w, DEPTH elements deep. */
typedef struct panel {
    uint8_t q[DEPTH / 4][PANEL][4];
    float d[DEPTH / 32][PANEL];             /* of each block                                                        */
    float m[DEPTH / 256][PANEL];            /* Q4_K                                                                 */
    int16_t scales[DEPTH / 16][PANEL][2];   /* Q4_K: of 32 elements, Q6_K: of 16, twice each                        */
    int16_t of_sums[DEPTH / 32][PANEL][2];  /* what multiplies two sums of x. Q4_K: mins, Q6_K: scales              */
} panel;

/* int32 lane n of column[j] = bytes[n][j], j < 16. */
PUNA_INLINE void columns(ivec column[16], const int8_t bytes[8][32]) {
    ivec in[8], out[8];
    for (int n = 0; n < 8; n++) in[n] = ivec_load(bytes[n]);
    ivec_transpose_i32(out, in);
    for (int j = 0; j < 16; j++) column[j] = ivec_shr_i32(ivec_shl_i32(out[j / 4], 24 - j % 4 * 8), 24);
}

/* Two int16 a lane: a, then b. */
PUNA_INLINE ivec two_i16(ivec a, ivec b) { return ivec_or(ivec_and(a, ivec_set1_i32(0xFFFF)), ivec_shl_i32(b, 16)); }

/* panel = elements [0, depth) of N rows from w on; rows past N repeat the last. */
PUNA_INLINE void pack(const int32_t dtype, panel *to, const char *w, int64_t row_bytes, int64_t depth, int64_t N) {
    const int64_t elements = elements_of(dtype), block_bytes = bytes_of(dtype);
    const char *rows[PANEL];
    for (int n = 0; n < PANEL; n++) rows[n] = w + puna_min(n, N - 1) * row_bytes;
    for (int64_t b = 0; b < depth / elements; b++) {
        for (int half = 0; half < PANEL; half += 8) {
            const void *w_n[8];
            int8_t bytes[8][32] = {{0}};
            for (int n = 0; n < 8; n++) w_n[n] = rows[half + n] + b * block_bytes;
            for (int j = 0; j < elements / 32; j++) {
                ivec in[8], out[8];
                for (int n = 0; n < 8; n++) in[n] = quants(dtype, w_n[n], j);
                ivec_transpose_i32(out, in);
                for (int s = 0; s < 8; s++) ivec_store(to->q[(b * elements + 32 * j) / 4 + s][half], out[s]);
            }
            fvec_store(to->d[b] + half, fvec_gather_f16(w_n, offset_of_d(dtype)));
            if (dtype == PUNA_DTYPE_Q4_K) {
                fvec_store(to->m[b] + half, fvec_gather_f16(w_n, offsetof(puna_q4_k, m)));
                ivec both[16];
                for (int n = 0; n < 8; n++) scales_and_mins(w_n[n], bytes[n]);
                columns(both, bytes);
                for (int j = 0; j < 8; j++) ivec_store(to->scales[8 * b + j][half], two_i16(both[j], both[j]));
                for (int j = 0; j < 4; j++) ivec_store(to->of_sums[4 * b + j][half], two_i16(both[8 + 2 * j], both[9 + 2 * j]));
            }
            if (dtype == PUNA_DTYPE_Q6_K) {
                ivec scales[16];
                for (int n = 0; n < 8; n++) memcpy(bytes[n], ((const puna_q6_k *)w_n[n])->scales, 16);
                columns(scales, bytes);
                for (int j = 0; j < 16; j++) ivec_store(to->scales[16 * b + j][half], two_i16(scales[j], scales[j]));
                for (int j = 0; j < 4; j++) {
                    ivec_store(to->of_sums[8 * b + j][half], two_i16(scales[4 * j], scales[4 * j + 2]));
                    ivec_store(to->of_sums[8 * b + 4 + j][half], two_i16(scales[4 * j + 1], scales[4 * j + 3]));
                }
            }
        }
    }
}

PUNA_INLINE ivec spread_4(const void *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return ivec_set1_i32(four);
}

/* pairs[r, m] (= or +=) four elements of PANEL rows of w times those of R rows of x, as two int16 a row. */
PUNA_INLINE void multiply_4(const int R, ivec pairs[4][2], const uint8_t (*w)[4], const int8_t *x, int64_t x_stride, bool first) {
    ivec w_0 = ivec_load(w), w_1 = ivec_load(w + 8);
    for (int r = 0; r < R; r++) {
        ivec x_r = spread_4(x + r * x_stride), p_0 = ivec_pairs_u8(w_0, x_r), p_1 = ivec_pairs_u8(w_1, x_r);
        pairs[r][0] = first ? p_0 : ivec_add_i16(pairs[r][0], p_0);
        pairs[r][1] = first ? p_1 : ivec_add_i16(pairs[r][1], p_1);
    }
}

/* dots[r, m] += pairs[r, m] . factors[m], two int16 each. */
PUNA_INLINE void add_pairs(const int R, ivec dots[4][2], ivec pairs[4][2], const int16_t (*factors)[2]) {
    for (int m = 0; m < 2; m++) {
        ivec factors_m = ivec_load(factors + 8 * m);
        for (int r = 0; r < R; r++) dots[r][m] = ivec_add_i32(dots[r][m], ivec_pairs_i16(pairs[r][m], factors_m));
    }
}

/* dots[r, m] (= or +=) the weights of sums of x times those sums: two of each a lane. */
PUNA_INLINE void multiply_sums(const int R, const int pairs, ivec dots[4][2], const int16_t (*w)[PANEL][2], const int16_t *sums,
                               int64_t x_stride) {
    for (int r = 0; r < R; r++)
        for (int m = 0; m < 2; m++) {
            ivec sum = ivec_zero();
            for (int i = 0; i < pairs; i++)
                sum = ivec_add_i32(sum, ivec_pairs_i16(ivec_load(w[i] + 8 * m),
                                                       spread_4((const char *)(sums + 2 * i) + r * x_stride)));
            dots[r][m] = sum;
        }
}

/* Continues R x PANEL sums over one depth; first: they start at zero. Rows of x are x_stride bytes apart. */
PUNA_INLINE void tile(const int32_t dtype, const int R, float *sums, const char *x, int64_t x_stride, const panel *w,
                      int64_t depth, bool first) {
    const ivec ones = ivec_set1_i16(1);
    const int64_t elements = elements_of(dtype);
    fvec acc[4][2];
    for (int r = 0; r < R; r++)
        for (int m = 0; m < 2; m++) acc[r][m] = first ? fvec_set1(0) : fvec_load(sums + r * PANEL + 8 * m);
    for (int64_t b = 0; b < depth / elements; b++, x += x_bytes_of(dtype)) {
        const uint8_t (*q)[PANEL][4] = w->q + b * elements / 4;
        ivec dots[4][2], pairs[4][2];
        const float *d_x = is_wide(dtype) ? &((const x_256 *)x)->d : &((const x_32 *)x)->d;
        for (int r = 0; r < R; r++) dots[r][0] = dots[r][1] = ivec_zero();
        if (dtype == PUNA_DTYPE_Q8_0) {
            for (int s = 0; s < 8; s++) {
                ivec w_0 = ivec_load(q[s]), w_1 = ivec_load(q[s] + 8);
                for (int r = 0; r < R; r++) {
                    ivec x_r = spread_4(x + r * x_stride + 4 * s);
                    dots[r][0] = ivec_add_i32(dots[r][0], ivec_pairs_i16(ivec_pairs_i8(w_0, x_r), ones));
                    dots[r][1] = ivec_add_i32(dots[r][1], ivec_pairs_i16(ivec_pairs_i8(w_1, x_r), ones));
                }
            }
        } else if (dtype == PUNA_DTYPE_Q4_0) {
            for (int s = 0; s < 8; s++) multiply_4(R, pairs, q[s], (const int8_t *)x + 4 * s, x_stride, s == 0);
            for (int r = 0; r < R; r++) {
                int32_t sum;
                memcpy(&sum, x + r * x_stride + offsetof(x_32, sum), 4);
                ivec offset = ivec_set1_i32(8 * sum);
                for (int m = 0; m < 2; m++) dots[r][m] = ivec_sub_i32(ivec_pairs_i16(pairs[r][m], ones), offset);
            }
        } else if (dtype == PUNA_DTYPE_Q4_K) {
            for (int j = 0; j < 8; j++) {
                for (int s = 0; s < 8; s++)
                    multiply_4(R, pairs, q[8 * j + s], (const int8_t *)x + 32 * j + 4 * s, x_stride, s == 0);
                add_pairs(R, dots, pairs, w->scales[8 * b + j]);
            }
        } else {
            for (int j = 0; j < 16; j++)
                for (int s = 0; s < 4; s += 2) { /* 2 * 63 * 127 * 2 is what fits */
                    multiply_4(R, pairs, q[4 * j + s], (const int8_t *)x + 16 * j + 4 * s, x_stride, true);
                    multiply_4(R, pairs, q[4 * j + s + 1], (const int8_t *)x + 16 * j + 4 * s + 4, x_stride, false);
                    add_pairs(R, dots, pairs, w->scales[16 * b + j]);
                }
            ivec offsets[4][2];
            multiply_sums(R, 8, offsets, w->of_sums + 8 * b, ((const x_256 *)x)->sums_16, x_stride);
            for (int r = 0; r < R; r++)
                for (int m = 0; m < 2; m++) dots[r][m] = ivec_sub_i32(dots[r][m], ivec_shl_i32(offsets[r][m], 5));
        }
        for (int r = 0; r < R; r++) {
            float d;
            memcpy(&d, (const char *)d_x + r * x_stride, 4);
            for (int m = 0; m < 2; m++)
                acc[r][m] = fvec_fma(fvec_mul(fvec_load(w->d[b] + 8 * m), fvec_set1(d)), fvec_from_i32(dots[r][m]), acc[r][m]);
        }
        if (dtype == PUNA_DTYPE_Q4_K) {
            multiply_sums(R, 4, dots, w->of_sums + 4 * b, ((const x_256 *)x)->sums_32, x_stride);
            for (int r = 0; r < R; r++) {
                float d;
                memcpy(&d, (const char *)d_x + r * x_stride, 4);
                for (int m = 0; m < 2; m++)
                    acc[r][m] = fvec_fnma(fvec_mul(fvec_load(w->m[b] + 8 * m), fvec_set1(d)), fvec_from_i32(dots[r][m]),
                                          acc[r][m]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int m = 0; m < 2; m++) fvec_store(sums + r * PANEL + 8 * m, acc[r][m]);
}

/* Rows of x against one panel. */
PUNA_INLINE void multiply_panel(const int32_t dtype, float *sums, const char *x, int64_t x_stride, int64_t rows, const panel *w,
                                int64_t depth, bool first) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) tile(dtype, 4, sums + r * PANEL, x + r * x_stride, x_stride, w, depth, first);
    sums += r * PANEL, x += r * x_stride;
    switch (rows - r) {
    case 3: tile(dtype, 3, sums, x, x_stride, w, depth, first); break;
    case 2: tile(dtype, 2, sums, x, x_stride, w, depth, first); break;
    case 1: tile(dtype, 1, sums, x, x_stride, w, depth, first); break;
    default: break;
    }
}

/* A thread's part of the workspace. */
typedef struct thread_space {
    panel w;
    float sums[ROW_BLOCK][PANEL];
} thread_space;

PUNA_INLINE void many_rows(const int32_t dtype, float *y, int64_t y_stride, const char *w, int64_t row_bytes, const char *x,
                           int64_t rows, int64_t K, int64_t N, bool accumulate, thread_space *space) {
    int64_t x_bytes = x_bytes_of(dtype), x_stride = K / elements_of(dtype) * x_bytes;
    for (int64_t n = 0; n < N; n += PANEL) {
        int64_t some_N = puna_min(PANEL, N - n);
        for (int64_t r = 0; r < rows; r += ROW_BLOCK) {
            int64_t some_rows = puna_min(ROW_BLOCK, rows - r);
            for (int64_t k = 0; k < K; k += DEPTH) {
                int64_t depth = puna_min(DEPTH, K - k), block = k / elements_of(dtype);
                pack(dtype, &space->w, w + n * row_bytes + block * bytes_of(dtype), row_bytes, depth, some_N);
                multiply_panel(dtype, space->sums[0], x + r * x_stride + block * x_bytes, x_stride, some_rows, &space->w, depth,
                               k == 0);
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

typedef struct call {
    const puna_matmul_product *products;
    float *const *y;
    const void *const *w;
    const float *x;
    int64_t x_stride, rows, K;
    char *x_32, *x_256;       /* rounded rows; null where no product wants them                                     */
    char *spaces;             /* one thread_space after another                                                     */
    int64_t share_rows;       /* of x that one share rounds                                                         */
    int64_t share_N;          /* rows of w of one product that one share multiplies                                 */
    int64_t first_share[PUNA_MATMUL_MAX_PRODUCTS + 1];
} call;

/* Bytes of the rows of x rounded for blocks of dtype's kind, so that what follows is aligned as this is. */
static int64_t rounded_bytes(int32_t dtype, int64_t rows, int64_t K) {
    return puna_ceil_div(rows * (K / elements_of(dtype)) * x_bytes_of(dtype), 64) * 64;
}

static int64_t space_bytes(void) { return puna_ceil_div(sizeof(thread_space), 64) * 64; }

static bool any_of(const puna_matmul_product *products, int32_t count, bool wide) {
    for (int32_t p = 0; p < count; p++)
        if (is_wide(products[p].w_dtype) == wide) return true;
    return false;
}

static void round_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const call *c = arguments;
    for (int64_t r = share * c->share_rows; r < puna_min(c->rows, (share + 1) * c->share_rows); r++) {
        const float *x = c->x + r * c->x_stride;
        if (c->x_32 != NULL) quantize_row_32((x_32 *)c->x_32 + r * (c->K / 32), x, c->K);
        if (c->x_256 != NULL) quantize_row_256((x_256 *)c->x_256 + r * (c->K / 256), x, c->K);
    }
}

/* Calls function(dtype, …) with dtype a constant, so that it is compiled once per type. */
#define FOR_BLOCK_DTYPE(dtype, function, ...)                                                                                 \
    switch (dtype) {                                                                                                          \
    case PUNA_DTYPE_Q8_0: function(PUNA_DTYPE_Q8_0, __VA_ARGS__); break;                                                      \
    case PUNA_DTYPE_Q4_0: function(PUNA_DTYPE_Q4_0, __VA_ARGS__); break;                                                      \
    case PUNA_DTYPE_Q4_K: function(PUNA_DTYPE_Q4_K, __VA_ARGS__); break;                                                      \
    default: function(PUNA_DTYPE_Q6_K, __VA_ARGS__); break;                                                                   \
    }

static void multiply_share(void *arguments, int64_t share, int32_t thread) {
    const call *c = arguments;
    int32_t p = 0;
    while (share >= c->first_share[p + 1]) p++;
    const puna_matmul_product *product = &c->products[p];
    int64_t n0 = (share - c->first_share[p]) * c->share_N, N = puna_min(c->share_N, product->N - n0);
    int64_t row_bytes = c->K / elements_of(product->w_dtype) * bytes_of(product->w_dtype);
    const char *x = is_wide(product->w_dtype) ? c->x_256 : c->x_32, *w = (const char *)c->w[p] + n0 * row_bytes;
    float *y = c->y[p] + n0;
    if (c->rows <= FEW_ROWS) {
        FOR_BLOCK_DTYPE(product->w_dtype, few_rows, y, product->y_stride, w, row_bytes, x, c->rows, c->K, N,
                        product->accumulate)
    } else {
        thread_space *space = (thread_space *)(c->spaces + thread * space_bytes());
        FOR_BLOCK_DTYPE(product->w_dtype, many_rows, y, product->y_stride, w, row_bytes, x, c->rows, c->K, N,
                        product->accumulate, space)
    }
}

enum {
    SHARES_PER_THREAD = 8,
    SHARE_CYCLES = 30000 /* about 10 us: far above what handing out a share costs                                    */
};

/* Cycles, roughly, for one row of w: reading it, and multiplying it with every row of x. */
static double row_cycles(int64_t rows, int64_t K) { return (double)K * (0.15 + (double)rows / 32); }

int64_t PUNA_KERNEL(matmul_int8_workspace_size)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                int64_t rows, int64_t K) {
    int64_t bytes = 63;
    if (any_of(products, count, false)) bytes += rounded_bytes(PUNA_DTYPE_Q8_0, rows, K);
    if (any_of(products, count, true)) bytes += rounded_bytes(PUNA_DTYPE_Q4_K, rows, K);
    return rows <= FEW_ROWS ? bytes : bytes + context->threads * space_bytes();
}

puna_status PUNA_KERNEL(matmul_int8_forward)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                             float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                             int64_t rows, int64_t K, void *workspace) {
    call c = {.products = products, .y = y, .w = w, .x = x, .x_stride = x_stride, .rows = rows, .K = K};
    c.spaces = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    if (any_of(products, count, false)) {
        c.x_32 = c.spaces;
        c.spaces += rounded_bytes(PUNA_DTYPE_Q8_0, rows, K);
    }
    if (any_of(products, count, true)) {
        c.x_256 = c.spaces;
        c.spaces += rounded_bytes(PUNA_DTYPE_Q4_K, rows, K);
    }
    c.share_rows = rows_per_share(K * (int64_t)sizeof(float));
    puna_parallel(context, puna_ceil_div(rows, c.share_rows), round_share, &c);

    int64_t total_N = 0, unit = rows <= FEW_ROWS ? GROUP : PANEL;
    for (int32_t p = 0; p < count; p++) total_N += products[p].N;
    int64_t smallest = (int64_t)(SHARE_CYCLES / row_cycles(rows, K)) + 1; /* rows of w that are worth a share */
    c.share_N = puna_ceil_div(puna_max(puna_ceil_div(total_N, SHARES_PER_THREAD * context->threads), smallest), unit) * unit;
    c.first_share[0] = 0;
    for (int32_t p = 0; p < count; p++) c.first_share[p + 1] = c.first_share[p] + puna_ceil_div(products[p].N, c.share_N);
    puna_parallel(context, c.first_share[count], multiply_share, &c);
    return PUNA_STATUS_OK;
}
