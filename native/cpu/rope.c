#include "kernels.h"
#include "rows.h"

#include <math.h>

typedef struct table_job {
    float *table;
    const float *frequencies;
    const int32_t *positions;
    int64_t rows, HD, share_rows;
    float magnitude;
} table_job;

/* In double, as the reference: it is done once a step, and an error here would be in every layer. */
static void table_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const table_job *j = arguments;
    int64_t end = puna_min((share + 1) * j->share_rows, j->rows);
    for (int64_t r = share * j->share_rows; r < end; r++)
        for (int64_t i = 0; i < j->HD / 2; i++) {
            float angle = (float)j->positions[r] * j->frequencies[i];
            j->table[r * j->HD + 2 * i] = (float)cos(angle) * j->magnitude;
            j->table[r * j->HD + 2 * i + 1] = (float)sin(angle) * j->magnitude;
        }
}

puna_status PUNA_KERNEL(rope_table)(puna_context *context, float *table, const float *frequencies, const int32_t *positions,
                                    int64_t rows, int64_t HD, float magnitude) {
    /* A cosine and a sine cost as much as reading some 200 bytes. */
    table_job j = {table, frequencies, positions, rows, HD, rows_per_share(HD * 100), magnitude};
    puna_parallel(context, puna_ceil_div(rows, j.share_rows), table_share, &j);
    return PUNA_STATUS_OK;
}

typedef struct job {
    float *x;
    const float *table;
    int64_t x_stride, rows, heads, HD, share_rows;
    int32_t layout;
    float direction; /* 1: by the table's angles, -1: by their negatives                                             */
} job;

/* Plain loops, which the compiler turns into vectors of this variant's width: nothing is summed, so nothing is reordered. */
static void rotate_interleaved(float *restrict head, const float *restrict table, int64_t half, float direction) {
    for (int64_t i = 0; i < half; i++) {
        float c = table[2 * i], s = direction * table[2 * i + 1], a = head[2 * i], b = head[2 * i + 1];
        head[2 * i] = a * c - b * s;
        head[2 * i + 1] = a * s + b * c;
    }
}

static void rotate_halves(float *restrict lower, float *restrict upper, const float *restrict table, int64_t half,
                          float direction) {
    for (int64_t i = 0; i < half; i++) {
        float c = table[2 * i], s = direction * table[2 * i + 1], a = lower[i], b = upper[i];
        lower[i] = a * c - b * s;
        upper[i] = a * s + b * c;
    }
}

static void rotate_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    int64_t end = puna_min((share + 1) * j->share_rows, j->rows), half = j->HD / 2;
    for (int64_t r = share * j->share_rows; r < end; r++)
        for (int64_t h = 0; h < j->heads; h++) {
            float *head = j->x + r * j->x_stride + h * j->HD;
            const float *table = j->table + r * j->HD;
            if (j->layout == PUNA_ROPE_INTERLEAVED) rotate_interleaved(head, table, half, j->direction);
            else rotate_halves(head, head + half, table, half, j->direction);
        }
}

puna_status PUNA_KERNEL(rope_forward)(puna_context *context, float *x, int64_t x_stride, const float *table, int32_t layout,
                                      int64_t rows, int64_t heads, int64_t HD) {
    job j = {x, table, x_stride, rows, heads, HD, rows_per_share(2 * heads * HD * (int64_t)sizeof(float)), layout, 1};
    puna_parallel(context, puna_ceil_div(rows, j.share_rows), rotate_share, &j);
    return PUNA_STATUS_OK;
}

puna_status PUNA_KERNEL(rope_backward)(puna_context *context, float *dx, int64_t dx_stride, const float *table, int32_t layout,
                                       int64_t rows, int64_t heads, int64_t HD) {
    job j = {dx, table, dx_stride, rows, heads, HD, rows_per_share(2 * heads * HD * (int64_t)sizeof(float)), layout, -1};
    puna_parallel(context, puna_ceil_div(rows, j.share_rows), rotate_share, &j);
    return PUNA_STATUS_OK;
}
