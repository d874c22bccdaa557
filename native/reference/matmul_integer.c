/*
 * The product of weights of block types with activations rounded to integers, as puna.h defines it: integers are exact, everything
 * else is F64, rounded once (and once more where it accumulates).
 */
#include "blocks.h"
#include "kernels.h"

/* A row of x: K int16, then a scale for every 32 of them. */
int64_t PUNA_KERNEL(matmul_integer_workspace_size)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                   int64_t rows, int64_t K, int32_t activations) {
    (void)context, (void)products, (void)count, (void)rows, (void)activations;
    return K * (int64_t)sizeof(int16_t) + K / 32 * (int64_t)sizeof(float) + 3;
}

/* Element i of a row of blocks: value = factor * quant - min. */
typedef struct element {
    double factor, min;
    int32_t quant;
} element;

static element element_of(const void *w, int32_t dtype, int64_t i) {
    switch (dtype) {
    case PUNA_DTYPE_Q8_0: {
        const puna_q8_0 *block = (const puna_q8_0 *)w + i / 32;
        return (element){puna_f16_to_f32(block->d), 0, block->q[i % 32]};
    }
    case PUNA_DTYPE_Q4_0: {
        const puna_q4_0 *block = (const puna_q4_0 *)w + i / 32;
        int q = i % 32 < 16 ? block->q[i % 16] & 15 : block->q[i % 16] >> 4;
        return (element){puna_f16_to_f32(block->d), 0, q - 8};
    }
    case PUNA_DTYPE_Q4_K: {
        const puna_q4_k *block = (const puna_q4_k *)w + i / 256;
        int at = (int)(i % 256), byte = block->q[at / 64 * 32 + at % 32], scale, min;
        puna_q4_k_scale(block, at / 32, &scale, &min);
        return (element){(double)puna_f16_to_f32(block->d) * scale, (double)puna_f16_to_f32(block->m) * min,
                         at % 64 < 32 ? byte & 15 : byte >> 4};
    }
    default: {
        const puna_q6_k *block = (const puna_q6_k *)w + i / 256;
        int in = (int)(i % 256), half = in / 128, quarter = in % 128 / 32, at = in % 32;
        int low = block->low[64 * half + 32 * (quarter % 2) + at] >> (quarter / 2 * 4) & 15;
        int high = block->high[32 * half + at] >> (quarter * 2) & 3;
        return (element){(double)puna_f16_to_f32(block->d) * block->scales[in / 16], 0, (low | high << 4) - 32};
    }
    }
}

puna_status PUNA_KERNEL(matmul_integer_forward)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                                int64_t rows, int64_t K, int32_t activations, void *workspace) {
    (void)context;
    float *scales = (float *)(((uintptr_t)workspace + 3) & ~(uintptr_t)3);
    int16_t *q = (int16_t *)(scales + K / 32);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t b = 0; b < K / 32; b++)
            scales[b] = puna_quantize(q + 32 * b, x + r * x_stride + 32 * b, 32, puna_activations_top(activations));
        for (int32_t p = 0; p < count; p++) {
            int32_t dtype = products[p].w_dtype;
            for (int64_t n = 0; n < products[p].N; n++) {
                const char *w_n = (const char *)w[p] + n * puna_row_bytes(dtype, K);
                double sum = 0;
                for (int64_t i = 0; i < K; i++) {
                    element e = element_of(w_n, dtype, i);
                    sum += (e.factor * e.quant - e.min) * ((double)scales[i / 32] * q[i]);
                }
                float *y_rn = &y[p][r * products[p].y_stride + n];
                *y_rn = products[p].accumulate ? *y_rn + (float)sum : (float)sum;
            }
        }
    }
    return PUNA_STATUS_OK;
}
