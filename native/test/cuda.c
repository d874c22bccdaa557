/*
 * The CUDA backend's seam: how work is cut, a library that is not there or is another, and, through --cuda LIBRARY, contexts, memory
 * and faults. Faults are those of the emulated device, which has them on demand.
 */
#include "test.h"

#include "../cuda/attention_plan.h"
#include "../cuda/bf16_plan.h"
#include "../cuda/matmul_plan.h"
#include "blocks.h"

#include <stdlib.h>

static void plans(void) {
    test_case("split plan");
    const int64_t MB = 1 << 20;
    CHECK(puna_cuda_split_keys(1, 32, 128, 64 * MB) == 128, "one key");
    CHECK(puna_cuda_split_keys(16384, 32, 128, 64 * MB) == 128, "16k keys of 32 heads");
    for (int64_t keys = 1; keys < 100000000; keys = keys * 3 + 1)
        for (int64_t NH = 1; NH <= 128; NH *= 4)
            for (int64_t HD = 1; HD <= 256; HD *= 4) {
                int64_t split = puna_cuda_split_keys(keys, NH, HD, 64 * MB), row = puna_cuda_partial_bytes(NH, HD);
                int64_t splits = puna_ceil_div(keys, split);
                CHECK(split >= 128 && (split & (split - 1)) == 0, "%lld keys: stretches of %lld", (long long)keys, (long long)split);
                CHECK(splits * row <= 64 * MB, "%lld stretches do not fit", (long long)splits);
                CHECK(split == 128 || puna_ceil_div(keys, split / 2) * row > 64 * MB, "stretches of %lld would do", (long long)split / 2);
            }
    CHECK(puna_cuda_split_keys(1, 1, 256, 1000) == 0, "scratch for less than one stretch");
    test_case("BF16 tiles and pieces");
    CHECK(puna_cuda_bf16_tile(2048, 4096, 128) == 128 && puna_cuda_bf16_tile(64, 1 << 20, 128) == 64 &&
          puna_cuda_bf16_tile(1 << 20, 64, 128) == 64 && puna_cuda_bf16_tile(65, 128 * 128, 128) == 128 &&
          puna_cuda_bf16_tile(1024, 2047, 128) == 128 && puna_cuda_bf16_tile(1024, 1920, 128) == 64, "tiles");
    puna_cuda_bf16_pieces whole = puna_cuda_bf16_cut(4096, 4096, 4096, 64 * MB), tall = puna_cuda_bf16_cut(4097, 128256, 4096, 64 * MB);
    CHECK(whole.M == 4096 && whole.N == 4096 && whole.K == 4096 && tall.M == 4096 && tall.N == 4096 && tall.K == 4096, "4096 each");
    for (int64_t bytes = 256 << 10; bytes <= 64 * MB; bytes *= 16)
        for (int64_t M = 1; M < 10000000; M = M * 5 + 3)
            for (int64_t K = 1; K < 10000000; K = K * 3 + 1) {
                puna_cuda_bf16_pieces p = puna_cuda_bf16_cut(M, 77, K, bytes);
                int64_t as_rows = p.M * puna_cuda_bf16_stride(p.K), as_columns = p.K * puna_cuda_bf16_stride(p.M);
                CHECK(p.M > 0 && p.N > 0 && p.K > 0 && p.M <= M && p.N <= 77 && p.K <= K && 2 * as_rows <= bytes / 2 && 2 * as_columns <=
                      bytes / 2, "%lld x %lld do not fit", (long long)p.M, (long long)p.K);
                CHECK((p.M == M || p.M % 64 == 0) && (p.K == K || p.K % 256 == 0), "%lld x %lld cut a tile", (long long)p.M,
                      (long long)p.K);
            }
    test_case("stretches of K");
    CHECK(puna_cuda_split_k(4096, 4096, 256, 512) == 1024 && puna_cuda_split_k(4096, 14336, 256, 512) == 3584 &&
          puna_cuda_split_k(1024, 4096, 256, 512) == 512 && puna_cuda_split_k(5120, 5120, 256, 512) == 1792 &&
          puna_cuda_split_k(8192, 1 << 20, 256, 512) == 1 << 19 && puna_cuda_split_k(8193, 1 << 20, 256, 512) == 1 << 20 &&
          puna_cuda_split_k(1, 1023, 256, 512) == 1023 && puna_cuda_split_k(1, 1031, 256, 512) == 768, "K of a stretch");
    for (int64_t N = 1; N < 1000000; N = N * 3 + 1)
        for (int64_t K = 1; K < 10000000; K = K * 3 + 1) {
            int64_t stretch = puna_cuda_split_k(N, K, 256, 512), stretches = puna_ceil_div(K, stretch);
            CHECK(stretch == K || (stretch < K && stretch % 256 == 0 && stretch >= 512 && stretches * puna_ceil_div(N, 64) <= 256),
                  "N %lld K %lld: stretches of %lld", (long long)N, (long long)K, (long long)stretch);
        }
    CHECK(puna_cuda_splits(64, 4096, 4, 256, 4 * MB) == 4 && puna_cuda_splits(64, 4096, 4, 256, 4 * MB - 1) == 1 &&
          puna_cuda_splits(128, 4096, 4, 256, 64 * MB) == 4 && puna_cuda_splits(129, 4096, 4, 256, 64 * MB) == 1 &&
          puna_cuda_splits(9, 14336, 1, 256, 64 * MB) == 1, "blocks of a tile");
    test_case("first key");
    CHECK(puna_cuda_first_key(10, 0) == 0 && puna_cuda_first_key(10, 11) == 0 && puna_cuda_first_key(10, 10) == 1 &&
          puna_cuda_first_key(10, 1) == 10, "windows at position 10");
}

