#include "blocks.h"
#include "kernels.h"

puna_status PUNA_KERNEL(dequantize)(puna_context *context, float *y, const void *w, int32_t dtype, int64_t rows, int64_t C) {
    (void)context;
    int64_t row_bytes = puna_row_bytes(dtype, C);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < C; c++) y[r * C + c] = puna_value((const char *)w + r * row_bytes, dtype, c);
    return PUNA_STATUS_OK;
}
