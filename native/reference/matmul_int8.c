/*
 * The product of weights of block types with activations rounded to int8, as puna.h defines it: integers are exact, everything
 * else is F64, rounded once (and once more where it accumulates).
 */
#include "blocks.h"
#include "kernels.h"

/* A row of x: K int8, then a scale for every 32 or 256 of them. */
int64_t PUNA_KERNEL(matmul_int8_workspace_size)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                int64_t rows, int64_t K) {
    (void)context, (void)products, (void)count, (void)rows;
    return K + K / 32 * (int64_t)sizeof(float) + 3;
}

/* Sum over i < 256 of the integers that make up element i, times q. */
static double block_256(const void *w, int32_t dtype, const int8_t *q) {
    int64_t sum = 0, mins = 0;
    if (dtype == PUNA_DTYPE_Q6_K) {
        const puna_q6_k *block = w;
        for (int i = 0; i < 256; i++) {
            int half = i / 128, quarter = i % 128 / 32, at = i % 32;
            int low = block->low[64 * half + 32 * (quarter % 2) + at] >> (quarter / 2 * 4) & 15;
            int high = block->high[32 * half + at] >> (quarter * 2) & 3;
            sum += block->scales[i / 16] * ((low | high << 4) - 32) * q[i];
        }
        return (double)puna_f16_to_f32(block->d) * (double)sum;
    }
    const puna_q4_k *block = w;
    for (int i = 0; i < 256; i++) {
        int byte = block->q[i / 64 * 32 + i % 32], scale, min;
        puna_q4_k_scale(block, i / 32, &scale, &min);
        sum += scale * (i % 64 < 32 ? byte & 15 : byte >> 4) * q[i];
        mins += min * q[i];
    }
    return (double)puna_f16_to_f32(block->d) * (double)sum - (double)puna_f16_to_f32(block->m) * (double)mins;
}

static double block_32(const void *w, int32_t dtype, const int8_t *q) {
    int64_t sum = 0;
    if (dtype == PUNA_DTYPE_Q8_0) {
        const puna_q8_0 *block = w;
        for (int i = 0; i < 32; i++) sum += block->q[i] * q[i];
        return (double)puna_f16_to_f32(block->d) * (double)sum;
    }
    const puna_q4_0 *block = w;
    for (int i = 0; i < 16; i++) sum += ((block->q[i] & 15) - 8) * q[i] + ((block->q[i] >> 4) - 8) * q[i + 16];
    return (double)puna_f16_to_f32(block->d) * (double)sum;
}

puna_status PUNA_KERNEL(matmul_int8_forward)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                             float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                             int64_t rows, int64_t K, void *workspace) {
    (void)context;
    float *scales = (float *)(((uintptr_t)workspace + 3) & ~(uintptr_t)3);
    int8_t *q = (int8_t *)(scales + K / 32);
    for (int32_t p = 0; p < count; p++) {
        int32_t dtype = products[p].w_dtype;
        puna_block block = puna_block_of(dtype);
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t b = 0; b < K / block.elements; b++)
                scales[b] = puna_quantize(q + b * block.elements, x + r * x_stride + b * block.elements, block.elements);
            for (int64_t n = 0; n < products[p].N; n++) {
                const char *w_n = (const char *)w[p] + n * puna_row_bytes(dtype, K);
                double sum = 0;
                for (int64_t b = 0; b < K / block.elements; b++, w_n += block.bytes) {
                    const int8_t *q_b = q + b * block.elements;
                    sum += scales[b] * (block.elements == 32 ? block_32(w_n, dtype, q_b) : block_256(w_n, dtype, q_b));
                }
                float *y_rn = &y[p][r * products[p].y_stride + n];
                *y_rn = products[p].accumulate ? *y_rn + (float)sum : (float)sum;
            }
        }
    }
    return PUNA_STATUS_OK;
}