/* context stays null, and the sentence has the words. */
static void refused(const char *library, int32_t device, const char *words) {
    puna_context_options options = {PUNA_BACKEND_CUDA, device, 0, 0, PUNA_PRECISION_F32};
    puna_context *context = NULL;
    puna_status status = puna_context_create(&options, library, &context);
    CHECK(status == PUNA_STATUS_UNSUPPORTED && context == NULL, "%s: status %d", words, status);
    CHECK(strstr(test_last_error(), words) != NULL, "'%s', expected '%s'", test_last_error(), words);
    if (status == PUNA_STATUS_OK) puna_context_destroy(context);
}

static void no_library(void) {
    test_case("no library");
    refused(NULL, 0, "no path was given");
    refused("", 0, "no path was given");
    refused("/nowhere/libpuna_cuda.so", 0, "/nowhere/libpuna_cuda.so");
    refused("libm.so.6", 0, "is no libpuna_cuda");
}

/* Memory of one place where that of another is wanted is refused, and nothing is touched. */
static void places(puna_context *context) {
    puna_context_options cpu_options = {PUNA_BACKEND_CPU, 0, 1, 0, PUNA_PRECISION_F32};
    puna_context *cpu, *other;
    float host[64] = {1, 2, 3}, back[64];
    void *device = NULL, *elsewhere = NULL;
    test_case("places");
    if (!CHECK(puna_context_create(&cpu_options, NULL, &cpu) == PUNA_STATUS_OK && test_open_cuda(&other) == PUNA_STATUS_OK &&
               puna_memory_allocate(context, sizeof host, &device) == PUNA_STATUS_OK &&
               puna_memory_allocate(other, sizeof host, &elsewhere) == PUNA_STATUS_OK, "%s", test_last_error())) return;
    const puna_status INVALID = PUNA_STATUS_INVALID_ARGUMENT;
    float *on = device, *off = elsewhere;
    CHECK(puna_memory_copy(context, on, host, sizeof host) == PUNA_STATUS_OK, "%s", test_last_error());
    host[0] = -1; /* the caller's again, as soon as the call returns */
    CHECK(puna_add_forward(context, on, host, 32) == INVALID && strstr(test_last_error(), "x, 128 bytes at") != NULL, "host x: %s",
          test_last_error());
    CHECK(puna_add_forward(context, host, on, 32) == INVALID, "host y");
    CHECK(puna_add_forward(context, on, off, 32) == INVALID, "x of another context");
    CHECK(puna_add_forward(context, on, on + 33, 32) == INVALID, "x beyond its allocation");
    CHECK(puna_add_forward(cpu, host, on, 32) == INVALID && strstr(test_last_error(), "is not host memory") != NULL, "device x: %s",
          test_last_error());
    int32_t index;
    CHECK(puna_argmax_forward(context, (int32_t *)on, on + 32, 1, 32) == INVALID, "index on the device");
    CHECK(puna_argmax_forward(context, &index, on, 1, 64) == PUNA_STATUS_OK && index == 2, "%s", test_last_error());
    CHECK(puna_add_forward(context, on, on + 32, 32) == PUNA_STATUS_OK, "%s", test_last_error());
    host[0] = 1;
    CHECK(puna_memory_copy(context, back, on, sizeof back) == PUNA_STATUS_OK && memcmp(back, host, sizeof host) == 0, "what came back");
    CHECK(puna_memory_clear(context, on + 1, 4) == PUNA_STATUS_OK && puna_memory_copy(context, back, on, 12) == PUNA_STATUS_OK &&
          back[0] == 1 && back[1] == 0 && back[2] == 3, "a number cleared among others: %g %g %g", (double)back[0], (double)back[1],
          (double)back[2]);

    test_case("memory");
    CHECK(puna_memory_allocate(cpu, 4, &elsewhere) == PUNA_STATUS_UNSUPPORTED, "a CPU's");
    CHECK(puna_memory_allocate(context, 0, &elsewhere) == INVALID, "no bytes");
    int64_t before = 0, after = 0, all = 0;
    void *some = NULL;
    CHECK(puna_memory_available(cpu, &before, &all) == PUNA_STATUS_UNSUPPORTED, "a CPU's");
    CHECK(puna_memory_available(context, &before, NULL) == INVALID && strstr(test_last_error(), "all_bytes is null") != NULL, "null");
    CHECK(puna_memory_available(context, &before, &all) == PUNA_STATUS_OK && before > 0 && before <= all, "%s", test_last_error());
    CHECK(puna_memory_allocate(context, 64 << 20, &some) == PUNA_STATUS_OK && puna_memory_available(context, &after, &all) ==
          PUNA_STATUS_OK && after < before && puna_memory_free(context, some) == PUNA_STATUS_OK, "%s", test_last_error());
    CHECK(puna_memory_allocate(context, INT64_MAX, &elsewhere) == PUNA_STATUS_OUT_OF_MEMORY &&
          strstr(test_last_error(), "9223372036854775807 bytes asked") != NULL, "all there is: %s", test_last_error());
    CHECK(elsewhere == off, "a failure wrote the address");
    CHECK(puna_memory_copy(context, host, back, 4) == INVALID, "host to host");
    CHECK(puna_memory_copy(cpu, host, on, 4) == INVALID && puna_memory_copy(cpu, on, host, 4) == INVALID &&
          puna_memory_clear(cpu, on, 4) == INVALID && strstr(test_last_error(), "is not host memory") != NULL, "a CPU on a device's");
    CHECK(puna_memory_copy(context, on, on + 1, 8) == INVALID, "onto itself");
    CHECK(puna_memory_copy(context, on, host, sizeof host + 1) == INVALID, "beyond");
    CHECK(puna_memory_copy(context, on, off, 4) == INVALID, "from another context");
    CHECK(puna_memory_copy(context, on, NULL, 4) == INVALID && puna_memory_copy(context, on, host, -1) == INVALID, "nothing");
    CHECK(puna_memory_copy(context, NULL, NULL, 0) == PUNA_STATUS_OK, "no bytes");
    CHECK(puna_memory_clear(context, host, 4) == INVALID && puna_memory_clear(context, off, 4) == INVALID &&
          puna_memory_clear(context, on, sizeof host + 1) == INVALID && puna_memory_clear(context, NULL, 4) == INVALID &&
          puna_memory_clear(context, on, -1) == INVALID && puna_memory_clear(NULL, on, 4) == INVALID, "clear what it may not");
    CHECK(puna_memory_clear(context, NULL, 0) == PUNA_STATUS_OK, "clear no bytes");
    CHECK(puna_memory_free(context, host) == INVALID && puna_memory_free(context, on + 1) == INVALID &&
          puna_memory_free(other, on) == INVALID, "what was not allocated");
    CHECK(puna_memory_free(context, on) == PUNA_STATUS_OK && puna_memory_free(context, on) == INVALID, "twice");
    CHECK(puna_memory_free(context, NULL) == PUNA_STATUS_OK, "null");

    /* A large copy goes in pieces; memory outlives its context. */
    int64_t large = (40 << 20) + 12;
    char *from = malloc((size_t)large), *to = malloc((size_t)large);
    for (int64_t i = 0; i < large; i += 8) memcpy(from + i, &i, (size_t)puna_min(8, large - i));
    CHECK(puna_memory_allocate(other, large, &device) == PUNA_STATUS_OK &&
          puna_memory_copy(other, device, from, large) == PUNA_STATUS_OK &&
          puna_memory_copy(other, to, device, large) == PUNA_STATUS_OK && memcmp(from, to, (size_t)large) == 0, "a large copy");
    free(from), free(to);
    puna_context_destroy(other);
    CHECK(puna_add_forward(cpu, host, off, 32) == INVALID, "memory of a context that is gone");
    CHECK(puna_memory_free(other, off) == PUNA_STATUS_OK && puna_memory_free(other, device) == PUNA_STATUS_OK, "freed after");
    puna_context_destroy(cpu);
}

