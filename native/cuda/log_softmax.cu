/*
 * Version 1: a block a row, three passes over it, the later two from L2. Not measured. Next: one pass online, float4, and several
 * blocks for the one row of a generated token.
 */
#include "common.cuh"

static __global__ void log_softmax(float *y, const float *x, int64_t V) {
    const float *x_r = x + blockIdx.x * V;
    float *y_r = y + blockIdx.x * V, largest = -INFINITY, sum = 0;
    for (int64_t v = threadIdx.x; v < V; v += kRowThreads) largest = fmaxf(largest, x_r[v]);
    largest = block_reduce<maximum_of>(largest);
    for (int64_t v = threadIdx.x; v < V; v += kRowThreads) sum += expf(x_r[v] - largest);
    float log_sum = logf(block_reduce<sum_of>(sum));
    for (int64_t v = threadIdx.x; v < V; v += kRowThreads) y_r[v] = x_r[v] - largest - log_sum;
}

puna_status PUNA_KERNEL(log_softmax_forward)(puna_context *context, float *y, const float *x, int64_t rows, int64_t V) {
    return run(context, "puna_log_softmax_forward", [=](cuda_context &c) {
        if (rows > INT32_MAX) return cudaErrorInvalidConfiguration;
        return launch(c, log_softmax, (unsigned)rows, kRowThreads, 0, y, x, V);
    });
}
