#include "test.h"

#include "blocks.h"

#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------- counting ----------------------------------------------------------- */

static struct {
    const char *line;
    char name[256];
    bool open, failed;
    int64_t passed, failures, complaints; /* of the line */
    int64_t all_passed, all_failed;
} report;

enum { COMPLAINTS_PRINTED = 10 };

static void close_case(void) {
    if (!report.open) return;
    report.open = false;
    if (report.failed) report.failures++;
    else report.passed++;
}

void test_begin(const char *name) {
    report.line = name;
    report.passed = report.failures = report.complaints = 0;
}

void test_case(const char *format, ...) {
    close_case();
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(report.name, sizeof report.name, format, arguments);
    va_end(arguments);
    report.open = true;
    report.failed = false;
}

void test_end(void) {
    close_case();
    printf("%-6s %-28s %5lld cases\n", report.failures > 0 ? "FAILED" : "ok", report.line,
           (long long)(report.passed + report.failures));
    fflush(stdout);
    report.all_passed += report.passed;
    report.all_failed += report.failures;
}

bool test_check(bool condition, const char *file, int line, const char *format, ...) {
    if (condition) return true;
    report.failed = true;
    if (report.complaints++ < COMPLAINTS_PRINTED) {
        char sentence[512];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(sentence, sizeof sentence, format, arguments);
        va_end(arguments);
        const char *slash = strrchr(file, '/');
        printf("       %s [%s]: %s (%s:%d)\n", report.line, report.name, sentence, slash != NULL ? slash + 1 : file, line);
    }
    return false;
}

const char *test_last_error(void) {
    static _Thread_local char sentence[512];
    puna_last_error(sentence, sizeof sentence);
    return sentence;
}

/* ------------------------------------------------- memory ------------------------------------------------------------- */

static void give_up(const char *what) {
    perror(what);
    exit(2);
}

test_memory test_allocate(int64_t bytes, test_placement placement) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = ((size_t)bytes + page - 1) / page * page;
    if (body == 0) body = page;
    test_memory memory = {.bytes = (size_t)bytes, .mapping_bytes = body + 2 * page};
    memory.mapping = mmap(NULL, memory.mapping_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory.mapping == MAP_FAILED) give_up("mmap");
    if (mprotect(memory.mapping + page, body, PROT_READ | PROT_WRITE) != 0) give_up("mprotect");
    memory.data = memory.mapping + page + (placement == TEST_GUARD_AFTER ? body - (size_t)bytes : 0);
    return memory;
}

void test_protect(test_memory memory) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (mprotect(memory.mapping + page, memory.mapping_bytes - 2 * page, PROT_READ) != 0) give_up("mprotect");
}

static void unprotect(test_memory memory) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (mprotect(memory.mapping + page, memory.mapping_bytes - 2 * page, PROT_READ | PROT_WRITE) != 0) give_up("mprotect");
}

void test_free(test_memory memory) {
    if (memory.mapping != NULL) munmap(memory.mapping, memory.mapping_bytes);
}

/* ------------------------------------------------- numbers ------------------------------------------------------------ */

