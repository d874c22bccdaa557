/*
 * Decoding any element type to F32, bit for bit as blocks.h says: a block is unpacked to bytes and scales, then to vectors,
 * which a kernel multiplies at once or stores.
 */
#ifndef PUNA_DECODE_H
#define PUNA_DECODE_H

#include "internal.h"
#include "simd.h"

typedef struct unpacked {
    int8_t q[256];
    float scale[16];                                /* of elements_per_scale elements each                      */
    float negated_min[VEC_WIDTH > 8 ? VEC_WIDTH : 8]; /* Q4_K only                                              */
} unpacked;

PUNA_INLINE bool is_plain(int32_t dtype) {
    return dtype == PUNA_DTYPE_F32 || dtype == PUNA_DTYPE_F16 || dtype == PUNA_DTYPE_BF16;
}
PUNA_INLINE int64_t element_bytes(int32_t plain_dtype) { return plain_dtype == PUNA_DTYPE_F32 ? 4 : 2; }
PUNA_INLINE int64_t block_elements(int32_t dtype) {
    return is_plain(dtype) ? 1 : dtype == PUNA_DTYPE_Q8_0 || dtype == PUNA_DTYPE_Q4_0 ? 32 : 256;
}
PUNA_INLINE int64_t elements_per_scale(int32_t dtype) { return dtype == PUNA_DTYPE_Q6_K ? 16 : 32; }

PUNA_INLINE void unpack_q8_0(const puna_q8_0 *block, unpacked *u) {
    memcpy(u->q, block->q, 32);
    u->scale[0] = vec_f16_to_f32(block->d);
}

/* Sixteen bytes at once: GCC unrolls a loop this short before it could become vector instructions, five times slower. */
typedef uint8_t bytes16 __attribute__((vector_size(16)));

PUNA_INLINE void unpack_q4_0(const puna_q4_0 *block, unpacked *u) {
    bytes16 q, low, high;
    memcpy(&q, block->q, 16);
    low = (q & 15) - 8;
    high = (q >> 4) - 8;
    memcpy(u->q, &low, 16);
    memcpy(u->q + 16, &high, 16);
    u->scale[0] = vec_f16_to_f32(block->d);
}

/* The six-bit fields of puna_q4_k_scale, four bytes at a time. */
PUNA_INLINE void unpack_q4_k(const puna_q4_k *block, unpacked *u) {
    uint32_t in[3], out[4];
    int8_t six[VEC_WIDTH > 8 ? 2 * VEC_WIDTH : 16] = {0}; /* 8 scales, 8 mins */
    memcpy(in, block->scales, 12);
    out[0] = in[0] & 0x3F3F3F3F;
    out[1] = (in[2] & 0x0F0F0F0F) | (in[0] >> 2 & 0x30303030);
    out[2] = in[1] & 0x3F3F3F3F;
    out[3] = (in[2] >> 4 & 0x0F0F0F0F) | (in[1] >> 2 & 0x30303030);
    memcpy(six, out, 16);
    vec d = vec_set1(vec_f16_to_f32(block->d)), m = vec_set1(-vec_f16_to_f32(block->m));
    for (int j = 0; j < 8; j += VEC_WIDTH) {
        vec_store(u->scale + j, vec_mul(d, vec_load_i8(six + j)));
        vec_store(u->negated_min + j, vec_mul(m, vec_load_i8(six + 8 + j)));
    }
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 32; i++) {
            u->q[64 * j + i] = (int8_t)(block->q[32 * j + i] & 15);
            u->q[64 * j + 32 + i] = (int8_t)(block->q[32 * j + i] >> 4);
        }
    }
}

PUNA_INLINE void unpack_q6_k(const puna_q6_k *block, unpacked *u) {
    vec d = vec_set1(vec_f16_to_f32(block->d));
    for (int j = 0; j < 16; j += VEC_WIDTH) vec_store(u->scale + j, vec_mul(d, vec_load_i8(block->scales + j)));
    for (int h = 0; h < 2; h++) {
        const uint8_t *low = block->low + 64 * h, *high = block->high + 32 * h;
        int8_t *q = u->q + 128 * h;
        for (int i = 0; i < 32; i++) {
            q[i] = (int8_t)(((low[i] & 15) | (high[i] << 4 & 48)) - 32);
            q[i + 32] = (int8_t)(((low[i + 32] & 15) | (high[i] << 2 & 48)) - 32);
            q[i + 64] = (int8_t)((low[i] >> 4 | (high[i] & 48)) - 32);
            q[i + 96] = (int8_t)((low[i + 32] >> 4 | (high[i] >> 2 & 48)) - 32);
        }
    }
}

