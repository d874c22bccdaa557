/*
 * The integer vocabulary of matmul_integer.c, written once per instruction set. An ivec is as wide as a vec: VEC_WIDTH lanes of
 * int32, which an operation may take as 2 * VEC_WIDTH int16 or 4 * VEC_WIDTH bytes, as its name says.
 *
 * BYTE_DOTS: the set adds up products of bytes, four a lane, as fast as those of words, two a lane. ivec_dot_bytes takes unsigned
 * bytes of w, or signed ones (SIGNED_BYTES), and signed bytes of x.
 */
#ifndef PUNA_INTEGER_H
#define PUNA_INTEGER_H

#include "simd.h"

#if defined(PUNA_VARIANT_AVX512) || defined(PUNA_VARIANT_DOTPROD)
#define BYTE_DOTS 1
#else
#define BYTE_DOTS 0
#endif
#if defined(PUNA_VARIANT_DOTPROD)
#define SIGNED_BYTES 1
#else
#define SIGNED_BYTES 0
#endif

#if defined(PUNA_VARIANT_AVX512)
/* ------------------------------------------------------------------------------------------------------- AVX-512, VNNI */

typedef __m512i ivec;

PUNA_INLINE ivec ivec_zero(void) { return _mm512_setzero_si512(); }
PUNA_INLINE ivec ivec_load(const void *p) { return _mm512_loadu_si512(p); }
PUNA_INLINE void ivec_store(void *p, ivec a) { _mm512_storeu_si512(p, a); }
PUNA_INLINE ivec ivec_set1(int32_t a) { return _mm512_set1_epi32(a); }
PUNA_INLINE ivec ivec_and(ivec a, ivec b) { return _mm512_and_si512(a, b); }
PUNA_INLINE ivec ivec_or(ivec a, ivec b) { return _mm512_or_si512(a, b); }
PUNA_INLINE ivec ivec_xor(ivec a, ivec b) { return _mm512_xor_si512(a, b); }
PUNA_INLINE ivec ivec_add(ivec a, ivec b) { return _mm512_add_epi32(a, b); }
PUNA_INLINE ivec ivec_sub(ivec a, ivec b) { return _mm512_sub_epi32(a, b); }
PUNA_INLINE ivec ivec_shl(ivec a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
PUNA_INLINE ivec ivec_shr(ivec a, int n) { return _mm512_srli_epi32(a, (unsigned)n); }
PUNA_INLINE ivec ivec_sra(ivec a, int n) { return _mm512_srai_epi32(a, (unsigned)n); }
PUNA_INLINE ivec ivec_shl_i16(ivec a, int n) { return _mm512_slli_epi16(a, (unsigned)n); }
PUNA_INLINE ivec ivec_shr_i16(ivec a, int n) { return _mm512_srai_epi16(a, (unsigned)n); }
PUNA_INLINE ivec ivec_shr_u16(ivec a, int n) { return _mm512_srli_epi16(a, (unsigned)n); }
PUNA_INLINE vec ivec_to_f32(ivec a) { return _mm512_cvtepi32_ps(a); }
/* The F16 in the lower half of every lane. */
PUNA_INLINE vec ivec_f16_to_f32(ivec a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); }
PUNA_INLINE ivec ivec_dot_i16(ivec acc, ivec w, ivec x) { return _mm512_dpwssd_epi32(acc, w, x); }
PUNA_INLINE ivec ivec_dot_bytes(ivec acc, ivec w, ivec x) { return _mm512_dpbusd_epi32(acc, w, x); }
PUNA_INLINE ivec ivec_sub_i8(ivec a, ivec b) { return _mm512_sub_epi8(a, b); }
PUNA_INLINE ivec ivec_bits(vec a) { return _mm512_castps_si512(a); }
/* Of every four lanes the first, third, second, fourth. */
PUNA_INLINE ivec ivec_swap_middle(ivec a) { return _mm512_shuffle_epi32(a, 0xD8); }
/* Lanes that are int16, and the lowest bytes of lanes. */
PUNA_INLINE void ivec_store_i16(void *p, ivec a) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(a)); }
PUNA_INLINE void ivec_store_lowest(void *p, ivec a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a)); }
/* In every quarter the sixteen bytes at p; in quarter i those that lie so many bytes after p[i]. */
PUNA_INLINE ivec ivec_spread_quarter(const void *p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p)); }
PUNA_INLINE ivec ivec_load_quarters(const char *const p[4], int64_t bytes) {
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(p[0] + bytes)));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p[1] + bytes)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p[2] + bytes)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p[3] + bytes)), 3);
}
/* Lane j of quarter i is lane i of quarter j. */
PUNA_INLINE ivec ivec_transpose_lanes(ivec a) {
    return _mm512_permutexvar_epi32(_mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0), a);
}
/* The 32 bytes at p in both halves; each half shifted by so many bits. */
PUNA_INLINE ivec ivec_spread_half(const void *p) { return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p)); }
PUNA_INLINE ivec ivec_shl_halves(ivec a, int first, int second) {
    return _mm512_sllv_epi32(a, _mm512_inserti64x4(_mm512_set1_epi32(first), _mm256_set1_epi32(second), 1));
}
PUNA_INLINE ivec ivec_shr_halves(ivec a, int first, int second) {
    return _mm512_srlv_epi32(a, _mm512_inserti64x4(_mm512_set1_epi32(first), _mm256_set1_epi32(second), 1));
}
PUNA_INLINE ivec ivec_interleave_low_i32(ivec a, ivec b) { return _mm512_unpacklo_epi32(a, b); }
PUNA_INLINE ivec ivec_interleave_high_i32(ivec a, ivec b) { return _mm512_unpackhi_epi32(a, b); }
PUNA_INLINE ivec ivec_interleave_low_i64(ivec a, ivec b) { return _mm512_unpacklo_epi64(a, b); }
PUNA_INLINE ivec ivec_interleave_high_i64(ivec a, ivec b) { return _mm512_unpackhi_epi64(a, b); }

