/*
 * Matrix product of weights of block types with activations that are first rounded to int8 or int16 (puna.h says how).
 *
 * ORDER OF SUMMATION, the same for one row and for many: the integer product of one group of 32 elements (16 for Q6_K) is exact,
 * in whatever order; then one accumulator per element of y takes a group at a time in order of k. Lanes are rows of w. So a
 * row's bits depend on its own x and w alone.
 *
 * ONE WAY FOR ANY NUMBER OF ROWS: PANEL rows of w are unpacked DEPTH elements deep into the thread's workspace, which stays in the
 * first-level cache, so that each lane of a vector holds four bytes, or two words, of its own row; those meet the same four bytes
 * or two words of x in every lane, and no sum ever crosses lanes. The transpose is made of raw bytes, before nibbles are taken
 * apart, and costs less than adding up the lanes of a row-wise product: even a single row of x runs at the speed of memory.
 *
 * BYTES OR WORDS: int16 activations meet weights widened to int16. int8 activations meet bytes where the set multiplies bytes
 * faster, and are widened like the weights where it does not (the baselines, and Q8_0 on AVX2, whose byte product is unsigned
 * times signed and saturates).
 *
 * MEASURED on a quiet two-core Granite Rapids, N = 5632, K = 2048, int16 on AVX-512; cold weights, two threads, 27 GB/s of reads:
 *   1 row    Q8_0 14.9 GB/s, 16.9 with the next panel fetched little by little and not at once, 18.5 with panels of one vector of
 *            rows; Q4_K 13.8, 13.1, 14.9. From the second-level cache one thread does 21 and 15. AVX2 19.3 and 15.0.
 *            No fetching ahead, or to the first level: Q8_0 as at once, Q4_K there an eighth slower; every second line: Q4_K a
 *            tenth faster, Q8_0 a tenth slower. What is left is the pattern: rows read side by side, where F16 (matmul.c), read along
 *            its rows, has 27 GB/s.
 *   many     Q4_K 267 GOP/s int16, 470 int8 of one thread; AVX2 121, and with int8 167, a quarter more since its loop is unrolled by
 *            four and not by eight (24 rows, busy machine: 106 to 134); the code before this had 192
 */
#include "integer.h"
#include "kernels.h"
#include "products.h"
#include "rows.h"

enum {
    VECTORS = VEC_WIDTH == 16 ? 1 : 2, /* of rows of w in a panel                                                   */
    PANEL = VECTORS * VEC_WIDTH,   /* rows of w unpacked together                                                   */
    DEPTH = 256,                   /* elements of K unpacked together: the largest block                            */
    TILE = VEC_WIDTH == 16 ? 12 : VEC_WIDTH == 8 ? 3 : 6, /* rows of x side by side: what the registers hold        */
    ROW_BLOCK = 256                /* rows of x that meet an unpacked panel                                         */
};

/* What follows the integers of 32 activations. */
typedef struct x_scale {
    float d, minus_d_sum; /* x is near d * q; -d times the sum of q                                                 */
    int32_t sums[4];      /* of q: the first 16, the others, all                                                    */
} x_scale;

typedef struct x_bytes {
    int8_t q[32];
    x_scale scale;
} x_bytes;

typedef struct x_words {
    int16_t q[32]; /* of every four the first, third, second, fourth: as widened weights lie                        */
    x_scale scale;
} x_words;

PUNA_INLINE bool uses_bytes(int32_t dtype, int32_t activations) {
#if defined(PUNA_VARIANT_AVX512)
    (void)dtype;
    return activations == PUNA_ACTIVATIONS_INT8;
#elif defined(PUNA_VARIANT_AVX2)
    return activations == PUNA_ACTIVATIONS_INT8 && dtype != PUNA_DTYPE_Q8_0;
#else
    (void)dtype, (void)activations;
    return false;
#endif
}

PUNA_INLINE int64_t x_size(bool bytes) { return bytes ? sizeof(x_bytes) : sizeof(x_words); }

