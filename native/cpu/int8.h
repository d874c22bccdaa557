/*
 * The integer vocabulary of matmul_int8.c, written once per instruction set: vectors of 32 bytes on all of them, two registers
 * of 16 on the baseline. An ivec is 32 int8, 16 int16 or 8 int32, as the operation's name says; an fvec is 8 floats.
 */
#ifndef PUNA_INT8_H
#define PUNA_INT8_H

#include "simd.h"

#if defined(PUNA_VARIANT_AVX512) || defined(PUNA_VARIANT_AVX2)

typedef __m256i ivec;
typedef __m256 fvec;

PUNA_INLINE ivec ivec_zero(void) { return _mm256_setzero_si256(); }
PUNA_INLINE ivec ivec_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
PUNA_INLINE void ivec_store(void *p, ivec a) { _mm256_storeu_si256((__m256i *)p, a); }
PUNA_INLINE ivec ivec_set1_i16(int16_t a) { return _mm256_set1_epi16(a); }
PUNA_INLINE ivec ivec_set1_i32(int32_t a) { return _mm256_set1_epi32(a); }
PUNA_INLINE ivec ivec_and(ivec a, ivec b) { return _mm256_and_si256(a, b); }
PUNA_INLINE ivec ivec_or(ivec a, ivec b) { return _mm256_or_si256(a, b); }
PUNA_INLINE ivec ivec_shl_i16(ivec a, int n) { return _mm256_slli_epi16(a, n); }
PUNA_INLINE ivec ivec_shr_u16(ivec a, int n) { return _mm256_srli_epi16(a, n); }
PUNA_INLINE ivec ivec_add_i16(ivec a, ivec b) { return _mm256_add_epi16(a, b); }
PUNA_INLINE ivec ivec_add_i32(ivec a, ivec b) { return _mm256_add_epi32(a, b); }
PUNA_INLINE ivec ivec_sub_i32(ivec a, ivec b) { return _mm256_sub_epi32(a, b); }
PUNA_INLINE ivec ivec_shl_i32(ivec a, int n) { return _mm256_slli_epi32(a, n); }
PUNA_INLINE ivec ivec_shr_i32(ivec a, int n) { return _mm256_srai_epi32(a, n); }

/* Sixteen int8 as int16. */
PUNA_INLINE ivec ivec_widen_i8(const void *p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)); }
/* The same, those of even number first. */
PUNA_INLINE ivec ivec_widen_even_odd_i8(const void *p) {
    __m128i evens_first = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)p), evens_first));
}
/* The first half twice. */
PUNA_INLINE ivec ivec_first_half(ivec a) { return _mm256_permute4x64_epi64(a, 0x44); }
/* int16 j of each half in all of its half. */
PUNA_INLINE ivec ivec_spread_i16(ivec a, int j) {
    return _mm256_shuffle_epi8(a, _mm256_set1_epi16((short)(2 * j | (2 * j + 1) << 8)));
}
/* The low halves of 16 bytes, then the high ones. */
PUNA_INLINE ivec ivec_nibbles(const void *p) {
    __m128i q = _mm_loadu_si128((const __m128i *)p);
    return _mm256_and_si256(_mm256_inserti128_si256(_mm256_castsi128_si256(q), _mm_srli_epi16(q, 4), 1), _mm256_set1_epi8(15));
}
/* int16 lane i = a[2 i] * x[2 i] + a[2 i + 1] * x[2 i + 1], for 0 <= a <= 127 or so that no sum leaves an int16. */
PUNA_INLINE ivec ivec_pairs_u8(ivec a, ivec x) { return _mm256_maddubs_epi16(a, x); }
/* The same for -128 <= a <= 127 and -127 <= x <= 127: at most 2 * 128 * 127. |a| is right as unsigned even for -128. */
PUNA_INLINE ivec ivec_pairs_i8(ivec a, ivec x) { return _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(x, a)); }
/* int32 lane i = a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1] of int16. */
PUNA_INLINE ivec ivec_pairs_i16(ivec a, ivec b) { return _mm256_madd_epi16(a, b); }

