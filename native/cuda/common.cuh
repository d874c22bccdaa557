/*
 * What the CUDA kernels share: the context, how an operation runs on it, and the small vocabulary of their threads.
 *
 * Every operation is run(context, name, body): body queues kernels on the context's stream and returns the first error. No kernel
 * allocates, none uses an atomic, and a sum's order hangs on shapes alone, so the same call gives the same bits.
 */
#ifndef PUNA_CUDA_COMMON_CUH
#define PUNA_CUDA_COMMON_CUH

#include <cuda_runtime.h>
#include <pthread.h>
#include <stdint.h>
#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

extern "C" {
#include "kernels.h"
extern const puna_ops puna_cuda_ops;
}
#include "blocks.h"

/* ------------------------------------------------- the context ------------------------------------------------------- */

/* Scratch of the device, for the partial results of one call: calls on a context follow one another on its stream. */
constexpr int64_t kScratchBytes = 64 << 20;
/* Results that the host reads, written by kernels straight into pinned host memory. */
constexpr int64_t kResultBytes = 64 << 10;
constexpr int64_t kStagingBytes = 16 << 20;

struct cuda_context : puna_context {
    puna_fail_function fail;
    int device;
    int32_t precision; /* PUNA_PRECISION_*                                                                          */
    int processors;
    bool early; /* whether blocks of a kernel can be placed before the one ahead of it has ended                     */
    cudaStream_t stream;
    pthread_mutex_t mutex;
    char *scratch;
    void *results, *results_on_device; /* the same memory, seen from both sides                                     */
    char *staging[2];                  /* pinned; null before the first large copy                                  */
    cudaEvent_t staged[2];             /* that a copy from the staging of this number has left it                   */
    /* Of a recording: what was recorded, and the sequences of the replay in progress, on the device and as the host writes them. */
    cudaGraphExec_t graph;
    puna_kv_sequence *sequences, *sequences_here;
    char name[256];
    char poison[384]; /* the sentence of the error that the device does not recover from, or empty                  */
};

/* Says what went wrong as a status; keeps it where nothing will go right any more. */
puna_status cuda_failure(cuda_context *context, const char *op, cudaError_t error);

/* Runs body(context) as a call of op: alone on the context, on its device. */
template <class Body> puna_status run(puna_context *base, const char *op, Body body) {
    cuda_context *context = static_cast<cuda_context *>(base);
    pthread_mutex_lock(&context->mutex);
    puna_status status = PUNA_STATUS_OK;
    if (context->poison[0] != '\0') {
        status = context->fail(PUNA_STATUS_DEVICE_ERROR, "%s: the device failed before: %s", op, context->poison);
    } else {
        cudaError_t error = cudaSetDevice(context->device);
        if (error == cudaSuccess) error = body(*context);
        if (error != cudaSuccess) status = cuda_failure(context, op, error);
    }
    pthread_mutex_unlock(&context->mutex);
    return status;
}

/* Waits for what the context was asked for, before the host reads results. In a recording there is nothing to wait for. */
inline cudaError_t wait_for(cuda_context &context) {
    return context.parent != nullptr ? cudaErrorStreamCaptureUnsupported : cudaStreamSynchronize(context.stream);
}

#define CUDA_TRY(call)                                 \
    do {                                               \
        cudaError_t error_ = (call);                   \
        if (error_ != cudaSuccess) return error_;      \
    } while (0)

/* Queues a kernel. Only what a block needs beyond 48 KiB has to be asked for. early: see launch_next. */
template <class... Parameters, class... Arguments>
cudaError_t queue(cuda_context &context, bool early, void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared_bytes,
                  Arguments... arguments) {
#if defined(__CUDACC__)
    if (shared_bytes > 48 << 10)
        CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes));
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = dim3((unsigned)threads), config.dynamicSmemBytes = (size_t)shared_bytes;
    config.stream = context.stream, config.attrs = &attribute, config.numAttrs = early;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
#else
    emulated_launch(context.stream, grid, threads, shared_bytes, early, [=] { kernel(static_cast<Parameters>(arguments)...); });
    return cudaGetLastError();
#endif
}

template <class... Parameters, class... Arguments>
cudaError_t launch(cuda_context &context, void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared_bytes,
                   Arguments... arguments) {
    return queue(context, false, kernel, grid, threads, shared_bytes, arguments...);
}

