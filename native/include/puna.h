/*
 * puna.h: the whole C ABI of Puna, and its manual.
 *
 * Puna computes LLaMA-family models: attention, RMSNorm, SwiGLU, RoPE and the matrix products between them. One shared
 * library holds the CPU backend; a second one, with the same operations, is opened when a context for another backend is
 * asked for. Everything here is plain C11: sized integers, floats, pointers, plain structs and numbered enums.
 *
 * DIMENSIONS, the same letters in C, CUDA, Java and the documents:
 *
 *   B   sequences in a batch             NH   query heads             V   vocabulary
 *   T   tokens of a sequence             NKV  key/value heads         L   layers
 *   S   key/value rows of a sequence     HD   width of a head         N   rows of a weight, columns of its product
 *   C   width of the model               FF   width of feed-forward   K   columns of a weight, the summed dimension
 *   rows  all tokens of a step together, whichever sequence they belong to: a step advances many sequences at once
 *
 * SHAPES are row-major, the last dimension contiguous: (rows, C) means element (r, c) is at r * C + c. A row stride, where
 * there is one, is counted in elements and may not be less than the row's width.
 *
 * CONTRACT OF EVERY FUNCTION, unless its own text says otherwise:
 *   - It returns a puna_status. The sentence behind a status other than PUNA_STATUS_OK is puna_last_error() on that thread.
 *     Arguments are checked before anything is written: after PUNA_STATUS_INVALID_ARGUMENT or PUNA_STATUS_UNSUPPORTED every
 *     output is untouched. After any other failure outputs are unspecified. Nothing ever ends the process.
 *   - "=" overwrites an output, "+=" accumulates into it. Forward outputs and gradients of activations are "=";
 *     gradients of parameters are "+=".
 *   - Outputs may not overlap inputs, except where "may alias" stands. Pointers need their element's natural alignment only.
 *   - Sums are accumulated in F32 in an order that depends on the operation's own dimension alone: the same input gives the
 *     same bits whatever the number of threads, the number of rows beside it, or how a prompt was cut into steps.
 *     (The scalar reference accumulates in F64.)
 *   - It may be called from any thread; calls on one context run one after another, calls on two contexts side by side.
 *   - It allocates nothing. Where scratch memory is needed its size is asked first (puna_<op>_workspace_size) and the caller
 *     owns it: 64-byte alignment is best, none is required, its content is undefined before and after.
 *   - It does not keep a pointer after it returns. No pointer to memory of the caller travels inside a struct, except where a
 *     cache does (puna_kv_sequence), so that a managed runtime can keep alive what it passes for as long as the call runs.
 *
 * ON A DEVICE WITH MEMORY OF ITS OWN (a context of PUNA_BACKEND_CUDA) the same calls mean the same, with these differences:
 *   - Arrays of numbers (float *, weights, caches, workspaces) must be memory of puna_memory_allocate on that very context. What
 *     steers a call is host memory on every context: structs, ids, positions, targets, the results of puna_argmax_forward,
 *     puna_candidates_forward and puna_squared_norm. Memory of the wrong place is PUNA_STATUS_INVALID_ARGUMENT.
 *   - A call may return before the device has done what it asks; calls on one context are done in their order all the same, and
 *     one that writes host memory waits. A failure of the device may so be told by a later call. One that the device cannot
 *     recover from is told by every later call on the context, each with PUNA_STATUS_DEVICE_ERROR and the first sentence.
 *   - The order of a sum may also depend on whether a step has more than a few rows (eight in a matrix product, sixteen of a
 *     sequence in attention), for which another kernel serves. It is fixed otherwise: the same call gives the same bits.
 *   - Workspaces are of no bytes: a context brings its own.
 *   - Heads are at most 256 wide, else PUNA_STATUS_UNSUPPORTED.
 */
#ifndef PUNA_H
#define PUNA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define PUNA_API __declspec(dllexport)
#else
#define PUNA_API __attribute__((visibility("default")))
#endif

/* Raised whenever a signature, struct, enum value or contract in this file changes. */
#define PUNA_ABI_VERSION 10

/* ---------------------------------------------------------------------------------------------------------------------
 * Status, errors, identity
 * ------------------------------------------------------------------------------------------------------------------ */

typedef int32_t puna_status;

enum {
    PUNA_STATUS_OK = 0,
    PUNA_STATUS_INVALID_ARGUMENT = 1, /* an argument is outside its documented range; nothing was written          */
    PUNA_STATUS_UNSUPPORTED = 2,      /* a valid request that this backend cannot serve; nothing was written        */
    PUNA_STATUS_OUT_OF_MEMORY = 3,    /* host or device memory ran out; the sentence gives the bytes asked          */
    PUNA_STATUS_DEVICE_ERROR = 4,     /* the device or its driver failed; the context may be unusable from now on   */
    PUNA_STATUS_INTERNAL = 5          /* a defect of the library                                                    */
};

