#include "kernels.h"
#include "rows.h"
#include "simd.h"

#include <math.h>

typedef struct job {
    int32_t *y;
    const float *x;
    int64_t rows, V, share_rows;
} job;

enum { STRETCH = 1024 }; /* only the stretch that holds the maximum is searched for its index */

/* The largest of n elements that are not NaN, else -inf. */
static float maximum(const float *x, int64_t n) {
    vec best0 = vec_set1(-INFINITY), best1 = best0;
    int64_t i = 0;
    for (; i + 2 * VEC_WIDTH <= n; i += 2 * VEC_WIDTH) {
        best0 = vec_max(vec_load(x + i), best0);
        best1 = vec_max(vec_load(x + i + VEC_WIDTH), best1);
    }
    float max = vec_hmax(vec_max(best0, best1));
    for (; i < n; i++)
        if (x[i] > max) max = x[i];
    return max;
}

static int32_t index_of_maximum(const float *x, int64_t V) {
    float max = maximum(x, puna_min(STRETCH, V));
    int64_t from = 0;
    for (int64_t v = STRETCH; v < V; v += STRETCH) {
        float next = maximum(x + v, puna_min(STRETCH, V - v));
        if (next > max) max = next, from = v;
    }
    for (int64_t v = from; v < V; v++)
        if (x[v] == max) return (int32_t)v;
    return 0; /* nothing but NaN */
}

static void search_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    int64_t end = puna_min((share + 1) * j->share_rows, j->rows);
    for (int64_t r = share * j->share_rows; r < end; r++) j->y[r] = index_of_maximum(j->x + r * j->V, j->V);
}

puna_status PUNA_KERNEL(argmax_forward)(puna_context *context, int32_t *y, const float *x, int64_t rows, int64_t V) {
    job j = {y, x, rows, V, rows_per_share(V * (int64_t)sizeof(float))};
    puna_parallel(context, puna_ceil_div(rows, j.share_rows), search_share, &j);
    return PUNA_STATUS_OK;
}
