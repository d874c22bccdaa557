/* The matrix product: against the reference, and a row's bits whatever rows are beside it. */
#include "test.h"

#include <stdlib.h>

enum { F32 = PUNA_DTYPE_F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K };

/* rows: one, each width of a register tile, around their multiples, a batch, prompts, more than one block of rows. */
#define ROWS(X, dtype, N, K)                                                                                                \
    X(dtype, 1, N, K) X(dtype, 2, N, K) X(dtype, 3, N, K) X(dtype, 4, N, K) X(dtype, 5, N, K) X(dtype, 8, N, K)            \
    X(dtype, 11, N, K) X(dtype, 66, N, K)
#define ONE(dtype, rows, N, K) {dtype, rows, N, K, 1, 0, 0},
#define TWO(dtype, rows, N, K) {dtype, rows, N, K, 2, 1, 3},
#define THREE(dtype, rows, N, K) {dtype, rows, N, K, 3, 0, 1},

static const int64_t matmul_cases[][TEST_DIMENSIONS] = {
    ROWS(ONE, F32, 1, 1) ROWS(TWO, F32, 13, 7) ROWS(THREE, F32, 12, 31) ROWS(ONE, F32, 11, 64) ROWS(TWO, F32, 25, 515)
    ROWS(ONE, F16, 1, 3) ROWS(TWO, F16, 13, 61) ROWS(THREE, F16, 7, 512) ROWS(ONE, F16, 24, 1031)
    ROWS(ONE, BF16, 5, 5) ROWS(TWO, BF16, 13, 127) ROWS(THREE, BF16, 36, 1024)
    ROWS(ONE, Q8_0, 1, 32) ROWS(TWO, Q8_0, 13, 96) ROWS(THREE, Q8_0, 25, 1056)
    ROWS(ONE, Q4_0, 1, 32) ROWS(TWO, Q4_0, 13, 96) ROWS(THREE, Q4_0, 25, 1056)
    ROWS(ONE, Q4_K, 1, 256) ROWS(TWO, Q4_K, 13, 768) ROWS(THREE, Q4_K, 25, 1024)
    ROWS(ONE, Q6_K, 1, 256) ROWS(TWO, Q6_K, 13, 768) ROWS(THREE, Q6_K, 25, 1024)
    {F32, 67, 13, 515, 1, 0, 1}, {F32, 301, 24, 520, 1, 1, 0}, {F32, 300, 172, 64, 3, 0, 0}, {Q8_0, 259, 12, 544, 1, 0, 0},
    {Q4_K, 301, 24, 512, 2, 1, 5},
    {F32, 1, 1003, 2048, 3, 0, 0}, {BF16, 1, 2051, 515, 2, 1, 0}, {Q4_0, 1, 3001, 512, 3, 0, 2}, {Q6_K, 17, 515, 512, 2, 0, 0},
};

/* The other products' rows and types: types of the same block, so that K fits. */
static int64_t product_N(const int64_t *d, int p) { return p == 0 ? d[2] : p == 1 ? d[2] / 2 + 1 : 1; }

