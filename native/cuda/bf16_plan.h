/*
 * How products and attention in BF16 are cut, as pure functions of the shapes, never of the device, so that the same call gives the same
 * bits everywhere. native/test/cuda.c checks them.
 */
#ifndef PUNA_CUDA_BF16_PLAN_H
#define PUNA_CUDA_BF16_PLAN_H

#include "internal.h"

enum { PUNA_CUDA_BF16_LARGE = 128, PUNA_CUDA_BF16_SMALL = 64, PUNA_CUDA_BF16_KEYS = 64 };

/*
 * Rows and columns of a block's tile of an (M, N) product. Large ones read operands half as often; they need enough of them for the
 * processors, 108 to 132 on large devices: 2048 x 4096 has 512, 64 x 4096 none. A sum's order is the same in both.
 */
static inline int puna_cuda_bf16_tile(int64_t M, int64_t N, int64_t enough) {
    int64_t tiles = puna_ceil_div(M, PUNA_CUDA_BF16_LARGE) * puna_ceil_div(N, PUNA_CUDA_BF16_LARGE);
    return puna_min(M, N) > PUNA_CUDA_BF16_SMALL && tiles >= enough ? PUNA_CUDA_BF16_LARGE : PUNA_CUDA_BF16_SMALL;
}

/* Numbers of a row of a rounded array: 16-byte pieces, the last filled up with zeros. */
static inline int64_t puna_cuda_bf16_stride(int64_t columns) { return puna_ceil_div(columns, 8) * 8; }

typedef struct puna_cuda_bf16_pieces {
    int64_t M, N, K;
} puna_cuda_bf16_pieces;

/*
 * What of an (M, K) times (N, K) product is rounded at a time, each operand into half of bytes: all of K where 64 rows of it fit, else a
 * multiple of 256, which is whole blocks of every type; and as many rows as then fit, in whole tiles. 64 MiB hold 4,096 rows of 4,096
 * of both.
 */
static inline puna_cuda_bf16_pieces puna_cuda_bf16_cut(int64_t M, int64_t N, int64_t K, int64_t bytes) {
    int64_t numbers = bytes / 4, most_K = numbers / PUNA_CUDA_BF16_SMALL / 256 * 256, piece_K = puna_min(K, most_K);
    int64_t rows = numbers / puna_cuda_bf16_stride(piece_K);
    rows -= rows % (rows < PUNA_CUDA_BF16_LARGE ? PUNA_CUDA_BF16_SMALL : PUNA_CUDA_BF16_LARGE);
    puna_cuda_bf16_pieces pieces = {puna_min(M, rows), puna_min(N, rows), piece_K};
    return pieces;
}

/* Bytes of a key/value head's rounded keys and values. 8 heads of 128 and 16,384 keys fill 64 MiB. */
static inline int64_t puna_cuda_bf16_key_bytes(int64_t keys, int64_t HD) { return 2 * keys * puna_cuda_bf16_stride(HD) * 2; }

/* For gradients also its query heads' queries, their gradients and two F32 a row, of rows in twos: 16 bytes. */
static inline int64_t puna_cuda_bf16_gradient_bytes(int64_t T, int64_t S, int64_t group, int64_t HD) {
    return puna_cuda_bf16_key_bytes(S, HD) + group * (puna_cuda_bf16_key_bytes(T, HD) + puna_ceil_div(T, 2) * 16);
}

#endif
