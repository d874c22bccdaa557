/* The backward passes, the loss and the optimiser: cases, buffers and tolerances. gradients.c holds them against differences. */
#include "test.h"

#include <stdlib.h>

enum { F32 = PUNA_DTYPE_F32, F16, BF16 };

/* Around every vector width and its multiples, primes, and the columns of a share. */
#define WIDTHS(X) X(1) X(2) X(3) X(5) X(8) X(9) X(15) X(16) X(17) X(31) X(33) X(63) X(64) X(65) X(127) X(129) X(515)

/*
 * The rounding errors of n terms of random sign and root mean square t <= 1, added one after another: partial sums of about
 * sqrt(k) t round at most eps of that each, together a standard deviation below eps n / sqrt(2). Six of these are allowed,
 * and as much again for sums of a few terms.
 */
static double sum_tolerance(int64_t n) { return TEST_EPS * 4.3 * (double)(n + 4); }

/* ------------------------------------------------- embedding ---------------------------------------------------------- */

static const int64_t embedding_cases[][TEST_DIMENSIONS] = {
#define X(C) {7, 3, C},
    WIDTHS(X)
#undef X
    {1, 1, 1}, {1, 31, 64}, {300, 1, 257}, {300, 101, 257}, {67, 1001, 288},
};

static int embedding_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    b[0] = (test_buffer){.name = "dtable", .role = TEST_IN_OUT, .rows = d[1], .columns = d[2], .absolute = sum_tolerance(d[0])};
    b[1] = (test_buffer){.name = "ids", .dtype = TEST_INT32, .rows = 1, .columns = d[0], .end = d[1]};
    b[2] = (test_buffer){.name = "dy", .rows = d[0], .columns = d[2]};
    return 3;
}

static puna_status embedding_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_embedding_backward(context, b[0].data, b[1].data, b[2].data, d[0], d[1], d[2]);
}

static double embedding_traffic(const int64_t *d) { return 12.0 * (double)(d[0] * d[2]); }
static const int64_t embedding_benchmarks[][TEST_DIMENSIONS] = {{1024, 32000, 288}};

const test_op test_embedding_backward = {
    "embedding_backward", "rows V C", embedding_cases, TEST_COUNT(embedding_cases), embedding_buffers, embedding_call,
    NULL, embedding_traffic, embedding_benchmarks, TEST_COUNT(embedding_benchmarks),
};

/* ------------------------------------------------- rmsnorm ------------------------------------------------------------ */

/* alias: dx is dy. */
static const int64_t rmsnorm_cases[][TEST_DIMENSIONS] = {
#define X(C) {F32, 3, C, 1, 0, 0}, {F16, 2, C, 0, 1, 0}, {BF16, 1, C, 1, 0, 1},
    WIDTHS(X)
#undef X
    {F32, 64, 288, 1, 0, 1}, {F32, 65, 288, 1, 1, 0}, {F16, 127, 64, 1, 0, 1}, {F32, 257, 100, 1, 0, 0}, {F32, 3, 20011, 1, 1, 0},
};

static int rmsnorm_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    /*
     * dx: dy g is at most 2 and x rstd^2 a, a mean of products up to 6, at most 18; some five roundings of numbers up to 20.
     * The mean's own error is smaller: sum_tolerance of C terms, divided by C, times 3. dg: terms up to 3, which are below
     * 1 in the mean square.
     */
    b[0] = (test_buffer){.name = "dx", .role = d[4] ? TEST_IN_OUT : TEST_OUTPUT, .rows = d[1], .columns = d[2],
                         .absolute = TEST_EPS * 120};
    b[1] = (test_buffer){.name = "dg", .role = TEST_IN_OUT, .rows = d[3], .columns = d[2],
                         .absolute = sum_tolerance(d[1]) + 4 * TEST_EPS, .relative = 2 * TEST_EPS};
    b[2] = (test_buffer){.name = "x", .rows = d[1], .columns = d[2], .low = -3, .high = 3};
    b[3] = (test_buffer){.name = "g", .dtype = (int32_t)d[0], .rows = 1, .columns = d[2], .low = 0.5, .high = 2};
    b[4] = (test_buffer){.name = "rstd", .rows = 1, .columns = d[1], .low = 0.3, .high = 1};
    b[5] = (test_buffer){.name = "dy", .rows = d[1], .columns = d[2]};
    if (d[5]) b[0].alias = &b[5];
    return 6;
}

