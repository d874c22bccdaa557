/* Causal attention for one query at a time, softmax in two passes: the largest visible score, then weights and their sum. */
#include "blocks.h"
#include "internal.h"
#include "kernels.h"

#include <math.h>

/* The double accumulators of a row, at the first aligned address of the workspace. */
int64_t PUNA_KERNEL(attention_workspace_size)(puna_context *context, int64_t NH, int64_t NKV, int64_t HD) {
    (void)context, (void)NH, (void)NKV;
    return (HD + 1) * (int64_t)sizeof(double);
}

static double score(const float *q, const void *k, int32_t dtype, int64_t HD, float scale) {
    double dot = 0;
    for (int64_t d = 0; d < HD; d++) dot += (double)q[d] * (double)puna_value(k, dtype, d);
    return dot * (double)scale;
}

/* y = attention of q (HD) over rows [first, last] of k and v (rows, HD) of dtype, stride bytes apart. Returns lse. */
static float attend(float *y, const float *q, const char *k, const char *v, int32_t dtype, int64_t stride, int64_t first,
                    int64_t last, int64_t HD, float scale, void *workspace) {
    double *sum = (double *)(((uintptr_t)workspace + 7) & ~(uintptr_t)7);
    double largest = -INFINITY, total = 0;
    for (int64_t j = first; j <= last; j++) largest = fmax(largest, score(q, k + j * stride, dtype, HD, scale));
    for (int64_t d = 0; d < HD; d++) sum[d] = 0;
    for (int64_t j = first; j <= last; j++) {
        double weight = exp(score(q, k + j * stride, dtype, HD, scale) - largest);
        total += weight;
        for (int64_t d = 0; d < HD; d++) sum[d] += weight * (double)puna_value(v + j * stride, dtype, d);
    }
    for (int64_t d = 0; d < HD; d++) y[d] = (float)(sum[d] / total);
    return (float)(largest + log(total));
}

static int64_t first_visible(int64_t position, int64_t window) {
    return window > 0 ? puna_max(0, position - window + 1) : 0;
}

puna_status PUNA_KERNEL(attention_forward)(puna_context *context, float *y, int64_t y_stride, float *lse, const float *q,
                                           int64_t q_stride, const float *k, const float *v, int64_t kv_stride, int64_t B,
                                           int64_t T, int64_t S, int64_t NH, int64_t NKV, int64_t HD, int64_t window,
                                           float scale, void *workspace) {
    (void)context;
    for (int64_t b = 0; b < B; b++) {
        for (int64_t t = 0; t < T; t++) {
            int64_t row = b * T + t, position = S - T + t;
            for (int64_t h = 0; h < NH; h++) {
                int64_t head = b * S * kv_stride + h / (NH / NKV) * HD;
                float lse_h = attend(y + row * y_stride + h * HD, q + row * q_stride + h * HD, (const char *)(k + head),
                                     (const char *)(v + head), PUNA_DTYPE_F32, kv_stride * 4,
                                     first_visible(position, window), position, HD, scale, workspace);
                if (lse != NULL) lse[(b * NH + h) * T + t] = lse_h;
            }
        }
    }
    return PUNA_STATUS_OK;
}

puna_status PUNA_KERNEL(kv_append)(puna_context *context, const puna_kv_sequence *sequences, int32_t count,
                                   int32_t cache_dtype, int64_t layer, const float *k, const float *v, int64_t kv_stride,
                                   int64_t NKV, int64_t HD) {
    (void)context;
    int64_t row = 0, step = puna_block_of(cache_dtype).elements;
    for (int32_t s = 0; s < count; s++) {
        for (int64_t t = 0; t < sequences[s].rows; t++, row++) {
            for (int64_t i = 0; i < 2 * NKV * HD; i += step) {
                int64_t value = i / (NKV * HD), h = i / HD % NKV, d = i % HD;
                const float *a = (value ? v : k) + row * kv_stride + h * HD + d;
                int64_t at = (((layer * 2 + value) * NKV + h) * sequences[s].capacity + sequences[s].position + t) * HD + d;
                if (cache_dtype == PUNA_DTYPE_F32) ((float *)sequences[s].cache)[at] = *a;
                else if (cache_dtype == PUNA_DTYPE_F16) ((uint16_t *)sequences[s].cache)[at] = puna_f32_to_f16(*a);
                else if (cache_dtype == PUNA_DTYPE_BF16) ((uint16_t *)sequences[s].cache)[at] = puna_f32_to_bf16(*a);
                else puna_quantize_q8_0((puna_q8_0 *)sequences[s].cache + at / step, a);
            }
        }
    }
    return PUNA_STATUS_OK;
}

puna_status PUNA_KERNEL(attention_cached_forward)(puna_context *context, float *y, int64_t y_stride, const float *q,
                                                  int64_t q_stride, const puna_kv_sequence *sequences, int32_t count,
                                                  int32_t cache_dtype, int64_t layer, int64_t NH, int64_t NKV, int64_t HD,
                                                  int64_t window, float scale, void *workspace) {
    (void)context;
    int64_t row = 0, stride = puna_row_bytes(cache_dtype, HD);
    for (int32_t s = 0; s < count; s++) {
        for (int64_t t = 0; t < sequences[s].rows; t++, row++) {
            int64_t position = sequences[s].position + t, plane = sequences[s].capacity * stride;
            for (int64_t h = 0; h < NH; h++) {
                const char *k = (const char *)sequences[s].cache + (layer * 2 * NKV + h / (NH / NKV)) * plane;
                attend(y + row * y_stride + h * HD, q + row * q_stride + h * HD, k, k + NKV * plane, cache_dtype, stride,
                       first_visible(position, window), position, HD, scale, workspace);
            }
        }
    }
    return PUNA_STATUS_OK;
}
