/* Attention and the key/value cache: against the reference, and a row's bits however its prompt came to be cut. */
#include "test.h"

#include "blocks.h"

#include <stdlib.h>

enum { F32 = PUNA_DTYPE_F32, F16 = PUNA_DTYPE_F16, BF16 = PUNA_DTYPE_BF16, Q8_0 = PUNA_DTYPE_Q8_0 };

static float scale_of(int64_t HD) { return 1 / sqrtf((float)HD); }

/*
 * Queries up to 4 and keys up to 1 make scores of standard deviation 4 / 3, summed over HD in lanes: errors below sqrt(HD)
 * eps. They are the relative errors of the weights, beside exp's 4 eps, its argument's (up to 8 eps) and the rescalings'.
 * Adding S weights of one sign errs by near sqrt(S) eps of their sum. Values are below 1, so all this is absolute. lse errs
 * alike.
 */
static double tolerance(int64_t HD, int64_t S) { return TEST_EPS * (24 + 4 * sqrt((double)HD) + sqrt((double)S)); }

/* ------------------------------------------------- plain arrays ------------------------------------------------------ */

#define HEADS(X, HD) X(1, 1, HD, 0) X(4, 4, HD, 0) X(8, 1, HD, 0) X(6, 2, HD, 1) X(3, 1, HD, 3)
#define PROMPT(NH, NKV, HD, window) {2, 37, 37, NH, NKV, HD, window * 11, 1, 0},
#define NEXT(NH, NKV, HD, window) {1, 1, 70, NH, NKV, HD, window * 17, 0, 0},

static const int64_t attention_cases[][TEST_DIMENSIONS] = {
    HEADS(PROMPT, 2) HEADS(PROMPT, 6) HEADS(PROMPT, 20) HEADS(PROMPT, 64) HEADS(PROMPT, 80) HEADS(PROMPT, 96)
    HEADS(PROMPT, 128) HEADS(PROMPT, 256) HEADS(NEXT, 2) HEADS(NEXT, 10) HEADS(NEXT, 64) HEADS(NEXT, 80) HEADS(NEXT, 128)
    {1, 1, 1, 1, 1, 2, 0, 1, 0}, {1, 2, 2, 1, 1, 64, 1, 1, 0}, {3, 1, 1, 4, 2, 64, 5, 1, 0}, {1, 32, 32, 2, 1, 64, 32, 1, 0},
    {1, 31, 64, 2, 1, 64, 33, 1, 0}, {1, 33, 65, 2, 2, 64, 31, 1, 0}, {2, 7, 90, 4, 1, 62, 0, 0, 0},
    {1, 130, 130, 4, 2, 64, 40, 1, 0},
    {1, 64, 300, 8, 2, 64, 0, 1, 0}, {5, 3, 200, 2, 2, 128, 100, 0, 0},
    {1, 33, 33, 2, 1, 64, 0, 0, 1}, {1, 9, 70, 4, 1, 20, 0, 0, 1},
    {1, 40, 40, 2, 1, 64, 6, 0, 2},
    {1, 3, 1300, 4, 2, 64, 0, 1, 0}, {2, 1, 1100, 8, 2, 80, 600, 1, 0}, {1, 210, 700, 6, 2, 64, 530, 1, 0},
    {1, 1, 4000, 40, 1, 64, 0, 1, 0}, {1, 600, 600, 2, 2, 48, 0, 1, 1}, {1, 9, 1400, 4, 1, 20, 3, 1, 0},
};

/* special 1: keys 3 and 4 have an infinite element, so scores are infinite of either sign or not numbers, all in due course. */
static void fill_infinite_keys(const test_buffer *b, const int64_t *d, uint64_t seed) {
    float *k = b->data;
    for (int64_t i = 0; i < b->bytes / 4; i++) k[i] = (float)test_uniform(seed, (uint64_t)i, -1, 1);
    k[3 * b->stride + 1] = INFINITY;
    if (d[4] == 1) k[4 * b->stride] = -INFINITY;
}

