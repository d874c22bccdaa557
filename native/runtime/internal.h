/*
 * What the library's own files share: the context, the table of operations a backend fills, the thread pool, and failing.
 *
 * A public function (runtime/ops.c) checks its arguments once and calls context->ops->same_name (puna_matmul_forward one or both
 * of two: see there). A backend is a filled
 * puna_ops: reference/ (scalar, one thread, F64 sums), cpu/ (one table per instruction set, from the same sources), and the
 * CUDA library's, which comes through dlopen. Every entry may rely on the checks of runtime/ops.c.
 */
#ifndef PUNA_INTERNAL_H
#define PUNA_INTERNAL_H

#include "puna.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct puna_pool puna_pool;

/* One entry per operation, with the public signature and the public contract; of the matrix product two. */
typedef struct puna_ops {
    const char *name; /* "reference", "avx2", …                                                                     */
    puna_status (*dequantize)(puna_context *, float *y, const void *w, int32_t dtype, int64_t rows, int64_t C);
    puna_status (*embedding_forward)(puna_context *, float *y, const void *table, int32_t dtype, const int32_t *ids,
                                     int64_t rows, int64_t V, int64_t C);
    puna_status (*embedding_backward)(puna_context *, float *dtable, const int32_t *ids, const float *dy, int64_t rows,
                                      int64_t V, int64_t C);
    puna_status (*rmsnorm_forward)(puna_context *, float *y, float *rstd, const float *x, const void *g, int32_t g_dtype,
                                   int64_t rows, int64_t C, float eps);
    puna_status (*rmsnorm_backward)(puna_context *, float *dx, float *dg, const float *x, const void *g, int32_t g_dtype,
                                    const float *rstd, const float *dy, int64_t rows, int64_t C, int32_t accumulate);
    puna_status (*add_forward)(puna_context *, float *y, const float *x, int64_t n);
    puna_status (*swiglu_forward)(puna_context *, float *y, int64_t y_stride, const float *gate, const float *up,
                                  int64_t x_stride, int64_t rows, int64_t FF);
    puna_status (*swiglu_backward)(puna_context *, float *dgate, float *dup, int64_t dx_stride, const float *gate,
                                   const float *up, int64_t x_stride, const float *dy, int64_t dy_stride, int64_t rows,
                                   int64_t FF);
    puna_status (*log_softmax_forward)(puna_context *, float *y, const float *x, int64_t rows, int64_t V);
    puna_status (*argmax_forward)(puna_context *, int32_t *y, const float *x, int64_t rows, int64_t V);
    puna_status (*candidates_forward)(puna_context *, float *values, int32_t *ids, double *sums, const float *x, int64_t rows,
                                      int64_t V, int64_t n, double temperature);
    puna_status (*rope_table)(puna_context *, float *table, const float *frequencies, const int32_t *positions,
                              int64_t rows, int64_t HD, float magnitude);
    puna_status (*rope_forward)(puna_context *, float *x, int64_t x_stride, const float *table, int32_t layout, int64_t rows,
                                int64_t heads, int64_t HD);
    puna_status (*rope_backward)(puna_context *, float *dx, int64_t dx_stride, const float *table, int32_t layout,
                                 int64_t rows, int64_t heads, int64_t HD);
    /* The activations F32. */
    int64_t (*matmul_workspace_size)(puna_context *, const puna_matmul_product *products, int32_t count, int64_t rows,
                                     int64_t K);
    puna_status (*matmul_forward)(puna_context *, const puna_matmul_product *products, int32_t count, float *const y[],
                                  const void *const w[], const float *x, int64_t x_stride, int64_t rows, int64_t K,
                                  void *workspace);
    /* All weights of block types, the activations rounded to integers. */
    int64_t (*matmul_integer_workspace_size)(puna_context *, const puna_matmul_product *products, int32_t count, int64_t rows,
                                             int64_t K, int32_t activations);
    puna_status (*matmul_integer_forward)(puna_context *, const puna_matmul_product *products, int32_t count, float *const y[],
                                          const void *const w[], const float *x, int64_t x_stride, int64_t rows, int64_t K,
                                          int32_t activations, void *workspace);
    int64_t (*matmul_backward_workspace_size)(puna_context *);
    puna_status (*matmul_input_backward)(puna_context *, float *dx, int64_t dx_stride, const void *w, int32_t w_dtype,
                                         const float *dy, int64_t dy_stride, int64_t rows, int64_t N, int64_t K,
                                         int32_t accumulate, void *workspace);
    puna_status (*matmul_weight_backward)(puna_context *, float *dw, const float *x, int64_t x_stride, const float *dy,
                                          int64_t dy_stride, int64_t rows, int64_t N, int64_t K, void *workspace);
    int64_t (*attention_workspace_size)(puna_context *, int64_t NH, int64_t NKV, int64_t HD);
    puna_status (*attention_forward)(puna_context *, float *y, int64_t y_stride, float *lse, const float *q, int64_t q_stride,
                                     const float *k, const float *v, int64_t kv_stride, int64_t B, int64_t T, int64_t S,
                                     int64_t NH, int64_t NKV, int64_t HD, int64_t window, float scale, void *workspace);
    int64_t (*attention_backward_workspace_size)(puna_context *, int64_t NH, int64_t NKV, int64_t HD);
    puna_status (*attention_backward)(puna_context *, float *dq, int64_t dq_stride, float *dk, float *dv, int64_t dkv_stride,
                                      const float *q, int64_t q_stride, const float *k, const float *v, int64_t kv_stride,
                                      const float *y, int64_t y_stride, const float *dy, int64_t dy_stride, const float *lse,
                                      int64_t B, int64_t T, int64_t S, int64_t NH, int64_t NKV, int64_t HD, int64_t window,
                                      float scale, void *workspace);
    puna_status (*kv_append)(puna_context *, const puna_kv_sequence *sequences, int32_t count, int32_t cache_dtype,
                             int64_t layer, const float *k, const float *v, int64_t kv_stride, int64_t NKV, int64_t HD);
    puna_status (*attention_cached_forward)(puna_context *, float *y, int64_t y_stride, const float *q, int64_t q_stride,
                                            const puna_kv_sequence *sequences, int32_t count, int32_t cache_dtype,
                                            int64_t layer, int64_t NH, int64_t NKV, int64_t HD, int64_t window, float scale,
                                            void *workspace);
    puna_status (*cross_entropy_forward_backward)(puna_context *, float *losses, float *dlogits, const float *logits,
                                                  const int32_t *targets, int32_t ignored, float scale, int64_t rows,
                                                  int64_t V);
    puna_status (*squared_norm)(puna_context *, double *result, const float *x, int64_t n);
    puna_status (*adamw_step)(puna_context *, float *w, float *m, float *v, const float *g, int64_t n, int64_t step,
                              double learning_rate, double beta1, double beta2, double eps, double weight_decay,
                              double gradient_scale);
} puna_ops;

