#include "kernels.h"
#include "rows.h"
#include "simd.h"

#include <math.h>

typedef struct job {
    float *y;
    const float *x;
    int64_t rows, V, share_rows;
} job;

/* A NaN is passed over here; the sum finds it. */
static float maximum(const float *x, int64_t V) {
    vec best = vec_set1(-INFINITY);
    int64_t v = 0;
    for (; v + VEC_WIDTH <= V; v += VEC_WIDTH) best = vec_max(vec_load(x + v), best);
    float max = vec_hmax(best);
    for (; v < V; v++)
        if (x[v] > max) max = x[v];
    return max;
}

enum { STRETCH = 128 * VEC_WIDTH };

/*
 * The sum of a stretch is taken in two accumulators by turns, lane by lane; the stretches are added lane by lane, then the lanes:
 * a vocabulary's 10^5 terms one after another would cost three digits. The tail is added at the end, term by term.
 */
static float sum_of_exp(const float *x, float max, int64_t V) {
    vec shift = vec_set1(max), total = vec_zero();
    int64_t v = 0, whole = V - V % (2 * VEC_WIDTH);
    while (v < whole) {
        vec s0 = vec_zero(), s1 = s0;
        for (int64_t end = puna_min(v + STRETCH, whole); v < end; v += 2 * VEC_WIDTH) {
            s0 = vec_add(s0, vec_exp(vec_sub(vec_load(x + v), shift)));
            s1 = vec_add(s1, vec_exp(vec_sub(vec_load(x + v + VEC_WIDTH), shift)));
        }
        total = vec_add(total, vec_add(s0, s1));
    }
    float sum = vec_hsum(total);
    while (v < V) {
        float terms[VEC_WIDTH];
        int64_t n = puna_min(V - v, VEC_WIDTH);
        vec_store(terms, vec_exp(vec_sub(vec_load_partial(x + v, n), shift)));
        for (int64_t i = 0; i < n; i++) sum += terms[i];
        v += n;
    }
    return sum;
}

static void normalise_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    int64_t end = puna_min((share + 1) * j->share_rows, j->rows), V = j->V;
    for (int64_t r = share * j->share_rows; r < end; r++) {
        const float *x = j->x + r * V;
        float *y = j->y + r * V;
        float max = maximum(x, V), log_sum = (float)log(sum_of_exp(x, max, V));
        vec shift = vec_set1(max), rest = vec_set1(log_sum);
        int64_t v = 0;
        for (; v + VEC_WIDTH <= V; v += VEC_WIDTH) vec_store(y + v, vec_sub(vec_sub(vec_load(x + v), shift), rest));
        for (; v < V; v++) y[v] = x[v] - max - log_sum;
    }
}

puna_status PUNA_KERNEL(log_softmax_forward)(puna_context *context, float *y, const float *x, int64_t rows, int64_t V) {
    job j = {y, x, rows, V, rows_per_share(2 * V * (int64_t)sizeof(float))};
    puna_parallel(context, puna_ceil_div(rows, j.share_rows), normalise_share, &j);
    return PUNA_STATUS_OK;
}
