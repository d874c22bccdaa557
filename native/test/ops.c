/* The row operations' cases, buffers and tolerances, and the list of all operations tested. */
#include "test.h"

#include "blocks.h"

const test_op *const test_ops[] = {
    &test_dequantize, &test_embedding, &test_rmsnorm,    &test_add,  &test_swiglu, &test_log_softmax,
    &test_argmax,     &test_candidates, &test_rope_table, &test_rope,      &test_matmul, &test_attention, &test_attention_cached,
    &test_kv_append,  &test_embedding_backward, &test_rmsnorm_backward, &test_swiglu_backward, &test_rope_backward,
    &test_cross_entropy, &test_squared_norm, &test_adamw, &test_matmul_input_backward, &test_matmul_weight_backward,
    &test_attention_backward,
};
const int64_t test_op_count = TEST_COUNT(test_ops);
const test_op *const test_rounding_ops[] = {&test_matmul, &test_matmul_input_backward, &test_matmul_weight_backward};
const int64_t test_rounding_op_count = TEST_COUNT(test_rounding_ops);

/* Around every vector width and its multiples, primes, and a model's. */
#define WIDTHS(X) X(1) X(2) X(3) X(4) X(5) X(7) X(8) X(9) X(15) X(16) X(17) X(31) X(33) X(63) X(64) X(65) X(127) X(129) X(2053)

enum { F32 = PUNA_DTYPE_F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K };

/* ------------------------------------------------- dequantize --------------------------------------------------------- */

/* Every one of the 65,536 bit patterns, so special = 1 wants rows * C = 65,536. */
static void fill_every_pattern(const test_buffer *b, const int64_t *d, uint64_t seed) {
    (void)d, (void)seed;
    for (int64_t i = 0; i < b->bytes / 2; i++) ((uint16_t *)b->data)[i] = (uint16_t)i;
}

/* Blocks of random bytes, infinite and NaN factors among them. */
static void fill_random_bytes(const test_buffer *b, const int64_t *d, uint64_t seed) {
    (void)d;
    for (int64_t i = 0; i < b->bytes; i++) ((uint8_t *)b->data)[i] = (uint8_t)test_random(seed, (uint64_t)i);
}

static const int64_t dequantize_cases[][TEST_DIMENSIONS] = {
#define X(C) {F32, 1, C}, {F16, 3, C}, {BF16, 3, C},
    WIDTHS(X)
#undef X
    {F16, 16, 4096, 1}, {BF16, 16, 4096, 1},
    {Q8_0, 1, 32}, {Q8_0, 5, 96}, {Q8_0, 7, 4096}, {Q8_0, 64, 1056, 1},
    {Q4_0, 1, 32}, {Q4_0, 5, 96}, {Q4_0, 7, 4096}, {Q4_0, 64, 1056, 1},
    {Q4_K, 1, 256}, {Q4_K, 5, 768}, {Q4_K, 7, 4096}, {Q4_K, 67, 1280, 1},
    {Q6_K, 1, 256}, {Q6_K, 5, 768}, {Q6_K, 7, 4096}, {Q6_K, 67, 1280, 1},
};

static int dequantize_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    b[0] = (test_buffer){.name = "y", .role = TEST_OUTPUT, .rows = d[1], .columns = d[2]};
    b[1] = (test_buffer){.name = "w", .dtype = (int32_t)d[0], .rows = d[1], .columns = d[2]};
    if (d[3]) b[1].fill = d[0] < Q8_0 ? fill_every_pattern : fill_random_bytes;
    return 2;
}

static puna_status dequantize_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_dequantize(context, b[0].data, b[1].data, (int32_t)d[0], d[1], d[2]);
}

static double dequantize_flops(const int64_t *d) { return (double)(d[1] * d[2]); }
static double dequantize_traffic(const int64_t *d) {
    return (double)d[1] * (double)(4 * d[2] + puna_row_bytes((int32_t)d[0], d[2]));
}