static puna_status rmsnorm_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_rmsnorm_backward(context, b[0].data, b[1].data, b[2].data, b[3].data, (int32_t)d[0], b[4].data, b[5].data, d[1],
                                 d[2], (int32_t)d[4]);
}

static double rmsnorm_traffic(const int64_t *d) { return 12.0 * (double)(d[1] * d[2]); }
static const int64_t rmsnorm_benchmarks[][TEST_DIMENSIONS] = {{F32, 1024, 288, 1, 0, 0}, {F32, 1024, 4096, 1, 0, 0}};

const test_op test_rmsnorm_backward = {
    "rmsnorm_backward", "g_dtype rows C dg accumulate alias", rmsnorm_cases, TEST_COUNT(rmsnorm_cases), rmsnorm_buffers,
    rmsnorm_call, NULL, rmsnorm_traffic, rmsnorm_benchmarks, TEST_COUNT(rmsnorm_benchmarks),
};

/* ------------------------------------------------- swiglu ------------------------------------------------------------- */

/* layout 0: five arrays; 1: gate beside up and dgate beside dup in a row; 2: in place of gate and up; 3: dup is dy;
 * 4: gates at the ends of the range. */
static const int64_t swiglu_cases[][TEST_DIMENSIONS] = {
#define X(FF) {1, FF, 0}, {3, FF, 1}, {2, FF, 2}, {2, FF, 3},
    WIDTHS(X)
#undef X
    {29, 1377, 1}, {29, 768, 2}, {1, 64, 4}, {3, 19, 4},
};

static void fill_extremes(const test_buffer *b, const int64_t *d, uint64_t seed) {
    (void)d;
    static const float extremes[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 3e38f, -3e38f, 87.0f, -87.0f, 88.7f, -88.7f, 104.5f,
                                     -104.5f, 1e-40f, -1.27846f, 17.0f, -17.0f};
    int64_t count = TEST_COUNT(extremes);
    for (int64_t i = 0; i < b->bytes / 4; i++)
        ((float *)b->data)[i] = i < count ? extremes[i] : (float)test_uniform(seed, (uint64_t)i, -120, 120);
}

static int swiglu_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    int64_t rows = d[0], FF = d[1], layout = d[2], stride = layout == 1 ? 2 * FF + 3 : layout >= 2 ? FF + 5 : FF;
    /*
     * dgate: exp is within 2 ulp (4 eps); the sum, the quotient, two products and a sum round the factors of a number below 1.1
     * by some 12 eps of their largest term, also 1.1. dup as in the forward pass.
     */
    b[0] = (test_buffer){.name = "dgate", .role = TEST_OUTPUT, .rows = rows, .columns = FF, .stride = stride,
                         .absolute = 16 * TEST_EPS};
    b[1] = (test_buffer){.name = "dup", .role = TEST_OUTPUT, .rows = rows, .columns = FF, .stride = stride,
                         .relative = 7 * TEST_EPS, .absolute = 1e-36};
    b[2] = (test_buffer){.name = "gate", .rows = rows, .columns = FF, .stride = stride, .low = -30, .high = 30};
    b[3] = (test_buffer){.name = "up", .rows = rows, .columns = FF, .stride = stride};
    b[4] = (test_buffer){.name = "dy", .rows = rows, .columns = FF, .stride = layout == 3 ? stride : FF + layout};
    if (layout == 1) b[0].columns = b[2].columns = 2 * FF, b[1].rows = b[3].rows = 0, b[0].relative = 7 * TEST_EPS;
    if (layout == 2) b[0].alias = &b[2], b[1].alias = &b[3];
    if (layout == 3) b[1].alias = &b[4];
    if (layout == 4) b[2].fill = fill_extremes;
    return 5;
}

static puna_status swiglu_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    float *dgate = b[0].data, *dup = d[2] == 1 ? dgate + d[1] : b[1].data;
    const float *gate = b[2].data, *up = d[2] == 1 ? gate + d[1] : b[3].data;
    return puna_swiglu_backward(context, dgate, dup, b[0].stride, gate, up, b[2].stride, b[4].data, b[4].stride, d[0], d[1]);
}

