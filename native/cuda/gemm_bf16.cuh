/*
 * The product of many rows in contexts of PUNA_PRECISION_BF16: out (M, N) from a (M, K) and b (N, K), either of which may lie as its
 * transpose, so that one kernel serves the product and both gradients. F32 and F16 numbers and blocks are rounded to BF16 once, by a pass
 * of their own; BF16 is read where it lies.
 *
 * Version 2: tiles of 128 x 128 x 32 by eight warps of 64 x 32, or of 64 x 64 x 32 by four of 32 x 32 where those would be few; three
 * stages of cp.async, without conflicts of banks (bf16.cuh), one barrier a stage; mma.m16n8k16, which adds up along a stretch of K
 * (gemm.cuh) itself: it cuts off where F32 rounds, near 2^-24 of a sum for every 8 or 16 products, far below what rounding operands to 8
 * bits has cost. Should be bound by the tensor cores where rows are many, by the weights where they are few; not measured. (Version 1 was
 * gemm.cuh with loaders that round: no stages, fragments by 4 bytes.) Next: WGMMA with TMA on sm_90a; operands that were rounded by who
 * wrote them.
 */
#ifndef PUNA_CUDA_GEMM_BF16_CUH
#define PUNA_CUDA_GEMM_BF16_CUH

#include "bf16.cuh"
#include "gemm.cuh"

constexpr int kStepDepth = 32, kStages = 3;

/* A tile's part of an operand: kTile rows of kStepDepth, or (as its transpose lies) kStepDepth rows of kTile. */
template <int kTile, bool kTurned>
__device__ void ask_for_step(uint16_t *tile, const bf16_matrix &from, int64_t first, int64_t rows, int64_t k0, int64_t K) {
    if constexpr (kTurned) ask_for_tile<kStepDepth, kTile, 2 * kTile>(tile, from, k0, K, first, rows);
    else ask_for_tile<kTile, kStepDepth, 2 * kTile>(tile, from, first, rows, k0, K);
}