/* Returns PUNA_ABI_VERSION as compiled into the library. A caller built against another number must not go on. */
PUNA_API int32_t puna_abi_version(void);

/* Returns one line about the build (version, compiler, instruction sets compiled in): a static string, never null. */
PUNA_API const char *puna_build_info(void);

/*
 * Copies the sentence of this thread's last failure into buffer, zero-terminated and cut to capacity bytes.
 * Returns the sentence's whole length without the zero: 0 when nothing has failed on this thread. buffer may be null when
 * capacity is 0. A later success does not clear it.
 */
PUNA_API int64_t puna_last_error(char *buffer, int64_t capacity);

/* ---------------------------------------------------------------------------------------------------------------------
 * Element types
 * ------------------------------------------------------------------------------------------------------------------ */

/*
 * F32, F16 (IEEE 754 binary16) and BF16 (upper half of an F32) are plain elements. The others are blocks along a row, as in
 * GGUF files; d and m are F16, q an unsigned integer of the width named, every product and sum rounded to F32:
 *
 *   type   elements  bytes  bits/weight  layout                                      value
 *   Q8_0         32     34         8.5   d, int8 q[32]                               d * q
 *   Q4_0         32     18         4.5   d, 16 bytes: low nibbles 0-15, high 16-31   d * (q - 8)
 *   Q4_K        256    144         4.5   d, m, 12 bytes of 6-bit scales and mins     (d * scale) * q - (m * min)
 *                                        (8 each), 128 bytes of nibbles
 *   Q6_K        256    210      6.5625   128 bytes low 4 bits, 64 bytes high 2 bits, (d * scale) * (q - 32)
 *                                        int8 scale[16], d
 *
 * A row of a block type must be a whole number of blocks; rows follow one another without padding.
 */
enum {
    PUNA_DTYPE_F32 = 0,
    PUNA_DTYPE_F16 = 1,
    PUNA_DTYPE_BF16 = 2,
    PUNA_DTYPE_Q8_0 = 3,
    PUNA_DTYPE_Q4_0 = 4,
    PUNA_DTYPE_Q4_K = 5,
    PUNA_DTYPE_Q6_K = 6,
    PUNA_DTYPE_COUNT = 7
};

/* Writes the elements and bytes of one block of dtype (1 and the element's size for plain types). No context is needed. */
PUNA_API puna_status puna_dtype_block(int32_t dtype, int64_t *elements, int64_t *bytes);

/* ---------------------------------------------------------------------------------------------------------------------
 * Context: a device and what it takes to work on it
 * ------------------------------------------------------------------------------------------------------------------ */

typedef struct puna_context puna_context;

enum {
    PUNA_BACKEND_CPU = 0,
    PUNA_BACKEND_CUDA = 1
};

enum {
    PUNA_ISA_AUTO = 0,      /* the best this processor has                                                          */
    PUNA_ISA_REFERENCE = 1, /* the scalar reference kernels, one thread: slow, accumulated in F64                   */
    PUNA_ISA_BASELINE = 2,  /* what every processor of the architecture has (SSE2 on x86-64, NEON on aarch64)       */
    PUNA_ISA_AVX2 = 3,      /* AVX2, FMA and F16C                                                                   */
    PUNA_ISA_AVX512 = 4,    /* AVX-512 F, BW, DQ, VL, VNNI                                                          */
    PUNA_ISA_AMX = 5,       /* the same kernels, but for matrix products on AMX's tiles: the same bits of block types   */
    PUNA_ISA_DOTPROD = 6    /* aarch64: NEON with dot products of bytes (Armv8.2), the baseline's bits              */
};

enum {
    PUNA_PRECISION_F32 = 0, /* products are as exact as F32's                                                       */
    PUNA_PRECISION_BF16 = 1 /* matrix products and their backward passes round both operands to BF16, ties to even; sums stay F32.
                               On CUDA those of more than eight rows, all backward passes, and attention of sixteen rows of a
                               sequence or more, forward and backward, its weights too, unless it is too long for the context's
                               scratch; on PUNA_ISA_AMX, PUNA_ISA_AVX512 with AVX512-BF16, and PUNA_ISA_REFERENCE, products with
                               weights of plain types; on other CPUs, which would gain nothing by it, none. Never those of
                               PUNA_ACTIVATIONS_INT8 and _INT16. */
};

typedef struct puna_context_options {
    int32_t backend; /* PUNA_BACKEND_*                                                                              */
    int32_t device;  /* ordinal of the device within the backend; 0 for the CPU                                     */
    int32_t threads; /* CPU: threads that compute, the caller included, 1 to 1024; 0: as many as this process may use */
    int32_t isa;     /* CPU: PUNA_ISA_*                                                                             */
    int32_t precision; /* PUNA_PRECISION_*                                                                          */
} puna_context_options;

