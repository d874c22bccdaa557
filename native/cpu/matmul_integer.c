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
 * BYTES OR WORDS: int16 activations meet weights widened to int16. int8 activations meet bytes where the set multiplies bytes
 * faster, and are widened like the weights where it does not (the baselines, and Q8_0 on AVX2, whose byte product is unsigned
 * times signed and saturates).
 *
 * ONE ROW is bound by reading w, which memory delivers fastest in the order it lies in. So the integers of PANEL rows are computed
 * row by row, a group's lanes added up many groups at a time, and wait in the workspace until lanes are rows again. On AVX-512
 * x is two signed bytes a number, 256 * high + low: two byte products of 64 elements cost less than unpacking to words.
 *
 * MEASURED on a quiet two-core Granite Rapids, N = 5632, K = 2048, int16 on AVX-512; cold weights on 4 KiB pages, two threads,
 * 26 GB/s of reads:
 *   1 row    through panels Q8_0 18 GB/s, Q4_K 14.5, Q6_K 16; row by row of words 20 and 14, of bytes 19 and 15, and with pages
 *            looked up far ahead, for a page walk takes longer than a row, 21.7, 19.5 and 18.5. With huge pages 25 and 21.
 *            Lines fetched 1 KB ahead or by the hardware alone: a tenth to a quarter slower. From the second-level cache one
 *            thread does 36, 20 and 21; AVX2 29, 14 and 11.5
 *   many     Q4_K 267 GOP/s int16, 470 int8 of one thread; AVX2 121, and with int8 167, a quarter more since its loop is
 *            unrolled by four and not by eight (24 rows, busy machine: 106 to 134); the code before this had 192
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
    ROW_BLOCK = 256,               /* rows of x that meet an unpacked panel                                         */
    GROUPS = 128,                  /* of a single row of x that meet a panel, row by row                            */
    AHEAD = 4096, PAGES_AHEAD = 32768 /* bytes from where w is read to where it is fetched, and where pages are looked up */
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

PUNA_INLINE void quantize_32(int16_t q[32], x_scale *scale, const float *x, float top) {
    float rounded[32];
    uint32_t bits[32];
    float d = quantize((uint32_t *)(void *)rounded, x, top);
    memcpy(bits, rounded, sizeof bits);
    for (int i = 0; i < 32; i++) q[i] = (int16_t)bits[i];
    set_scale(scale, d, q);
}

