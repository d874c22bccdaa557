/* Version 1: four elements a thread where both arrays are aligned to 16 bytes. Should be bound by memory; not measured. */
#include "common.cuh"

template <class Number> static __global__ void add(Number *y, const Number *x, int64_t n) {
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        if constexpr (sizeof(Number) == 4) {
            y[i] += x[i];
        } else {
            Number a = y[i], b = x[i];
            y[i] = {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
        }
    }
}

puna_status PUNA_KERNEL(add_forward)(puna_context *context, float *y, const float *x, int64_t n) {
    int64_t quads = ((uintptr_t)y | (uintptr_t)x) % 16 == 0 ? n / 4 : 0;
    return run(context, "puna_add_forward", [=](cuda_context &c) {
        if (quads > 0) CUDA_TRY(launch(c, add<float4>, blocks_for(quads, 256), 256, 0, (float4 *)y, (const float4 *)x, quads));
        int64_t rest = n - 4 * quads;
        if (rest > 0) CUDA_TRY(launch(c, add<float>, blocks_for(rest, 256), 256, 0, y + 4 * quads, x + 4 * quads, rest));
        return cudaSuccess;
    });
}
