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

/* ------------------------------------------------- backward ----------------------------------------------------------- */

/*
 * dg takes columns as shares, dx rows. One after the other over all rows, 64 columns a share, read 1,024 rows of 4,096 of memory
 * at 36 % of what reads reach (AVX2: 30 %), a block of rows at a time and up to 512 columns a share at 47 % (45 %).
 */
enum {
    LEAST_COLUMNS = 64, /* of a share of dg: rows are read in pieces of so many                                     */
    COLUMNS = 512,      /* at most                                                                                  */
    STRETCH = 64,       /* rows summed before they meet the total                                                   */
    BLOCK_BYTES = 1 << 21 /* of x and dy, which stay in the cache from dg to dx                                     */
};

typedef struct backward {
    float *dx, *dg;
    const float *x, *rstd, *dy;
    const void *g;
    int32_t g_dtype, accumulate;
    int64_t C, share_rows, share_columns;
    int64_t first, end; /* rows of the block at hand                                                                */
} backward;

/* dg[c] for n columns from c0 on: the stretches' sums are added one after another, each the sum of its rows in order. */
static void gain_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const backward *j = arguments;
    int64_t c0 = share * j->share_columns, n = puna_min(j->share_columns, j->C - c0), C = j->C;
    for (int64_t r0 = j->first; r0 < j->end; r0 += STRETCH) {
        float sum[COLUMNS] = {0};
        for (int64_t r = r0; r < puna_min(r0 + STRETCH, j->end); r++) {
            const float *x = j->x + r * C + c0, *dy = j->dy + r * C + c0;
            vec rstd = vec_set1(j->rstd[r]);
            int64_t c = 0;
            for (; c + VEC_WIDTH <= n; c += VEC_WIDTH)
                vec_store(sum + c, vec_fma(vec_load(dy + c), vec_mul(vec_load(x + c), rstd), vec_load(sum + c)));
            if (c < n) {
                vec scaled = vec_mul(vec_load_partial(x + c, n - c), rstd);
                vec_store(sum + c, vec_fma(vec_load_partial(dy + c, n - c), scaled, vec_load(sum + c)));
            }
        }
        for (int64_t c = 0; c < n; c++) j->dg[c0 + c] += sum[c];
    }
}

/* Sum over c of dy * g * x, in sum_of_squares' order with two accumulators. */
PUNA_INLINE float dot_row(const float *dy, const void *g, int32_t g_dtype, const float *x, int64_t C) {
    vec s0 = vec_zero(), s1 = s0;
    int64_t c = 0;
    for (; c + 2 * VEC_WIDTH <= C; c += 2 * VEC_WIDTH) {
        s0 = vec_fma(vec_mul(vec_load(dy + c), load_gain(g, g_dtype, c)), vec_load(x + c), s0);
        s1 = vec_fma(vec_mul(vec_load(dy + c + VEC_WIDTH), load_gain(g, g_dtype, c + VEC_WIDTH)), vec_load(x + c + VEC_WIDTH),
                     s1);
    }
    for (; c < C; c += VEC_WIDTH) {
        int64_t n = puna_min(VEC_WIDTH, C - c);
        vec scaled = vec_mul(vec_load_partial(dy + c, n), load_gain_partial(g, g_dtype, c, n));
        s0 = vec_fma(scaled, vec_load_partial(x + c, n), s0);
    }
    return vec_hsum(vec_add(s0, s1));
}

PUNA_INLINE void gradient_row(const backward *j, int64_t r, int32_t g_dtype) {
    const float *x = j->x + r * j->C, *dy = j->dy + r * j->C;
    float *dx = j->dx + r * j->C, rstd = j->rstd[r];
    vec scale = vec_set1(rstd), pull = vec_set1(-(dot_row(dy, j->g, g_dtype, x, j->C) / (float)j->C * rstd * rstd));
    for (int64_t c = 0; c < j->C; c += VEC_WIDTH) {
        int64_t n = puna_min(VEC_WIDTH, j->C - c);
        if (n == VEC_WIDTH) {
            vec scaled = vec_mul(vec_load(dy + c), load_gain(j->g, g_dtype, c));
            vec gradient = vec_mul(scale, vec_fma(vec_load(x + c), pull, scaled));
            vec_store(dx + c, j->accumulate ? vec_add(vec_load(dx + c), gradient) : gradient);
        } else {
            vec scaled = vec_mul(vec_load_partial(dy + c, n), load_gain_partial(j->g, g_dtype, c, n));
            vec gradient = vec_mul(scale, vec_fma(vec_load_partial(x + c, n), pull, scaled));
            vec_store_partial(dx + c, j->accumulate ? vec_add(vec_load_partial(dx + c, n), gradient) : gradient, n);
        }
    }
}

static void gradient_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const backward *j = arguments;
    int64_t begin = j->first + share * j->share_rows, end = puna_min(begin + j->share_rows, j->end);
    for (int64_t r = begin; r < end; r++) {
        switch (j->g_dtype) { /* a constant each, so that the loop has no branch */
        case PUNA_DTYPE_F32: gradient_row(j, r, PUNA_DTYPE_F32); break;
        case PUNA_DTYPE_F16: gradient_row(j, r, PUNA_DTYPE_F16); break;
        default: gradient_row(j, r, PUNA_DTYPE_BF16); break;
        }
    }
}

puna_status PUNA_KERNEL(rmsnorm_backward)(puna_context *context, float *dx, float *dg, const float *x, const void *g,
                                          int32_t g_dtype, const float *rstd, const float *dy, int64_t rows, int64_t C,
                                          int32_t accumulate) {
    backward j = {.dx = dx, .dg = dg, .x = x, .rstd = rstd, .dy = dy, .g = g, .g_dtype = g_dtype, .accumulate = accumulate,
                  .C = C, .share_rows = rows_per_share(3 * C * (int64_t)sizeof(float))};
    j.share_columns = puna_min(puna_ceil_div(C, 4 * context->threads * LEAST_COLUMNS) * LEAST_COLUMNS, COLUMNS);
    int64_t step = dg == NULL ? rows : puna_max(BLOCK_BYTES / (2 * C * (int64_t)sizeof(float)) / STRETCH, 1) * STRETCH;
    for (; j.first < rows; j.first = j.end) {
        j.end = puna_min(j.first + step, rows);
        if (dg != NULL) puna_parallel(context, puna_ceil_div(C, j.share_columns), gain_share, &j); /* first: dx may be dy */
        puna_parallel(context, puna_ceil_div(j.end - j.first, j.share_rows), gradient_share, &j);
    }
    return PUNA_STATUS_OK;
}
