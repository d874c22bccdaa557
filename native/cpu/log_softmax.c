#include "kernels.h"
#include "rows.h"
#include "softmax.h"

typedef struct job {
    float *y;
    const float *x;
    int64_t rows, V, share_rows;
} job;

static void normalise_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    int64_t end = puna_min((share + 1) * j->share_rows, j->rows), V = j->V;
    for (int64_t r = share * j->share_rows; r < end; r++) {
        const float *x = j->x + r * V;
        float *y = j->y + r * V;
        float max = maximum(x, V), log_sum = (float)log(sum_of_exp(NULL, x, max, V));
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
