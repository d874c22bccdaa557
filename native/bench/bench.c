/*
 * Times the operations as the tests describe them: puna-bench [options] [word [threads]] runs those whose name contains the word.
 *
 *   --isa NAME    one instruction set (baseline, avx2, avx512, amx) instead of all that the processor has
 *   --seconds S   time for the calls of a case, 0.3 by default
 *   --markdown, --json    a table, an array of objects
 *   --svg         a picture of all cases under the roofline of one instruction set, where none is named the best
 *
 * Beside each time stands its share of what the machine allows with the same instruction set and as many threads, measured no
 * more than some seconds before: the time that its bytes take out of memory or its operations in registers, whichever is longer.
 *
 * A case warms up, then its calls take turns among as many copies of its arrays as fill twice the last cache, so that each finds
 * its own out of memory, as the weights of a model are. A case of less than a mebibyte stays in the cache, where the operation
 * before would have left it. The figure is the median; the spread is half of what lies between the tenth and ninetieth percentile.
 */
#include "bench.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CALLS = 4000, CACHED_BYTES = 1 << 20, FRESH_SECONDS = 2 };

static struct {
    const char *word;
    int32_t threads, isa; /* 0: all                                                                                 */
    double seconds;
    bench_format format;
    char *memory; /* for the ceilings and the copies, more than a cache holds                                       */
    int64_t bytes;
} options = {.word = "", .seconds = 0.3};

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The ceilings drift: measured again when they are old. */
static bench_ceilings ceilings_now(puna_context *context) {
    static bench_ceilings ceilings;
    static double measured;
    static puna_context *of;
    if (of != context || bench_now() - measured > FRESH_SECONDS) {
        ceilings = bench_measure_ceilings(context, options.memory, options.bytes);
        measured = bench_now();
        of = context;
    }
    return ceilings;
}

