/* The matrix product: against the reference, and a row's bits whatever rows are beside it. */
#include "test.h"

#include <stdlib.h>

enum { F32 = PUNA_DTYPE_F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K };
enum { INT8 = PUNA_ACTIVATIONS_INT8, INT16 = PUNA_ACTIVATIONS_INT16 };

/*
 * What w and x hold. LOWEST: quants at their lowest and x rounded to the largest integer throughout; HIGHEST: quants, scales
 * and mins at their highest, x near the lowest with integers of 16 bits whose low byte is -128; HUGE_X and TINY_X: factors that
 * are zero, subnormal or the largest there are, x near 1e25, or near where it counts as zero; SPECIAL_X: NaN in row 0, infinity
 * in row 1, -infinity in row 2.
 */
enum { ORDINARY, LOWEST, HIGHEST, HUGE_X, TINY_X, SPECIAL_X };

/* rows: one, each width of a register tile, around their multiples, a batch, prompts, more than one block of rows. */
#define ROWS(X, dtype, N, K)                                                                                                \
    X(dtype, 1, N, K) X(dtype, 2, N, K) X(dtype, 3, N, K) X(dtype, 4, N, K) X(dtype, 5, N, K) X(dtype, 8, N, K)            \
    X(dtype, 11, N, K) X(dtype, 66, N, K)
#define ONE(dtype, rows, N, K) {dtype, rows, N, K, 1, 0, 0},
#define TWO(dtype, rows, N, K) {dtype, rows, N, K, 2, 1, 3},
#define THREE(dtype, rows, N, K) {dtype, rows, N, K, 3, 0, 1},
#define ONE_INTEGER(dtype, rows, N, K) {dtype, rows, N, K, 1, 0, 0, INT8}, {dtype, rows, N, K, 1, 0, 0, INT16},
#define TWO_INTEGER(dtype, rows, N, K) {dtype, rows, N, K, 2, 1, 3, INT8}, {dtype, rows, N, K, 2, 1, 3, INT16},
#define THREE_INTEGER(dtype, rows, N, K) {dtype, rows, N, K, 3, 0, 1, INT8}, {dtype, rows, N, K, 3, 0, 1, INT16},
/* Blocks of 32 and of 256 at once, and beside a plain type. */
#define MIXED_INTEGER(dtype, rows, N, K)                                                                                    \
    {dtype, rows, N, K, 2, 0, 2, INT8, ORDINARY, 1}, {dtype, rows, N, K, 2, 1, 2, INT8, ORDINARY, 2},                       \
    {dtype, rows, N, K, 2, 0, 2, INT16, ORDINARY, 1}, {dtype, rows, N, K, 2, 1, 2, INT16, ORDINARY, 2},
#define EXTREMES_OF(dtype, rows, N, K, activations)                                                                         \
    {dtype, rows, N, K, 1, 0, 0, activations, LOWEST}, {dtype, rows, N, K, 1, 0, 0, activations, HIGHEST},                  \
    {dtype, rows, N, K, 1, 0, 0, activations, HUGE_X}, {dtype, rows, N, K, 1, 0, 0, activations, TINY_X},                   \
    {dtype, rows, N, K, 1, 0, 0, activations, SPECIAL_X},
#define EXTREMES(dtype, rows, N, K) EXTREMES_OF(dtype, rows, N, K, INT8) EXTREMES_OF(dtype, rows, N, K, INT16)

