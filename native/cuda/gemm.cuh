/*
 * The product of many rows: out (M, N) from a (M, K) and b (N, K), which loaders bring into shared memory as F32 or as BF16.
 *
 * Version 1: tiles of 64 x 64 x 32, four warps of 32 x 32 each, TF32 in two parts or BF16 (mma.cuh). One stage: other blocks of the
 * processor (four or more fit) work while one loads. Not measured. Next, in this order: cp.async with three stages; 128 x 128 tiles
 * with eight warps; BF16 m16n8k16 with x in three parts where weights are BF16; WGMMA on sm_90a; columns loaded two k at a time.
 */
#ifndef PUNA_CUDA_GEMM_CUH
#define PUNA_CUDA_GEMM_CUH

#include "decode.cuh"
#include "mma.cuh"

constexpr int kTileRows = 64, kTileDepth = 32, kTileThreads = 128;
/* How operands meet: both in two TF32 parts; the same, b's numbers being TF32 numbers as they are; both rounded to BF16. */
enum { IN_PARTS, A_IN_PARTS, IN_BF16 };

template <int kHow> struct tile_of {
    using element = float;
};
template <> struct tile_of<IN_BF16> {
    using element = uint16_t;
};
template <int kHow> using tile_element = typename tile_of<kHow>::element;
/* Between rows of a tile, 16 bytes more than they are: of rows g and columns t no two lanes share a bank. */
template <class Element> constexpr int kTilePitch = kTileDepth + 16 / (int)sizeof(Element);

__device__ inline void store_eight(float *to, const float w[8]) {
    ((float4 *)to)[0] = {w[0], w[1], w[2], w[3]};
    ((float4 *)to)[1] = {w[4], w[5], w[6], w[7]};
}
__device__ inline void store_eight(uint16_t *to, const float w[8]) {
    *(uint4 *)to = {bf16_pair(w[0], w[1]), bf16_pair(w[2], w[3]), bf16_pair(w[4], w[5]), bf16_pair(w[6], w[7])};
}
__device__ inline void store_one(float *to, float w) { *to = w; }
__device__ inline void store_one(uint16_t *to, float w) { *to = (uint16_t)bf16_pair(w, 0); }

/* A tile of rows of a weight, or (F32) of activations: row i of the tile is row first + i, of row_bytes. */
template <int kDtype, bool kVector> struct row_loader {
    const char *data;
    int64_t row_bytes, rows;

    template <class Element> __device__ void load(Element *tile, int64_t first, int64_t k0, int64_t K) const {
        for (int piece = threadIdx.x; piece < kTileRows * kTileDepth / 8; piece += kTileThreads) {
            int i = piece / (kTileDepth / 8), k = piece % (kTileDepth / 8) * 8;
            float w[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            if (first + i < rows && k0 + k < K) decode_eight<kDtype, kVector>(data + (first + i) * row_bytes, k0 + k, K, w);
            store_eight(tile + i * kTilePitch<Element> + k, w);
        }
    }
};

/* A tile of columns of a plain array (K, columns): row i of the tile is column first + i, stride elements between k. */
template <int kDtype> struct column_loader {
    const char *data;
    int64_t stride, columns;

    template <class Element> __device__ void load(Element *tile, int64_t first, int64_t k0, int64_t K) const {
        for (int at = threadIdx.x; at < kTileRows * kTileDepth; at += kTileThreads) {
            int i = at % kTileRows, k = at / kTileRows;
            bool inside = first + i < columns && k0 + k < K;
            store_one(tile + i * kTilePitch<Element> + k, inside ? plain_value(data, kDtype, (k0 + k) * stride + first + i) : 0);
        }
    }
};

struct output {
    float *y;
    int64_t stride;
    int32_t accumulate;
};

/* sum (32, 32) += a (32, kTileDepth) times b (32, kTileDepth) transposed, of a warp. */
template <int kHow> __device__ void add_tile(float sum[2][4][4], const float *a_tile, const float *b_tile, int g, int t) {
    constexpr int kPitch = kTilePitch<float>;
    for (int k = 0; k < kTileDepth; k += 8) {
        split_tf32 a[2][4], b[2];
        UNROLL
        for (int i = 0; i < 2; i++) {
            const float *at = a_tile + (16 * i + g) * kPitch + k + t;
            a[i][0] = split(at[0]);
            a[i][1] = split(at[8 * kPitch]);
            a[i][2] = split(at[4]);
            a[i][3] = split(at[8 * kPitch + 4]);
        }
        UNROLL
        for (int j = 0; j < 4; j++) {
            const float *at = b_tile + (8 * j + g) * kPitch + k + t;
            b[0] = split(at[0]);
            b[1] = split(at[4]);
            UNROLL
            for (int i = 0; i < 2; i++) multiply<kHow == IN_PARTS>(sum[i][j], a[i], b);
        }
    }
}

/* A tile's sum by itself: see multiply. */
template <int kHow> __device__ void add_tile(float sum[2][4][4], const uint16_t *a_tile, const uint16_t *b_tile, int g, int t) {
    constexpr int kPitch = kTilePitch<uint16_t>;
    float part[2][4][4] = {};
    for (int k = 0; k < kTileDepth; k += 16) {
        uint32_t a[2][4];
        UNROLL
        for (int i = 0; i < 2; i++) {
            const uint32_t *at = (const uint32_t *)(a_tile + (16 * i + g) * kPitch + k + 2 * t);
            a[i][0] = at[0];
            a[i][1] = at[8 * kPitch / 2];
            a[i][2] = at[4];
            a[i][3] = at[8 * kPitch / 2 + 4];
        }
        UNROLL
        for (int j = 0; j < 4; j++) {
            const uint32_t *at = (const uint32_t *)(b_tile + (8 * j + g) * kPitch + k + 2 * t);
            const uint32_t b[2] = {at[0], at[4]};
            UNROLL
            for (int i = 0; i < 2; i++) mma_bf16(part[i][j], a[i], b);
        }
    }
    UNROLL
    for (int i = 0; i < 2; i++)
        UNROLL
        for (int j = 0; j < 4; j++)
            UNROLL
            for (int e = 0; e < 4; e++) sum[i][j][e] += part[i][j][e];
}

template <int kHow, class A, class B>
__global__ void __launch_bounds__(kTileThreads) gemm(A a, B b, output out, int64_t M, int64_t N, int64_t K) {
    using element = tile_element<kHow>;
    constexpr int kPitch = kTilePitch<element>;
    __shared__ __align__(16) element a_tile[kTileRows * kPitch];
    __shared__ __align__(16) element b_tile[kTileRows * kPitch];
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
        add_tile<kHow>(c, a_tile + m * kPitch, b_tile + n * kPitch, g, t);
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
    constexpr int exact = b_dtype == PUNA_DTYPE_F16 || b_dtype == PUNA_DTYPE_BF16 ? A_IN_PARTS : IN_PARTS;
    auto kernel = context.precision == PUNA_PRECISION_BF16 ? gemm<IN_BF16, A, B> : gemm<exact, A, B>;
    return launch(context, kernel, (unsigned)tiles, kTileThreads, 0, a, b, out, M, N, K);
}

/* Whether rows of an F32 array can be read by 16 bytes. */
inline bool aligned_rows(const void *data, int64_t row_bytes) { return (uintptr_t)data % 16 == 0 && row_bytes % 16 == 0; }

#endif
