/*
 * The CUDA backend's seam: contexts and memory, and what libpuna finds in this library. Linked with the static runtime, so that a
 * machine needs the driver alone; without it the runtime answers with an error, which becomes a sentence.
 */
#include "common.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool recovers(cudaError_t error) {
    switch (error) {
    case cudaErrorMemoryAllocation:
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated: return true;
    default: return false;
    }
}

puna_status cuda_failure(cuda_context *context, const char *op, cudaError_t error) {
    cudaGetLastError(); /* what the runtime remembers of an error that passes */
    if (!recovers(error))
        snprintf(context->poison, sizeof context->poison, "%s on cuda:%d: %s (%s)", op, context->device, cudaGetErrorString(error),
                 cudaGetErrorName(error));
    if (error == cudaErrorMemoryAllocation)
        return context->fail(PUNA_STATUS_OUT_OF_MEMORY, "%s: cuda:%d is out of memory", op, context->device);
    if (error == cudaErrorStreamCaptureUnsupported)
        return context->fail(PUNA_STATUS_UNSUPPORTED, "%s: cannot be recorded: it writes host memory, or copies", op);
    return context->fail(PUNA_STATUS_DEVICE_ERROR, "%s: cuda:%d: %s (%s)%s", op, context->device, cudaGetErrorString(error),
                         cudaGetErrorName(error), recovers(error) ? "" : "; this context is of no use any more");
}

/* Why there is no such device, in words that say what to do. */
static puna_status no_device(puna_fail_function fail, int device, int count, cudaError_t error) {
    const puna_status unsupported = PUNA_STATUS_UNSUPPORTED;
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (error == cudaErrorInsufficientDriver && driver == 0)
        return fail(unsupported, "puna_context_create: there is no CUDA driver on this machine; install NVIDIA's driver for CUDA "
                    "%d.%d or later", runtime / 1000, runtime % 1000 / 10);
    if (error == cudaErrorInsufficientDriver)
        return fail(unsupported, "puna_context_create: the CUDA driver is too old: it serves CUDA %d.%d, and this library wants "
                    "%d.%d; update NVIDIA's driver", driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        return fail(unsupported, "puna_context_create: the CUDA driver finds no device (CUDA_VISIBLE_DEVICES hides devices)");
    if (error != cudaSuccess)
        return fail(unsupported, "puna_context_create: the CUDA driver does not start: %s (%s)", cudaGetErrorString(error),
                    cudaGetErrorName(error));
    return fail(unsupported, "puna_context_create: there is no device cuda:%d, the last one is cuda:%d", device, count - 1);
}

/* A recording's scratch and results are its parent's. What it replayed may be running still, on the parent's stream. */
static void destroy_recording(cuda_context *context) {
    if (context->parent != nullptr) cudaStreamSynchronize(static_cast<cuda_context *>(context->parent)->stream);
    if (!context->recorded.ended) { /* the stream is still recording */
        cudaGraph_t recorded = nullptr;
        cudaStreamEndCapture(context->stream, &recorded);
        if (recorded != nullptr) cudaGraphDestroy(recorded);
    }
    if (context->sequences != nullptr) cudaFree(context->sequences);
    if (context->sequences_here != nullptr) cudaFreeHost(context->sequences_here);
    if (context->staged[0] != nullptr) cudaEventDestroy(context->staged[0]);
    if (context->graph != nullptr) cudaGraphExecDestroy(context->graph);
    if (context->stream != nullptr) cudaStreamDestroy(context->stream);
    cudaGetLastError();
    pthread_mutex_destroy(&context->mutex);
    free(context);
}

static void destroy(puna_context *base) {
    cuda_context *context = static_cast<cuda_context *>(base);
    cudaSetDevice(context->device);
    if (context->parent != nullptr) {
        destroy_recording(context);
        return;
    }
    if (context->stream != nullptr) cudaStreamSynchronize(context->stream);
    for (int i = 0; i < 2; i++) {
        if (context->staging[i] != nullptr) cudaFreeHost(context->staging[i]);
        if (context->staged[i] != nullptr) cudaEventDestroy(context->staged[i]);
    }
    if (context->results != nullptr) cudaFreeHost(context->results);
    if (context->scratch != nullptr) cudaFree(context->scratch);
    if (context->stream != nullptr) cudaStreamDestroy(context->stream);
    cudaGetLastError();
    pthread_mutex_destroy(&context->mutex);
    free(context);
}

/* Every kernel of the library has the code that this one has. */
static __global__ void nothing() {}

static cudaError_t set_up(cuda_context *context) {
    cudaDeviceProp properties;
    CUDA_TRY(cudaSetDevice(context->device));
    CUDA_TRY(cudaGetDeviceProperties(&properties, context->device));
    context->processors = properties.multiProcessorCount;
    snprintf(context->name, sizeof context->name, "%.200s, sm_%d%d, %.1f GiB", properties.name, properties.major, properties.minor,
             (double)properties.totalGlobalMem / (1 << 30));
    cudaFuncAttributes attributes;
    CUDA_TRY(cudaFuncGetAttributes(&attributes, (const void *)nothing));
    context->early = attributes.ptxVersion >= 90; /* what take_turn was compiled for, whatever the device is */
    CUDA_TRY(cudaStreamCreateWithFlags(&context->stream, cudaStreamNonBlocking));
    CUDA_TRY(cudaMalloc((void **)&context->scratch, kScratchBytes));
    CUDA_TRY(cudaHostAlloc(&context->results, kResultBytes, cudaHostAllocMapped));
    CUDA_TRY(cudaHostGetDevicePointer(&context->results_on_device, context->results, 0));
    for (int i = 0; i < 2; i++) CUDA_TRY(cudaEventCreateWithFlags(&context->staged[i], cudaEventDisableTiming));
    return cudaSuccess;
}

static puna_status create(const puna_context_options *options, puna_fail_function fail, puna_context **out) {
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || options->device >= count) return no_device(fail, options->device, count, error);
    cuda_context *context = (cuda_context *)calloc(1, sizeof *context);
    if (context == nullptr) return fail(PUNA_STATUS_OUT_OF_MEMORY, "puna_context_create: no host memory for a context");
    context->ops = &puna_cuda_ops;
    context->threads = 1;
    context->fail = fail;
    context->device = options->device;
    context->precision = options->precision;
    pthread_mutex_init(&context->mutex, nullptr);
    error = set_up(context);
    if (error != cudaSuccess) {
        puna_status status = cuda_failure(context, "puna_context_create", error);
        /* Which of the two it is hangs on the runtime's version and on when it loads a kernel. */
        if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
            status = fail(PUNA_STATUS_UNSUPPORTED, "puna_context_create: cuda:%d is %s, for which this library was not built: it "
                          "serves compute capability 8.0 and later", context->device, context->name);
        destroy(context);
        return status;
    }
    *out = context;
    return PUNA_STATUS_OK;
}