static int64_t align(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* A further copy of a case's arrays at memory. */
static void copy_buffers(const test_buffer *from, int count, test_buffer *to, char *memory) {
    memcpy(to, from, (size_t)count * sizeof *from);
    for (int i = 0; i < count; i++) {
        if (from[i].memory.mapping == NULL) continue;
        to[i].data = memcpy(memory, from[i].data, (size_t)from[i].bytes);
        memory += align(from[i].bytes);
    }
    for (int i = 0; i < count; i++)
        if (from[i].alias != NULL && from[i].data != NULL) to[i].data = to[from[i].alias - from].data;
}

static void describe(const test_op *op, const int64_t *d, bench_row *row) {
    const char *name = op->dimensions;
    for (int i = 0; *name != '\0'; i++) {
        int length = (int)strcspn(name, " ");
        size_t at = strlen(row->shape);
        if (length >= 5 && strncmp(name + length - 5, "dtype", 5) == 0)
            snprintf(row->dtype, sizeof row->dtype, "%s", puna_dtype_name((int32_t)d[i]));
        else if (strncmp(name, "activations", (size_t)length) == 0)
            row->bits = d[i] == PUNA_ACTIVATIONS_INT8 ? 8 : d[i] == PUNA_ACTIVATIONS_INT16 ? 16 : 0;
        else if (i < 3 || d[i] != 0) /* what comes late and is zero is the ordinary case */
            snprintf(row->shape + at, sizeof row->shape - at, "%s%.*s=%lld", at > 0 ? " " : "", length, name, (long long)d[i]);
        name += length;
        name += strspn(name, " ");
    }
}

static void bench_case(const test_op *op, const int64_t *d, puna_context *context) {
    bench_row row = {.op = op->name, .isa = context->ops->name, .threads = context->threads,
                     .bytes = op->traffic != NULL ? op->traffic(d) : 0, .operations = op->flops != NULL ? op->flops(d) : 0,
                     .ceilings = ceilings_now(context)};
    describe(op, d, &row);
    test_buffer first[TEST_BUFFERS] = {{0}};
    int count = op->buffers(context, d, first);
    test_prepare(op, d, first, count, false, TEST_GUARD_BEFORE);
    int64_t bytes = 0, copies = 0;
    for (int i = 0; i < count; i++)
        if (first[i].memory.mapping != NULL) bytes += align(first[i].bytes);
    row.cached = bytes < CACHED_BYTES;
    if (!row.cached) copies = options.bytes / bytes;
    test_buffer(*sets)[TEST_BUFFERS] = malloc((size_t)(copies + 1) * sizeof *sets);
    double *times = malloc(CALLS * sizeof *times);
    memcpy(sets[0], first, sizeof first);
    for (int64_t i = 0; i < copies; i++) copy_buffers(first, count, sets[i + 1], options.memory + i * bytes);
    for (double start = bench_now(); row.calls < 3 && (row.calls == 0 || bench_now() - start < options.seconds / 3); row.calls++)
        if (op->call(context, d, sets[row.calls % (copies + 1)]) != PUNA_STATUS_OK) {
            fprintf(stderr, "%s: %s\n", op->name, test_last_error());
            exit(1);
        }
    int64_t next = row.calls;
    row.calls = 0;
    for (double start = bench_now(); row.calls < CALLS && (row.calls < 3 || bench_now() - start < options.seconds); row.calls++) {
        const test_buffer *set = sets[next++ % (copies + 1)];
        double before = bench_now();
        op->call(context, d, set);
        times[row.calls] = bench_now() - before;
    }
    qsort(times, (size_t)row.calls, sizeof *times, ascending);
    row.seconds = times[row.calls / 2];
    row.low = times[row.calls / 10];
    row.high = times[row.calls - 1 - row.calls / 10];
    free(times);
    free(sets);
    test_release(first, count);
    bench_report_row(options.format, &row);
}

static void bench(int32_t isa) {
    puna_context_options wanted = {PUNA_BACKEND_CPU, 0, options.threads, isa, PUNA_PRECISION_F32};
    puna_context *context;
    if (puna_context_create(&wanted, NULL, &context) != PUNA_STATUS_OK) return; /* this processor lacks it */
    bench_ceilings ceilings = ceilings_now(context);
    bench_report_context(options.format, context, &ceilings, options.bytes, bench_measure_fork_join(context));
    for (int64_t i = 0; i < test_op_count; i++) {
        const test_op *op = test_ops[i];
        if (isa == PUNA_ISA_AMX && options.isa == 0 && op != &test_matmul) continue; /* AVX-512's kernels once more */
        for (int64_t k = 0; strstr(op->name, options.word) != NULL && k < op->benchmark_count; k++)
            bench_case(op, op->benchmarks[k], context);
    }
    puna_context_destroy(context);
}

static void usage(void) {
    fprintf(stderr, "puna-bench [--isa baseline|avx2|avx512|amx|dotprod] [--seconds S] [--markdown|--json|--svg] "
                    "[word [threads]]\n");
    exit(2);
}

static void parse(int argc, char **argv) {
    static const char *const isas[] = {[PUNA_ISA_BASELINE] = "baseline", [PUNA_ISA_AVX2] = "avx2", [PUNA_ISA_AVX512] = "avx512",
                                       [PUNA_ISA_AMX] = "amx", [PUNA_ISA_DOTPROD] = "dotprod"};
    int words = 0;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (strcmp(a, "--markdown") == 0) options.format = BENCH_MARKDOWN;
        else if (strcmp(a, "--json") == 0) options.format = BENCH_JSON;
        else if (strcmp(a, "--svg") == 0) options.format = BENCH_SVG;
        else if (strcmp(a, "--seconds") == 0 && i + 1 < argc) options.seconds = atof(argv[++i]);
        else if (strcmp(a, "--isa") == 0 && i + 1 < argc) {
            i++;
            for (int32_t isa = PUNA_ISA_BASELINE; isa <= PUNA_ISA_DOTPROD; isa++)
                if (strcmp(argv[i], isas[isa]) == 0) options.isa = isa;
            if (options.isa == 0) usage();
        } else if (a[0] == '-' || words == 2) usage();
        else if (words++ == 0) options.word = a;
        else options.threads = atoi(a);
    }
}

/* Twice the largest cache that the system tells of, half a gibibyte at least. */
static int64_t more_than_caches(void) {
    int64_t bytes = 512 << 20;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    bytes = puna_max(bytes, 2 * sysconf(_SC_LEVEL3_CACHE_SIZE));
#endif
    return bytes;
}

int main(int argc, char **argv) {
    parse(argc, argv);
    options.bytes = more_than_caches();
    options.memory = mmap(NULL, (size_t)options.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (options.memory == MAP_FAILED) {
        perror("puna-bench");
        return 1;
    }
    memset(options.memory, 1, (size_t)options.bytes);
    if (options.format == BENCH_SVG && options.isa == 0)
        for (int32_t isa = PUNA_ISA_BASELINE; isa <= PUNA_ISA_DOTPROD; isa++)
            if (puna_cpu_has(isa)) options.isa = isa;
    bench_report_begin(options.format);
    for (int32_t isa = PUNA_ISA_BASELINE; isa <= PUNA_ISA_DOTPROD; isa++)
        if (options.isa == 0 || options.isa == isa) bench(isa);
    bench_report_end(options.format);
    return 0;
}
