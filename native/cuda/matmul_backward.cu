/*
 * Version 1: both gradients by gemm.cuh, with loaders that read columns, or by gemm_bf16.cuh, to which either operand is as good as its
 * transpose. Not measured; what those say of their next versions holds.
 */
#include "gemm_bf16.cuh"

int64_t PUNA_KERNEL(matmul_backward_workspace_size)(puna_context *context) {
    (void)context;
    return 0;
}

template <int kDtype>
static cudaError_t input_gradient(cuda_context &c, const void *w, const float *dy, int64_t dy_stride, output out, int64_t rows,
                                  int64_t N, int64_t K) {
    int64_t row_bytes = dy_stride * (int64_t)sizeof(float);
    column_loader<kDtype> b = {(const char *)w, K, K};
    if (N % 8 == 0 && aligned_rows(dy, row_bytes))
        return launch_gemm<kDtype>(c, row_loader<PUNA_DTYPE_F32, true>{(const char *)dy, row_bytes, rows}, b, out, rows, K, N, N);
    return launch_gemm<kDtype>(c, row_loader<PUNA_DTYPE_F32, false>{(const char *)dy, row_bytes, rows}, b, out, rows, K, N, N);
}

puna_status PUNA_KERNEL(matmul_input_backward)(puna_context *context, float *dx, int64_t dx_stride, const void *w,
                                               int32_t w_dtype, const float *dy, int64_t dy_stride, int64_t rows, int64_t N,
                                               int64_t K, int32_t accumulate, void *workspace) {
    (void)workspace;
    return run(context, "puna_matmul_input_backward", [=](cuda_context &c) {
        output out = {dx, dx_stride, accumulate};
        if (c.precision == PUNA_PRECISION_BF16) {
            bf16_product product = {{w, w_dtype, puna_row_bytes(w_dtype, K)}, K, out, N};
            return multiply_bf16<false, true>(c, {dy, PUNA_DTYPE_F32, dy_stride * (int64_t)sizeof(float)}, &product, 1, rows, N);
        }
        if (w_dtype == PUNA_DTYPE_F32) return input_gradient<PUNA_DTYPE_F32>(c, w, dy, dy_stride, out, rows, N, K);
        if (w_dtype == PUNA_DTYPE_F16) return input_gradient<PUNA_DTYPE_F16>(c, w, dy, dy_stride, out, rows, N, K);
        return input_gradient<PUNA_DTYPE_BF16>(c, w, dy, dy_stride, out, rows, N, K);
    });
}

puna_status PUNA_KERNEL(matmul_weight_backward)(puna_context *context, float *dw, const float *x, int64_t x_stride,
                                                const float *dy, int64_t dy_stride, int64_t rows, int64_t N, int64_t K,
                                                void *workspace) {
    (void)workspace;
    return run(context, "puna_matmul_weight_backward", [=](cuda_context &c) {
        if (c.precision == PUNA_PRECISION_BF16) {
            bf16_product product = {{x, PUNA_DTYPE_F32, x_stride * (int64_t)sizeof(float)}, K, {dw, K, 1}, rows};
            return multiply_bf16<true, true>(c, {dy, PUNA_DTYPE_F32, dy_stride * (int64_t)sizeof(float)}, &product, 1, N, rows);
        }
        column_loader<PUNA_DTYPE_F32> a = {(const char *)dy, dy_stride, N}, b = {(const char *)x, x_stride, K};
        return launch_gemm<PUNA_DTYPE_F32>(c, a, b, output{dw, K, 1}, N, K, rows, rows);
    });
}
