#include "kernels.h"
#include "rows.h"
#include "softmax.h"

typedef struct job {
    float *losses, *dlogits;
    const float *logits;
    const int32_t *targets;
    int32_t ignored;
    float scale;
    int64_t rows, V, share_rows;
} job;

static void rows_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    int64_t end = puna_min((share + 1) * j->share_rows, j->rows), V = j->V;
    for (int64_t r = share * j->share_rows; r < end; r++) {
        const float *x = j->logits + r * V;
        float *dx = j->dlogits != NULL ? j->dlogits + r * V : NULL;
        if (j->targets[r] == j->ignored) {
            j->losses[r] = 0;
            if (dx != NULL) memset(dx, 0, (size_t)V * sizeof(float));
            continue;
        }
        int64_t target = puna_id_row(j->targets, r, V);
        float max = maximum(x, V), logit = x[target]; /* dx may be x */
        float sum = dx == NULL ? sum_of_exp(NULL, x, max, V) : sum_of_exp(dx, x, max, V);
        j->losses[r] = (float)(log(sum) + ((double)max - logit));
        if (dx == NULL) continue;
        vec factor = vec_set1(j->scale / sum);
        int64_t v = 0;
        for (; v + VEC_WIDTH <= V; v += VEC_WIDTH) vec_store(dx + v, vec_mul(vec_load(dx + v), factor));
        if (v < V) vec_store_partial(dx + v, vec_mul(vec_load_partial(dx + v, V - v), factor), V - v);
        dx[target] -= j->scale;
    }
}

puna_status PUNA_KERNEL(cross_entropy_forward_backward)(puna_context *context, float *losses, float *dlogits,
                                                        const float *logits, const int32_t *targets, int32_t ignored,
                                                        float scale, int64_t rows, int64_t V) {
    job j = {losses, dlogits, logits, targets, ignored, scale, rows, V, rows_per_share(3 * V * (int64_t)sizeof(float))};
    puna_parallel(context, puna_ceil_div(rows, j.share_rows), rows_share, &j);
    return PUNA_STATUS_OK;
}