/* Of K's stretches as gemm; copies run on from one into the next. */
template <int kTile, bool kTurnedA, bool kTurnedB>
static __global__ void __launch_bounds__(2 * kTile, 256 / kTile)
    gemm_bf16(bf16_matrix a, bf16_matrix b, output out, int64_t M, int64_t N, int K, int stretch) {
    DYNAMIC_SHARED(uint16_t, shared);
    constexpr int kOperand = kTile * kStepDepth, kBlocks = kTile / 32; /* of 16 rows, of a warp */
    int64_t tiles = (M + kTile - 1) / kTile; /* neighbours share b's tile, the larger one */
    int64_t m0 = blockIdx.x % tiles * kTile, n0 = blockIdx.x / tiles * kTile;
    int warp = threadIdx.x / 32, m = warp % 2 * (kTile / 2), n = warp / 2 * 32;
    int own = (stretch + kStepDepth - 1) / kStepDepth, step = blockIdx.y * own; /* of a stretch */
    int end = (K + kStepDepth - 1) / kStepDepth;
    if (gridDim.y > 1) end = min(step + own, end);
    auto ask = [&](int step) {
        uint16_t *tile = shared + step % kStages * (2 * kOperand);
        if (step < end) {
            ask_for_step<kTile, kTurnedA>(tile, a, m0, M, step * kStepDepth, K);
            ask_for_step<kTile, kTurnedB>(tile + kOperand, b, n0, N, step * kStepDepth, K);
        }
        commit_copies();
    };
    for (int stage = 0; stage < kStages - 1; stage++) ask(step + stage);
    while (step < end) {
        float c[kBlocks][4][4] = {};
        for (int stop = min(step + own, end); step < stop; step++) {
            wait_for_copies<kStages - 2>();
            __syncthreads(); /* this step is here, and nobody is left in the one before, whose place is next */
            ask(step + kStages - 1);
            const uint16_t *a_tile = shared + step % kStages * (2 * kOperand), *b_tile = a_tile + kOperand;
            UNROLL
            for (int k = 0; k < kStepDepth; k += 16) {
                uint32_t a_part[kBlocks][4], b_part[2][4];
                UNROLL
                for (int i = 0; i < kBlocks; i++) {
                    if constexpr (kTurnedA) fragment<kTile, COLUMNS_FIRST, true>(a_part[i], a_tile, k, m + 16 * i);
                    else fragment<kStepDepth, ROWS_FIRST, false>(a_part[i], a_tile, m + 16 * i, k);
                }
                UNROLL
                for (int j = 0; j < 2; j++) {
                    if constexpr (kTurnedB) fragment<kTile, ROWS_FIRST, true>(b_part[j], b_tile, k, n + 16 * j);
                    else fragment<kStepDepth, COLUMNS_FIRST, false>(b_part[j], b_tile, n + 16 * j, k);
                }
                UNROLL
                for (int i = 0; i < kBlocks; i++)
                    UNROLL
                    for (int j = 0; j < 4; j++) mma_bf16(c[i][j], a_part[i], b_part[j / 2] + j % 2 * 2);
            }
        }
        int thread = (int)afresh(threadIdx.x);
        int64_t row0 = m0 + thread / 32 % 2 * (kTile / 2) + thread % 32 / 4, column0 = n0 + thread / 64 * 32 + thread % 4 * 2;
        float *y = out.y + blockIdx.y * M * out.stride;
        bool pairs = ((uintptr_t)y | out.stride * sizeof(float)) % sizeof(float2) == 0;
        UNROLL
        for (int i = 0; i < kBlocks; i++)
            UNROLL
            for (int j = 0; j < 4; j++)
                UNROLL
                for (int e = 0; e < 4; e += 2) {
                    int64_t row = row0 + 16 * i + e / 2 * 8, column = column0 + 8 * j;
                    if (row < M) store_pair(y + row * out.stride + column, c[i][j][e], c[i][j][e + 1], N - column, pairs, out.accumulate);
                }
        out.accumulate = true;
    }
}

/* An operand as a call has it: rows of row_bytes. */
struct plain_operand {
    const void *data;
    int32_t dtype;
    int64_t row_bytes;
};

/* Columns first to first + columns of each row; first is a multiple of 64, and of 256 where rows are blocks. */
template <int kDtype, bool kVector>
static __global__ void round_rows(uint16_t *to, int stride, const char *from, int64_t row_bytes, int64_t first, int64_t columns, int rows) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, pieces = stride / 8;
    if (at >= rows * pieces) return;
    int r = at / pieces, k = at % pieces * 8;
    float w[8];
    decode_eight<kDtype, kVector>(from + r * row_bytes, first + k, first + columns, w);
    store_rounded(to + (int64_t)r * stride + k, w);
}

static bool lies_rounded(const plain_operand &operand) {
    return operand.dtype == PUNA_DTYPE_BF16 && aligned_rows(operand.data, operand.row_bytes);
}

/* A rectangle of an operand as BF16: where it lies, or rounded into to. */
static cudaError_t rounded(cuda_context &c, const plain_operand &from, int64_t row, int64_t rows, int64_t column, int64_t columns,
                           uint16_t *to, bf16_matrix *out) {
    const char *data = (const char *)from.data + row * from.row_bytes;
    if (lies_rounded(from)) {
        *out = {(const uint16_t *)data + column, from.row_bytes / 2};
        return cudaSuccess;
    }
    *out = {to, puna_cuda_bf16_stride(columns)};
    return for_dtype(from.dtype, [&](auto dtype) {
        constexpr int kDtype = decltype(dtype)::value;
        bool vector = columns % 8 == 0 && aligned_rows(from.data, from.row_bytes);
        auto kernel = vector ? round_rows<kDtype, true> : round_rows<kDtype, false>;
        return launch(c, kernel, (unsigned)puna_ceil_div(rows * out->stride / 8, 256), 256, 0, to, (int)out->stride, data, from.row_bytes,
                      column, columns, (int)rows);
    });
}

