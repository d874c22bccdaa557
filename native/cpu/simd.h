/*
 * The vector vocabulary of the CPU kernels, written once per instruction set. A kernel is compiled once per set, with
 * -DPUNA_VARIANT_<SET> and the set's flags (see runtime/kernels.h).
 *
 *   set        width  needs
 *   BASELINE     4    SSE2 on x86-64, NEON on aarch64
 *   AVX2         8    AVX2, FMA, F16C
 *   AVX512      16    AVX-512 F, BW, DQ, VL, VNNI (and the above)
 *   DOTPROD      4    NEON with dot products of bytes, which integer.h uses; the same here as the aarch64 baseline
 *
 * Loads and stores need no alignment. The partial ones touch the first n elements only, 0 <= n <= VEC_WIDTH: nothing is read
 * or written past a row's end, and lanes from n on load as zero. vec_hsum adds in one fixed tree: halves onto each other
 * until one lane is left.
 */
#ifndef PUNA_SIMD_H
#define PUNA_SIMD_H

#include "../runtime/blocks.h"

#include <stdint.h>
#include <string.h>

/* Kernels written for a constant tile size rely on being inlined where the size is known. */
#if defined(_MSC_VER) && !defined(__clang__)
#define PUNA_INLINE static __forceinline
#define PUNA_NOINLINE __declspec(noinline)
#else
#define PUNA_INLINE static inline __attribute__((always_inline))
#define PUNA_NOINLINE __attribute__((noinline))
#endif

#if defined(PUNA_VARIANT_AVX512) || defined(PUNA_VARIANT_AVX2)
#include <immintrin.h>
#endif

#if defined(PUNA_VARIANT_AVX512)
/* ---------------------------------------------------------------------------------------------------------------- AVX-512 */

#define VEC_WIDTH 16
typedef __m512 vec;

PUNA_INLINE vec vec_set1(float a) { return _mm512_set1_ps(a); }
PUNA_INLINE vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
PUNA_INLINE void vec_store(float *p, vec a) { _mm512_storeu_ps(p, a); }
PUNA_INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
PUNA_INLINE vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
PUNA_INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
PUNA_INLINE vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
PUNA_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
PUNA_INLINE vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
PUNA_INLINE vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }

PUNA_INLINE vec vec_unpacklo2(vec a, vec b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
PUNA_INLINE vec vec_unpackhi2(vec a, vec b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

PUNA_INLINE __mmask16 vec_first(int64_t n) { return (__mmask16)((1u << n) - 1u); }
PUNA_INLINE vec vec_load_partial(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(vec_first(n), p); }
PUNA_INLINE void vec_store_partial(float *p, vec a, int64_t n) { _mm512_mask_storeu_ps(p, vec_first(n), a); }

PUNA_INLINE __m256 vec_upper_half(vec a) { return _mm512_extractf32x8_ps(a, 1); }
PUNA_INLINE float vec_hsum(vec a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), vec_upper_half(a));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
PUNA_INLINE float vec_hmax(vec a) {
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), vec_upper_half(a));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

PUNA_INLINE vec vec_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
PUNA_INLINE vec vec_load_f16_partial(const uint16_t *p, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vec_first(n), p));
}
PUNA_INLINE float vec_f16_to_f32(uint16_t h) { return _cvtsh_ss(h); }
PUNA_INLINE void vec_store_f16(uint16_t *p, vec a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
PUNA_INLINE void vec_store_f16_partial(uint16_t *p, vec a, int64_t n) {
    _mm256_mask_storeu_epi16(p, vec_first(n), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
PUNA_INLINE vec vec_from_bf16_bits(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
PUNA_INLINE vec vec_load_bf16(const uint16_t *p) { return vec_from_bf16_bits(_mm256_loadu_si256((const __m256i *)p)); }
PUNA_INLINE vec vec_load_bf16_partial(const uint16_t *p, int64_t n) {
    return vec_from_bf16_bits(_mm256_maskz_loadu_epi16(vec_first(n), p));
}
/* The integers p[0..VEC_WIDTH) as floats. */
PUNA_INLINE vec vec_load_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

/* 2^n as a product of two factors, for integers n in [-252, 254] held in the low bits of t = 1.5 * 2^23 + n. */
PUNA_INLINE vec vec_pow2_halves(vec t, vec *rest) {
    __m512i n = _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(0x4B400000));
    __m512i half = _mm512_srai_epi32(n, 1), bias = _mm512_set1_epi32(127);
    *rest = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(n, half), bias), 23));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23));
}
/* p * 2^n where x is not below limit, else 0, for ordinary numbers p and results; n is held in the low bits of t. */
PUNA_INLINE vec vec_mul_pow2(vec p, vec t, vec x, vec limit) {
    __m512i n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_maskz_add_epi32(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), _mm512_castps_si512(p), n));
}