static const int64_t matmul_cases[][TEST_DIMENSIONS] = {
    ROWS(ONE, F32, 1, 1) ROWS(TWO, F32, 13, 7) ROWS(THREE, F32, 12, 31) ROWS(ONE, F32, 11, 64) ROWS(TWO, F32, 25, 515)
    ROWS(ONE, F16, 1, 3) ROWS(TWO, F16, 13, 61) ROWS(THREE, F16, 7, 512) ROWS(ONE, F16, 24, 1031)
    ROWS(ONE, BF16, 5, 5) ROWS(TWO, BF16, 13, 127) ROWS(THREE, BF16, 36, 1024)
    ROWS(ONE, Q8_0, 1, 32) ROWS(TWO, Q8_0, 13, 96) ROWS(THREE, Q8_0, 25, 1056)
    ROWS(ONE, Q4_0, 1, 32) ROWS(TWO, Q4_0, 13, 96) ROWS(THREE, Q4_0, 25, 1056)
    ROWS(ONE, Q4_K, 1, 256) ROWS(TWO, Q4_K, 13, 768) ROWS(THREE, Q4_K, 25, 1024)
    ROWS(ONE, Q6_K, 1, 256) ROWS(TWO, Q6_K, 13, 768) ROWS(THREE, Q6_K, 25, 1024)
    ROWS(ONE_INTEGER, Q8_0, 1, 32) ROWS(TWO_INTEGER, Q8_0, 13, 96) ROWS(THREE_INTEGER, Q8_0, 25, 1056)
    ROWS(ONE_INTEGER, Q4_0, 1, 32) ROWS(TWO_INTEGER, Q4_0, 13, 96) ROWS(THREE_INTEGER, Q4_0, 25, 1056)
    ROWS(ONE_INTEGER, Q4_K, 1, 256) ROWS(TWO_INTEGER, Q4_K, 13, 768) ROWS(THREE_INTEGER, Q4_K, 25, 1280)
    ROWS(ONE_INTEGER, Q6_K, 1, 256) ROWS(TWO_INTEGER, Q6_K, 13, 768) ROWS(THREE_INTEGER, Q6_K, 25, 1280)
    ROWS(MIXED_INTEGER, Q4_K, 9, 256)
    ROWS(EXTREMES, Q8_0, 17, 544) ROWS(EXTREMES, Q4_0, 17, 544) ROWS(EXTREMES, Q4_K, 17, 512) ROWS(EXTREMES, Q6_K, 17, 512)
    {F16, 3, 13, 61, 2, 0, 1, INT8}, {Q8_0, 300, 16, 1120, 1, 0, 0, INT8}, {Q4_0, 301, 33, 64, 3, 0, 0, INT8},
    {Q4_K, 301, 24, 512, 2, 1, 5, INT8}, {Q4_0, 1, 3001, 512, 3, 0, 2, INT8}, {Q6_K, 17, 515, 512, 2, 0, 0, INT8},
    {F16, 3, 13, 61, 2, 0, 1, INT16}, {Q8_0, 300, 16, 1120, 1, 0, 0, INT16}, {Q4_0, 301, 33, 64, 3, 0, 0, INT16},
    {Q4_K, 301, 24, 512, 2, 1, 5, INT16}, {Q4_0, 1, 3001, 512, 3, 0, 2, INT16}, {Q6_K, 17, 515, 512, 2, 0, 0, INT16},
    {Q8_0, 1, 5, 16896, 1, 0, 0, INT8}, {Q4_0, 1, 5, 16896, 1, 0, 0, INT16}, {Q4_K, 1, 19, 16896, 1, 0, 0, INT8},
    {Q4_K, 1, 5, 16896, 1, 0, 0, INT16}, {Q6_K, 1, 5, 8448, 1, 0, 0, INT8}, {Q6_K, 1, 19, 8448, 1, 0, 0, INT16},
    {F32, 150, 50, 288, 1, 0, 0}, {F16, 150, 50, 390, 1, 0, 0}, {Q8_0, 150, 50, 288, 1, 0, 0},
    {F32, 67, 13, 515, 1, 0, 1}, {F32, 301, 24, 520, 1, 1, 0}, {F32, 300, 172, 64, 3, 0, 0}, {Q8_0, 259, 12, 544, 1, 0, 0},
    {F32, 66, 1003, 1056, 1, 0, 0}, {Q8_0, 65, 1003, 1056, 1, 0, 0}, /* several panels of several stretches */
    {F32, 66, 450, 768, 2, 1, 1}, /* on the emulated device three stretches each, of y0 in one block and of y1 in three */
    {Q4_K, 301, 24, 512, 2, 1, 5},
    {F32, 1, 1003, 2048, 3, 0, 0}, {BF16, 1, 2051, 515, 2, 1, 0}, {Q4_0, 1, 3001, 512, 3, 0, 2}, {Q6_K, 17, 515, 512, 2, 0, 0},
};

