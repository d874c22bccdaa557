/*
 * Elements that are not F32, decoded one at a time: the specification of every dtype of puna.h. Reference kernels use it, and
 * fast kernels where a vector would not fit. Products and sums are rounded to F32 one by one, as numpy's float32 does,
 * so the values are bit for bit those of the gguf Python package. (Only Q4_K's subtraction ever rounds: a binary16 times
 * the integers that occur fits an F32.)
 */
#ifndef PUNA_BLOCKS_H
#define PUNA_BLOCKS_H

#include "puna.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* CUDA kernels decode with the same functions. */
#if defined(__CUDACC__)
#define PUNA_DECODE static inline __host__ __device__
#else
#define PUNA_DECODE static inline
#endif

#define PUNA_Q8_0_ELEMENTS 32
#define PUNA_Q4_0_ELEMENTS 32
#define PUNA_Q4_K_ELEMENTS 256
#define PUNA_Q6_K_ELEMENTS 256

/* Below it a group of activations counts as zero: its reciprocal would not be an ordinary F32. */
#define PUNA_QUANTIZED_ZERO 0x1p-100f

typedef struct puna_q8_0 {
    uint16_t d;    /* F16                                                                                           */
    int8_t q[32];
} puna_q8_0;

typedef struct puna_q4_0 {
    uint16_t d;    /* F16                                                                                           */
    uint8_t q[16]; /* q[i]: element i in the low half, i + 16 in the high half                                      */
} puna_q4_0;

typedef struct puna_q4_k {
    uint16_t d, m;      /* F16, of the scales and of the mins                                                       */
    uint8_t scales[12]; /* 8 scales and 8 mins of 6 bits, one for 32 elements: see puna_q4_k_scale                  */
    uint8_t q[128];     /* q[32 j + i]: element 64 j + i in the low half, 64 j + 32 + i in the high half            */
} puna_q4_k;

typedef struct puna_q6_k {
    uint8_t low[128];  /* low 4 bits: low[64 h + i], i < 64, has element 128 h + i below and 128 h + 64 + i above   */
    uint8_t high[64];  /* high 2 bits: high[32 h + i] has, from bit 0 up, elements 128 h + i + {0, 32, 64, 96}      */
    int8_t scales[16]; /* one for 16 elements                                                                       */
    uint16_t d;        /* F16                                                                                       */
} puna_q6_k;

PUNA_STATIC_ASSERT(sizeof(puna_q8_0) == 34, "puna_q8_0");
PUNA_STATIC_ASSERT(sizeof(puna_q4_0) == 18, "puna_q4_0");
PUNA_STATIC_ASSERT(sizeof(puna_q4_k) == 144, "puna_q4_k");
PUNA_STATIC_ASSERT(sizeof(puna_q6_k) == 210, "puna_q6_k");
PUNA_STATIC_ASSERT(offsetof(puna_q6_k, d) == 208, "puna_q6_k");

PUNA_DECODE float puna_f32_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

PUNA_DECODE uint32_t puna_f32_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

PUNA_DECODE float puna_bf16_to_f32(uint16_t h) { return puna_f32_from_bits((uint32_t)h << 16); }

/* Rounds to nearest, ties to even; too large becomes infinite, NaN stays NaN. */
PUNA_DECODE uint16_t puna_f32_to_bf16(float value) {
    uint32_t bits = puna_f32_to_bits(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

PUNA_DECODE float puna_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3FF;
    if (exponent == 31) return puna_f32_from_bits(sign | 0x7F800000 | fraction << 13);
    if (exponent > 0) return puna_f32_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float magnitude = (float)fraction * 0x1p-24f; /* subnormal or zero */
    return puna_f32_from_bits(sign | puna_f32_to_bits(magnitude));
}

/* Rounds to nearest, ties to even; too large becomes infinite, NaN stays NaN. */
PUNA_DECODE uint16_t puna_f32_to_f16(float value) {
    uint32_t bits = puna_f32_to_bits(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return (uint16_t)(sign | 0x7E00 | (magnitude >> 13 & 0x3FF));
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7C00); /* 2^16 and above */
    if (magnitude >= 0x38800000) { /* 2^-14 and above; a carry out of the fraction runs into the exponent, up to infinity */
        magnitude -= 112u << 23;
        return (uint16_t)(sign | (magnitude + 0xFFF + (magnitude >> 13 & 1)) >> 13);
    }
    if (magnitude < 0x33000000) return (uint16_t)sign; /* below 2^-25 */
    uint32_t shift = 126 - (magnitude >> 23), fraction = (magnitude & 0x7FFFFF) | 0x800000; /* 14 to 24 */
    uint32_t kept = fraction >> shift, rest = fraction & ((1u << shift) - 1), half = 1u << (shift - 1);
    return (uint16_t)(sign | (kept + (rest > half || (rest == half && (kept & 1)))));
}

/*
 * Scale and min of the j-th 32 elements of a block, j < 8. The first four scales and mins are the low 6 bits of a byte each;
 * the others have 4 bits in the last four bytes and 2 on top of the first eight.
 */
PUNA_DECODE void puna_q4_k_scale(const puna_q4_k *block, int j, int *scale, int *min) {
    const uint8_t *s = block->scales;
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
        *min = s[j + 4] >> 4 | s[j] >> 6 << 4;
    }
}