#elif defined(PUNA_VARIANT_AVX2)
/* ---------------------------------------------------------------------------------------------------------------- AVX2 */

typedef __m256i ivec;

PUNA_INLINE ivec ivec_zero(void) { return _mm256_setzero_si256(); }
PUNA_INLINE ivec ivec_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
PUNA_INLINE void ivec_store(void *p, ivec a) { _mm256_storeu_si256((__m256i *)p, a); }
PUNA_INLINE ivec ivec_set1(int32_t a) { return _mm256_set1_epi32(a); }
PUNA_INLINE ivec ivec_and(ivec a, ivec b) { return _mm256_and_si256(a, b); }
PUNA_INLINE ivec ivec_or(ivec a, ivec b) { return _mm256_or_si256(a, b); }
PUNA_INLINE ivec ivec_xor(ivec a, ivec b) { return _mm256_xor_si256(a, b); }
PUNA_INLINE ivec ivec_add(ivec a, ivec b) { return _mm256_add_epi32(a, b); }
PUNA_INLINE ivec ivec_sub(ivec a, ivec b) { return _mm256_sub_epi32(a, b); }
PUNA_INLINE ivec ivec_shl(ivec a, int n) { return _mm256_slli_epi32(a, n); }
PUNA_INLINE ivec ivec_shr(ivec a, int n) { return _mm256_srli_epi32(a, n); }
PUNA_INLINE ivec ivec_shl_i16(ivec a, int n) { return _mm256_slli_epi16(a, n); }
PUNA_INLINE ivec ivec_shr_i16(ivec a, int n) { return _mm256_srai_epi16(a, n); }
PUNA_INLINE ivec ivec_shr_u16(ivec a, int n) { return _mm256_srli_epi16(a, n); }
PUNA_INLINE vec ivec_to_f32(ivec a) { return _mm256_cvtepi32_ps(a); }
PUNA_INLINE vec ivec_f16_to_f32(ivec a) {
    a = _mm256_and_si256(a, _mm256_set1_epi32(0xFFFF));
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
}
PUNA_INLINE ivec ivec_dot_i16(ivec acc, ivec w, ivec x) { return _mm256_add_epi32(acc, _mm256_madd_epi16(w, x)); }
/* Here as pairs in int16, which no sum may leave: ivec_sum_dots, or ivec_join_dots of low digits and high ones, before it would. */
PUNA_INLINE ivec ivec_dot_bytes(ivec pairs, ivec w, ivec x) { return _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w, x)); }
PUNA_INLINE ivec ivec_add_dots(ivec a, ivec b) { return _mm256_add_epi16(a, b); }
PUNA_INLINE ivec ivec_sum_dots(ivec pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
PUNA_INLINE ivec ivec_join_dots(ivec low, ivec high) {
    return ivec_add(ivec_sum_dots(low), _mm256_madd_epi16(high, _mm256_set1_epi16(256)));
}
/* In every quarter the two halves of a's added as int16, then those of b's. */
PUNA_INLINE ivec ivec_add_halves_i16(ivec a, ivec b) {
    return _mm256_add_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}
/* In every quarter lanes 0 and 2, or 1 and 3, of a, then those of b. */
PUNA_INLINE ivec ivec_even(ivec a, ivec b) {
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
}
PUNA_INLINE ivec ivec_odd(ivec a, ivec b) {
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xDD));
}
PUNA_INLINE ivec ivec_bits(vec a) { return _mm256_castps_si256(a); }
PUNA_INLINE ivec ivec_swap_middle(ivec a) { return _mm256_shuffle_epi32(a, 0xD8); }
PUNA_INLINE __m128i ivec_i16(ivec a) { return _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)); }
PUNA_INLINE void ivec_store_i16(void *p, ivec a) { _mm_storeu_si128((__m128i *)p, ivec_i16(a)); }
PUNA_INLINE void ivec_store_lowest(void *p, ivec a) {
    const __m128i bytes = ivec_i16(_mm256_and_si256(a, _mm256_set1_epi32(255)));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(bytes, bytes));
}
PUNA_INLINE ivec ivec_widen_i8(const void *p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)); }
PUNA_INLINE ivec ivec_widen_u8(const void *p) { return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)); }
/* The sums of quarters 0 and 1, of a and then of b. */
PUNA_INLINE ivec ivec_add_quarters(ivec a, ivec b) {
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}
PUNA_INLINE ivec ivec_spread_quarter(const void *p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p)); }
PUNA_INLINE ivec ivec_load_quarters(const char *const p[2], int64_t bytes) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(p[0] + bytes))),
                                   _mm_loadu_si128((const __m128i *)(p[1] + bytes)), 1);
}
PUNA_INLINE ivec ivec_interleave_low_i32(ivec a, ivec b) { return _mm256_unpacklo_epi32(a, b); }
PUNA_INLINE ivec ivec_interleave_high_i32(ivec a, ivec b) { return _mm256_unpackhi_epi32(a, b); }
PUNA_INLINE ivec ivec_interleave_low_i64(ivec a, ivec b) { return _mm256_unpacklo_epi64(a, b); }
PUNA_INLINE ivec ivec_interleave_high_i64(ivec a, ivec b) { return _mm256_unpackhi_epi64(a, b); }