/* The other products' rows and types: types of the same block, so that K fits. */
static int64_t product_N(const int64_t *d, int p) { return p == 0 ? d[2] : p == 1 ? d[2] / 2 + 1 : 1; }

static int32_t product_dtype(const int64_t *d, int p) {
    if (p != 1) return (int32_t)d[0];
    if (d[9] > 0) return d[9] == 1 ? Q4_0 : BF16;
    return (int32_t)(d[0] == F32 ? BF16 : d[0] == F16 ? F32 : d[0] == Q4_0 ? Q8_0 : d[0] == Q4_K ? Q6_K : d[0]);
}

static void products_of(const int64_t *d, puna_matmul_product *products) {
    for (int p = 0; p < d[4]; p++)
        products[p] = (puna_matmul_product){product_N(d, p), product_N(d, p) + d[6], product_dtype(d, p), (int32_t)d[5]};
}

/* Bounds of the magnitude of a weight, as the harness fills them. */
static double largest_weight(int32_t dtype) {
    return dtype == Q8_0 ? 0.01 * 128 : dtype == Q4_0 ? 0.1 * 8 : dtype == Q4_K ? 0.002 * 63 * 16
           : dtype == Q6_K ? 0.002 * 128 * 32 : 1;
}

static void fill_extreme_w(const test_buffer *b, const int64_t *d, uint64_t seed) {
    static const uint16_t factors[] = {0, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x3C00, 0x1400};
    puna_block block = puna_block_of(b->dtype);
    for (int64_t i = 0; i < b->bytes / block.bytes; i++) {
        uint8_t *bytes = (uint8_t *)b->data + i * block.bytes;
        for (int64_t k = 0; k < block.bytes; k++) bytes[k] = (uint8_t)test_random(seed, (uint64_t)(i * block.bytes + k));
        if (d[8] == LOWEST) memset(bytes, b->dtype == Q8_0 ? 0x80 : 0, (size_t)block.bytes);
        if (d[8] == HIGHEST) memset(bytes, b->dtype == Q8_0 ? 0x7F : 0xFF, (size_t)block.bytes);
        if (b->dtype == Q6_K && d[8] != HUGE_X && d[8] != TINY_X) memset(bytes + 192, 0x80, 16);
        for (int64_t f = 0; f < (b->dtype == Q4_K ? 2 : 1); f++) {
            bool listed = d[8] == HUGE_X || d[8] == TINY_X;
            uint16_t h = listed ? factors[test_random(seed + 1, (uint64_t)(2 * i + f)) % 8] : 0x1400;
            memcpy(bytes + (b->dtype == Q6_K ? 208 : 2 * f), &h, 2);
        }
    }
}

static double magnitude_of_x(const int64_t *d) { return d[8] == HUGE_X ? 1e25 : d[8] == TINY_X ? 1e-29 : 1; }

static void fill_extreme_x(const test_buffer *b, const int64_t *d, uint64_t seed) {
    static const float special[] = {NAN, INFINITY, -INFINITY};
    float *x = b->data;
    for (int64_t i = 0; i < b->rows * b->columns; i++) {
        double value = test_uniform(seed, (uint64_t)i, -1, 1) * magnitude_of_x(d);
        if (d[8] == TINY_X && i / 32 % 3 == 0) value *= 1e-3;  /* below what counts as zero */
        if (d[8] == TINY_X && i / 32 % 5 == 0) value *= 1e-11; /* subnormal */
        x[i] = (float)(d[8] == LOWEST ? 1 : d[8] == HIGHEST ? (i % 32 == 0 ? -1 : -32384.0 / 32512) : value);
    }
    if (d[8] == SPECIAL_X)
        for (int64_t r = 0; r < puna_min(3, b->rows); r++) x[r * b->columns + (37 * r + 5) % b->columns] = special[r];
}

