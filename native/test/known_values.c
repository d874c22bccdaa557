/*
 * Values worked out by hand or by a property, for the reference itself and every instruction set: what all kernels have wrong
 * together, comparing them with each other would not show.
 */
#include "test.h"

#include <stdlib.h>

static void close_to(const char *what, double y, double expected, double tolerance) {
    CHECK(fabs(y - expected) <= tolerance, "%s is %.9g, expected %.9g", what, y, expected);
}

static void rmsnorm(puna_context *c) {
    const float x[4] = {3, 4, 0, 0}, g[4] = {1, 2, 1, 1};
    float y[4], rstd;
    puna_rmsnorm_forward(c, y, &rstd, x, g, PUNA_DTYPE_F32, 1, 4, 0); /* mean of squares 25 / 4 */
    close_to("rstd", rstd, 0.4, 1e-7);
    close_to("y[0]", y[0], 1.2, 2e-7);
    close_to("y[1]", y[1], 3.2, 4e-7);
    const float zero[4] = {0};
    puna_rmsnorm_forward(c, y, &rstd, zero, g, PUNA_DTYPE_F32, 1, 4, 0.25f); /* eps alone */
    close_to("rstd of zeros", rstd, 2, 1e-6);
}

static void swiglu(puna_context *c) {
    const float gate[6] = {0, 1, -1, 100, -INFINITY, INFINITY}, up[6] = {5, 2, 2, 3, 2, 2};
    float y[6];
    puna_swiglu_forward(c, y, 6, gate, up, 6, 1, 6);
    const double silu_1 = 0.7310585786300049, expected[4] = {0, 2 * silu_1, -2 * (1 - silu_1), 300};
    for (int i = 0; i < 4; i++) close_to("swiglu", y[i], expected[i], 1e-6);
    CHECK(y[4] == 0 && y[5] == INFINITY, "the limits are %g and %g", (double)y[4], (double)y[5]);
}

static void log_softmax(puna_context *c) {
    const float x[3] = {1000, 1000, 1000};
    float y[3];
    puna_log_softmax_forward(c, y, x, 1, 3);
    for (int i = 0; i < 3; i++) close_to("log(1/3)", y[i], -1.0986122886681098, 2e-7);
    float z[1000], sum = 0;
    for (int i = 0; i < 1000; i++) z[i] = (float)test_uniform(3, (uint64_t)i, -5, 5);
    puna_log_softmax_forward(c, z, z, 1, 1000);
    for (int i = 0; i < 1000; i++) sum += expf(z[i]);
    close_to("the sum of probabilities", sum, 1, 2e-5);
}

static void rope(puna_context *c) {
    const float frequencies[2] = {1, 0.5f};
    const int32_t positions[2] = {0, 3};
    float table[8], x[8] = {1, 2, 3, 4, 1, 2, 3, 4}, y[8] = {1, 2, 3, 4, 1, 2, 3, 4};
    puna_rope_table(c, table, frequencies, positions, 2, 4, 1);
    close_to("cos 0", table[0], 1, 0);
    close_to("sin 0", table[1], 0, 0);
    close_to("cos 3", table[4], -0.9899924966004454, 1e-7);
    close_to("sin 1.5", table[7], 0.9974949866040544, 1e-7);
    puna_rope_forward(c, x, 4, table, PUNA_ROPE_INTERLEAVED, 2, 1, 4);
    puna_rope_forward(c, y, 4, table, PUNA_ROPE_HALVES, 2, 1, 4);
    for (int i = 0; i < 4; i++) CHECK(x[i] == i + 1 && y[i] == i + 1, "position 0 does not leave element %d as it is", i);
    close_to("interleaved x[1, 0]", x[4], cos(3) - 2 * sin(3), 1e-6);
    close_to("interleaved x[1, 1]", x[5], sin(3) + 2 * cos(3), 1e-6);
    close_to("interleaved x[1, 3]", x[7], 3 * sin(1.5) + 4 * cos(1.5), 1e-6);
    close_to("halves x[1, 0]", y[4], cos(3) - 3 * sin(3), 1e-6);
    close_to("halves x[1, 2]", y[6], sin(3) + 3 * cos(3), 1e-6);
    close_to("halves x[1, 3]", y[7], 2 * sin(1.5) + 4 * cos(1.5), 1e-6);
}

