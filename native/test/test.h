/*
 * The native tests' harness.
 *
 * An operation is described once, as a test_op: its cases (shapes and types), the buffers of a case, and the call. The harness
 * runs every case on every instruction set the processor has and holds it against the scalar reference, with
 *   - every buffer flush against an unreadable page, after its end and in a second run before its start,
 *   - inputs in read-only memory, outputs filled with a pattern that padding between rows must keep,
 *   - 1, 2, 3 and 7 threads, whose bits must be identical.
 * The benchmark runs the same descriptions, and with --cuda LIBRARY the tests hold a CUDA device against the reference alike.
 *
 * To test an operation: write its test_op, declare it below, list it in test_ops (ops.c).
 */
#ifndef PUNA_TEST_H
#define PUNA_TEST_H

#include "internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------- counting ----------------------------------------------------------- */

void test_start(void);             /* before everything                                         */
int test_finish(void);             /* prints "N passed, N failed" and returns the exit status   */
void test_begin(const char *name); /* a line of the report                                      */
void test_case(const char *format, ...) __attribute__((format(printf, 1, 2)));
void test_end(void);

/* Fails the running case with a sentence when the condition does not hold; returns the condition. */
bool test_check(bool condition, const char *file, int line, const char *format, ...) __attribute__((format(printf, 4, 5)));
#define CHECK(condition, ...) test_check((condition), __FILE__, __LINE__, __VA_ARGS__)

/* This thread's last error, in memory of the test's own. */
const char *test_last_error(void);

/* ------------------------------------------------- memory and numbers -------------------------------------------------- */

typedef enum test_placement {
    TEST_GUARD_AFTER, /* ends where an unreadable page begins: the start is aligned to the element only */
    TEST_GUARD_BEFORE /* starts where an unreadable page ends: aligned to a page                         */
} test_placement;

typedef struct test_memory {
    char *data, *mapping;
    size_t bytes, mapping_bytes;
} test_memory;

test_memory test_allocate(int64_t bytes, test_placement placement);
void test_protect(test_memory memory); /* read-only from now on */
void test_free(test_memory memory);

/* The index-th number of the stream seed, uniform: 64 bits, or in [low, high). Does not depend on what was drawn before. */
uint64_t test_random(uint64_t seed, uint64_t index);
double test_uniform(uint64_t seed, uint64_t index, double low, double high);

/* ------------------------------------------------- operations --------------------------------------------------------- */

enum { TEST_DIMENSIONS = 10, TEST_BUFFERS = 16, TEST_INT32 = 100, TEST_F64 /* beside PUNA_DTYPE_* */ };

typedef enum test_role {
    TEST_INPUT,
    TEST_OUTPUT,
    TEST_IN_OUT,   /* read, then overwritten or accumulated into */
    TEST_WORKSPACE /* random before, not compared after           */
} test_role;

typedef struct test_buffer test_buffer;
struct test_buffer {
    const char *name;
    test_role role;
    int32_t dtype;
    int64_t rows, columns, stride; /* stride 0: columns. rows 0: the buffer is left out, data is null.              */
    double low, high;              /* of the uniform values it is filled with; both 0: -1 to 1                      */
    int64_t end;                   /* TEST_INT32: filled with 0 <= value < end                                       */
    bool of_host;                  /* on a device too; integers and F64 are without being told                       */
    const test_buffer *alias;      /* when not null and not the reference's run: the same memory as that buffer      */
    void (*fill)(const test_buffer *, const int64_t *d, uint64_t seed); /* instead of uniform values               */

    /* An output is right when |y - reference| <= absolute + relative * |reference|; 0 and 0: equal. NaN matches NaN. */
    double absolute, relative;

    void *data;
    int64_t bytes;
    test_memory memory;
    void *host; /* while the operation runs on a device, data is the device's and this what was there before        */
};

typedef struct test_op {
    const char *name;
    const char *dimensions; /* what d[0], d[1], … are, for messages: "rows C g_dtype" */
    const int64_t (*cases)[TEST_DIMENSIONS];
    int64_t count;
    /* Describes the buffers of a case on a context (workspaces may depend on it) and returns how many there are. */
    int (*buffers)(puna_context *, const int64_t *d, test_buffer *b);
    puna_status (*call)(puna_context *, const int64_t *d, const test_buffer *b);
    /* For the benchmark: operations done (an exponential counts as one) and bytes that must move; either may be null. */
    double (*flops)(const int64_t *d);
    double (*traffic)(const int64_t *d);
    const int64_t (*benchmarks)[TEST_DIMENSIONS];
    int64_t benchmark_count;
} test_op;

#define TEST_COUNT(array) ((int64_t)(sizeof(array) / sizeof((array)[0])))

/* One rounding to F32 to nearest changes a number by at most this fraction. */
#define TEST_EPS 0x1p-24

void test_op_against_reference(const test_op *op);

/* The same on contexts of PUNA_PRECISION_BF16, of every instruction set that rounds: for the operations of test_rounding_ops. */
void test_op_in_bf16(const test_op *op);

/*
 * From now on operations are held against the reference on a CUDA context of this library instead of the CPU's instruction sets:
 * arrays of numbers are copied to the device and back. Without it, null.
 */
extern const char *test_cuda_library;
puna_status test_open_cuda(puna_context **context);

/*
 * Holds a call on a context that rounds operands to BF16 against the reference: in the root mean square at most k times as far off as
 * a naive computation, nowhere 2 k times as far as that one anywhere, and not a number exactly where the reference has none. The naive
 * computation is the reference of rounded inputs, but of those named in kept. apart: by how many tolerances outputs may differ from
 * it, where rounding inputs is all that happens; else 0. Returns how many times as far off as naive the best output is: near 1, or far
 * below where nothing was rounded.
 */
double test_op_rounded(const test_op *op, const int64_t *d, puna_context *context, const char *kept, double k, double apart);

/* To nearest BF16, ties to even. */
float test_bf16(float value);

/* Prints the time of every benchmark of the operations whose name contains word, on such contexts: of F32's precision, then in BF16. */
void test_times_on_cuda(const char *word);

/* Allocates and fills the buffers of a case; seed decides the values. */
void test_prepare(const test_op *op, const int64_t *d, test_buffer *b, int count, bool reference, test_placement placement);
void test_release(test_buffer *b, int count);

extern const test_op *const test_ops[], *const test_rounding_ops[];
extern const int64_t test_op_count, test_rounding_op_count;

extern const test_op test_dequantize, test_embedding, test_rmsnorm, test_add, test_swiglu, test_log_softmax, test_argmax,
    test_candidates, test_rope_table, test_rope, test_matmul, test_attention, test_attention_cached, test_kv_append,
    test_embedding_backward, test_rmsnorm_backward, test_swiglu_backward, test_rope_backward, test_cross_entropy,
    test_squared_norm, test_adamw, test_matmul_input_backward, test_matmul_weight_backward,
    test_attention_backward;

/* ------------------------------------------------- the other tests ---------------------------------------------------- */

void test_runtime(void);
void test_pool(void);
void test_known_values(void);
void test_refusals(void);
void test_matmul_rows(void);
void test_attention_cuts(void);
void test_gradients(void);
void test_cuda(void);

#endif