template <int kTile, bool kTurnedA, bool kTurnedB>
static cudaError_t launch_gemm_bf16(cuda_context &c, bf16_matrix a, bf16_matrix b, output out, int64_t M, int64_t N, int64_t K,
                                    int64_t stretch, unsigned splits) {
    constexpr int64_t bytes = kStages * 2 * kTile * kStepDepth * (int64_t)sizeof(uint16_t);
    int64_t tiles = puna_ceil_div(M, kTile) * puna_ceil_div(N, kTile);
    if (tiles > INT32_MAX) return cudaErrorInvalidConfiguration;
    return launch(c, gemm_bf16<kTile, kTurnedA, kTurnedB>, dim3((unsigned)tiles, splits), 2 * kTile, bytes, a, b, out, M, N, (int)K,
                  (int)stretch);
}

struct bf16_product {
    plain_operand b; /* (N, K), or turned (K, N) */
    int64_t N;
    output out;
    int64_t stretch; /* of K */
};

/* The products of a (M, K), or turned (K, M), with every b, in pieces that the scratch holds; a's are rounded once for all. */
template <bool kTurnedA, bool kTurnedB>
static cudaError_t multiply_bf16(cuda_context &c, const plain_operand &a, const bf16_product *products, int count, int64_t M, int64_t K) {
    int64_t N = 0;
    for (int p = 0; p < count; p++) N = puna_max(N, products[p].N);
    puna_cuda_bf16_pieces most = puna_cuda_bf16_cut(M, N, K, kRoundedBytes);
    uint16_t *a_place = (uint16_t *)c.scratch, *b_place = a_place + kRoundedBytes / 4;
    bf16_matrix a_part, b_part;
    for (int64_t k0 = 0; k0 < K; k0 += most.K)
        for (int64_t m0 = 0; m0 < M; m0 += most.M) {
            int64_t depth = puna_min(most.K, K - k0), rows = puna_min(most.M, M - m0);
            CUDA_TRY(kTurnedA ? rounded(c, a, k0, depth, m0, rows, a_place, &a_part)
                     : rounded(c, a, m0, rows, k0, depth, a_place, &a_part));
            for (int p = 0; p < count; p++) {
                const bf16_product &product = products[p];
                int64_t most_N = lies_rounded(product.b) ? product.N : most.N;
                for (int64_t n0 = 0; n0 < product.N; n0 += most_N) {
                    int64_t columns = puna_min(most_N, product.N - n0);
                    bool there = m0 > 0 && count == 1 && columns == product.N; /* from the rows before */
                    if (!there)
                        CUDA_TRY(kTurnedB ? rounded(c, product.b, k0, depth, n0, columns, b_place, &b_part)
                                 : rounded(c, product.b, n0, columns, k0, depth, b_place, &b_part));
                    output out = product.out;
                    out.y += m0 * out.stride + n0;
                    out.accumulate |= k0 > 0;
                    bool large = puna_cuda_bf16_tile(rows, columns, kEnoughTiles) == PUNA_CUDA_BF16_LARGE;
                    auto gemm = large ? launch_gemm_bf16<PUNA_CUDA_BF16_LARGE, kTurnedA, kTurnedB>
                                : launch_gemm_bf16<PUNA_CUDA_BF16_SMALL, kTurnedA, kTurnedB>;
                    int64_t stretch = puna_min(product.stretch, depth), a_bytes = rows * puna_cuda_bf16_stride(depth) * 2;
                    CUDA_TRY(launch_split(c, out, rows, columns, puna_ceil_div(depth, stretch), c.scratch + a_bytes,
                                          kRoundedBytes / 2 - a_bytes, [&](output to, unsigned splits) {
                        return gemm(c, a_part, b_part, to, rows, columns, depth, stretch, splits);
                    }));
                }
            }
        }
    return cudaSuccess;
}

#endif
