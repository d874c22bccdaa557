/* Identity, status, element types, contexts. */
#include "test.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

static puna_status create(int32_t backend, int32_t device, int32_t threads, int32_t isa, puna_context **context) {
    puna_context_options options = {backend, device, threads, isa, PUNA_PRECISION_F32};
    return puna_context_create(&options, NULL, context);
}

static void *read_last_error(void *length) {
    *(int64_t *)length = puna_last_error(NULL, 0);
    return NULL;
}

static void last_error(void) {
    char buffer[64];
    test_case("last error");
    int64_t elements, bytes;
    CHECK(puna_dtype_block(99, &elements, &bytes) == PUNA_STATUS_INVALID_ARGUMENT, "dtype 99 is accepted");
    const char *sentence = "puna_dtype_block: dtype is 99, expected 0 to 6";
    int64_t length = puna_last_error(buffer, sizeof buffer);
    CHECK(strcmp(buffer, sentence) == 0, "the sentence is '%s'", buffer);
    CHECK(length == (int64_t)strlen(sentence), "its length is %lld", (long long)length);
    CHECK(puna_last_error(NULL, 0) == length, "asking for the length alone gives another");
    memset(buffer, 'x', sizeof buffer);
    CHECK(puna_last_error(buffer, 5) == length && strcmp(buffer, "puna") == 0 && buffer[5] == 'x', "a cut copy is '%.8s'", buffer);
    CHECK(puna_last_error(buffer, 1) == length && buffer[0] == '\0', "a copy of one byte is not empty");
    CHECK(puna_dtype_block(0, &elements, &bytes) == PUNA_STATUS_OK && puna_last_error(NULL, 0) == length, "success cleared it");

    pthread_t other;
    int64_t elsewhere = -1;
    CHECK(pthread_create(&other, NULL, read_last_error, &elsewhere) == 0, "no thread");
    pthread_join(other, NULL);
    CHECK(elsewhere == 0, "another thread sees a sentence of %lld characters", (long long)elsewhere);
}

static void dtypes(void) {
    test_case("dtypes");
    static const int64_t expected[PUNA_DTYPE_COUNT][2] = {{1, 4}, {1, 2}, {1, 2}, {32, 34}, {32, 18}, {256, 144}, {256, 210}};
    for (int32_t dtype = 0; dtype < PUNA_DTYPE_COUNT; dtype++) {
        int64_t elements = 0, bytes = 0;
        puna_status status = puna_dtype_block(dtype, &elements, &bytes);
        CHECK(status == PUNA_STATUS_OK && elements == expected[dtype][0] && bytes == expected[dtype][1],
              "dtype %d: %lld elements in %lld bytes", dtype, (long long)elements, (long long)bytes);
    }
    int64_t number = 7;
    CHECK(puna_dtype_block(-1, &number, &number) == PUNA_STATUS_INVALID_ARGUMENT && number == 7, "dtype -1");
    CHECK(puna_dtype_block(0, NULL, &number) == PUNA_STATUS_INVALID_ARGUMENT && number == 7, "elements null");
    CHECK(puna_dtype_block(0, &number, NULL) == PUNA_STATUS_INVALID_ARGUMENT && number == 7, "bytes null");
}

