/*
 * What all ways of multiplying block weights with rounded activations (matmul_integer.c) share: rounding x, and unpacking rows of
 * w side by side so that lanes are rows.
 */
#ifndef PUNA_INTEGER_PANEL_H
#define PUNA_INTEGER_PANEL_H

#include "integer.h"
#include "internal.h"

enum {
    VECTORS = VEC_WIDTH == 16 ? 1 : 2, /* of rows of w in a panel                                                   */
    PANEL = VECTORS * VEC_WIDTH,       /* rows of w unpacked together                                               */
    DEPTH = 256,                       /* elements of K unpacked together: the largest block                        */
    ROW_BLOCK = 256                    /* rows of x that meet an unpacked panel                                     */
};

/* What follows the integers of 32 activations. */
typedef struct x_scale {
    float d, minus_d_sum; /* x is near d * q; -d times the sum of q                                                 */
    int32_t sums[4];      /* of q: the first 16, the others, all                                                    */
} x_scale;

/* A rounded row of x. */
typedef struct x_row {
    const int8_t *digits[2];  /* low and high: q = 256 * digits[1] + digits[0], both signed                         */
    const int16_t *words;     /* or q as it is                                                                      */
    const float *minus_d_sum; /* for 32 elements                                                                    */
    const float *d;           /* for a group                                                                        */
    const int32_t *sums;      /* of q, for a group; a vector may be read from the last one on                       */
} x_row;

/* ---------------------------------------------------------------------------------------------------------------------
 * Rounding x
 * ------------------------------------------------------------------------------------------------------------------ */

enum { ROUNDED = 32 / VEC_WIDTH };

/* puna_quantize of 32 elements, which stay in registers: a smaller store than the load that follows is waited for. */
PUNA_INLINE void quantize_32(ivec q[ROUNDED], x_scale *scale, const float *x, float top) {
    vec largest = vec_zero(), special = vec_zero(); /* special: NaN where an element is NaN or infinite, else 0 */
    for (int i = 0; i < ROUNDED; i++) {
        vec x_i = vec_load(x + i * VEC_WIDTH);
        largest = vec_max(largest, vec_max(x_i, vec_sub(vec_zero(), x_i)));
        special = vec_fma(x_i, vec_zero(), special);
    }
    const bool finite = vec_hsum(special) == 0;
    const float a = vec_hmax(largest);
    if (!finite || a < PUNA_QUANTIZED_ZERO) {
        for (int i = 0; i < ROUNDED; i++) q[i] = ivec_zero();
        *scale = (x_scale){finite ? 0 : NAN, finite ? 0 : NAN, {0}};
        return;
    }
    /* Adding 1.5 * 2^23 rounds to an integer, to even where it is a tie, which stands in the low bits. */
    const vec inverse = vec_set1(top / a), magic = vec_set1(12582912.0f);
    const ivec offset = ivec_bits(magic);
    vec sums[2] = {vec_zero(), vec_zero()};
    for (int i = 0; i < ROUNDED; i++) {
        vec rounded = vec_add(vec_mul(vec_load(x + i * VEC_WIDTH), inverse), magic);
        q[i] = ivec_sub(ivec_bits(rounded), offset);
        sums[i / (ROUNDED / 2)] = vec_add(sums[i / (ROUNDED / 2)], vec_sub(rounded, magic));
    }
    const int32_t first = (int32_t)vec_hsum(sums[0]), second = (int32_t)vec_hsum(sums[1]); /* exact: below 2^24 */
    const float d = a / top;
    *scale = (x_scale){d, -d * (float)(first + second), {first, second, first + second, 0}};
}

/* Of q = 256 * high + low, both signed, the low digits and the high ones. */
PUNA_INLINE void store_low(int8_t to[32], const ivec q[ROUNDED]) {
    for (int i = 0; i < ROUNDED; i++) ivec_store_lowest(to + i * VEC_WIDTH, q[i]);
}
PUNA_INLINE void store_high(int8_t to[32], const ivec q[ROUNDED]) {
    for (int i = 0; i < ROUNDED; i++) ivec_store_lowest(to + i * VEC_WIDTH, ivec_shr(ivec_add(q[i], ivec_set1(128)), 8));
}
PUNA_INLINE void store_words(int16_t to[32], const ivec q[ROUNDED]) {
    for (int i = 0; i < ROUNDED; i++) ivec_store_i16(to + i * VEC_WIDTH, q[i]);
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
    if (dtype == PUNA_DTYPE_Q8_0) return bytes && !SIGNED_BYTES ? 7 : 0;
    return dtype == PUNA_DTYPE_Q4_0 ? 3 : dtype == PUNA_DTYPE_Q6_K ? 5 : 0;
}