/* More rows than travel with one launch: ids, positions and targets in pieces, an index each. */
static void many_rows(puna_context *context) {
    enum { ROWS = 1100, V = 7 };
    test_case("many rows");
    float *table = malloc(sizeof(float) * ROWS * V), losses[ROWS];
    int32_t ids[ROWS], best[ROWS];
    void *device = NULL, *out = NULL;
    for (int i = 0; i < ROWS * V; i++) table[i] = (float)(i % V == 3 + i / V % 2);
    for (int r = 0; r < ROWS; r++) ids[r] = r % V;
    CHECK(puna_memory_allocate(context, (int64_t)sizeof(float) * ROWS * V, &device) == PUNA_STATUS_OK &&
          puna_memory_allocate(context, sizeof losses, &out) == PUNA_STATUS_OK &&
          puna_memory_copy(context, device, table, (int64_t)sizeof(float) * ROWS * V) == PUNA_STATUS_OK &&
          puna_argmax_forward(context, best, device, ROWS, V) == PUNA_STATUS_OK &&
          puna_cross_entropy_forward_backward(context, out, NULL, device, ids, -1, 1, ROWS, V) == PUNA_STATUS_OK &&
          puna_memory_copy(context, losses, out, sizeof losses) == PUNA_STATUS_OK, "%s", test_last_error());
    for (int r = 0; r < ROWS; r++) {
        float loss = logf(6 + expf(1)) - (ids[r] == 3 + r % 2 ? 1.0f : 0.0f);
        if (!CHECK(best[r] == 3 + r % 2 && fabsf(losses[r] - loss) < 1e-5f, "row %d: %d, %g", r, best[r], (double)losses[r])) break;
    }
    CHECK(puna_memory_free(context, device) == PUNA_STATUS_OK && puna_memory_free(context, out) == PUNA_STATUS_OK, "free");
    free(table);
}

enum { STEP_NH = 4, STEP_NKV = 2, STEP_HD = 8, STEP_Q = STEP_NH * STEP_HD, STEP_KV = STEP_NKV * STEP_HD };

