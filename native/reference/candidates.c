#include "kernels.h"

#include <math.h>

/* Whether element a, at index i, comes before element b, at index k. */
static bool comes_before(float a, int64_t i, float b, int64_t k) {
    if (a != a || b != b) return a == a || (b != b && i < k); /* NaN is not equal to itself */
    return a > b || (a == b && i < k);
}

puna_status PUNA_KERNEL(candidates_forward)(puna_context *context, float *values, int32_t *ids, double *sums, const float *x,
                                            int64_t rows, int64_t V, int64_t n, double temperature) {
    (void)context;
    int64_t part = puna_ceil_div(V, PUNA_CANDIDATES_PARTS);
    for (int64_t r = 0; r < rows; r++) {
        const float *row = x + r * V;
        for (int64_t i = 0, last = -1; i < n; i++) { /* the first of those that come after the last one */
            int64_t next = -1;
            for (int64_t v = 0; v < V; v++)
                if ((last < 0 || comes_before(row[last], last, row[v], v)) && (next < 0 || comes_before(row[v], v, row[next], next)))
                    next = v;
            last = next;
            values[r * n + i] = row[next];
            ids[r * n + i] = (int32_t)next;
        }
        double largest = values[r * n];
        for (int64_t p = 0; sums != NULL && p < PUNA_CANDIDATES_PARTS; p++) {
            double sum = 0;
            for (int64_t v = p * part; v < puna_min((p + 1) * part, V); v++)
                if (row[v] == row[v]) sum += row[v] == largest ? 1 : exp((row[v] - largest) / temperature);
            sums[r * PUNA_CANDIDATES_PARTS + p] = sum;
        }
    }
    return PUNA_STATUS_OK;
}
