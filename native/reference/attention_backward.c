/* Gradients of causal attention: each of dq by its keys, each of dk and dv by the rows that see the key. */
#include "kernels.h"

#include <math.h>

typedef struct job {
    const float *q, *k, *v, *y, *dy, *lse;
    int64_t q_stride, kv_stride, y_stride, dy_stride, T, S, NH, NKV, HD, window;
    double scale;
} job;

/* The double accumulators of dk and dv, at the first aligned address of the workspace. */
int64_t PUNA_KERNEL(attention_backward_workspace_size)(puna_context *context, int64_t NH, int64_t NKV, int64_t HD) {
    (void)context, (void)NH, (void)NKV;
    return (2 * HD + 1) * (int64_t)sizeof(double);
}

static bool sees(const job *j, int64_t t, int64_t s) {
    int64_t position = j->S - j->T + t;
    return s <= position && (j->window == 0 || s > position - j->window);
}

/* The weight of key s for head h of token t, and the gradient of its score. */
static double weigh(const job *j, int64_t b, int64_t h, int64_t t, int64_t s, double *ds) {
    int64_t row = b * j->T + t, key = (b * j->S + s) * j->kv_stride + h / (j->NH / j->NKV) * j->HD;
    const float *q = j->q + row * j->q_stride + h * j->HD, *y = j->y + row * j->y_stride + h * j->HD;
    const float *dy = j->dy + row * j->dy_stride + h * j->HD;
    double score = 0, dp = 0;
    for (int64_t d = 0; d < j->HD; d++) {
        score += (double)q[d] * j->k[key + d] * j->scale;
        dp += (double)dy[d] * ((double)j->v[key + d] - y[d]);
    }
    double p = exp(score - j->lse[(b * j->NH + h) * j->T + t]);
    *ds = p * dp * j->scale;
    return p;
}

static void query(const job *j, float *dq, int64_t b, int64_t h, int64_t t, double *sum) {
    for (int64_t d = 0; d < j->HD; d++) sum[d] = 0;
    for (int64_t s = 0; s < j->S; s++) {
        if (!sees(j, t, s)) continue;
        double ds;
        weigh(j, b, h, t, s, &ds);
        const float *k = j->k + (b * j->S + s) * j->kv_stride + h / (j->NH / j->NKV) * j->HD;
        for (int64_t d = 0; d < j->HD; d++) sum[d] += ds * k[d];
    }
    for (int64_t d = 0; d < j->HD; d++) dq[d] = (float)sum[d];
}

static void key(const job *j, float *dk, float *dv, int64_t b, int64_t h_kv, int64_t s, double *dk_sum, double *dv_sum) {
    int64_t G = j->NH / j->NKV;
    for (int64_t d = 0; d < j->HD; d++) dk_sum[d] = dv_sum[d] = 0;
    for (int64_t t = 0; t < j->T; t++)
        for (int64_t h = h_kv * G; h < (h_kv + 1) * G && sees(j, t, s); h++) {
            double ds, p = weigh(j, b, h, t, s, &ds);
            const float *q = j->q + (b * j->T + t) * j->q_stride + h * j->HD;
            const float *dy = j->dy + (b * j->T + t) * j->dy_stride + h * j->HD;
            for (int64_t d = 0; d < j->HD; d++) dk_sum[d] += ds * q[d], dv_sum[d] += p * dy[d];
        }
    for (int64_t d = 0; d < j->HD; d++) dk[d] = (float)dk_sum[d], dv[d] = (float)dv_sum[d];
}

puna_status PUNA_KERNEL(attention_backward)(puna_context *context, float *dq, int64_t dq_stride, float *dk, float *dv,
                                            int64_t dkv_stride, const float *q, int64_t q_stride, const float *k, const float *v,
                                            int64_t kv_stride, const float *y, int64_t y_stride, const float *dy,
                                            int64_t dy_stride, const float *lse, int64_t B, int64_t T, int64_t S, int64_t NH,
                                            int64_t NKV, int64_t HD, int64_t window, float scale, void *workspace) {
    (void)context;
    job j = {q, k, v, y, dy, lse, q_stride, kv_stride, y_stride, dy_stride, T, S, NH, NKV, HD, window, scale};
    double *sums = (double *)(((uintptr_t)workspace + 7) & ~(uintptr_t)7);
    for (int64_t b = 0; b < B; b++) {
        for (int64_t t = 0; t < T; t++)
            for (int64_t h = 0; h < NH; h++) query(&j, dq + (b * T + t) * dq_stride + h * HD, b, h, t, sums);
        for (int64_t s = 0; s < S; s++)
            for (int64_t h = 0; h < NKV; h++) {
                int64_t at = (b * S + s) * dkv_stride + h * HD;
                key(&j, dk + at, dv + at, b, h, s, sums, sums + HD);
            }
    }
    return PUNA_STATUS_OK;
}
