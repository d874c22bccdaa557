/* What cuda_runtime.h beside this file promises. */
#include "cuda_runtime.h"

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

static std::recursive_mutex device; /* one kernel, copy or allocation at a time */
static cudaError_t last_error;

static bool fault(const char *name) {
    const char *wanted = getenv("PUNA_EMULATED_FAULT");
    return wanted != nullptr && strcmp(wanted, name) == 0;
}

[[noreturn]] static void die(const char *what) {
    fprintf(stderr, "emulated device: %s, block (%u, %u, %u) thread %u\n", what, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x);
    abort();
}

/* What -fsanitize=alignment, with which this library is compiled, calls: a device takes no number from between its own addresses. */
extern "C" void __ubsan_handle_type_mismatch_v1(void *, void *) { die("a number that is not aligned to its size"); }

/* ------------------------------------------------- memory ------------------------------------------------------------ */

struct mapping {
    char *start;
    size_t bytes, mapped; /* asked for; with the unreadable page behind */
};
static std::map<void *, mapping> memory_map;
static size_t page() { return (size_t)sysconf(_SC_PAGESIZE); }

static void protect(int protection) {
    for (auto &entry : memory_map) mprotect(entry.second.start, entry.second.mapped - page(), protection);
}

struct device_use {
    std::lock_guard<std::recursive_mutex> lock{device};
    explicit device_use(bool at_once = true) {
        if (at_once) protect(PROT_READ | PROT_WRITE);
    }
    ~device_use() { protect(PROT_NONE); }
};

constexpr size_t kAllBytes = 1 << 30;
static size_t allocated;

static size_t free_now() { return fault("memory") ? 1 << 20 : kAllBytes - allocated; }

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    std::lock_guard<std::recursive_mutex> lock(device);
    size_t body = (bytes + page() - 1) / page() * page();
    if (fault("memory") || bytes > free_now()) return last_error = cudaErrorMemoryAllocation;
    void *start = mmap(nullptr, body + page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return last_error = cudaErrorMemoryAllocation;
    size_t filled = std::min(body, (size_t)1 << 20);
    mprotect(start, filled, PROT_READ | PROT_WRITE);
    memset(start, 0xFF, filled); /* NaN: what is read must have been written */
    mprotect(start, filled, PROT_NONE);
    *memory = (char *)start + body - bytes; /* less aligned than a device's: reads by 16 bytes must look */
    memory_map[*memory] = {(char *)start, bytes, body + page()};
    allocated += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory) {
    std::lock_guard<std::recursive_mutex> lock(device);
    auto at = memory_map.find(memory);
    if (at == memory_map.end()) return last_error = cudaErrorInvalidValue;
    munmap(at->second.start, at->second.mapped);
    allocated -= at->second.bytes;
    memory_map.erase(at);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all_bytes) {
    std::lock_guard<std::recursive_mutex> lock(device);
    *free_bytes = free_now(), *all_bytes = kAllBytes;
    return cudaSuccess;
}

/* ------------------------------------------------- devices and errors ------------------------------------------------ */

cudaError_t cudaGetLastError() {
    cudaError_t error = last_error;
    if (error != cudaErrorIllegalAddress || !fault("illegal-address")) last_error = cudaSuccess; /* it stays, as on a device */
    return error;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    if (fault("no-driver") || fault("old-driver")) return cudaErrorInsufficientDriver;
    if (fault("no-device")) return cudaErrorNoDevice;
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = fault("no-driver") ? 0 : fault("old-driver") ? 11040 : 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int) {
    *properties = {"emulated on one core", 0, 0, 4, kAllBytes};
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *) {
    *attributes = {90}; /* as on devices where take_turn waits */
    return fault("no-kernel") ? cudaErrorNoKernelImageForDevice : fault("no-function") ? cudaErrorInvalidDeviceFunction : cudaSuccess;
}

const char *cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorIllegalAddress ? "cudaErrorIllegalAddress" : error == cudaErrorMemoryAllocation
           ? "cudaErrorMemoryAllocation" : error == cudaErrorInvalidConfiguration ? "cudaErrorInvalidConfiguration" : "cudaError";
}

/* ------------------------------------------------- threads ----------------------------------------------------------- */

enum state { READY, AT_WARP, AT_BLOCK, DONE };
enum { SHUFFLE, MMA_TF32, MMA_BF16, LDMATRIX };
constexpr int kMostThreads = 1024;
constexpr size_t kStack = 128 << 10;

struct fiber {
    ucontext_t start;
    jmp_buf at;
    bool started;
    state where;
    int instruction; /* where AT_WARP */
    bool turn;       /* whether it took its turn, or need not */
    unsigned round;  /* which of two exchange buffers comes next */
};
static fiber fibers[kMostThreads];
static jmp_buf scheduler;
static const std::function<void()> *body;
static int current, block_or, block_or_next;
static bool locked; /* whether nobody of the kernel has taken a turn */
static char *shared_memory;