/*
 * Opens a device. *context owns threads - 1 worker threads, which sleep between calls, until puna_context_destroy.
 * library: path of the backend's own shared library, zero-terminated; ignored (may be null) for the CPU. It is opened with the
 *          first context and stays open.
 * PUNA_STATUS_UNSUPPORTED: the processor lacks the instruction set asked for, or the backend, its library, its driver or the
 * device is not there: the sentence says which.
 */
PUNA_API puna_status puna_context_create(const puna_context_options *options, const char *library, puna_context **context);

/*
 * Ends the threads and frees the context. Null is allowed. No call on the context may be running or follow, but
 * puna_memory_free: memory that was allocated on the context outlives it, and the device is let go with the last of it.
 */
PUNA_API void puna_context_destroy(puna_context *context);

/* Copies one line about the context ("cpu avx2, 2 threads") as puna_last_error does, and returns its length. */
PUNA_API int64_t puna_context_describe(const puna_context *context, char *buffer, int64_t capacity);

/*
 * Allocates memory of the context's device, for use with this context alone. Its address is the device's: the host may neither
 * read nor write it. Content is undefined, alignment 256 bytes.
 *   bytes   at least 1
 *   memory  receives the address; unchanged when the call fails
 * PUNA_STATUS_UNSUPPORTED: the context computes on host memory (the CPU). PUNA_STATUS_OUT_OF_MEMORY: the sentence gives the bytes
 * asked and the bytes free.
 */
PUNA_API puna_status puna_memory_allocate(puna_context *context, int64_t bytes, void **memory);

/*
 * Writes the bytes of the context's device that are free and those it has. Others who use the device take from them at any time.
 * PUNA_STATUS_UNSUPPORTED: the context computes on host memory (the CPU).
 */
PUNA_API puna_status puna_memory_available(puna_context *context, int64_t *free_bytes, int64_t *all_bytes);

/*
 * Frees memory of puna_memory_allocate, after what was asked of it before. Null is allowed. The context may have been destroyed.
 * No other call that uses the memory may be running or follow.
 */
PUNA_API puna_status puna_memory_free(puna_context *context, void *memory);

/*
 * Copies bytes, in the order of the context's calls. Either side, or both, is memory of this context's device; the other is host
 * memory, of any kind. After it returns host memory may be reused, and holds what was asked for. Large copies to the device go
 * through pinned memory, one piece being read while the one before travels. On a CPU both are host memory, and all its threads copy.
 * The two may not overlap.
 */
PUNA_API puna_status puna_memory_copy(puna_context *context, void *to, const void *from, int64_t bytes);

/* Sets bytes of this context's device memory, or on a CPU of the host's, to zero, in the order of the context's calls. */
PUNA_API puna_status puna_memory_clear(puna_context *context, void *memory, int64_t bytes);

/* ---------------------------------------------------------------------------------------------------------------------
 * Rows
 * ------------------------------------------------------------------------------------------------------------------ */

/*
 * Decodes rows of any element type: y[r, c] = value of w[r, c], exact for every type (see the table above).
 *   y  (rows, C) F32, =
 *   w  (rows, C) of dtype
 */
PUNA_API puna_status puna_dequantize(puna_context *context, float *y, const void *w, int32_t dtype, int64_t rows, int64_t C);

/*
 * Looks token rows up: y[r, :] = table[ids[r], :], decoded to F32.
 *   y      (rows, C) F32, =
 *   table  (V, C) of dtype
 *   ids    (rows) int32, each 0 <= id < V, else PUNA_STATUS_INVALID_ARGUMENT
 */
PUNA_API puna_status puna_embedding_forward(puna_context *context, float *y, const void *table, int32_t dtype,
                                            const int32_t *ids, int64_t rows, int64_t V, int64_t C);

/*
 * Its backward pass: dtable[ids[r], :] += dy[r, :], one row after another in the order of r, so that an id that repeats has
 * one order too.
 *   dtable  (V, C) F32, +=
 *   ids     (rows) int32, each 0 <= id < V, else PUNA_STATUS_INVALID_ARGUMENT
 *   dy      (rows, C) F32
 */
PUNA_API puna_status puna_embedding_backward(puna_context *context, float *dtable, const int32_t *ids, const float *dy,
                                             int64_t rows, int64_t V, int64_t C);

/*
 * Root-mean-square normalisation (Zhang and Sennrich 2019, as LLaMA uses it):
 *   rstd[r] = 1 / sqrt(mean over c of x[r, c]^2 + eps)        y[r, c] = x[r, c] * rstd[r] * g[c]
 *   y      (rows, C) F32, =; may alias x
 *   rstd   (rows) F32, =; null when it is not wanted (a backward pass wants it)
 *   x      (rows, C) F32
 *   g      (C) of dtype F32, F16 or BF16
 */