#else
/* ------------------------------------------------------------------------------------- SSE2 and NEON, dot products or not
 * The compiler's own vectors; what those cannot say is written per architecture.
 */
typedef int8_t i8x4 __attribute__((vector_size(4)));
typedef int16_t i16x4 __attribute__((vector_size(8)));
typedef int16_t i16x8 __attribute__((vector_size(16)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(16)));

PUNA_INLINE ivec ivec_zero(void) { return (ivec){0}; }
PUNA_INLINE ivec ivec_load(const void *p) {
    ivec result;
    memcpy(&result, p, 16);
    return result;
}
PUNA_INLINE void ivec_store(void *p, ivec a) { memcpy(p, &a, 16); }
PUNA_INLINE ivec ivec_set1(int32_t a) { return (ivec){a, a, a, a}; }
PUNA_INLINE ivec ivec_and(ivec a, ivec b) { return a & b; }
PUNA_INLINE ivec ivec_or(ivec a, ivec b) { return a | b; }
PUNA_INLINE ivec ivec_xor(ivec a, ivec b) { return a ^ b; }
PUNA_INLINE ivec ivec_add(ivec a, ivec b) { return a + b; }
PUNA_INLINE ivec ivec_sub(ivec a, ivec b) { return a - b; }
PUNA_INLINE ivec ivec_shl(ivec a, int n) { return (ivec)((u32x4)a << n); }
PUNA_INLINE ivec ivec_shr(ivec a, int n) { return (ivec)((u32x4)a >> n); }
PUNA_INLINE ivec ivec_shl_i16(ivec a, int n) { return (ivec)((u16x8)a << n); }
PUNA_INLINE ivec ivec_shr_i16(ivec a, int n) { return (ivec)((i16x8)a >> n); }
PUNA_INLINE ivec ivec_shr_u16(ivec a, int n) { return (ivec)((u16x8)a >> n); }
PUNA_INLINE ivec ivec_shr_u8(ivec a, int n) { return (ivec)((u8x16)a >> n); }
PUNA_INLINE ivec ivec_bits(vec a) { return (ivec)a; }
PUNA_INLINE ivec ivec_swap_middle(ivec a) { return (ivec){a[0], a[2], a[1], a[3]}; }
PUNA_INLINE void ivec_store_i16(void *p, ivec a) {
    const i16x4 low = __builtin_convertvector(a, i16x4);
    memcpy(p, &low, sizeof low);
}
PUNA_INLINE void ivec_store_lowest(void *p, ivec a) {
    const i8x4 low = __builtin_convertvector(a, i8x4);
    memcpy(p, &low, sizeof low);
}
PUNA_INLINE ivec ivec_load_quarters(const char *const p[1], int64_t bytes) { return ivec_load(p[0] + bytes); }
PUNA_INLINE vec ivec_f16_to_f32(ivec a) {
    const uint16_t halves[4] = {(uint16_t)a[0], (uint16_t)a[1], (uint16_t)a[2], (uint16_t)a[3]};
    return vec_load_f16(halves);
}
#if defined(__aarch64__)
PUNA_INLINE vec ivec_to_f32(ivec a) { return vcvtq_f32_s32((int32x4_t)a); }
PUNA_INLINE ivec ivec_widen_i8(const void *p) { return (ivec)vmovl_s8(vld1_s8((const int8_t *)p)); }
PUNA_INLINE ivec ivec_widen_u8(const void *p) { return (ivec)vmovl_u8(vld1_u8((const uint8_t *)p)); }
PUNA_INLINE ivec ivec_dot_i16(ivec acc, ivec w, ivec x) {
    int16x8_t w_16 = vreinterpretq_s16_s32((int32x4_t)w), x_16 = vreinterpretq_s16_s32((int32x4_t)x);
    int32x4_t low = vmull_s16(vget_low_s16(w_16), vget_low_s16(x_16)), high = vmull_high_s16(w_16, x_16);
    return acc + (ivec)vpaddq_s32(low, high);
}
PUNA_INLINE ivec ivec_interleave_low_i32(ivec a, ivec b) { return (ivec)vzip1q_s32((int32x4_t)a, (int32x4_t)b); }
PUNA_INLINE ivec ivec_interleave_high_i32(ivec a, ivec b) { return (ivec)vzip2q_s32((int32x4_t)a, (int32x4_t)b); }
PUNA_INLINE ivec ivec_interleave_low_i64(ivec a, ivec b) {
    return (ivec)vzip1q_s64(vreinterpretq_s64_s32((int32x4_t)a), vreinterpretq_s64_s32((int32x4_t)b));
}
PUNA_INLINE ivec ivec_interleave_high_i64(ivec a, ivec b) {
    return (ivec)vzip2q_s64(vreinterpretq_s64_s32((int32x4_t)a), vreinterpretq_s64_s32((int32x4_t)b));
}
#if defined(PUNA_VARIANT_DOTPROD)
PUNA_INLINE int8x16_t ivec_bytes(ivec a) { return vreinterpretq_s8_s32((int32x4_t)a); }
PUNA_INLINE ivec ivec_dot_bytes(ivec acc, ivec w, ivec x) {
    return (ivec)vdotq_s32((int32x4_t)acc, ivec_bytes(w), ivec_bytes(x));
}
/* With the four bytes of a lane of x, a constant, in every lane. */
#define ivec_dot_lane(acc, w, x, lane) ((ivec)vdotq_laneq_s32((int32x4_t)(acc), ivec_bytes(w), ivec_bytes(x), lane))
#endif
#else
PUNA_INLINE vec ivec_to_f32(ivec a) { return _mm_cvtepi32_ps((__m128i)a); }
PUNA_INLINE ivec ivec_widen_i8(const void *p) {
    __m128i bytes = _mm_loadl_epi64((const __m128i *)p);
    return (ivec)_mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
}
PUNA_INLINE ivec ivec_widen_u8(const void *p) {
    return (ivec)_mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)p), _mm_setzero_si128());
}
PUNA_INLINE ivec ivec_dot_i16(ivec acc, ivec w, ivec x) { return acc + (ivec)_mm_madd_epi16((__m128i)w, (__m128i)x); }
PUNA_INLINE ivec ivec_interleave_low_i32(ivec a, ivec b) { return (ivec)_mm_unpacklo_epi32((__m128i)a, (__m128i)b); }
PUNA_INLINE ivec ivec_interleave_high_i32(ivec a, ivec b) { return (ivec)_mm_unpackhi_epi32((__m128i)a, (__m128i)b); }
PUNA_INLINE ivec ivec_interleave_low_i64(ivec a, ivec b) { return (ivec)_mm_unpacklo_epi64((__m128i)a, (__m128i)b); }
PUNA_INLINE ivec ivec_interleave_high_i64(ivec a, ivec b) { return (ivec)_mm_unpackhi_epi64((__m128i)a, (__m128i)b); }
#endif
#endif

