#include "kernels.h"

#include <math.h>

puna_status PUNA_KERNEL(cross_entropy_forward_backward)(puna_context *context, float *losses, float *dlogits,
                                                        const float *logits, const int32_t *targets, int32_t ignored,
                                                        float scale, int64_t rows, int64_t V) {
    (void)context;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = logits + r * V;
        bool counts = targets[r] != ignored;
        int64_t target = puna_id_row(targets, r, V);
        double max = -INFINITY, sum = 0;
        for (int64_t v = 0; v < V; v++)
            if (x[v] > max) max = x[v];
        for (int64_t v = 0; v < V; v++) sum += exp(x[v] - max);
        losses[r] = counts ? (float)(log(sum) + max - x[target]) : 0;
        for (int64_t v = 0; v < V && dlogits != NULL; v++)
            dlogits[r * V + v] = counts ? (float)(scale * (exp(x[v] - max) / sum - (v == target))) : 0;
    }
    return PUNA_STATUS_OK;
}