static const int64_t dequantize_benchmarks[][TEST_DIMENSIONS] = {
    {F16, 1024, 4096}, {BF16, 1024, 4096}, {Q8_0, 1024, 4096}, {Q4_0, 1024, 4096}, {Q4_K, 1024, 4096}, {Q6_K, 1024, 4096},
};

const test_op test_dequantize = {
    "dequantize", "dtype rows C special", dequantize_cases, TEST_COUNT(dequantize_cases), dequantize_buffers, dequantize_call,
    dequantize_flops, dequantize_traffic, dequantize_benchmarks, TEST_COUNT(dequantize_benchmarks),
};

/* ------------------------------------------------- embedding ---------------------------------------------------------- */

static const int64_t embedding_cases[][TEST_DIMENSIONS] = {
    {F32, 1, 1, 1}, {F32, 3, 7, 5}, {F16, 13, 31, 17}, {BF16, 13, 31, 129}, {F32, 300, 101, 257}, {F16, 300, 101, 2053},
    {Q8_0, 13, 31, 96}, {Q4_0, 13, 31, 96}, {Q4_K, 13, 31, 768}, {Q6_K, 113, 31, 2048},
};

static int embedding_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    b[0] = (test_buffer){.name = "y", .role = TEST_OUTPUT, .rows = d[1], .columns = d[3]};
    b[1] = (test_buffer){.name = "table", .dtype = (int32_t)d[0], .rows = d[2], .columns = d[3]};
    b[2] = (test_buffer){.name = "ids", .dtype = TEST_INT32, .rows = 1, .columns = d[1], .end = d[2]};
    return 3;
}

static puna_status embedding_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_embedding_forward(context, b[0].data, b[1].data, (int32_t)d[0], b[2].data, d[1], d[2], d[3]);
}

static double embedding_traffic(const int64_t *d) {
    return (double)d[1] * (double)(4 * d[3] + puna_row_bytes((int32_t)d[0], d[3]));
}

static const int64_t embedding_benchmarks[][TEST_DIMENSIONS] = {{F16, 512, 8192, 4096}, {Q6_K, 512, 8192, 4096}};

const test_op test_embedding = {
    "embedding_forward", "dtype rows V C", embedding_cases, TEST_COUNT(embedding_cases), embedding_buffers, embedding_call,
    NULL, embedding_traffic, embedding_benchmarks, TEST_COUNT(embedding_benchmarks),
};

/* ------------------------------------------------- rmsnorm ------------------------------------------------------------ */

static const int64_t rmsnorm_cases[][TEST_DIMENSIONS] = {
#define X(C) {F32, 3, C, 1, 0}, {F16, 2, C, 0, 1}, {BF16, 1, C, 1, 1},
    WIDTHS(X)
#undef X
    {F32, 37, 4096, 1, 0}, {F16, 37, 4096, 1, 1}, {BF16, 37, 4096, 0, 0}, {F32, 1, 100003, 1, 0},
};

static int rmsnorm_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    /*
     * The sum has terms of one sign, each lane adding C / 16 or fewer: its rounding errors are below C / 16 eps for certain and
     * random, so near sqrt(C / 16) eps = sqrt(C) / 4 eps; the square root halves what is relative. Four roundings follow.
     */
    double relative = TEST_EPS * (4 + sqrt((double)d[2]) / 4);
    b[0] = (test_buffer){.name = "y", .role = TEST_OUTPUT, .rows = d[1], .columns = d[2], .relative = relative};
    b[1] = (test_buffer){.name = "rstd", .role = TEST_OUTPUT, .rows = d[3], .columns = d[1], .relative = relative};
    b[2] = (test_buffer){.name = "x", .rows = d[1], .columns = d[2], .low = -3, .high = 3};
    b[3] = (test_buffer){.name = "g", .dtype = (int32_t)d[0], .rows = 1, .columns = d[2], .low = 0.5, .high = 2};
    if (d[4]) b[0].alias = &b[2];
    return 4;
}

static puna_status rmsnorm_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_rmsnorm_forward(context, b[0].data, b[1].data, b[2].data, b[3].data, (int32_t)d[0], d[1], d[2], 1e-5f);
}