uint64_t test_random(uint64_t seed, uint64_t index) { /* splitmix64 */
    uint64_t z = seed * 0xD1342543DE82EF95u + (index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

double test_uniform(uint64_t seed, uint64_t index, double low, double high) {
    return low + (high - low) * ((double)(test_random(seed, index) >> 11) * 0x1p-53);
}

/* Random quants and scales; the F16 factors of a block are small, of either sign and never special. */
static void fill_blocks(const test_buffer *b, uint64_t seed) {
    puna_block block = puna_block_of(b->dtype);
    uint8_t *bytes = b->data;
    for (int64_t i = 0; i < b->bytes; i++) bytes[i] = (uint8_t)test_random(seed, (uint64_t)i);
    int64_t first = b->dtype == PUNA_DTYPE_Q6_K ? 208 : 0, factors = b->dtype == PUNA_DTYPE_Q4_K ? 2 : 1;
    double width = b->dtype == PUNA_DTYPE_Q8_0 ? 0.01 : b->dtype == PUNA_DTYPE_Q4_0 ? 0.1 : 0.002;
    for (int64_t i = 0; i < b->bytes / block.bytes; i++)
        for (int64_t f = 0; f < factors; f++) {
            uint16_t h = puna_f32_to_f16((float)test_uniform(seed + 1, (uint64_t)(i * 2 + f), -width, width));
            memcpy(bytes + i * block.bytes + first + 2 * f, &h, 2);
        }
}

static void fill(const test_buffer *b, uint64_t seed) {
    double low = b->low, high = b->high;
    if (low == 0 && high == 0) low = -1, high = 1;
    int64_t n = b->rows * b->stride;
    switch (b->dtype) {
    case PUNA_DTYPE_F32:
        for (int64_t i = 0; i < n; i++) ((float *)b->data)[i] = (float)test_uniform(seed, (uint64_t)i, low, high);
        break;
    case PUNA_DTYPE_F16:
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)b->data)[i] = puna_f32_to_f16((float)test_uniform(seed, (uint64_t)i, low, high));
        break;
    case PUNA_DTYPE_BF16:
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)b->data)[i] = (uint16_t)(puna_f32_to_bits((float)test_uniform(seed, (uint64_t)i, low, high)) >> 16);
        break;
    case TEST_INT32:
        for (int64_t i = 0; i < n; i++) ((int32_t *)b->data)[i] = (int32_t)(test_random(seed, (uint64_t)i) % (uint64_t)b->end);
        break;
    default: fill_blocks(b, seed);
    }
}

/* ------------------------------------------------- operations --------------------------------------------------------- */

static int64_t elements_to_bytes(int32_t dtype, int64_t elements) {
    return dtype == TEST_INT32 ? elements * 4 : dtype == TEST_F64 ? elements * 8 : puna_row_bytes(dtype, elements);
}

void test_prepare(const test_op *op, const int64_t *d, test_buffer *b, int count, bool reference, test_placement placement) {
    (void)op;
    for (int i = 0; i < count; i++) {
        if (b[i].stride == 0) b[i].stride = b[i].columns;
        /* Behind the last row there is no padding, so that the guard is where the operation may read last. */
        int64_t elements = b[i].rows == 0 ? 0 : (b[i].rows - 1) * b[i].stride + b[i].columns;
        b[i].bytes = elements_to_bytes(b[i].dtype, elements);
        if (b[i].rows == 0 || (b[i].alias != NULL && !reference)) continue;
        b[i].memory = test_allocate(b[i].bytes, placement);
        b[i].data = b[i].memory.data;
        uint64_t seed = (uint64_t)i + 1;
        if (b[i].role == TEST_OUTPUT) {
            memset(b[i].data, 0xC5, (size_t)b[i].bytes);
        } else if (b[i].fill != NULL) {
            b[i].fill(&b[i], d, seed);
        } else {
            test_buffer whole = b[i];
            whole.rows = 1, whole.columns = whole.stride = elements;
            fill(&whole, seed);
        }
    }
    for (int i = 0; i < count; i++)
        if (b[i].alias != NULL && b[i].data == NULL && b[i].rows > 0) b[i].data = b[i].alias->data;
    for (int i = 0; i < count; i++) {
        bool written = b[i].role != TEST_INPUT;
        for (int other = 0; other < count; other++) written |= !reference && b[other].alias == &b[i];
        if (!written && b[i].memory.mapping != NULL) test_protect(b[i].memory);
    }
}

void test_release(test_buffer *b, int count) {
    for (int i = 0; i < count; i++) test_free(b[i].memory);
}

static bool compared(const test_buffer *b) {
    return (b->role == TEST_OUTPUT || b->role == TEST_IN_OUT) && b->rows > 0;
}

static double value_of(const test_buffer *b, int64_t i) {
    return b->dtype == TEST_F64 ? ((double *)b->data)[i] : (double)puna_value(b->data, b->dtype, i);
}

static bool close_enough(double y, double expected, const test_buffer *b) {
    if (isnan(expected) || isnan(y)) return isnan(expected) && isnan(y);
    return y == expected || fabs(y - expected) <= b->absolute + b->relative * fabs(expected);
}

/* Values within the tolerance, padding between rows untouched: there both hold what was there before. An aliased output's
 * padding is its input's, so it is not compared. */
