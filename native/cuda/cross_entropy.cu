/* Version 1: as log_softmax, and the targets travel with the launch. Three passes over a row; not measured. Next: one, online. */
#include "common.cuh"

static __global__ void cross_entropy(float *losses, float *dlogits, const float *logits, int_list targets, int32_t ignored,
                                     float scale, int64_t V) {
    const float *x = logits + blockIdx.x * V;
    float *dx = dlogits == nullptr ? nullptr : dlogits + blockIdx.x * V;
    int32_t target = targets.values[blockIdx.x];
    if (target == ignored) {
        if (threadIdx.x == 0) losses[blockIdx.x] = 0;
        if (dx != nullptr)
            for (int64_t v = threadIdx.x; v < V; v += kRowThreads) dx[v] = 0;
        return;
    }
    if (target < 0 || target >= V) target = 0;
    float largest = -INFINITY, sum = 0, of_target = x[target];
    for (int64_t v = threadIdx.x; v < V; v += kRowThreads) largest = fmaxf(largest, x[v]);
    largest = block_reduce<maximum_of>(largest);
    for (int64_t v = threadIdx.x; v < V; v += kRowThreads) sum += expf(x[v] - largest);
    sum = block_reduce<sum_of>(sum);
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(sum) + (largest - of_target);
    if (dx == nullptr) return;
    for (int64_t v = threadIdx.x; v < V; v += kRowThreads)
        dx[v] = scale * (expf(x[v] - largest) / sum - (v == target ? 1.0f : 0.0f));
}

puna_status PUNA_KERNEL(cross_entropy_forward_backward)(puna_context *context, float *losses, float *dlogits,
                                                        const float *logits, const int32_t *targets, int32_t ignored, float scale,
                                                        int64_t rows, int64_t V) {
    return run(context, "puna_cross_entropy_forward_backward", [=](cuda_context &c) {
        for (int64_t r = 0; r < rows; r += kListed) {
            int64_t count = puna_min(kListed, rows - r);
            CUDA_TRY(launch(c, cross_entropy, (unsigned)count, kRowThreads, 0, losses + r,
                            dlogits == nullptr ? nullptr : dlogits + r * V, logits + r * V, list_of(targets + r, count), ignored,
                            scale, V));
        }
        return cudaSuccess;
    });
}