/*
 * What rounded activations may be off by from the same integers in F64: n = K / group groups are added one after another. With
 * terms of random sign and root mean square t a partial sum of g groups is about sqrt(g group) t, so their roundings together have
 * a standard deviation below eps t sqrt(group) n / sqrt(2); each group is rounded three times before, eps t sqrt(3 K). Six of
 * these.
 * Where all signs agree a sum of K terms is off by at most its size times eps for each group and each rounding before.
 */
static double integer_tolerance(const int64_t *d, int32_t dtype) {
    double K = (double)d[3], group = dtype == Q6_K ? 16 : 32, n = K / group;
    double largest = largest_weight(dtype) * magnitude_of_x(d);
    double ordinary_factor = dtype == Q8_0 ? 0.01 : dtype == Q4_0 ? 0.1 : 0.002;
    if (d[8] != ORDINARY) largest *= (d[8] == HUGE_X || d[8] == TINY_X ? 65504 : 0x1p-10) / ordinary_factor;
    if (d[8] == LOWEST || d[8] == HIGHEST) return TEST_EPS * (n + 4) * K * largest;
    return TEST_EPS * 6 * (sqrt(group / 2) * n + sqrt(3 * K)) * largest / 3;
}

static int matmul_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    static const char *const y_names[] = {"y0", "y1", "y2"}, *const w_names[] = {"w0", "w1", "w2"};
    int64_t rows = d[1], K = d[3], bytes = 0;
    puna_matmul_product products[PUNA_MATMUL_MAX_PRODUCTS];
    products_of(d, products);
    CHECK(puna_matmul_workspace_size(context, products, (int32_t)d[4], rows, K, (int32_t)d[7], &bytes) == PUNA_STATUS_OK, "%s",
          test_last_error());
    for (int p = 0; p < d[4]; p++) {
        int32_t dtype = products[p].w_dtype;
        /*
         * Terms of random sign and root mean square t, added in W >= 4 lanes of n = K / W terms: a partial sum of k terms is
         * about sqrt(k) t, its rounding at most eps of that, so all roundings together have a standard deviation below
         * eps t sqrt(W n^2 / 2) = eps t K / sqrt(2 W) <= 0.36 eps t K. Allowed: six of these, and as much again for sums of a
         * few terms. t is at most a third of the largest product. y rounds when it is stored and where it accumulates.
         */
        double absolute = TEST_EPS * 2.2 * (double)(K + 16) * largest_weight(dtype) / 3;
        if (d[7] != 0 && dtype >= Q8_0) absolute = integer_tolerance(d, dtype);
        b[p] = (test_buffer){.name = y_names[p], .role = d[5] ? TEST_IN_OUT : TEST_OUTPUT, .rows = rows,
                             .columns = products[p].N, .stride = products[p].y_stride, .absolute = absolute + 2 * TEST_EPS,
                             .relative = 3 * TEST_EPS};
        b[3 + p] = (test_buffer){.name = w_names[p], .dtype = dtype, .rows = products[p].N, .columns = K};
    }
    b[6] = (test_buffer){.name = "x", .rows = rows, .columns = K, .stride = K + d[6]};
    b[7] = (test_buffer){.name = "workspace", .role = TEST_WORKSPACE, .dtype = Q8_0, .rows = bytes > 0,
                         .columns = puna_ceil_div(bytes, 34) * 32};
    if (d[8] != ORDINARY) b[3].fill = fill_extreme_w, b[6].fill = fill_extreme_x;
    return 8;
}

static puna_status matmul_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    puna_matmul_product products[PUNA_MATMUL_MAX_PRODUCTS];
    products_of(d, products);
    return puna_matmul_forward(context, products, (int32_t)d[4], b[0].data, b[3].data, b[1].data, b[4].data, b[2].data,
                               b[5].data, b[6].data, b[6].stride, d[1], d[3], (int32_t)d[7],
                               b[7].data, b[7].bytes);
}

