#include "kernels.h"
#include "simd.h"

enum { SHARE_ELEMENTS = 1 << 13 };

typedef struct job {
    float *y;
    const float *x;
    int64_t n;
} job;

static void add_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    int64_t i = share * SHARE_ELEMENTS, end = puna_min(i + SHARE_ELEMENTS, j->n);
    for (; i + VEC_WIDTH <= end; i += VEC_WIDTH) vec_store(j->y + i, vec_add(vec_load(j->y + i), vec_load(j->x + i)));
    for (; i < end; i++) j->y[i] += j->x[i];
}

puna_status PUNA_KERNEL(add_forward)(puna_context *context, float *y, const float *x, int64_t n) {
    job j = {y, x, n};
    puna_parallel(context, puna_ceil_div(n, SHARE_ELEMENTS), add_share, &j);
    return PUNA_STATUS_OK;
}
