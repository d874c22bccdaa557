/*
 * Times the operations as the tests describe them: puna-bench [word [threads]] runs those whose name contains the word, on every
 * instruction set. Beside each time stands its share of what this machine can do with as many threads, measured just before:
 * reading memory (for operations that move bytes) or multiplying and adding in registers (for those that compute).
 *
 * The figure is the median of many calls after a warm-up. Where a call's arrays fit a cache, reading them beats memory.
 */
#include "../test/test.h"

#include <stdlib.h>
#include <time.h>

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ------------------------------------------------- ceilings ----------------------------------------------------------- */

enum { READ_BYTES = 256 << 20, READ_SHARE = 1 << 20, FMA_ROUNDS = 1 << 15, FMA_SHARES = 64 };

static const uint64_t *read_memory;
static volatile uint64_t read_sink;

static void read_share(void *arguments, int64_t share, int32_t thread) {
    (void)arguments, (void)thread;
    const uint64_t *p = read_memory + share * (READ_SHARE / 8);
    uint64_t sum[8] = {0};
    for (int64_t i = 0; i < READ_SHARE / 8; i += 8)
        for (int k = 0; k < 8; k++) sum[k] += p[i + k];
    read_sink = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

/* Bytes per second, the best of several passes over more memory than a cache holds. */
static double measure_read(puna_context *context) {
    uint64_t *memory = malloc(READ_BYTES);
    if (memory == NULL) return NAN;
    memset(memory, 1, READ_BYTES);
    read_memory = memory;
    double best = INFINITY;
    for (int i = 0; i < 5; i++) {
        double start = seconds();
        puna_parallel(context, READ_BYTES / READ_SHARE, read_share, NULL);
        best = fmin(best, seconds() - start);
    }
    free(memory);
    return READ_BYTES / best;
}

static volatile float fma_sink;

#if defined(__x86_64__)
#include <immintrin.h>
__attribute__((target("avx2,fma"))) static void fma_rounds(void) {
    __m256 a[12], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
    for (int k = 0; k < 12; k++) a[k] = _mm256_set1_ps((float)k);
    for (int i = 0; i < FMA_ROUNDS; i++)
        for (int k = 0; k < 12; k++) a[k] = _mm256_fmadd_ps(a[k], x, y);
    for (int k = 1; k < 12; k++) a[0] = _mm256_add_ps(a[0], a[k]);
    fma_sink = _mm256_cvtss_f32(a[0]);
}
static bool can_measure_fma(void) { return puna_cpu_has(PUNA_ISA_AVX2); }
#elif defined(__aarch64__)
#include <arm_neon.h>
static void fma_rounds(void) {
    float32x4_t a[24], x = vdupq_n_f32(0.999f), y = vdupq_n_f32(0.001f);
    for (int k = 0; k < 24; k++) a[k] = vdupq_n_f32((float)k);
    for (int i = 0; i < FMA_ROUNDS; i++)
        for (int k = 0; k < 24; k++) a[k] = vfmaq_f32(y, a[k], x);
    for (int k = 1; k < 24; k++) a[0] = vaddq_f32(a[0], a[k]);
    fma_sink = vgetq_lane_f32(a[0], 0);
}
static bool can_measure_fma(void) { return true; }
#else
static void fma_rounds(void) {}
static bool can_measure_fma(void) { return false; }
#endif

static void fma_share(void *arguments, int64_t share, int32_t thread) {
    (void)arguments, (void)share, (void)thread;
    fma_rounds();
}

/* Floating-point operations per second in registers: 12 chains of 8 lanes, two operations each. */
static double measure_fma(puna_context *context) {
    if (!can_measure_fma()) return NAN;
    double best = INFINITY;
    for (int i = 0; i < 5; i++) {
        double start = seconds();
        puna_parallel(context, FMA_SHARES, fma_share, NULL);
        best = fmin(best, seconds() - start);
    }
    return (double)FMA_SHARES * FMA_ROUNDS * 12 * 8 * 2 / best;
}

/* ------------------------------------------------- operations --------------------------------------------------------- */

static void short_share(void *arguments, int64_t share, int32_t thread) {
    (void)arguments, (void)share, (void)thread;
    for (volatile int i = 0; i < 2000; i++) continue;
}

/* The cost of a job beyond its work: as many equal shares as threads, the wall time less one share's alone, each at its best. */
static double measure_fork_join(puna_context *context) {
    double alone = INFINITY, together = INFINITY;
    for (int i = 0; i < 2000; i++) {
        double start = seconds();
        puna_parallel(context, 1, short_share, NULL);
        alone = fmin(alone, seconds() - start);
        start = seconds();
        puna_parallel(context, context->threads, short_share, NULL);
        together = fmin(together, seconds() - start);
    }
    return together - alone;
}

enum { CALLS = 400 };

static void bench_case(const test_op *op, const int64_t *d, puna_context *context, double read_ceiling, double fma_ceiling) {
    test_buffer b[TEST_BUFFERS] = {{0}};
    int count = op->buffers(context, d, b);
    test_prepare(op, d, b, count, false, TEST_GUARD_BEFORE);
    double times[CALLS], start = seconds();
    int calls = 0;
    for (int i = 0; i < 3; i++)
        if (op->call(context, d, b) != PUNA_STATUS_OK) {
            printf("%s: %s\n", op->name, test_last_error());
            test_release(b, count);
            return;
        }
    while (calls < CALLS && (calls < 5 || seconds() - start < 0.5)) {
        double before = seconds();
        op->call(context, d, b);
        times[calls++] = seconds() - before;
    }
    test_release(b, count);
    qsort(times, (size_t)calls, sizeof *times, ascending);
    double median = times[calls / 2];
    char text[160] = "";
    const char *name = op->dimensions;
    for (int i = 0; *name != '\0'; i++) {
        int length = (int)strcspn(name, " ");
        bool is_dtype = length >= 5 && strncmp(name + length - 5, "dtype", 5) == 0;
        size_t at = strlen(text);
        if (is_dtype) snprintf(text + at, sizeof text - at, " %s", puna_dtype_name((int32_t)d[i]));
        else snprintf(text + at, sizeof text - at, " %.*s=%lld", length, name, (long long)d[i]);
        name += length;
        name += strspn(name, " ");
    }
    double rate = op->flops != NULL ? op->flops(d) / median : op->traffic(d) / median;
    double ceiling = op->flops != NULL ? fma_ceiling : read_ceiling;
    printf("%-22s %-9s%-42s %10.1f us  %7.2f %-7s %5.1f %%\n", op->name, context->ops->name, text, median * 1e6, rate * 1e-9,
           op->flops != NULL ? "GFLOP/s" : "GB/s", 100 * rate / ceiling);
    fflush(stdout);
}

static void bench(int32_t isa, int32_t threads, const char *word) {
    puna_context_options options = {PUNA_BACKEND_CPU, 0, threads, isa};
    puna_context *context;
    if (puna_context_create(&options, NULL, &context) != PUNA_STATUS_OK) return;
    char line[96];
    puna_context_describe(context, line, sizeof line);
    double read_ceiling = measure_read(context), fma_ceiling = measure_fma(context);
    printf("%s: memory reads %.1f GB/s, FMA %.1f GFLOP/s, starting and ending a job %.2f us\n", line, read_ceiling * 1e-9,
           fma_ceiling * 1e-9, measure_fork_join(context) * 1e6);
    for (int64_t i = 0; i < test_op_count; i++)
        for (int64_t k = 0; strstr(test_ops[i]->name, word) != NULL && k < test_ops[i]->benchmark_count; k++)
            bench_case(test_ops[i], test_ops[i]->benchmarks[k], context, read_ceiling, fma_ceiling);
    puna_context_destroy(context);
}

int main(int argc, char **argv) {
    const char *word = argc > 1 ? argv[1] : "";
    int32_t threads = argc > 2 ? atoi(argv[2]) : 0;
    for (int32_t isa = PUNA_ISA_BASELINE; isa <= PUNA_ISA_AVX512; isa++) bench(isa, threads, word);
    return 0;
}
