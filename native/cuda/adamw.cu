/* Version 1: an element a thread, 28 bytes each. Should be bound by memory; not measured. Next: float4, BF16 copies of w at once. */
#include "common.cuh"

struct adamw {
    float *w, *m, *v;
    const float *g;
    int64_t n;
    float gradient_scale, beta1, rest1, beta2, rest2, decay, rate, root, eps;
};

static __global__ void update(adamw j) {
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < j.n; i += stride) {
        float h = j.g[i] * j.gradient_scale;
        float m = j.beta1 * j.m[i] + j.rest1 * h, v = j.beta2 * j.v[i] + j.rest2 * h * h;
        j.m[i] = m;
        j.v[i] = v;
        j.w[i] = j.w[i] * j.decay - j.rate * m / (sqrtf(v) * j.root + j.eps);
    }
}

puna_status PUNA_KERNEL(adamw_step)(puna_context *context, float *w, float *m, float *v, const float *g, int64_t n, int64_t step,
                                    double learning_rate, double beta1, double beta2, double eps, double weight_decay,
                                    double gradient_scale) {
    double correction1 = 1 - pow(beta1, (double)step), correction2 = 1 - pow(beta2, (double)step);
    adamw j = {w, m, v, g, n, (float)gradient_scale, (float)beta1, (float)(1 - beta1), (float)beta2, (float)(1 - beta2),
               (float)(1 - learning_rate * weight_decay), (float)(learning_rate / correction1), (float)(1 / sqrt(correction2)),
               (float)eps};
    return run(context, "puna_adamw_step", [=](cuda_context &c) { return launch(c, update, blocks_for(n, 256), 256, 0, j); });
}
