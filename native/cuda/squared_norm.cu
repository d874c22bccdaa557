/*
 * Version 1: the order of puna.h, so the CPU's bits: a block a part, of whose threads 8 are its lanes; all of them fetch.
 * The lanes' F64 additions wait for one another, so this is some three times slower than reading the numbers; a training step of
 * a large model spends milliseconds here. Not measured.
 */
#include "common.cuh"

constexpr int kParts = 256, kLanes = 8, kFetched = 1024;

static __global__ void part_sums(double *parts, const float *x, int64_t n, int64_t part_elements) {
    __shared__ float fetched[kFetched];
    __shared__ double lanes[kLanes];
    int64_t begin = min(blockIdx.x * part_elements, n), end = min(begin + part_elements, n);
    double sum = 0;
    for (int64_t at = begin; at < end; at += kFetched) {
        int count = (int)min((int64_t)kFetched, end - at);
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += blockDim.x) fetched[i] = x[at + i];
        __syncthreads();
        if (threadIdx.x < kLanes)
            for (int i = threadIdx.x; i < count; i += kLanes) sum += (double)fetched[i] * fetched[i];
    }
    if (threadIdx.x < kLanes) lanes[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    double all = 0;
    for (int l = 0; l < kLanes; l++) all += lanes[l];
    parts[blockIdx.x] = all;
}

puna_status PUNA_KERNEL(squared_norm)(puna_context *context, double *result, const float *x, int64_t n) {
    return run(context, "puna_squared_norm", [=](cuda_context &c) {
        CUDA_TRY(launch(c, part_sums, kParts, 128, 0, (double *)c.results_on_device, x, n, puna_ceil_div(n, kParts)));
        CUDA_TRY(wait_for(c));
        double sum = 0;
        for (int p = 0; p < kParts; p++) sum += ((const double *)c.results)[p];
        *result = sum;
        return cudaSuccess;
    });
}
