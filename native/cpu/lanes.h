/*
 * What a lane of a product's vectors holds of the summed dimension: an F32 number, or, where a context rounds operands to BF16 and the
 * processor has AVX512-BF16, a pair of neighbours, which takes the room of one number and is multiplied in the time of one: its two
 * products are added to the lane's F32 sum, the second first, each as a multiply-add does. Subnormal numbers count as zero there.
 * each: how many a lane holds, 1 or 2, a constant wherever vectors are.
 */
#ifndef PUNA_LANES_H
#define PUNA_LANES_H

#include "decode.h"

#if defined(PUNA_VARIANT_AVX512)
enum { MOST_EACH = 2 };

/* Elements [k, k + 32) of a row of a plain type up to end, zeros from there on: 16 and 16. */
PUNA_INLINE void load_two(const int32_t dtype, vec *a, vec *b, const void *row, int64_t k, int64_t end) {
    if (k + 2 * VEC_WIDTH <= end) {
        *a = plain_vec(dtype, row, k);
        *b = plain_vec(dtype, row, k + VEC_WIDTH);
    } else {
        *a = plain_vec_partial(dtype, row, k, puna_max(puna_min(end - k, VEC_WIDTH), 0));
        *b = end - k > VEC_WIDTH ? plain_vec_partial(dtype, row, k + VEC_WIDTH, end - k - VEC_WIDTH) : vec_zero();
    }
}

/* The same of BF16, as they lie. */
PUNA_INLINE __m512i load_neighbours(const void *row, int64_t k, int64_t end) {
    if (k + 2 * VEC_WIDTH <= end) return _mm512_loadu_si512((const uint16_t *)row + k);
    return _mm512_maskz_loadu_epi16(end > k ? (1u << (end - k)) - 1 : 0, (const uint16_t *)row + k);
}

/* Sixteen pairs of neighbours, rounded to the nearest BF16, ties to even. */
PUNA_INLINE vec pairs_until(const int32_t dtype, const void *row, int64_t k, int64_t end) {
    if (dtype == PUNA_DTYPE_BF16) return _mm512_castsi512_ps(load_neighbours(row, k, end));
    vec a, b;
    load_two(dtype, &a, &b, row, k, end);
    return _mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(b, a));
}

/* Sixteen pairs of a number of a and the one of b in its lane, rounded likewise. */
PUNA_INLINE vec pairs_of_rows(vec a, vec b) {
    static const uint16_t order[2 * VEC_WIDTH] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                                  8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_loadu_si512(order), both));
}

PUNA_INLINE vec multiply_add(const int each, vec a, vec b, vec sum) {
    if (each == 1) return vec_fma(a, b, sum);
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
}
#else
enum { MOST_EACH = 1 };
PUNA_INLINE vec pairs_until(int32_t dtype, const void *row, int64_t k, int64_t end) {
    return (void)dtype, (void)row, (void)k, (void)end, vec_zero();
}
PUNA_INLINE vec pairs_of_rows(vec a, vec b) { return (void)b, a; }
PUNA_INLINE vec multiply_add(const int each, vec a, vec b, vec sum) { return (void)each, vec_fma(a, b, sum); }
#endif

/* Elements [k, k + each * VEC_WIDTH) of a row of a plain type, zeros from end on. */
PUNA_INLINE vec plain_lanes_until(const int32_t dtype, const int each, const void *row, int64_t k, int64_t end) {
    if (each > 1) return pairs_until(dtype, row, k, end);
    return k + VEC_WIDTH <= end ? plain_vec(dtype, row, k) : k < end ? plain_vec_partial(dtype, row, k, end - k) : vec_zero();
}
PUNA_INLINE vec plain_lanes(const int32_t dtype, const int each, const void *row, int64_t k) {
    return plain_lanes_until(dtype, each, row, k, k + each * VEC_WIDTH);
}

#endif
