/*
 * Version 1: a warp rounds 32 elements of x at a time into the context's scratch; then a warp for a row of the weight, whose lanes
 * take groups of 32 elements in turn and sum integers exactly, for all rows of x, of which the scratch holds as many as fit. Not
 * measured: on a GPU the products with F32 activations are bound by the weight's bytes all the same, so this serves to compute what
 * the CPU does, not to be quicker. Next: __dp4a, then integer tensor cores.
 */
#include "common.cuh"

int64_t PUNA_KERNEL(matmul_integer_workspace_size)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                   int64_t rows, int64_t K, int32_t activations) {
    (void)context, (void)products, (void)count, (void)rows, (void)K, (void)activations;
    return 0;
}

/* A row of the scratch: K / 32 scales, then K int16. As puna_quantize says. */
static __global__ void round_rows(char *scratch, int64_t pitch, const float *x, int64_t x_stride, int64_t rows, int64_t K,
                                  float top) {
    take_turn();
    int64_t groups = K / 32, warp = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (warp >= rows * groups) return;
    int64_t r = warp / groups, group = warp % groups;
    float *scales = (float *)(scratch + r * pitch);
    int16_t *q = (int16_t *)(scales + groups) + group * 32;
    int i = threadIdx.x % 32;
    float value = x[r * x_stride + group * 32 + i], largest = warp_reduce<maximum_of>(fabsf(value));
    bool finite = warp_reduce<maximum_of>(isfinite(value) ? 0.0f : 1.0f) == 0, counts = finite && largest >= PUNA_QUANTIZED_ZERO;
    q[i] = counts ? (int16_t)rintf(value * (top / largest)) : 0;
    if (i == 0) scales[group] = !finite ? NAN : counts ? largest / top : 0;
}

/* The i-th of the quants of 32 elements that begin at element at of a block of 256. */
static __device__ int quant_q6_k(const puna_q6_k *block, int at, int i) {
    int quarter = at % 128 / 32;
    int low = block->low[64 * (at / 128) + 32 * (quarter % 2) + i] >> (quarter / 2 * 4) & 15;
    return (low | (block->high[32 * (at / 128) + i] >> (quarter * 2) & 3) << 4) - 32;
}

/* y += the product of elements 32 group to 32 group + 31 of a row with their activations q, whose scale is d_x. */
static __device__ float add_group(float y, const char *row, int32_t dtype, int64_t group, const int16_t *q, float d_x) {
    int sum = 0;
    if (dtype == PUNA_DTYPE_Q8_0) {
        const puna_q8_0 *block = (const puna_q8_0 *)row + group;
        for (int i = 0; i < 32; i++) sum += block->q[i] * q[i];
        return fmaf(f16_value(block->d) * d_x, (float)sum, y);
    }
    if (dtype == PUNA_DTYPE_Q4_0) {
        const puna_q4_0 *block = (const puna_q4_0 *)row + group;
        for (int i = 0; i < 16; i++) sum += ((block->q[i] & 15) - 8) * q[i] + ((block->q[i] >> 4) - 8) * q[i + 16];
        return fmaf(f16_value(block->d) * d_x, (float)sum, y);
    }
    int j = (int)(group % 8);
    if (dtype == PUNA_DTYPE_Q6_K) {
        const puna_q6_k *block = (const puna_q6_k *)row + group / 8;
        for (int half = 0; half < 2; half++) {
            int part = 0;
            for (int i = 16 * half; i < 16 * half + 16; i++) part += quant_q6_k(block, 32 * j, i) * q[i];
            y = fmaf(f16_value(block->d) * (float)block->scales[2 * j + half] * d_x, (float)part, y);
        }
        return y;
    }
    const puna_q4_k *block = (const puna_q4_k *)row + group / 8;
    int scale, min, all = 0;
    puna_q4_k_scale(block, j, &scale, &min);
    for (int i = 0; i < 32; i++) {
        int byte = block->q[j / 2 * 32 + i];
        sum += (j % 2 == 0 ? byte & 15 : byte >> 4) * q[i];
        all += q[i];
    }
    y = fmaf(f16_value(block->d) * (float)scale * d_x, (float)sum, y);
    return fmaf(-(f16_value(block->m) * (float)min), d_x * (float)all, y);
}

static __global__ void products_of_rows(float *y, puna_matmul_product product, const char *w, int64_t row_bytes,
                                        const char *scratch, int64_t pitch, int64_t rows, int64_t K) {
    take_turn();
    int64_t groups = K / 32, n = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (n >= product.N) return;
    for (int64_t r = 0; r < rows; r++) {
        const float *scales = (const float *)(scratch + r * pitch);
        const int16_t *q = (const int16_t *)(scales + groups);
        float sum = 0;
        for (int64_t group = threadIdx.x % 32; group < groups; group += 32)
            sum = add_group(sum, w + n * row_bytes, product.w_dtype, group, q + 32 * group, scales[group]);
        sum = warp_reduce<sum_of>(sum);
        float *y_rn = y + r * product.y_stride + n;
        if (threadIdx.x % 32 == 0) *y_rn = product.accumulate ? *y_rn + sum : sum;
    }
}

puna_status PUNA_KERNEL(matmul_integer_forward)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                                int64_t rows, int64_t K, int32_t activations, void *workspace) {
    (void)workspace;
    return run(context, "puna_matmul_forward", [=](cuda_context &c) {
        int64_t groups = K / 32, pitch = (groups * (int64_t)sizeof(float) + 2 * K + 15) / 16 * 16, most = kScratchBytes / pitch;
        if (most == 0) return cudaErrorInvalidValue; /* a row of some 30 million elements */
        for (int64_t r = 0; r < rows; r += most) {
            int64_t part = puna_min(most, rows - r);
            CUDA_TRY(launch_next(c, round_rows, (unsigned)puna_ceil_div(part * groups, 8), 256, 0, c.scratch, pitch, x + r * x_stride,
                            x_stride, part, K, puna_activations_top(activations)));
            for (int32_t p = 0; p < count; p++) {
                if (products[p].N / 8 >= INT32_MAX) return cudaErrorInvalidConfiguration;
                CUDA_TRY(launch_next(c, products_of_rows, (unsigned)puna_ceil_div(products[p].N, 8), 256, 0,
                                y[p] + r * products[p].y_stride, products[p], (const char *)w[p],
                                puna_row_bytes(products[p].w_dtype, K), c.scratch, pitch, part, K));
            }
        }
        return cudaSuccess;
    });
}