/* special 2: values that overflow where a weight of zero must hide them are behind the window of most rows. */
static void fill_infinite_value(const test_buffer *b, const int64_t *d, uint64_t seed) {
    (void)d;
    float *v = b->data;
    for (int64_t i = 0; i < b->bytes / 4; i++) v[i] = (float)test_uniform(seed, (uint64_t)i, -1, 1);
    v[5 * b->stride + 1] = INFINITY;
    v[17 * b->stride + 2] = NAN;
}

static int attention_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    int64_t B = d[0], T = d[1], S = d[2], NH = d[3], NKV = d[4], HD = d[5], bytes = 0;
    CHECK(puna_attention_workspace_size(context, NH, NKV, HD, &bytes) == PUNA_STATUS_OK, "%s", test_last_error());
    b[0] = (test_buffer){.name = "y", .role = TEST_OUTPUT, .rows = B * T, .columns = NH * HD, .stride = NH * HD + S % 3,
                         .absolute = tolerance(HD, S)};
    b[1] = (test_buffer){.name = "lse", .role = TEST_OUTPUT, .rows = d[7] * B * NH, .columns = T, .absolute = tolerance(HD, S),
                         .relative = 2 * TEST_EPS};
    b[2] = (test_buffer){.name = "q", .rows = B * T, .columns = NH * HD, .stride = NH * HD + T % 2, .low = -4, .high = 4};
    b[3] = (test_buffer){.name = "k", .rows = B * S, .columns = NKV * HD, .stride = NKV * HD + S % 2};
    b[4] = (test_buffer){.name = "v", .rows = B * S, .columns = NKV * HD, .stride = NKV * HD + S % 2};
    b[5] = (test_buffer){.name = "workspace", .role = TEST_WORKSPACE, .rows = bytes > 0, .columns = puna_ceil_div(bytes, 4)};
    if (d[8] == 1) b[3].fill = fill_infinite_keys;
    if (d[8] == 2) b[4].fill = fill_infinite_value;
    return 6;
}

static puna_status attention_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_attention_forward(context, b[0].data, b[0].stride, b[1].data, b[2].data, b[2].stride, b[3].data, b[4].data,
                                  b[3].stride, d[0], d[1], d[2], d[3], d[4], d[5], d[6], scale_of(d[5]), b[5].data, b[5].bytes);
}

/* Two products per visible score. */
static double attention_flops(const int64_t *d) {
    double seen = (double)d[2] - (double)(d[1] - 1) / 2;
    return 4.0 * (double)(d[0] * d[1] * d[3] * d[5]) * seen;
}

static double attention_traffic(const int64_t *d) {
    return 8.0 * (double)(d[0] * d[5] * (d[1] * d[3] + d[2] * d[4]));
}

static const int64_t attention_benchmarks[][TEST_DIMENSIONS] = {
    {1, 512, 512, 32, 8, 128}, {1, 2048, 2048, 32, 8, 128}, {1, 8192, 8192, 32, 8, 128}, {1, 512, 512, 32, 8, 48},
    {1, 512, 512, 32, 8, 64}, {1, 512, 512, 32, 8, 80}, {1, 512, 512, 32, 8, 96}, {1, 128, 2048, 32, 4, 64},
};

const test_op test_attention = {
    "attention_forward", "B T S NH NKV HD window lse special", attention_cases, TEST_COUNT(attention_cases), attention_buffers,
    attention_call, attention_flops, attention_traffic, attention_benchmarks, TEST_COUNT(attention_benchmarks),
};

/* ------------------------------------------------- caches ------------------------------------------------------------ */

/* Three sequences a step, with rows_s rows at position_s; heads is 100 NH + NKV. Caches have two layers; the second is used. */
enum { DTYPE, HEADS_CODE, WIDTH, WINDOW, SEQUENCE, SEQUENCES = 3, LAYERS = 2, LAYER = 1 };