/* int32 lane i = the sum of the 8 int32 of a[i]. */
PUNA_INLINE ivec ivec_sums_i32(const ivec a[8]) {
    ivec two[4], four[2];
    for (int i = 0; i < 4; i++)
        two[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(a[2 * i], a[2 * i + 1]), _mm256_unpackhi_epi32(a[2 * i], a[2 * i + 1]));
    for (int i = 0; i < 2; i++)
        four[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(two[2 * i], two[2 * i + 1]),
                                   _mm256_unpackhi_epi64(two[2 * i], two[2 * i + 1]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(four[0], four[1], 0x20),
                            _mm256_permute2x128_si256(four[0], four[1], 0x31));
}
/* int32 lane i = the sum of the 16 int16 of a[i]; no sum of eight of them may leave an int16. */
PUNA_INLINE ivec ivec_sums_i16(const ivec a[8]) {
    ivec two[4], four[2], eight;
    for (int i = 0; i < 4; i++)
        two[i] = _mm256_add_epi16(_mm256_unpacklo_epi16(a[2 * i], a[2 * i + 1]), _mm256_unpackhi_epi16(a[2 * i], a[2 * i + 1]));
    for (int i = 0; i < 2; i++)
        four[i] = _mm256_add_epi16(_mm256_unpacklo_epi32(two[2 * i], two[2 * i + 1]),
                                   _mm256_unpackhi_epi32(two[2 * i], two[2 * i + 1]));
    eight = _mm256_add_epi16(_mm256_unpacklo_epi64(four[0], four[1]), _mm256_unpackhi_epi64(four[0], four[1]));
    return _mm256_add_epi32(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(eight)),
                            _mm256_cvtepi16_epi32(_mm256_extracti128_si256(eight, 1)));
}
/* int32 lane i of b[k] = int32 lane k of a[i]. */
PUNA_INLINE void ivec_transpose_i32(ivec b[8], const ivec a[8]) {
    ivec two[8], four[8];
    for (int i = 0; i < 4; i++) {
        two[2 * i] = _mm256_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        two[2 * i + 1] = _mm256_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++)
        for (int h = 0; h < 2; h++) {
            four[4 * i + 2 * h] = _mm256_unpacklo_epi64(two[4 * i + h], two[4 * i + 2 + h]);
            four[4 * i + 2 * h + 1] = _mm256_unpackhi_epi64(two[4 * i + h], two[4 * i + 2 + h]);
        }
    for (int k = 0; k < 4; k++) {
        b[k] = _mm256_permute2x128_si256(four[k], four[4 + k], 0x20);
        b[4 + k] = _mm256_permute2x128_si256(four[k], four[4 + k], 0x31);
    }
}

