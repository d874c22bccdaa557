#include "kernels.h"

#include <math.h>

/* The limit at minus infinity is zero from below, where the formula itself would say inf / inf. */
static double silu(double a) { return a == -INFINITY ? -0.0 : a / (1 + exp(-a)); }

puna_status PUNA_KERNEL(swiglu_forward)(puna_context *context, float *y, int64_t y_stride, const float *gate, const float *up,
                                        int64_t x_stride, int64_t rows, int64_t FF) {
    (void)context;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t f = 0; f < FF; f++)
            y[r * y_stride + f] = (float)(silu(gate[r * x_stride + f]) * up[r * x_stride + f]);
    return PUNA_STATUS_OK;
}