/* Four elements of each row, a byte each, which belong k elements after those at q. */
PUNA_INLINE void put(bool is_signed, bool bytes, panel_row *q, int k, ivec four) {
    if (bytes) {
        ivec_store(q[k / 4], is_signed && !SIGNED_BYTES ? ivec_xor(four, ivec_set1((int32_t)0x80808080)) : four);
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

/* Fetches the part-th of parts of the bytes from next on. */
PUNA_INLINE void fetch(const char *next, int64_t bytes, int part, int parts) {
    bytes /= parts;
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(next + part * bytes + i, 0, 3);
}

/*
 * The quants of a block of VEC_WIDTH rows, stride bytes apart, to q. Meanwhile ahead bytes from next on are fetched, little by
 * little: all at once they would be waited for.
 */
PUNA_INLINE void pack_quants(int32_t dtype, bool bytes, panel_row *q, const char *block, int64_t stride, const char *next,
                             int64_t ahead) {
    const int step = bytes ? 4 : 2; /* elements of a panel row */
    ivec a[4], b[4], h[4];
    if (dtype == PUNA_DTYPE_Q8_0) {
        for (int part = 0; part < 32; part += 16) {
            fetch(next, ahead, part / 16, 2);
            ivec_columns(a, block + offsetof(puna_q8_0, q) + part, stride);
            for (int c = 0; c < 4; c++) put(true, bytes, q, part + 4 * c, a[c]);
        }
    } else if (dtype == PUNA_DTYPE_Q4_0) {
        fetch(next, ahead, 0, 1);
        ivec_columns(a, block + offsetof(puna_q4_0, q), stride);
        for (int c = 0; c < 4; c++) put_nibbles(bytes, q, 4 * c, 16, a[c]);
    } else if (dtype == PUNA_DTYPE_Q4_K) {
        block += offsetof(puna_q4_k, q);
        for (int j = 0; j < 4; j++, block += 32, q += 64 / step) /* 32 bytes: a group of 32 in the low halves, one in the high */
            for (int part = 0; part < 32; part += 16) {
                fetch(next, ahead, 2 * j + part / 16, 8);
                ivec_columns(a, block + part, stride);
                for (int c = 0; c < 4; c++) put_nibbles(bytes, q, part + 4 * c, 32, a[c]);
            }
    } else {
        const ivec low_bits = ivec_set1(0x0F0F0F0F), high_bits = ivec_set1(0x30303030);
        for (int half = 0; half < 2; half++, q += 128 / step)
            for (int part = 0; part < 32; part += 16) { /* 16 bytes of high bits serve four stretches of 16 elements */
                fetch(next, ahead, 2 * half + part / 16, 4);
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

/* The factors of a block of Q4_K of the rows of vector v. */
PUNA_INLINE void pack_scales_q4_k(factors *to, int v, const char *block, int64_t stride) {
    const ivec six_bits = ivec_set1(0x3F3F3F3F), four_bits = ivec_set1(0x0F0F0F0F), two_bits = ivec_set1(0x30303030);
    ivec in[4], six[4]; /* in: d and m, then the twelve bytes of scales; six: as puna_q4_k_scale takes them apart, 8 scales, 8 mins */
    ivec_columns(in, block, stride);
    six[0] = ivec_and(in[1], six_bits);
    six[1] = ivec_or(ivec_and(in[3], four_bits), ivec_and(ivec_shr(in[1], 2), two_bits));
    six[2] = ivec_and(in[2], six_bits);
    six[3] = ivec_or(ivec_and(ivec_shr(in[3], 4), four_bits), ivec_and(ivec_shr(in[2], 2), two_bits));
    int at = v * VEC_WIDTH;
    vec d = ivec_f16_to_f32(in[0]), m = ivec_f16_to_f32(ivec_shr(in[0], 16));
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

/* PANEL rows, stride bytes apart, depth elements of each. Those of Q4_K lie beside its scales. */
PUNA_INLINE void pack_halves(const int32_t dtype, factors *to, const char *rows, int64_t stride, int64_t depth) {
    if (elements_of(dtype) == 32) {
        for (int64_t b = 0; b < depth / 32; b++) collect_halves(to->halves[b], PANEL, rows + b * bytes_of(dtype), stride);
    } else if (dtype == PUNA_DTYPE_Q6_K) {
        collect_halves(to->halves[0], PANEL, rows + offsetof(puna_q6_k, d), stride);
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

/* All of a panel; half as many bytes from next on are fetched. */
PUNA_INLINE void pack(const int32_t dtype, const bool bytes, panel *to, const char *rows, int64_t stride, int64_t depth,
                      const char *next) {
    const int64_t elements = elements_of(dtype), block_bytes = bytes_of(dtype), ahead = VEC_WIDTH * block_bytes / 2;
    pack_halves(dtype, &to->factors, rows, stride, depth);
    for (int v = 0; v < VECTORS; v++) {
        panel_row *q = (panel_row *)(to->q[0] + v * VEC_WIDTH);
        const char *block = rows + v * VEC_WIDTH * stride;
        for (int64_t b = 0; b < depth / elements; b++, q += elements / (bytes ? 4 : 2), next += ahead)
            pack_quants(dtype, bytes, q, block + b * block_bytes, stride, next, ahead);
    }
    pack_scales(dtype, &to->factors, rows, stride, depth);
}

/* Part of a row of w. */
typedef char row_part[DEPTH / 32 * sizeof(puna_q8_0)];

/* What is read of a panel of fewer rows: those, and the last of them over and over. */
PUNA_INLINE const char *fill_up(row_part to[PANEL], const char *rows, int64_t stride, int64_t bytes, int64_t N) {
    for (int r = 0; r < PANEL; r++) memcpy(to[r], rows + puna_min(r, N - 1) * stride, (size_t)bytes);
    return to[0];
}

#endif
