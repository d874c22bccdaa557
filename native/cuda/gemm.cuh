/*
 * The product of many rows at F32's precision: out (M, N) from a (M, K) and b (N, K), which loaders bring into shared memory as F32.
 * Contexts of PUNA_PRECISION_BF16 have gemm_bf16.cuh.
 *
 * Version 1: tiles of 64 x 64 x 32, four warps of 32 x 32 each, TF32 in two parts (mma.cuh). One stage: other blocks of the
 * processor (four or more fit) work while one loads. Not measured. Next, in this order: cp.async with three stages; 128 x 128 tiles
 * with eight warps; BF16 m16n8k16 with x in three parts where weights are BF16; WGMMA on sm_90a; columns loaded two k at a time.
 */
#ifndef PUNA_CUDA_GEMM_CUH
#define PUNA_CUDA_GEMM_CUH

#include "decode.cuh"
#include "mma.cuh"

constexpr int kTileRows = 64, kTileDepth = 32, kTileThreads = 128;
/* Between rows of a tile, 16 bytes more than they are: of rows g and columns t no two lanes share a bank. */
constexpr int kTilePitch = kTileDepth + 4;

__device__ inline void store_eight(float *to, const float w[8]) {
    ((float4 *)to)[0] = {w[0], w[1], w[2], w[3]};
    ((float4 *)to)[1] = {w[4], w[5], w[6], w[7]};
}

/* A tile of rows of a weight, or (F32) of activations: row i of the tile is row first + i, of row_bytes. */
template <int kDtype, bool kVector> struct row_loader {
    const char *data;
    int64_t row_bytes, rows;

    __device__ void load(float *tile, int64_t first, int64_t k0, int64_t K) const {
        for (int piece = threadIdx.x; piece < kTileRows * kTileDepth / 8; piece += kTileThreads) {
            int i = piece / (kTileDepth / 8), k = piece % (kTileDepth / 8) * 8;
            float w[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            if (first + i < rows && k0 + k < K) decode_eight<kDtype, kVector>(data + (first + i) * row_bytes, k0 + k, K, w);
            store_eight(tile + i * kTilePitch + k, w);
        }
    }
};

/* A tile of columns of a plain array (K, columns): row i of the tile is column first + i, stride elements between k. */
template <int kDtype> struct column_loader {
    const char *data;
    int64_t stride, columns;

    __device__ void load(float *tile, int64_t first, int64_t k0, int64_t K) const {
        for (int at = threadIdx.x; at < kTileRows * kTileDepth; at += kTileThreads) {
            int i = at % kTileRows, k = at / kTileRows;
            bool inside = first + i < columns && k0 + k < K;
            float *to = tile + i * kTilePitch + k;
            *to = inside ? plain_value(data, kDtype, (k0 + k) * stride + first + i) : 0;
        }
    }
};

struct output {
    float *y;
    int64_t stride;
    int32_t accumulate;
};

/* sum (32, 32) += a (32, kTileDepth) times b (32, kTileDepth) transposed, of a warp. kRestOfB: see multiply. */
template <bool kRestOfB> __device__ void add_tile(float sum[2][4][4], const float *a_tile, const float *b_tile, int g, int t) {
    for (int k = 0; k < kTileDepth; k += 8) {
        split_tf32 a[2][4], b[2];
        UNROLL
        for (int i = 0; i < 2; i++) {
            const float *at = a_tile + (16 * i + g) * kTilePitch + k + t;
            a[i][0] = split(at[0]);
            a[i][1] = split(at[8 * kTilePitch]);
            a[i][2] = split(at[4]);
            a[i][3] = split(at[8 * kTilePitch + 4]);
        }
        UNROLL
        for (int j = 0; j < 4; j++) {
            const float *at = b_tile + (8 * j + g) * kTilePitch + k + t;
            b[0] = split(at[0]);
            b[1] = split(at[4]);
            UNROLL
            for (int i = 0; i < 2; i++) multiply<kRestOfB>(sum[i][j], a[i], b);
        }
    }
}

template <bool kRestOfB, class A, class B>
__global__ void __launch_bounds__(kTileThreads) gemm(A a, B b, output out, int64_t M, int64_t N, int64_t K) {
    __shared__ __align__(16) float a_tile[kTileRows * kTilePitch];
    __shared__ __align__(16) float b_tile[kTileRows * kTilePitch];
    int64_t tiles = (M + kTileRows - 1) / kTileRows; /* neighbours share b's tile, the larger one */
    int64_t m0 = blockIdx.x % tiles * kTileRows, n0 = blockIdx.x / tiles * kTileRows;
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int m = warp % 2 * 32, n = warp / 2 * 32;
    float c[2][4][4] = {};
    for (int64_t k0 = 0; k0 < K; k0 += kTileDepth) {
        __syncthreads();
        a.load(a_tile, m0, k0, K);
        b.load(b_tile, n0, k0, K);
        __syncthreads();
        add_tile<kRestOfB>(c, a_tile + m * kTilePitch, b_tile + n * kTilePitch, g, t);
    }
    UNROLL
    for (int i = 0; i < 2; i++)
        UNROLL
        for (int j = 0; j < 4; j++)
            UNROLL
            for (int e = 0; e < 4; e++) {
                int64_t row = m0 + m + 16 * i + g + e / 2 * 8, column = n0 + n + 8 * j + 2 * t + e % 2;
                if (row >= M || column >= N) continue;
                float *y = out.y + row * out.stride + column;
                *y = out.accumulate ? *y + c[i][j][e] : c[i][j][e];
            }
}

/* b_dtype: the type of b's numbers, F32 where they are decoded blocks. */
template <int b_dtype, class A, class B>
cudaError_t launch_gemm(cuda_context &context, A a, B b, output out, int64_t M, int64_t N, int64_t K) {
    int64_t tiles = puna_ceil_div(M, kTileRows) * puna_ceil_div(N, kTileRows);
    if (tiles > INT32_MAX) return cudaErrorInvalidConfiguration;
    constexpr bool rest_of_b = b_dtype != PUNA_DTYPE_F16 && b_dtype != PUNA_DTYPE_BF16;
    return launch(context, gemm<rest_of_b, A, B>, (unsigned)tiles, kTileThreads, 0, a, b, out, M, N, K);
}

/* Whether rows of an array can be read by 16 bytes. */
inline bool aligned_rows(const void *data, int64_t row_bytes) { return (uintptr_t)data % 16 == 0 && row_bytes % 16 == 0; }

#endif
