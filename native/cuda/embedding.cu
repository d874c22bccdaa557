/*
 * Version 1: a block a row, an element a thread. The ids travel with the launch. Backward: the block of an id's first row adds all
 * rows of that id, in their order, so that nothing is added twice at once. Not measured; both are small beside a layer.
 */
#include "common.cuh"

static __global__ void embed(float *y, const char *table, int32_t dtype, int64_t row_bytes, int_list ids, int64_t V, int64_t C) {
    int64_t r = blockIdx.x, id = ids.values[r];
    const char *row = table + (id >= 0 && id < V ? id : 0) * row_bytes;
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) y[r * C + c] = puna_value(row, dtype, c);
}

puna_status PUNA_KERNEL(embedding_forward)(puna_context *context, float *y, const void *table, int32_t dtype, const int32_t *ids,
                                           int64_t rows, int64_t V, int64_t C) {
    int64_t row_bytes = puna_row_bytes(dtype, C);
    return run(context, "puna_embedding_forward", [=](cuda_context &c) {
        for (int64_t r = 0; r < rows; r += kListed) {
            int64_t count = puna_min(kListed, rows - r);
            CUDA_TRY(launch(c, embed, (unsigned)count, kRowThreads, 0, y + r * C, (const char *)table, dtype, row_bytes,
                            list_of(ids + r, count), V, C));
        }
        return cudaSuccess;
    });
}

static __global__ void gather(float *dtable, int_list ids, const float *dy, int count, int64_t V, int64_t C) {
    int first = blockIdx.x, id = ids.values[first];
    for (int r = 0; r < first; r++)
        if (ids.values[r] == id) return;
    float *row = dtable + (id >= 0 && id < V ? id : 0) * C;
    for (int64_t c = (int64_t)blockIdx.y * blockDim.x + threadIdx.x; c < C; c += (int64_t)gridDim.y * blockDim.x) {
        float sum = row[c];
        for (int r = first; r < count; r++)
            if (ids.values[r] == id) sum += dy[r * C + c];
        row[c] = sum;
    }
}

puna_status PUNA_KERNEL(embedding_backward)(puna_context *context, float *dtable, const int32_t *ids, const float *dy,
                                            int64_t rows, int64_t V, int64_t C) {
    return run(context, "puna_embedding_backward", [=](cuda_context &c) {
        dim3 grid(1, (unsigned)puna_min(puna_ceil_div(C, kRowThreads), 32));
        for (int64_t r = 0; r < rows; r += kListed) {
            grid.x = (unsigned)puna_min(kListed, rows - r);
            CUDA_TRY(launch(c, gather, grid, kRowThreads, 0, dtable, list_of(ids + r, grid.x), dy + r * C, (int)grid.x, V, C));
        }
        return cudaSuccess;
    });
}