/* Rows become columns within each quarter. */
PUNA_INLINE void vec_transpose_quarters(vec a[4]) {
    vec low[2], high[2];
    for (int i = 0; i < 2; i++) {
        low[i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
        high[i] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
    a[0] = vec_unpacklo2(low[0], low[1]);
    a[1] = vec_unpackhi2(low[0], low[1]);
    a[2] = vec_unpacklo2(high[0], high[1]);
    a[3] = vec_unpackhi2(high[0], high[1]);
}
/* Rows become columns. */
PUNA_INLINE void vec_transpose(vec a[VEC_WIDTH]) {
    vec b[VEC_WIDTH];
    for (int i = 0; i < 16; i += 4) vec_transpose_quarters(a + i);
    for (int i = 0; i < 4; i++) {
        b[i] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
        b[i + 4] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xDD);
        b[i + 8] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xDD);
    }
    for (int i = 0; i < 8; i++) {
        a[i] = _mm512_shuffle_f32x4(b[i], b[i + 8], 0x88);
        a[i + 8] = _mm512_shuffle_f32x4(b[i], b[i + 8], 0xDD);
    }
}

/* Half a vector from a, and half a one from b. */
PUNA_INLINE vec vec_join(const float *a, const float *b) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
}
PUNA_INLINE vec vec_join_f16(const uint16_t *a, const uint16_t *b) {
    __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a));
    return _mm512_cvtph_ps(_mm256_inserti128_si256(low, _mm_loadu_si128((const __m128i *)b), 1));
}
/* The BF16 numbers in the lower and in the upper half of each lane. */
PUNA_INLINE void vec_split_bf16(vec to[2], vec pairs) {
    __m512i bits = _mm512_castps_si512(pairs);
    to[0] = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    to[1] = _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xFFFF0000)));
}
/* Half rows become columns: a[i] begins with the half of row i + i / 4 * 4 and ends with that of the fourth row after it. */
PUNA_INLINE void vec_transpose_halves(vec a[VEC_WIDTH / 2]) {
    vec b[4];
    for (int i = 0; i < 8; i += 4) vec_transpose_quarters(a + i);
    for (int i = 0; i < 4; i++) {
        b[i] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
        a[i + 4] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xDD);
        a[i] = b[i];
    }
}

#elif defined(PUNA_VARIANT_AVX2)
/* ------------------------------------------------------------------------------------------------------------------- AVX2 */

#define VEC_WIDTH 8
typedef __m256 vec;

PUNA_INLINE vec vec_set1(float a) { return _mm256_set1_ps(a); }
PUNA_INLINE vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
PUNA_INLINE void vec_store(float *p, vec a) { _mm256_storeu_ps(p, a); }
PUNA_INLINE vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
PUNA_INLINE vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
PUNA_INLINE vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
PUNA_INLINE vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
PUNA_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
PUNA_INLINE vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
PUNA_INLINE vec vec_min(vec a, vec b) { return _mm256_min_ps(a, b); }