static const int64_t cached_cases[][TEST_DIMENSIONS] = {
#define HALVES(dtype, HD)                                                                                                   \
    {dtype, 801, HD, 0, 5, 0, 1, 63, 0, 9}, {dtype, 404, HD, 5, 20, 20, 1, 3, 64, 0},                                       \
    {dtype, 301, HD, 0, 1, 99, 1, 100, 1, 150}, {dtype, 401, HD, 0, 1, 31, 1, 97, 1, 150},
#define X(HD)                                                                                                               \
    {F32, 101, HD, 0, 1, 0, 1, 31, 1, 32}, {F32, 602, HD, 12, 1, 40, 33, 7, 2, 0},                                          \
    {F32, 202, HD, 0, 1, 63, 1, 130, 2, 94}, {F32, 601, HD, 0, 1, 32, 1, 64, 1, 99}, HALVES(F16, HD) HALVES(BF16, HD)
    X(2) X(18) X(64) X(80) X(128) X(256)
#undef X
#undef HALVES
#define X(HD)                                                                                                               \
    {Q8_0, 101, HD, 0, 1, 0, 1, 31, 1, 32}, {Q8_0, 602, HD, 12, 1, 40, 33, 7, 2, 0}, {Q8_0, 801, HD, 0, 1, 99, 4, 64, 1, 150}, \
    {Q8_0, 202, HD, 0, 1, 63, 1, 130, 2, 94}, {Q8_0, 401, HD, 0, 1, 31, 1, 97, 1, 150},
    X(32) X(96) X(128) X(256)
#undef X
};

static int64_t capacity_of(const int64_t *d, int s) { return d[SEQUENCE + 2 * s + 1] + d[SEQUENCE + 2 * s] + 2; }

/* Not a number wherever the step's rows may not look. */
static void fill_cache(const test_buffer *b, const int64_t *d, uint64_t seed) {
    int s = b->name[5] - '0';
    int64_t capacity = capacity_of(d, s), HD = d[WIDTH], NKV = d[HEADS_CODE] % 100;
    int64_t rows = d[SEQUENCE + 2 * s], position = d[SEQUENCE + 2 * s + 1], window = d[WINDOW];
    for (int64_t i = 0, step = puna_block_of(b->dtype).elements; i < b->columns; i += step) {
        int64_t layer = i / (2 * NKV * capacity * HD), j = i / HD % capacity;
        bool seen = layer == LAYER && j < position + rows && (window == 0 || j > position - window);
        float a = seen ? (float)test_uniform(seed, (uint64_t)i, -1, 1) : NAN;
        if (b->dtype == F32) {
            ((float *)b->data)[i] = a;
        } else if (b->dtype == F16) {
            ((uint16_t *)b->data)[i] = puna_f32_to_f16(a);
        } else if (b->dtype == BF16) {
            ((uint16_t *)b->data)[i] = puna_f32_to_bf16(a);
        } else {
            puna_q8_0 *block = (puna_q8_0 *)b->data + i / step;
            block->d = puna_f32_to_f16(a / 128);
            for (int64_t k = 0; k < step; k++) block->q[k] = (int8_t)test_random(seed, (uint64_t)(i + k));
        }
    }
}

static int64_t step_rows(const int64_t *d) {
    int64_t rows = 0;
    for (int s = 0; s < SEQUENCES; s++) rows += d[SEQUENCE + 2 * s];
    return rows;
}

static void describe_caches(const int64_t *d, test_buffer *b, test_role role) {
    static const char *const names[] = {"cache0", "cache1", "cache2"};
    for (int s = 0; s < SEQUENCES; s++)
        b[s] = (test_buffer){.name = names[s], .role = role, .dtype = (int32_t)d[DTYPE], .rows = 1,
                             .columns = LAYERS * 2 * (d[HEADS_CODE] % 100) * capacity_of(d, s) * d[WIDTH]};
}

static void sequences_of(const int64_t *d, const test_buffer *caches, puna_kv_sequence *sequences) {
    for (int s = 0; s < SEQUENCES; s++)
        sequences[s] = (puna_kv_sequence){caches[s].data, capacity_of(d, s), d[SEQUENCE + 2 * s + 1], d[SEQUENCE + 2 * s]};
}

