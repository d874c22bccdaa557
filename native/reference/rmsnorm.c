#include "blocks.h"
#include "kernels.h"

#include <math.h>

puna_status PUNA_KERNEL(rmsnorm_forward)(puna_context *context, float *y, float *rstd, const float *x, const void *g,
                                         int32_t g_dtype, int64_t rows, int64_t C, float eps) {
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        double squares = 0;
        for (int64_t c = 0; c < C; c++) squares += (double)x[r * C + c] * x[r * C + c];
        double row_rstd = 1 / sqrt(squares / (double)C + eps);
        for (int64_t c = 0; c < C; c++) y[r * C + c] = (float)(x[r * C + c] * row_rstd * puna_value(g, g_dtype, c));
        if (rstd != NULL) rstd[r] = (float)row_rstd;
    }
    return PUNA_STATUS_OK;
}

puna_status PUNA_KERNEL(rmsnorm_backward)(puna_context *context, float *dx, float *dg, const float *x, const void *g,
                                          int32_t g_dtype, const float *rstd, const float *dy, int64_t rows, int64_t C,
                                          int32_t accumulate) {
    (void)context;
    for (int64_t c = 0; c < C && dg != NULL; c++) {
        double sum = 0;
        for (int64_t r = 0; r < rows; r++) sum += (double)dy[r * C + c] * x[r * C + c] * rstd[r];
        dg[c] = (float)(dg[c] + sum);
    }
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0, scale = rstd[r];
        for (int64_t c = 0; c < C; c++) sum += (double)dy[r * C + c] * puna_value(g, g_dtype, c) * x[r * C + c];
        for (int64_t c = 0; c < C; c++) {
            double normalised = x[r * C + c] * scale * scale * sum / (double)C;
            double gradient = scale * ((double)dy[r * C + c] * puna_value(g, g_dtype, c) - normalised);
            dx[r * C + c] = (float)(accumulate ? dx[r * C + c] + gradient : gradient);
        }
    }
    return PUNA_STATUS_OK;
}
