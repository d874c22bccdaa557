#include "decode.h"
#include "kernels.h"

enum { SHARE_ELEMENTS = 1 << 14 }; /* whole blocks of every type */

typedef struct job {
    float *y;
    const void *w;
    int32_t dtype;
    int64_t elements;
} job;

static void decode_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const job *j = arguments;
    int64_t first = share * SHARE_ELEMENTS;
    decode_elements(j->y + first, (const char *)j->w + puna_row_bytes(j->dtype, first), j->dtype,
                    puna_min(SHARE_ELEMENTS, j->elements - first));
}

/* Rows are whole blocks without padding between them, so all of them are one long row. */
puna_status PUNA_KERNEL(dequantize)(puna_context *context, float *y, const void *w, int32_t dtype, int64_t rows, int64_t C) {
    job j = {y, w, dtype, rows * C};
    puna_parallel(context, puna_ceil_div(j.elements, SHARE_ELEMENTS), decode_share, &j);
    return PUNA_STATUS_OK;
}
