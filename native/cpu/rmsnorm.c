#include "kernels.h"
#include "rows.h"
#include "simd.h"

#include <math.h>

typedef struct job {
    float *y, *rstd;
    const float *x;
    const void *g;
    int32_t g_dtype;
    int64_t rows, C, share_rows;
    float eps;
} job;

/* Lane l of accumulator a sums the elements with c mod 4 VEC_WIDTH = a VEC_WIDTH + l; what is left over goes to the first. */
static float sum_of_squares(const float *x, int64_t C) {
    vec s0 = vec_zero(), s1 = s0, s2 = s0, s3 = s0;
    int64_t c = 0;
    for (; c + 4 * VEC_WIDTH <= C; c += 4 * VEC_WIDTH) {
        vec x0 = vec_load(x + c), x1 = vec_load(x + c + VEC_WIDTH);
        vec x2 = vec_load(x + c + 2 * VEC_WIDTH), x3 = vec_load(x + c + 3 * VEC_WIDTH);
        s0 = vec_fma(x0, x0, s0);
        s1 = vec_fma(x1, x1, s1);
        s2 = vec_fma(x2, x2, s2);
        s3 = vec_fma(x3, x3, s3);
    }
    for (; c < C; c += VEC_WIDTH) {
        vec x0 = c + VEC_WIDTH <= C ? vec_load(x + c) : vec_load_partial(x + c, C - c);
        s0 = vec_fma(x0, x0, s0);
    }
    return vec_hsum(vec_add(vec_add(s0, s1), vec_add(s2, s3)));
}

PUNA_INLINE vec load_gain(const void *g, int32_t dtype, int64_t c) {
    switch (dtype) {
    case PUNA_DTYPE_F32: return vec_load((const float *)g + c);
    case PUNA_DTYPE_F16: return vec_load_f16((const uint16_t *)g + c);
    default: return vec_load_bf16((const uint16_t *)g + c);
    }
}

PUNA_INLINE vec load_gain_partial(const void *g, int32_t dtype, int64_t c, int64_t n) {
    switch (dtype) {
    case PUNA_DTYPE_F32: return vec_load_partial((const float *)g + c, n);
    case PUNA_DTYPE_F16: return vec_load_f16_partial((const uint16_t *)g + c, n);
    default: return vec_load_bf16_partial((const uint16_t *)g + c, n);
    }
}

/* y = (x * rstd) * g, each product rounded. */
PUNA_INLINE void scale_row(float *y, const float *x, float rstd, const void *g, int32_t g_dtype, int64_t C) {
    vec scale = vec_set1(rstd);
    int64_t c = 0;
    for (; c + VEC_WIDTH <= C; c += VEC_WIDTH)
        vec_store(y + c, vec_mul(vec_mul(vec_load(x + c), scale), load_gain(g, g_dtype, c)));
    if (c < C) {
        vec scaled = vec_mul(vec_load_partial(x + c, C - c), scale);
        vec_store_partial(y + c, vec_mul(scaled, load_gain_partial(g, g_dtype, c, C - c)), C - c);
    }
}

static void normalise_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    int64_t end = puna_min((share + 1) * j->share_rows, j->rows);
    for (int64_t r = share * j->share_rows; r < end; r++) {
        const float *x = j->x + r * j->C;
        float *y = j->y + r * j->C;
        float rstd = 1.0f / sqrtf(sum_of_squares(x, j->C) / (float)j->C + j->eps);
        if (j->rstd != NULL) j->rstd[r] = rstd;
        switch (j->g_dtype) { /* a constant each, so that the loop has no branch */
        case PUNA_DTYPE_F32: scale_row(y, x, rstd, j->g, PUNA_DTYPE_F32, j->C); break;
        case PUNA_DTYPE_F16: scale_row(y, x, rstd, j->g, PUNA_DTYPE_F16, j->C); break;
        default: scale_row(y, x, rstd, j->g, PUNA_DTYPE_BF16, j->C); break;
        }
    }
}

puna_status PUNA_KERNEL(rmsnorm_forward)(puna_context *context, float *y, float *rstd, const float *x, const void *g,
                                         int32_t g_dtype, int64_t rows, int64_t C, float eps) {
    job j = {y, rstd, x, g, g_dtype, rows, C, rows_per_share(2 * C * (int64_t)sizeof(float)), eps};
    puna_parallel(context, puna_ceil_div(rows, j.share_rows), normalise_share, &j);
    return PUNA_STATUS_OK;
}
