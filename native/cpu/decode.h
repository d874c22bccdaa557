/* Decoding stretches of any element type to F32, bit for bit as blocks.h says. */
#ifndef PUNA_DECODE_H
#define PUNA_DECODE_H

#include "internal.h"
#include "simd.h"

/* y[i] = scale * q[i]; n is a multiple of every vector width. */
PUNA_INLINE void decode_scaled(float *y, const int8_t *q, int n, float scale) {
    for (int i = 0; i < n; i += VEC_WIDTH) vec_store(y + i, vec_mul(vec_set1(scale), vec_load_i8(q + i)));
}

static inline void decode_q8_0(float *y, const puna_q8_0 *block) { decode_scaled(y, block->q, 32, puna_f16_to_f32(block->d)); }

static inline void decode_q4_0(float *y, const puna_q4_0 *block) {
    int8_t q[32];
    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)((block->q[i] & 15) - 8);
        q[i + 16] = (int8_t)((block->q[i] >> 4) - 8);
    }
    decode_scaled(y, q, 32, puna_f16_to_f32(block->d));
}

static inline void decode_q4_k(float *y, const puna_q4_k *block) {
    float d = puna_f16_to_f32(block->d), m = puna_f16_to_f32(block->m);
    for (int j = 0; j < 8; j++) {
        int8_t q[32];
        int scale, min;
        puna_q4_k_scale(block, j, &scale, &min);
        for (int i = 0; i < 32; i++) q[i] = (int8_t)(block->q[j / 2 * 32 + i] >> (j % 2 * 4) & 15);
        vec dscale = vec_set1(d * (float)scale), mmin = vec_set1(m * (float)min);
        for (int i = 0; i < 32; i += VEC_WIDTH)
            vec_store(y + 32 * j + i, vec_sub(vec_mul(dscale, vec_load_i8(q + i)), mmin));
    }
}

static inline void decode_q6_k(float *y, const puna_q6_k *block) {
    float d = puna_f16_to_f32(block->d);
    for (int quarter = 0; quarter < 8; quarter++) { /* 32 elements: see puna_q6_k_value */
        const uint8_t *low = block->low + 64 * (quarter / 4) + 32 * (quarter % 2), *high = block->high + 32 * (quarter / 4);
        int8_t q[32];
        for (int i = 0; i < 32; i++)
            q[i] = (int8_t)(((low[i] >> (quarter % 4 / 2 * 4) & 15) | (high[i] >> (quarter % 4 * 2) & 3) << 4) - 32);
        for (int part = 0; part < 2; part++)
            decode_scaled(y + 32 * quarter + 16 * part, q + 16 * part, 16, d * (float)block->scales[2 * quarter + part]);
    }
}

/* Decodes n elements, whole blocks, that lie one after another. */
static inline void decode_elements(float *y, const void *w, int32_t dtype, int64_t n) {
    int64_t i = 0;
    switch (dtype) {
    case PUNA_DTYPE_F32: memcpy(y, w, (size_t)n * sizeof(float)); break;
    case PUNA_DTYPE_F16: {
        const uint16_t *h = w;
        for (; i + VEC_WIDTH <= n; i += VEC_WIDTH) vec_store(y + i, vec_load_f16(h + i));
        if (i < n) vec_store_partial(y + i, vec_load_f16_partial(h + i, n - i), n - i);
        break;
    }
    case PUNA_DTYPE_BF16: {
        const uint16_t *h = w;
        for (; i + VEC_WIDTH <= n; i += VEC_WIDTH) vec_store(y + i, vec_load_bf16(h + i));
        if (i < n) vec_store_partial(y + i, vec_load_bf16_partial(h + i, n - i), n - i);
        break;
    }
    case PUNA_DTYPE_Q8_0:
        for (; i < n; i += 32) decode_q8_0(y + i, (const puna_q8_0 *)w + i / 32);
        break;
    case PUNA_DTYPE_Q4_0:
        for (; i < n; i += 32) decode_q4_0(y + i, (const puna_q4_0 *)w + i / 32);
        break;
    case PUNA_DTYPE_Q4_K:
        for (; i < n; i += 256) decode_q4_k(y + i, (const puna_q4_k *)w + i / 256);
        break;
    default:
        for (; i < n; i += 256) decode_q6_k(y + i, (const puna_q6_k *)w + i / 256);
        break;
    }
}

#endif
