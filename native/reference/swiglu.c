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

static double silu_derivative(double a) {
    if (isinf(a)) return a > 0 ? 1 : 0;
    double s = 1 / (1 + exp(-a));
    return s * (1 + a * (1 - s));
}

puna_status PUNA_KERNEL(swiglu_backward)(puna_context *context, float *dgate, float *dup, int64_t dx_stride, const float *gate,
                                         const float *up, int64_t x_stride, const float *dy, int64_t dy_stride, int64_t rows,
                                         int64_t FF) {
    (void)context;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t f = 0; f < FF; f++) {
            double a = gate[r * x_stride + f], b = up[r * x_stride + f], d = dy[r * dy_stride + f];
            dgate[r * dx_stride + f] = (float)(d * b * silu_derivative(a));
            dup[r * dx_stride + f] = (float)(d * silu(a));
        }
    return PUNA_STATUS_OK;
}
