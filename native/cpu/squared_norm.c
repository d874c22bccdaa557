#include "kernels.h"

/* Fixed, LANES whatever the vector width: the order, and so the bits, are the same for every thread count and variant. */
enum { PARTS = 256, LANES = 8 };

typedef struct job {
    double parts[PARTS];
    const float *x;
    int64_t n, part_elements;
} job;

static void part_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    job *j = arguments;
    int64_t i = puna_min(share * j->part_elements, j->n), end = puna_min(i + j->part_elements, j->n);
    double lanes[LANES] = {0}, sum = 0;
    for (; i + LANES <= end; i += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] += (double)j->x[i + l] * j->x[i + l];
    for (int l = 0; i < end; i++, l++) lanes[l] += (double)j->x[i] * j->x[i];
    for (int l = 0; l < LANES; l++) sum += lanes[l];
    j->parts[share] = sum;
}

puna_status PUNA_KERNEL(squared_norm)(puna_context *context, double *result, const float *x, int64_t n) {
    job j = {.x = x, .n = n, .part_elements = puna_ceil_div(n, PARTS)};
    puna_parallel(context, PARTS, part_share, &j);
    double sum = 0;
    for (int p = 0; p < PARTS; p++) sum += j.parts[p];
    *result = sum;
    return PUNA_STATUS_OK;
}