/* In every quarter, lane i: the sum of that quarter of a[i]. */
PUNA_INLINE ivec ivec_sum_quarters(const ivec a[4]) {
#if defined(__aarch64__)
    return (ivec)vpaddq_s32(vpaddq_s32((int32x4_t)a[0], (int32x4_t)a[1]), vpaddq_s32((int32x4_t)a[2], (int32x4_t)a[3]));
#else
    ivec b = ivec_add(ivec_interleave_low_i32(a[0], a[1]), ivec_interleave_high_i32(a[0], a[1]));
    ivec c = ivec_add(ivec_interleave_low_i32(a[2], a[3]), ivec_interleave_high_i32(a[2], a[3]));
    return ivec_add(ivec_interleave_low_i64(b, c), ivec_interleave_high_i64(b, c));
#endif
}

#if VEC_WIDTH < 16
/* Lane i: the sum of a[i]. */
PUNA_INLINE ivec ivec_sums(const ivec a[VEC_WIDTH]) {
#if VEC_WIDTH == 8
    return ivec_add_quarters(ivec_sum_quarters(a), ivec_sum_quarters(a + 4));
#else
    return ivec_sum_quarters(a);
#endif
}
#endif

/* The four bytes at p in every lane. */
PUNA_INLINE ivec ivec_spread(const void *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return ivec_set1(four);
}

