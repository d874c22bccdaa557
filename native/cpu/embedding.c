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

/* Columns of a share: whole cache lines, so that no two threads add to one. */
enum { COLUMNS = 64 };

typedef struct gradient {
    float *dtable;
    const int32_t *ids;
    const float *dy;
    int64_t rows, V, C;
} gradient;

/* A share is some columns of all rows: whoever takes it, a repeated id is added to in the order of the rows. */
static void add_rows_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const gradient *j = arguments;
    int64_t c0 = share * COLUMNS, n = puna_min(COLUMNS, j->C - c0);
    for (int64_t r = 0; r < j->rows; r++) {
        float *to = j->dtable + puna_id_row(j->ids, r, j->V) * j->C + c0;
        const float *from = j->dy + r * j->C + c0;
        int64_t c = 0;
        for (; c + VEC_WIDTH <= n; c += VEC_WIDTH) vec_store(to + c, vec_add(vec_load(to + c), vec_load(from + c)));
        for (; c < n; c++) to[c] += from[c];
    }
}

puna_status PUNA_KERNEL(embedding_backward)(puna_context *context, float *dtable, const int32_t *ids, const float *dy,
                                            int64_t rows, int64_t V, int64_t C) {
    gradient j = {dtable, ids, dy, rows, V, C};
    puna_parallel(context, puna_ceil_div(C, COLUMNS), add_rows_share, &j);
    return PUNA_STATUS_OK;
}