static void meet(state where) {
    fibers[current].where = where;
    if (_setjmp(fibers[current].at) == 0) _longjmp(scheduler, 1);
}

static bool copies_pending();

static void live() {
    for (;;) {
        (*body)();
        if (!fibers[current].turn) die("a kernel that may begin early and takes no turn");
        if (copies_pending()) die("a thread ends before what it copies has arrived");
        meet(DONE);
    }
}

static void resume(int thread) {
    fiber &f = fibers[thread];
    current = thread;
    threadIdx.x = (unsigned)thread;
    if (_setjmp(scheduler) != 0) return;
    if (f.started) _longjmp(f.at, 1);
    f.started = true;
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    f.start.uc_stack.ss_size = kStack;
    f.start.uc_link = nullptr;
    makecontext(&f.start, live, 0);
    setcontext(&f.start);
}

/* Runs a warp until its threads are all at a barrier of the block or done. */
static void run_warp(int first, int end) {
    for (;;) {
        for (int t = first; t < end; t++)
            if (fibers[t].where == READY) resume(t);
        int waiting = 0;
        for (int t = first; t < end; t++) waiting += fibers[t].where == AT_WARP;
        if (waiting == 0) return;
        if (waiting != 32) die("not all lanes of a warp reach its shuffle or product");
        for (int t = first; t < end; t++) {
            if (fibers[t].instruction != fibers[first].instruction) die("lanes of a warp at different instructions");
            fibers[t].where = READY;
        }
    }
}

static void run_block(int threads, bool early, bool backwards) {
    int warps = (threads + 31) / 32;
    for (int t = 0; t < threads; t++) fibers[t].where = READY, fibers[t].turn = !early;
    for (;;) {
        for (int i = 0; i < warps; i++) {
            int warp = backwards ? warps - 1 - i : i;
            run_warp(32 * warp, std::min(32 * warp + 32, threads));
        }
        int waiting = 0, done = 0;
        for (int t = 0; t < threads; t++) waiting += fibers[t].where == AT_BLOCK, done += fibers[t].where == DONE;
        if (waiting == 0) return;
        if (done > 0) die("a barrier that some threads of the block never reach");
        block_or = block_or_next, block_or_next = 0;
        for (int t = 0; t < threads; t++) fibers[t].where = READY;
    }
}

static bool can_launch(dim3 grid, int threads, int64_t shared_bytes) {
    if (fault("illegal-address")) last_error = cudaErrorIllegalAddress;
    else if (last_error == cudaSuccess && (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > INT32_MAX || grid.y > 65535 ||
             grid.z > 65535 || threads < 1 || threads > kMostThreads || shared_bytes > 99 << 10))
        last_error = cudaErrorInvalidConfiguration;
    return last_error == cudaSuccess;
}

static void run_kernel(dim3 grid, int threads, int64_t shared_bytes, bool early, const std::function<void()> &kernel) {
    device_use use(!early);
    locked = early;
    void *mapped = nullptr;
    size_t mapped_bytes = ((size_t)shared_bytes + page() - 1) / page() * page() + page();
    if (shared_bytes > 0) { /* ends where an unreadable page begins, and is no number before it is written */
        mapped = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect((char *)mapped + mapped_bytes - page(), page(), PROT_NONE);
        shared_memory = (char *)mapped + mapped_bytes - page() - shared_bytes;
        memset(shared_memory, 0xFF, (size_t)shared_bytes);
    }
    body = &kernel;
    gridDim = grid;
    blockDim = dim3((unsigned)threads);
    bool backwards = false;
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++, backwards = !backwards) run_block(threads, early, backwards);
    if (mapped != nullptr) munmap(mapped, mapped_bytes);
}

/* ------------------------------------------------- streams and graphs ------------------------------------------------ */

struct emulated_graph {
    std::vector<std::function<void()>> launches;
};
struct emulated_stream {
    emulated_graph *capture;
    std::deque<std::function<void()>> work;
    uint64_t done; /* of all that was ever queued */
};
struct emulated_event {
    emulated_stream *stream; /* null: never recorded */
    uint64_t after;
};

static void queue_work(cudaStream_t stream, std::function<void()> work) {
    std::lock_guard<std::recursive_mutex> lock(device);
    stream->work.push_back(std::move(work));
}