static double swiglu_traffic(const int64_t *d) { return 20.0 * (double)(d[0] * d[1]); }
static const int64_t swiglu_benchmarks[][TEST_DIMENSIONS] = {{1024, 768, 0}, {512, 11008, 0}};

const test_op test_swiglu_backward = {
    "swiglu_backward", "rows FF layout", swiglu_cases, TEST_COUNT(swiglu_cases), swiglu_buffers, swiglu_call,
    NULL, swiglu_traffic, swiglu_benchmarks, TEST_COUNT(swiglu_benchmarks),
};

/* ------------------------------------------------- rotary position embedding ------------------------------------------ */

static const int64_t rope_cases[][TEST_DIMENSIONS] = {
#define X(half) {0, 2, 1, 2 * half, 0}, {1, 2, 3, 2 * half, 3},
    WIDTHS(X)
#undef X
    {0, 67, 5, 128, 0}, {1, 67, 40, 80, 1},
};

static int rope_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    int64_t width = d[2] * d[3];
    /* Two products and their sum round once each, and no number is larger than 2. */
    b[0] = (test_buffer){.name = "dx", .role = TEST_IN_OUT, .rows = d[1], .columns = width, .stride = width + d[4],
                         .absolute = 4 * TEST_EPS};
    b[1] = (test_buffer){.name = "table", .rows = d[1], .columns = d[3]};
    return 2;
}

static puna_status rope_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_rope_backward(context, b[0].data, b[0].stride, b[1].data, (int32_t)d[0], d[1], d[2], d[3]);
}

const test_op test_rope_backward = {
    "rope_backward", "layout rows heads HD padding", rope_cases, TEST_COUNT(rope_cases), rope_buffers, rope_call,
    NULL, NULL, NULL, 0,
};

/* ------------------------------------------------- matrix product ----------------------------------------------------- */

/* Around the tiles' 6 and 8 rows and 8, 16 and 48 columns, the stretches of 256 and the blocks of 48 to 192 and 384. */
#define SHAPES(X) \
    X(1, 1, 1, 0) X(1, 7, 5, 0) X(2, 1, 16, 1) X(5, 3, 17, 0) X(6, 8, 8, 1) X(7, 13, 47, 3) X(8, 6, 48, 0) X(9, 31, 49, 1) \
    X(48, 48, 96, 0) X(49, 47, 95, 5) X(191, 64, 33, 0) X(193, 9, 129, 1) X(17, 255, 31, 0) X(255, 17, 20, 1)                \
    X(13, 257, 65, 2) X(257, 13, 64, 0) X(3, 1031, 385, 0) X(1031, 3, 20, 0) X(33, 100, 769, 1)

static int64_t workspace_of(puna_context *context) {
    int64_t bytes = 0;
    CHECK(puna_matmul_backward_workspace_size(context, &bytes) == PUNA_STATUS_OK, "%s", test_last_error());
    return bytes;
}

/*
 * Products of root mean square 1/3, summed in stretches of 256: each errs as sum_tolerance says, together by the root of their
 * number, and their sums, added one after another, by as much again.
 */
static double product_tolerance(int64_t n) {
    double stretches = (double)puna_ceil_div(n, 256);
    return 2 * sum_tolerance(puna_min(n, 256)) / 3 * sqrt(stretches) + 3 * TEST_EPS;
}

static const int64_t matmul_input_cases[][TEST_DIMENSIONS] = {
#define X(rows, N, K, padding) {F32, rows, N, K, padding, 0}, {(rows + N) % 3, rows, N, K, padding, 1},
    SHAPES(X)
#undef X
};

static int matmul_input_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    int64_t bytes = workspace_of(context);
    b[0] = (test_buffer){.name = "dx", .role = d[5] ? TEST_IN_OUT : TEST_OUTPUT, .rows = d[1], .columns = d[3],
                         .stride = d[3] + d[4], .absolute = product_tolerance(d[2]), .relative = 2 * TEST_EPS};
    b[1] = (test_buffer){.name = "w", .dtype = (int32_t)d[0], .rows = d[2], .columns = d[3]};
    b[2] = (test_buffer){.name = "dy", .rows = d[1], .columns = d[2], .stride = d[2] + d[4]};
    b[3] = (test_buffer){.name = "workspace", .role = TEST_WORKSPACE, .rows = bytes > 0, .columns = puna_ceil_div(bytes, 4)};
    return 4;
}