static double rmsnorm_flops(const int64_t *d) { return 4.0 * (double)(d[1] * d[2]); }
static double rmsnorm_traffic(const int64_t *d) { return 8.0 * (double)(d[1] * d[2]); }
static const int64_t rmsnorm_benchmarks[][TEST_DIMENSIONS] = {{F32, 1, 4096}, {F32, 2048, 4096}};

const test_op test_rmsnorm = {
    "rmsnorm_forward", "g_dtype rows C rstd alias", rmsnorm_cases, TEST_COUNT(rmsnorm_cases), rmsnorm_buffers, rmsnorm_call,
    rmsnorm_flops, rmsnorm_traffic, rmsnorm_benchmarks, TEST_COUNT(rmsnorm_benchmarks),
};

/* ------------------------------------------------- add ---------------------------------------------------------------- */

static const int64_t add_cases[][TEST_DIMENSIONS] = {
#define X(C) {C},
    WIDTHS(X)
#undef X
    {100003},
};

static int add_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    b[0] = (test_buffer){.name = "y", .role = TEST_IN_OUT, .rows = 1, .columns = d[0]};
    b[1] = (test_buffer){.name = "x", .rows = 1, .columns = d[0]};
    return 2;
}

static puna_status add_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_add_forward(context, b[0].data, b[1].data, d[0]);
}

static double add_flops(const int64_t *d) { return (double)d[0]; }
static double add_traffic(const int64_t *d) { return 12.0 * (double)d[0]; }
static const int64_t add_benchmarks[][TEST_DIMENSIONS] = {{4096}, {2048 * 4096}};

const test_op test_add = {
    "add_forward", "n", add_cases, TEST_COUNT(add_cases), add_buffers, add_call,
    add_flops, add_traffic, add_benchmarks, TEST_COUNT(add_benchmarks),
};

/* ------------------------------------------------- swiglu ------------------------------------------------------------- */

/* layout 0: three arrays; 1: gate and up side by side in a row, y with padding; 2: y is gate; 3: y is up. */
static const int64_t swiglu_cases[][TEST_DIMENSIONS] = {
#define X(FF) {1, FF, 0}, {3, FF, 1}, {2, FF, 2}, {2, FF, 3},
    WIDTHS(X)
#undef X
    {1, 11008, 0}, {29, 1377, 1}, {29, 1377, 2}, {1, 64, 4}, {3, 19, 4},
};

/* Where the exponential overflows, vanishes or is not a number; the rest ordinary. */
static void fill_extremes(const test_buffer *b, const int64_t *d, uint64_t seed) {
    (void)d;
    static const float extremes[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 3e38f, -3e38f, 88.7f, -88.7f, 89.5f, -89.5f, 104.5f,
                                     -104.5f, 1e-40f, -1e-40f, 17.0f, -17.0f};
    int64_t count = TEST_COUNT(extremes);
    for (int64_t i = 0; i < b->bytes / 4; i++)
        ((float *)b->data)[i] = i < count ? extremes[i] : (float)test_uniform(seed, (uint64_t)i, -120, 120);
}

static int swiglu_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    int64_t rows = d[0], FF = d[1], layout = d[2], stride = layout == 1 ? 2 * FF + 3 : layout >= 2 ? FF + 5 : FF;
    /*
     * exp is within 2 ulp, the sum, the quotient and the product round once each: below 7 eps. Where exp(-gate) overflows,
     * from gate = -88.7 down, the result is -0 in place of numbers below 1e-36.
     */
    b[0] = (test_buffer){.name = "y", .role = TEST_OUTPUT, .rows = rows, .columns = FF, .stride = layout == 1 ? FF + 2 : stride,
                         .relative = 7 * TEST_EPS, .absolute = 1e-36};
    b[1] = (test_buffer){.name = "gate", .rows = rows, .columns = FF, .stride = stride, .low = -30, .high = 30};
    b[2] = (test_buffer){.name = "up", .rows = rows, .columns = FF, .stride = stride, .low = 0.5, .high = 1};
    if (layout == 1) b[1].columns = 2 * FF, b[2].rows = 0;
    if (layout == 2) b[0].alias = &b[1];
    if (layout == 3) b[0].alias = &b[2];
    if (layout == 4) b[1].fill = fill_extremes;
    return 3;
}