static void compare(const test_buffer *b, const test_buffer *expected, const char *what) {
    int64_t wrong = 0, size = elements_to_bytes(b->dtype, 1); /* 0 of blocks, whose values are compared */
    for (int64_t r = 0; r < b->rows; r++)
        for (int64_t c = 0; c < (r + 1 < b->rows ? b->stride : b->columns); c++) {
            int64_t i = r * b->stride + c;
            bool same = size > 0 && memcmp((char *)b->data + i * size, (char *)expected->data + i * size, (size_t)size) == 0;
            if (same) continue;
            if (c >= b->columns) {
                if (b->alias == NULL && wrong++ == 0)
                    CHECK(false, "%s: padding of %s behind row %lld was written", what, b->name, (long long)r);
            } else if (b->dtype == TEST_INT32) {
                if (wrong++ == 0)
                    CHECK(false, "%s: %s[%lld, %lld] is %d, expected %d", what, b->name, (long long)r, (long long)c,
                          ((int32_t *)b->data)[i], ((int32_t *)expected->data)[i]);
            } else {
                double y = value_of(b, i), e = value_of(expected, i);
                if (!close_enough(y, e, b) && wrong++ == 0)
                    CHECK(false, "%s: %s[%lld, %lld] is %.9g, expected %.9g: off by %.3g, allowed %.3g", what, b->name,
                          (long long)r, (long long)c, y, e, fabs(y - e), b->absolute + b->relative * fabs(e));
            }
        }
    if (wrong > 1) CHECK(false, "%s: %lld elements of %s are wrong", what, (long long)wrong, b->name);
}

typedef struct backend {
    puna_context *context;
    int32_t isa, threads;
    char name[64];
} backend;

/*
 * For each precision the reference, then every instruction set that has it with every number of threads; opened once, by the first
 * operation tested.
 */
enum { PRECISIONS = PUNA_PRECISION_BF16 + 1 };
static backend backends[PRECISIONS][20];
static int backend_count[PRECISIONS];

static void open_backend(int32_t precision, int32_t isa, int32_t threads) {
    puna_context_options options = {PUNA_BACKEND_CPU, 0, threads, isa, precision};
    backend *b = &backends[precision][backend_count[precision]];
    puna_status status = puna_context_create(&options, NULL, &b->context);
    if (status == PUNA_STATUS_UNSUPPORTED) return; /* this processor lacks it */
    if (status != PUNA_STATUS_OK) {
        printf("%s\n", test_last_error());
        exit(2);
    }
    b->isa = isa;
    b->threads = threads;
    if (b->context->bf16 != (precision == PUNA_PRECISION_BF16)) { /* it computes in F32 all the same */
        puna_context_destroy(b->context);
        return;
    }
    puna_context_describe(b->context, b->name, sizeof b->name);
    backend_count[precision]++;
}

const char *test_cuda_library;

puna_status test_open_cuda(puna_context **context) {
    puna_context_options options = {PUNA_BACKEND_CUDA, 0, 0, PUNA_ISA_AUTO, PUNA_PRECISION_F32};
    return puna_context_create(&options, test_cuda_library, context);
}

/* Twice, so that a second run, with its memory elsewhere, is held against the bits of the first. */
static void open_cuda(void) {
    for (int32_t run = 1; run <= 2; run++) {
        backend *b = &backends[PUNA_PRECISION_F32][backend_count[PUNA_PRECISION_F32]++];
        if (test_open_cuda(&b->context) != PUNA_STATUS_OK) {
            printf("%s\n", test_last_error());
            exit(2);
        }
        b->threads = run;
        puna_context_describe(b->context, b->name, sizeof b->name);
    }
}

static void open_backends(void) {
    if (backend_count[PUNA_PRECISION_F32] > 0) return;
    for (int32_t p = 0; p < PRECISIONS; p++) open_backend(p, PUNA_ISA_REFERENCE, 1);
    if (test_cuda_library != NULL) {
        open_cuda();
        return;
    }
    const int32_t isas[] = {PUNA_ISA_BASELINE, PUNA_ISA_AVX2, PUNA_ISA_AVX512, PUNA_ISA_AMX, PUNA_ISA_DOTPROD};
    const int32_t threads[] = {1, 2, 3, 7};
    for (int32_t p = 0; p < PRECISIONS; p++)
        for (int i = 0; i < TEST_COUNT(isas); i++)
            for (int t = 0; t < 4; t++) open_backend(p, isas[i], threads[t]);
}