static puna_status matmul_input_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_matmul_input_backward(context, b[0].data, b[0].stride, b[1].data, (int32_t)d[0], b[2].data, b[2].stride, d[1],
                                      d[2], d[3], (int32_t)d[5], b[3].data, b[3].bytes);
}

static double matmul_input_flops(const int64_t *d) { return 2.0 * (double)(d[1] * d[2]) * (double)d[3]; }

static const int64_t matmul_input_benchmarks[][TEST_DIMENSIONS] = {
    {F32, 1024, 288, 288, 0, 1}, {F32, 1024, 768, 288, 0, 1}, {F32, 1024, 288, 768, 0, 0}, {F32, 256, 32000, 288, 0, 0},
    {F32, 1024, 32000, 288, 0, 0}, {BF16, 1024, 768, 288, 0, 0},
};

const test_op test_matmul_input_backward = {
    "matmul_input_backward", "w_dtype rows N K padding accumulate", matmul_input_cases, TEST_COUNT(matmul_input_cases),
    matmul_input_buffers, matmul_input_call, matmul_input_flops, NULL, matmul_input_benchmarks,
    TEST_COUNT(matmul_input_benchmarks),
};

static const int64_t matmul_weight_cases[][TEST_DIMENSIONS] = {
#define X(rows, N, K, padding) {rows, N, K, padding},
    SHAPES(X)
#undef X
};

static int matmul_weight_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    int64_t bytes = workspace_of(context);
    b[0] = (test_buffer){.name = "dw", .role = TEST_IN_OUT, .rows = d[1], .columns = d[2],
                         .absolute = product_tolerance(d[0]), .relative = 2 * TEST_EPS};
    b[1] = (test_buffer){.name = "x", .rows = d[0], .columns = d[2], .stride = d[2] + d[3]};
    b[2] = (test_buffer){.name = "dy", .rows = d[0], .columns = d[1], .stride = d[1] + d[3]};
    b[3] = (test_buffer){.name = "workspace", .role = TEST_WORKSPACE, .rows = bytes > 0, .columns = puna_ceil_div(bytes, 4)};
    return 4;
}

static puna_status matmul_weight_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_matmul_weight_backward(context, b[0].data, b[1].data, b[1].stride, b[2].data, b[2].stride, d[0], d[1], d[2],
                                       b[3].data, b[3].bytes);
}

static double matmul_weight_flops(const int64_t *d) { return 2.0 * (double)(d[0] * d[1]) * (double)d[2]; }

static const int64_t matmul_weight_benchmarks[][TEST_DIMENSIONS] = {
    {1024, 288, 288, 0}, {1024, 768, 288, 0}, {1024, 288, 768, 0}, {256, 32000, 288, 0}, {1024, 32000, 288, 0},
};

const test_op test_matmul_weight_backward = {
    "matmul_weight_backward", "rows N K padding", matmul_weight_cases, TEST_COUNT(matmul_weight_cases), matmul_weight_buffers,
    matmul_weight_call, matmul_weight_flops, NULL, matmul_weight_benchmarks, TEST_COUNT(matmul_weight_benchmarks),
};

/* ------------------------------------------------- attention ---------------------------------------------------------- */

#define HEADS(X, HD) X(1, 1, HD, 0) X(3, 1, HD, 0) X(8, 1, HD, 0) X(6, 2, HD, 1) X(2, 2, HD, 3)
#define PROMPT(NH, NKV, HD, window) {2, 51, 51, NH, NKV, HD, window * 11},
#define LATER(NH, NKV, HD, window) {1, 7, 70, NH, NKV, HD, window * 17},