static void contexts(void) {
    char line[96], expected[96];
    test_case("describe");
    puna_context *context = NULL;
    for (int32_t isa = PUNA_ISA_REFERENCE; isa <= PUNA_ISA_DOTPROD; isa++) {
        if (!puna_cpu_has(isa)) continue;
        static const char *const names[] = {"", "reference", "baseline", "avx2", "avx512", "amx", "dotprod"};
        if (!CHECK(create(0, 0, 3, isa, &context) == PUNA_STATUS_OK, "isa %d: %s", isa, test_last_error())) continue;
        snprintf(expected, sizeof expected, "cpu %s, %s", names[isa], isa == PUNA_ISA_REFERENCE ? "1 thread" : "3 threads");
        int64_t length = puna_context_describe(context, line, sizeof line);
        CHECK(strcmp(line, expected) == 0 && length == (int64_t)strlen(line), "'%s', expected '%s'", line, expected);
        puna_context_destroy(context);
    }
    puna_context_describe(NULL, line, sizeof line);
    CHECK(strcmp(line, "no context") == 0, "null is '%s'", line);

    test_case("automatic");
    CHECK(create(0, 0, 0, PUNA_ISA_AUTO, &context) == PUNA_STATUS_OK, "%s", test_last_error());
    puna_context_describe(context, line, sizeof line);
    const char *best = puna_cpu_has(PUNA_ISA_AMX) ? "cpu amx, " : puna_cpu_has(PUNA_ISA_AVX512) ? "cpu avx512, "
                       : puna_cpu_has(PUNA_ISA_AVX2) ? "cpu avx2, " : puna_cpu_has(PUNA_ISA_DOTPROD) ? "cpu dotprod, "
                       : "cpu baseline, ";
    CHECK(strncmp(line, best, strlen(best)) == 0, "'%s', expected '%s…'", line, best);
    CHECK(context->threads == puna_cpu_count() && context->threads >= 1, "%d threads on %d processors", context->threads,
          puna_cpu_count());
    puna_context_destroy(context);
    puna_context_destroy(NULL);

    test_case("what is not there");
    context = NULL;
    CHECK(create(1, 0, 0, 0, &context) == PUNA_STATUS_UNSUPPORTED, "CUDA");
    CHECK(strstr(test_last_error(), "no path was given") != NULL, "CUDA: '%s'", test_last_error());
    if (!puna_cpu_has(PUNA_ISA_AVX512)) {
        CHECK(create(0, 0, 1, PUNA_ISA_AVX512, &context) == PUNA_STATUS_UNSUPPORTED, "AVX-512");
        CHECK(strstr(test_last_error(), "avx512") != NULL, "AVX-512: '%s'", test_last_error());
    }
    CHECK(create(0, 1, 1, 0, &context) == PUNA_STATUS_UNSUPPORTED, "a second CPU");
    CHECK(context == NULL, "a failure wrote the context");

    test_case("bad options");
    const struct {
        int32_t backend, device, threads, isa;
        const char *sentence;
    } bad[] = {
        {2, 0, 0, 0, "puna_context_create: backend is 2, expected 0 (CPU) or 1 (CUDA)"},
        {-1, 0, 0, 0, "puna_context_create: backend is -1, expected 0 (CPU) or 1 (CUDA)"},
        {0, -1, 0, 0, "puna_context_create: device is -1, expected at least 0"},
        {0, 0, -1, 0, "puna_context_create: threads is -1, expected 0 (as many as this process may use) to 1024"},
        {0, 0, 1025, 0, "puna_context_create: threads is 1025, expected 0 (as many as this process may use) to 1024"},
        {0, 0, 1, 7, "puna_context_create: isa is 7, expected 0 to 6"},
        {0, 0, 1, -1, "puna_context_create: isa is -1, expected 0 to 6"},
    };
    for (int64_t i = 0; i < TEST_COUNT(bad); i++) {
        puna_status status = create(bad[i].backend, bad[i].device, bad[i].threads, bad[i].isa, &context);
        CHECK(status == PUNA_STATUS_INVALID_ARGUMENT && context == NULL, "%s: status %d", bad[i].sentence, status);
        CHECK(strcmp(test_last_error(), bad[i].sentence) == 0, "'%s', expected '%s'", test_last_error(), bad[i].sentence);
    }
    puna_context_options options = {0, 0, 1, 0, PUNA_PRECISION_F32};
    options.precision = 2;
    CHECK(puna_context_create(&options, NULL, &context) == PUNA_STATUS_INVALID_ARGUMENT && context == NULL &&
          strcmp(test_last_error(), "puna_context_create: precision is 2, expected 0 (F32) or 1 (BF16)") == 0, "'%s'", test_last_error());
    CHECK(puna_context_create(NULL, NULL, &context) == PUNA_STATUS_INVALID_ARGUMENT, "options null");
    CHECK(puna_context_create(&options, NULL, NULL) == PUNA_STATUS_INVALID_ARGUMENT, "context null");
}

/* The compiler's own probe must agree with ours, or a fast machine would be slow in silence. */
static void probe(void) {
    test_case("probe");
    CHECK(puna_cpu_has(PUNA_ISA_REFERENCE) && puna_cpu_has(PUNA_ISA_BASELINE), "no baseline");
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    CHECK(puna_cpu_has(PUNA_ISA_AVX2) == avx2, "AVX2 is %s", avx2 ? "not found" : "found where there is none");
    CHECK(puna_cpu_has(PUNA_ISA_AVX512) == avx512, "AVX-512 is %s", avx512 ? "not found" : "found where there is none");
    bool bf16 = __builtin_cpu_supports("avx512bf16");
    CHECK(puna_cpu_has_bf16(PUNA_ISA_AVX512) == bf16, "AVX512-BF16 is %s", bf16 ? "not found" : "found where there is none");
    CHECK(!puna_cpu_has_bf16(PUNA_ISA_AVX2) && !puna_cpu_has_bf16(PUNA_ISA_BASELINE), "BF16 on a set that does not round");
    CHECK(!puna_cpu_has(PUNA_ISA_DOTPROD), "an aarch64 instruction set elsewhere");
#else
#if defined(__aarch64__) && defined(__linux__)
    uint64_t features; /* the kernel answers for the processor */
    __asm__("mrs %0, ID_AA64ISAR0_EL1" : "=r"(features));
    const bool dotprod = (features >> 44 & 15) != 0;
    CHECK(puna_cpu_has(PUNA_ISA_DOTPROD) == dotprod, "dot products are %s", dotprod ? "not found" : "found where there are none");
#endif
    CHECK(!puna_cpu_has(PUNA_ISA_AVX2) && !puna_cpu_has(PUNA_ISA_AVX512) && !puna_cpu_has(PUNA_ISA_AMX),
          "an x86-64 instruction set elsewhere");
#endif
}