/* y, q, k and v of two sequences, one after another. */
static bool step(puna_context *context, const puna_kv_sequence *sequences, float *arrays) {
    float *y = arrays, *q = y + 2 * STEP_Q, *k = q + 2 * STEP_Q, *v = k + 2 * STEP_KV;
    for (int64_t layer = 0; layer < 2; layer++)
        if (puna_kv_append(context, sequences, 2, PUNA_DTYPE_F16, layer, k, v, STEP_KV, STEP_NKV, STEP_HD) != PUNA_STATUS_OK ||
            puna_attention_cached_forward(context, y, STEP_Q, q, STEP_Q, sequences, 2, PUNA_DTYPE_F16, layer, STEP_NH, STEP_NKV, STEP_HD,
                                          0, 0.5f, NULL, 0) != PUNA_STATUS_OK ||
            puna_add_forward(context, k, v, 2 * STEP_KV) != PUNA_STATUS_OK)
            return false;
    return true;
}

/*
 * Two steps after two steps, once as calls and once replayed, one replay right behind the other, in other caches and, in the end, in
 * exchanged ones: the same bits.
 */
static void recordings(puna_context *context) {
    enum { ARRAYS = 4 * STEP_Q + 4 * STEP_KV, STEPS = 150, CAPACITY = 200 };
    const puna_status INVALID = PUNA_STATUS_INVALID_ARGUMENT, UNSUPPORTED = PUNA_STATUS_UNSUPPORTED;
    test_case("recordings");
    puna_context *recording = NULL, *other = NULL;
    void *arrays, *caches[4];
    float host[ARRAYS], called[2 * STEP_Q], replayed[2 * STEP_Q];
    puna_kv_sequence calls[2], replays[2];
    int64_t cache_bytes = 2 * 2 * STEP_KV * CAPACITY * 2;
    bool ready = puna_memory_allocate(context, sizeof host, &arrays) == PUNA_STATUS_OK;
    for (int i = 0; i < 4; i++) /* the second sequence begins behind rows that no step writes */
        ready = ready && puna_memory_allocate(context, cache_bytes, &caches[i]) == PUNA_STATUS_OK &&
                puna_memory_clear(context, caches[i], cache_bytes) == PUNA_STATUS_OK;
    if (!CHECK(ready, "%s", test_last_error())) return;
    for (int i = 0; i < 2; i++) {
        calls[i] = (puna_kv_sequence){caches[i], CAPACITY, 0, 1};
        replays[i] = (puna_kv_sequence){caches[2 + i], CAPACITY, 0, 1};
    }
    CHECK(puna_recording_begin(context, &recording) == PUNA_STATUS_OK, "%s", test_last_error());
    CHECK(puna_recording_replay(recording, replays, 2) == INVALID && strstr(test_last_error(), "not ended") != NULL, "too early");
    CHECK(step(recording, calls, arrays), "%s", test_last_error());
    replays[0].rows = 2, replays[1].rows = 0;
    CHECK(!step(recording, replays, arrays) && strstr(test_last_error(), "one row each") != NULL, "two rows: %s", test_last_error());
    replays[0].rows = replays[1].rows = 1;
    CHECK(puna_recording_end(recording) == PUNA_STATUS_OK, "%s", test_last_error());
    CHECK(puna_recording_end(recording) == INVALID && strstr(test_last_error(), "has ended") != NULL, "twice");
    CHECK(puna_add_forward(recording, arrays, (float *)arrays + 8, 8) == INVALID && strstr(test_last_error(), "has ended") != NULL, "late");
    for (int64_t t = 0; t < STEPS; t += 2) {
        for (int i = 0; i < ARRAYS; i++) host[i] = (float)test_uniform(7 + (uint64_t)t, (uint64_t)i, -2, 2);
        if (t == STEPS - 2) { /* the first sequence's cache serves the second, and what was called there was replayed here */
            replays[0].cache = caches[3], replays[1].cache = caches[2];
            calls[0].cache = caches[1], calls[1].cache = caches[0];
        }
        bool done = puna_memory_copy(context, arrays, host, sizeof host) == PUNA_STATUS_OK;
        for (int64_t s = t; s < t + 2; s++) {
            for (int i = 0; i < 2; i++) calls[i].position = s + 3 * i;
            done = done && step(context, calls, arrays);
        }
        CHECK(done && puna_memory_copy(context, called, arrays, sizeof called) == PUNA_STATUS_OK, "%s", test_last_error());
        done = puna_memory_copy(context, arrays, host, sizeof host) == PUNA_STATUS_OK;
        for (int64_t s = t; s < t + 2; s++) {
            for (int i = 0; i < 2; i++) replays[i].position = s + 3 * i;
            done = done && puna_recording_replay(recording, replays, 2) == PUNA_STATUS_OK;
        }
        CHECK(done && puna_memory_copy(context, replayed, arrays, sizeof replayed) == PUNA_STATUS_OK, "%s", test_last_error());
        bool numbers = true;
        for (int i = 0; i < 2 * STEP_Q; i++) numbers = numbers && isfinite(called[i]);
        if (!CHECK(numbers && memcmp(called, replayed, sizeof called) == 0, "step %d is another, or no numbers", (int)t)) break;
    }
    CHECK(puna_recording_replay(recording, replays, 1) == INVALID, "one sequence of two");
    CHECK(puna_recording_replay(recording, NULL, 2) == INVALID, "no sequences");
    replays[0].capacity++;
    CHECK(puna_recording_replay(recording, replays, 2) == INVALID, "a cache beyond its memory");
    replays[0].capacity = 100, replays[0].position = 100;
    CHECK(puna_recording_replay(recording, replays, 2) == INVALID, "a full cache");
    puna_context_destroy(recording);

    test_case("what cannot be recorded");
    int32_t index;
    void *memory = NULL;
    CHECK(puna_recording_begin(context, &recording) == PUNA_STATUS_OK, "%s", test_last_error());
    CHECK(puna_recording_begin(recording, &other) == UNSUPPORTED && other == NULL, "a recording of a recording");
    CHECK(puna_memory_allocate(recording, 4, &memory) == UNSUPPORTED && puna_memory_copy(recording, arrays, host, 4) == UNSUPPORTED &&
          puna_memory_clear(recording, arrays, 4) == UNSUPPORTED && puna_memory_free(recording, arrays) == INVALID && memory == NULL,
          "memory of a recording");
    CHECK(puna_argmax_forward(recording, &index, arrays, 1, 8) == UNSUPPORTED &&
          strstr(test_last_error(), "puna_argmax_forward: cannot be recorded") != NULL, "%s", test_last_error());
    puna_context_destroy(recording); /* in the middle */
    CHECK(puna_recording_end(context) == INVALID && puna_recording_replay(context, NULL, 0) == INVALID &&
          puna_recording_replay(NULL, NULL, 0) == INVALID, "no recording");

    /* It holds its context; a replay of no sequences takes none. */
    CHECK(test_open_cuda(&other) == PUNA_STATUS_OK && puna_memory_allocate(other, 64, &memory) == PUNA_STATUS_OK &&
          puna_memory_copy(other, memory, host, 64) == PUNA_STATUS_OK && puna_recording_begin(other, &recording) == PUNA_STATUS_OK &&
          puna_add_forward(recording, memory, (float *)memory + 8, 8) == PUNA_STATUS_OK &&
          puna_recording_end(recording) == PUNA_STATUS_OK, "%s", test_last_error());
    CHECK(puna_recording_replay(recording, NULL, 0) == PUNA_STATUS_OK && puna_recording_replay(recording, NULL, 0) == PUNA_STATUS_OK &&
          puna_memory_copy(other, replayed, memory, 64) == PUNA_STATUS_OK, "%s", test_last_error());
    for (int i = 0; i < 8; i++) CHECK(replayed[i] == host[i] + host[8 + i] + host[8 + i], "element %d", i);
    puna_context_destroy(other);
    CHECK(puna_recording_replay(recording, NULL, 0) == PUNA_STATUS_OK && puna_memory_free(other, memory) == PUNA_STATUS_OK, "after its context");
    puna_context_destroy(recording);
    for (int i = 0; i < 4; i++) puna_memory_free(context, caches[i]);
    puna_memory_free(context, arrays);
}