static const int64_t attention_cases[][TEST_DIMENSIONS] = {
    HEADS(PROMPT, 1) HEADS(PROMPT, 6) HEADS(PROMPT, 48) HEADS(PROMPT, 80) HEADS(LATER, 5) HEADS(LATER, 64) HEADS(LATER, 128)
    {1, 1, 1, 1, 1, 1, 0}, {1, 1, 1, 8, 1, 17, 0}, {2, 2, 2, 3, 1, 8, 1}, {1, 47, 47, 1, 1, 16, 0}, {1, 48, 48, 1, 1, 16, 0},
    {1, 49, 49, 1, 1, 16, 0}, {1, 97, 97, 2, 1, 31, 48}, {1, 95, 143, 3, 1, 33, 49}, {1, 144, 145, 1, 1, 24, 47},
    {5, 3, 150, 2, 2, 20, 5}, {1, 131, 131, 8, 8, 32, 0}, {2, 0, 50, 2, 1, 9, 0},
    {1, 191, 191, 1, 1, 16, 0}, {1, 192, 192, 3, 1, 16, 0}, {1, 193, 193, 1, 1, 20, 0}, {1, 100, 385, 2, 1, 17, 191},
    {1, 200, 389, 2, 2, 12, 193}, {2, 9, 577, 8, 1, 8, 0},
};

static int attention_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    int64_t B = d[0], T = d[1], S = d[2], NH = d[3], NKV = d[4], HD = d[5], bytes = 0;
    CHECK(puna_attention_backward_workspace_size(context, NH, NKV, HD, &bytes) == PUNA_STATUS_OK, "%s", test_last_error());
    /*
     * Scores are near 1/3 in size and lse is 2 to 3, so weights are below 0.4; each errs by exp's 4 eps and its argument's
     * 6 + sqrt(HD) / 2 eps. dp - dy . y is near sqrt(2 HD) / 3, with an error of sqrt(HD) eps of that, and is divided by the
     * same sqrt(HD) in scale. So terms of the sums are below 0.4, of random sign, with a relative error of (20 + 2 sqrt(HD)) eps,
     * and the sums over n keys, or rows of a group, err by that times sqrt(n) and as sum_tolerance says.
     */
    double terms = TEST_EPS * 0.4 * (20 + 2 * sqrt((double)HD)), G = (double)(NH / NKV);
    double by_keys = terms * 3 * sqrt((double)S) + 0.4 * sum_tolerance(S);
    double by_rows = terms * 3 * sqrt((double)T * G) + 0.4 * sum_tolerance(T * NH / NKV);
    b[0] = (test_buffer){.name = "dq", .role = TEST_OUTPUT, .rows = B * T, .columns = NH * HD, .stride = NH * HD + S % 3,
                         .absolute = by_keys};
    b[1] = (test_buffer){.name = "dk", .role = TEST_OUTPUT, .rows = B * S, .columns = NKV * HD, .stride = NKV * HD + T % 2,
                         .absolute = by_rows};
    b[2] = b[1];
    b[2].name = "dv";
    b[3] = (test_buffer){.name = "q", .rows = B * T, .columns = NH * HD, .stride = NH * HD + T % 2};
    b[4] = (test_buffer){.name = "k", .rows = B * S, .columns = NKV * HD, .stride = NKV * HD + S % 2};
    b[5] = (test_buffer){.name = "v", .rows = B * S, .columns = NKV * HD, .stride = NKV * HD + S % 2};
    b[6] = (test_buffer){.name = "y", .rows = B * T, .columns = NH * HD, .stride = NH * HD + T % 5};
    b[7] = (test_buffer){.name = "dy", .rows = B * T, .columns = NH * HD, .stride = NH * HD + S % 2};
    b[8] = (test_buffer){.name = "lse", .rows = T > 0 ? B * NH : 0, .columns = T, .low = 2, .high = 3};
    b[9] = (test_buffer){.name = "workspace", .role = TEST_WORKSPACE, .rows = bytes > 0, .columns = puna_ceil_div(bytes, 4)};
    return 10;
}

static puna_status attention_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_attention_backward(context, b[0].data, b[0].stride, b[1].data, b[2].data, b[1].stride, b[3].data, b[3].stride,
                                   b[4].data, b[5].data, b[4].stride, b[6].data, b[6].stride, b[7].data, b[7].stride, b[8].data,
                                   d[0], d[1], d[2], d[3], d[4], d[5], d[6], 1 / sqrtf((float)d[5]), b[9].data, b[9].bytes);
}