static int32_t product_dtype(const int64_t *d, int p) {
    if (p != 1) return (int32_t)d[0];
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

static int matmul_buffers(puna_context *context, const int64_t *d, test_buffer *b) {
    static const char *const y_names[] = {"y0", "y1", "y2"}, *const w_names[] = {"w0", "w1", "w2"};
    int64_t rows = d[1], K = d[3], bytes = 0;
    puna_matmul_product products[PUNA_MATMUL_MAX_PRODUCTS];
    products_of(d, products);
    CHECK(puna_matmul_workspace_size(context, products, (int32_t)d[4], rows, K, &bytes) == PUNA_STATUS_OK, "%s",
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
        b[p] = (test_buffer){.name = y_names[p], .role = d[5] ? TEST_IN_OUT : TEST_OUTPUT, .rows = rows,
                             .columns = products[p].N, .stride = products[p].y_stride, .absolute = absolute + 2 * TEST_EPS,
                             .relative = 3 * TEST_EPS};
        b[3 + p] = (test_buffer){.name = w_names[p], .dtype = dtype, .rows = products[p].N, .columns = K};
    }
    b[6] = (test_buffer){.name = "x", .rows = rows, .columns = K, .stride = K + d[6]};
    b[7] = (test_buffer){.name = "workspace", .role = TEST_WORKSPACE, .dtype = Q8_0, .rows = bytes > 0,
                         .columns = puna_ceil_div(bytes, 34) * 32};
    return 8;
}

static puna_status matmul_call(puna_context *context, const int64_t *d, const test_buffer *b) {
    puna_matmul_product products[PUNA_MATMUL_MAX_PRODUCTS];
    products_of(d, products);
    return puna_matmul_forward(context, products, (int32_t)d[4], b[0].data, b[3].data, b[1].data, b[4].data, b[2].data,
                               b[5].data, b[6].data, b[6].stride, d[1], d[3], b[7].data, b[7].bytes);
}

static double matmul_flops(const int64_t *d) { return 2.0 * (double)(d[1] * d[2]) * (double)d[3]; }
static double matmul_traffic(const int64_t *d) { return (double)(d[2] * puna_row_bytes((int32_t)d[0], d[3])); }

#define BENCHMARKS(dtype) \
    {dtype, 1, 5632, 2048, 1}, {dtype, 4, 5632, 2048, 1}, {dtype, 16, 5632, 2048, 1}, {dtype, 128, 5632, 2048, 1},
static const int64_t matmul_benchmarks[][TEST_DIMENSIONS] = {
    BENCHMARKS(F32) BENCHMARKS(F16) BENCHMARKS(BF16) BENCHMARKS(Q8_0) BENCHMARKS(Q4_0) BENCHMARKS(Q4_K) BENCHMARKS(Q6_K)
    {F32, 512, 2048, 2048, 1},
};

const test_op test_matmul = {
    "matmul_forward", "dtype rows N K products accumulate padding", matmul_cases, TEST_COUNT(matmul_cases), matmul_buffers,
    matmul_call, matmul_flops, matmul_traffic, matmul_benchmarks, TEST_COUNT(matmul_benchmarks),
};

/* ------------------------------------------------- a row among others ------------------------------------------------- */

/* Every row of a call has the bits it has alone: on every instruction set, for every type, whatever the number of rows. */
void test_matmul_rows(void) {
    static const int64_t row_counts[] = {2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 23, 64, 70, 300};
    static const int32_t isas[] = {PUNA_ISA_BASELINE, PUNA_ISA_AVX2, PUNA_ISA_AVX512};
    enum { MOST_ROWS = 300, N = 29, WORKSPACE = 4 << 20 };
    void *workspace = malloc(WORKSPACE);
    float *y = malloc(MOST_ROWS * N * 4), *alone = malloc(MOST_ROWS * N * 4);
    for (int i = 0; i < TEST_COUNT(isas); i++) {
        puna_context_options options = {PUNA_BACKEND_CPU, 0, 2, isas[i]};
        puna_context *context;
        if (puna_context_create(&options, NULL, &context) == PUNA_STATUS_UNSUPPORTED) continue;
        for (int32_t dtype = 0; dtype < PUNA_DTYPE_COUNT; dtype++) {
            int64_t block = puna_block_of(dtype).elements, K = puna_ceil_div(1055, block) * block;
            test_buffer b[2] = {{.name = "x", .rows = MOST_ROWS, .columns = K},
                                {.name = "w", .dtype = dtype, .rows = N, .columns = K}};
            test_prepare(&test_matmul, NULL, b, 2, true, TEST_GUARD_AFTER);
            const float *x = b[0].data;
            puna_matmul_product product = {N, N, dtype, 0};
            for (int64_t r = 0; r < MOST_ROWS; r++)
                CHECK(puna_matmul_forward(context, &product, 1, alone + r * N, b[1].data, NULL, NULL, NULL, NULL, x + r * K, K,
                                          1, K, workspace, WORKSPACE) == PUNA_STATUS_OK, "%s", test_last_error());
            for (int c = 0; c < TEST_COUNT(row_counts); c++) {
                int64_t rows = row_counts[c];
                test_case("isa %d dtype %d rows %d", isas[i], dtype, (int)rows);
                CHECK(puna_matmul_forward(context, &product, 1, y, b[1].data, NULL, NULL, NULL, NULL, x, K, rows, K, workspace,
                                          WORKSPACE) == PUNA_STATUS_OK, "%s", test_last_error());
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
}
