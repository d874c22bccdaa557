/*
 * The tensor cores at the precision of F32: mma.sync.m16n8k8 multiplies TF32 numbers, which have 11 of F32's 24 significant bits.
 * A number is split into the nearest TF32 and the nearest TF32 of the rest, 22 bits in all, and of the four products
 * the one of the two rests is left out. F16 and BF16 numbers are TF32 numbers as they are and need no rest.
 *
 * The lane l of a warp has g = l / 4 and t = l % 4 and holds of
 *   a (16, 8)  a[0] = (g, t)   a[1] = (g + 8, t)   a[2] = (g, t + 4)   a[3] = (g + 8, t + 4)
 *   b (8, 8)   b[0] = (t, g)   b[1] = (t + 4, g)                                                     (k, n)
 *   c (16, 8)  c[0] = (g, 2 t)   c[1] = (g, 2 t + 1)   c[2] = (g + 8, 2 t)   c[3] = (g + 8, 2 t + 1)
 *
 * And at that of BF16: mma.sync.m16n8k16, of whose operands a register holds two numbers side by side in k, the first in its low half:
 *   a (16, 16)  a[0] = (g, 2 t)   a[1] = (g + 8, 2 t)   a[2] = (g, 2 t + 8)   a[3] = (g + 8, 2 t + 8)
 *   b (16, 8)   b[0] = (2 t, g)   b[1] = (2 t + 8, g)                                                (k, n)
 * ldmatrix fills them from shared memory, cp.async fills that.
 */
#ifndef PUNA_CUDA_MMA_CUH
#define PUNA_CUDA_MMA_CUH

#include "common.cuh"

struct split_tf32 {
    uint32_t high, rest;
};

__device__ inline uint32_t nearest_tf32(float value) {
#if defined(__CUDACC__)
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
#else
    return emulated_nearest_tf32(value);
#endif
}

/* Of an infinity the rest is zero, not the NaN of a difference of infinities. */
__device__ inline split_tf32 split(float value) {
    uint32_t high = nearest_tf32(value);
    float rest = value - puna_f32_from_bits(high);
    return {high, isfinite(rest) ? nearest_tf32(rest) : 0u};
}

__device__ inline void mma_tf32(float c[4], const uint32_t a[4], const uint32_t b[2]) {
#if defined(__CUDACC__)
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulated_mma_tf32(c, a, b);
#endif
}

/* Two numbers rounded to the nearest BF16, ties to even. */
__device__ inline uint32_t bf16_pair(float low, float high) {
#if defined(__CUDACC__)
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
#else
    return emulated_bf16(low) | emulated_bf16(high) << 16;
#endif
}

__device__ inline void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
#if defined(__CUDACC__)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulated_mma_bf16(c, a, b);
#endif
}

/*
 * Four matrices of 8 x 8 numbers of 16 bits: row is this lane's, row l % 8 of matrix l / 8, aligned to 16 bytes. to[i] are numbers
 * (g, 2 t) and (g, 2 t + 1) of matrix i, or of its transpose.
 */
template <bool kTransposed> __device__ void load_matrices(uint32_t to[4], const uint16_t *row) {
#if defined(__CUDACC__)
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    if constexpr (kTransposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at) : "memory");
#else
    emulated_load_matrices(to, row, kTransposed);
#endif
}

/* 16 bytes to shared memory, past the registers and the L1, or zeros: there when this thread has waited for their group. */
__device__ inline void copy_async(void *to, const void *from, bool inside) {
#if defined(__CUDACC__)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(__cvta_generic_to_global(from)), "r"(inside ? 16 : 0) : "memory");
#else
    emulated_copy_async(to, from, inside);
#endif
}

/* Ends a group of this thread's copies. */
__device__ inline void commit_copies() {
#if defined(__CUDACC__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emulated_commit_copies();
#endif
}

/* Waits for all groups of this thread's copies but the last kGroups; for other threads' the block's barrier, after that. */
template <int kGroups> __device__ void wait_for_copies() {
#if defined(__CUDACC__)
    asm volatile("cp.async.wait_group %0;" :: "n"(kGroups) : "memory");
#else
    emulated_wait_for_copies(kGroups);
#endif
}

/*
 * c += a b, the small products first. kRestOfB false: b's numbers are TF32 numbers. What the tensor cores add they cut off, they do
 * not round: left to add up along K they would drift towards zero by more than F32's own error. So they add the products of these
 * eight k alone, and the sum so far is added as any F32.
 */
template <bool kRestOfB> __device__ void multiply(float c[4], const split_tf32 a[4], const split_tf32 b[2]) {
    const uint32_t a_high[4] = {a[0].high, a[1].high, a[2].high, a[3].high};
    const uint32_t a_rest[4] = {a[0].rest, a[1].rest, a[2].rest, a[3].rest};
    const uint32_t b_high[2] = {b[0].high, b[1].high}, b_rest[2] = {b[0].rest, b[1].rest};
    float product[4] = {};
    mma_tf32(product, a_rest, b_high);
    if constexpr (kRestOfB) mma_tf32(product, a_high, b_rest);
    mma_tf32(product, a_high, b_high);
    for (int e = 0; e < 4; e++) c[e] += product[e];
}

#endif
