#include "kernels.h"
#include "rows.h"
#include "simd.h"

#include <float.h>

typedef struct job {
    float *y;
    const float *gate, *up;
    int64_t y_stride, x_stride, rows, FF, share_rows;
} job;

/* The numerator stays finite, so that minus infinity gives -FLT_MAX / inf = -0 rather than NaN. vec_max passes a NaN on. */
PUNA_INLINE vec silu(vec a) {
    vec numerator = vec_max(vec_set1(-FLT_MAX), a);
    return vec_div(numerator, vec_add(vec_set1(1.0f), vec_exp(vec_sub(vec_zero(), a))));
}

static void gate_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    int64_t end = puna_min((share + 1) * j->share_rows, j->rows), FF = j->FF;
    for (int64_t r = share * j->share_rows; r < end; r++) {
        float *y = j->y + r * j->y_stride;
        const float *gate = j->gate + r * j->x_stride, *up = j->up + r * j->x_stride;
        int64_t f = 0;
        for (; f + VEC_WIDTH <= FF; f += VEC_WIDTH) vec_store(y + f, vec_mul(silu(vec_load(gate + f)), vec_load(up + f)));
        if (f < FF) {
            vec last = vec_mul(silu(vec_load_partial(gate + f, FF - f)), vec_load_partial(up + f, FF - f));
            vec_store_partial(y + f, last, FF - f);
        }
    }
}

puna_status PUNA_KERNEL(swiglu_forward)(puna_context *context, float *y, int64_t y_stride, const float *gate, const float *up,
                                        int64_t x_stride, int64_t rows, int64_t FF) {
    job j = {y, gate, up, y_stride, x_stride, rows, FF, rows_per_share(3 * FF * (int64_t)sizeof(float))};
    puna_parallel(context, puna_ceil_div(rows, j.share_rows), gate_share, &j);
    return PUNA_STATUS_OK;
}

/* ------------------------------------------------- backward ----------------------------------------------------------- */

typedef struct backward {
    float *dgate, *dup;
    const float *gate, *up, *dy;
    int64_t dx_stride, x_stride, dy_stride, rows, FF, share_rows;
} backward;

/* 1 - s is formed without a difference. Beyond 87 the derivative is 1 or 0 to the last bit; NaN stays NaN. */
PUNA_INLINE vec silu_derivative(vec a) {
    a = vec_min(vec_set1(87.0f), vec_max(vec_set1(-87.0f), a));
    vec one = vec_set1(1.0f), e = vec_exp(vec_sub(vec_zero(), a)), s = vec_div(one, vec_add(one, e));
    return vec_mul(s, vec_fma(a, vec_mul(e, s), one));
}

static void gradient_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const backward *j = arguments;
    int64_t end = puna_min((share + 1) * j->share_rows, j->rows), FF = j->FF;
    for (int64_t r = share * j->share_rows; r < end; r++) {
        float *dgate = j->dgate + r * j->dx_stride, *dup = j->dup + r * j->dx_stride;
        const float *gate = j->gate + r * j->x_stride, *up = j->up + r * j->x_stride, *dy = j->dy + r * j->dy_stride;
        int64_t f = 0;
        for (; f + VEC_WIDTH <= FF; f += VEC_WIDTH) { /* all is read before anything is written: they may be the same */
            vec a = vec_load(gate + f), b = vec_load(up + f), d = vec_load(dy + f);
            vec_store(dgate + f, vec_mul(vec_mul(d, b), silu_derivative(a)));
            vec_store(dup + f, vec_mul(d, silu(a)));
        }
        if (f < FF) {
            int64_t n = FF - f;
            vec a = vec_load_partial(gate + f, n), b = vec_load_partial(up + f, n), d = vec_load_partial(dy + f, n);
            vec_store_partial(dgate + f, vec_mul(vec_mul(d, b), silu_derivative(a)), n);
            vec_store_partial(dup + f, vec_mul(d, silu(a)), n);
        }
    }
}

puna_status PUNA_KERNEL(swiglu_backward)(puna_context *context, float *dgate, float *dup, int64_t dx_stride, const float *gate,
                                         const float *up, int64_t x_stride, const float *dy, int64_t dy_stride, int64_t rows,
                                         int64_t FF) {
    backward j = {dgate, dup, gate, up, dy, dx_stride, x_stride, dy_stride, rows, FF,
                  rows_per_share(5 * FF * (int64_t)sizeof(float))};
    puna_parallel(context, puna_ceil_div(rows, j.share_rows), gradient_share, &j);
    return PUNA_STATUS_OK;
}