enum { F32 = PUNA_DTYPE_F32, F16 = PUNA_DTYPE_F16, BF16 = PUNA_DTYPE_BF16, Q8_0 = PUNA_DTYPE_Q8_0, Q4_K = PUNA_DTYPE_Q4_K };

/*
 * Beside the operations' own shapes: large tiles in every direction and past all stages, one column or row more than tiles, and, on the
 * emulated device, operands that the scratch does not hold along M, N and K, and large tiles of two stretches.
 */
static const int64_t products[][TEST_DIMENSIONS] = {
    {F32, 9, 8, 8, 1, 0, 0}, {BF16, 129, 257, 104, 1, 0, 0}, {BF16, 200, 393, 168, 2, 1, 0}, {F16, 130, 390, 263, 3, 0, 1},
    {F32, 300, 260, 33, 3, 1, 2}, {Q8_0, 129, 400, 96, 2, 0, 0}, {F32, 150, 70, 1100, 3, 1, 1}, {BF16, 67, 130, 2056, 1, 1, 0},
    {Q4_K, 66, 70, 1280, 2, 0, 0}, {BF16, 128, 650, 512, 1, 1, 0},
};
static const int64_t input_gradients[][TEST_DIMENSIONS] = {
    {F32, 200, 136, 300, 0, 1}, {BF16, 260, 100, 264, 0, 0}, {F16, 129, 33, 389, 1, 0}, {BF16, 70, 1100, 130, 1, 1},
    {F32, 130, 1030, 72, 0, 0},
};
static const int64_t weight_gradients[][TEST_DIMENSIONS] = {{200, 136, 300, 0}, {100, 260, 264, 0}, {77, 129, 390, 3}, {1100, 70, 136, 1}};
/* More than the 128 large tiles from which on a device takes these, and more rows of K than its scratch holds at a time. */
static const int64_t large_products[][TEST_DIMENSIONS] = {
    {BF16, 1500, 1420, 104, 1, 0, 0}, {F32, 1410, 1505, 70, 1, 1, 1}, {Q8_0, 4160, 520, 96, 1, 0, 0}, {F16, 4140, 9, 4096, 1, 1, 0},
};
static const int64_t large_input_gradients[][TEST_DIMENSIONS] = {{BF16, 1500, 72, 1416, 0, 1}, {F32, 1410, 100, 1505, 1, 0}};
static const int64_t large_weight_gradients[][TEST_DIMENSIONS] = {{100, 1416, 1500, 0}, {75, 1505, 1410, 1}};

/* Tolerances are for sums in F32; tensor cores cut off where F32 rounds, which is some twice as much. */
static const double APART = 4;