static void argmax(puna_context *c) {
    const float x[12] = {-2, -1, -1, -3, NAN, NAN, NAN, NAN, NAN, -INFINITY, 0, -0.0f};
    int32_t y[3];
    puna_argmax_forward(c, y, x, 3, 4);
    CHECK(y[0] == 1 && y[1] == 0 && y[2] == 2, "%d, %d, %d", y[0], y[1], y[2]);
}

static void candidates(puna_context *c) {
    const float x[8] = {1, NAN, 3, 3, -INFINITY, INFINITY, -0.0f, 0};
    float values[8];
    int32_t ids[8];
    double sums[PUNA_CANDIDATES_PARTS];
    const int32_t order[8] = {5, 2, 3, 0, 6, 7, 4, 1};
    puna_candidates_forward(c, values, ids, sums, x, 1, 8, 8, 1);
    for (int i = 0; i < 8; i++) CHECK(ids[i] == order[i], "candidate %d is %d, expected %d", i, ids[i], order[i]);
    CHECK(values[0] == INFINITY && values[3] == 1 && values[6] == -INFINITY && values[7] != values[7], "values");
    for (int p = 0; p < PUNA_CANDIDATES_PARTS; p++) CHECK(sums[p] == (p == 5), "sum %d is %g", p, sums[p]);
    puna_candidates_forward(c, values, ids, sums, x, 1, 4, 2, 2);
    CHECK(ids[0] == 2 && ids[1] == 3 && sums[1] == 0 && sums[2] == 1 && sums[3] == 1, "%d, %d", ids[0], ids[1]);
    close_to("sums[0]", sums[0], exp(-1), 1e-12);
}

/* The first step moves every weight by the learning rate against its gradient's sign, whatever the gradient's size. */
static void adamw(puna_context *c) {
    float w[3] = {1, 1, 2}, m[3] = {0}, v[3] = {0};
    const float g[3] = {0.25f, -8, 0};
    puna_adamw_step(c, w, m, v, g, 3, 1, 0.125, 0.9, 0.95, 0, 0, 2);
    close_to("w[0]", w[0], 0.875, 1e-6);
    close_to("w[1]", w[1], 1.125, 1e-6);
    close_to("m[0]", m[0], 0.1 * 0.5, 1e-8);
    close_to("v[1]", v[1], 0.05 * 256, 1e-5);
    CHECK(isnan(w[2]), "0 / 0 without eps is %g", (double)w[2]);
    w[2] = 2;
    puna_adamw_step(c, w + 2, m + 2, v + 2, g + 2, 1, 1, 0.125, 0.9, 0.95, 1e-8, 0.5, 1);
    close_to("decay alone", w[2], 2 * (1 - 0.125 * 0.5), 1e-6);
}

static void losses(puna_context *c) {
    const float logits[8] = {5, 5, 5, 5, -1, 2, 0, 3};
    const int32_t targets[2] = {2, 7};
    float loss[2], gradient[8];
    puna_cross_entropy_forward_backward(c, loss, gradient, logits, targets, 7, 4, 2, 4);
    close_to("log 4", loss[0], 1.3862943611198906, 2e-7);
    for (int i = 0; i < 4; i++) close_to("4 (1/4 - target)", gradient[i], i == 2 ? -3 : 1, 2e-6);
    CHECK(loss[1] == 0, "the loss of an ignored row is %g", (double)loss[1]);
    for (int i = 4; i < 8; i++) CHECK(gradient[i] == 0, "the gradient of an ignored row is %g", (double)gradient[i]);
}

