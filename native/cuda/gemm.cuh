/*
 * The product of many rows at F32's precision: out (M, N) from a (M, K) and b (N, K), which loaders bring into shared memory as F32.
 * Contexts of PUNA_PRECISION_BF16 have gemm_bf16.cuh.
 *
 * Version 2: tiles of 64 x 64 x 32, four warps of 32 x 32 each, TF32 in two parts (mma.cuh). One stage: other blocks of the
 * processor (four or more fit) work while one loads. K is cut into stretches, each with blocks of its own where tiles are few; more
 * rows add to out once a stretch, so that their bits are the same, which costs them some. Not measured. (Version 1 had a block for all
 * of K.) Next, in this order: cp.async with three stages; 128 x 128 tiles with eight warps; BF16 m16n8k16 with x in three parts where
 * weights are BF16; WGMMA on sm_90a; columns loaded two k at a time.
 */
#ifndef PUNA_CUDA_GEMM_CUH
#define PUNA_CUDA_GEMM_CUH

#include "decode.cuh"
#include "matmul_plan.h"
#include "mma.cuh"

/*
 * How many tiles are enough, about two for each processor of a large device, and the least K that is worth a partial sum; in tests so
 * little that small shapes meet all there is.
 */
#if defined(__CUDACC__)
constexpr int64_t kEnoughBlocks = 256, kLeastStretch = 512;
#else
constexpr int64_t kEnoughBlocks = 24, kLeastStretch = 256;
#endif

constexpr int kTileRows = PUNA_CUDA_MATMUL_TILE, kTileDepth = 32, kTileThreads = 128;
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

/*
 * A tile of columns of a plain array (K, columns): row i of the tile is column first + i, stride elements between k. A warp takes eight
 * columns of four k, 32 bytes of each where they are F32: 36 i + k are 32 different banks.
 */
template <int kDtype> struct column_loader {
    const char *data;
    int64_t stride, columns;

    __device__ void load(float *tile, int64_t first, int64_t k0, int64_t K) const {
        for (int at = threadIdx.x; at < kTileRows * kTileDepth; at += kTileThreads) {
            int i = at % 8 + at / 32 % (kTileRows / 8) * 8, k = at / 8 % 4 + at / (4 * kTileRows) * 4;
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

/*
 * A block adds a tile's stretches of K to out one after another, or, where the grid has tiles for each stretch, stores one, of which
 * out then has an (M, N) each.
 */
template <bool kRestOfB, class A, class B>
__global__ void __launch_bounds__(kTileThreads) gemm(A a, B b, output out, int64_t M, int64_t N, int64_t K, int64_t stretch) {
    __shared__ __align__(16) float a_tile[kTileRows * kTilePitch];
    __shared__ __align__(16) float b_tile[kTileRows * kTilePitch];
    int64_t tiles = (M + kTileRows - 1) / kTileRows; /* neighbours share b's tile, the larger one */
    int64_t m0 = blockIdx.x % tiles * kTileRows, n0 = blockIdx.x / tiles * kTileRows;
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int m = warp % 2 * 32, n = warp / 2 * 32;
    int steps = (int)((stretch + kTileDepth - 1) / kTileDepth);
    int64_t k0 = blockIdx.y * stretch;
    do {
        float c[2][4][4] = {};
        for (int step = 0; step < steps && k0 < K; step++, k0 += kTileDepth) {
            __syncthreads();
            a.load(a_tile, m0, k0, K);
            b.load(b_tile, n0, k0, K);
            __syncthreads();
            add_tile<kRestOfB>(c, a_tile + m * kTilePitch, b_tile + n * kTilePitch, g, t);
        }
        int thread = (int)afresh(threadIdx.x);
        int64_t row0 = m0 + thread / 32 % 2 * 32 + thread % 32 / 4, column0 = n0 + thread / 64 * 32 + thread % 4 * 2;
        UNROLL
        for (int i = 0; i < 2; i++)
            UNROLL
            for (int j = 0; j < 4; j++)
                UNROLL
                for (int e = 0; e < 4; e++) {
                    int64_t row = row0 + 16 * i + e / 2 * 8, column = column0 + 8 * j + e % 2;
                    if (row >= M || column >= N) continue;
                    float *y = out.y + (blockIdx.y * M + row) * out.stride + column;
                    *y = out.accumulate ? *y + c[i][j][e] : c[i][j][e];
                }
        out.accumulate = true;
    } while (gridDim.y == 1 && k0 < K);
}

/* Adds the partial sums (splits, M, N) to out in the order in which one block does. */
static __global__ void add_splits(output out, const float *partial, int splits, int M, int N) {
    take_turn();
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= M * N) return;
    float *y = out.y + at / N * out.stride + at % N;
    float sum = out.accumulate ? *y + partial[at] : partial[at];
    for (int s = 1; s < splits; s++) sum += partial[(int64_t)s * M * N + at];
    *y = sum;
}

/* launch_tiles(out, splits) launches a product's tiles for every split; scratch has bytes for their sums. */
template <class LaunchTiles>
cudaError_t launch_split(cuda_context &c, output out, int64_t M, int64_t N, int64_t stretches, char *scratch, int64_t bytes,
                         LaunchTiles launch_tiles) {
    int64_t splits = puna_cuda_splits(M, N, stretches, kEnoughBlocks, bytes);
    if (splits == 1) return launch_tiles(out, 1u);
    float *partial = (float *)scratch;
    CUDA_TRY(launch_tiles(output{partial, N, 0}, (unsigned)splits));
    return launch_next(c, add_splits, (unsigned)puna_ceil_div(M * N, 256), 256, 0, out, partial, (int)splits, (int)M, (int)N);
}

/* b_dtype: the type of b's numbers, F32 where they are decoded blocks. */
template <int b_dtype, class A, class B>
cudaError_t launch_gemm(cuda_context &context, A a, B b, output out, int64_t M, int64_t N, int64_t K, int64_t stretch) {
    int64_t tiles = puna_ceil_div(M, kTileRows) * puna_ceil_div(N, kTileRows);
    if (tiles > INT32_MAX) return cudaErrorInvalidConfiguration;
    constexpr bool rest_of_b = b_dtype != PUNA_DTYPE_F16 && b_dtype != PUNA_DTYPE_BF16;
    return launch_split(context, out, M, N, puna_ceil_div(K, stretch), context.scratch, kScratchBytes, [&](output to, unsigned splits) {
        return launch(context, gemm<rest_of_b, A, B>, dim3((unsigned)tiles, splits), kTileThreads, 0, a, b, to, M, N, K, stretch);
    });
}

/* Whether rows of an array can be read by 16 bytes. */
inline bool aligned_rows(const void *data, int64_t row_bytes) { return (uintptr_t)data % 16 == 0 && row_bytes % 16 == 0; }

#endif