PUNA_API puna_status puna_rmsnorm_forward(puna_context *context, float *y, float *rstd, const float *x, const void *g,
                                          int32_t g_dtype, int64_t rows, int64_t C, float eps);

/*
 * Its backward pass. With a[r] = mean over c of dy[r, c] * g[c] * x[r, c]:
 *   dx[r, c] (= or +=) rstd[r] * (dy[r, c] * g[c] - x[r, c] * rstd[r]^2 * a[r])
 *   dg[c] += sum over r of dy[r, c] * (x[r, c] * rstd[r])
 *   dx     (rows, C) F32; may alias dy when accumulate is 0
 *   dg     (C) F32, +=; null when it is not wanted. Its sums take the rows in order, 64 at a time, and then those sums.
 *   x, g   as in the forward pass
 *   rstd   (rows) F32 from the forward pass
 *   dy     (rows, C) F32
 *   accumulate  0: dx =, 1: dx +=, the gradient of a residual stream
 */
PUNA_API puna_status puna_rmsnorm_backward(puna_context *context, float *dx, float *dg, const float *x, const void *g,
                                           int32_t g_dtype, const float *rstd, const float *dy, int64_t rows, int64_t C,
                                           int32_t accumulate);

/*
 * Adds: y[i] += x[i].
 *   y  (n) F32, +=
 *   x  (n) F32
 */
PUNA_API puna_status puna_add_forward(puna_context *context, float *y, const float *x, int64_t n);

/*
 * The gate of LLaMA's feed-forward (Shazeer 2020): y = silu(gate) * up, silu(a) = a / (1 + exp(-a)).
 *   y         (rows, FF) F32, row stride y_stride, =; may alias gate or up when the strides are equal
 *   gate, up  (rows, FF) F32, row stride x_stride both
 */
PUNA_API puna_status puna_swiglu_forward(puna_context *context, float *y, int64_t y_stride, const float *gate,
                                         const float *up, int64_t x_stride, int64_t rows, int64_t FF);

/*
 * Its backward pass, s = 1 / (1 + exp(-gate)):
 *   dgate = dy * up * s * (1 + gate * (1 - s))        dup = dy * silu(gate)
 *   dgate, dup  (rows, FF) F32, row stride dx_stride both, =; where the strides are equal dgate may alias gate or dy, and dup
 *               may alias up or dy
 *   gate, up    (rows, FF) F32, row stride x_stride both
 *   dy          (rows, FF) F32, row stride dy_stride
 */
PUNA_API puna_status puna_swiglu_backward(puna_context *context, float *dgate, float *dup, int64_t dx_stride,
                                          const float *gate, const float *up, int64_t x_stride, const float *dy,
                                          int64_t dy_stride, int64_t rows, int64_t FF);

/*
 * Logarithm of softmax, in nats: y[r, v] = x[r, v] - max - log(sum over j of exp(x[r, j] - max)).
 *   y  (rows, V) F32, =; may alias x
 *   x  (rows, V) F32
 */
PUNA_API puna_status puna_log_softmax_forward(puna_context *context, float *y, const float *x, int64_t rows, int64_t V);

/*
 * Index of the largest element: y[r] = the lowest v with x[r, v] equal to the maximum. NaN is never the maximum;
 * a row of nothing but NaN gives 0.
 *   y  (rows) int32, =
 *   x  (rows, V) F32, V < 2^31
 */
PUNA_API puna_status puna_argmax_forward(puna_context *context, int32_t *y, const float *x, int64_t rows, int64_t V);

#define PUNA_CANDIDATES_MAX 1024
#define PUNA_CANDIDATES_PARTS 256

/*
 * What a sampler has to know of a row of logits: the n largest, and what all together weigh.
 *   values[r, i], ids[r, i] = the element after i others and its index: the largest first, among equals the lowest index; NaN last
 *   sums[r, p] = sum over v in part p of exp((x[r, v] - values[r, 0]) / temperature), in F64
 * Part p of a row are its elements from p * ceil(V / PUNA_CANDIDATES_PARTS) on, as many. An element equal to the largest weighs
 * 1, also when it is infinite, NaN weighs 0. Sums are off by less than 1e-12 of themselves on every backend.
 *   values  (rows, n) F32, =
 *   ids     (rows, n) int32, =
 *   sums    (rows, PUNA_CANDIDATES_PARTS) F64, =; null when they are not wanted
 *   x       (rows, V) F32, V < 2^31
 *   n       1 to V, at most PUNA_CANDIDATES_MAX
 *   temperature  finite and above 0; not looked at when sums is null
 */
PUNA_API puna_status puna_candidates_forward(puna_context *context, float *values, int32_t *ids, double *sums, const float *x,
                                             int64_t rows, int64_t V, int64_t n, double temperature);