static void decoding(puna_context *c) {
    /* Q8_0: d = 0.5, q = -16…15. Q4_0: d = 2, byte i is i + 16 * (15 - i), so i - 8 below and 7 - i above. */
    unsigned char q8[34] = {0x00, 0x38}, q4[18] = {0x00, 0x40};
    for (int i = 0; i < 32; i++) q8[2 + i] = (unsigned char)(i - 16);
    for (int i = 0; i < 16; i++) q4[2 + i] = (unsigned char)(i | (15 - i) << 4);
    _Alignas(2) unsigned char w[34];
    float y[32];
    memcpy(w, q8, sizeof q8);
    puna_dequantize(c, y, w, PUNA_DTYPE_Q8_0, 1, 32);
    for (int i = 0; i < 32; i++) close_to("Q8_0", y[i], 0.5 * (i - 16), 0);
    memcpy(w, q4, sizeof q4);
    puna_dequantize(c, y, w, PUNA_DTYPE_Q4_0, 1, 32);
    for (int i = 0; i < 16; i++) {
        close_to("Q4_0 low", y[i], 2 * (i - 8), 0);
        close_to("Q4_0 high", y[i + 16], 2 * (7 - i), 0);
    }
    const uint16_t halves[4] = {0x3C00, 0xC000, 0x0001, 0x7BFF};
    puna_dequantize(c, y, halves, PUNA_DTYPE_F16, 1, 4);
    CHECK(y[0] == 1 && y[1] == -2 && y[2] == 0x1p-24f && y[3] == 65504, "F16: %g %g %g %g", (double)y[0], (double)y[1],
          (double)y[2], (double)y[3]);
}

/* A query of one head against a cache of one layer. */
static void attend_one(puna_context *c, float *y, const float *q, const puna_kv_sequence *sequence, int32_t dtype, int64_t HD) {
    int64_t bytes = 0;
    puna_attention_workspace_size(c, 1, 1, HD, &bytes);
    void *workspace = malloc((size_t)bytes + 1);
    CHECK(puna_attention_cached_forward(c, y, HD, q, HD, sequence, 1, dtype, 0, 1, 1, HD, 0, 1, workspace, bytes) == PUNA_STATUS_OK, "%s",
          test_last_error());
    free(workspace);
}

/* A cache of Q8_0, whose blocks are worked out by hand, then read by a query that sees one key. */
static void quantised_cache(puna_context *c) {
    enum { HD = 64 };
    float k[HD] = {127, -127, 0.5f, 1.5f, -2.5f, 0.25f, 63.75f}, v[HD] = {0}, q[HD] = {1}, y[HD];
    k[33] = NAN;
    v[31] = -0.25f, v[32] = 254;
    v[33] = 3;
    _Alignas(2) unsigned char cache[4 * 34];
    memset(cache, 0xC5, sizeof cache);
    puna_kv_sequence sequence = {cache, 1, 0, 1};
    CHECK(puna_kv_append(c, &sequence, 1, PUNA_DTYPE_Q8_0, 0, k, v, HD, 1, HD) == PUNA_STATUS_OK, "%s", test_last_error());
    const unsigned char keys[9] = {0x00, 0x3C, 127, 129, 0, 2, 254, 0, 64}; /* d = 1; ties to even */
    CHECK(memcmp(cache, keys, sizeof keys) == 0 && cache[9] == 0, "the block of keys");
    const unsigned char nan[4] = {0x00, 0x7E, 0, 0}, values[4] = {0x00, 0x40, 127, 2}; /* d = 2: 3 is 1.5, and that 2 */
    CHECK(memcmp(cache + 34, nan, sizeof nan) == 0, "the block with NaN");
    CHECK(memcmp(cache + 3 * 34, values, sizeof values) == 0, "the second block of values");
    CHECK(cache[2 * 34 + 33] == 129, "v[31] is %d", cache[2 * 34 + 33]);
    memset(cache + 34, 0, 2);
    attend_one(c, y, q, &sequence, PUNA_DTYPE_Q8_0, HD);
    close_to("y[0]", y[0], 0, 0);
    close_to("y[31]", y[31], -0.25, 1e-4); /* 127 times the half nearest to 0.25 / 127 */
    close_to("y[32]", y[32], 254, 0);
    close_to("y[33]", y[33], 4, 0);
}

