/* What attention in BF16, forward and backward, shares: the pass that rounds keys and values, and a warp's products. */
#ifndef PUNA_CUDA_ATTENTION_BF16_CUH
#define PUNA_CUDA_ATTENTION_BF16_CUH

#include "attention.cuh"
#include "bf16.cuh"

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

/* Eight numbers of a row of HD from d on, a multiple of 8, zeros from HD on, whatever the row's alignment. */
template <int32_t kDtype> static __device__ void load_any_eight(const char *row, int64_t d, int64_t HD, float w[8]) {
    bool vector = (uintptr_t)row % 16 == 0 && HD % 8 == 0;
    if (kDtype != PUNA_DTYPE_Q8_0 && vector) decode_eight<kDtype, true>(row, d, HD, w);
    else decode_eight<kDtype, false>(row, d, HD, w);
}

/* k and v (heads, keys, stride) from the part's heads and keys from the first ones on; y is the head, z whether values. */
template <int32_t kDtype>
static __global__ void round_keys(uint16_t *k, uint16_t *v, attention_part part, int64_t first_head, int64_t first_key, int keys,
                                  int64_t HD, int stride) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, pieces = stride / 8;
    if (at >= keys * pieces) return;
    int key = at / pieces, d = at % pieces * 8;
    int64_t from = (first_head + blockIdx.y) * part.head_stride + (first_key + key) * part.key_stride;
    const char *row = blockIdx.z == 0 ? part.k : part.v;
    row += kDtype == PUNA_DTYPE_Q8_0 ? from / PUNA_Q8_0_ELEMENTS * (int64_t)sizeof(puna_q8_0) : from * (kDtype == PUNA_DTYPE_F32 ? 4 : 2);
    float w[8];
    load_any_eight<kDtype>(row, d, HD, w);
    store_rounded((blockIdx.z == 0 ? k : v) + ((int64_t)blockIdx.y * keys + key) * stride + d, w);
}

static inline cudaError_t round_part(cuda_context &c, uint16_t *k, uint16_t *v, const attention_part &part, int32_t dtype,
                                     int64_t first_head, int64_t heads, int64_t first_key, int64_t keys, int64_t HD) {
    int64_t stride = puna_cuda_bf16_stride(HD);
    auto kernel = dtype == PUNA_DTYPE_F32 ? round_keys<PUNA_DTYPE_F32> : dtype == PUNA_DTYPE_F16 ? round_keys<PUNA_DTYPE_F16>
                  : dtype == PUNA_DTYPE_BF16 ? round_keys<PUNA_DTYPE_BF16> : round_keys<PUNA_DTYPE_Q8_0>;
    dim3 grid((unsigned)puna_ceil_div(keys * stride / 8, 256), (unsigned)heads, 2);
    return launch(c, kernel, grid, 256, 0, k, v, part, first_head, first_key, (int)keys, HD, (int)stride);
}

/* c (16, kRows) += rows own to own + 15 of a tile times those of another. */
template <int kHD, int kRows> static __device__ void scores(float (*c)[4], const uint16_t *own_tile, int own, const uint16_t *tile) {
    for (int d = 0; d < kHD; d += 16) {
        uint32_t a[4], b[4];
        fragment<kHD, ROWS_FIRST, false>(a, own_tile, own, d);
        UNROLL
        for (int n = 0; n < kRows / 16; n++) {
            fragment<kHD, COLUMNS_FIRST, false>(b, tile, 16 * n, d);
            mma_bf16(c[2 * n], a, b);
            mma_bf16(c[2 * n + 1], a, b + 2);
        }
    }
}

/* sum (16, HD) += c (16, kRows), rounded, times a tile's rows: what a product left is the left side of the next as it lies. */
template <int kHD, int kRows> static __device__ void add_products(float (*sum)[4], const float (*c)[4], const uint16_t *tile) {
    UNROLL
    for (int n = 0; n < kRows / 16; n++) {
        const float *left = c[2 * n], *right = c[2 * n + 1];
        const uint32_t a[4] = {bf16_pair(left[0], left[1]), bf16_pair(left[2], left[3]), bf16_pair(right[0], right[1]),
                               bf16_pair(right[2], right[3])};
        UNROLL
        for (int d = 0; d < kHD / 16; d++) {
            uint32_t b[4];
            fragment<kHD, ROWS_FIRST, true>(b, tile, 16 * n, 16 * d);
            mma_bf16(sum[2 * d], a, b);
            mma_bf16(sum[2 * d + 1], a, b + 2);
        }
    }
}

#endif