static void close_backends(void) {
    for (int32_t p = 0; p < PRECISIONS; p++)
        while (backend_count[p] > 0) puna_context_destroy(backends[p][--backend_count[p]].context);
}

/* What steers a call stays on the host: see puna.h. */
static bool stays(const test_buffer *b) {
    return b->of_host || b->dtype == TEST_INT32 || b->dtype == TEST_F64 || b->bytes == 0;
}

static void to_device(puna_context *context, test_buffer *b, int count) {
    for (int i = 0; i < count; i++) {
        if (stays(&b[i]) || b[i].memory.mapping == NULL) continue;
        b[i].host = b[i].data;
        CHECK(puna_memory_allocate(context, b[i].bytes, &b[i].data) == PUNA_STATUS_OK &&
              puna_memory_copy(context, b[i].data, b[i].host, b[i].bytes) == PUNA_STATUS_OK, "%s", test_last_error());
    }
    for (int i = 0; i < count; i++)
        if (b[i].alias != NULL && b[i].memory.mapping == NULL && b[i].rows > 0) b[i].data = b[i].alias->data;
}

static void from_device(puna_context *context, test_buffer *b, int count) {
    for (int i = 0; i < count; i++) {
        if (b[i].host == NULL) continue;
        if (b[i].role == TEST_INPUT) unprotect(b[i].memory);
        CHECK(puna_memory_copy(context, b[i].host, b[i].data, b[i].bytes) == PUNA_STATUS_OK &&
              puna_memory_free(context, b[i].data) == PUNA_STATUS_OK, "%s", test_last_error());
        b[i].data = b[i].host;
    }
    for (int i = 0; i < count; i++)
        if (b[i].alias != NULL && b[i].memory.mapping == NULL && b[i].rows > 0) b[i].data = b[i].alias->data;
}

static int run(const test_op *op, const backend *on, const int64_t *d, test_placement placement, test_buffer *b) {
    memset(b, 0, TEST_BUFFERS * sizeof *b);
    int count = op->buffers(on->context, d, b);
    test_prepare(op, d, b, count, on->isa == PUNA_ISA_REFERENCE, placement);
    if (on->context->backend != NULL) to_device(on->context, b, count);
    puna_status status = op->call(on->context, d, b);
    if (on->context->backend != NULL) from_device(on->context, b, count);
    CHECK(status == PUNA_STATUS_OK, "%s: status %d, %s", on->name, status, test_last_error());
    return count;
}

static void describe_case(const test_op *op, const int64_t *d, char *text, size_t capacity) {
    size_t at = 0;
    const char *name = op->dimensions;
    for (int i = 0; *name != '\0' && at < capacity; i++) {
        int length = (int)strcspn(name, " ");
        at += (size_t)snprintf(text + at, capacity - at, "%s%.*s=%lld", i > 0 ? " " : "", length, name, (long long)d[i]);
        name += length;
        name += strspn(name, " ");
    }
}

static void case_against_reference(const test_op *op, const int64_t *d, int32_t precision) {
    const backend *all = backends[precision];
    char text[200];
    describe_case(op, d, text, sizeof text);
    test_buffer expected[TEST_BUFFERS], first[TEST_BUFFERS], again[TEST_BUFFERS];
    test_case("%s", text);
    int count = run(op, &all[0], d, TEST_GUARD_AFTER, expected);
    for (int i = 1; i < backend_count[precision]; i++) {
        bool one_thread = all[i].threads == 1; /* these come first, and the others are held against their bits */
        test_buffer *result = one_thread ? first : again;
        if (one_thread) {
            test_case("%s, %s", text, all[i].name);
            if (i > 1) test_release(first, count);
        }
        run(op, &all[i], d, one_thread ? TEST_GUARD_AFTER : TEST_GUARD_BEFORE, result);
        for (int k = 0; k < count; k++) {
            if (!compared(&result[k])) continue;
            if (one_thread) compare(&result[k], &expected[k], all[i].name);
            else CHECK(memcmp(result[k].data, first[k].data, (size_t)first[k].bytes) == 0,
                       "%s: the bits of %s differ from those of one thread", all[i].name, result[k].name);
        }
        if (!one_thread) test_release(again, count);
    }
    test_release(first, count);
    test_release(expected, count);
}

