/* Eight consecutive elements of a weight's row at a time, decoded to F32 bit for bit as runtime/blocks.h does. */
#ifndef PUNA_CUDA_DECODE_CUH
#define PUNA_CUDA_DECODE_CUH

#include "common.cuh"

__device__ inline void bytes_of(uint32_t word, int shift, uint32_t mask, int bytes[4]) {
    for (int i = 0; i < 4; i++) bytes[i] = (int)(word >> (8 * i + shift) & mask);
}

/*
 * w[0..7] = elements k to k + 7 of a row of K, k a multiple of 8; zero from K on. kVector: the row is aligned to 16 bytes and K a
 * multiple of 8 (it matters to plain types, and to Q4_K, whose blocks are 9 times 16 bytes).
 */
template <int kDtype, bool kVector> __device__ void decode_eight(const char *row, int64_t k, int64_t K, float w[8]) {
    if constexpr (kDtype == PUNA_DTYPE_F32) {
        const float *p = (const float *)row + k;
        if constexpr (kVector) {
            float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
            w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w, w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
        } else {
            for (int i = 0; i < 8; i++) w[i] = k + i < K ? p[i] : 0;
        }
    } else if constexpr (kDtype == PUNA_DTYPE_F16 || kDtype == PUNA_DTYPE_BF16) {
        uint16_t h[8];
        if constexpr (kVector) {
            uint4 words = *(const uint4 *)(row + 2 * k);
            const uint32_t word[4] = {words.x, words.y, words.z, words.w};
            for (int i = 0; i < 8; i++) h[i] = (uint16_t)(word[i / 2] >> (i % 2 * 16));
        } else {
            for (int i = 0; i < 8; i++) h[i] = k + i < K ? ((const uint16_t *)row)[k + i] : 0;
        }
        for (int i = 0; i < 8; i++) w[i] = kDtype == PUNA_DTYPE_F16 ? f16_value(h[i]) : puna_bf16_to_f32(h[i]);
    } else if constexpr (kDtype == PUNA_DTYPE_Q8_0) {
        const char *block = row + k / 32 * 34, *q = block + 2 + k % 32;
        float d = f16_value((uint16_t)two_bytes(block));
        int bytes[8];
        bytes_of(four_bytes(q), 0, 0xFF, bytes);
        bytes_of(four_bytes(q + 4), 0, 0xFF, bytes + 4);
        for (int i = 0; i < 8; i++) w[i] = d * (float)(int8_t)bytes[i];
    } else if constexpr (kDtype == PUNA_DTYPE_Q4_0) {
        const char *block = row + k / 32 * 18, *q = block + 2 + k % 16;
        float d = f16_value((uint16_t)two_bytes(block));
        int shift = k % 32 < 16 ? 0 : 4, nibbles[8];
        bytes_of(four_bytes(q), shift, 15, nibbles);
        bytes_of(four_bytes(q + 4), shift, 15, nibbles + 4);
        for (int i = 0; i < 8; i++) w[i] = d * (float)(nibbles[i] - 8);
    } else if constexpr (kDtype == PUNA_DTYPE_Q4_K) {
        const puna_q4_k *block = (const puna_q4_k *)row + k / 256;
        int at = (int)(k % 256), shift = at % 64 < 32 ? 0 : 4, nibbles[8], scale, min;
        const uint8_t *q = block->q + at / 64 * 32 + at % 32;
        float d, m;
        if constexpr (kVector) {
            uint4 head = *(const uint4 *)block; /* d, m and puna_q4_k_scale's twelve bytes */
            uint2 words = *(const uint2 *)q;
            uint32_t j = (uint32_t)at / 32, from = j % 4 * 8;
            uint32_t first = head.y >> from & 255, second = head.z >> from & 255, third = head.w >> from & 255;
            scale = (int)(j < 4 ? first & 63 : (third & 15) | first >> 6 << 4);
            min = (int)(j < 4 ? second & 63 : third >> 4 | second >> 6 << 4);
            d = f16_value((uint16_t)head.x) * (float)scale, m = f16_value((uint16_t)(head.x >> 16)) * (float)min;
            bytes_of(words.x, shift, 15, nibbles);
            bytes_of(words.y, shift, 15, nibbles + 4);
        } else {
            puna_q4_k_scale(block, at / 32, &scale, &min);
            d = f16_value(block->d) * (float)scale, m = f16_value(block->m) * (float)min;
            bytes_of(four_bytes(q), shift, 15, nibbles);
            bytes_of(four_bytes(q + 4), shift, 15, nibbles + 4);
        }
        for (int i = 0; i < 8; i++) w[i] = d * (float)nibbles[i] - m;
    } else {
        const puna_q6_k *block = (const puna_q6_k *)row + k / 256;
        int at = (int)(k % 256), quarter = at % 128 / 32, low[8], high[8];
        const uint8_t *lows = block->low + 64 * (at / 128) + 32 * (quarter % 2) + at % 32;
        const uint8_t *highs = block->high + 32 * (at / 128) + at % 32;
        float d = f16_value(block->d) * (float)block->scales[at / 16];
        bytes_of(four_bytes(lows), quarter / 2 * 4, 15, low);
        bytes_of(four_bytes(lows + 4), quarter / 2 * 4, 15, low + 4);
        bytes_of(four_bytes(highs), quarter * 2, 3, high);
        bytes_of(four_bytes(highs + 4), quarter * 2, 3, high + 4);
        for (int i = 0; i < 8; i++) w[i] = d * (float)((low[i] | high[i] << 4) - 32);
    }
}

/* x[0..7] = elements k to k + 7 of an F32 row, zero from K on. */
template <bool kVector> __device__ void load_eight(const float *row, int64_t k, int64_t K, float x[8]) {
    decode_eight<PUNA_DTYPE_F32, kVector>((const char *)row, k, K, x);
}

/* Calls f with the type as a constant, dtype_constant<…>. */
template <int kDtype> struct dtype_constant {
    static constexpr int value = kDtype;
};
template <class F> auto for_dtype(int32_t dtype, F f) {
    switch (dtype) {
    case PUNA_DTYPE_F32: return f(dtype_constant<PUNA_DTYPE_F32>());
    case PUNA_DTYPE_F16: return f(dtype_constant<PUNA_DTYPE_F16>());
    case PUNA_DTYPE_BF16: return f(dtype_constant<PUNA_DTYPE_BF16>());
    case PUNA_DTYPE_Q8_0: return f(dtype_constant<PUNA_DTYPE_Q8_0>());
    case PUNA_DTYPE_Q4_0: return f(dtype_constant<PUNA_DTYPE_Q4_0>());
    case PUNA_DTYPE_Q4_K: return f(dtype_constant<PUNA_DTYPE_Q4_K>());
    default: return f(dtype_constant<PUNA_DTYPE_Q6_K>());
    }
}

#endif