/* Holds a case, of which operands were rounded or, as rows are few or, on the emulated device, do not fit the scratch, were not. */
static void hold_rounded(puna_context *context, const test_op *op, const int64_t *d, const char *kept, double k, double apart,
                         bool rounds) {
    double off = test_op_rounded(op, d, context, kept, k, apart);
    CHECK(rounds ? off > 0.25 : off < 0.01, "%g of what rounding makes it", off);
}

static void large_rounded_products(puna_context *context) {
    for (int64_t i = 0; i < TEST_COUNT(large_products); i++) hold_rounded(context, &test_matmul, large_products[i], "", 2, APART, true);
    for (int64_t i = 0; i < TEST_COUNT(large_input_gradients); i++)
        hold_rounded(context, &test_matmul_input_backward, large_input_gradients[i], "", 3, APART, true);
    for (int64_t i = 0; i < TEST_COUNT(large_weight_gradients); i++)
        hold_rounded(context, &test_matmul_weight_backward, large_weight_gradients[i], "", 3, APART, true);
}

static void rounded_products(puna_context *context) {
    const test_op *op = &test_matmul;
    for (int64_t i = 0; i < op->count; i++) {
        bool many = op->cases[i][1] > 8;
        if (op->cases[i][7] == 0) hold_rounded(context, op, op->cases[i], "", 2, many ? APART : 0, many);
    }
    for (int64_t i = 0; i < TEST_COUNT(products); i++) hold_rounded(context, op, products[i], "", 2, APART, true);
    op = &test_matmul_input_backward;
    for (int64_t i = 0; i < op->count; i++) hold_rounded(context, op, op->cases[i], "", 3, APART, true);
    for (int64_t i = 0; i < TEST_COUNT(input_gradients); i++) hold_rounded(context, op, input_gradients[i], "", 3, APART, true);
    op = &test_matmul_weight_backward;
    for (int64_t i = 0; i < op->count; i++) hold_rounded(context, op, op->cases[i], "", 3, APART, true);
    for (int64_t i = 0; i < TEST_COUNT(weight_gradients); i++) hold_rounded(context, op, weight_gradients[i], "", 3, APART, true);
}

/* Beside the operations' own: prompts behind texts, in several tiles. */
static const int64_t prompts[][TEST_DIMENSIONS] = {
    {1, 130, 333, 4, 2, 72, 0, 1, 0}, {2, 65, 129, 3, 1, 128, 70, 1, 0}, {1, 64, 64, 6, 2, 256, 0, 0, 0},
};
static const int64_t cached_prompts[][TEST_DIMENSIONS] = {
#define X(dtype)                                                                                                            \
    {dtype, 602, 96, 0, 70, 90, 20, 0, 17, 64}, {dtype, 401, 64, 100, 16, 200, 130, 3, 1, 5},                               \
    {dtype, 202, 64, 0, 16, 1100, 18, 0, 20, 30}, {dtype, 804, 128, 0, 33, 1, 100, 28, 64, 64},
    X(F32) X(F16) X(BF16) X(Q8_0)
#undef X
};
static const int64_t texts[][TEST_DIMENSIONS] = {
    {1, 130, 200, 4, 2, 72, 0}, {2, 65, 129, 3, 1, 128, 70}, {3, 40, 64, 6, 2, 256, 0}, {1, 300, 300, 4, 4, 64, 100},
};
/* Of one head more than the emulated scratch, and not a device's, holds. */
static const int64_t long_prompt[TEST_DIMENSIONS] = {1, 20, 1100, 2, 1, 64, 0, 1, 0};
static const int64_t long_text[TEST_DIMENSIONS] = {1, 20, 1100, 2, 1, 64, 0};

/* Fewer rows of a sequence are those of every context. */
static bool tiled(int64_t rows) { return rows >= PUNA_CUDA_TILE_ROWS; }

static void rounded_attention(puna_context *context, bool emulated) {
    const test_op *op = &test_attention;
    for (int64_t i = 0; i < op->count; i++)
        if (tiled(op->cases[i][1])) hold_rounded(context, op, op->cases[i], "", 2, 0, true);
    for (int64_t i = 0; i < TEST_COUNT(prompts); i++) hold_rounded(context, op, prompts[i], "", 2, 0, true);
    hold_rounded(context, op, long_prompt, "", 2, 0, !emulated);
    op = &test_attention_cached;
    for (int64_t i = 0; i < op->count; i++) {
        const int64_t *d = op->cases[i];
        if (tiled(d[4]) || tiled(d[6]) || tiled(d[8])) hold_rounded(context, op, d, "", 2, 0, true);
    }
    for (int64_t i = 0; i < TEST_COUNT(cached_prompts); i++) hold_rounded(context, op, cached_prompts[i], "", 2, 0, true);
    op = &test_attention_backward;
    for (int64_t i = 0; i < op->count; i++)
        if (tiled(op->cases[i][1])) hold_rounded(context, op, op->cases[i], "y lse", 3, 0, true);
    for (int64_t i = 0; i < TEST_COUNT(texts); i++) hold_rounded(context, op, texts[i], "y lse", 3, 0, true);
    hold_rounded(context, op, long_text, "y lse", 3, 0, !emulated);
}

/*
 * Rows have the same bits whatever rows are beside them: their stretches of K in a block each, or in one block, one after another, as
 * there are tiles enough or partial sums would not fit; large tiles, for which the emulated device asks less, or small ones. The last
 * rows are recorded and replayed.
 */
