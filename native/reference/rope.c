#include "kernels.h"

#include <math.h>

puna_status PUNA_KERNEL(rope_table)(puna_context *context, float *table, const float *frequencies, const int32_t *positions,
                                    int64_t rows, int64_t HD, float magnitude) {
    (void)context;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < HD / 2; i++) {
            float angle = (float)positions[r] * frequencies[i];
            table[r * HD + 2 * i] = (float)cos(angle) * magnitude;
            table[r * HD + 2 * i + 1] = (float)sin(angle) * magnitude;
        }
    return PUNA_STATUS_OK;
}

/* direction 1 rotates by the table's angles, -1 by their negatives. */
static void rotate(float *x, int64_t x_stride, const float *table, int32_t layout, int64_t rows, int64_t heads, int64_t HD,
                   int direction) {
    int64_t half = HD / 2;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t i = 0; i < half; i++) {
                float *head = x + r * x_stride + h * HD;
                float *a = layout == PUNA_ROPE_INTERLEAVED ? &head[2 * i] : &head[i];
                float *b = layout == PUNA_ROPE_INTERLEAVED ? &head[2 * i + 1] : &head[i + half];
                double c = table[r * HD + 2 * i], s = direction * table[r * HD + 2 * i + 1], old_a = *a, old_b = *b;
                *a = (float)(old_a * c - old_b * s);
                *b = (float)(old_a * s + old_b * c);
            }
}

puna_status PUNA_KERNEL(rope_forward)(puna_context *context, float *x, int64_t x_stride, const float *table, int32_t layout,
                                      int64_t rows, int64_t heads, int64_t HD) {
    (void)context;
    rotate(x, x_stride, table, layout, rows, heads, HD, 1);
    return PUNA_STATUS_OK;
}

puna_status PUNA_KERNEL(rope_backward)(puna_context *context, float *dx, int64_t dx_stride, const float *table, int32_t layout,
                                       int64_t rows, int64_t heads, int64_t HD) {
    (void)context;
    rotate(dx, dx_stride, table, layout, rows, heads, HD, -1);
    return PUNA_STATUS_OK;
}
