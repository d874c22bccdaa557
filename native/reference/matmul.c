/* y[r, n] (= or +=) sum over k of x[r, k] * w[n, k]: the sum in F64, rounded once (and once more where it accumulates). */
#include "operand.h"
#include "kernels.h"

int64_t PUNA_KERNEL(matmul_workspace_size)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                           int64_t rows, int64_t K) {
    (void)context, (void)products, (void)count, (void)rows, (void)K;
    return 0;
}

puna_status PUNA_KERNEL(matmul_forward)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                        float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                        int64_t rows, int64_t K, void *workspace) {
    (void)workspace;
    for (int32_t p = 0; p < count; p++) {
        int64_t row_bytes = puna_row_bytes(products[p].w_dtype, K);
        bool rounded = context->bf16 && products[p].w_dtype <= PUNA_DTYPE_BF16;
        for (int64_t n = 0; n < products[p].N; n++) {
            const void *w_n = (const char *)w[p] + n * row_bytes;
            for (int64_t r = 0; r < rows; r++) {
                double sum = 0;
                for (int64_t k = 0; k < K; k++)
                    sum += operand(rounded, x[r * x_stride + k]) * operand(rounded, puna_value(w_n, products[p].w_dtype, k));
                float *y_rn = &y[p][r * products[p].y_stride + n];
                *y_rn = products[p].accumulate ? *y_rn + (float)sum : (float)sum;
            }
        }
    }
    return PUNA_STATUS_OK;
}
