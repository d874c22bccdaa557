/*
 * Version 1: a thread a pair, the table read from L2 by every head of a row. Positions travel with the launch; cosines and sines are
 * taken in F64, once a step. Should be bound by memory; not measured. Next: fuse with the append to the cache.
 */
#include "common.cuh"

static __global__ void rotations(float *table, const float *frequencies, int_list positions, int64_t HD, float magnitude) {
    int64_t r = blockIdx.x;
    for (int64_t i = threadIdx.x; i < HD / 2; i += blockDim.x) {
        float angle = (float)positions.values[r] * frequencies[i];
        table[r * HD + 2 * i] = (float)cos((double)angle) * magnitude;
        table[r * HD + 2 * i + 1] = (float)sin((double)angle) * magnitude;
    }
}

puna_status PUNA_KERNEL(rope_table)(puna_context *context, float *table, const float *frequencies, const int32_t *positions,
                                    int64_t rows, int64_t HD, float magnitude) {
    return run(context, "puna_rope_table", [=](cuda_context &c) {
        for (int64_t r = 0; r < rows; r += kListed) {
            int64_t count = puna_min(kListed, rows - r);
            CUDA_TRY(launch(c, rotations, (unsigned)count, 64, 0, table + r * HD, frequencies, list_of(positions + r, count), HD,
                            magnitude));
        }
        return cudaSuccess;
    });
}

/* direction 1 rotates by the table's angles, -1 by their negatives. */
static __global__ void rotate(float *x, int64_t x_stride, const float *table, int32_t layout, int64_t rows, int64_t heads,
                              int64_t HD, float direction) {
    take_turn();
    int64_t half = HD / 2, pairs = heads * half, stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; at < rows * pairs; at += stride) {
        int64_t r = at / pairs, h = at % pairs / half, i = at % half;
        float *head = x + r * x_stride + h * HD;
        float *a = layout == PUNA_ROPE_INTERLEAVED ? &head[2 * i] : &head[i];
        float *b = layout == PUNA_ROPE_INTERLEAVED ? &head[2 * i + 1] : &head[i + half];
        float c = table[r * HD + 2 * i], s = direction * table[r * HD + 2 * i + 1], old_a = *a, old_b = *b;
        *a = old_a * c - old_b * s;
        *b = old_a * s + old_b * c;
    }
}

puna_status PUNA_KERNEL(rope_forward)(puna_context *context, float *x, int64_t x_stride, const float *table, int32_t layout,
                                      int64_t rows, int64_t heads, int64_t HD) {
    return run(context, "puna_rope_forward", [=](cuda_context &c) {
        return launch_next(c, rotate, blocks_for(rows * heads * HD / 2, 256), 256, 0, x, x_stride, table, layout, rows, heads, HD,
                      1.0f);
    });
}

puna_status PUNA_KERNEL(rope_backward)(puna_context *context, float *dx, int64_t dx_stride, const float *table, int32_t layout,
                                       int64_t rows, int64_t heads, int64_t HD) {
    return run(context, "puna_rope_backward", [=](cuda_context &c) {
        return launch_next(c, rotate, blocks_for(rows * heads * HD / 2, 256), 256, 0, dx, dx_stride, table, layout, rows, heads, HD,
                      -1.0f);
    });
}