typedef struct puna_backend puna_backend;

/* What the recorded calls that take sequences have in common; count is 0 while there is none. */
typedef struct puna_recorded {
    bool ended;
    int32_t count, cache_dtype;
    int64_t layers, capacity, NKV, HD;
} puna_recorded;

struct puna_context {
    const puna_ops *ops;
    puna_pool *pool; /* null: one thread                                                                            */
    int32_t threads;
    int32_t isa; /* PUNA_ISA_*, never PUNA_ISA_AUTO; 0 with a backend                                                */
    bool bf16;   /* products of plain types round both operands to BF16; false with a backend, which knows by itself */
    const puna_backend *backend; /* null: the CPU, which computes on host memory                                    */
    int64_t references; /* with a backend: the caller's, one for every piece of memory, one for every recording; by runtime/memory.c */
    puna_context *parent;   /* of a recording: whose memory it works on; else null                                  */
    puna_recorded recorded; /* of a recording                                                                       */
};

/*
 * What a backend's own library exports under the name PUNA_BACKEND_SYMBOL. Both sides must have been built from the same header
 * and the same puna_ops, which abi and ops_bytes show. fail is puna_fail, which the library cannot reach by its name; it keeps it
 * in its context. No function but destroy and describe may be called before create has succeeded.
 */
