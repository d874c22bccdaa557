#include "operand.h"
#include "kernels.h"

int64_t PUNA_KERNEL(matmul_backward_workspace_size)(puna_context *context) {
    (void)context;
    return 0;
}

puna_status PUNA_KERNEL(matmul_input_backward)(puna_context *context, float *dx, int64_t dx_stride, const void *w,
                                               int32_t w_dtype, const float *dy, int64_t dy_stride, int64_t rows, int64_t N,
                                               int64_t K, int32_t accumulate, void *workspace) {
    (void)workspace;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < K; k++) {
            double sum = accumulate ? dx[r * dx_stride + k] : 0;
            for (int64_t n = 0; n < N; n++)
                sum += operand(context->bf16, dy[r * dy_stride + n]) * operand(context->bf16, puna_value(w, w_dtype, n * K + k));
            dx[r * dx_stride + k] = (float)sum;
        }
    return PUNA_STATUS_OK;
}

puna_status PUNA_KERNEL(matmul_weight_backward)(puna_context *context, float *dw, const float *x, int64_t x_stride,
                                                const float *dy, int64_t dy_stride, int64_t rows, int64_t N, int64_t K,
                                                void *workspace) {
    (void)workspace;
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++) {
            double sum = dw[n * K + k];
            for (int64_t r = 0; r < rows; r++)
                sum += operand(context->bf16, dy[r * dy_stride + n]) * operand(context->bf16, x[r * x_stride + k]);
            dw[n * K + k] = (float)sum;
        }
    return PUNA_STATUS_OK;
}