static int cached_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    int64_t NH = d[HEADS_CODE] / 100, NKV = d[HEADS_CODE] % 100, HD = d[WIDTH], bytes = 0, width = NH * HD;
    CHECK(puna_attention_workspace_size(context, NH, NKV, HD, &bytes) == PUNA_STATUS_OK, "%s", test_last_error());
    describe_caches(d, b, TEST_INPUT);
    for (int s = 0; s < SEQUENCES; s++) b[s].fill = fill_cache;
    b[3] = (test_buffer){.name = "y", .role = TEST_OUTPUT, .rows = step_rows(d), .columns = width, .stride = width + 3,
                         .absolute = tolerance(HD, 151)};
    b[4] = (test_buffer){.name = "q", .rows = step_rows(d), .columns = width, .stride = width + 1, .low = -4, .high = 4};
    b[5] = (test_buffer){.name = "workspace", .role = TEST_WORKSPACE, .rows = bytes > 0, .columns = puna_ceil_div(bytes, 4)};
    return 6;
}

static puna_status cached_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    puna_kv_sequence sequences[SEQUENCES];
    sequences_of(d, b, sequences);
    return puna_attention_cached_forward(context, b[3].data, b[3].stride, b[4].data, b[4].stride, sequences, SEQUENCES,
                                         (int32_t)d[DTYPE], LAYER, d[HEADS_CODE] / 100, d[HEADS_CODE] % 100, d[WIDTH], d[WINDOW],
                                         scale_of(d[WIDTH]), b[5].data, b[5].bytes);
}

/* Of one layer, without window: two products for every key a row sees; keys and values read once for all their heads. */
static double cached_flops(const int64_t *d) {
    double seen = 0;
    for (int s = 0; s < SEQUENCES; s++)
        seen += (double)d[SEQUENCE + 2 * s] * ((double)d[SEQUENCE + 2 * s + 1] + (double)(d[SEQUENCE + 2 * s] + 1) / 2);
    return 4 * seen * (double)(d[HEADS_CODE] / 100 * d[WIDTH]);
}

static double cached_traffic(const int64_t *d) {
    double keys = 0;
    for (int s = 0; s < SEQUENCES; s++) keys += (double)(d[SEQUENCE + 2 * s] + d[SEQUENCE + 2 * s + 1]);
    return 2 * keys * (double)(d[HEADS_CODE] % 100 * puna_row_bytes((int32_t)d[DTYPE], d[WIDTH]))
           + 8.0 * (double)(step_rows(d) * (d[HEADS_CODE] / 100) * d[WIDTH]);
}

/* The next token after long texts. */
static const int64_t cached_benchmarks[][TEST_DIMENSIONS] = {
    {F16, 3208, 128, 0, 1, 8191, 1, 4095, 1, 2047}, {F32, 3208, 128, 0, 1, 8191, 1, 4095, 1, 2047},
    {F16, 3204, 64, 0, 1, 2047, 1, 2047, 1, 2047}, {F16, 3204, 64, 0, 1, 31, 1, 63, 1, 127},
    {F32, 3208, 128, 0, 1, 8191}, {F16, 3208, 128, 0, 1, 8191}, {BF16, 3208, 128, 0, 1, 8191}, {Q8_0, 3208, 128, 0, 1, 8191},
    {F16, 3232, 128, 0, 1, 4095}, {F16, 3204, 64, 0, 1, 2047},
};

const test_op test_attention_cached = {
    "attention_cached_forward", "dtype heads HD window rows0 position0 rows1 position1 rows2 position2", cached_cases,
    TEST_COUNT(cached_cases), cached_buffers, cached_call, cached_flops, cached_traffic, cached_benchmarks,
    TEST_COUNT(cached_benchmarks),
};

static int append_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    int64_t width = d[HEADS_CODE] % 100 * d[WIDTH];
    describe_caches(d, b, TEST_IN_OUT); /* equal to the reference: what is stored, and all that is left alone */
    b[3] = (test_buffer){.name = "k", .rows = step_rows(d), .columns = width, .stride = width + 1, .low = -9, .high = 9};
    b[4] = (test_buffer){.name = "v", .rows = step_rows(d), .columns = width, .stride = width + 1, .low = -1e-5, .high = 1e-5};
    return 5;
}