void test_op_against_reference(const test_op *op) {
    open_backends();
    test_begin(op->name);
    for (int64_t c = 0; c < op->count; c++) case_against_reference(op, op->cases[c], PUNA_PRECISION_F32);
    test_end();
}

void test_op_in_bf16(const test_op *op) {
    char name[64];
    open_backends();
    if (backend_count[PUNA_PRECISION_BF16] < 2) return; /* nothing but the reference */
    snprintf(name, sizeof name, "%s in BF16", op->name);
    test_begin(name);
    for (int64_t c = 0; c < op->count; c++) case_against_reference(op, op->cases[c], PUNA_PRECISION_BF16);
    test_end();
}

/* ------------------------------------------------- in BF16 ----------------------------------------------------------- */

/* By another way than the kernels': 8 significant bits. Subnormal numbers do not occur. */
float test_bf16(float value) {
    int exponent;
    double fraction = frexp(value, &exponent);
    return (float)ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8);
}

/* Inputs as the exact computation had them, rounded; blocks, which cannot hold that, are plain arrays here. */
static void round_inputs(test_buffer *b, const test_buffer *exact, int count, const char *kept) {
    for (int i = 0; i < count; i++) {
        if (b[i].role != TEST_INPUT || b[i].memory.mapping == NULL || strstr(kept, b[i].name) != NULL) continue;
        unprotect(b[i].memory);
        for (int64_t k = 0; k < b[i].bytes / elements_to_bytes(b[i].dtype, 1); k++) {
            float value = test_bf16((float)value_of(&exact[i], k));
            if (b[i].dtype == PUNA_DTYPE_F32) ((float *)b[i].data)[k] = value;
            else if (b[i].dtype == PUNA_DTYPE_F16) ((uint16_t *)b[i].data)[k] = puna_f32_to_f16(value);
            else ((uint16_t *)b[i].data)[k] = (uint16_t)(puna_f32_to_bits(value) >> 16);
        }
    }
}

/* Returns how many times as far off as naive it is. */
static double compare_rounded(const test_buffer *got, const test_buffer *exact, const test_buffer *naive, double k, double apart) {
    double off = 0, naive_off = 0, worst = 0, naive_worst = 0, n = (double)(got->rows * got->columns);
    for (int64_t r = 0; r < got->rows; r++)
        for (int64_t c = 0; c < got->columns; c++) {
            int64_t i = r * got->stride + c;
            double y = value_of(got, i), e = value_of(exact, i), e_naive = value_of(naive, i);
            if (!isfinite(e) || !isfinite(y)) {
                if (!CHECK(close_enough(y, e, got), "%s[%lld, %lld] is %g, expected %g", got->name, (long long)r, (long long)c, y,
                           e)) return 0;
                continue;
            }
            off += (y - e) * (y - e);
            naive_off += (e_naive - e) * (e_naive - e);
            worst = fmax(worst, fabs(y - e));
            naive_worst = fmax(naive_worst, fabs(e_naive - e));
            if (apart > 0 && !CHECK(fabs(y - e_naive) <= apart * (got->absolute + got->relative * fabs(e_naive)),
                                    "%s[%lld, %lld] is %.9g, of rounded operands it is %.9g", got->name, (long long)r, (long long)c, y,
                                    e_naive)) return 0;
        }
    CHECK(sqrt(off / n) <= k * sqrt(naive_off / n) + got->absolute, "%s is off by %g, a naive computation by %g", got->name,
          sqrt(off / n), sqrt(naive_off / n));
    CHECK(worst <= 2 * k * naive_worst + got->absolute, "%s is off by up to %g, a naive computation by %g", got->name, worst, naive_worst);
    for (int64_t i = 0; i < (got->rows - 1) * got->stride; i++)
        if (i % got->stride >= got->columns &&
            !CHECK(((uint32_t *)got->data)[i] == ((uint32_t *)exact->data)[i], "padding of %s was written", got->name)) break;
    return naive_off > 0 ? sqrt(off / naive_off) : INFINITY;
}

