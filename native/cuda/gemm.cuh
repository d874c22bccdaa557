/*
 * The product of many rows: out (M, N) from a (M, K) and b (N, K), which loaders bring into shared memory as F32.
 *
 * Version 1: tiles of 64 x 64 x 32, four warps of 32 x 32 each, TF32 in two parts (mma.cuh). One stage: other blocks of the
 * processor (five or more fit) work while one loads. Not measured. Next, in this order: cp.async with three stages; 128 x 128 tiles
 * with eight warps; BF16 m16n8k16 with x in three parts where weights are BF16; WGMMA on sm_90a.
 */
#ifndef PUNA_CUDA_GEMM_CUH
#define PUNA_CUDA_GEMM_CUH

#include "decode.cuh"
#include "mma.cuh"

constexpr int kTileRows = 64, kTileDepth = 32, kTileThreads = 128;
/* Between rows of a tile: of rows g and columns t no two lanes share a bank. */
constexpr int kTilePitch = kTileDepth + 4;

/* A tile of rows of a weight, or (F32) of activations: row i of the tile is row first + i, of row_bytes. */
template <int kDtype, bool kVector> struct row_loader {
    const char *data;
    int64_t row_bytes, rows;

    __device__ void load(float *tile, int64_t first, int64_t k0, int64_t K) const {
        for (int piece = threadIdx.x; piece < kTileRows * kTileDepth / 8; piece += kTileThreads) {
            int i = piece / (kTileDepth / 8), k = piece % (kTileDepth / 8) * 8;
            float w[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            if (first + i < rows && k0 + k < K) decode_eight<kDtype, kVector>(data + (first + i) * row_bytes, k0 + k, K, w);
            float4 *to = (float4 *)(tile + i * kTilePitch + k);
            to[0] = {w[0], w[1], w[2], w[3]};
            to[1] = {w[4], w[5], w[6], w[7]};
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
            tile[i * kTilePitch + k] = inside ? plain_value(data, kDtype, (k0 + k) * stride + first + i) : 0;
        }
    }
};

struct output {
    float *y;
    int64_t stride;
    int32_t accumulate;
};

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
        float part[2][4][4] = {}; /* a tile's sum by itself: the tensor cores' own additions round towards zero */
        for (int k = 0; k < kTileDepth; k += 8) {
            split_tf32 a_part[2][4], b_part[2];
            for (int i = 0; i < 2; i++) {
                const float *at = a_tile + (m + 16 * i + g) * kTilePitch + k + t;
                a_part[i][0] = split(at[0]);
                a_part[i][1] = split(at[8 * kTilePitch]);
                a_part[i][2] = split(at[4]);
                a_part[i][3] = split(at[8 * kTilePitch + 4]);
            }
            for (int j = 0; j < 4; j++) {
                const float *at = b_tile + (n + 8 * j + g) * kTilePitch + k + t;
                b_part[0] = split(at[0]);
                b_part[1] = split(at[4]);
                for (int i = 0; i < 2; i++) multiply<kRestOfB>(part[i][j], a_part[i], b_part);
            }
        }
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 4; j++)
                for (int e = 0; e < 4; e++) c[i][j][e] += part[i][j][e];
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                int64_t row = m0 + m + 16 * i + g + e / 2 * 8, column = n0 + n + 8 * j + 2 * t + e % 2;
                if (row >= M || column >= N) continue;
                float *y = out.y + row * out.stride + column;
                *y = out.accumulate ? *y + c[i][j][e] : c[i][j][e];
            }
}

template <bool kRestOfB, class A, class B>
cudaError_t launch_gemm(cuda_context &context, A a, B b, output out, int64_t M, int64_t N, int64_t K) {
    int64_t tiles = puna_ceil_div(M, kTileRows) * puna_ceil_div(N, kTileRows);
    if (tiles > INT32_MAX) return cudaErrorInvalidConfiguration;
    return launch(context, gemm<kRestOfB, A, B>, (unsigned)tiles, kTileThreads, 0, a, b, out, M, N, K);
}

/* Whether rows of an F32 array can be read by 16 bytes. */
inline bool aligned_rows(const void *data, int64_t row_bytes) { return (uintptr_t)data % 16 == 0 && row_bytes % 16 == 0; }

#endif