static void rows_alone_of(puna_context *context, int64_t rows, int64_t N, int64_t K) {
    enum { ALONE = 9 };
    const int64_t sizes[] = {rows * K * 4, N * K * 2, rows * N * 4}, bytes = ALONE * N * 4;
    void *on[3] = {NULL};
    float *x = malloc((size_t)sizes[0]), *y = malloc((size_t)sizes[2]), *all = malloc((size_t)sizes[2]), *alone = malloc((size_t)bytes);
    uint16_t *w = malloc((size_t)sizes[1]);
    for (int64_t i = 0; i < rows * K; i++) x[i] = (float)test_uniform(1, (uint64_t)i, -1, 1);
    for (int64_t i = 0; i < N * K; i++) w[i] = puna_f32_to_bf16((float)test_uniform(2, (uint64_t)i, -1, 1));
    for (int64_t i = 0; i < rows * N; i++) y[i] = (float)test_uniform(3, (uint64_t)i, -1, 1);
    const void *const arrays[] = {x, w, y};
    for (int i = 0; i < 3; i++)
        CHECK(puna_memory_allocate(context, sizes[i], &on[i]) == PUNA_STATUS_OK &&
              puna_memory_copy(context, on[i], arrays[i], sizes[i]) == PUNA_STATUS_OK, "%s", test_last_error());
    puna_matmul_product product = {N, N, PUNA_DTYPE_BF16, 1};
    CHECK(puna_matmul_forward(context, &product, 1, on[2], on[1], NULL, NULL, NULL, NULL, on[0], K, rows, K, PUNA_ACTIVATIONS_F32, NULL,
                              0) == PUNA_STATUS_OK &&
          puna_memory_copy(context, all, on[2], sizes[2]) == PUNA_STATUS_OK &&
          puna_memory_copy(context, on[2], y, sizes[2]) == PUNA_STATUS_OK, "%s", test_last_error());
    for (int64_t first = 0; first < rows; first += rows - ALONE) {
        const float *rows_x = (float *)on[0] + first * K;
        float *rows_y = (float *)on[2] + first * N;
        puna_context *recording = NULL;
        CHECK(first == 0 || puna_recording_begin(context, &recording) == PUNA_STATUS_OK, "%s", test_last_error());
        CHECK(puna_matmul_forward(first == 0 ? context : recording, &product, 1, rows_y, on[1], NULL, NULL, NULL, NULL, rows_x, K, ALONE,
                                  K, PUNA_ACTIVATIONS_F32, NULL, 0) == PUNA_STATUS_OK, "%s", test_last_error());
        CHECK(first == 0 || (puna_recording_end(recording) == PUNA_STATUS_OK &&
                             puna_recording_replay(recording, NULL, 0) == PUNA_STATUS_OK), "%s", test_last_error());
        CHECK(puna_memory_copy(context, alone, rows_y, bytes) == PUNA_STATUS_OK, "%s", test_last_error());
        CHECK(memcmp(all + first * N, alone, (size_t)bytes) == 0, "%d rows from %d, N %d K %d", ALONE, (int)first, (int)N, (int)K);
        if (recording != NULL) puna_context_destroy(recording);
    }
    for (int i = 0; i < 3; i++) CHECK(puna_memory_free(context, on[i]) == PUNA_STATUS_OK, "%s", test_last_error());
    free(x), free(y), free(all), free(alone), free(w);
}

/* On the emulated device 700 and 300 columns have two and four stretches, on another 1,500 have four. */
static void rows_alone(puna_context *context) {
    char line[256];
    puna_context_describe(context, line, sizeof line);
    test_case("rows among others, %s", line);
    rows_alone_of(context, 140, 700, 512);
    rows_alone_of(context, 140, 300, 1024);
    if (strstr(line, "emulated") == NULL) rows_alone_of(context, 1500, 1500, 2048);
}

/* Rounded keys and values are read where they lie if copies of 16 bytes can, else rounded once more: the same bits. */
static void where_keys_lie(puna_context *context) {
    enum { T = 40, S = 240, NH = 4, NKV = 2, HD = 64, WIDTH = NH * HD, CACHE = 2 * NKV * S * HD };
    static float q[T * WIDTH], numbers[CACHE], y[2][T * WIDTH];
    static uint16_t halves[CACHE];
    const struct {
        int32_t dtype;
        int64_t from;
    } places[] = {{F32, 0}, {BF16, 0}, {BF16, 2}};
    void *on_q = NULL, *on_y = NULL, *memory = NULL;
    test_case("rounded keys where they lie");
    for (int i = 0; i < T * WIDTH; i++) q[i] = (float)test_uniform(1, (uint64_t)i, -4, 4);
    for (int i = 0; i < CACHE; i++) {
        halves[i] = puna_f32_to_bf16((float)test_uniform(2, (uint64_t)i, -1, 1));
        numbers[i] = puna_bf16_to_f32(halves[i]);
    }
    CHECK(puna_memory_allocate(context, sizeof q, &on_q) == PUNA_STATUS_OK &&
          puna_memory_allocate(context, sizeof q, &on_y) == PUNA_STATUS_OK &&
          puna_memory_allocate(context, sizeof numbers, &memory) == PUNA_STATUS_OK &&
          puna_memory_copy(context, on_q, q, sizeof q) == PUNA_STATUS_OK, "%s", test_last_error());
    for (int64_t window = 0; window <= 100; window += 100)
        for (int i = 0; i < TEST_COUNT(places); i++) {
            bool plain = places[i].dtype == F32;
            puna_kv_sequence sequence = {(char *)memory + places[i].from, S, S - T, T};
            CHECK(puna_memory_copy(context, sequence.cache, plain ? (void *)numbers : halves, plain ? sizeof numbers : sizeof halves) ==
                      PUNA_STATUS_OK &&
                  puna_attention_cached_forward(context, on_y, WIDTH, on_q, WIDTH, &sequence, 1, places[i].dtype, 0, NH, NKV, HD, window,
                                                0.125f, NULL, 0) == PUNA_STATUS_OK &&
                  puna_memory_copy(context, y[i > 0], on_y, sizeof y[0]) == PUNA_STATUS_OK, "%s", test_last_error());
            CHECK(i == 0 || memcmp(y[0], y[1], sizeof y[0]) == 0, "window %d, place %d", (int)window, i);
        }
    puna_memory_free(context, on_q), puna_memory_free(context, on_y), puna_memory_free(context, memory);
}

