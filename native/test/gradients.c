/*
 * The backward passes of the scalar reference against differences of its forward passes. For a loss that is the sum of the
 * outputs times fixed numbers dy, the gradient in every single input is compared with the five-point central difference
 *   (8 (L(x + h) - L(x - h)) - (L(x + 2h) - L(x - 2h))) / 12h      with h = 2^-5
 * in double. What is left: h^4 / 30 of the fifth derivative, near 3e-8 times a number of moderate size, and the forward pass's
 * rounding of its outputs to F32, for M outputs of magnitude 1 about 0.3 sqrt(M) 2^-24 * 1.5 / h, below 1e-5 for M up to 300.
 * Allowed is TOLERANCE, 2e-4 of 1 + the gradient; a wrong sign, factor, index or missing term is a thousand times that.
 */
#include "test.h"

#include <stdlib.h>

enum { INPUTS = 4, MOST = 600 };
static const double TOLERANCE = 2e-4, H = 0x1p-5;

/* What the passes of one case work on: inputs, output, what the forward pass saves, and gradients. */
typedef struct state {
    puna_context *context;
    const int64_t *d;
    float x[INPUTS][MOST], dx[INPUTS][MOST], y[MOST], dy[MOST], saved[MOST];
    int64_t sizes[INPUTS], outputs;
} state;

typedef struct gradient {
    const char *forward, *backward;
    const int64_t (*cases)[TEST_DIMENSIONS];
    int64_t count;
    void (*size)(state *); /* sets sizes and outputs from d                                                         */
    puna_status (*run_forward)(state *);
    puna_status (*run_backward)(state *);
    int accumulated; /* bit i: the gradient of input i is "+="                                                       */
} gradient;

static double loss(const gradient *g, state *s) {
    CHECK(g->run_forward(s) == PUNA_STATUS_OK, "%s: %s", g->forward, test_last_error());
    double sum = 0;
    for (int64_t i = 0; i < s->outputs; i++) sum += (double)s->y[i] * s->dy[i];
    return sum;
}

static double loss_at(const gradient *g, state *s, float *x, double change) {
    float before = *x;
    *x = (float)(before + change);
    double value = loss(g, s);
    *x = before;
    return value;
}

static void check_gradient(const gradient *g, const int64_t *d, puna_context *context) {
    static state s;
    memset(&s, 0, sizeof s);
    s.context = context, s.d = d;
    g->size(&s);
    for (int i = 0; i < INPUTS; i++)
        for (int64_t k = 0; k < s.sizes[i]; k++) {
            /* Multiples of 2^-10 in [-2, 2]: a step is exact. */
            s.x[i][k] = (float)(floor(test_uniform((uint64_t)i + 1, (uint64_t)k, -2, 2) * 1024) / 1024);
            s.dx[i][k] = g->accumulated >> i & 1 ? 0.5f : NAN;
        }
    for (int64_t k = 0; k < s.outputs; k++) s.dy[k] = (float)test_uniform(9, (uint64_t)k, -1, 1);
    loss(g, &s); /* leaves what the backward pass needs */
    CHECK(g->run_backward(&s) == PUNA_STATUS_OK, "%s: %s", g->backward, test_last_error());
    for (int i = 0; i < INPUTS; i++)
        for (int64_t k = 0; k < s.sizes[i]; k++) {
            float *x = &s.x[i][k];
            double near = loss_at(g, &s, x, H) - loss_at(g, &s, x, -H);
            double far = loss_at(g, &s, x, 2 * H) - loss_at(g, &s, x, -2 * H);
            double expected = (8 * near - far) / (12 * H) + (g->accumulated >> i & 1 ? 0.5 : 0);
            if (!CHECK(fabs(s.dx[i][k] - expected) <= TOLERANCE * (1 + fabs(expected)),
                       "%s: gradient %lld of input %d is %.9g, differences of %s give %.9g", g->backward, (long long)k, i,
                       (double)s.dx[i][k], g->forward, expected)) break;
        }
}