/* A context says whether it rounds; where that gains nothing it computes in F32. */
static void precision(void) {
    const int32_t isas[] = {PUNA_ISA_REFERENCE, PUNA_ISA_BASELINE, PUNA_ISA_AVX512};
    for (int i = 0; i < TEST_COUNT(isas); i++) {
        puna_context_options options = {PUNA_BACKEND_CPU, 0, 1, isas[i], PUNA_PRECISION_BF16};
        puna_context *context;
        char line[256];
        test_case("precision, isa %d", isas[i]);
        puna_status status = puna_context_create(&options, NULL, &context);
        if (status == PUNA_STATUS_UNSUPPORTED && isas[i] == PUNA_ISA_AVX512) continue;
        if (!CHECK(status == PUNA_STATUS_OK, "%s", test_last_error())) continue;
        puna_context_describe(context, line, sizeof line);
        CHECK((strstr(line, ", products in BF16") != NULL) == (isas[i] == PUNA_ISA_REFERENCE || puna_cpu_has_bf16(isas[i])), "'%s'", line);
        puna_context_destroy(context);
    }
}

/* Sizes below, at and beyond what one share of a copy takes. */
static void memory(void) {
    puna_context *context = NULL;
    CHECK(create(PUNA_BACKEND_CPU, 0, 3, PUNA_ISA_AUTO, &context) == PUNA_STATUS_OK, "%s", test_last_error());
    const int64_t sizes[] = {1, 4095, 1 << 17, (1 << 17) + 1, (5 << 17) - 3};
    const int64_t most = sizes[TEST_COUNT(sizes) - 1];
    uint8_t *from = malloc((size_t)most), *to = malloc((size_t)most + 1);
    for (int64_t i = 0; i < most; i++) from[i] = (uint8_t)(i % 251 + 1);
    for (int64_t i = 0; i < TEST_COUNT(sizes); i++) {
        test_case("memory of a CPU, %" PRId64 " bytes", sizes[i]);
        memset(to, 255, (size_t)most + 1);
        CHECK(puna_memory_copy(context, to, from, sizes[i]) == PUNA_STATUS_OK && memcmp(to, from, (size_t)sizes[i]) == 0 &&
              to[sizes[i]] == 255, "what was copied");
        CHECK(puna_memory_clear(context, to, sizes[i]) == PUNA_STATUS_OK && to[sizes[i]] == 255, "%s", test_last_error());
        int64_t zeros = 0;
        while (zeros < sizes[i] && to[zeros] == 0) zeros++;
        CHECK(zeros == sizes[i], "byte %" PRId64 " is not zero", zeros);
    }
    test_case("memory of a CPU, what may not be");
    CHECK(puna_memory_copy(context, from + 1, from, 2) == PUNA_STATUS_INVALID_ARGUMENT && strstr(test_last_error(), "overlaps") != NULL,
          "onto itself");
    CHECK(puna_memory_copy(context, NULL, from, 1) == PUNA_STATUS_INVALID_ARGUMENT && puna_memory_copy(context, to, from, -1) ==
          PUNA_STATUS_INVALID_ARGUMENT && puna_memory_clear(context, NULL, 1) == PUNA_STATUS_INVALID_ARGUMENT, "nothing");
    CHECK(puna_memory_copy(context, NULL, NULL, 0) == PUNA_STATUS_OK && puna_memory_clear(context, NULL, 0) == PUNA_STATUS_OK, "no bytes");
    free(from);
    free(to);
    puna_context_destroy(context);
}

void test_runtime(void) {
    test_case("identity");
    CHECK(puna_abi_version() == PUNA_ABI_VERSION, "version %d", puna_abi_version());
    CHECK(strncmp(puna_build_info(), "puna ", 5) == 0, "'%s'", puna_build_info());
    last_error();
    dtypes();
    probe();
    precision();
    contexts();
    memory();
}