PUNA_INLINE fvec fvec_set1(float a) { return _mm256_set1_ps(a); }
PUNA_INLINE fvec fvec_load(const float *p) { return _mm256_loadu_ps(p); }
PUNA_INLINE void fvec_store(float *p, fvec a) { _mm256_storeu_ps(p, a); }
PUNA_INLINE fvec fvec_mul(fvec a, fvec b) { return _mm256_mul_ps(a, b); }
PUNA_INLINE fvec fvec_fma(fvec a, fvec b, fvec c) { return _mm256_fmadd_ps(a, b, c); }
PUNA_INLINE fvec fvec_fnma(fvec a, fvec b, fvec c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a * b */
PUNA_INLINE fvec fvec_from_i32(ivec a) { return _mm256_cvtepi32_ps(a); }
/* Eight F16 from eight places. */
PUNA_INLINE fvec fvec_gather_f16(const void *const p[8], int64_t offset) {
    uint16_t h[8];
    for (int i = 0; i < 8; i++) memcpy(&h[i], (const char *)p[i] + offset, 2);
    return _mm256_cvtph_ps(_mm_setr_epi16((short)h[0], (short)h[1], (short)h[2], (short)h[3], (short)h[4], (short)h[5],
                                          (short)h[6], (short)h[7]));
}

#else
/* Halves of 16 bytes in the compiler's own vectors, which are SSE2 or NEON; what those cannot say is written per architecture. */
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef int16_t i16x8 __attribute__((vector_size(16)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));

typedef struct ivec {
    i16x8 half[2];
} ivec;
typedef struct fvec {
    vec half[2];
} fvec;

#define IVEC_HALVES(expression)                                                                                               \
    ivec result;                                                                                                              \
    for (int h = 0; h < 2; h++) result.half[h] = (i16x8)(expression);                                                         \
    return result
#define FVEC_HALVES(expression)                                                                                               \
    fvec result;                                                                                                              \
    for (int h = 0; h < 2; h++) result.half[h] = (expression);                                                                \
    return result

PUNA_INLINE ivec ivec_zero(void) { IVEC_HALVES((i16x8){0}); }
PUNA_INLINE ivec ivec_load(const void *p) {
    ivec result;
    memcpy(&result, p, 32);
    return result;
}
PUNA_INLINE void ivec_store(void *p, ivec a) { memcpy(p, &a, 32); }
PUNA_INLINE ivec ivec_set1_i16(int16_t a) { IVEC_HALVES((i16x8){0} + a); }
PUNA_INLINE ivec ivec_set1_i32(int32_t a) { IVEC_HALVES((i32x4){0} + a); }
PUNA_INLINE ivec ivec_and(ivec a, ivec b) { IVEC_HALVES(a.half[h] & b.half[h]); }
PUNA_INLINE ivec ivec_or(ivec a, ivec b) { IVEC_HALVES(a.half[h] | b.half[h]); }
PUNA_INLINE ivec ivec_shl_i16(ivec a, int n) { IVEC_HALVES((u16x8)a.half[h] << n); }
PUNA_INLINE ivec ivec_shr_u16(ivec a, int n) { IVEC_HALVES((u16x8)a.half[h] >> n); }
PUNA_INLINE ivec ivec_add_i16(ivec a, ivec b) { IVEC_HALVES(a.half[h] + b.half[h]); }
PUNA_INLINE ivec ivec_add_i32(ivec a, ivec b) { IVEC_HALVES((i32x4)a.half[h] + (i32x4)b.half[h]); }
PUNA_INLINE ivec ivec_sub_i32(ivec a, ivec b) { IVEC_HALVES((i32x4)a.half[h] - (i32x4)b.half[h]); }
PUNA_INLINE ivec ivec_shl_i32(ivec a, int n) { IVEC_HALVES((u32x4)a.half[h] << n); }
PUNA_INLINE ivec ivec_shr_i32(ivec a, int n) { IVEC_HALVES((i32x4)a.half[h] >> n); }

PUNA_INLINE ivec ivec_widen_i8(const void *p) {
    int8_t in[16];
    int16_t out[16];
    memcpy(in, p, 16);
    for (int i = 0; i < 16; i++) out[i] = in[i];
    return ivec_load(out);
}
PUNA_INLINE ivec ivec_widen_even_odd_i8(const void *p) {
    int8_t in[16];
    int16_t out[16];
    memcpy(in, p, 16);
    for (int i = 0; i < 16; i++) out[i] = in[i < 8 ? 2 * i : 2 * i - 15];
    return ivec_load(out);
}
PUNA_INLINE ivec ivec_first_half(ivec a) { return (ivec){{a.half[0], a.half[0]}}; }
PUNA_INLINE ivec ivec_spread_i16(ivec a, int j) { IVEC_HALVES((i16x8){0} + a.half[h][j]); }
PUNA_INLINE ivec ivec_nibbles(const void *p) {
    u8x16 q;
    memcpy(&q, p, 16);
    IVEC_HALVES(h == 0 ? q & 15 : q >> 4);
}
#if defined(__aarch64__)
PUNA_INLINE ivec ivec_pairs_i8(ivec a, ivec x) {
    ivec result;
    for (int h = 0; h < 2; h++) {
        int8x16_t a_h = vreinterpretq_s8_s16((int16x8_t)a.half[h]), x_h = vreinterpretq_s8_s16((int16x8_t)x.half[h]);
        result.half[h] = (i16x8)vpaddq_s16(vmull_s8(vget_low_s8(a_h), vget_low_s8(x_h)), vmull_high_s8(a_h, x_h));
    }
    return result;
}
PUNA_INLINE ivec ivec_pairs_i16(ivec a, ivec b) {
    ivec result;
    for (int h = 0; h < 2; h++) {
        int16x8_t a_h = (int16x8_t)a.half[h], b_h = (int16x8_t)b.half[h];
        result.half[h] = (i16x8)vpaddq_s32(vmull_s16(vget_low_s16(a_h), vget_low_s16(b_h)), vmull_high_s16(a_h, b_h));
    }
    return result;
}
#else
PUNA_INLINE ivec ivec_pairs_i8(ivec a, ivec x) { /* bytes of even and of odd number, sign extended */
    IVEC_HALVES(((i16x8)((u16x8)a.half[h] << 8) >> 8) * ((i16x8)((u16x8)x.half[h] << 8) >> 8) +
                (a.half[h] >> 8) * (x.half[h] >> 8));
}
PUNA_INLINE ivec ivec_pairs_i16(ivec a, ivec b) { IVEC_HALVES(_mm_madd_epi16((__m128i)a.half[h], (__m128i)b.half[h])); }
#endif
PUNA_INLINE ivec ivec_pairs_u8(ivec a, ivec x) { return ivec_pairs_i8(a, x); } /* quants of 6 bits: signed will do */

PUNA_INLINE ivec ivec_sums_i32(const ivec a[8]) {
    int32_t sums[8];
    for (int i = 0; i < 8; i++) {
        i32x4 four = (i32x4)a[i].half[0] + (i32x4)a[i].half[1];
        sums[i] = four[0] + four[1] + (four[2] + four[3]);
    }
    return ivec_load(sums);
}
PUNA_INLINE ivec ivec_sums_i16(const ivec a[8]) {
    ivec wide[8];
    for (int i = 0; i < 8; i++) wide[i] = ivec_pairs_i16(a[i], ivec_set1_i16(1));
    return ivec_sums_i32(wide);
}
PUNA_INLINE void ivec_transpose_i32(ivec b[8], const ivec a[8]) {
    int32_t in[8][8], out[8][8];
    memcpy(in, a, sizeof in);
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 8; k++) out[k][i] = in[i][k];
    memcpy(b, out, sizeof out);
}

