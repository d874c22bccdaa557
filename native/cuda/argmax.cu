/*
 * Version 1: a block a row; the index goes straight into pinned host memory, and the call waits for it. Not measured. Next: several
 * blocks for the one row of a generated token.
 */
#include "common.cuh"

#include <string.h>

constexpr int kArgmaxThreads = 1024; /* there may be one row alone to keep a processor busy */

/* Whether element i (value a) comes before the best so far: NaN never does, an equal one only with a lower index. best -1: none. */
static __device__ bool is_better(float a, int64_t i, float b, int64_t best) {
    if (i < 0 || a != a) return false;
    return best < 0 || a > b || (a == b && i < best);
}

static __global__ void argmax(int32_t *y, const float *x, int64_t V) {
    __shared__ float values[kArgmaxThreads];
    __shared__ int32_t indices[kArgmaxThreads];
    const float *x_r = x + blockIdx.x * V;
    int64_t best = -1;
    float value = 0;
    for (int64_t v = threadIdx.x; v < V; v += kArgmaxThreads)
        if (is_better(x_r[v], v, value, best)) value = x_r[v], best = v;
    values[threadIdx.x] = value;
    indices[threadIdx.x] = (int32_t)best;
    for (unsigned half = kArgmaxThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        unsigned other = threadIdx.x + half;
        if (threadIdx.x < half && is_better(values[other], indices[other], values[threadIdx.x], indices[threadIdx.x]))
            values[threadIdx.x] = values[other], indices[threadIdx.x] = indices[other];
    }
    if (threadIdx.x == 0) y[blockIdx.x] = indices[0] < 0 ? 0 : indices[0];
}

puna_status PUNA_KERNEL(argmax_forward)(puna_context *context, int32_t *y, const float *x, int64_t rows, int64_t V) {
    return run(context, "puna_argmax_forward", [=](cuda_context &c) {
        constexpr int64_t most = kResultBytes / (int64_t)sizeof(int32_t);
        for (int64_t r = 0; r < rows; r += most) {
            int64_t count = puna_min(most, rows - r);
            CUDA_TRY(launch(c, argmax, (unsigned)count, kArgmaxThreads, 0, (int32_t *)c.results_on_device, x + r * V, V));
            CUDA_TRY(wait_for(c));
            memcpy(y + r, c.results, (size_t)count * sizeof *y);
        }
        return cudaSuccess;
    });
}
