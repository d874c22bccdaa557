/*
 * A CUDA device that is no device: what native/cuda takes from the CUDA runtime, for a C++ compiler and one core. The .cu files are
 * compiled as they are, with this header in place of CUDA's, into a library with libpuna_cuda's seam, so that the operations' tests
 * and the Java tests run CUDA contexts where there is no GPU. It finds wrong arithmetic, indices, barriers that not all threads
 * reach, touches beyond an allocation and host code that reads device memory. It does not find what only hardware has: timing, races
 * that need two orders at once, wrong fragments of instructions that emulation.cpp misunderstands alike.
 *
 * The threads of a block are fibers, switched where they meet: barriers, shuffles, tensor-core products. Warps run one after
 * another between barriers, every second block from the last to the first. What cp.async copies arrives when its thread waits for it,
 * and until then there are no numbers in its place. What is queued on a stream is carried out when somebody waits for it and not before,
 * copies from host memory too: what the host reads or writes too early is seen. What a stream captures is a list of launches. Device
 * memory ends where an unreadable page begins, is itself unreadable unless a kernel or a copy runs, and holds no numbers before it is
 * written (its first MiB). A kernel that may begin before the one ahead has ended cannot read it until it takes its turn, and numbers
 * are aligned to their size, as a device wants them. PUNA_EMULATED_FAULT makes calls fail: no-driver, old-driver, no-device,
 * no-kernel, no-function (as no-kernel, by the other name), memory (all allocations from then on), illegal-address (launches).
 */
#ifndef PUNA_EMULATED_CUDA_RUNTIME_H
#define PUNA_EMULATED_CUDA_RUNTIME_H

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>

/* ------------------------------------------------- the language ------------------------------------------------------ */

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

using std::isfinite;
using std::isinf;
using std::max;
using std::min;

void emulated_launch(struct emulated_stream *stream, dim3 grid, int threads, int64_t shared_bytes, bool early,
                     const std::function<void()> &kernel);
void emulated_take_turn();
void *emulated_shared();
void __syncthreads();
int __syncthreads_or(int value);
float emulated_shuffle(float value, int from);
uint32_t emulated_shuffle(uint32_t value, int from);
template <class T> T __shfl_sync(unsigned, T value, int from) { return emulated_shuffle(value, from); }
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) { return emulated_shuffle(value, (int)(threadIdx.x % 32) ^ mask); }
uint32_t emulated_nearest_tf32(float value);
void emulated_mma_tf32(float c[4], const uint32_t a[4], const uint32_t b[2]);
uint32_t emulated_bf16(float value);
void emulated_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]);
void emulated_load_matrices(uint32_t to[4], const void *row, bool transposed);
void emulated_copy_async(void *to, const void *from, bool inside);
void emulated_commit_copies();
void emulated_wait_for_copies(int groups);

/* ------------------------------------------------- the runtime ------------------------------------------------------- */

enum cudaError_t {
    cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35, cudaErrorInvalidDeviceFunction = 98, cudaErrorNoDevice = 100, cudaErrorNoKernelImageForDevice = 209,
    cudaErrorIllegalAddress = 700, cudaErrorLaunchOutOfResources = 701, cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking, cudaHostAllocMapped, cudaEventDisableTiming, cudaStreamCaptureModeRelaxed };
typedef struct emulated_stream *cudaStream_t;
typedef struct emulated_graph *cudaGraph_t, *cudaGraphExec_t;
typedef struct emulated_event *cudaEvent_t;
struct cudaFuncAttributes {
    int ptxVersion;
};
struct cudaDeviceProp {
    char name[64];
    int major, minor, multiProcessorCount;
    size_t totalGlobalMem;
};

cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all_bytes);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, int flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, int flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, int mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);
const char *cudaGetErrorName(cudaError_t error);
inline const char *cudaGetErrorString(cudaError_t) { return "an emulated fault"; }

inline cudaError_t cudaMallocHost(void **memory, size_t bytes) {
    *memory = malloc(bytes);
    return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaHostAlloc(void **memory, size_t bytes, int) { return cudaMallocHost(memory, bytes); }
inline cudaError_t cudaHostGetDevicePointer(void **device, void *host, int) {
    *device = host;
    return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void *memory) {
    free(memory);
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }

#endif