/* ---------------------------------------------------------------------------------------------------------------------
 * Rounding x
 * ------------------------------------------------------------------------------------------------------------------ */

/* puna_quantize of 32 elements, vectors at a time. Integers stand in the low bits of rounded. */
PUNA_INLINE float quantize(uint32_t rounded[32], const float *x, float top) {
    vec largest = vec_zero(), special = vec_zero(); /* special: NaN where an element is NaN or infinite, else 0 */
    for (int i = 0; i < 32; i += VEC_WIDTH) {
        vec x_i = vec_load(x + i);
        largest = vec_max(largest, vec_max(x_i, vec_sub(vec_zero(), x_i)));
        special = vec_fma(x_i, vec_zero(), special);
    }
    bool finite = vec_hsum(special) == 0;
    float a = vec_hmax(largest);
    if (!finite || a < PUNA_QUANTIZED_ZERO) {
        memset(rounded, 0, 32 * sizeof *rounded);
        return finite ? 0 : NAN;
    }
    /* Adding 1.5 * 2^23 rounds to an integer, to even where it is a tie. */
    vec inverse = vec_set1(top / a), magic = vec_set1(12582912.0f);
    for (int i = 0; i < 32; i += VEC_WIDTH)
        vec_store((float *)rounded + i, vec_add(vec_mul(vec_load(x + i), inverse), magic));
    return a / top;
}

PUNA_INLINE void set_scale(x_scale *scale, float d, const int16_t q[32]) {
    int32_t sums[2] = {0, 0};
    for (int i = 0; i < 16; i++) sums[0] += q[i], sums[1] += q[16 + i];
    *scale = (x_scale){d, -d * (float)(sums[0] + sums[1]), {sums[0], sums[1], sums[0] + sums[1], 0}};
}

