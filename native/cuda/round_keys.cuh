/* Keys and values of attention as BF16. */
#ifndef PUNA_CUDA_ROUND_KEYS_CUH
#define PUNA_CUDA_ROUND_KEYS_CUH

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
                  : round_keys<PUNA_DTYPE_Q8_0>;
    dim3 grid((unsigned)puna_ceil_div(keys * stride / 8, 256), (unsigned)heads, 2);
    return launch(c, kernel, grid, 256, 0, k, v, part, first_head, first_key, (int)keys, HD, (int)stride);
}

#endif