double test_op_rounded(const test_op *op, const int64_t *d, puna_context *context, const char *kept, double k, double apart) {
    open_backends();
    const backend *reference = &backends[PUNA_PRECISION_F32][0], on = {.context = context, .name = "BF16"};
    test_buffer exact[TEST_BUFFERS], naive[TEST_BUFFERS], got[TEST_BUFFERS], again[TEST_BUFFERS];
    char text[200];
    describe_case(op, d, text, sizeof text);
    test_case("BF16 %s %s", op->name, text);
    int count = run(op, reference, d, TEST_GUARD_AFTER, exact);
    int64_t plain[TEST_DIMENSIONS];
    memcpy(plain, d, sizeof plain);
    if (strncmp(op->dimensions, "dtype", 5) == 0 && d[0] >= PUNA_DTYPE_Q8_0) plain[0] = PUNA_DTYPE_F32;
    memset(naive, 0, sizeof naive);
    op->buffers(reference->context, plain, naive);
    test_prepare(op, plain, naive, count, true, TEST_GUARD_AFTER);
    round_inputs(naive, exact, count, kept);
    CHECK(op->call(reference->context, plain, naive) == PUNA_STATUS_OK, "%s", test_last_error());
    run(op, &on, d, TEST_GUARD_AFTER, got);
    run(op, &on, d, TEST_GUARD_BEFORE, again);
    double least = INFINITY;
    for (int i = 0; i < count; i++) {
        if (!compared(&got[i])) continue;
        least = fmin(least, compare_rounded(&got[i], &exact[i], &naive[i], k, apart));
        CHECK(memcmp(got[i].data, again[i].data, (size_t)got[i].bytes) == 0, "the bits of %s differ", got[i].name);
    }
    test_release(exact, count), test_release(naive, count), test_release(got, count), test_release(again, count);
    return least;
}

/* ------------------------------------------------- times on a device ------------------------------------------------- */

enum { TIMED_CALLS = 20, TIMED_RUNS = 9, TIMED_SETS = 16, COPIED_BYTES = 256 << 20, COLD_BYTES = 256 << 20 };

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* An operation and, in turn, several copies of its buffers, so that what a call reads has left the device's caches. */
typedef struct timed_call {
    puna_context *context;
    const test_op *op; /* null: a copy within memory */
    const int64_t *d;
    test_buffer sets[TIMED_SETS][TEST_BUFFERS];
    int count, next;
    char *memory;
} timed_call;

static puna_status call_timed(timed_call *t) {
    if (t->op == NULL) return puna_memory_copy(t->context, t->memory, t->memory + COPIED_BYTES, COPIED_BYTES);
    return t->op->call(t->context, t->d, t->sets[t->next++ % t->count]);
}