static void rounded(void) {
    puna_context_options options = {PUNA_BACKEND_CUDA, 0, 0, 0, PUNA_PRECISION_BF16};
    puna_context *context;
    if (!CHECK(puna_context_create(&options, test_cuda_library, &context) == PUNA_STATUS_OK, "%s", test_last_error())) return;
    char line[256];
    puna_context_describe(context, line, sizeof line);
    CHECK(strstr(line, "BF16") != NULL, "'%s'", line);
    bool emulated = strstr(line, "emulated") != NULL;
    rows_alone(context);
    where_keys_lie(context);
    rounded_products(context);
    if (!emulated) large_rounded_products(context); /* there small shapes have all of it, and these would take minutes */
    rounded_attention(context, emulated);
    puna_context_destroy(context);
}

static void faults(puna_context *context) {
    test_case("faults");
    setenv("PUNA_EMULATED_FAULT", "no-driver", 1);
    refused(test_cuda_library, 0, "there is no CUDA driver on this machine");
    setenv("PUNA_EMULATED_FAULT", "old-driver", 1);
    refused(test_cuda_library, 0, "the CUDA driver is too old: it serves CUDA 11.4, and this library wants 13.0");
    setenv("PUNA_EMULATED_FAULT", "no-device", 1);
    refused(test_cuda_library, 0, "finds no device");
    setenv("PUNA_EMULATED_FAULT", "no-kernel", 1);
    refused(test_cuda_library, 0, "for which this library was not built: it serves compute capability 8.0 and later");
    setenv("PUNA_EMULATED_FAULT", "no-function", 1);
    refused(test_cuda_library, 0, "for which this library was not built: it serves compute capability 8.0 and later");
    unsetenv("PUNA_EMULATED_FAULT");
    refused(test_cuda_library, 1, "there is no device cuda:1, the last one is cuda:0");

    void *memory = NULL, *more = NULL;
    setenv("PUNA_EMULATED_FAULT", "memory", 1);
    CHECK(puna_memory_allocate(context, 12345, &memory) == PUNA_STATUS_OUT_OF_MEMORY, "no status of memory");
    CHECK(strstr(test_last_error(), "12345 bytes asked of cuda:0, 1048576 of 1073741824 are free") != NULL, "'%s'", test_last_error());
    unsetenv("PUNA_EMULATED_FAULT");
    CHECK(puna_memory_allocate(context, 64, &memory) == PUNA_STATUS_OK, "after a shortage: %s", test_last_error());
    setenv("PUNA_EMULATED_FAULT", "illegal-address", 1);
    float *y = memory;
    CHECK(puna_add_forward(context, y, y + 8, 8) == PUNA_STATUS_DEVICE_ERROR, "an illegal address goes unnoticed");
    CHECK(strstr(test_last_error(), "puna_add_forward: cuda:0") != NULL && strstr(test_last_error(), "cudaErrorIllegalAddress") != NULL,
          "'%s'", test_last_error());
    unsetenv("PUNA_EMULATED_FAULT");
    float host[16];
    CHECK(puna_memory_copy(context, host, y, sizeof host) == PUNA_STATUS_DEVICE_ERROR &&
          strstr(test_last_error(), "the device failed before: puna_add_forward on cuda:0") != NULL, "later: '%s'", test_last_error());
    CHECK(puna_memory_allocate(context, 64, &more) == PUNA_STATUS_DEVICE_ERROR, "memory of a device that failed");
    CHECK(puna_memory_free(context, memory) == PUNA_STATUS_OK, "what it has can be freed: %s", test_last_error());
}

void test_cuda(void) {
    plans();
    no_library();
    if (test_cuda_library == NULL) return;
    puna_context *context;
    test_case("a context");
    if (!CHECK(test_open_cuda(&context) == PUNA_STATUS_OK, "%s", test_last_error())) return;
    char line[256];
    puna_context_describe(context, line, sizeof line);
    CHECK(strncmp(line, "cuda:0 ", 7) == 0, "'%s'", line);
    places(context);
    many_rows(context);
    rows_alone(context);
    rounded();
    recordings(context);
    if (strstr(line, "emulated") != NULL) faults(context);
    puna_context_destroy(context);
}