/* ------------------------------------------------- embedding ---------------------------------------------------------- */

static const int64_t embedding_cases[][TEST_DIMENSIONS] = {{1, 1, 1}, {7, 3, 5}, {5, 11, 2}};

static void embedding_size(state *s) { s->sizes[0] = s->d[1] * s->d[2], s->outputs = s->d[0] * s->d[2]; }

static int32_t *embedding_ids(const state *s) {
    static int32_t ids[MOST];
    for (int64_t r = 0; r < s->d[0]; r++) ids[r] = (int32_t)(test_random(3, (uint64_t)r) % (uint64_t)s->d[1]);
    return ids;
}

static puna_status embedding_forward(state *s) {
    return puna_embedding_forward(s->context, s->y, s->x[0], PUNA_DTYPE_F32, embedding_ids(s), s->d[0], s->d[1], s->d[2]);
}

static puna_status embedding_backward(state *s) {
    return puna_embedding_backward(s->context, s->dx[0], embedding_ids(s), s->dy, s->d[0], s->d[1], s->d[2]);
}

/* ------------------------------------------------- rmsnorm ------------------------------------------------------------ */

static const int64_t rmsnorm_cases[][TEST_DIMENSIONS] = {{1, 1, 0}, {3, 2, 0}, {2, 7, 1}, {5, 31, 0}, {2, 64, 1}};

static void rmsnorm_size(state *s) {
    s->sizes[0] = s->outputs = s->d[0] * s->d[1];
    s->sizes[1] = s->d[1];
}

static puna_status rmsnorm_forward(state *s) {
    return puna_rmsnorm_forward(s->context, s->y, s->saved, s->x[0], s->x[1], PUNA_DTYPE_F32, s->d[0], s->d[1], 0.5f);
}

static puna_status rmsnorm_backward(state *s) {
    return puna_rmsnorm_backward(s->context, s->dx[0], s->dx[1], s->x[0], s->x[1], PUNA_DTYPE_F32, s->saved, s->dy, s->d[0],
                                 s->d[1], 0);
}

static puna_status rmsnorm_residual(state *s) {
    return puna_rmsnorm_backward(s->context, s->dx[0], s->dx[1], s->x[0], s->x[1], PUNA_DTYPE_F32, s->saved, s->dy, s->d[0],
                                 s->d[1], 1);
}

/* ------------------------------------------------- swiglu ------------------------------------------------------------- */

static const int64_t swiglu_cases[][TEST_DIMENSIONS] = {{1, 1}, {3, 17}, {2, 64}};

static void swiglu_size(state *s) { s->sizes[0] = s->sizes[1] = s->outputs = s->d[0] * s->d[1]; }

static puna_status swiglu_forward(state *s) {
    return puna_swiglu_forward(s->context, s->y, s->d[1], s->x[0], s->x[1], s->d[1], s->d[0], s->d[1]);
}

static puna_status swiglu_backward(state *s) {
    return puna_swiglu_backward(s->context, s->dx[0], s->dx[1], s->d[1], s->x[0], s->x[1], s->d[1], s->dy, s->d[1], s->d[0],
                                s->d[1]);
}

/* ------------------------------------------------- rotary position embedding ------------------------------------------ */

static const int64_t rope_cases[][TEST_DIMENSIONS] = {{0, 1, 1, 2}, {1, 1, 1, 2}, {0, 3, 2, 10}, {1, 3, 2, 10}};

static void rope_size(state *s) { s->sizes[0] = s->outputs = s->d[1] * s->d[2] * s->d[3]; }

static const float *rope_table(const state *s) {
    static float table[MOST];
    float frequencies[MOST];
    int32_t positions[MOST];
    for (int64_t i = 0; i < s->d[3] / 2; i++) frequencies[i] = 1 / (float)(i + 1);
    for (int64_t r = 0; r < s->d[1]; r++) positions[r] = (int32_t)(3 * r + 1);
    puna_rope_table(s->context, table, frequencies, positions, s->d[1], s->d[3], 1.25f);
    return table;
}