static double matmul_flops(const int64_t *d) { return 2.0 * (double)(d[1] * d[2]) * (double)d[3]; }
static double matmul_traffic(const int64_t *d) {
    return (double)(d[2] * puna_row_bytes((int32_t)d[0], d[3]) + 4 * d[1] * (d[2] + d[3]));
}

/* Matrices of the 1.1B and of the 8B model; SMALL: of the 15M one, whose width holds no block of 256. */
#define BENCHMARK(dtype, rows, N, K, activations) {dtype, rows, N, K, 1, 0, 0, activations},
#define BENCHMARKS(dtype, a)                                                                                                \
    BENCHMARK(dtype, 1, 5632, 2048, a) BENCHMARK(dtype, 4, 5632, 2048, a) BENCHMARK(dtype, 8, 5632, 2048, a)                \
    BENCHMARK(dtype, 16, 5632, 2048, a) BENCHMARK(dtype, 128, 5632, 2048, a) BENCHMARK(dtype, 512, 5632, 2048, a)           \
    BENCHMARK(dtype, 1, 2048, 5632, a) BENCHMARK(dtype, 128, 2048, 5632, a) BENCHMARK(dtype, 1, 2048, 2048, a)              \
    BENCHMARK(dtype, 1, 32000, 2048, a) BENCHMARK(dtype, 1, 14336, 4096, a) BENCHMARK(dtype, 128, 14336, 4096, a)           \
    BENCHMARK(dtype, 1, 4096, 14336, a)
#define SMALL(dtype, a)                                                                                                     \
    BENCHMARK(dtype, 1, 768, 288, a) BENCHMARK(dtype, 128, 768, 288, a) BENCHMARK(dtype, 1, 32000, 288, a)
static const int64_t matmul_benchmarks[][TEST_DIMENSIONS] = {
    BENCHMARKS(F32, 0) SMALL(F32, 0) BENCHMARKS(F16, 0) BENCHMARKS(BF16, 0) BENCHMARKS(Q8_0, 0) BENCHMARKS(Q4_0, 0)
    BENCHMARKS(Q4_K, 0) BENCHMARKS(Q6_K, 0)
    BENCHMARKS(Q8_0, INT8) SMALL(Q8_0, INT8) BENCHMARKS(Q4_0, INT8) SMALL(Q4_0, INT8) BENCHMARKS(Q4_K, INT8)
    BENCHMARKS(Q6_K, INT8)
    BENCHMARKS(Q8_0, INT16) SMALL(Q8_0, INT16) BENCHMARKS(Q4_0, INT16) SMALL(Q4_0, INT16) BENCHMARKS(Q4_K, INT16)
    BENCHMARKS(Q6_K, INT16)
};

const test_op test_matmul = {
    "matmul_forward", "dtype rows N K products accumulate padding activations content mix", matmul_cases,
    TEST_COUNT(matmul_cases), matmul_buffers, matmul_call, matmul_flops, matmul_traffic, matmul_benchmarks, TEST_COUNT(matmul_benchmarks),
};

/* ------------------------------------------------- a row among others ------------------------------------------------- */

/*
 * Every row of a call has the bits it has alone: on every instruction set, for every type, whatever the number of rows. NEON's dot
 * products give the baseline's bits.
 */
