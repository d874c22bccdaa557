#include "kernels.h"

#include <math.h>

enum { SHARE_ELEMENTS = 1 << 12 };

typedef struct job {
    float *w, *m, *v;
    const float *g;
    int64_t n;
    float gradient_scale, beta1, rest1, beta2, rest2, decay, rate, root, eps;
} job;

/* A plain loop, which the compiler turns into vectors of this variant's width: nothing is summed, so nothing is reordered. */
static void update(float *restrict w, float *restrict m, float *restrict v, const float *restrict g, int64_t n, const job *j) {
    const float gradient_scale = j->gradient_scale, beta1 = j->beta1, rest1 = j->rest1, beta2 = j->beta2, rest2 = j->rest2;
    const float decay = j->decay, rate = j->rate, root = j->root, eps = j->eps;
    for (int64_t i = 0; i < n; i++) {
        float h = g[i] * gradient_scale;
        m[i] = beta1 * m[i] + rest1 * h;
        v[i] = beta2 * v[i] + rest2 * h * h;
        w[i] = w[i] * decay - rate * m[i] / (sqrtf(v[i]) * root + eps);
    }
}

static void update_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    int64_t i = share * SHARE_ELEMENTS;
    update(j->w + i, j->m + i, j->v + i, j->g + i, puna_min(SHARE_ELEMENTS, j->n - i), j);
}

puna_status PUNA_KERNEL(adamw_step)(puna_context *context, float *w, float *m, float *v, const float *g, int64_t n, int64_t step,
                                    double learning_rate, double beta1, double beta2, double eps, double weight_decay,
                                    double gradient_scale) {
    double correction1 = 1 - pow(beta1, (double)step), correction2 = 1 - pow(beta2, (double)step);
    job j = {.w = w, .m = m, .v = v, .g = g, .n = n, .gradient_scale = (float)gradient_scale,
             .beta1 = (float)beta1, .rest1 = (float)(1 - beta1), .beta2 = (float)beta2, .rest2 = (float)(1 - beta2),
             .decay = (float)(1 - learning_rate * weight_decay), .rate = (float)(learning_rate / correction1),
             .root = (float)(1 / sqrt(correction2)), .eps = (float)eps};
    puna_parallel(context, puna_ceil_div(n, SHARE_ELEMENTS), update_share, &j);
    return PUNA_STATUS_OK;
}