static void describe(const puna_context *base, char *line, size_t capacity) {
    const cuda_context *context = static_cast<const cuda_context *>(base);
    snprintf(line, capacity, "cuda:%d %s%s", context->device, context->name,
             context->precision == PUNA_PRECISION_BF16 ? ", products and attention in BF16" : "");
}

static puna_status allocate(puna_context *base, int64_t bytes, void **memory) {
    size_t free_bytes = 0, all_bytes = 0;
    bool refused = false;
    puna_status status = run(base, "puna_memory_allocate", [&](cuda_context &) -> cudaError_t {
        cudaError_t error = cudaMalloc(memory, (size_t)bytes);
        if (error != cudaErrorMemoryAllocation && error != cudaErrorInvalidValue) return error; /* as beyond all there is */
        refused = true;
        cudaGetLastError();
        return cudaMemGetInfo(&free_bytes, &all_bytes);
    });
    if (status != PUNA_STATUS_OK || !refused) return status;
    const cuda_context *context = static_cast<const cuda_context *>(base);
    return context->fail(PUNA_STATUS_OUT_OF_MEMORY, "puna_memory_allocate: %lld bytes asked of cuda:%d, %zu of %zu are free",
                         (long long)bytes, context->device, free_bytes, all_bytes);
}

static puna_status available(puna_context *base, int64_t *free_bytes, int64_t *all_bytes) {
    return run(base, "puna_memory_available", [=](cuda_context &) -> cudaError_t {
        size_t free_now = 0, all = 0;
        CUDA_TRY(cudaMemGetInfo(&free_now, &all));
        *free_bytes = (int64_t)free_now, *all_bytes = (int64_t)all;
        return cudaSuccess;
    });
}

/* What was queued before keeps its memory until it is done. A poisoned context frees too. */
static puna_status release(puna_context *base, void *memory) {
    cuda_context *context = static_cast<cuda_context *>(base);
    pthread_mutex_lock(&context->mutex);
    cudaError_t error = cudaSetDevice(context->device);
    if (error == cudaSuccess) {
        cudaError_t failed = cudaStreamSynchronize(context->stream);
        error = cudaFree(memory);
        if (failed != cudaSuccess) error = failed;
    }
    bool known = context->poison[0] != '\0';
    if (known) cudaGetLastError();
    puna_status status = error == cudaSuccess || known ? PUNA_STATUS_OK : cuda_failure(context, "puna_memory_free", error);
    pthread_mutex_unlock(&context->mutex);
    return status;
}

/*
 * Through two pinned buffers in turn: the host fills one, which means reading a file where the source is mapped, while the device
 * fetches the other.
 */
