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