/* Carries out what was queued, until so much of all is done. */
static void carry_out(cudaStream_t stream, uint64_t until = UINT64_MAX) {
    std::lock_guard<std::recursive_mutex> lock(device);
    for (; stream->done < until && !stream->work.empty(); stream->done++) {
        std::function<void()> work = std::move(stream->work.front());
        stream->work.pop_front();
        work();
    }
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    queue_work(stream, [=] {
        device_use use;
        memcpy(to, from, bytes);
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    queue_work(stream, [=] {
        device_use use;
        memset(memory, value, bytes);
    });
    return cudaSuccess;
}

void emulated_launch(cudaStream_t stream, dim3 grid, int threads, int64_t shared_bytes, bool early,
                     const std::function<void()> &kernel) {
    if (!can_launch(grid, threads, shared_bytes)) return;
    std::function<void()> work = [=] { run_kernel(grid, threads, shared_bytes, early, kernel); };
    if (stream->capture == nullptr) queue_work(stream, work);
    else stream->capture->launches.push_back(work);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, int) {
    *stream = new emulated_stream{};
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    carry_out(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    carry_out(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, int) {
    *event = new emulated_event{};
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    std::lock_guard<std::recursive_mutex> lock(device);
    *event = {stream, stream->done + stream->work.size()};
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (event->stream != nullptr) carry_out(event->stream, event->after);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, int) {
    stream->capture = new emulated_graph;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = stream->capture;
    stream->capture = nullptr;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new emulated_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    for (const auto &launch : exec->launches) queue_work(stream, launch);
    return last_error;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return cudaGraphDestroy(exec); }

/* What the grid's first thread touches before is found; that the others wait too is seen when they end. */
void emulated_take_turn() {
    fibers[current].turn = true;
    if (locked) protect(PROT_READ | PROT_WRITE);
    locked = false;
}

void *emulated_shared() { return shared_memory; }
void __syncthreads() { meet(AT_BLOCK); }

int __syncthreads_or(int value) {
    block_or_next |= value;
    meet(AT_BLOCK);
    return block_or;
}

/* ------------------------------------------------- warps ------------------------------------------------------------- */

/* What the lanes of each warp hand to one another: two buffers in turn, so that a fast lane spoils nothing. */
static uint32_t exchange[2][kMostThreads][6];

static uint32_t (*hand_over(int instruction, const uint32_t *words, int count))[6] {
    fibers[current].instruction = instruction;
    unsigned round = fibers[current].round++ % 2;
    memcpy(exchange[round][current], words, (size_t)count * 4);
    meet(AT_WARP);
    return exchange[round] + current / 32 * 32;
}

uint32_t emulated_shuffle(uint32_t value, int from) { return hand_over(SHUFFLE, &value, 1)[from % 32][0]; }

float emulated_shuffle(float value, int from) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits = emulated_shuffle(bits, from);
    memcpy(&value, &bits, 4);
    return value;
}

/* Ties away from zero, as cvt.rna; of a NaN too the last 13 bits are cut off. */
uint32_t emulated_nearest_tf32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return ((bits & 0x7F800000) == 0x7F800000 ? bits : bits + 0x1000) & 0xFFFFE000;
}

static float as_tf32(uint32_t bits) {
    float value;
    bits &= 0xFFFFE000; /* the hardware does not look at the others */
    memcpy(&value, &bits, 4);
    return value;
}

static int exponent_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return std::max((int)(bits >> 23 & 255), 1) - 127;
}

/*
 * c plus n products as tensor cores add them (Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores"): products are exact,
 * all numbers are aligned to the largest and cut off 24 bits below its first, and so is the sum to F32. Nothing rounds to nearest,
 * so a long sum that is left to them drifts towards zero. That is compute capability 8.0; later devices are said to keep more.
 */
static float cut_sum(float c, const float *a, const float *b, int n) {
    int top = exponent_of(c);
    double exact = c;
    for (int i = 0; i < n; i++) {
        double product = (double)a[i] * b[i];
        exact += product;
        if (product != 0) top = std::max(top, exponent_of(a[i]) + exponent_of(b[i]));
    }
    if (!std::isfinite(exact)) return (float)exact;
    int64_t sum = (int64_t)ldexp((double)c, 24 - top);
    double unit = ldexp(1.0, 24 - top);
    for (int i = 0; i < n; i++) sum += (int64_t)((double)a[i] * b[i] * unit);
    double cut = (double)sum / unit;
    float result = (float)cut;
    return std::isfinite(result) && fabs((double)result) > fabs(cut) ? nextafterf(result, 0) : result;
}

/*
 * The layouts are those of PTX ISA, "Matrix fragments for mma.m16n8k8", written down by element, not by lane: the holder of an
 * element is computed from its row and column.
 */
void emulated_mma_tf32(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    int lane = current % 32;
    uint32_t(*warp)[6] = hand_over(MMA_TF32, words, 6);
    auto a_at = [&](int row, int k) { return as_tf32(warp[row % 8 * 4 + k % 4][(row >= 8) + 2 * (k >= 4)]); };
    auto b_at = [&](int k, int column) { return as_tf32(warp[column * 4 + k % 4][4 + (k >= 4)]); };
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 8; k += 4) { /* as of compute capability 8.0 */
            const float a_row[4] = {a_at(row, k), a_at(row, k + 1), a_at(row, k + 2), a_at(row, k + 3)};
            const float b_column[4] = {b_at(k, column), b_at(k + 1, column), b_at(k + 2, column), b_at(k + 3, column)};
            c[i] = cut_sum(c[i], a_row, b_column, 4);
        }
    }
}

