/* The two sums of a row that every softmax over a vocabulary begins with. */
#ifndef PUNA_SOFTMAX_H
#define PUNA_SOFTMAX_H

#include "internal.h"
#include "simd.h"

#include <math.h>
#include <string.h>

/* A NaN is passed over here; the sum finds it. */
static inline float maximum(const float *x, int64_t V) {
    vec best = vec_set1(-INFINITY);
    int64_t v = 0;
    for (; v + VEC_WIDTH <= V; v += VEC_WIDTH) best = vec_max(vec_load(x + v), best);
    float max = vec_hmax(best);
    for (; v < V; v++)
        if (x[v] > max) max = x[v];
    return max;
}

enum { SOFTMAX_STRETCH = 128 * VEC_WIDTH };

/*
 * The sum of a stretch is taken in two accumulators by turns, lane by lane; the stretches are added lane by lane, then the lanes:
 * a vocabulary's 10^5 terms one after another would cost three digits. The tail is added at the end, term by term. Each term is
 * written to terms, which may be x, unless that is null.
 */
PUNA_INLINE float sum_of_exp(float *terms, const float *x, float max, int64_t V) {
    vec shift = vec_set1(max), total = vec_zero();
    int64_t v = 0, whole = V - V % (2 * VEC_WIDTH);
    while (v < whole) {
        vec s0 = vec_zero(), s1 = s0;
        for (int64_t end = puna_min(v + SOFTMAX_STRETCH, whole); v < end; v += 2 * VEC_WIDTH) {
            vec e0 = vec_exp(vec_sub(vec_load(x + v), shift)), e1 = vec_exp(vec_sub(vec_load(x + v + VEC_WIDTH), shift));
            s0 = vec_add(s0, e0);
            s1 = vec_add(s1, e1);
            if (terms == NULL) continue;
            vec_store(terms + v, e0);
            vec_store(terms + v + VEC_WIDTH, e1);
        }
        total = vec_add(total, vec_add(s0, s1));
    }
    float sum = vec_hsum(total);
    while (v < V) {
        float last[VEC_WIDTH];
        int64_t n = puna_min(V - v, VEC_WIDTH);
        vec_store(last, vec_exp(vec_sub(vec_load_partial(x + v, n), shift)));
        for (int64_t i = 0; i < n; i++) sum += last[i];
        if (terms != NULL) memcpy(terms + v, last, (size_t)n * sizeof(float));
        v += n;
    }
    return sum;
}

#endif