static puna_status rope_forward(state *s) {
    memcpy(s->y, s->x[0], sizeof s->y);
    return puna_rope_forward(s->context, s->y, s->d[2] * s->d[3], rope_table(s), (int32_t)s->d[0], s->d[1], s->d[2], s->d[3]);
}

static puna_status rope_backward(state *s) {
    memcpy(s->dx[0], s->dy, sizeof s->dy);
    return puna_rope_backward(s->context, s->dx[0], s->d[2] * s->d[3], rope_table(s), (int32_t)s->d[0], s->d[1], s->d[2],
                              s->d[3]);
}

/* ------------------------------------------------- matrix product ----------------------------------------------------- */

static const int64_t matmul_cases[][TEST_DIMENSIONS] = {{1, 1, 1}, {5, 3, 7}, {2, 17, 13}, {13, 2, 31}};

static void matmul_size(state *s) {
    s->sizes[0] = s->d[0] * s->d[2];
    s->sizes[1] = s->d[1] * s->d[2];
    s->outputs = s->d[0] * s->d[1];
}

static puna_status matmul_forward(state *s) {
    puna_matmul_product product = {.N = s->d[1], .y_stride = s->d[1]};
    return puna_matmul_forward(s->context, &product, 1, s->y, s->x[1], NULL, NULL, NULL, NULL, s->x[0], s->d[2], s->d[0],
                               s->d[2], PUNA_ACTIVATIONS_F32, NULL, 0);
}

static puna_status matmul_backward(state *s, int32_t accumulate) {
    puna_status status = puna_matmul_input_backward(s->context, s->dx[0], s->d[2], s->x[1], PUNA_DTYPE_F32, s->dy, s->d[1],
                                                    s->d[0], s->d[1], s->d[2], accumulate, NULL, 0);
    if (status != PUNA_STATUS_OK) return status;
    return puna_matmul_weight_backward(s->context, s->dx[1], s->x[0], s->d[2], s->dy, s->d[1], s->d[0], s->d[1], s->d[2], NULL,
                                       0);
}

static puna_status matmul_one(state *s) { return matmul_backward(s, 0); }
static puna_status matmul_another(state *s) { return matmul_backward(s, 1); }

/* ------------------------------------------------- attention ---------------------------------------------------------- */

/* B T S NH NKV HD window */
static const int64_t attention_cases[][TEST_DIMENSIONS] = {
    {1, 1, 1, 1, 1, 1, 0}, {2, 5, 5, 3, 1, 3, 0}, {1, 7, 7, 8, 1, 2, 0}, {1, 9, 9, 2, 2, 5, 4}, {2, 3, 8, 4, 2, 4, 0},
    {1, 4, 11, 2, 1, 3, 2},
};

static void attention_size(state *s) {
    s->outputs = s->sizes[0] = s->d[0] * s->d[1] * s->d[3] * s->d[5];
    s->sizes[1] = s->sizes[2] = s->d[0] * s->d[2] * s->d[4] * s->d[5];
}

/* A scale that keeps scores of these inputs, up to 2 and a few numbers wide, where the differences are precise. */
static const float ATTENTION_SCALE = 0.25f;

static puna_status attention_forward(state *s) {
    const int64_t *d = s->d;
    double workspace[64];
    return puna_attention_forward(s->context, s->y, d[3] * d[5], s->saved, s->x[0], d[3] * d[5], s->x[1], s->x[2], d[4] * d[5],
                                  d[0], d[1], d[2], d[3], d[4], d[5], d[6], ATTENTION_SCALE, workspace, sizeof workspace);
}