PUNA_INLINE void unpack(int32_t dtype, const void *row, int64_t block, unpacked *u) {
    switch (dtype) {
    case PUNA_DTYPE_Q8_0: unpack_q8_0((const puna_q8_0 *)row + block, u); break;
    case PUNA_DTYPE_Q4_0: unpack_q4_0((const puna_q4_0 *)row + block, u); break;
    case PUNA_DTYPE_Q4_K: unpack_q4_k((const puna_q4_k *)row + block, u); break;
    default: unpack_q6_k((const puna_q6_k *)row + block, u); break;
    }
}

/* Elements [i, i + VEC_WIDTH) of an unpacked block. */
PUNA_INLINE vec unpacked_vec(int32_t dtype, const unpacked *u, int64_t i) {
    vec q = vec_load_i8(u->q + i), scale = vec_set1(u->scale[i / elements_per_scale(dtype)]);
    return dtype == PUNA_DTYPE_Q4_K ? vec_fma(scale, q, vec_set1(u->negated_min[i / 32])) : vec_mul(scale, q);
}

PUNA_INLINE vec plain_vec(int32_t dtype, const void *row, int64_t k) {
    switch (dtype) {
    case PUNA_DTYPE_F32: return vec_load((const float *)row + k);
    case PUNA_DTYPE_F16: return vec_load_f16((const uint16_t *)row + k);
    default: return vec_load_bf16((const uint16_t *)row + k);
    }
}

PUNA_INLINE vec plain_vec_partial(int32_t dtype, const void *row, int64_t k, int64_t n) {
    switch (dtype) {
    case PUNA_DTYPE_F32: return vec_load_partial((const float *)row + k, n);
    case PUNA_DTYPE_F16: return vec_load_f16_partial((const uint16_t *)row + k, n);
    default: return vec_load_bf16_partial((const uint16_t *)row + k, n);
    }
}

/* y[0, n) = n elements, whole blocks, that lie one after another. */
PUNA_INLINE void decode_as(int32_t dtype, float *y, const void *w, int64_t n) {
    int64_t i = 0;
    if (is_plain(dtype)) {
        for (; i + VEC_WIDTH <= n; i += VEC_WIDTH) vec_store(y + i, plain_vec(dtype, w, i));
        if (i < n) vec_store_partial(y + i, plain_vec_partial(dtype, w, i, n - i), n - i);
        return;
    }
    int64_t elements = block_elements(dtype);
    for (; i < n; i += elements) {
        unpacked u;
        unpack(dtype, w, i / elements, &u);
        for (int64_t j = 0; j < elements; j += VEC_WIDTH) vec_store(y + i + j, unpacked_vec(dtype, &u, j));
    }
}

/* Call function(dtype, …) with dtype a constant, so that it is compiled once per type. */
#define FOR_PLAIN_DTYPE(dtype, function, ...)                                                                                 \
    switch (dtype) {                                                                                                          \
    case PUNA_DTYPE_F32: function(PUNA_DTYPE_F32, __VA_ARGS__); break;                                                        \
    case PUNA_DTYPE_F16: function(PUNA_DTYPE_F16, __VA_ARGS__); break;                                                        \
    default: function(PUNA_DTYPE_BF16, __VA_ARGS__); break;                                                                   \
    }
#define FOR_DTYPE(dtype, function, ...)                                                                                       \
    switch (dtype) {                                                                                                          \
    case PUNA_DTYPE_F32: function(PUNA_DTYPE_F32, __VA_ARGS__); break;                                                        \
    case PUNA_DTYPE_F16: function(PUNA_DTYPE_F16, __VA_ARGS__); break;                                                        \
    case PUNA_DTYPE_BF16: function(PUNA_DTYPE_BF16, __VA_ARGS__); break;                                                      \
    case PUNA_DTYPE_Q8_0: function(PUNA_DTYPE_Q8_0, __VA_ARGS__); break;                                                      \
    case PUNA_DTYPE_Q4_0: function(PUNA_DTYPE_Q4_0, __VA_ARGS__); break;                                                      \
    case PUNA_DTYPE_Q4_K: function(PUNA_DTYPE_Q4_K, __VA_ARGS__); break;                                                      \
    default: function(PUNA_DTYPE_Q6_K, __VA_ARGS__); break;                                                                   \
    }

static inline void decode_elements(float *y, const void *w, int32_t dtype, int64_t n) { FOR_DTYPE(dtype, decode_as, y, w, n) }

#endif
