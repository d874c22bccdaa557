/*
 * Up to eight rows: version 1, a warp for two rows of the weight, which it reads once, in its own type, for all rows of x. Lanes take
 * eight elements each in turn, their sums meet in a butterfly; products of a call with weights of one type are one launch. Bound by the
 * weight's bytes if decoding keeps up; not measured. Next: a repacked layout of block types aligned to 16 bytes; x in shared memory.
 * More rows: gemm.cuh, or gemm_bf16.cuh.
 */
#include "gemm_bf16.cuh"

int64_t PUNA_KERNEL(matmul_workspace_size)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                           int64_t rows, int64_t K) {
    (void)context, (void)products, (void)count, (void)rows, (void)K;
    return 0;
}

constexpr int kFewRows = 8, kColumns = 2, kWarps = 4;

/* The products of a call whose weights are of one type; N is 0 from their number on. */
struct product_list {
    output outs[PUNA_MATMUL_MAX_PRODUCTS];
    const char *ws[PUNA_MATMUL_MAX_PRODUCTS];
    int64_t N[PUNA_MATMUL_MAX_PRODUCTS];
};

template <int kDtype, bool kVector, int kRows>
static __global__ void __launch_bounds__(32 * kWarps)
    few_rows(const __grid_constant__ product_list list, int64_t row_bytes, const float *x, int64_t x_stride, int rows, int64_t K) {
    take_turn();
    int64_t n0 = ((int64_t)blockIdx.x * kWarps + threadIdx.x / 32) * kColumns;
    int p = 0;
    for (; p < PUNA_MATMUL_MAX_PRODUCTS && n0 >= list.N[p]; p++) n0 -= (list.N[p] + kColumns - 1) / kColumns * kColumns;
    if (p == PUNA_MATMUL_MAX_PRODUCTS) return; /* the whole warp */
    const output out = list.outs[p];
    const char *w = list.ws[p];
    int64_t N = list.N[p];
    float sum[kRows][kColumns] = {};
    for (int64_t k = threadIdx.x % 32 * 8; k < K; k += 32 * 8) {
        float w_part[kColumns][8] = {};
        for (int n = 0; n < kColumns; n++)
            if (n0 + n < N) decode_eight<kDtype, kVector>(w + (n0 + n) * row_bytes, k, K, w_part[n]);
        for (int r = 0; r < kRows; r++) {
            if (r >= rows) break;
            float x_part[8];
            load_eight<kVector>(x + r * x_stride, k, K, x_part);
            for (int n = 0; n < kColumns; n++)
                for (int i = 0; i < 8; i++) sum[r][n] = fmaf(x_part[i], w_part[n][i], sum[r][n]);
        }
    }
    for (int r = 0; r < kRows; r++) {
        if (r >= rows) break;
        for (int n = 0; n < kColumns; n++) {
            float all = warp_reduce<sum_of>(sum[r][n]);
            float *y = out.y + r * out.stride + n0 + n;
            if (threadIdx.x % 32 == 0 && n0 + n < N) *y = out.accumulate ? *y + all : all;
        }
    }
}

template <int kDtype, bool kVector>
static cudaError_t multiply_all(cuda_context &c, const product_list &list, const float *x, int64_t x_stride, int64_t rows, int64_t K) {
    int64_t row_bytes = puna_row_bytes(kDtype, K), columns = 0;
    if (rows > kFewRows) {
        row_loader<PUNA_DTYPE_F32, kVector> a = {(const char *)x, x_stride * (int64_t)sizeof(float), rows};
        for (int p = 0; p < PUNA_MATMUL_MAX_PRODUCTS && list.N[p] > 0; p++) {
            row_loader<kDtype, kVector> b = {list.ws[p], row_bytes, list.N[p]};
            int64_t stretch = puna_cuda_split_k(list.N[p], K, kEnoughBlocks, kLeastStretch);
            CUDA_TRY(launch_gemm<kDtype>(c, a, b, list.outs[p], rows, list.N[p], K, stretch));
        }
        return cudaSuccess;
    }
    for (int64_t N : list.N) columns += puna_ceil_div(N, kColumns) * kColumns;
    auto few = rows == 1 ? few_rows<kDtype, kVector, 1> : rows == 2 ? few_rows<kDtype, kVector, 2>
               : rows <= 4 ? few_rows<kDtype, kVector, 4> : few_rows<kDtype, kVector, kFewRows>;
    int64_t blocks = puna_ceil_div(columns, kWarps * kColumns);
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    return launch_next(c, few, (unsigned)blocks, 32 * kWarps, 0, list, row_bytes, x, x_stride, (int)rows, K);
}

puna_status PUNA_KERNEL(matmul_forward)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                        float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                        int64_t rows, int64_t K, void *workspace) {
    (void)workspace;
    return run(context, "puna_matmul_forward", [=](cuda_context &c) {
        if (rows > kFewRows && c.precision == PUNA_PRECISION_BF16) {
            bf16_product list[PUNA_MATMUL_MAX_PRODUCTS];
            for (int32_t p = 0; p < count; p++) {
                int32_t type = products[p].w_dtype;
                list[p] = {{w[p], type, puna_row_bytes(type, K)}, products[p].N, {y[p], products[p].y_stride, products[p].accumulate},
                           puna_cuda_split_k(products[p].N, K, kEnoughBlocks, kLeastStretch)};
            }
            return multiply_bf16<false, false>(c, {x, PUNA_DTYPE_F32, x_stride * (int64_t)sizeof(float)}, list, count, rows, K);
        }
        for (int32_t p = 0; p < count;) {
            int32_t type = products[p].w_dtype;
            bool vector = K % 8 == 0 && aligned_rows(x, x_stride * 4);
            product_list list = {};
            for (int i = 0; p < count && products[p].w_dtype == type; i++, p++) {
                list.outs[i] = {y[p], products[p].y_stride, products[p].accumulate};
                list.ws[i] = (const char *)w[p];
                list.N[i] = products[p].N;
                bool aligned = type < PUNA_DTYPE_Q8_0 || type == PUNA_DTYPE_Q4_K; /* others are read two bytes at a time */
                vector = vector && (!aligned || aligned_rows(w[p], puna_row_bytes(type, K)));
            }
            CUDA_TRY(for_dtype(type, [&](auto dtype) {
                constexpr int kDtype = decltype(dtype)::value;
                return vector ? multiply_all<kDtype, true>(c, list, x, x_stride, rows, K)
                              : multiply_all<kDtype, false>(c, list, x, x_stride, rows, K);
            }));
        }
        return cudaSuccess;
    });
}