static puna_status append_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    puna_kv_sequence sequences[SEQUENCES];
    sequences_of(d, b, sequences);
    return puna_kv_append(context, sequences, SEQUENCES, (int32_t)d[DTYPE], LAYER, b[3].data, b[4].data, b[3].stride,
                          d[HEADS_CODE] % 100, d[WIDTH]);
}

const test_op test_kv_append = {
    "kv_append", "dtype heads HD window rows0 position0 rows1 position1 rows2 position2", cached_cases, TEST_COUNT(cached_cases),
    append_buffers, append_call, NULL, NULL, NULL, 0,
};

/* ------------------------------------------------- one prompt, cut differently ---------------------------------------- */

/* The second prompt is longer than the stretches that the keys of few rows are handed out in. */
enum { TOKENS = 75, LONG = 1100 };

static const struct { int64_t tokens, count, rows[8]; } cuts[] = {
    {TOKENS, 1, {75}}, {TOKENS, 2, {1, 74}}, {TOKENS, 3, {32, 1, 42}}, {TOKENS, 5, {7, 13, 31, 23, 1}},
    {TOKENS, 8, {1, 1, 1, 1, 31, 33, 6, 1}}, {LONG, 2, {1099, 1}}, {LONG, 5, {511, 2, 510, 1, 76}}, {LONG, 3, {1030, 3, 67}},
};

/* What a cache of dtype makes of n numbers, whole blocks. */
static void round_to(int32_t dtype, float *x, int64_t n) {
    for (int64_t i = 0, step = puna_block_of(dtype).elements; i < n; i += step) {
        uint16_t half = puna_f32_to_f16(x[i]);
        puna_q8_0 block;
        if (dtype == Q8_0) puna_quantize_q8_0(&block, x + i);
        if (dtype == F16) x[i] = puna_f16_to_f32(half);
        if (dtype == BF16) x[i] = test_bf16(x[i]);
        for (int64_t k = 0; k < step && dtype == Q8_0; k++) x[i + k] = puna_value(&block, dtype, k);
    }
}

/*
 * A prompt by itself and another sequence's beside it, in pieces, with a cache of dtype: the bits of y are those that
 * puna_attention_forward gives for the numbers the cache holds.
 */