/* A cache of BF16: keys rounded in each of the ways there are, and values that a query reads that sees one key. */
static void rounded_cache(puna_context *c) {
    enum { HD = 54, NOT_A_NUMBER = 0x7FC0 };
    static const struct {
        uint32_t from;
        uint16_t to;
    } rounded[] = {{0x3F808000, 0x3F80}, {0x3F818000, 0x3F82}, {0x3F808001, 0x3F81}, {0xBF817FFF, 0xBF81}, /* ties to even */
                   {0x7F7F7FFF, 0x7F7F}, {0x7F7FFFFF, 0x7F80}, {0xFF800000, 0xFF80},                       /* too large */
                   {0x7FC00000, NOT_A_NUMBER}, {0x7F800001, NOT_A_NUMBER}, {0xFF80FFFF, NOT_A_NUMBER}, {0x7FFFFFFF, NOT_A_NUMBER},
                   {0x80000000, 0x8000}, {0x00000001, 0}, {0x00018000, 0x0002}, {0x80008001, 0x8001}};     /* subnormal */
    float k[HD], v[HD], q[HD] = {1}, y[HD];
    uint16_t cache[2][HD];
    for (int d = 0; d < HD; d++) {
        memcpy(&k[d], &rounded[d % TEST_COUNT(rounded)].from, sizeof *k);
        v[d] = 1 + (float)d / 256;
    }
    puna_kv_sequence sequence = {cache, 1, 0, 1};
    CHECK(puna_kv_append(c, &sequence, 1, PUNA_DTYPE_BF16, 0, k, v, HD, 1, HD) == PUNA_STATUS_OK, "%s", test_last_error());
    for (int d = 0; d < HD; d++) {
        uint16_t to = rounded[d % TEST_COUNT(rounded)].to, got = cache[0][d];
        CHECK(to == NOT_A_NUMBER ? (got & 0x7FFF) > 0x7F80 : got == to, "k[%d] is %04x, expected %04x", d, got, to);
    }
    memset(cache[0], 0, sizeof cache[0]);
    attend_one(c, y, q, &sequence, PUNA_DTYPE_BF16, HD);
    for (int d = 0; d < HD; d++) close_to("y", y[d], test_bf16(v[d]), 0);
}

/* The bits of a row do not depend on the rows beside it. */
static void rows_alone(puna_context *c) {
    enum { ROWS = 9, C = 1031 };
    static float x[ROWS * C], g[C], together[ROWS * C], alone[C];
    for (int i = 0; i < ROWS * C; i++) x[i] = (float)test_uniform(5, (uint64_t)i, -4, 4);
    for (int i = 0; i < C; i++) g[i] = (float)test_uniform(6, (uint64_t)i, 0, 2);
    puna_rmsnorm_forward(c, together, NULL, x, g, PUNA_DTYPE_F32, ROWS, C, 1e-5f);
    for (int r = 0; r < ROWS; r++) {
        puna_rmsnorm_forward(c, alone, NULL, x + r * C, g, PUNA_DTYPE_F32, 1, C, 1e-5f);
        CHECK(memcmp(alone, together + r * C, sizeof alone) == 0, "rmsnorm of row %d alone differs", r);
    }
    puna_log_softmax_forward(c, together, x, ROWS, C);
    for (int r = 0; r < ROWS; r++) {
        puna_log_softmax_forward(c, alone, x + r * C, 1, C);
        CHECK(memcmp(alone, together + r * C, sizeof alone) == 0, "log_softmax of row %d alone differs", r);
    }
}

void test_known_values(void) {
    for (int32_t isa = PUNA_ISA_REFERENCE; isa <= PUNA_ISA_DOTPROD; isa++) {
        puna_context_options options = {PUNA_BACKEND_CPU, 0, 2, isa, PUNA_PRECISION_F32};
        puna_context *context;
        if (puna_context_create(&options, NULL, &context) != PUNA_STATUS_OK) continue; /* not on this processor */
        const struct {
            const char *name;
            void (*run)(puna_context *);
        } all[] = {{"rmsnorm", rmsnorm}, {"swiglu", swiglu}, {"log_softmax", log_softmax}, {"rope", rope}, {"argmax", argmax},
                   {"candidates", candidates}, {"adamw", adamw}, {"losses", losses}, {"decoding", decoding},
                   {"quantised cache", quantised_cache}, {"rounded cache", rounded_cache}, {"rows alone", rows_alone}};
        for (int64_t i = 0; i < TEST_COUNT(all); i++) {
            test_case("%s, %s", all[i].name, context->ops->name);
            all[i].run(context);
        }
        puna_context_destroy(context);
    }
}