static puna_status swiglu_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    const float *gate = b[1].data, *up = d[2] == 1 ? gate + d[1] : b[2].data;
    return puna_swiglu_forward(context, b[0].data, b[0].stride, gate, up, b[1].stride, d[0], d[1]);
}

static double swiglu_flops(const int64_t *d) { return 4.0 * (double)(d[0] * d[1]); }
static double swiglu_traffic(const int64_t *d) { return 12.0 * (double)(d[0] * d[1]); }
static const int64_t swiglu_benchmarks[][TEST_DIMENSIONS] = {{1, 11008, 0}, {512, 11008, 0}};

const test_op test_swiglu = {
    "swiglu_forward", "rows FF layout", swiglu_cases, TEST_COUNT(swiglu_cases), swiglu_buffers, swiglu_call,
    swiglu_flops, swiglu_traffic, swiglu_benchmarks, TEST_COUNT(swiglu_benchmarks),
};

/* ------------------------------------------------- log_softmax -------------------------------------------------------- */

static const int64_t log_softmax_cases[][TEST_DIMENSIONS] = {
#define X(V) {1, V, 0, 0}, {3, V, 1, 1}, {3, V, 0, 2},
    WIDTHS(X)
#undef X
    {5, 32003, 0, 0}, {1, 128256, 1, 0},
};

/* Row 0 has an infinite maximum, row 1 a NaN, row 2 is -inf throughout but for one number: the last in each. */
static void fill_special_rows(const test_buffer *b, const int64_t *d, uint64_t seed) {
    (void)d;
    float *x = b->data;
    for (int64_t i = 0; i < b->rows * b->columns; i++)
        x[i] = i / b->columns == 2 ? -INFINITY : (float)test_uniform(seed, (uint64_t)i, -10, 10);
    const float last[] = {INFINITY, NAN, 1.5f};
    for (int64_t r = 0; r < b->rows; r++) x[r * b->columns + b->columns - 1] = last[r];
}

static int log_softmax_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    /*
     * x - max (up to 20) and the result round relative to themselves, their sizes near each other. The sum's relative error is
     * the logarithm's absolute one: 4 eps from exp and, over at most 64 terms of a stretch and V / 512 stretches one after
     * another, near sqrt(64 + V / 512) eps from adding; the logarithm, below 13, rounds once.
     */
    double absolute = TEST_EPS * (20 + 4 + 13 + sqrt(64 + (double)d[1] / 512));
    b[0] = (test_buffer){.name = "y", .role = TEST_OUTPUT, .rows = d[0], .columns = d[1], .absolute = absolute,
                         .relative = TEST_EPS};
    b[1] = (test_buffer){.name = "x", .rows = d[0], .columns = d[1], .low = -10, .high = 10};
    if (d[2]) b[0].alias = &b[1];
    if (d[3] == 2) b[1].fill = fill_special_rows;
    return 2;
}

static puna_status log_softmax_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_log_softmax_forward(context, b[0].data, b[1].data, d[0], d[1]);
}

static double log_softmax_flops(const int64_t *d) { return 4.0 * (double)(d[0] * d[1]); }
static double log_softmax_traffic(const int64_t *d) { return 8.0 * (double)(d[0] * d[1]); }
static const int64_t log_softmax_benchmarks[][TEST_DIMENSIONS] = {{1, 128256}, {64, 32000}};

const test_op test_log_softmax = {
    "log_softmax_forward", "rows V alias special", log_softmax_cases, TEST_COUNT(log_softmax_cases), log_softmax_buffers,
    log_softmax_call, log_softmax_flops, log_softmax_traffic, log_softmax_benchmarks, TEST_COUNT(log_softmax_benchmarks),
};

/* ------------------------------------------------- argmax ------------------------------------------------------------- */

/* kind 0: uniform; 1: few different values, so that the maximum repeats; 2: many NaN; 3: nothing but NaN; 4: -inf and NaN;
 * 5: all negative. */