static void check_cuts(puna_context *context, int32_t dtype, int64_t NH, int64_t NKV, int64_t HD, int64_t window, int64_t tokens) {
    enum { WORKSPACE = 8 << 20 };
    int64_t width = NH * HD, kv_width = NKV * HD;
    test_buffer b[3] = {{.name = "q", .rows = tokens, .columns = width, .low = -4, .high = 4},
                        {.name = "k", .rows = tokens, .columns = kv_width}, {.name = "v", .rows = tokens, .columns = kv_width}};
    test_prepare(&test_attention, NULL, b, 3, true, TEST_GUARD_AFTER);
    const float *q = b[0].data, *k = b[1].data, *v = b[2].data;
    float *rounded = malloc((size_t)(2 * tokens * kv_width) * 4);
    memcpy(rounded, k, (size_t)(tokens * kv_width) * 4);
    memcpy(rounded + tokens * kv_width, v, (size_t)(tokens * kv_width) * 4);
    round_to(dtype, rounded, 2 * tokens * kv_width);
    float *whole = malloc((size_t)(tokens * width) * 4), *y = malloc((size_t)(2 * tokens * width) * 4);
    float *cache = malloc((size_t)(2 * tokens * kv_width) * 4), *other = malloc((size_t)(2 * tokens * kv_width) * 4);
    float *q2 = malloc((size_t)(2 * tokens * width) * 4), *kv2 = malloc((size_t)(4 * tokens * kv_width) * 4);
    void *workspace = malloc(WORKSPACE);
    CHECK(puna_attention_forward(context, whole, width, NULL, q, width, rounded, rounded + tokens * kv_width, kv_width, 1, tokens,
                                 tokens, NH, NKV, HD, window, scale_of(HD), workspace, WORKSPACE) == PUNA_STATUS_OK, "%s", test_last_error());
    for (int c = 0; c < TEST_COUNT(cuts); c++) {
        if (cuts[c].tokens != tokens) continue;
        for (int64_t piece = 0, at = 0; piece < cuts[c].count; at += cuts[c].rows[piece++]) {
            /* Each step advances this sequence by a piece, and before it another one by its only token. */
            int64_t rows = cuts[c].rows[piece];
            puna_kv_sequence sequences[2] = {{other, tokens, 0, 1}, {cache, tokens, at, rows}};
            float *k2 = kv2, *v2 = kv2 + 2 * tokens * kv_width;
            memcpy(q2, q + at * width, (size_t)width * 4);
            memcpy(q2 + width, q + at * width, (size_t)(rows * width) * 4);
            memcpy(k2, k, (size_t)kv_width * 4);
            memcpy(k2 + kv_width, k + at * kv_width, (size_t)(rows * kv_width) * 4);
            memcpy(v2, v, (size_t)kv_width * 4);
            memcpy(v2 + kv_width, v + at * kv_width, (size_t)(rows * kv_width) * 4);
            CHECK(puna_kv_append(context, sequences, 2, dtype, 0, k2, v2, kv_width, NKV, HD) == PUNA_STATUS_OK, "%s",
                  test_last_error());
            CHECK(puna_attention_cached_forward(context, y, width, q2, width, sequences, 2, dtype, 0, NH, NKV, HD, window,
                                                scale_of(HD), workspace, WORKSPACE) == PUNA_STATUS_OK, "%s", test_last_error());
            CHECK(memcmp(y + width, whole + at * width, (size_t)(rows * width) * 4) == 0,
                  "type %d NH %d NKV %d HD %d window %d: cut %d, rows %d to %d differ from those of the whole prompt", dtype,
                  (int)NH, (int)NKV, (int)HD, (int)window, c, (int)at, (int)(at + rows - 1));
        }
    }
    test_release(b, 3);
    free(whole), free(y), free(cache), free(other), free(q2), free(kv2), free(workspace), free(rounded);
}

void test_attention_cuts(void) {
    static const int32_t isas[] = {PUNA_ISA_BASELINE, PUNA_ISA_AVX2, PUNA_ISA_AVX512, PUNA_ISA_AMX, PUNA_ISA_DOTPROD};
    static const int32_t threads[] = {1, 5};
    for (int i = 0; i < TEST_COUNT(isas); i++) {
        for (int t = 0; t < TEST_COUNT(threads); t++) {
            puna_context_options options = {PUNA_BACKEND_CPU, 0, threads[t], isas[i], PUNA_PRECISION_F32};
            puna_context *context;
            if (puna_context_create(&options, NULL, &context) == PUNA_STATUS_UNSUPPORTED) continue;
            test_case("isa %d, %d threads", isas[i], threads[t]);
            for (int64_t window = 0; window <= 45; window += 15) {
                check_cuts(context, F32, 1, 1, 64, window, TOKENS);
                check_cuts(context, F32, 4, 4, 18, window, TOKENS);
                check_cuts(context, F16, 4, 4, 18, window, TOKENS);
                check_cuts(context, BF16, 4, 4, 18, window, TOKENS);
                check_cuts(context, F32, 8, 1, 80, window, TOKENS);
                check_cuts(context, F32, 6, 2, 128, window, TOKENS);
                check_cuts(context, BF16, 6, 2, 128, window, TOKENS);
                check_cuts(context, Q8_0, 6, 2, 128, window, TOKENS);
            }
            check_cuts(context, F32, 4, 1, 128, 0, LONG);
            check_cuts(context, F16, 2, 2, 80, 700, LONG);
            check_cuts(context, F16, 6, 1, 64, 0, LONG);
            check_cuts(context, BF16, 2, 2, 80, 700, LONG);
            check_cuts(context, BF16, 6, 1, 64, 0, LONG);
            check_cuts(context, Q8_0, 4, 1, 96, 0, LONG);
            puna_context_destroy(context);
        }
    }
}