void test_matmul_rows(void) {
    static const int64_t row_counts[] = {2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 23, 28, 29, 64, 70, 140, 300, 513, 520};
    /* At least so many elements: two stretches and one, panels of either, and more groups than one row is met in one go. */
    static const struct size {
        int64_t K, rows;
    } sizes[] = {{1055, 520}, {288, 140}, {390, 140}, {16641, 3}};
    static const struct {
        int32_t isa, precision;
    } isas[] = {{PUNA_ISA_BASELINE, 0}, {PUNA_ISA_AVX2, 0}, {PUNA_ISA_AVX512, 0}, {PUNA_ISA_AVX512, PUNA_PRECISION_BF16},
                {PUNA_ISA_AMX, 0}, {PUNA_ISA_AMX, PUNA_PRECISION_BF16}, {PUNA_ISA_DOTPROD, 0}};
    enum { MOST_ROWS = 520, N = 29, WORKSPACE = 8 << 20, KINDS = PUNA_DTYPE_COUNT + 8 };
    void *workspace = malloc(WORKSPACE);
    float *y = malloc(MOST_ROWS * N * 4), *alone = malloc(MOST_ROWS * N * 4);
    float *baseline = malloc(TEST_COUNT(sizes) * KINDS * MOST_ROWS * N * 4);
    for (int i = 0; i < TEST_COUNT(isas); i++) {
        puna_context_options options = {PUNA_BACKEND_CPU, 0, 2, isas[i].isa, isas[i].precision};
        puna_context *context;
        if (puna_context_create(&options, NULL, &context) == PUNA_STATUS_UNSUPPORTED) continue;
        for (int32_t s = 0; s < KINDS * TEST_COUNT(sizes); s++) { /* every type, then the block types with integers */
            int32_t kind = s % KINDS, dtype = kind < PUNA_DTYPE_COUNT ? kind : Q8_0 + (kind - PUNA_DTYPE_COUNT) % 4;
            int32_t activations = kind < PUNA_DTYPE_COUNT ? 0 : kind < PUNA_DTYPE_COUNT + 4 ? INT8 : INT16;
            int64_t block = puna_block_of(dtype).elements, K = puna_ceil_div(sizes[s / KINDS].K, block) * block;
            int64_t most_rows = sizes[s / KINDS].rows;
            test_buffer b[2] = {{.name = "x", .rows = most_rows, .columns = K},
                                {.name = "w", .dtype = dtype, .rows = N, .columns = K}};
            test_prepare(&test_matmul, NULL, b, 2, true, TEST_GUARD_AFTER);
            const float *x = b[0].data;
            puna_matmul_product product = {N, N, dtype, 0};
            for (int64_t r = 0; r < most_rows; r++)
                CHECK(puna_matmul_forward(context, &product, 1, alone + r * N, b[1].data, NULL, NULL, NULL, NULL, x + r * K, K,
                                          1, K, activations, workspace, WORKSPACE) == PUNA_STATUS_OK, "%s", test_last_error());
            if (isas[i].isa == PUNA_ISA_BASELINE) memcpy(baseline + s * MOST_ROWS * N, alone, (size_t)(most_rows * N * 4));
            test_case("isa %d precision %d dtype %d activations %d K %d", isas[i].isa, isas[i].precision, dtype, activations, (int)K);
            CHECK(isas[i].isa != PUNA_ISA_DOTPROD ||
                  memcmp(alone, baseline + s * MOST_ROWS * N, (size_t)(most_rows * N * 4)) == 0, "not the bits of the baseline");
            for (int c = 0; c < TEST_COUNT(row_counts) && row_counts[c] <= most_rows; c++) {
                int64_t rows = row_counts[c];
                test_case("isa %d precision %d dtype %d activations %d K %d rows %d", isas[i].isa, isas[i].precision, dtype,
                          activations, (int)K, (int)rows);
                CHECK(puna_matmul_forward(context, &product, 1, y, b[1].data, NULL, NULL, NULL, NULL, x, K, rows, K, activations,
                                          workspace, WORKSPACE) == PUNA_STATUS_OK, "%s", test_last_error());
                for (int64_t j = 0; j < rows * N; j++)
                    if (!CHECK(memcmp(&y[j], &alone[j], 4) == 0, "y[%d, %d] is %.9g among others, %.9g alone", (int)(j / N),
                               (int)(j % N), (double)y[j], (double)alone[j])) break;
            }
            test_release(b, 2);
        }
        puna_context_destroy(context);
    }
    free(workspace);
    free(y);
    free(alone);
    free(baseline);
}