/* ---------------------------------------------------------------------------------------------------------------------
 * Rotary position embedding (Su et al. 2021)
 * ------------------------------------------------------------------------------------------------------------------ */

/* Which two elements of a head make a pair. The two are related by a permutation of the rows of wq and wk. */
enum {
    PUNA_ROPE_INTERLEAVED = 0, /* (2i, 2i + 1): Meta's checkpoints, GGUF                                            */
    PUNA_ROPE_HALVES = 1       /* (i, i + HD / 2): Hugging Face                                                     */
};

/*
 * The rotations of a step, made once and used by every layer: a = positions[r] * frequencies[i], the product rounded to F32
 * (as the Hugging Face reference does), then
 *   table[r, i, 0] = cos(a) * magnitude        table[r, i, 1] = sin(a) * magnitude
 * Scaling (linear, llama3, YaRN, dynamic NTK) is a matter of the frequencies and the magnitude alone.
 *   table        (rows, HD / 2, 2) F32, =
 *   frequencies  (HD / 2) F32, radians per position
 *   positions    (rows) int32, each >= 0
 *   HD           even
 */
PUNA_API puna_status puna_rope_table(puna_context *context, float *table, const float *frequencies,
                                     const int32_t *positions, int64_t rows, int64_t HD, float magnitude);

/*
 * Rotates every head of every row in place: for each pair (a, b) with (c, s) = table[r, i]:  a' = a*c - b*s,  b' = a*s + b*c.
 *   x       (rows, heads, HD) F32, row stride x_stride, overwritten. Queries and keys that lie side by side in a row are
 *           rotated by one call with heads = NH + NKV.
 *   table   (rows, HD / 2, 2) F32 from puna_rope_table
 *   layout  PUNA_ROPE_*
 */
PUNA_API puna_status puna_rope_forward(puna_context *context, float *x, int64_t x_stride, const float *table,
                                       int32_t layout, int64_t rows, int64_t heads, int64_t HD);

/*
 * Its backward pass, in place: the rotation by the negative angle, for each pair  a' = a*c + b*s,  b' = b*c - a*s.
 *   dx  (rows, heads, HD) F32, row stride dx_stride, overwritten: the gradient of the rotated heads becomes that of the heads
 * table and layout as in the forward pass.
 */
PUNA_API puna_status puna_rope_backward(puna_context *context, float *dx, int64_t dx_stride, const float *table,
                                        int32_t layout, int64_t rows, int64_t heads, int64_t HD);

/* ---------------------------------------------------------------------------------------------------------------------
 * Matrix product
 * ------------------------------------------------------------------------------------------------------------------ */

#define PUNA_MATMUL_MAX_PRODUCTS 3

/* One product of a call: y (rows, N) = or += x (rows, K) times the transpose of w (N, K). */
typedef struct puna_matmul_product {
    int64_t N;          /* >= 1                                                                                     */
    int64_t y_stride;   /* elements between rows of y, >= N                                                         */
    int32_t w_dtype;    /* any PUNA_DTYPE_*                                                                         */
    int32_t accumulate; /* 0: y =, 1: y +=                                                                          */
} puna_matmul_product;

/* How activations meet weights of block types. Weights of plain types are always multiplied with x as it is. */
enum {
    PUNA_ACTIVATIONS_F32 = 0,  /* x stays F32                                                                       */
    PUNA_ACTIVATIONS_INT8 = 1, /* x is first rounded to int8, 32 at a time: fastest, about as exact as Q8_0 is      */
    PUNA_ACTIVATIONS_INT16 = 2 /* x is first rounded to int16, 32 at a time: 256 times as exact, nearly as fast     */
};

/* Writes the bytes of workspace that puna_matmul_forward wants for these products, rows, K and activations. May be 0. */
PUNA_API puna_status puna_matmul_workspace_size(puna_context *context, const puna_matmul_product *products, int32_t count,
                                                int64_t rows, int64_t K, int32_t activations, int64_t *bytes);

/*
 * One to three products of the same activations (query, key and value; gate and up):
 *   y_p[r, n] (= or +=) sum over k of x[r, k] * w_p[n, k]          for p < count
 *   y0..y2  (rows, N_p) F32, row stride products[p].y_stride; null from count on. They may not overlap each other.
 *   w0..w2  (N_p, K) of products[p].w_dtype; null from count on
 *   x       (rows, K) F32, row stride x_stride
 *   K       a whole number of blocks of every w_dtype
 *   activations  PUNA_ACTIVATIONS_*
 *
 * With PUNA_ACTIVATIONS_F32 weights of block types are decoded exactly. On PUNA_ISA_AMX products with F32, F16 and BF16 weights may
 * be computed of pieces in BF16 that add up to F32's precision: numbers below 2^-126 count as 0, and what is infinite may give NaN.
 *
 * With PUNA_ACTIVATIONS_INT8 and _INT16 such weights meet activations rounded 32 at a time to q = rint(x * (t / a)) and d_x = a / t,
 * where a is the largest |x| of the 32 and t is 127 or 32,512. All of it is F32, ties go to even, and a below 2^-100 counts as 0.
 * For each group of 32 elements, for Q6_K of 16, in order of k,
 *   Q8_0  Q4_0   y += (d * d_x) * sum of q_w * q               q_w: what multiplies d in the table of types
 *   Q4_K  Q6_K   y += ((d * scale) * d_x) * sum of q_w * q     q_w: without the scale
 *   Q4_K         and then y -= (m * min) * (d_x * sum of q)
 * The sums of integers are exact and then rounded to F32 once; each product of factors is rounded, each += is one fused
 * multiply-add (on the baseline of x86-64 two roundings). An element that is NaN or infinite makes its row of y NaN.
 */
