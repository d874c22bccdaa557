#include "kernels.h"

#include <math.h>

puna_status PUNA_KERNEL(log_softmax_forward)(puna_context *context, float *y, const float *x, int64_t rows, int64_t V) {
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        double max = -INFINITY, sum = 0;
        for (int64_t v = 0; v < V; v++)
            if (x[r * V + v] > max) max = x[r * V + v];
        for (int64_t v = 0; v < V; v++) sum += exp(x[r * V + v] - max);
        for (int64_t v = 0; v < V; v++) y[r * V + v] = (float)(x[r * V + v] - max - log(sum));
    }
    return PUNA_STATUS_OK;
}