/* Five products per visible score. */
static double attention_flops(const int64_t *d) {
    double seen = (double)d[2] - (double)(d[1] - 1) / 2;
    return 10.0 * (double)(d[0] * d[1] * d[3] * d[5]) * seen;
}

static const int64_t attention_benchmarks[][TEST_DIMENSIONS] = {
    {4, 256, 256, 6, 6, 48}, {1, 512, 512, 32, 8, 64}, {1, 1024, 1024, 8, 8, 128}, {1, 2048, 2048, 6, 6, 48},
};

const test_op test_attention_backward = {
    "attention_backward", "B T S NH NKV HD window", attention_cases, TEST_COUNT(attention_cases), attention_buffers,
    attention_call, attention_flops, NULL, attention_benchmarks, TEST_COUNT(attention_benchmarks),
};

/* ------------------------------------------------- cross-entropy ------------------------------------------------------ */

enum { IGNORED = -100 };

/* ignored: of the rows, 0 none, 1 every third, 2 all. special: as fill_special_rows says. */
static const int64_t cross_entropy_cases[][TEST_DIMENSIONS] = {
#define X(V) {1, V, 1, 0, 0, 0}, {4, V, 1, 1, 1, 0}, {3, V, 0, 1, 0, 0}, {4, V, 1, 0, 1, 1},
    WIDTHS(X)
#undef X
    {5, 32003, 1, 0, 0, 0}, {1, 128256, 1, 1, 0, 0}, {67, 1031, 1, 1, 1, 0}, {3, 100, 1, 0, 2, 0},
};

static void fill_targets(const test_buffer *b, const int64_t *d, uint64_t seed) {
    for (int64_t r = 0; r < d[0]; r++) {
        bool ignored = d[4] == 2 || (d[4] == 1 && r % 3 == 1);
        ((int32_t *)b->data)[r] = ignored ? IGNORED : (int32_t)(test_random(seed, (uint64_t)r) % (uint64_t)d[1]);
    }
}

/* Row 0 has a NaN, the ignored row 1 an infinity, row 2 is sure of its last element, row 3 of nothing: all are -1000. */
static void fill_special_rows(const test_buffer *b, const int64_t *d, uint64_t seed) {
    float *x = b->data;
    for (int64_t i = 0; i < d[0] * d[1]; i++) x[i] = i / d[1] == 3 ? -1000 : (float)test_uniform(seed, (uint64_t)i, -10, 10);
    x[d[1] - 1] = NAN;
    x[2 * d[1] - 1] = INFINITY;
    x[3 * d[1] - 1] = 1000;
}

static int cross_entropy_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    /*
     * As in log_softmax: the sum's relative error, which is the loss's absolute one, is below (4 + sqrt(64 + V / 512)) eps; the
     * difference of two logits, up to 20, and the loss, up to 33 (2000 in special rows: relative), round. dlogits is a
     * probability with the same relative error, 4 eps of exp, its argument's 10 and two products', times scale below 1.
     */
    double sum = 4 + sqrt(64 + (double)d[1] / 512);
    b[0] = (test_buffer){.name = "losses", .role = TEST_OUTPUT, .rows = 1, .columns = d[0], .absolute = TEST_EPS * (40 + sum),
                         .relative = 2 * TEST_EPS};
    b[1] = (test_buffer){.name = "dlogits", .role = TEST_OUTPUT, .rows = d[2] ? d[0] : 0, .columns = d[1],
                         .relative = TEST_EPS * (20 + sum), .absolute = TEST_EPS * (20 + sum) / 4};
    b[2] = (test_buffer){.name = "logits", .rows = d[0], .columns = d[1], .low = -10, .high = 10};
    b[3] = (test_buffer){.name = "targets", .dtype = TEST_INT32, .rows = 1, .columns = d[0], .fill = fill_targets};
    if (d[3] && d[2]) b[1].alias = &b[2];
    if (d[5]) b[2].fill = fill_special_rows;
    return 4;
}

static puna_status cross_entropy_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_cross_entropy_forward_backward(context, b[0].data, b[1].data, b[2].data, b[3].data, IGNORED, 0.7f, d[0], d[1]);
}