/* To nearest, ties to even, as cvt.rn. */
uint32_t emulated_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return value != value ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

/* As above, by "Matrix fragments for mma.m16n8k16 with floating point type". */
void emulated_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    int lane = current % 32;
    uint32_t(*warp)[6] = hand_over(MMA_BF16, words, 6);
    auto number = [](uint32_t pair, int k) {
        uint32_t bits = k % 2 == 0 ? pair << 16 : pair & 0xFFFF0000;
        float value;
        memcpy(&value, &bits, 4);
        return value;
    };
    auto a_at = [&](int row, int k) { return number(warp[row % 8 * 4 + k % 8 / 2][(row >= 8) + 2 * (k >= 8)], k); };
    auto b_at = [&](int k, int column) { return number(warp[column * 4 + k % 8 / 2][4 + (k >= 8)], k); };
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k += 8) {
            float a_row[8], b_column[8];
            for (int j = 0; j < 8; j++) a_row[j] = a_at(row, k + j), b_column[j] = b_at(k + j, column);
            c[i] = cut_sum(c[i], a_row, b_column, 8);
        }
    }
}

/*
 * PTX ISA, "ldmatrix": lane 8 i + r has the address of row r of matrix i, eight numbers; of every matrix lane l receives numbers
 * 2 (l % 4) and the next of row l / 4, or, transposed, those of column l / 4 in rows 2 (l % 4) and the next.
 */
void emulated_load_matrices(uint32_t to[4], const void *row, bool transposed) {
    if ((uintptr_t)row % 16 != 0) die("a row of ldmatrix that is not aligned to 16 bytes");
    uint32_t words[2] = {(uint32_t)(uintptr_t)row, (uint32_t)((uintptr_t)row >> 32)};
    uint32_t(*warp)[6] = hand_over(LDMATRIX, words, 2);
    auto address = [&](int at) { return warp[at][0] | (uintptr_t)warp[at][1] << 32; };
    unsigned lines = 0; /* of 16 bytes, of this lane's matrix */
    for (int r = 0; r < 8; r++) lines |= 1u << (address(current % 32 / 8 * 8 + r) / 16 % 8);
    if (lines != 0xFF) die("two rows of a matrix in the same banks");
    auto number = [&](int matrix, int r, int column) { return (uint32_t)((const uint16_t *)address(8 * matrix + r))[column]; };
    int first = current % 32 / 4, second = current % 4 * 2;
    for (int i = 0; i < 4; i++)
        to[i] = transposed ? number(i, second, first) | number(i, second + 1, first) << 16
                : number(i, first, second) | number(i, first, second + 1) << 16;
}

/* ------------------------------------------------- copies that arrive later ------------------------------------------ */

struct pending_copy {
    char *to;
    const char *from; /* null: zeros */
};
struct pending_copies {
    std::vector<pending_copy> copies;
    std::vector<size_t> ends; /* of the groups, in copies */
};
static pending_copies pending[kMostThreads];

static bool copies_pending() { return !pending[current].copies.empty(); }

void emulated_copy_async(void *to, const void *from, bool inside) {
    if (((uintptr_t)to | (uintptr_t)from) % 16 != 0) die("an end of cp.async that is not aligned to 16 bytes");
    memset(to, 0xFF, 16);
    pending[current].copies.push_back({(char *)to, inside ? (const char *)from : nullptr});
}

void emulated_commit_copies() { pending[current].ends.push_back(pending[current].copies.size()); }

/* All but the last groups arrive. */
void emulated_wait_for_copies(int groups) {
    pending_copies &p = pending[current];
    if (p.ends.size() <= (size_t)groups) return;
    size_t arrived = p.ends.size() - (size_t)groups, n = p.ends[arrived - 1];
    for (size_t i = 0; i < n; i++) {
        if (p.copies[i].from != nullptr) memcpy(p.copies[i].to, p.copies[i].from, 16);
        else memset(p.copies[i].to, 0, 16);
    }
    p.copies.erase(p.copies.begin(), p.copies.begin() + (ptrdiff_t)n);
    p.ends.erase(p.ends.begin(), p.ends.begin() + (ptrdiff_t)arrived);
    for (size_t &end : p.ends) end -= n;
}