/*
 * Queues a kernel that begins with take_turn(): its blocks may be placed while the one before ends, so that a generated token's
 * hundreds of short kernels leave no gaps. For those kernels alone.
 */
template <class... Parameters, class... Arguments>
cudaError_t launch_next(cuda_context &context, void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared_bytes,
                        Arguments... arguments) {
    return queue(context, context.early, kernel, grid, threads, shared_bytes, arguments...);
}

/* Lets the next kernel's blocks be placed, and waits until those before have ended and written all they write. */
__device__ inline void take_turn() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#elif !defined(__CUDACC__)
    emulated_take_turn();
#endif
}

/* Blocks of a kernel whose threads walk n items with a stride: enough to fill any device, few enough for a grid. */
inline unsigned blocks_for(int64_t n, int64_t items_per_block) {
    return (unsigned)puna_min(puna_ceil_div(n, items_per_block), 1 << 20);
}

/* Small arrays of host numbers travel with the launch, as a kernel's parameter: nothing is staged and nothing waits. */
constexpr int kListed = 512;
struct int_list {
    int32_t values[kListed];
};

inline int_list list_of(const int32_t *values, int64_t count) {
    int_list list;
    for (int64_t i = 0; i < count; i++) list.values[i] = *(const volatile int32_t *)&values[i];
    return list;
}

/* ------------------------------------------------- threads ----------------------------------------------------------- */

/* Threads of a block that works on one row. */
constexpr int kRowThreads = 256;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

struct sum_of {
    static __device__ float none() { return 0; }
    __device__ float operator()(float a, float b) const { return a + b; }
};

/* NaN is never the maximum. */
struct maximum_of {
    static __device__ float none() { return -INFINITY; }
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/* Of all lanes of a warp, in every lane: a butterfly, so that the order is one and the same. */
template <class Operation> __device__ float warp_reduce(float value) {
    Operation operation;
    for (int distance = 16; distance > 0; distance /= 2)
        value = operation(value, __shfl_xor_sync(kAllLanes, value, distance));
    return value;
}

/* Of all threads of a block of kRowThreads, in every thread. */
template <class Operation> __device__ float block_reduce(float value) {
    __shared__ float warps[kRowThreads / 32];
    value = warp_reduce<Operation>(value);
    __syncthreads(); /* whoever still reads the last result */
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    Operation operation;
    float result = warps[0];
    for (int w = 1; w < kRowThreads / 32; w++) result = operation(result, warps[w]);
    return result;
}

/*
 * Before a loop over an array that must stay in registers: where an index is not known when it is compiled, the whole array lies in
 * local memory, for the loops that matter too.
 */
#if defined(__CUDACC__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

/* The value, as if it were another: what is computed of it behind a loop is not computed before and kept in registers meanwhile. */
__device__ inline unsigned afresh(unsigned value) {
#if defined(__CUDACC__)
    asm volatile("" : "+r"(value));
#endif
    return value;
}

/* The shared memory that a launch asks for. */
#if defined(__CUDACC__)
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#else
#define DYNAMIC_SHARED(type, name) type *name = (type *)emulated_shared()
#endif

/* ------------------------------------------------- elements ---------------------------------------------------------- */

__device__ inline float f16_value(uint16_t h) {
#if defined(__CUDACC__)
    return __half2float(__ushort_as_half(h));
#else
    return puna_f16_to_f32(h);
#endif
}

__device__ inline uint16_t f16_bits(float value) {
#if defined(__CUDACC__)
    return __half_as_ushort(__float2half_rn(value));
#else
    return puna_f32_to_f16(value);
#endif
}

/* Bytes of blocks are aligned to two only. */
__device__ inline uint32_t two_bytes(const void *p) { return *(const uint16_t *)p; }
__device__ inline uint32_t four_bytes(const void *p) {
    return two_bytes(p) | two_bytes((const uint16_t *)p + 1) << 16;
}

/* Element i of a row of a plain type. */
__device__ inline float plain_value(const void *row, int32_t dtype, int64_t i) {
    if (dtype == PUNA_DTYPE_F32) return ((const float *)row)[i];
    uint16_t h = ((const uint16_t *)row)[i];
    return dtype == PUNA_DTYPE_F16 ? f16_value(h) : puna_bf16_to_f32(h);
}

#endif