PUNA_INLINE fvec fvec_set1(float a) { FVEC_HALVES(vec_set1(a)); }
PUNA_INLINE fvec fvec_load(const float *p) { FVEC_HALVES(vec_load(p + 4 * h)); }
PUNA_INLINE void fvec_store(float *p, fvec a) {
    for (int h = 0; h < 2; h++) vec_store(p + 4 * h, a.half[h]);
}
PUNA_INLINE fvec fvec_mul(fvec a, fvec b) { FVEC_HALVES(vec_mul(a.half[h], b.half[h])); }
PUNA_INLINE fvec fvec_fma(fvec a, fvec b, fvec c) { FVEC_HALVES(vec_fma(a.half[h], b.half[h], c.half[h])); }
PUNA_INLINE fvec fvec_fnma(fvec a, fvec b, fvec c) { FVEC_HALVES(vec_fma(vec_sub(vec_zero(), a.half[h]), b.half[h], c.half[h])); }
PUNA_INLINE fvec fvec_from_i32(ivec a) {
#if defined(__aarch64__)
    FVEC_HALVES(vcvtq_f32_s32((int32x4_t)a.half[h]));
#else
    FVEC_HALVES(_mm_cvtepi32_ps((__m128i)a.half[h]));
#endif
}
PUNA_INLINE fvec fvec_gather_f16(const void *const p[8], int64_t offset) {
    uint16_t f16[8];
    for (int i = 0; i < 8; i++) memcpy(&f16[i], (const char *)p[i] + offset, 2);
    FVEC_HALVES(vec_load_f16(f16 + 4 * h));
}
#endif

#endif
