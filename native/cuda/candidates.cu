/*
 * Version 1: elements become 64-bit keys, (value, index), whose ascending order is the candidates'. A block sorts 2048 in shared
 * memory (bitonic) and keeps n; where it has more it goes on with the n and new ones. Up to 64 blocks a row, then blocks over their
 * results, until one is left: three launches for 128k elements and n up to 256. The sums are a block a part. Not measured. Next: pass
 * over what is below the n-th so far without sorting it.
 */
#include "common.cuh"

#include <string.h>

constexpr int kSorted = 2048, kSortThreads = 512, kMostBlocks = 64, kPartThreads = 128;
constexpr uint64_t kNoKey = UINT64_MAX;

/* Ascending: the largest value first, among equals the lowest index, NaN at last. */
static __device__ uint64_t key_of(float value, int64_t index) {
    union {
        float value;
        uint32_t bits;
    } word = {value == 0 ? 0.0f : value};
    uint32_t ascending = value != value ? 0 : word.bits & 0x80000000u ? ~word.bits : word.bits | 0x80000000u;
    return (uint64_t)~ascending << 32 | (uint32_t)index;
}

/* best (rows, blocks, n) = the first n keys of each block's stretch of the count elements of x, or of the count keys, of a row. */
static __global__ void __launch_bounds__(kSortThreads)
    sort_stretch(uint64_t *best, const float *x, const uint64_t *keys, int64_t count, int64_t stretch, int n) {
    __shared__ uint64_t sorted[kSorted];
    int64_t row = blockIdx.y, begin = blockIdx.x * stretch, end = min(begin + stretch, count);
    for (int64_t at = begin; at < end;) {
        int first = at == begin ? 0 : n; /* the best so far stay */
        for (int i = first + threadIdx.x; i < kSorted; i += kSortThreads) {
            int64_t from = at + i - first;
            sorted[i] = from >= end ? kNoKey : x != nullptr ? key_of(x[row * count + from], from) : keys[row * count + from];
        }
        at += kSorted - first;
        for (int size = 2; size <= kSorted; size *= 2)
            for (int distance = size / 2; distance > 0; distance /= 2) {
                __syncthreads();
                for (int pair = threadIdx.x; pair < kSorted / 2; pair += kSortThreads) {
                    int low = 2 * pair - pair % distance, high = low + distance;
                    uint64_t a = sorted[low], b = sorted[high];
                    if ((a > b) == ((low & size) == 0)) sorted[low] = b, sorted[high] = a;
                }
            }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < n; i += kSortThreads) best[(row * gridDim.x + blockIdx.x) * n + i] = sorted[i];
}

static __global__ void report(float *values, int32_t *ids, const uint64_t *best, const float *x, int64_t V, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        int32_t id = (int32_t)(uint32_t)best[blockIdx.x * n + i];
        values[blockIdx.x * n + i] = x[blockIdx.x * V + id];
        ids[blockIdx.x * n + i] = id;
    }
}

static __global__ void sum_part(double *sums, const uint64_t *best, const float *x, int64_t V, int n, double temperature) {
    __shared__ double partial[kPartThreads];
    int64_t part = (V + PUNA_CANDIDATES_PARTS - 1) / PUNA_CANDIDATES_PARTS, end = min((blockIdx.x + 1) * part, V);
    const float *x_r = x + blockIdx.y * V;
    double largest = x_r[(uint32_t)best[(int64_t)blockIdx.y * n]], sum = 0;
    for (int64_t v = blockIdx.x * part + threadIdx.x; v < end; v += kPartThreads)
        if (x_r[v] == x_r[v]) sum += x_r[v] == largest ? 1 : exp((x_r[v] - largest) / temperature);
    partial[threadIdx.x] = sum;
    for (int half = kPartThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.y * PUNA_CANDIDATES_PARTS + blockIdx.x] = partial[0];
}

/* Rows that the scratch and the results hold at a time. */
static cudaError_t find(cuda_context &c, float *values, int32_t *ids, double *sums, const float *x, int64_t rows, int64_t V, int n,
                        double temperature) {
    uint64_t *best = (uint64_t *)c.scratch, *next = best + rows * kMostBlocks * n;
    int64_t count = V;
    for (const float *from = x;; from = nullptr) {
        int64_t blocks = puna_min(puna_ceil_div(count, kSorted), kMostBlocks), stretch = puna_ceil_div(count, blocks);
        dim3 grid((unsigned)puna_ceil_div(count, stretch), (unsigned)rows);
        CUDA_TRY(launch(c, sort_stretch, grid, kSortThreads, 0, next, from, best, count, stretch, n));
        uint64_t *sorted = next;
        next = best, best = sorted;
        count = (int64_t)grid.x * n;
        if (grid.x == 1) break;
    }
    double *sums_there = (double *)c.results_on_device;
    float *values_there = (float *)(sums_there + rows * PUNA_CANDIDATES_PARTS);
    CUDA_TRY(launch(c, report, (unsigned)rows, 128, 0, values_there, (int32_t *)values_there + rows * n, best, x, V, n));
    if (sums != nullptr)
        CUDA_TRY(launch(c, sum_part, dim3(PUNA_CANDIDATES_PARTS, (unsigned)rows), kPartThreads, 0, sums_there, best, x, V, n, temperature));
    CUDA_TRY(wait_for(c));
    const double *sums_here = (const double *)c.results;
    const float *values_here = (const float *)(sums_here + rows * PUNA_CANDIDATES_PARTS);
    memcpy(values, values_here, (size_t)(rows * n) * sizeof *values);
    memcpy(ids, values_here + rows * n, (size_t)(rows * n) * sizeof *ids);
    if (sums != nullptr) memcpy(sums, sums_here, (size_t)(rows * PUNA_CANDIDATES_PARTS) * sizeof *sums);
    return cudaSuccess;
}

puna_status PUNA_KERNEL(candidates_forward)(puna_context *context, float *values, int32_t *ids, double *sums, const float *x,
                                            int64_t rows, int64_t V, int64_t n, double temperature) {
    return run(context, "puna_candidates_forward", [=](cuda_context &c) {
        constexpr int64_t kSumBytes = PUNA_CANDIDATES_PARTS * sizeof(double);
        int64_t most = puna_min(kScratchBytes / (2 * kMostBlocks * n * (int64_t)sizeof(uint64_t)), kResultBytes / (kSumBytes + 8 * n));
        for (int64_t r = 0; r < rows; r += most)
            CUDA_TRY(find(c, values + r * n, ids + r * n, sums == nullptr ? nullptr : sums + r * PUNA_CANDIDATES_PARTS, x + r * V,
                          puna_min(most, rows - r), V, (int)n, temperature));
        return cudaSuccess;
    });
}