#define PUNA_BACKEND_SYMBOL "puna_cuda_backend"
typedef puna_status (*puna_fail_function)(puna_status status, const char *format, ...);
struct puna_backend {
    int32_t abi;
    int64_t ops_bytes;
    puna_status (*create)(const puna_context_options *, puna_fail_function fail, puna_context **);
    void (*destroy)(puna_context *);
    void (*describe)(const puna_context *, char *line, size_t capacity);
    puna_status (*allocate)(puna_context *, int64_t bytes, void **memory);
    puna_status (*available)(puna_context *, int64_t *free_bytes, int64_t *all_bytes);
    puna_status (*release)(puna_context *, void *memory);
    /* Which sides are the device's; at least one is. */
    puna_status (*copy)(puna_context *, void *to, bool to_device, const void *from, bool from_device, int64_t bytes);
    puna_status (*clear)(puna_context *, void *memory, int64_t bytes);
    puna_status (*record)(puna_context *parent, puna_context **recording);
    puna_status (*end)(puna_context *recording);
    puna_status (*replay)(puna_context *recording, const puna_kv_sequence *sequences, int32_t count);
};

extern const puna_ops puna_reference_ops;
extern const puna_ops puna_cpu_baseline_ops;
#if defined(__x86_64__)
extern const puna_ops puna_cpu_avx2_ops, puna_cpu_avx512_ops;
#elif defined(__aarch64__)
extern const puna_ops puna_cpu_dotprod_ops;
#endif

/* Sets this thread's last error from a printf format and returns status, so that a check reads: return puna_fail(…). */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
puna_status puna_fail(puna_status status, const char *format, ...);

/*
 * Runs body(arguments, share, thread) once for every share in [0, shares), on whichever threads are free, and returns when all
 * are done. thread is in [0, context->threads) and is the caller's alone while the share runs: index per-thread workspace by it.
 * Which thread takes which share is left open, so a share's result may depend on its number only. Shares should be several
 * times as many as threads and each worth a few microseconds or more: a thread that is descheduled then costs one share.
 * A call with one share, or on a context with one thread, runs on the caller without waking anybody.
 */
typedef void (*puna_share_body)(void *arguments, int64_t share, int32_t thread);
void puna_parallel(puna_context *context, int64_t shares, puna_share_body body, void *arguments);

/*
 * A pool of threads - 1 workers behind one context; null stands for no workers. Creating fails with PUNA_STATUS_OUT_OF_MEMORY
 * and leaves nothing behind.
 */
#define PUNA_MAX_THREADS 1024
puna_status puna_pool_create(int32_t threads, puna_pool **pool);
void puna_pool_destroy(puna_pool *pool);

/* Whether processor and operating system have PUNA_ISA_*, and how many processors this process may use (at least 1). */
bool puna_cpu_has(int32_t isa);
bool puna_cpu_has_bf16(int32_t isa); /* whether that set's kernels have instructions for products in BF16           */
int32_t puna_cpu_count(void);

/*
 * Checks that bytes at pointer are memory the context computes on: of one piece that puna_memory_allocate gave on this context, or,
 * on a context without memory of its own and where context is null, no byte of any device's.
 */
puna_status puna_check_place(const puna_context *context, const char *op, const char *name, const void *pointer, int64_t bytes);

/* Takes a reference to a context of a backend, and gives one back; the last one ends it, and gives a recording's parent back. */
void puna_context_retain(puna_context *context);
void puna_context_release(puna_context *context);

/* Copies text as puna_last_error does. */
int64_t puna_copy_text(const char *text, char *buffer, int64_t capacity);

/* Elements and bytes of a block; elements 0 when dtype is none. */
typedef struct puna_block {
    int64_t elements, bytes;
} puna_block;
puna_block puna_block_of(int32_t dtype);
const char *puna_dtype_name(int32_t dtype);

/* Bytes of a row of C elements, C a whole number of blocks. */
static inline int64_t puna_row_bytes(int32_t dtype, int64_t C) {
    puna_block block = puna_block_of(dtype);
    return C / block.elements * block.bytes;
}

/*
 * The table row of ids[r]. The ids have been checked, but another thread of the caller may have changed one since: it is read
 * once, and whatever it says, the row is one of the table's V.
 */
static inline int64_t puna_id_row(const int32_t *ids, int64_t r, int64_t V) {
    int64_t id = *(const volatile int32_t *)&ids[r];
    return id >= 0 && id < V ? id : 0;
}

static inline int64_t puna_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t puna_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t puna_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

#endif