PUNA_INLINE void quantize_row(bool bytes, float top, void *to, const float *x, int64_t K) {
    for (int64_t k = 0; k < K; k += 32) {
        float rounded[32];
        uint32_t bits[32];
        float d = quantize((uint32_t *)(void *)rounded, x + k, top);
        memcpy(bits, rounded, sizeof bits);
        int16_t q[32];
        for (int i = 0; i < 32; i++) q[i] = (int16_t)bits[i];
        if (bytes) {
            x_bytes *b = (x_bytes *)to + k / 32;
            for (int i = 0; i < 32; i++) b->q[i] = (int8_t)q[i];
            set_scale(&b->scale, d, q);
        } else {
            x_words *b = (x_words *)to + k / 32;
            for (int i = 0; i < 32; i += 4)
                b->q[i] = q[i], b->q[i + 1] = q[i + 2], b->q[i + 2] = q[i + 1], b->q[i + 3] = q[i + 3];
            set_scale(&b->scale, d, q);
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Unpacking w
 * ------------------------------------------------------------------------------------------------------------------ */

/* PANEL rows of w, DEPTH elements deep. */
typedef int32_t panel_row[PANEL];
typedef struct panel {
    panel_row q[DEPTH / 2];     /* words: two of a row, elements 0 and 2, then 1 and 3 of every four; bytes: four of a row, half as many */
    float d[DEPTH / 16][PANEL]; /* what multiplies the integer of a group                                           */
    float m[DEPTH / 32][PANEL]; /* Q4_K: what multiplies the sum of x                                               */
    uint16_t halves[DEPTH / 32][PANEL];
} panel;

PUNA_INLINE int64_t elements_of(int32_t dtype) { return dtype == PUNA_DTYPE_Q4_K || dtype == PUNA_DTYPE_Q6_K ? 256 : 32; }
PUNA_INLINE int64_t bytes_of(int32_t dtype) {
    switch (dtype) {
    case PUNA_DTYPE_Q8_0: return sizeof(puna_q8_0);
    case PUNA_DTYPE_Q4_0: return sizeof(puna_q4_0);
    case PUNA_DTYPE_Q4_K: return sizeof(puna_q4_k);
    default: return sizeof(puna_q6_k);
    }
}
PUNA_INLINE int group_of(int32_t dtype) { return dtype == PUNA_DTYPE_Q6_K ? 16 : 32; }

/* Quants lie in a panel without the offset 2^shift that makes them unsigned; 0 where they are signed. */
PUNA_INLINE int offset_shift(int32_t dtype, bool bytes) {
    return dtype == PUNA_DTYPE_Q4_0 ? 3 : dtype == PUNA_DTYPE_Q6_K ? 5 : dtype == PUNA_DTYPE_Q8_0 && bytes ? 7 : 0;
}

/* Four elements of each row, a byte each, which belong k elements after those at q. */
PUNA_INLINE void put(bool is_signed, bool bytes, panel_row *q, int k, ivec four) {
    if (bytes) {
        ivec_store(q[k / 4], is_signed ? ivec_xor(four, ivec_set1((int32_t)0x80808080)) : four);
        return;
    }
    ivec_store(q[k / 2], is_signed ? ivec_shr_i16(ivec_shl_i16(four, 8), 8) : ivec_and(four, ivec_set1(0x00FF00FF)));
    ivec_store(q[k / 2 + 1], is_signed ? ivec_shr_i16(four, 8) : ivec_shr_u16(four, 8));
}

/* Four elements in the low halves of bytes, and four in the high ones that belong distance after them. */
PUNA_INLINE void put_nibbles(bool bytes, panel_row *q, int k, int distance, ivec a) {
    if (bytes) {
        ivec_store(q[k / 4], ivec_and(a, ivec_set1(0x0F0F0F0F)));
        ivec_store(q[(k + distance) / 4], ivec_and(ivec_shr(a, 4), ivec_set1(0x0F0F0F0F)));
        return;
    }
    const ivec low = ivec_set1(0x000F000F);
    ivec_store(q[k / 2], ivec_and(a, low));
    ivec_store(q[k / 2 + 1], ivec_and(ivec_shr(a, 8), low));
    ivec_store(q[(k + distance) / 2], ivec_and(ivec_shr(a, 4), low));
    ivec_store(q[(k + distance) / 2 + 1], ivec_shr_u16(a, 12));
}

/* Fetches the part-th of parts of the bytes that a block of VEC_WIDTH rows takes. */
PUNA_INLINE void fetch(int32_t dtype, const char *next, int part, int parts) {
    const int64_t bytes = VEC_WIDTH * bytes_of(dtype) / parts;
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(next + part * bytes + i, 0, 2);
}

/*
 * The quants of a block of VEC_WIDTH rows, stride bytes apart, to q. Meanwhile as many bytes from next on are fetched, little by
 * little: all at once they would be waited for.
 */
PUNA_INLINE void pack_quants(int32_t dtype, bool bytes, panel_row *q, const char *block, int64_t stride, const char *next) {
    const int step = bytes ? 4 : 2; /* elements of a panel row */
    ivec a[4], b[4], h[4];
    if (dtype == PUNA_DTYPE_Q8_0) {
        for (int part = 0; part < 32; part += 16) {
            fetch(dtype, next, part / 16, 2);
            ivec_columns(a, block + offsetof(puna_q8_0, q) + part, stride);
            for (int c = 0; c < 4; c++) put(true, bytes, q, part + 4 * c, a[c]);
        }
    } else if (dtype == PUNA_DTYPE_Q4_0) {
        fetch(dtype, next, 0, 1);
        ivec_columns(a, block + offsetof(puna_q4_0, q), stride);
        for (int c = 0; c < 4; c++) put_nibbles(bytes, q, 4 * c, 16, a[c]);
    } else if (dtype == PUNA_DTYPE_Q4_K) {
        block += offsetof(puna_q4_k, q);
        for (int j = 0; j < 4; j++, block += 32, q += 64 / step) /* 32 bytes: a group of 32 in the low halves, one in the high */
            for (int part = 0; part < 32; part += 16) {
                fetch(dtype, next, 2 * j + part / 16, 8);
                ivec_columns(a, block + part, stride);
                for (int c = 0; c < 4; c++) put_nibbles(bytes, q, part + 4 * c, 32, a[c]);
            }
    } else {
        const ivec low_bits = ivec_set1(0x0F0F0F0F), high_bits = ivec_set1(0x30303030);
        for (int half = 0; half < 2; half++, q += 128 / step)
            for (int part = 0; part < 32; part += 16) { /* 16 bytes of high bits serve four stretches of 16 elements */
                fetch(dtype, next, 2 * half + part / 16, 4);
                ivec_columns(a, block + 64 * half + part, stride);
                ivec_columns(b, block + 64 * half + 32 + part, stride);
                ivec_columns(h, block + offsetof(puna_q6_k, high) + 32 * half + part, stride);
                for (int c = 0; c < 4; c++) {
                    int k = part + 4 * c;
                    put(false, bytes, q, k, ivec_or(ivec_and(a[c], low_bits), ivec_and(ivec_shl(h[c], 4), high_bits)));
                    put(false, bytes, q, k + 32, ivec_or(ivec_and(b[c], low_bits), ivec_and(ivec_shl(h[c], 2), high_bits)));
                    put(false, bytes, q, k + 64, ivec_or(ivec_and(ivec_shr(a[c], 4), low_bits), ivec_and(h[c], high_bits)));
                    put(false, bytes, q, k + 96,
                        ivec_or(ivec_and(ivec_shr(b[c], 4), low_bits), ivec_and(ivec_shr(h[c], 2), high_bits)));
                }
            }
    }
}

/* Byte j of every lane, as a float. */
PUNA_INLINE vec byte_of(ivec a, int j) { return ivec_to_f32(ivec_and(ivec_shr(a, 8 * j), ivec_set1(255))); }

/* The F16 that lie offset bytes into each of PANEL rows; they are read as vectors well after they are written. */
PUNA_INLINE void collect_halves(uint16_t halves[PANEL], const char *rows, int64_t stride) {
    for (int r = 0; r < PANEL; r++, rows += stride) memcpy(&halves[r], rows, 2);
}

/* The factors of a block of Q4_K of the rows of vector v, whose first halves are its d and second its m. */
PUNA_INLINE void pack_scales_q4_k(panel *to, int v, const char *block, int64_t stride) {
    const ivec six_bits = ivec_set1(0x3F3F3F3F), four_bits = ivec_set1(0x0F0F0F0F), two_bits = ivec_set1(0x30303030);
    ivec in[4], six[4]; /* in[1..3]: the twelve bytes of scales; six: as puna_q4_k_scale takes them apart, 8 scales, 8 mins */
    ivec_columns(in, block, stride);
    six[0] = ivec_and(in[1], six_bits);
    six[1] = ivec_or(ivec_and(in[3], four_bits), ivec_and(ivec_shr(in[1], 2), two_bits));
    six[2] = ivec_and(in[2], six_bits);
    six[3] = ivec_or(ivec_and(ivec_shr(in[3], 4), four_bits), ivec_and(ivec_shr(in[2], 2), two_bits));
    int at = v * VEC_WIDTH;
    vec d = vec_load_f16(to->halves[0] + at), m = vec_load_f16(to->halves[1] + at);
    for (int j = 0; j < 8; j++) {
        vec_store(to->d[j] + at, vec_mul(d, byte_of(six[j / 4], j % 4)));
        vec_store(to->m[j] + at, vec_mul(m, byte_of(six[2 + j / 4], j % 4)));
    }
}

PUNA_INLINE void pack_scales_q6_k(panel *to, int v, const char *block, int64_t stride) {
    ivec scales[4], bias = ivec_set1((int32_t)0x80808080);
    vec d = vec_load_f16(to->halves[0] + v * VEC_WIDTH), offset = vec_set1(128);
    ivec_columns(scales, block + offsetof(puna_q6_k, scales), stride);
    for (int j = 0; j < 16; j++) /* signed: read as unsigned with an offset of 128 */
        vec_store(to->d[j] + v * VEC_WIDTH, vec_mul(d, vec_sub(byte_of(ivec_xor(scales[j / 4], bias), j % 4), offset)));
}

/* PANEL rows, stride bytes apart, depth elements of each; as many bytes from next on are fetched. */
PUNA_INLINE void pack(const int32_t dtype, const bool bytes, panel *to, const char *rows, int64_t stride, int64_t depth,
                      const char *next) {
    const int64_t elements = elements_of(dtype), block_bytes = bytes_of(dtype);
    if (elements == 32) {
        for (int64_t b = 0; b < depth / 32; b++) collect_halves(to->halves[b], rows + b * block_bytes, stride);
    } else if (dtype == PUNA_DTYPE_Q4_K) {
        collect_halves(to->halves[0], rows + offsetof(puna_q4_k, d), stride);
        collect_halves(to->halves[1], rows + offsetof(puna_q4_k, m), stride);
    } else {
        collect_halves(to->halves[0], rows + offsetof(puna_q6_k, d), stride);
    }
    for (int v = 0; v < VECTORS; v++, rows += VEC_WIDTH * stride) {
        panel_row *q = (panel_row *)(to->q[0] + v * VEC_WIDTH);
        for (int64_t b = 0; b < depth / elements; b++, q += elements / (bytes ? 4 : 2), next += VEC_WIDTH * block_bytes)
            pack_quants(dtype, bytes, q, rows + b * block_bytes, stride, next);
        if (elements == 32)
            for (int64_t b = 0; b < depth / 32; b++)
                vec_store(to->d[b] + v * VEC_WIDTH, vec_load_f16(to->halves[b] + v * VEC_WIDTH));
        else if (dtype == PUNA_DTYPE_Q4_K) pack_scales_q4_k(to, v, rows, stride);
        else pack_scales_q6_k(to, v, rows, stride);
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Multiplying
 * ------------------------------------------------------------------------------------------------------------------ */

PUNA_INLINE ivec multiply_step(const bool bytes, ivec acc, ivec w, ivec x) {
#if defined(PUNA_VARIANT_AVX512) || defined(PUNA_VARIANT_AVX2)
    if (bytes) return ivec_dot_u8(acc, w, x);
#endif
    (void)bytes;
    return ivec_dot_i16(acc, w, x);
}

/* acc += the products of a group of R rows of x, four bytes or two words a step. */
PUNA_INLINE void multiply_group(const bool bytes, const int R, const int steps, ivec acc[TILE][VECTORS], const panel_row *w,
                                const char *x, int64_t x_stride) {
#if defined(PUNA_VARIANT_AVX512)
#pragma GCC unroll 16
#else /* whole, it would be spilled: three quarters of the speed */
#pragma GCC unroll 4
#endif
    for (int s = 0; s < steps; s++) {
        ivec w_s[VECTORS];
        for (int v = 0; v < VECTORS; v++) w_s[v] = ivec_load(w[s] + v * VEC_WIDTH);
        for (int r = 0; r < R; r++) {
            ivec x_s = ivec_spread(x + r * x_stride + 4 * s);
            for (int v = 0; v < VECTORS; v++) acc[r][v] = multiply_step(bytes, acc[r][v], w_s[v], x_s);
        }
    }
}

#if defined(PUNA_VARIANT_AVX2)
/* The same of bytes where their products add up to int16 first. */
PUNA_INLINE void multiply_pairs(const int32_t dtype, const int R, const int steps, ivec acc[TILE][VECTORS], const panel_row *w,
                                const char *x, int64_t x_stride) {
    const int at_once = dtype == PUNA_DTYPE_Q6_K ? 2 : 8; /* 2 * 63 * 127 * 2, or 8 * 15 * 127 * 2, is what an int16 holds */
    for (int from = 0; from < steps; from += at_once) {
        ivec pairs[TILE][VECTORS];
        for (int r = 0; r < R; r++)
            for (int v = 0; v < VECTORS; v++) pairs[r][v] = ivec_zero();
        multiply_group(true, R, at_once, pairs, w + from, x + 4 * from, x_stride);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < VECTORS; v++) acc[r][v] = ivec_add_pairs(acc[r][v], pairs[r][v]);
    }
}
#endif

/* Continues R x PANEL sums over one depth; first: they start at zero. Rows of x are x_stride bytes apart. */
PUNA_INLINE void tile(const int32_t dtype, const bool bytes, const int R, float *sums, const char *x, int64_t x_stride,
                      const panel *w, int64_t depth, bool first) {
    const int group = group_of(dtype), shift = offset_shift(dtype, bytes), size = bytes ? 1 : 2;
    vec y[TILE][VECTORS];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < VECTORS; v++) y[r][v] = first ? vec_zero() : vec_load(sums + r * PANEL + v * VEC_WIDTH);
    for (int64_t k = 0; k < depth; k += 32, x += x_size(bytes)) {
        const x_scale *scale = (const x_scale *)(x + 32 * size);
        for (int part = 0; part < 32; part += group) {
            ivec acc[TILE][VECTORS];
            for (int r = 0; r < R; r++) {
                const int32_t *sum = (const int32_t *)((const char *)&scale->sums[group == 32 ? 2 : part / 16] + r * x_stride);
                ivec start = shift == 0 ? ivec_zero() : ivec_sub(ivec_zero(), ivec_shl(ivec_spread(sum), shift));
                for (int v = 0; v < VECTORS; v++) acc[r][v] = start;
            }
            const panel_row *w_k = &w->q[(k + part) * size / 4];
#if defined(PUNA_VARIANT_AVX2)
            if (bytes) multiply_pairs(dtype, R, group / 4, acc, w_k, x + part, x_stride);
            else
#endif
                multiply_group(bytes, R, group * size / 4, acc, w_k, x + part * size, x_stride);
            const float *d = w->d[(k + part) / group];
            for (int r = 0; r < R; r++) {
                float d_x;
                memcpy(&d_x, (const char *)&scale->d + r * x_stride, 4);
                for (int v = 0; v < VECTORS; v++)
                    y[r][v] = vec_fma(vec_mul(vec_load(d + v * VEC_WIDTH), vec_set1(d_x)), ivec_to_f32(acc[r][v]), y[r][v]);
            }
        }
        if (dtype == PUNA_DTYPE_Q4_K) {
            for (int r = 0; r < R; r++) {
                float minus_d_sum;
                memcpy(&minus_d_sum, (const char *)&scale->minus_d_sum + r * x_stride, 4);
                for (int v = 0; v < VECTORS; v++)
                    y[r][v] = vec_fma(vec_load(&w->m[k / 32][v * VEC_WIDTH]), vec_set1(minus_d_sum), y[r][v]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < VECTORS; v++) vec_store(sums + r * PANEL + v * VEC_WIDTH, y[r][v]);
}

/* Rows of x against one panel. */
PUNA_INLINE void multiply_panel(const int32_t dtype, const bool bytes, float *sums, const char *x, int64_t x_stride, int64_t rows,
                                const panel *w, int64_t depth, bool first) {
    int64_t r = 0;
    for (; r + TILE <= rows; r += TILE) tile(dtype, bytes, TILE, sums + r * PANEL, x + r * x_stride, x_stride, w, depth, first);
#if VEC_WIDTH == 16
    for (; r + 6 <= rows; r += 6) tile(dtype, bytes, 6, sums + r * PANEL, x + r * x_stride, x_stride, w, depth, first);
#endif
    sums += r * PANEL, x += r * x_stride;
    switch (rows - r) {
#if VEC_WIDTH != 8
    case 5: tile(dtype, bytes, 5, sums, x, x_stride, w, depth, first); break;
    case 4: tile(dtype, bytes, 4, sums, x, x_stride, w, depth, first); break;
    case 3: tile(dtype, bytes, 3, sums, x, x_stride, w, depth, first); break;
#endif
    case 2: tile(dtype, bytes, 2, sums, x, x_stride, w, depth, first); break;
    case 1: tile(dtype, bytes, 1, sums, x, x_stride, w, depth, first); break;
    default: break;
    }
}

/* A thread's part of the workspace. */
typedef struct thread_space {
    panel w;
    float sums[ROW_BLOCK][PANEL];
    char rows[PANEL][DEPTH / 32 * sizeof(puna_q8_0)]; /* of the last rows of w, when they are less than a panel     */
} thread_space;

/* What pack reads of a panel of fewer rows: those, and the last of them over and over. */
PUNA_INLINE const char *fill_up(thread_space *space, const char *rows, int64_t stride, int64_t bytes, int64_t N) {
    for (int r = 0; r < PANEL; r++) memcpy(space->rows[r], rows + puna_min(r, N - 1) * stride, (size_t)bytes);
    return space->rows[0];
}

/* N rows of w against rows of x. */
PUNA_INLINE void multiply(const int32_t dtype, const bool bytes, float *y, int64_t y_stride, const char *w, int64_t row_bytes,
                          const char *x, int64_t rows, int64_t K, int64_t N, bool accumulate, thread_space *space) {
    int64_t x_stride = K / 32 * x_size(bytes);
    for (int64_t n = 0; n < N; n += PANEL, w += PANEL * row_bytes) {
        int64_t some_N = puna_min(PANEL, N - n);
        for (int64_t r = 0; r < rows; r += ROW_BLOCK) {
            int64_t some_rows = puna_min(ROW_BLOCK, rows - r);
            for (int64_t k = 0; k < K; k += DEPTH) {
                int64_t depth = puna_min(DEPTH, K - k), bytes_k = depth / elements_of(dtype) * bytes_of(dtype);
                const char *w_k = w + k / elements_of(dtype) * bytes_of(dtype);
                bool full = some_N == PANEL;
                pack(dtype, bytes, &space->w, full ? w_k : fill_up(space, w_k, row_bytes, bytes_k, some_N),
                     full ? row_bytes : (int64_t)sizeof space->rows[0], depth,
                     w + PANEL * (row_bytes + (w_k - w))); /* the next panel's, one run of memory */
                multiply_panel(dtype, bytes, space->sums[0], x + r * x_stride + k / 32 * x_size(bytes), x_stride, some_rows,
                               &space->w, depth, k == 0);
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
    int32_t activations;
    char *x_bytes, *x_words; /* rounded rows; null where no product wants them                                      */
    char *spaces;            /* one thread_space after another                                                      */
    int64_t round_rows;      /* of x that one share rounds                                                          */
    product_shares shares;
} call;

/* Bytes of the rounded rows, so that what follows is aligned as this is. */
static int64_t rounded_bytes(bool bytes, int64_t rows, int64_t K) { return puna_ceil_div(rows * (K / 32) * x_size(bytes), 64) * 64; }

static int64_t space_bytes(void) { return puna_ceil_div(sizeof(thread_space), 64) * 64; }

static bool any_uses(const puna_matmul_product *products, int32_t count, int32_t activations, bool bytes) {
    for (int32_t p = 0; p < count; p++)
        if (uses_bytes(products[p].w_dtype, activations) == bytes) return true;
    return false;
}

static void round_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const call *c = arguments;
    float top = puna_activations_top(c->activations);
    for (int64_t r = share * c->round_rows; r < puna_min(c->rows, (share + 1) * c->round_rows); r++) {
        const float *x = c->x + r * c->x_stride;
        if (c->x_bytes != NULL) quantize_row(true, top, c->x_bytes + r * (c->K / 32) * x_size(true), x, c->K);
        if (c->x_words != NULL) quantize_row(false, top, c->x_words + r * (c->K / 32) * x_size(false), x, c->K);
    }
}

/* Calls multiply with dtype and bytes constants, so that it is compiled once for each, and not for bytes where none are used. */
#define MULTIPLY(dtype, ...)                                                                                                  \
    if (uses_bytes(dtype, PUNA_ACTIVATIONS_INT8) && uses_bytes(dtype, activations)) multiply(dtype, true, __VA_ARGS__);       \
    else multiply(dtype, false, __VA_ARGS__)

static void multiply_share(void *arguments, int64_t share, int32_t thread) {
    const call *c = arguments;
    product_share s = find_share(&c->shares, c->products, c->rows, share);
    const puna_matmul_product *product = &c->products[s.p];
    int32_t activations = c->activations;
    bool bytes = uses_bytes(product->w_dtype, activations);
    int64_t row_bytes = c->K / elements_of(product->w_dtype) * bytes_of(product->w_dtype);
    const char *w = (const char *)c->w[s.p] + s.n * row_bytes;
    const char *x = (bytes ? c->x_bytes : c->x_words) + s.r * (c->K / 32) * x_size(bytes);
    float *y = c->y[s.p] + s.r * product->y_stride + s.n;
    thread_space *space = (thread_space *)(c->spaces + thread * space_bytes());
#define ARGUMENTS y, product->y_stride, w, row_bytes, x, s.rows, c->K, s.N, product->accumulate, space
    switch (product->w_dtype) {
    case PUNA_DTYPE_Q8_0: MULTIPLY(PUNA_DTYPE_Q8_0, ARGUMENTS); break;
    case PUNA_DTYPE_Q4_0: MULTIPLY(PUNA_DTYPE_Q4_0, ARGUMENTS); break;
    case PUNA_DTYPE_Q4_K: MULTIPLY(PUNA_DTYPE_Q4_K, ARGUMENTS); break;
    default: MULTIPLY(PUNA_DTYPE_Q6_K, ARGUMENTS); break;
    }
}

/* Cycles, roughly, for one row of w: reading and unpacking it, and multiplying it with every row of x. */
static double row_cycles(int64_t rows, int64_t K) { return (double)K * (0.15 + (double)rows / 32); }

int64_t PUNA_KERNEL(matmul_integer_workspace_size)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                   int64_t rows, int64_t K, int32_t activations) {
    int64_t bytes = 63 + context->threads * space_bytes();
    if (any_uses(products, count, activations, true)) bytes += rounded_bytes(true, rows, K);
    if (any_uses(products, count, activations, false)) bytes += rounded_bytes(false, rows, K);
    return bytes;
}

puna_status PUNA_KERNEL(matmul_integer_forward)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                                int64_t rows, int64_t K, int32_t activations, void *workspace) {
    call c = {.products = products, .y = y, .w = w, .x = x, .x_stride = x_stride, .rows = rows, .K = K, .activations = activations};
    c.spaces = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    if (any_uses(products, count, activations, true)) {
        c.x_bytes = c.spaces;
        c.spaces += rounded_bytes(true, rows, K);
    }
    if (any_uses(products, count, activations, false)) {
        c.x_words = c.spaces;
        c.spaces += rounded_bytes(false, rows, K);
    }
    c.round_rows = rows_per_share(K * (int64_t)sizeof(float));
    puna_parallel(context, puna_ceil_div(rows, c.round_rows), round_share, &c);
    c.shares = share_products(context, products, count, rows, row_cycles(rows, K), PANEL, TILE);
    puna_parallel(context, c.shares.first[count], multiply_share, &c);
    return PUNA_STATUS_OK;
}
