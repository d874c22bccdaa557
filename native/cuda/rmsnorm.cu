/*
 * Version 1: a block a row, which it reads twice (the second time from L1 or L2), a float a thread and warp-wide lines. Should be
 * bound by memory from a few hundred rows on; not measured. Next: float4, and the row kept in registers for C up to 8192.
 * Backward: dx by a block a row; dg by a thread a column over stretches of 64 rows, whose sums are then added in their order.
 */
#include "common.cuh"

static __global__ void normalise(float *y, float *rstd, const float *x, const void *g, int32_t g_dtype, int64_t C, float eps) {
    take_turn();
    const float *x_r = x + blockIdx.x * C;
    float *y_r = y + blockIdx.x * C, squares = 0;
    for (int64_t c = threadIdx.x; c < C; c += kRowThreads) squares = fmaf(x_r[c], x_r[c], squares);
    float scale = 1 / sqrtf(block_reduce<sum_of>(squares) / (float)C + eps);
    for (int64_t c = threadIdx.x; c < C; c += kRowThreads) y_r[c] = x_r[c] * scale * plain_value(g, g_dtype, c);
    if (rstd != nullptr && threadIdx.x == 0) rstd[blockIdx.x] = scale;
}

puna_status PUNA_KERNEL(rmsnorm_forward)(puna_context *context, float *y, float *rstd, const float *x, const void *g,
                                         int32_t g_dtype, int64_t rows, int64_t C, float eps) {
    return run(context, "puna_rmsnorm_forward", [=](cuda_context &c) {
        if (rows > INT32_MAX) return cudaErrorInvalidConfiguration;
        return launch_next(c, normalise, (unsigned)rows, kRowThreads, 0, y, rstd, x, g, g_dtype, C, eps);
    });
}

static __global__ void input_gradient(float *dx, const float *x, const void *g, int32_t g_dtype, const float *rstd,
                                      const float *dy, int64_t C, int32_t accumulate) {
    int64_t at = blockIdx.x * C;
    float scale = rstd[blockIdx.x], sum = 0;
    for (int64_t c = threadIdx.x; c < C; c += kRowThreads)
        sum = fmaf(dy[at + c] * plain_value(g, g_dtype, c), x[at + c], sum);
    float mean = block_reduce<sum_of>(sum) / (float)C * scale * scale;
    for (int64_t c = threadIdx.x; c < C; c += kRowThreads) {
        float gradient = scale * (dy[at + c] * plain_value(g, g_dtype, c) - x[at + c] * mean);
        dx[at + c] = accumulate ? dx[at + c] + gradient : gradient;
    }
}

constexpr int kStretch = 64;

/* sums[s, c] over rows [64 s, 64 s + 64). */
static __global__ void stretch_sums(float *sums, const float *x, const float *rstd, const float *dy, int64_t first, int64_t rows,
                                    int64_t C) {
    int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, stretch = blockIdx.y;
    if (c >= C) return;
    int64_t r = first + stretch * kStretch, end = min(r + kStretch, rows);
    float sum = 0;
    for (; r < end; r++) sum = fmaf(dy[r * C + c], x[r * C + c] * rstd[r], sum);
    sums[stretch * C + c] = sum;
}

static __global__ void add_stretches(float *dg, const float *sums, int64_t stretches, int64_t C) {
    int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= C) return;
    float sum = dg[c];
    for (int64_t s = 0; s < stretches; s++) sum += sums[s * C + c];
    dg[c] = sum;
}

puna_status PUNA_KERNEL(rmsnorm_backward)(puna_context *context, float *dx, float *dg, const float *x, const void *g,
                                          int32_t g_dtype, const float *rstd, const float *dy, int64_t rows, int64_t C,
                                          int32_t accumulate) {
    return run(context, "puna_rmsnorm_backward", [=](cuda_context &c) {
        if (rows > INT32_MAX) return cudaErrorInvalidConfiguration;
        /* As many stretches at a time as the scratch holds; dg first, because dx may be dy. */
        int64_t most = puna_min(65535, kScratchBytes / (int64_t)sizeof(float) / C);
        if (dg != nullptr && most == 0) return cudaErrorInvalidValue; /* a row of 64 MiB */
        float *sums = (float *)c.scratch;
        unsigned blocks = (unsigned)puna_ceil_div(C, 256);
        for (int64_t r = 0; dg != nullptr && r < rows; r += most * kStretch) {
            int64_t stretches = puna_min(most, puna_ceil_div(rows - r, kStretch));
            CUDA_TRY(launch(c, stretch_sums, dim3(blocks, (unsigned)stretches), 256, 0, sums, x, rstd, dy, r, rows, C));
            CUDA_TRY(launch(c, add_stretches, blocks, 256, 0, dg, sums, stretches, C));
        }
        return launch(c, input_gradient, (unsigned)rows, kRowThreads, 0, dx, x, g, g_dtype, rstd, dy, C, accumulate);
    });
}