static const int64_t argmax_cases[][TEST_DIMENSIONS] = {
#define X(V) {2, V, 0}, {7, V, 1}, {5, V, 2}, {1, V, 3}, {3, V, 4}, {3, V, 5},
    WIDTHS(X)
#undef X
    {5, 32003, 0}, {5, 32003, 1}, {3, 32003, 2}, {2, 128256, 4}, {33, 1024, 1}, {33, 1025, 2},
};

static void fill_argmax(const test_buffer *b, const int64_t *d, uint64_t seed) {
    for (int64_t i = 0; i < b->bytes / 4; i++) {
        double value = test_uniform(seed, (uint64_t)i, -1, d[2] == 5 ? -0.5 : 1);
        bool rare = test_random(seed + 1, (uint64_t)i) % 4 == 0;
        if (d[2] == 1) value = floor(value * 4);
        if (d[2] == 3 || (d[2] == 2 && !rare) || (d[2] == 4 && !rare)) value = NAN;
        else if (d[2] == 4) value = -INFINITY;
        ((float *)b->data)[i] = (float)value;
    }
}

static int argmax_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context, (void)d;
    b[0] = (test_buffer){.name = "y", .role = TEST_OUTPUT, .dtype = TEST_INT32, .rows = 1, .columns = d[0]};
    b[1] = (test_buffer){.name = "x", .rows = d[0], .columns = d[1], .fill = fill_argmax};
    return 2;
}

static puna_status argmax_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_argmax_forward(context, b[0].data, b[1].data, d[0], d[1]);
}

static double argmax_flops(const int64_t *d) { return (double)(d[0] * d[1]); }
static double argmax_traffic(const int64_t *d) { return 4.0 * (double)(d[0] * d[1]); }
static const int64_t argmax_benchmarks[][TEST_DIMENSIONS] = {{1, 128256, 0}, {64, 32000, 0}};

const test_op test_argmax = {
    "argmax_forward", "rows V kind", argmax_cases, TEST_COUNT(argmax_cases), argmax_buffers, argmax_call,
    argmax_flops, argmax_traffic, argmax_benchmarks, TEST_COUNT(argmax_benchmarks),
};

/* ------------------------------------------------- candidates --------------------------------------------------------- */

/* kinds are those of argmax, and 6: the last element is infinite. */
static const int64_t candidates_cases[][TEST_DIMENSIONS] = {
#define N(V) ((V) < PUNA_CANDIDATES_MAX ? (V) : PUNA_CANDIDATES_MAX)
#define X(V) {2, V, 0, 1}, {2, V, 1, N(V)}, {2, V, 2, (N(V) + 1) / 2}, {1, V, 3, N(V)}, {2, V, 4, N(V)}, {1, V, 6, 1},
    WIDTHS(X)
#undef X
#undef N
    {2, 2047, 1, 1024}, {2, 2048, 0, 1024}, {3, 2049, 2, 1024}, {1, 32003, 1, 1024}, {1, 128256, 0, 40}, {1, 128256, 1, 300},
    {1, 300007, 0, 7}, {9, 5003, 5, 1000},
};

static void fill_candidates(const test_buffer *b, const int64_t *d, uint64_t seed) {
    fill_argmax(b, d, seed);
    if (d[2] == 6) ((float *)b->data)[b->bytes / 4 - 1] = INFINITY;
}

static int candidates_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    b[0] = (test_buffer){.name = "values", .role = TEST_OUTPUT, .rows = d[0], .columns = d[3], .of_host = true};
    b[1] = (test_buffer){.name = "ids", .role = TEST_OUTPUT, .dtype = TEST_INT32, .rows = d[0], .columns = d[3]};
    b[2] = (test_buffer){.name = "sums", .role = TEST_OUTPUT, .dtype = TEST_F64, .rows = d[2] == 1 ? 0 : d[0],
                         .columns = PUNA_CANDIDATES_PARTS, .relative = 1e-12};
    b[3] = (test_buffer){.name = "x", .rows = d[0], .columns = d[1], .fill = fill_candidates};
    return 4;
}