/* Lanes below n have their top bit set. */
PUNA_INLINE __m256i vec_first(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
PUNA_INLINE vec vec_load_partial(const float *p, int64_t n) { return _mm256_maskload_ps(p, vec_first(n)); }
PUNA_INLINE void vec_store_partial(float *p, vec a, int64_t n) { _mm256_maskstore_ps(p, vec_first(n), a); }

PUNA_INLINE float vec_hsum(vec a) {
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
PUNA_INLINE float vec_hmax(vec a) {
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

PUNA_INLINE __m128i vec_load_u16_partial(const uint16_t *p, int64_t n) {
    uint16_t h[VEC_WIDTH] = {0};
    for (int64_t i = 0; i < n; i++) h[i] = p[i];
    return _mm_loadu_si128((const __m128i *)h);
}
PUNA_INLINE vec vec_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
PUNA_INLINE vec vec_load_f16_partial(const uint16_t *p, int64_t n) { return _mm256_cvtph_ps(vec_load_u16_partial(p, n)); }
PUNA_INLINE float vec_f16_to_f32(uint16_t h) { return _cvtsh_ss(h); }
PUNA_INLINE void vec_store_f16(uint16_t *p, vec a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
PUNA_INLINE void vec_store_f16_partial(uint16_t *p, vec a, int64_t n) {
    uint16_t h[VEC_WIDTH];
    vec_store_f16(h, a);
    for (int64_t i = 0; i < n; i++) p[i] = h[i];
}
PUNA_INLINE vec vec_from_bf16_bits(__m128i h) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
PUNA_INLINE vec vec_load_bf16(const uint16_t *p) { return vec_from_bf16_bits(_mm_loadu_si128((const __m128i *)p)); }
PUNA_INLINE vec vec_load_bf16_partial(const uint16_t *p, int64_t n) {
    return vec_from_bf16_bits(vec_load_u16_partial(p, n));
}
/* The integers p[0..VEC_WIDTH) as floats. */
PUNA_INLINE vec vec_load_i8(const int8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

PUNA_INLINE vec vec_join(const float *a, const float *b) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
}
PUNA_INLINE vec vec_join_f16(const uint16_t *a, const uint16_t *b) {
    return _mm256_cvtph_ps(_mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)a), _mm_loadl_epi64((const __m128i *)b)));
}
PUNA_INLINE void vec_split_bf16(vec to[2], vec pairs) {
    __m256i bits = _mm256_castps_si256(pairs);
    to[0] = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
    to[1] = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32((int)0xFFFF0000)));
}
PUNA_INLINE void vec_transpose_halves(vec a[VEC_WIDTH / 2]) {
    vec b[4] = {_mm256_unpacklo_ps(a[0], a[1]), _mm256_unpackhi_ps(a[0], a[1]), _mm256_unpacklo_ps(a[2], a[3]),
                _mm256_unpackhi_ps(a[2], a[3])};
    a[0] = _mm256_shuffle_ps(b[0], b[2], 0x44);
    a[1] = _mm256_shuffle_ps(b[0], b[2], 0xEE);
    a[2] = _mm256_shuffle_ps(b[1], b[3], 0x44);
    a[3] = _mm256_shuffle_ps(b[1], b[3], 0xEE);
}

/* Rows become columns. */
PUNA_INLINE void vec_transpose(vec a[VEC_WIDTH]) {
    vec b[4];
    for (int i = 0; i < 8; i += 4) vec_transpose_halves(a + i);
    for (int i = 0; i < 4; i++) {
        b[i] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x20);
        a[i + 4] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x31);
        a[i] = b[i];
    }
}

/* 2^n as a product of two factors, for integers n in [-252, 254] held in the low bits of t = 1.5 * 2^23 + n. */
PUNA_INLINE vec vec_pow2_halves(vec t, vec *rest) {
    __m256i n = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(0x4B400000));
    __m256i half = _mm256_srai_epi32(n, 1), bias = _mm256_set1_epi32(127);
    *rest = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias), 23));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
}
/* p * 2^n where x is not below limit, else 0, for ordinary numbers p and results; n is held in the low bits of t. */
PUNA_INLINE vec vec_mul_pow2(vec p, vec t, vec x, vec limit) {
    __m256i product = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23));
    return _mm256_and_ps(_mm256_castsi256_ps(product), _mm256_cmp_ps(x, limit, _CMP_NLT_UQ));
}

#elif defined(PUNA_VARIANT_BASELINE) && (defined(__x86_64__) || defined(_M_X64))
/* ------------------------------------------------------------------------------------------------------------------- SSE2 */
#include <emmintrin.h>

#define VEC_WIDTH 4
typedef __m128 vec;

PUNA_INLINE vec vec_set1(float a) { return _mm_set1_ps(a); }
PUNA_INLINE vec vec_load(const float *p) { return _mm_loadu_ps(p); }
PUNA_INLINE void vec_store(float *p, vec a) { _mm_storeu_ps(p, a); }
PUNA_INLINE vec vec_add(vec a, vec b) { return _mm_add_ps(a, b); }
PUNA_INLINE vec vec_sub(vec a, vec b) { return _mm_sub_ps(a, b); }
PUNA_INLINE vec vec_mul(vec a, vec b) { return _mm_mul_ps(a, b); }
PUNA_INLINE vec vec_div(vec a, vec b) { return _mm_div_ps(a, b); }
PUNA_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm_add_ps(_mm_mul_ps(a, b), c); } /* two roundings */
PUNA_INLINE vec vec_max(vec a, vec b) { return _mm_max_ps(a, b); }
PUNA_INLINE vec vec_min(vec a, vec b) { return _mm_min_ps(a, b); }