PUNA_API puna_status puna_matmul_forward(puna_context *context, const puna_matmul_product *products, int32_t count,
                                         float *y0, const void *w0, float *y1, const void *w1, float *y2, const void *w2,
                                         const float *x, int64_t x_stride, int64_t rows, int64_t K, int32_t activations,
                                         void *workspace, int64_t workspace_bytes);

/* Writes the bytes of workspace that the backward passes of a matrix product want on this context. May be 0. */
PUNA_API puna_status puna_matmul_backward_workspace_size(puna_context *context, int64_t *bytes);

/*
 * The gradient of a product's activations: dx[r, k] (= or +=) sum over n of dy[r, n] * w[n, k].
 *   dx  (rows, K) F32, row stride dx_stride
 *   w   (N, K) of dtype F32, F16 or BF16
 *   dy  (rows, N) F32, row stride dy_stride
 *   accumulate  0: dx =, 1: dx +=, for products that share their activations
 * Sums are taken in stretches of consecutive n, which are added to dx one after another.
 */
PUNA_API puna_status puna_matmul_input_backward(puna_context *context, float *dx, int64_t dx_stride, const void *w,
                                                int32_t w_dtype, const float *dy, int64_t dy_stride, int64_t rows, int64_t N,
                                                int64_t K, int32_t accumulate, void *workspace, int64_t workspace_bytes);

/*
 * The gradient of a product's weight: dw[n, k] += sum over r of dy[r, n] * x[r, k].
 *   dw  (N, K) F32, +=
 *   x   (rows, K) F32, row stride x_stride
 *   dy  (rows, N) F32, row stride dy_stride
 * Sums are taken in stretches of consecutive rows, which are added to dw one after another.
 */
PUNA_API puna_status puna_matmul_weight_backward(puna_context *context, float *dw, const float *x, int64_t x_stride,
                                                 const float *dy, int64_t dy_stride, int64_t rows, int64_t N, int64_t K,
                                                 void *workspace, int64_t workspace_bytes);

/* ---------------------------------------------------------------------------------------------------------------------
 * Attention
 *
 * A query at position p of its sequence sees the keys at positions j with p - window < j <= p (window 0: all j <= p).
 * Query head h reads key/value head h / (NH / NKV). With s[j] = scale * q . k[j] over the visible j:
 *   y = sum over j of softmax(s)[j] * v[j]          lse = log(sum over j of exp(s[j]))
 * Softmax is computed online: memory is O(HD) a row, hidden scores are never computed. NH must be a multiple of NKV.
 * ------------------------------------------------------------------------------------------------------------------ */

/* Writes the bytes of workspace that either attention wants on this context. May be 0. */
PUNA_API puna_status puna_attention_workspace_size(puna_context *context, int64_t NH, int64_t NKV, int64_t HD,
                                                   int64_t *bytes);

/*
 * Causal attention on plain arrays. Query t of a sequence stands at position S - T + t, so S = T is a whole prompt and
 * T = 1 the next token.
 *   y     (B, T, NH, HD) F32, row stride y_stride (between tokens), =
 *   lse   (B, NH, T) F32, =; null when it is not wanted (a backward pass wants it)
 *   q     (B, T, NH, HD) F32, row stride q_stride
 *   k, v  (B, S, NKV, HD) F32, row stride kv_stride, S >= T
 */
PUNA_API puna_status puna_attention_forward(puna_context *context, float *y, int64_t y_stride, float *lse, const float *q,
                                            int64_t q_stride, const float *k, const float *v, int64_t kv_stride, int64_t B,
                                            int64_t T, int64_t S, int64_t NH, int64_t NKV, int64_t HD, int64_t window,
                                            float scale, void *workspace, int64_t workspace_bytes);

/* Writes the bytes of workspace that the backward pass of attention wants on this context. May be 0. */
PUNA_API puna_status puna_attention_backward_workspace_size(puna_context *context, int64_t NH, int64_t NKV, int64_t HD,
                                                            int64_t *bytes);