static double cross_entropy_traffic(const int64_t *d) { return 8.0 * (double)(d[0] * d[1]); }
static const int64_t cross_entropy_benchmarks[][TEST_DIMENSIONS] = {{64, 32000, 1, 1, 0, 0}};

const test_op test_cross_entropy = {
    "cross_entropy_forward_backward", "rows V dlogits alias ignored special", cross_entropy_cases,
    TEST_COUNT(cross_entropy_cases), cross_entropy_buffers, cross_entropy_call, NULL, cross_entropy_traffic,
    cross_entropy_benchmarks, TEST_COUNT(cross_entropy_benchmarks),
};

/* ------------------------------------------------- squared norm ------------------------------------------------------- */

static const int64_t squared_norm_cases[][TEST_DIMENSIONS] = {
    {0}, {1}, {7}, {8}, {255}, {256}, {257}, {2047}, {2048}, {2049}, {100003}, {1, 1}, {100003, 1},
};

static int squared_norm_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    /* Terms of one sign in F64: a relative error below 2^-53 for each of n additions; numbers near 1e30 must not overflow. */
    b[0] = (test_buffer){.name = "result", .role = TEST_OUTPUT, .dtype = TEST_F64, .rows = 1, .columns = 1,
                         .relative = 0x1p-53 * (double)(d[0] + 1)};
    b[1] = (test_buffer){.name = "x", .rows = d[0] > 0, .columns = d[0]};
    if (d[1]) b[1].low = -1e30, b[1].high = 1e30;
    return 2;
}

static puna_status squared_norm_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_squared_norm(context, b[0].data, b[1].data, d[0]);
}

static double squared_norm_traffic(const int64_t *d) { return 4.0 * (double)d[0]; }
static const int64_t squared_norm_benchmarks[][TEST_DIMENSIONS] = {{15000000}};

const test_op test_squared_norm = {
    "squared_norm", "n large", squared_norm_cases, TEST_COUNT(squared_norm_cases), squared_norm_buffers, squared_norm_call,
    NULL, squared_norm_traffic, squared_norm_benchmarks, TEST_COUNT(squared_norm_benchmarks),
};

/* ------------------------------------------------- AdamW -------------------------------------------------------------- */

static const int64_t adamw_cases[][TEST_DIMENSIONS] = {
#define X(n) {n, 1}, {n, 1000},
    WIDTHS(X)
#undef X
    {4095, 2}, {4096, 7}, {4097, 100000}, {100003, 3},
};

static int adamw_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    (void)context;
    /*
     * m and v are sums of two products of numbers below 1.5. Where the two cancel in m, its error in w is eps times learning
     * rate / sqrt(v) <= 0.01 / 0.01, after the correction of the first steps 4 times that; w itself, below 1, rounds three times.
     */
    b[0] = (test_buffer){.name = "w", .role = TEST_IN_OUT, .rows = 1, .columns = d[0], .absolute = 16 * TEST_EPS,
                         .relative = 3 * TEST_EPS};
    b[1] = (test_buffer){.name = "m", .role = TEST_IN_OUT, .rows = 1, .columns = d[0], .absolute = 4 * TEST_EPS};
    b[2] = (test_buffer){.name = "v", .role = TEST_IN_OUT, .rows = 1, .columns = d[0], .low = 0.001, .high = 1,
                         .relative = 5 * TEST_EPS};
    b[3] = (test_buffer){.name = "g", .rows = 1, .columns = d[0], .low = -3, .high = 3};
    return 4;
}

static puna_status adamw_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    return puna_adamw_step(context, b[0].data, b[1].data, b[2].data, b[3].data, d[0], d[1], 0.01, 0.9, 0.95, 1e-8, 0.1, 0.5);
}

static double adamw_traffic(const int64_t *d) { return 28.0 * (double)d[0]; }
static const int64_t adamw_benchmarks[][TEST_DIMENSIONS] = {{15000000, 10}};

const test_op test_adamw = {
    "adamw_step", "n step", adamw_cases, TEST_COUNT(adamw_cases), adamw_buffers, adamw_call,
    NULL, adamw_traffic, adamw_benchmarks, TEST_COUNT(adamw_benchmarks),
};
