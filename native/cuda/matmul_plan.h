/*
 * How products of more than a few rows are cut along K, as pure functions of the shapes, never of the device, so that the same call gives
 * the same bits everywhere. native/test/cuda.c checks them.
 */
#ifndef PUNA_CUDA_MATMUL_PLAN_H
#define PUNA_CUDA_MATMUL_PLAN_H

#include "internal.h"

enum { PUNA_CUDA_MATMUL_TILE = 64, PUNA_CUDA_MATMUL_BLOCK = 256 };

/*
 * K of a stretch of a product with N outputs a row. The sums of stretches are added in their order whatever the number of rows, so that
 * a row's bits do not hang on its neighbours: as many stretches as give 64 rows enough blocks, each of least or more, in whole blocks of
 * every type. N 4096 is 64 tiles: K 4096 in four stretches gives 256 blocks. From 8,193 outputs on all of K is one stretch.
 */
static inline int64_t puna_cuda_split_k(int64_t N, int64_t K, int64_t enough, int64_t least) {
    int64_t stretches = puna_min(enough / puna_ceil_div(N, PUNA_CUDA_MATMUL_TILE), K / least);
    if (stretches <= 1) return K;
    return puna_ceil_div(puna_ceil_div(K, stretches), PUNA_CUDA_MATMUL_BLOCK) * PUNA_CUDA_MATMUL_BLOCK;
}

/*
 * Among how many blocks each tile's stretches are shared out: one each where tiles are few and all partial sums fit bytes, else one
 * takes them all. The bits are the same.
 */
static inline int64_t puna_cuda_splits(int64_t M, int64_t N, int64_t stretches, int64_t enough, int64_t bytes) {
    int64_t tiles = puna_ceil_div(M, PUNA_CUDA_MATMUL_TILE) * puna_ceil_div(N, PUNA_CUDA_MATMUL_TILE);
    return tiles <= enough / 2 && stretches * M * N * (int64_t)sizeof(float) <= bytes ? stretches : 1;
}

#endif
