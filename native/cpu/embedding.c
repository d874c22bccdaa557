#include "decode.h"
#include "kernels.h"
#include "rows.h"

typedef struct job {
    float *y;
    const char *table;
    const int32_t *ids;
    int32_t dtype;
    int64_t rows, V, C, share_rows;
} job;

static void look_up_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    int64_t row_bytes = puna_row_bytes(j->dtype, j->C), end = puna_min((share + 1) * j->share_rows, j->rows);
    for (int64_t r = share * j->share_rows; r < end; r++)
        decode_elements(j->y + r * j->C, j->table + puna_id_row(j->ids, r, j->V) * row_bytes, j->dtype, j->C);
}

puna_status PUNA_KERNEL(embedding_forward)(puna_context *context, float *y, const void *table, int32_t dtype,
                                           const int32_t *ids, int64_t rows, int64_t V, int64_t C) {
    job j = {y, table, ids, dtype, rows, V, C, rows_per_share(C * (int64_t)sizeof(float))};
    puna_parallel(context, puna_ceil_div(rows, j.share_rows), look_up_share, &j);
    return PUNA_STATUS_OK;
}