PUNA_DECODE float puna_q8_0_value(const puna_q8_0 *block, int i) { return puna_f16_to_f32(block->d) * (float)block->q[i]; }

PUNA_DECODE float puna_q4_0_value(const puna_q4_0 *block, int i) {
    int q = i < 16 ? block->q[i] & 15 : block->q[i - 16] >> 4;
    return puna_f16_to_f32(block->d) * (float)(q - 8);
}

PUNA_DECODE float puna_q4_k_value(const puna_q4_k *block, int i) {
    int byte = block->q[i / 64 * 32 + i % 32], q = i % 64 < 32 ? byte & 15 : byte >> 4, scale, min;
    puna_q4_k_scale(block, i / 32, &scale, &min);
    float product = puna_f16_to_f32(block->d) * (float)scale * (float)q; /* exact, contracted or not */
    return product - puna_f16_to_f32(block->m) * (float)min;
}

PUNA_DECODE float puna_q6_k_value(const puna_q6_k *block, int i) {
    int half = i / 128, quarter = i % 128 / 32, at = i % 32;
    int low = block->low[64 * half + 32 * (quarter % 2) + at] >> (quarter / 2 * 4) & 15;
    int high = block->high[32 * half + at] >> (quarter * 2) & 3;
    return puna_f16_to_f32(block->d) * (float)block->scales[i / 16] * (float)((low | high << 4) - 32);
}

/* Element i of a row of dtype. */
PUNA_DECODE float puna_value(const void *row, int32_t dtype, int64_t i) {
    switch (dtype) {
    case PUNA_DTYPE_F32: return ((const float *)row)[i];
    case PUNA_DTYPE_F16: return puna_f16_to_f32(((const uint16_t *)row)[i]);
    case PUNA_DTYPE_BF16: return puna_bf16_to_f32(((const uint16_t *)row)[i]);
    case PUNA_DTYPE_Q8_0: return puna_q8_0_value((const puna_q8_0 *)row + i / 32, (int)(i % 32));
    case PUNA_DTYPE_Q4_0: return puna_q4_0_value((const puna_q4_0 *)row + i / 32, (int)(i % 32));
    case PUNA_DTYPE_Q4_K: return puna_q4_k_value((const puna_q4_k *)row + i / 256, (int)(i % 256));
    default: return puna_q6_k_value((const puna_q6_k *)row + i / 256, (int)(i % 256));
    }
}

/* The largest integer that activations are rounded to. */
PUNA_DECODE float puna_activations_top(int32_t activations) { return activations == PUNA_ACTIVATIONS_INT8 ? 127 : 32512; }

/*
 * n activations rounded to integers up to top: q and the returned scale d so that x is near d * q, or d = NaN and q = 0 when an
 * element is NaN or infinite.
 */
PUNA_DECODE float puna_quantize(int16_t *q, const float *x, int64_t n, float top) {
    float largest = 0;
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        largest = fmaxf(largest, fabsf(x[i]));
        finite = finite && isfinite(x[i]);
    }
    if (!finite || largest < PUNA_QUANTIZED_ZERO) {
        memset(q, 0, (size_t)n * sizeof *q);
        return finite ? 0 : NAN;
    }
    float inverse = top / largest;
    for (int64_t i = 0; i < n; i++) q[i] = (int16_t)rintf(x[i] * inverse);
    return largest / top;
}

/* 32 elements as a block of a cache. */
PUNA_DECODE void puna_quantize_q8_0(puna_q8_0 *block, const float *x) {
    int16_t q[PUNA_Q8_0_ELEMENTS];
    block->d = puna_f32_to_f16(puna_quantize(q, x, PUNA_Q8_0_ELEMENTS, 127));
    for (int i = 0; i < PUNA_Q8_0_ELEMENTS; i++) block->q[i] = (int8_t)q[i];
}

#endif