PUNA_INLINE vec vec_load_partial(const float *p, int64_t n) {
    float a[VEC_WIDTH] = {0};
    for (int64_t i = 0; i < n; i++) a[i] = p[i];
    return _mm_loadu_ps(a);
}
PUNA_INLINE void vec_store_partial(float *p, vec v, int64_t n) {
    float a[VEC_WIDTH];
    _mm_storeu_ps(a, v);
    for (int64_t i = 0; i < n; i++) p[i] = a[i];
}

PUNA_INLINE float vec_hsum(vec a) {
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}
PUNA_INLINE float vec_hmax(vec a) {
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps(a, a, 1)));
}

/*
 * binary16 in the low halves of four 32-bit lanes, by moving the fields: the exponent's bias grows by 112, twice that for
 * infinities and NaN; a subnormal is read as 2^-14 * (1 + fraction) and the 2^-14 subtracted, which is exact.
 */
PUNA_INLINE vec vec_from_f16_bits(__m128i h) {
    __m128i sign = _mm_slli_epi32(_mm_and_si128(h, _mm_set1_epi32(0x8000)), 16);
    __m128i moved = _mm_slli_epi32(_mm_and_si128(h, _mm_set1_epi32(0x7FFF)), 13);
    __m128i exponent = _mm_and_si128(moved, _mm_set1_epi32(0x7C00 << 13));
    __m128i special = _mm_cmpeq_epi32(exponent, _mm_set1_epi32(0x7C00 << 13));
    __m128i subnormal = _mm_cmpeq_epi32(exponent, _mm_setzero_si128());
    __m128i bias = _mm_set1_epi32(112 << 23);
    __m128i normal = _mm_add_epi32(_mm_add_epi32(moved, bias), _mm_and_si128(special, bias));
    __m128i first = _mm_set1_epi32(113 << 23);
    __m128 small = _mm_sub_ps(_mm_castsi128_ps(_mm_add_epi32(moved, first)), _mm_castsi128_ps(first));
    __m128i value = _mm_or_si128(_mm_and_si128(subnormal, _mm_castps_si128(small)), _mm_andnot_si128(subnormal, normal));
    return _mm_castsi128_ps(_mm_or_si128(value, sign));
}
PUNA_INLINE __m128i vec_load_u16_partial(const uint16_t *p, int64_t n) {
    uint16_t h[8] = {0};
    for (int64_t i = 0; i < n; i++) h[i] = p[i];
    return _mm_loadl_epi64((const __m128i *)h);
}
PUNA_INLINE vec vec_load_f16(const uint16_t *p) {
    return vec_from_f16_bits(_mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i *)p), _mm_setzero_si128()));
}
PUNA_INLINE vec vec_load_f16_partial(const uint16_t *p, int64_t n) {
    return vec_from_f16_bits(_mm_unpacklo_epi16(vec_load_u16_partial(p, n), _mm_setzero_si128()));
}
PUNA_INLINE void vec_store_f16_partial(uint16_t *p, vec v, int64_t n) {
    float a[VEC_WIDTH];
    _mm_storeu_ps(a, v);
    for (int64_t i = 0; i < n; i++) p[i] = puna_f32_to_f16(a[i]);
}
PUNA_INLINE void vec_store_f16(uint16_t *p, vec v) { vec_store_f16_partial(p, v, VEC_WIDTH); }
PUNA_INLINE vec vec_load_bf16(const uint16_t *p) {
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i *)p)));
}
PUNA_INLINE vec vec_load_bf16_partial(const uint16_t *p, int64_t n) {
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), vec_load_u16_partial(p, n)));
}
/* The integers p[0..VEC_WIDTH) as floats. */
PUNA_INLINE vec vec_load_i8(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    __m128i bytes = _mm_cvtsi32_si128(four), words = _mm_unpacklo_epi8(bytes, bytes);
    return _mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(words, words), 24));
}

/* Rows become columns. */
PUNA_INLINE void vec_transpose(vec a[VEC_WIDTH]) { _MM_TRANSPOSE4_PS(a[0], a[1], a[2], a[3]); }