static puna_status candidates_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_candidates_forward(context, b[0].data, b[1].data, b[2].data, b[3].data, d[0], d[1], d[3], 0.7);
}

static double candidates_flops(const int64_t *d) { return (double)(d[0] * d[1]); }
static double candidates_traffic(const int64_t *d) { return 4.0 * (double)(d[0] * d[1]); }
static const int64_t candidates_benchmarks[][TEST_DIMENSIONS] = {{1, 128256, 0, 40}, {1, 128256, 1, 40}, {64, 32000, 0, 256}};

const test_op test_candidates = {
    "candidates_forward", "rows V kind n", candidates_cases, TEST_COUNT(candidates_cases), candidates_buffers, candidates_call,
    candidates_flops, candidates_traffic, candidates_benchmarks, TEST_COUNT(candidates_benchmarks),
};

/* ------------------------------------------------- rotary position embedding ------------------------------------------ */

static const int64_t rope_table_cases[][TEST_DIMENSIONS] = {
    {1, 2, INT32_MAX}, {3, 6, 4096}, {17, 64, INT32_MAX}, {5, 80, 131072}, {301, 128, 8192},
};

static int rope_table_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    /* Equal: the definition says which operation rounds where, and leaves no freedom. */
    b[0] = (test_buffer){.name = "table", .role = TEST_OUTPUT, .rows = d[0], .columns = d[1]};
    b[1] = (test_buffer){.name = "frequencies", .rows = 1, .columns = d[1] / 2, .low = 1e-5, .high = 1};
    b[2] = (test_buffer){.name = "positions", .dtype = TEST_INT32, .rows = 1, .columns = d[0], .end = d[2]};
    return 3;
}

static puna_status rope_table_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_rope_table(context, b[0].data, b[1].data, b[2].data, d[0], d[1], 1.19f);
}

static double rope_table_traffic(const int64_t *d) { return 4.0 * (double)(d[0] * d[1]); }
static const int64_t rope_table_benchmarks[][TEST_DIMENSIONS] = {{1, 128, 8192}, {2048, 128, 8192}};

const test_op test_rope_table = {
    "rope_table", "rows HD positions", rope_table_cases, TEST_COUNT(rope_table_cases), rope_table_buffers, rope_table_call,
    NULL, rope_table_traffic, rope_table_benchmarks, TEST_COUNT(rope_table_benchmarks),
};

static const int64_t rope_cases[][TEST_DIMENSIONS] = {
#define X(half) {0, 2, 1, 2 * half, 0}, {1, 2, 3, 2 * half, 3},
    WIDTHS(X)
#undef X
    {0, 67, 5, 128, 0}, {1, 67, 5, 128, 64}, {0, 67, 40, 80, 1}, {1, 67, 40, 80, 1},
};

static int rope_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    int64_t width = d[2] * d[3];
    /* Two products and their sum round once each, and no number is larger than 2. */
    b[0] = (test_buffer){.name = "x", .role = TEST_IN_OUT, .rows = d[1], .columns = width, .stride = width + d[4],
                         .absolute = 4 * TEST_EPS};
    b[1] = (test_buffer){.name = "table", .rows = d[1], .columns = d[3]};
    return 2;
}

static puna_status rope_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_rope_forward(context, b[0].data, b[0].stride, b[1].data, (int32_t)d[0], d[1], d[2], d[3]);
}

static double rope_flops(const int64_t *d) { return 3.0 * (double)(d[1] * d[2] * d[3]); }
static double rope_traffic(const int64_t *d) { return 8.0 * (double)(d[1] * d[2] * d[3]); }
static const int64_t rope_benchmarks[][TEST_DIMENSIONS] = {{0, 1, 64, 128}, {0, 512, 64, 128}, {1, 512, 64, 128}};

const test_op test_rope = {
    "rope_forward", "layout rows heads HD padding", rope_cases, TEST_COUNT(rope_cases), rope_buffers, rope_call,
    rope_flops, rope_traffic, rope_benchmarks, TEST_COUNT(rope_benchmarks),
};