PUNA_INLINE void quantize_row(bool bytes, float top, void *to, const float *x, int64_t K) {
    for (int64_t k = 0; k < K; k += 32) {
        int16_t q[32];
        if (bytes) {
            x_bytes *b = (x_bytes *)to + k / 32;
            quantize_32(q, &b->scale, x + k, top);
            for (int i = 0; i < 32; i++) b->q[i] = (int8_t)q[i];
        } else {
            x_words *b = (x_words *)to + k / 32;
            quantize_32(q, &b->scale, x + k, top);
            for (int i = 0; i < 32; i += 4)
                b->q[i] = q[i], b->q[i + 1] = q[i + 2], b->q[i + 2] = q[i + 1], b->q[i + 3] = q[i + 3];
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Unpacking w
 * ------------------------------------------------------------------------------------------------------------------ */

/* PANEL rows of w, DEPTH elements deep. */
typedef int32_t panel_row[PANEL];
typedef struct factors {
    float d[DEPTH / 16][PANEL]; /* what multiplies the integer of a group                                           */
    float m[DEPTH / 32][PANEL]; /* Q4_K: what multiplies the sum of x                                               */
    uint16_t halves[DEPTH / 32][PANEL];
} factors;
typedef struct panel {
    panel_row q[DEPTH / 2]; /* words: two of a row, elements 0 and 2, then 1 and 3 of every four; bytes: four of a row */
    factors factors;
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
PUNA_INLINE void pack_scales_q4_k(factors *to, int v, const char *block, int64_t stride) {
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

PUNA_INLINE void pack_scales_q6_k(factors *to, int v, const char *block, int64_t stride) {
    ivec scales[4], bias = ivec_set1((int32_t)0x80808080);
    vec d = vec_load_f16(to->halves[0] + v * VEC_WIDTH), offset = vec_set1(128);
    ivec_columns(scales, block + offsetof(puna_q6_k, scales), stride);
    for (int j = 0; j < 16; j++) /* signed: read as unsigned with an offset of 128 */
        vec_store(to->d[j] + v * VEC_WIDTH, vec_mul(d, vec_sub(byte_of(ivec_xor(scales[j / 4], bias), j % 4), offset)));
}

/* PANEL rows, stride bytes apart, depth elements of each. */
PUNA_INLINE void pack_halves(const int32_t dtype, factors *to, const char *rows, int64_t stride, int64_t depth) {
    if (elements_of(dtype) == 32) {
        for (int64_t b = 0; b < depth / 32; b++) collect_halves(to->halves[b], rows + b * bytes_of(dtype), stride);
    } else if (dtype == PUNA_DTYPE_Q4_K) {
        collect_halves(to->halves[0], rows + offsetof(puna_q4_k, d), stride);
        collect_halves(to->halves[1], rows + offsetof(puna_q4_k, m), stride);
    } else {
        collect_halves(to->halves[0], rows + offsetof(puna_q6_k, d), stride);
    }
}

/* What is made of them and of the rest of the scales. */
PUNA_INLINE void pack_scales(const int32_t dtype, factors *to, const char *rows, int64_t stride, int64_t depth) {
    for (int v = 0; v < VECTORS; v++, rows += VEC_WIDTH * stride) {
        if (elements_of(dtype) == 32)
            for (int64_t b = 0; b < depth / 32; b++)
                vec_store(to->d[b] + v * VEC_WIDTH, vec_load_f16(to->halves[b] + v * VEC_WIDTH));
        else if (dtype == PUNA_DTYPE_Q4_K) pack_scales_q4_k(to, v, rows, stride);
        else pack_scales_q6_k(to, v, rows, stride);
    }
}

/* All of a panel; as many bytes from next on are fetched. */
PUNA_INLINE void pack(const int32_t dtype, const bool bytes, panel *to, const char *rows, int64_t stride, int64_t depth,
                      const char *next) {
    const int64_t elements = elements_of(dtype), block_bytes = bytes_of(dtype);
    pack_halves(dtype, &to->factors, rows, stride, depth);
    for (int v = 0; v < VECTORS; v++) {
        panel_row *q = (panel_row *)(to->q[0] + v * VEC_WIDTH);
        const char *block = rows + v * VEC_WIDTH * stride;
        for (int64_t b = 0; b < depth / elements; b++, q += elements / (bytes ? 4 : 2), next += VEC_WIDTH * block_bytes)
            pack_quants(dtype, bytes, q, block + b * block_bytes, stride, next);
    }
    pack_scales(dtype, &to->factors, rows, stride, depth);
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
            const float *d = w->factors.d[(k + part) / group];
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
                    y[r][v] = vec_fma(vec_load(&w->factors.m[k / 32][v * VEC_WIDTH]), vec_set1(minus_d_sum), y[r][v]);
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
typedef char row_part[DEPTH / 32 * sizeof(puna_q8_0)];
typedef struct thread_space {
    panel w;
    float sums[ROW_BLOCK][PANEL];
    row_part rows[PANEL]; /* of the last rows of w, when they are less than a panel                                 */
} thread_space;

/* What is read of a panel of fewer rows: those, and the last of them over and over. */
PUNA_INLINE const char *fill_up(row_part to[PANEL], const char *rows, int64_t stride, int64_t bytes, int64_t N) {
    for (int r = 0; r < PANEL; r++) memcpy(to[r], rows + puna_min(r, N - 1) * stride, (size_t)bytes);
    return to[0];
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
                pack(dtype, bytes, &space->w, full ? w_k : fill_up(space->rows, w_k, row_bytes, bytes_k, some_N),
                     full ? row_bytes : (int64_t)sizeof(row_part), depth,
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
 * One row
 * ------------------------------------------------------------------------------------------------------------------ */

/* A rounded row of x. */
typedef struct x_row {
#if VEC_WIDTH == 16
    const int8_t *q[2];       /* low and high digits: q = 256 * q[1] + q[0], both signed                            */
#else
    const int16_t *q;
#endif
    const float *minus_d_sum; /* for 32 elements                                                                    */
    const float *d;           /* for a group                                                                        */
    const int32_t *sums;      /* of q, for a group; a vector may be read from the last one on                       */
} x_row;

/* What PANEL rows of w and some groups of x have given. A stride that is no power of two spares the cache. */
typedef struct row_space {
    int32_t q[PANEL][GROUPS + 16]; /* integer products                                                              */
    factors factors;
    row_part rows[PANEL];
} row_space;

#if VEC_WIDTH == 16
/* acc + w * x for unsigned bytes of w and 64 elements of x, which has one digit or two. */
PUNA_INLINE ivec multiply_digits(const int digits, ivec w, x_row x, int64_t k) {
    ivec high = ivec_zero();
    if (digits == 2) high = ivec_shl(ivec_dot_u8(high, w, ivec_load(x.q[1] + k)), 8);
    return ivec_dot_u8(high, w, ivec_load(x.q[0] + k));
}

/*
 * Lane i: the integer product, offset included, of group g + i of x and group i of a row of w, for the first n or more of them;
 * the row of w begins at a block.
 */
PUNA_INLINE ivec multiply_groups(const int32_t dtype, const int digits, const char *w, x_row x, int64_t g, const int n) {
    const ivec low_bits = ivec_set1(0x0F0F0F0F), high_bits = ivec_set1(0x30303030);
    ivec p[8]; /* two groups, in the lower half and in the upper one                                                */
    if (dtype == PUNA_DTYPE_Q6_K) { /* four groups, a quarter each                                                  */
        const ivec left = ivec_shifts(4, 4, 2, 2), right = ivec_shifts(0, 0, 2, 2);
        for (int i = 0; i < 4; i += 2) { /* 128 elements                                                            */
            ivec l = ivec_load(w + 32 * i), h = ivec_load_twice(w + offsetof(puna_q6_k, high) + 16 * i);
            ivec first = ivec_or(ivec_and(l, low_bits), ivec_and(ivec_shl_by(h, left), high_bits));
            ivec second = ivec_or(ivec_and(ivec_shr(l, 4), low_bits), ivec_and(ivec_shr_by(h, right), high_bits));
            p[i] = multiply_digits(digits, first, x, 16 * g + 64 * i);
            p[i + 1] = multiply_digits(digits, second, x, 16 * g + 64 * i + 64);
        }
        return ivec_transpose_quarters(ivec_sum_quarters(p));
    }
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        ivec w_i = ivec_zero();
        int last = i + 1 < n ? i + 1 : i; /* of two groups the second may not be there                              */
        if (i >= n) {
        } else if (dtype == PUNA_DTYPE_Q8_0) {
            const char *q = w + offsetof(puna_q8_0, q);
            w_i = ivec_load_halves(q + i * sizeof(puna_q8_0), q + last * sizeof(puna_q8_0));
            w_i = ivec_xor(w_i, ivec_set1((int32_t)0x80808080));
        } else {
            if (dtype == PUNA_DTYPE_Q4_0) {
                const char *q = w + offsetof(puna_q4_0, q);
                w_i = ivec_load_quarters_twice(q + i * sizeof(puna_q4_0), q + last * sizeof(puna_q4_0));
                w_i = ivec_shr_by(w_i, ivec_shifts(0, 4, 0, 4));
            } else {
                w_i = ivec_load_twice(w + i / 8 * sizeof(puna_q4_k) + offsetof(puna_q4_k, q) + i % 8 / 2 * 32);
                w_i = ivec_shr_by(w_i, ivec_shifts(0, 0, 4, 4));
            }
            w_i = ivec_and(w_i, low_bits);
        }
        p[i / 2] = multiply_digits(digits, w_i, x, 32 * (g + i));
    }
    return ivec_sum_halves(p);
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
        const int half = (int)(g / 8 % 2), at = VEC_WIDTH == 8 ? 0 : (int)(g % 8); /* where in the block g is       */
        const char *l = w + half * 64, *h = w + offsetof(puna_q6_k, high) + half * 32;
#pragma GCC unroll 8
        for (int i = 0; i < VEC_WIDTH; i += 2) /* two groups: a quarter of 128 elements                             */
            for (int j = 0; j < 32; j += WORDS) {
                int quarter = (at + i) / 2;
                ivec w_l = ivec_widen_u8(l + quarter % 2 * 32 + j), w_h = ivec_widen_u8(h + j);
                w_l = quarter < 2 ? ivec_and(w_l, low) : ivec_shr_u16(w_l, 4);
                w_h = quarter < 2 ? ivec_shl_i16(w_h, 4 - 2 * quarter) : ivec_shr_u16(w_h, 2 * quarter - 4);
                p[i + j / 16] = ivec_dot_i16(p[i + j / 16], ivec_or(w_l, ivec_and(w_h, high_bits)),
                                             ivec_load(x.q + 16 * (g + i) + j));
            }
        return ivec_sums(p);
    }
    if (dtype == PUNA_DTYPE_Q4_K) w += offsetof(puna_q4_k, q) + g % 8 / 2 * 32;
#pragma GCC unroll 8
    for (int i = 0; i < VEC_WIDTH; i++) {
        const int16_t *x_i = x.q + 32 * (g + i);
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
PUNA_INLINE int one_row_shift(int32_t dtype) { return offset_shift(dtype, VEC_WIDTH == 16); }

/* The integer products of a row of w, from a block on, and G groups of x. */
PUNA_INLINE void multiply_row(const int32_t dtype, const int digits, int32_t *to, const char *w, x_row x, int G) {
    const int per_block = (int)elements_of(dtype) / group_of(dtype), shift = one_row_shift(dtype);
    const int64_t block_bytes = bytes_of(dtype), step_bytes = VEC_WIDTH * block_bytes / per_block;
    for (int g = 0; g < G; g += VEC_WIDTH) {
        const char *block = w + g / per_block * block_bytes;
        for (int64_t i = 0; i < step_bytes; i += 64) __builtin_prefetch(block + AHEAD + i);
        __builtin_prefetch(block + PAGES_AHEAD, 0, 2);
        ivec q = G - g >= VEC_WIDTH ? multiply_groups(dtype, digits, block, x, g, VEC_WIDTH)
                                    : multiply_groups(dtype, digits, block, x, g, G - g);
        if (shift != 0) q = ivec_sub(q, ivec_shl(ivec_load(x.sums + g), shift));
        ivec_store(to + g, q);
    }
}

/* y (PANEL) += what depth elements gave: PANEL rows of w, stride bytes apart, against groups from g on. */
PUNA_INLINE void add_groups(const int32_t dtype, vec y[VECTORS], row_space *space, const char *rows, int64_t stride, x_row x,
                            int g, int64_t depth) {
    factors *f = &space->factors;
    pack_halves(dtype, f, rows, stride, depth);
    pack_scales(dtype, f, rows, stride, depth);
    const int G = (int)depth / group_of(dtype);
    for (int i = 0; i < G; i += 4) {
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
PUNA_INLINE void multiply_one(const int32_t dtype, const int digits, float *y, const char *w, int64_t row_bytes, x_row x,
                              int64_t K, int64_t N, bool accumulate, row_space *space) {
    const int group = group_of(dtype);
    const int64_t depth_bytes = DEPTH / elements_of(dtype) * bytes_of(dtype);
    for (int64_t n = 0; n < N; n += PANEL, w += PANEL * row_bytes) {
        const int64_t some_N = puna_min(PANEL, N - n);
        vec sums[VECTORS];
        for (int v = 0; v < VECTORS; v++) sums[v] = vec_zero();
        const char *w_k = w;
        x_row x_k = x;
        for (int64_t k = 0; k < K; k += GROUPS * group) {
            const int64_t some_K = puna_min(GROUPS * group, K - k);
            for (int r = 0; r < PANEL; r++)
                multiply_row(dtype, digits, space->q[r], w_k + puna_min(r, some_N - 1) * row_bytes, x_k, (int)(some_K / group));
            for (int64_t at = 0; at < some_K; at += DEPTH, w_k += depth_bytes) {
                const int64_t depth = puna_min(DEPTH, some_K - at);
                if (some_N == PANEL) {
                    add_groups(dtype, sums, space, w_k, row_bytes, x_k, (int)(at / group), depth);
                } else {
                    int64_t bytes = depth / elements_of(dtype) * bytes_of(dtype);
                    add_groups(dtype, sums, space, fill_up(space->rows, w_k, row_bytes, bytes, some_N), sizeof(row_part), x_k,
                               (int)(at / group), depth);
                }
            }
            x_k.minus_d_sum += GROUPS * group / 32, x_k.d += GROUPS, x_k.sums += GROUPS;
#if VEC_WIDTH == 16
            x_k.q[0] += GROUPS * group, x_k.q[1] += GROUPS * group;
#else
            x_k.q += GROUPS * group;
#endif
        }
        float some[PANEL];
        for (int v = 0; v < VECTORS; v++) vec_store(some + v * VEC_WIDTH, sums[v]);
        for (int64_t j = 0; j < some_N; j++) y[n + j] = accumulate ? y[n + j] + some[j] : some[j];
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
    x_row one[2];            /* the only row of x, with what belongs to groups of 32 and of 16                      */
    product_shares shares;
} call;

/* Bytes of the rounded rows, so that what follows is aligned as this is. */
static int64_t rounded_bytes(bool bytes, int64_t rows, int64_t K) {
    return puna_ceil_div(rows * (K / 32) * x_size(bytes), 64) * 64;
}

static int64_t space_bytes(bool one_row) {
    return puna_ceil_div(one_row ? sizeof(row_space) : sizeof(thread_space), 64) * 64;
}

/* The parts of a single rounded row, one after another. */
enum { ONE_Q, ONE_MINUS_D_SUM, ONE_D, ONE_SUMS, ONE_D_16, ONE_SUMS_16, ONE_PARTS };

static int64_t one_part_bytes(int part, int64_t K) {
    int64_t bytes = part == ONE_Q ? 2 * K + 32 : K / (part < ONE_D_16 ? 32 : 16) * 4 + 64;
    return puna_ceil_div(bytes, 64) * 64;
}

static int64_t one_row_bytes(int64_t K) {
    int64_t bytes = 0;
    for (int part = 0; part < ONE_PARTS; part++) bytes += one_part_bytes(part, K);
    return bytes;
}

static void round_one_row(call *c) {
    char *parts[ONE_PARTS], *to = c->x_words;
    for (int part = 0; part < ONE_PARTS; to += one_part_bytes(part, c->K), part++) parts[part] = to;
    float *minus_d_sum = (float *)parts[ONE_MINUS_D_SUM], *d = (float *)parts[ONE_D], *d_16 = (float *)parts[ONE_D_16];
    int32_t *sums = (int32_t *)parts[ONE_SUMS], *sums_16 = (int32_t *)parts[ONE_SUMS_16];
    const float top = puna_activations_top(c->activations);
    x_row row = {.minus_d_sum = minus_d_sum, .d = d, .sums = sums};
#if VEC_WIDTH == 16
    int8_t *low = (int8_t *)parts[ONE_Q], *high = low + puna_ceil_div(c->K, 64) * 64;
    row.q[0] = low, row.q[1] = high;
#else
    row.q = (const int16_t *)parts[ONE_Q];
#endif
    for (int64_t b = 0; b < c->K / 32; b++) {
        x_scale scale;
#if VEC_WIDTH == 16
        int16_t q[32];
        quantize_32(q, &scale, c->x + 32 * b, top);
        for (int i = 0; i < 32; i++) low[32 * b + i] = (int8_t)q[i], high[32 * b + i] = (int8_t)((q[i] + 128) >> 8);
#else
        quantize_32((int16_t *)parts[ONE_Q] + 32 * b, &scale, c->x + 32 * b, top);
#endif
        minus_d_sum[b] = scale.minus_d_sum;
        d[b] = d_16[2 * b] = d_16[2 * b + 1] = scale.d;
        sums_16[2 * b] = scale.sums[0], sums_16[2 * b + 1] = scale.sums[1], sums[b] = scale.sums[2];
    }
    c->one[0] = row;
    row.d = d_16, row.sums = sums_16;
    c->one[1] = row;
}

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
    thread_space *space = (thread_space *)(c->spaces + thread * space_bytes(false));
#define ARGUMENTS y, product->y_stride, w, row_bytes, x, s.rows, c->K, s.N, product->accumulate, space
    switch (product->w_dtype) {
    case PUNA_DTYPE_Q8_0: MULTIPLY(PUNA_DTYPE_Q8_0, ARGUMENTS); break;
    case PUNA_DTYPE_Q4_0: MULTIPLY(PUNA_DTYPE_Q4_0, ARGUMENTS); break;
    case PUNA_DTYPE_Q4_K: MULTIPLY(PUNA_DTYPE_Q4_K, ARGUMENTS); break;
    default: MULTIPLY(PUNA_DTYPE_Q6_K, ARGUMENTS); break;
    }
}

static void multiply_one_share(void *arguments, int64_t share, int32_t thread) {
    const call *c = arguments;
    product_share s = find_share(&c->shares, c->products, 1, share);
    const puna_matmul_product *product = &c->products[s.p];
    int64_t row_bytes = c->K / elements_of(product->w_dtype) * bytes_of(product->w_dtype);
    const char *w = (const char *)c->w[s.p] + s.n * row_bytes;
    row_space *space = (row_space *)(c->spaces + thread * space_bytes(true));
    bool two = VEC_WIDTH == 16 && c->activations == PUNA_ACTIVATIONS_INT16;
#define MULTIPLY_ONE(dtype, i)                                                                                                \
    if (two) multiply_one(dtype, 2, c->y[s.p] + s.n, w, row_bytes, c->one[i], c->K, s.N, product->accumulate, space);         \
    else multiply_one(dtype, 1, c->y[s.p] + s.n, w, row_bytes, c->one[i], c->K, s.N, product->accumulate, space)
    switch (product->w_dtype) {
    case PUNA_DTYPE_Q8_0: MULTIPLY_ONE(PUNA_DTYPE_Q8_0, 0); break;
    case PUNA_DTYPE_Q4_0: MULTIPLY_ONE(PUNA_DTYPE_Q4_0, 0); break;
    case PUNA_DTYPE_Q4_K: MULTIPLY_ONE(PUNA_DTYPE_Q4_K, 0); break;
    default: MULTIPLY_ONE(PUNA_DTYPE_Q6_K, 1); break;
    }
}

/* Cycles, roughly, for one row of w: reading and unpacking it, and multiplying it with every row of x. */
static double row_cycles(int64_t rows, int64_t K) { return (double)K * (0.15 + (double)rows / 32); }

int64_t PUNA_KERNEL(matmul_integer_workspace_size)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                   int64_t rows, int64_t K, int32_t activations) {
    if (rows == 1) return 63 + one_row_bytes(K) + context->threads * space_bytes(true);
    int64_t bytes = 63 + context->threads * space_bytes(false);
    if (any_uses(products, count, activations, true)) bytes += rounded_bytes(true, rows, K);
    if (any_uses(products, count, activations, false)) bytes += rounded_bytes(false, rows, K);
    return bytes;
}

puna_status PUNA_KERNEL(matmul_integer_forward)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                                int64_t rows, int64_t K, int32_t activations, void *workspace) {
    call c = {.products = products, .y = y, .w = w, .x = x, .x_stride = x_stride, .rows = rows, .K = K, .activations = activations};
    c.spaces = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    if (rows == 1) {
        c.x_words = c.spaces;
        c.spaces += one_row_bytes(K);
        round_one_row(&c);
        c.shares = share_products(context, products, count, 1, row_cycles(1, K), PANEL, 1);
        puna_parallel(context, c.shares.first[count], multiply_one_share, &c);
        return PUNA_STATUS_OK;
    }
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
