#include "blocks.h"
#include "kernels.h"

puna_status PUNA_KERNEL(embedding_forward)(puna_context *context, float *y, const void *table, int32_t dtype,
                                           const int32_t *ids, int64_t rows, int64_t V, int64_t C) {
    (void)context;
    int64_t row_bytes = puna_row_bytes(dtype, C);
    for (int64_t r = 0; r < rows; r++) {
        const char *row = (const char *)table + puna_id_row(ids, r, V) * row_bytes;
        for (int64_t c = 0; c < C; c++) y[r * C + c] = puna_value(row, dtype, c);
    }
    return PUNA_STATUS_OK;
}

puna_status PUNA_KERNEL(embedding_backward)(puna_context *context, float *dtable, const int32_t *ids, const float *dy,
                                            int64_t rows, int64_t V, int64_t C) {
    (void)context;
    for (int64_t v = 0; v < V; v++)
        for (int64_t c = 0; c < C; c++) {
            double sum = 0;
            for (int64_t r = 0; r < rows; r++)
                if (puna_id_row(ids, r, V) == v) sum += dy[r * C + c];
            dtable[v * C + c] = (float)(dtable[v * C + c] + sum);
        }
    return PUNA_STATUS_OK;
}