/* Seconds of calls queued one behind another and waited for once, a call; not a number when one fails. */
static double time_run(timed_call *t, int calls) {
    float waited;
    double start = seconds();
    for (int i = 0; i < calls; i++)
        if (call_timed(t) != PUNA_STATUS_OK) return NAN;
    if (puna_memory_copy(t->context, &waited, t->memory, sizeof waited) != PUNA_STATUS_OK) return NAN;
    return (seconds() - start) / calls;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median over runs, which are few and short where calls are long. */
static double time_calls(timed_call *t) {
    double times[TIMED_RUNS];
    time_run(t, 1); /* loads the kernels */
    double once = time_run(t, 1);
    int runs = once > 0.05 ? 3 : TIMED_RUNS, calls = (int)fmin(TIMED_CALLS, fmax(1, 0.02 / once));
    for (int run = 0; run < runs; run++) times[run] = time_run(t, calls);
    qsort(times, (size_t)runs, sizeof *times, ascending);
    return times[runs / 2];
}

/* Whether a context that rounds operands to BF16 computes this otherwise. */
static bool rounds(const test_op *op, const int64_t *d) {
    if (op == &test_matmul) return d[1] > 8 && d[7] == PUNA_ACTIVATIONS_F32;
    if (op == &test_attention) return d[1] >= 16;
    return op == &test_matmul_input_backward || op == &test_matmul_weight_backward || op == &test_attention_backward;
}

static void time_benchmark(timed_call *t, bool in_bf16, double copied) {
    int64_t bytes = 0;
    test_buffer *first = t->sets[0];
    memset(t->sets, 0, sizeof t->sets);
    t->next = 0, t->count = 1;
    int count = t->op->buffers(t->context, t->d, first);
    test_prepare(t->op, t->d, first, count, true, TEST_GUARD_BEFORE);
    for (int i = 0; i < count; i++) bytes += first[i].bytes;
    t->count = (int)puna_max(1, puna_min(TIMED_SETS, COLD_BYTES / puna_max(bytes, 1)));
    for (int s = 1; s < t->count; s++) memcpy(t->sets[s], first, sizeof t->sets[s]);
    for (int s = 0; s < t->count; s++) to_device(t->context, t->sets[s], count);
    double time = time_calls(t);
    for (int s = 0; s < t->count; s++)
        for (int i = 0; i < count; i++)
            if (t->sets[s][i].host != NULL) puna_memory_free(t->context, t->sets[s][i].data);
    test_release(first, count);
    char text[200];
    describe_case(t->op, t->d, text, sizeof text);
    printf("%-32s %-72s %10.1f us", t->op->name, text, time * 1e6);
    if (in_bf16) printf(" in BF16");
    if (t->op->flops != NULL) printf(" %9.1f GFLOP/s", t->op->flops(t->d) / time * 1e-9);
    if (t->op->traffic != NULL) {
        double rate = t->op->traffic(t->d) / time;
        printf(" %9.1f GB/s, %.0f %% of a copy's", rate * 1e-9, 100 * rate / copied);
    }
    printf("\n");
    fflush(stdout);
}

void test_times_on_cuda(const char *word) {
    for (int32_t precision = PUNA_PRECISION_F32; precision <= PUNA_PRECISION_BF16; precision++) {
        static timed_call t;
        puna_context_options options = {PUNA_BACKEND_CUDA, 0, 0, PUNA_ISA_AUTO, precision};
        void *memory = NULL;
        char line[256];
        memset(&t, 0, sizeof t);
        if (puna_context_create(&options, test_cuda_library, &t.context) != PUNA_STATUS_OK ||
            puna_memory_allocate(t.context, 2 * (int64_t)COPIED_BYTES, &memory) != PUNA_STATUS_OK ||
            puna_memory_clear(t.context, memory, 2 * (int64_t)COPIED_BYTES) != PUNA_STATUS_OK) {
            printf("%s\n", test_last_error());
            exit(2);
        }
        t.memory = memory;
        puna_context_describe(t.context, line, sizeof line);
        double copied = 2.0 * COPIED_BYTES / time_calls(&t);
        printf("%s: copies at %.1f GB/s, read and write counted; up to %d sets of operands in turn, %d MiB\n", line, copied * 1e-9,
               TIMED_SETS, COLD_BYTES >> 20);
        bool in_bf16 = precision == PUNA_PRECISION_BF16;
        for (int64_t i = 0; i < test_op_count; i++)
            for (int64_t k = 0; strstr(test_ops[i]->name, word) != NULL && k < test_ops[i]->benchmark_count; k++) {
                t.op = test_ops[i], t.d = test_ops[i]->benchmarks[k];
                if (!in_bf16 || rounds(t.op, t.d)) time_benchmark(&t, in_bf16, copied);
            }
        puna_memory_free(t.context, memory);
        puna_context_destroy(t.context);
    }
}

/* ------------------------------------------------- the run ------------------------------------------------------------ */

/* A guard page was touched, or worse: say in which case, for the stack is gone with the process. */
static void crashed(int number) {
    char text[512];
    int length = snprintf(text, sizeof text, "       %s [%s]: signal %d, memory outside the buffers was touched\nFAILED %s\n",
                          report.line, report.name, number, report.line);
    if (write(STDOUT_FILENO, text, (size_t)length) < 0) _exit(3);
    _exit(1);
}

void test_start(void) {
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ); /* what passed is known when a device hangs or the process ends */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)crashed; /* the sanitizers report crashes themselves */
#else
    signal(SIGSEGV, crashed);
    signal(SIGBUS, crashed);
#endif
}

int test_finish(void) {
    close_backends();
    printf("%lld passed, %lld failed\n", (long long)report.all_passed, (long long)report.all_failed);
    return report.all_failed > 0 || report.all_passed == 0;
}
