#include "kernels.h"

puna_status PUNA_KERNEL(argmax_forward)(puna_context *context, int32_t *y, const float *x, int64_t rows, int64_t V) {
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        const float *row = x + r * V;
        int64_t best = -1;
        for (int64_t v = 0; v < V; v++)
            if (row[v] == row[v] && (best < 0 || row[v] > row[best])) best = v; /* NaN is not equal to itself */
        y[r] = best < 0 ? 0 : (int32_t)best;
    }
    return PUNA_STATUS_OK;
}