/*
 * Its backward pass. Weights p[j] = exp(s[j] - lse) are computed again, a block at a time, and memory is O(HD) a thread. For each
 * query row with ds[j] = p[j] * (dy . v[j] - dy . y) over its visible j:
 *   dq = scale * sum over j of ds[j] * k[j]
 *   dk[j] = scale * sum of ds[j] * q     dv[j] = sum of p[j] * dy     over the rows that see j, of all heads that read it
 * A key that no row sees has the gradient 0. Sums are taken in blocks of consecutive keys, or rows, which are added up one after
 * another. B * NKV threads can take part. Numbers that are not finite may spread to the gradients of rows and keys near by.
 *   dq         (B, T, NH, HD) F32, row stride dq_stride (between tokens), =
 *   dk, dv     (B, S, NKV, HD) F32, row stride dkv_stride, =. The three may be columns of one array.
 *   q, k, v    as in the forward pass
 *   y, lse     of the forward pass: (B, T, NH, HD) F32, row stride y_stride; (B, NH, T) F32
 *   dy         (B, T, NH, HD) F32, row stride dy_stride
 */
PUNA_API puna_status puna_attention_backward(puna_context *context, float *dq, int64_t dq_stride, float *dk, float *dv,
                                             int64_t dkv_stride, const float *q, int64_t q_stride, const float *k,
                                             const float *v, int64_t kv_stride, const float *y, int64_t y_stride,
                                             const float *dy, int64_t dy_stride, const float *lse, int64_t B, int64_t T,
                                             int64_t S, int64_t NH, int64_t NKV, int64_t HD, int64_t window, float scale,
                                             void *workspace, int64_t workspace_bytes);

/*
 * One sequence's part in a step and where its keys and values live. The cache is borrowed for the call; nothing else in this
 * header hides a pointer in a struct, so whoever manages memory guards caches himself while a call runs.
 *   cache  (L, 2, NKV, capacity, HD) of cache_dtype, F32, F16, BF16 or Q8_0: keys at [layer, 0], values at [layer, 1]. For Q8_0 HD
 *          is a multiple of 32.
 */
typedef struct puna_kv_sequence {
    void *cache;
    int64_t capacity; /* S, rows there is room for                                                                  */
    int64_t position; /* rows that hold keys and values from earlier steps; position + rows <= capacity             */
    int64_t rows;     /* T, rows of this step: the sequences' rows follow one another in the step's arrays          */
} puna_kv_sequence;

/*
 * Stores a step's keys and values of one layer: for sequence s and its row t, cache[layer, 0, h, position + t, :] = k and
 * cache[layer, 1, h, position + t, :] = v, rounded to cache_dtype, to nearest even: too large becomes infinite, NaN stays NaN. For
 * Q8_0, of each 32 elements, with a the largest |x|: q = rint(x * (127 / a)) in F32, and d = a / 127 rounded to F16; a below 2^-100
 * counts as 0; d = NaN and q = 0 where an element is NaN or infinite.
 *   sequences  (count)
 *   k, v       (rows, NKV, HD) F32, row stride kv_stride, rows = the sum of sequences[].rows
 */
PUNA_API puna_status puna_kv_append(puna_context *context, const puna_kv_sequence *sequences, int32_t count,
                                    int32_t cache_dtype, int64_t layer, const float *k, const float *v, int64_t kv_stride,
                                    int64_t NKV, int64_t HD);

/*
 * Causal attention of a step against its sequences' caches, which already hold the step's own keys and values.
 * Row t of sequence s stands at sequences[s].position + t.
 *   y          (rows, NH, HD) F32, row stride y_stride, =
 *   q          (rows, NH, HD) F32, row stride q_stride
 *   sequences  (count)
 */
PUNA_API puna_status puna_attention_cached_forward(puna_context *context, float *y, int64_t y_stride, const float *q,
                                                   int64_t q_stride, const puna_kv_sequence *sequences, int32_t count,
                                                   int32_t cache_dtype, int64_t layer, int64_t NH, int64_t NKV, int64_t HD,
                                                   int64_t window, float scale, void *workspace, int64_t workspace_bytes);

/* ---------------------------------------------------------------------------------------------------------------------
 * Loss and optimiser
 * ------------------------------------------------------------------------------------------------------------------ */

/*
 * Softmax cross-entropy of rows of logits and its gradient in one pass. A row depends on itself alone, so a caller may walk
 * his rows in chunks and never hold all their logits. With p = softmax(logits[r]) and t = targets[r]:
 *   losses[r] = -log p[t], in nats        dlogits[r, v] = scale * (p[v] - (1 if v = t else 0))
 * A row whose target is ignored has the loss 0 and the gradient 0 throughout, whatever its logits.
 *   losses   (rows) F32, =
 *   dlogits  (rows, V) F32, =; may alias logits; null when only the losses are wanted
 *   logits   (rows, V) F32, V < 2^31
 *   targets  (rows) int32, each 0 <= target < V or equal to ignored, else PUNA_STATUS_INVALID_ARGUMENT
 *   scale    of the gradient, finite: 1 / (targets that count) for the gradient of their mean loss
 */