static puna_status attention_backward(state *s) {
    const int64_t *d = s->d;
    double workspace[64];
    return puna_attention_backward(s->context, s->dx[0], d[3] * d[5], s->dx[1], s->dx[2], d[4] * d[5], s->x[0], d[3] * d[5],
                                   s->x[1], s->x[2], d[4] * d[5], s->y, d[3] * d[5], s->dy, d[3] * d[5], s->saved, d[0], d[1],
                                   d[2], d[3], d[4], d[5], d[6], ATTENTION_SCALE, workspace, sizeof workspace);
}

/* ------------------------------------------------- cross-entropy ------------------------------------------------------ */

/* The loss is the sum of the rows' times SCALE: dy is fixed at that, and y the rows' losses. */
static const float SCALE = 0.375f;
static const int64_t cross_entropy_cases[][TEST_DIMENSIONS] = {{1, 1}, {4, 2}, {5, 31}, {3, 97}};

static void cross_entropy_size(state *s) { s->sizes[0] = s->d[0] * s->d[1], s->outputs = s->d[0]; }

static puna_status cross_entropy(state *s, float *dlogits) {
    int32_t targets[MOST];
    for (int64_t r = 0; r < s->d[0]; r++) {
        s->dy[r] = SCALE;
        targets[r] = r == 1 ? -1 : (int32_t)(test_random(5, (uint64_t)r) % (uint64_t)s->d[1]);
    }
    return puna_cross_entropy_forward_backward(s->context, s->y, dlogits, s->x[0], targets, -1, SCALE, s->d[0], s->d[1]);
}

static puna_status cross_entropy_forward(state *s) { return cross_entropy(s, NULL); }
static puna_status cross_entropy_backward(state *s) { return cross_entropy(s, s->dx[0]); }

/* ------------------------------------------------- all ---------------------------------------------------------------- */

#define CASES(name) name##_cases, TEST_COUNT(name##_cases), name##_size

static const gradient gradients[] = {
    {"puna_embedding_forward", "puna_embedding_backward", CASES(embedding), embedding_forward, embedding_backward, 1},
    {"puna_rmsnorm_forward", "puna_rmsnorm_backward", CASES(rmsnorm), rmsnorm_forward, rmsnorm_backward, 2},
    {"puna_rmsnorm_forward", "puna_rmsnorm_backward, accumulating", CASES(rmsnorm), rmsnorm_forward, rmsnorm_residual, 3},
    {"puna_swiglu_forward", "puna_swiglu_backward", CASES(swiglu), swiglu_forward, swiglu_backward, 0},
    {"puna_rope_forward", "puna_rope_backward", CASES(rope), rope_forward, rope_backward, 0},
    {"puna_matmul_forward", "puna_matmul_input_backward and weight_backward", CASES(matmul), matmul_forward, matmul_one, 2},
    {"puna_matmul_forward", "puna_matmul_input_backward, accumulating", CASES(matmul), matmul_forward, matmul_another, 3},
    {"puna_attention_forward", "puna_attention_backward", CASES(attention), attention_forward, attention_backward, 0},
    {"the losses of puna_cross_entropy_forward_backward", "puna_cross_entropy_forward_backward", CASES(cross_entropy),
     cross_entropy_forward, cross_entropy_backward, 0},
};

void test_gradients(void) {
    puna_context_options options = {PUNA_BACKEND_CPU, 0, 1, PUNA_ISA_REFERENCE, PUNA_PRECISION_F32};
    puna_context *context;
    test_case("a context");
    if (!CHECK(puna_context_create(&options, NULL, &context) == PUNA_STATUS_OK, "%s", test_last_error())) return;
    for (int64_t g = 0; g < TEST_COUNT(gradients); g++)
        for (int64_t c = 0; c < gradients[g].count; c++) {
            test_case("%s, case %d", gradients[g].backward, (int)c);
            check_gradient(&gradients[g], gradients[g].cases[c], context);
        }
    puna_context_destroy(context);
}
