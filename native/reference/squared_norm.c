#include "kernels.h"

puna_status PUNA_KERNEL(squared_norm)(puna_context *context, double *result, const float *x, int64_t n) {
    (void)context;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    *result = sum;
    return PUNA_STATUS_OK;
}