PUNA_API puna_status puna_cross_entropy_forward_backward(puna_context *context, float *losses, float *dlogits,
                                                         const float *logits, const int32_t *targets, int32_t ignored,
                                                         float scale, int64_t rows, int64_t V);

/*
 * The sum of the squares of n numbers in F64, the square of a gradient's norm: *result = sum over i of x[i]^2.
 * Order: 256 parts of ceil(n / 256) elements, in each of which lane i mod 8 sums its own and the lanes are added from the
 * first; then the parts from the first. Every product and sum is in F64, so nothing overflows before the result does.
 *   result  (1) F64, =
 *   x       (n) F32
 */
PUNA_API puna_status puna_squared_norm(puna_context *context, double *result, const float *x, int64_t n);

/*
 * One step of AdamW (Loshchilov and Hutter 2019) on n parameters. With h = gradient_scale * g and t = step:
 *   m = beta1 * m + (1 - beta1) * h        v = beta2 * v + (1 - beta2) * h^2
 *   w = w * (1 - learning_rate * weight_decay) - learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
 * Clipping the gradient's norm is a matter of gradient_scale. The coefficients are formed in F64 and rounded to F32.
 *   w, m, v  (n) F32, overwritten; m and v are zero before the first step
 *   g        (n) F32
 *   step     t >= 1: which step this is, counted from one
 *   beta1, beta2  in [0, 1);  learning_rate, eps, weight_decay finite and >= 0;  gradient_scale finite
 */
PUNA_API puna_status puna_adamw_step(puna_context *context, float *w, float *m, float *v, const float *g, int64_t n,
                                     int64_t step, double learning_rate, double beta1, double beta2, double eps,
                                     double weight_decay, double gradient_scale);

/* ---------------------------------------------------------------------------------------------------------------------
 * Recordings: a step's calls made once and carried out many times, with one call of the driver
 * ------------------------------------------------------------------------------------------------------------------ */

#define PUNA_RECORDING_MAX_SEQUENCES 256

/*
 * Begins a recording: *recording is a context on which calls are not carried out, but recorded. Memory of context is its memory; it
 * has none of its own, and holds context until puna_context_destroy ends it. Calls on context itself go on as ever meanwhile.
 *
 * Recorded are all arguments of a call, addresses and numbers, ids and positions included, but the sequences of puna_kv_append and
 * puna_attention_cached_forward, which each replay brings anew. These have one row each, are at most PUNA_RECORDING_MAX_SEQUENCES, and
 * alike in all calls of a recording. PUNA_STATUS_UNSUPPORTED: they are not, or the call is one that writes host memory or copies.
 * After a call that failed the recording is of no use.
 * PUNA_STATUS_UNSUPPORTED of puna_recording_begin: the context is a CPU, which has nothing to gain, or a recording.
 */
PUNA_API puna_status puna_recording_begin(puna_context *context, puna_context **recording);

/* Ends a recording, which from now on takes puna_recording_replay, puna_context_describe and puna_context_destroy. */
PUNA_API puna_status puna_recording_end(puna_context *recording);

/*
 * Carries the recorded calls out, in the order of the calls on the context that was recorded for. Results have the bits of the same
 * calls on that context, but where attention reaches beyond 2^18 keys. All memory that they name, of weights and activations alike,
 * has to be there still: nothing looks.
 *   sequences  (count) of as many as were recorded, one row each, of no larger capacity than the largest of those; null and 0 where
 *              none were. Caches are of the type recorded and reach up to the highest layer.
 */
PUNA_API puna_status puna_recording_replay(puna_context *recording, const puna_kv_sequence *sequences, int32_t count);

#ifdef __cplusplus
}
#endif

/* The layouts that a binding computes for itself must be these. */
#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define PUNA_STATIC_ASSERT _Static_assert
#elif defined(__cplusplus)
#define PUNA_STATIC_ASSERT static_assert
#endif
#ifdef PUNA_STATIC_ASSERT
#include <stddef.h>
PUNA_STATIC_ASSERT(sizeof(puna_context_options) == 20, "puna_context_options");
PUNA_STATIC_ASSERT(sizeof(puna_matmul_product) == 24, "puna_matmul_product");
PUNA_STATIC_ASSERT(offsetof(puna_matmul_product, w_dtype) == 16, "puna_matmul_product");
PUNA_STATIC_ASSERT(sizeof(puna_kv_sequence) == 32, "puna_kv_sequence");
PUNA_STATIC_ASSERT(offsetof(puna_kv_sequence, rows) == 24, "puna_kv_sequence");
#endif

#endif
