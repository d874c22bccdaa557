/*
 * What kernels of contexts of PUNA_PRECISION_BF16 share. Operands are rounded once, into the context's scratch, tiles of them come into
 * shared memory by cp.async, and a warp's fragments from there by ldmatrix (mma.cuh).
 */
#ifndef PUNA_CUDA_BF16_CUH
#define PUNA_CUDA_BF16_CUH

#include "decode.cuh"
#include "mma.cuh"

#include "bf16_plan.h"

/* Of the scratch, for rounded operands; and how many large tiles are enough: in tests so few that small shapes meet all there is. */
#if defined(__CUDACC__)
constexpr int64_t kRoundedBytes = kScratchBytes, kEnoughTiles = 128;
#else
constexpr int64_t kRoundedBytes = 256 << 10, kEnoughTiles = 6;
#endif

/* Eight numbers, rounded to nearest, ties to even; to is aligned to 16 bytes. */
__device__ inline void store_rounded(uint16_t *to, const float w[8]) {
    *(uint4 *)to = {bf16_pair(w[0], w[1]), bf16_pair(w[2], w[3]), bf16_pair(w[4], w[5]), bf16_pair(w[6], w[7])};
}

/* Two sums side by side of left columns up to the last; pairs: y is aligned to both. */
__device__ inline void store_pair(float *y, float first, float second, int64_t left, bool pairs, bool accumulate) {
    if (left > 1 && pairs) {
        float2 before = accumulate ? *(float2 *)y : float2{0, 0};
        *(float2 *)y = accumulate ? float2{before.x + first, before.y + second} : float2{first, second};
        return;
    }
    if (left > 0) y[0] = accumulate ? y[0] + first : first;
    if (left > 1) y[1] = accumulate ? y[1] + second : second;
}

/*
 * A tile of kWidth columns in shared memory. Of eight rows that follow one another the same 16 bytes lie in eight different places modulo
 * 128, so that ldmatrix meets no bank twice: pieces of a row are exchanged by its number where rows are 64 bytes or whole lines, else a row
 * is 16 bytes longer than it was.
 */
template <int kWidth> constexpr int kPitch = kWidth == 32 || kWidth % 64 == 0 ? kWidth : kWidth + 8;

/* Where columns 8 piece to 8 piece + 7 of a row are. */
template <int kWidth> __device__ int place(int row, int piece) {
    static_assert(kWidth % 16 == 0, "places of two rows would meet");
    int moved = kWidth == 32 ? piece ^ (row / 2 % 4) : kWidth % 64 == 0 ? piece ^ (row % 8) : piece;
    return row * kPitch<kWidth> + 8 * moved;
}

/* An array of BF16 in device memory, aligned to 16 bytes, stride a multiple of 8; behind its columns zeros up to one. */
struct bf16_matrix {
    const uint16_t *data;
    int64_t stride;
};

/* Asks for kRows x kWidth numbers from row, column on, zeros where rows and columns end. */
template <int kRows, int kWidth, int kThreads>
__device__ void ask_for_tile(uint16_t *tile, const bf16_matrix &from, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    UNROLL
    for (int at = threadIdx.x; at < kRows * kWidth / 8; at += kThreads) {
        int r = at / (kWidth / 8), piece = at % (kWidth / 8);
        bool inside = row + r < rows && column + 8 * piece < columns;
        copy_async(tile + place<kWidth>(r, piece), from.data + (inside ? (row + r) * from.stride + column + 8 * piece : 0), inside);
    }
}

/*
 * Four 8 x 8 matrices of the 16 x 16 numbers of a tile at row, column: in the order of rows first (the second lies below the first), or
 * of columns. With mma_bf16 in mind: a (16, 16) is rows first of a tile of a's rows, or columns first and transposed of a tile whose
 * rows are k; two b (16, 8), the first in to[0] and to[1], are columns first of a tile of b's columns, or rows first and transposed of one
 * whose rows are k.
 */
enum { ROWS_FIRST, COLUMNS_FIRST };
template <int kWidth, int kOrder, bool kTransposed> __device__ void fragment(uint32_t to[4], const uint16_t *tile, int row, int column) {
    int lane = threadIdx.x % 32, first = lane / 8 % 2, second = lane / 16;
    int down = kOrder == ROWS_FIRST ? first : second, across = kOrder == ROWS_FIRST ? second : first;
    load_matrices<kTransposed>(to, tile + place<kWidth>(row + 8 * down + lane % 8, column / 8 + across));
}

#endif