/* 2^n as a product of two factors, for integers n in [-252, 254] held in the low bits of t = 1.5 * 2^23 + n. */
PUNA_INLINE vec vec_pow2_halves(vec t, vec *rest) {
    __m128i n = _mm_sub_epi32(_mm_castps_si128(t), _mm_set1_epi32(0x4B400000));
    __m128i half = _mm_srai_epi32(n, 1), bias = _mm_set1_epi32(127);
    *rest = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(_mm_sub_epi32(n, half), bias), 23));
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(half, bias), 23));
}
/* p * 2^n where x is not below limit, else 0, for ordinary numbers p and results; n is held in the low bits of t. */
PUNA_INLINE vec vec_mul_pow2(vec p, vec t, vec x, vec limit) {
    __m128i product = _mm_add_epi32(_mm_castps_si128(p), _mm_slli_epi32(_mm_castps_si128(t), 23));
    return _mm_and_ps(_mm_castsi128_ps(product), _mm_cmpnlt_ps(x, limit));
}

#elif (defined(PUNA_VARIANT_BASELINE) || defined(PUNA_VARIANT_DOTPROD)) && defined(__aarch64__)
/* ------------------------------------------------------------------------------------------------------------------- NEON */
#include <arm_neon.h>

#define VEC_WIDTH 4
typedef float32x4_t vec;

PUNA_INLINE vec vec_set1(float a) { return vdupq_n_f32(a); }
PUNA_INLINE vec vec_load(const float *p) { return vld1q_f32(p); }
PUNA_INLINE void vec_store(float *p, vec a) { vst1q_f32(p, a); }
PUNA_INLINE vec vec_add(vec a, vec b) { return vaddq_f32(a, b); }
PUNA_INLINE vec vec_sub(vec a, vec b) { return vsubq_f32(a, b); }
PUNA_INLINE vec vec_mul(vec a, vec b) { return vmulq_f32(a, b); }
PUNA_INLINE vec vec_div(vec a, vec b) { return vdivq_f32(a, b); }
PUNA_INLINE vec vec_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
/* As on x86: b where a or b is NaN. */
PUNA_INLINE vec vec_max(vec a, vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
PUNA_INLINE vec vec_min(vec a, vec b) { return vbslq_f32(vcltq_f32(a, b), a, b); }

PUNA_INLINE vec vec_load_partial(const float *p, int64_t n) {
    float a[VEC_WIDTH] = {0};
    for (int64_t i = 0; i < n; i++) a[i] = p[i];
    return vld1q_f32(a);
}
PUNA_INLINE void vec_store_partial(float *p, vec v, int64_t n) {
    float a[VEC_WIDTH];
    vst1q_f32(a, v);
    for (int64_t i = 0; i < n; i++) p[i] = a[i];
}

PUNA_INLINE float vec_hsum(vec a) {
    float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}
PUNA_INLINE float vec_hmax(vec a) {
    float m = vgetq_lane_f32(a, 0);
    if (vgetq_lane_f32(a, 1) > m) m = vgetq_lane_f32(a, 1);
    if (vgetq_lane_f32(a, 2) > m) m = vgetq_lane_f32(a, 2);
    return vgetq_lane_f32(a, 3) > m ? vgetq_lane_f32(a, 3) : m;
}

PUNA_INLINE uint16x4_t vec_load_u16_partial(const uint16_t *p, int64_t n) {
    uint16_t h[VEC_WIDTH] = {0};
    for (int64_t i = 0; i < n; i++) h[i] = p[i];
    return vld1_u16(h);
}
PUNA_INLINE vec vec_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
PUNA_INLINE vec vec_load_f16_partial(const uint16_t *p, int64_t n) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vec_load_u16_partial(p, n)));
}
PUNA_INLINE void vec_store_f16(uint16_t *p, vec a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a))); }
PUNA_INLINE void vec_store_f16_partial(uint16_t *p, vec v, int64_t n) {
    uint16_t h[VEC_WIDTH];
    vec_store_f16(h, v);
    for (int64_t i = 0; i < n; i++) p[i] = h[i];
}
PUNA_INLINE vec vec_load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
PUNA_INLINE vec vec_load_bf16_partial(const uint16_t *p, int64_t n) {
    return vreinterpretq_f32_u32(vshll_n_u16(vec_load_u16_partial(p, n), 16));
}
/* The integers p[0..VEC_WIDTH) as floats. */
PUNA_INLINE vec vec_load_i8(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    int16x8_t words = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
}

