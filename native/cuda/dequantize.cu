/*
 * Version 1: one thread an element, by the scalar decoder that specifies the types. Bound by its integer work, not by memory; it is
 * no part of a model's step. Not measured. Next: eight elements a thread with decode.cuh.
 */
#include "common.cuh"

static __global__ void dequantize(float *y, const char *w, int32_t dtype, int64_t row_bytes, int64_t rows, int64_t C) {
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * C; i += stride)
        y[i] = puna_value(w + i / C * row_bytes, dtype, i % C);
}

puna_status PUNA_KERNEL(dequantize)(puna_context *context, float *y, const void *w, int32_t dtype, int64_t rows, int64_t C) {
    int64_t row_bytes = puna_row_bytes(dtype, C);
    return run(context, "puna_dequantize", [=](cuda_context &c) {
        return launch(c, dequantize, blocks_for(rows * C, 256), 256, 0, y, (const char *)w, dtype, row_bytes, rows, C);
    });
}