static cudaError_t copy_staged(cuda_context &context, char *to, const char *from, int64_t bytes) {
    for (int i = 0; i < 2; i++)
        if (context.staging[i] == nullptr) CUDA_TRY(cudaMallocHost((void **)&context.staging[i], kStagingBytes));
    for (int64_t at = 0, piece = 0; at < bytes; at += kStagingBytes, piece++) {
        int i = (int)(piece % 2);
        int64_t length = puna_min(kStagingBytes, bytes - at);
        CUDA_TRY(cudaEventSynchronize(context.staged[i])); /* at once where nothing was recorded yet */
        memcpy(context.staging[i], from + at, (size_t)length);
        CUDA_TRY(cudaMemcpyAsync(to + at, context.staging[i], (size_t)length, cudaMemcpyHostToDevice, context.stream));
        CUDA_TRY(cudaEventRecord(context.staged[i], context.stream));
    }
    return cudaSuccess;
}

static puna_status copy(puna_context *base, void *to, bool to_device, const void *from, bool from_device, int64_t bytes) {
    return run(base, "puna_memory_copy", [=](cuda_context &context) -> cudaError_t {
        if (to_device && !from_device && bytes > kStagingBytes / 16)
            return copy_staged(context, (char *)to, (const char *)from, bytes);
        cudaMemcpyKind kind = !to_device ? cudaMemcpyDeviceToHost : from_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice;
        CUDA_TRY(cudaMemcpyAsync(to, from, (size_t)bytes, kind, context.stream));
        /* Of a small copy from host memory too: the driver promises little about when it has read it. */
        return to_device && from_device ? cudaSuccess : cudaStreamSynchronize(context.stream);
    });
}

static puna_status clear(puna_context *base, void *memory, int64_t bytes) {
    return run(base, "puna_memory_clear", [=](cuda_context &context) {
        return cudaMemsetAsync(memory, 0, (size_t)bytes, context.stream);
    });
}

static cudaError_t begin_recording(cuda_context *context) {
    constexpr size_t bytes = PUNA_RECORDING_MAX_SEQUENCES * sizeof(puna_kv_sequence);
    CUDA_TRY(cudaMalloc((void **)&context->sequences, bytes));
    CUDA_TRY(cudaMallocHost((void **)&context->sequences_here, bytes));
    CUDA_TRY(cudaEventCreateWithFlags(&context->staged[0], cudaEventDisableTiming));
    CUDA_TRY(cudaStreamCreateWithFlags(&context->stream, cudaStreamNonBlocking));
    /* Relaxed: other threads, and this one for other contexts, allocate as they like; calls may come from several threads. */
    return cudaStreamBeginCapture(context->stream, cudaStreamCaptureModeRelaxed);
}

static puna_status record(puna_context *base, puna_context **out) {
    const char *op = "puna_recording_begin";
    return run(base, op, [=](cuda_context &parent) -> cudaError_t {
        cuda_context *context = (cuda_context *)calloc(1, sizeof *context);
        if (context == nullptr) return cudaErrorMemoryAllocation;
        *context = parent; /* device, scratch, results and whatever else decides how a call is computed */
        context->stream = nullptr;
        for (int i = 0; i < 2; i++) context->staging[i] = nullptr, context->staged[i] = nullptr;
        pthread_mutex_init(&context->mutex, nullptr);
        cudaError_t error = begin_recording(context);
        if (error != cudaSuccess) {
            context->recorded.ended = true;
            destroy_recording(context);
            return error;
        }
        *out = context;
        return cudaSuccess;
    });
}

static puna_status end(puna_context *base) {
    return run(base, "puna_recording_end", [](cuda_context &context) -> cudaError_t {
        cudaGraph_t recorded = nullptr;
        CUDA_TRY(cudaStreamEndCapture(context.stream, &recorded));
        cudaError_t error = cudaGraphInstantiate(&context.graph, recorded, 0);
        cudaGraphDestroy(recorded);
        return error;
    });
}

/* The copy of the sequences before has been made when the host writes the next. */
static puna_status replay(puna_context *base, const puna_kv_sequence *sequences, int32_t count) {
    cuda_context *recording = static_cast<cuda_context *>(base);
    return run(base->parent, "puna_recording_replay", [=](cuda_context &context) -> cudaError_t {
        if (recording->graph == nullptr) return cudaErrorInvalidValue;
        if (count > 0) {
            size_t bytes = (size_t)count * sizeof *sequences;
            CUDA_TRY(cudaEventSynchronize(recording->staged[0]));
            memcpy(recording->sequences_here, sequences, bytes);
            CUDA_TRY(cudaMemcpyAsync(recording->sequences, recording->sequences_here, bytes, cudaMemcpyHostToDevice, context.stream));
            CUDA_TRY(cudaEventRecord(recording->staged[0], context.stream));
        }
        return cudaGraphLaunch(recording->graph, context.stream);
    });
}

extern "C" {
extern PUNA_API const puna_backend puna_cuda_backend;
const puna_backend puna_cuda_backend = {PUNA_ABI_VERSION, (int64_t)sizeof(puna_ops), create, destroy, describe, allocate, available,
                                        release, copy, clear, record, end, replay};
}