/* Rows become columns. */
PUNA_INLINE void vec_transpose(vec a[VEC_WIDTH]) {
    float32x4x2_t b = vtrnq_f32(a[0], a[1]), c = vtrnq_f32(a[2], a[3]);
    for (int i = 0; i < 2; i++) {
        a[i] = vcombine_f32(vget_low_f32(b.val[i]), vget_low_f32(c.val[i]));
        a[i + 2] = vcombine_f32(vget_high_f32(b.val[i]), vget_high_f32(c.val[i]));
    }
}

/* 2^n as a product of two factors, for integers n in [-252, 254] held in the low bits of t = 1.5 * 2^23 + n. */
PUNA_INLINE vec vec_pow2_halves(vec t, vec *rest) {
    int32x4_t n = vsubq_s32(vreinterpretq_s32_f32(t), vdupq_n_s32(0x4B400000));
    int32x4_t half = vshrq_n_s32(n, 1), bias = vdupq_n_s32(127);
    *rest = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(n, half), bias), 23));
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
}
/* p * 2^n where x is not below limit, else 0, for ordinary numbers p and results; n is held in the low bits of t. */
PUNA_INLINE vec vec_mul_pow2(vec p, vec t, vec x, vec limit) {
    int32x4_t product = vaddq_s32(vreinterpretq_s32_f32(p), vshlq_n_s32(vreinterpretq_s32_f32(t), 23));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_s32(product), vcltq_f32(x, limit)));
}

#else
#error "compile with PUNA_VARIANT_BASELINE, _AVX2, _AVX512 or _DOTPROD; the baseline knows x86-64 and aarch64"
#endif
/* ------------------------------------------------------------------------------------------------------------- every width */

PUNA_INLINE vec vec_zero(void) { return vec_set1(0.0f); }

/* The same vector, loaded once: GCC for AVX-512 prefers to load it again for every multiply-add, at one load a cycle. */
PUNA_INLINE vec vec_keep(vec a) {
#if defined(PUNA_VARIANT_AVX512)
    __asm__("" : "+v"(a));
#endif
    return a;
}

#if VEC_WIDTH == 4
PUNA_INLINE float vec_f16_to_f32(uint16_t h) { return puna_f16_to_f32(h); }
#endif

/*
 * exp(x) but for the power of two: x = n ln 2 + r with |r| <= ln 2 / 2, the result is exp(r), and t = 1.5 * 2^23 + n. ln 2 is
 * split so that n times its upper part is exact; exp(r) is a minimax polynomial (relative error 0.012 * 2^-24 before rounding).
 */
PUNA_INLINE vec vec_exp_fraction(vec x, vec *t) {
    vec magic = vec_set1(12582912.0f), n;
    *t = vec_fma(x, vec_set1(1.44269504f), magic);
    n = vec_sub(*t, magic);
    vec r = vec_fma(n, vec_set1(-0.693359375f), x);
    r = vec_fma(n, vec_set1(2.12194440e-4f), r);
    vec p = vec_set1(0x1.a1517cp-13f);
    p = vec_fma(p, r, vec_set1(0x1.6d4328p-10f));
    p = vec_fma(p, r, vec_set1(0x1.1110c6p-7f));
    p = vec_fma(p, r, vec_set1(0x1.5554eap-5f));
    p = vec_fma(p, r, vec_set1(0x1.555556p-3f));
    p = vec_fma(p, r, vec_set1(0.5f));
    return vec_add(vec_fma(vec_mul(r, r), p, r), vec_set1(1.0f));
}

/*
 * exp(x), at most 2 ulp from the true value: 0 below -103.98, subnormal above it as IEEE has it, infinite above 88.73, NaN
 * stays NaN. The power of two is multiplied in two steps so that neither end of the range needs a case of its own.
 */
PUNA_INLINE vec vec_exp(vec x) {
    vec t, p = vec_exp_fraction(vec_min(vec_set1(90.0f), vec_max(vec_set1(-110.0f), x)), &t); /* both give x when x is NaN */
    vec rest, half = vec_pow2_halves(t, &rest);
    return vec_mul(vec_mul(p, half), rest);
}

/*
 * exp(x) of an x <= 0 or NaN as a weight beside exp(0): where it is below 2^-125 it is 0. No subnormal number comes about, each
 * of which costs a hundred cycles on Intel's processors.
 */
PUNA_INLINE vec vec_exp_weight(vec x) {
    vec t, p = vec_exp_fraction(x, &t);
    return vec_mul_pow2(p, t, x, vec_set1(-86.5f));
}

#endif