/* The F16 at which so many rows begin; they are read as vectors well after they are written. */
PUNA_INLINE void collect_halves(uint16_t *halves, const int count, const char *rows, int64_t stride) {
    for (int r = 0; r < count; r++, rows += stride) memcpy(&halves[r], rows, 2);
}

/* VEC_WIDTH rows side by side: row i is at quarter[i / 4] + row[i % 4]. */
typedef struct side_by_side {
    const char *quarter[VEC_WIDTH / 4];
    int64_t row[4];
} side_by_side;

PUNA_INLINE side_by_side lay_rows(const char *rows, int64_t stride) {
    side_by_side result = {.row = {0, stride, 2 * stride, 3 * stride}};
    for (int q = 0; q < VEC_WIDTH / 4; q++) {
        result.quarter[q] = rows + 4 * q * stride;
        __asm__("" : "+r"(result.quarter[q])); /* else GCC keeps VEC_WIDTH distances, some of them in vector registers */
    }
    __asm__("" : "+r"(result.row[3]));
    return result;
}

/* Sixteen bytes of rows i, i + 4, … one to a quarter, which are so many bytes into their rows. */
PUNA_INLINE ivec load_sixteens(const side_by_side *rows, int i, int64_t bytes) {
    return ivec_load_quarters(rows->quarter, rows->row[i] + bytes);
}

/*
 * Sixteen bytes of each of VEC_WIDTH rows, stride bytes apart, as four columns of four bytes: lane r of columns[c] = bytes
 * [4 c, 4 c + 4) of row r. Rows in the quarters of vectors are transposed four by four where they lie.
 */
PUNA_INLINE void ivec_columns(ivec columns[4], const char *p, int64_t stride) {
    const side_by_side rows = lay_rows(p, stride);
    ivec a[4], low[2], high[2];
    for (int i = 0; i < 4; i++) a[i] = load_sixteens(&rows, i, 0);
    for (int i = 0; i < 2; i++) {
        low[i] = ivec_interleave_low_i32(a[2 * i], a[2 * i + 1]);
        high[i] = ivec_interleave_high_i32(a[2 * i], a[2 * i + 1]);
    }
    columns[0] = ivec_interleave_low_i64(low[0], low[1]);
    columns[1] = ivec_interleave_high_i64(low[0], low[1]);
    columns[2] = ivec_interleave_low_i64(high[0], high[1]);
    columns[3] = ivec_interleave_high_i64(high[0], high[1]);
}

#endif
