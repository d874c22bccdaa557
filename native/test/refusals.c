/* Calls that must be refused: the status, the sentence, and every output untouched; and odd calls that must not be. */
#include "test.h"

#include <stdlib.h>

enum { ROWS = 3, C = 8, PATTERN = 0x5A };

static puna_context *context;
static float out[64], extra[64]; /* outputs; a refused call must leave them as they are */
static float in[64], in2[64];
static int32_t ids[ROWS];

static void reset(void) {
    memset(out, PATTERN, sizeof out);
    memset(extra, PATTERN, sizeof extra);
    for (int i = 0; i < 64; i++) in[i] = in2[i] = 1;
    for (int i = 0; i < ROWS; i++) ids[i] = i;
}

static void refused(const char *call, puna_status status, const char *sentence) {
    test_case("%s", call);
    CHECK(status == PUNA_STATUS_INVALID_ARGUMENT, "status %d", status);
    CHECK(strstr(test_last_error(), sentence) != NULL, "'%s', expected '%s'", test_last_error(), sentence);
    for (size_t i = 0; i < sizeof out; i++)
        if (((unsigned char *)out)[i] != PATTERN || ((unsigned char *)extra)[i] != PATTERN) {
            CHECK(false, "an output was written");
            return;
        }
    for (int i = 0; i < 64; i++)
        if (in[i] != 1 || in2[i] != 1) {
            CHECK(false, "an input was written");
            return;
        }
}

static void accepted(const char *call, puna_status status) {
    test_case("%s", call);
    CHECK(status == PUNA_STATUS_OK, "status %d, %s", status, test_last_error());
}

#define REFUSED(sentence, call) (reset(), refused(#call, call, sentence))
#define ACCEPTED(call) (reset(), accepted(#call, call))

static float *misaligned(float *p) { return (float *)(void *)((char *)p + 2); }

static void rows(void) {
    puna_context *c = context;
    REFUSED("puna_dequantize: context is null", puna_dequantize(NULL, out, in, 0, ROWS, C));
    REFUSED("dtype is 7, expected 0 (F32) to 6 (Q6_K)", puna_dequantize(c, out, in, 7, ROWS, C));
    REFUSED("dtype is -1, expected", puna_dequantize(c, out, in, -1, ROWS, C));
    REFUSED("rows is -1, expected at least 0", puna_dequantize(c, out, in, 0, -1, C));
    REFUSED("C is 0, expected at least 1", puna_dequantize(c, out, in, 0, ROWS, 0));
    REFUSED("C is 33, expected a multiple of 32, the block of Q8_0", puna_dequantize(c, out, in, PUNA_DTYPE_Q8_0, 1, 33));
    REFUSED("C is 32, expected a multiple of 256, the block of Q4_K", puna_dequantize(c, out, in, PUNA_DTYPE_Q4_K, 1, 32));
    REFUSED("y is null, expected 3 rows of 8 elements of F32", puna_dequantize(c, NULL, in, 0, ROWS, C));
    REFUSED("w is null, expected 3 rows of 8 elements of F16", puna_dequantize(c, out, NULL, PUNA_DTYPE_F16, ROWS, C));
    REFUSED("expected a multiple of 4", puna_dequantize(c, misaligned(out), in, 0, ROWS, C));
    REFUSED("expected a multiple of 2", puna_dequantize(c, out, (char *)in + 1, PUNA_DTYPE_BF16, ROWS, C));
    REFUSED("does not fit 64 bits", puna_dequantize(c, out, in, 0, INT64_MAX, C));
    REFUSED("does not fit 64 bits", puna_dequantize(c, out, in, 0, (int64_t)1 << 31, (int64_t)1 << 31));
    REFUSED("does not fit 64 bits", puna_dequantize(c, out, in, 0, 1, INT64_MAX));
    REFUSED("y overlaps w", puna_dequantize(c, out, out, PUNA_DTYPE_F16, ROWS, C));
    REFUSED("y overlaps w", puna_dequantize(c, out + 5, out, PUNA_DTYPE_F16, ROWS, C));

    REFUSED("V is 0, expected at least 1", puna_embedding_forward(c, out, in, 0, ids, ROWS, 0, C));
    REFUSED("ids is null", puna_embedding_forward(c, out, in, 0, NULL, ROWS, ROWS, C));
    REFUSED("ids[2] is 2, expected 0 to 1", puna_embedding_forward(c, out, in, 0, ids, ROWS, 2, C));
    reset();
    ids[1] = -1;
    refused("a negative id", puna_embedding_forward(c, out, in, 0, ids, ROWS, ROWS, C), "ids[1] is -1, expected 0 to 2");
    REFUSED("y overlaps ids", puna_embedding_forward(c, (float *)ids, in, 0, ids, 1, ROWS, 1));
    REFUSED("y overlaps table", puna_embedding_forward(c, out, out + 8, 0, ids, ROWS, ROWS, C));

    REFUSED("g_dtype is 3, expected 0 (F32) to 2 (BF16)", puna_rmsnorm_forward(c, out, extra, in, in2, 3, ROWS, C, 0));
    REFUSED("eps is -1, expected a finite number, at least 0", puna_rmsnorm_forward(c, out, extra, in, in2, 0, ROWS, C, -1));
    REFUSED("eps is nan", puna_rmsnorm_forward(c, out, extra, in, in2, 0, ROWS, C, NAN));
    REFUSED("g is null", puna_rmsnorm_forward(c, out, extra, in, NULL, 0, ROWS, C, 0));
    REFUSED("x is null", puna_rmsnorm_forward(c, out, extra, NULL, in2, 0, ROWS, C, 0));
    REFUSED("y overlaps x", puna_rmsnorm_forward(c, out, extra, out + 1, in2, 0, ROWS, C, 0));
    REFUSED("y overlaps g", puna_rmsnorm_forward(c, out, extra, in, out + 3, 0, ROWS, C, 0));
    REFUSED("rstd overlaps y", puna_rmsnorm_forward(c, out, out + 1, in, in2, 0, ROWS, C, 0));
    REFUSED("rstd is at address", puna_rmsnorm_forward(c, out, misaligned(extra), in, in2, 0, ROWS, C, 0));

    REFUSED("n is -1, expected at least 0", puna_add_forward(c, out, in, -1));
    REFUSED("x is null", puna_add_forward(c, out, NULL, 4));
    REFUSED("y overlaps x", puna_add_forward(c, out, out, 4));

    REFUSED("y_stride is 7, expected at least the row's width of 8", puna_swiglu_forward(c, out, 7, in, in2, C, ROWS, C));
    REFUSED("x_stride is 7, expected", puna_swiglu_forward(c, out, C, in, in2, 7, ROWS, C));
    REFUSED("up is null", puna_swiglu_forward(c, out, C, in, NULL, C, ROWS, C));
    REFUSED("y overlaps gate", puna_swiglu_forward(c, out, C + 1, out, in2, C, ROWS, C));
    REFUSED("y overlaps up", puna_swiglu_forward(c, out, C, in, out + 1, C, ROWS, C));
    REFUSED("does not fit 64 bits", puna_swiglu_forward(c, out, INT64_MAX, in, in2, C, ROWS, C));

    REFUSED("V is 0", puna_log_softmax_forward(c, out, in, ROWS, 0));
    REFUSED("y overlaps x", puna_log_softmax_forward(c, out + 1, out, ROWS, C));
    REFUSED("V is 2147483648, expected 1 to 2147483647", puna_argmax_forward(c, ids, in, 1, (int64_t)1 << 31));
    REFUSED("y is null", puna_argmax_forward(c, NULL, in, 1, C));
    REFUSED("y overlaps x", puna_argmax_forward(c, (int32_t *)(void *)out, out, 1, C));
    double *sums = (double *)(void *)(extra + (uintptr_t)extra % 8 / 4);
    REFUSED("n is 9, expected 1 to 8", puna_candidates_forward(c, out, ids, NULL, in, 1, C, 9, 1));
    REFUSED("n is 1025, expected 1 to 1024", puna_candidates_forward(c, out, ids, NULL, in, 1, 5000, 1025, 1));
    REFUSED("V is 0, expected", puna_candidates_forward(c, out, ids, NULL, in, 1, 0, 1, 1));
    REFUSED("temperature is 0, expected a finite number above 0", puna_candidates_forward(c, out, ids, sums, in, 1, C, 2, 0));
    REFUSED("temperature is nan", puna_candidates_forward(c, out, ids, sums, in, 1, C, 2, NAN));
    REFUSED("sums is at address", puna_candidates_forward(c, out, ids, (double *)(void *)(extra + 1), in, 1, C, 2, 1));
    REFUSED("ids is null", puna_candidates_forward(c, out, NULL, NULL, in, 1, C, 2, 1));
    REFUSED("values overlaps ids", puna_candidates_forward(c, out, (int32_t *)(void *)out, NULL, in, 1, C, 2, 1));
    REFUSED("sums overlaps", puna_candidates_forward(c, out, ids, sums, extra, 1, C, 2, 1));
    REFUSED("values overlaps x", puna_candidates_forward(c, out, ids, NULL, out, 1, C, 2, 1));
}

static void rope(void) {
    puna_context *c = context;
    REFUSED("HD is 7, expected an even number, at least 2", puna_rope_table(c, out, in, ids, ROWS, 7, 1));
    REFUSED("HD is 0, expected", puna_rope_table(c, out, in, ids, ROWS, 0, 1));
    REFUSED("magnitude is inf, expected a finite number", puna_rope_table(c, out, in, ids, ROWS, C, INFINITY));
    REFUSED("frequencies is null", puna_rope_table(c, out, NULL, ids, ROWS, C, 1));
    reset();
    ids[2] = -5;
    refused("a negative position", puna_rope_table(c, out, in, ids, ROWS, C, 1), "positions[2] is -5, expected 0 to 2147483647");
    REFUSED("layout is 2, expected 0 to 1", puna_rope_forward(c, out, C, in, 2, ROWS, 1, C));
    REFUSED("heads is 0, expected at least 1", puna_rope_forward(c, out, C, in, 0, ROWS, 0, C));
    REFUSED("x_stride is 8, expected at least the row's width of 16", puna_rope_forward(c, out, C, in, 0, ROWS, 2, C));
    REFUSED("does not fit 64 bits", puna_rope_forward(c, out, C, in, 0, ROWS, (int64_t)1 << 62, C));
    REFUSED("x overlaps table", puna_rope_forward(c, out, C, out + 4, 0, ROWS, 1, C));
}

static void products(void) {
    puna_context *c = context;
    puna_matmul_product p[4] = {{.N = 4, .y_stride = 4}, {.N = 4, .y_stride = 4}, {.N = 4, .y_stride = 4}};
    REFUSED("count is 0, expected 1 to 3", puna_matmul_forward(c, p, 0, out, in, 0, 0, 0, 0, in2, C, ROWS, C, 0, 0, 0));
    REFUSED("count is 4, expected 1 to 3", puna_matmul_forward(c, p, 4, out, in, 0, 0, 0, 0, in2, C, ROWS, C, 0, 0, 0));
    REFUSED("products is null", puna_matmul_forward(c, NULL, 1, out, in, 0, 0, 0, 0, in2, C, ROWS, C, 0, 0, 0));
    REFUSED("activations is 3, expected 0 to 2", puna_matmul_forward(c, p, 1, out, in, 0, 0, 0, 0, in2, C, ROWS, C, 3, 0, 0));
    REFUSED("K is 0", puna_matmul_forward(c, p, 1, out, in, 0, 0, 0, 0, in2, C, ROWS, 0, 0, 0, 0));
    REFUSED("x_stride is 7", puna_matmul_forward(c, p, 1, out, in, 0, 0, 0, 0, in2, 7, ROWS, C, 0, 0, 0));
    REFUSED("y1 is not null, but count is 1", puna_matmul_forward(c, p, 1, out, in, extra, 0, 0, 0, in2, C, ROWS, C, 0, 0, 0));
    REFUSED("w2 is not null, but count is 2", puna_matmul_forward(c, p, 2, out, in, extra, in, 0, in, in2, C, ROWS, C, 0, 0, 0));
    REFUSED("workspace_bytes is -1", puna_matmul_forward(c, p, 1, out, in, 0, 0, 0, 0, in2, C, ROWS, C, 0, 0, -1));
    REFUSED("x is null", puna_matmul_forward(c, p, 1, out, in, 0, 0, 0, 0, NULL, C, ROWS, C, 0, 0, 0));
    REFUSED("w1 is null", puna_matmul_forward(c, p, 2, out, in, extra, 0, 0, 0, in2, C, ROWS, C, 0, 0, 0));
    p[0].w_dtype = PUNA_DTYPE_Q4_0;
    REFUSED("K is 8, expected a multiple of 32", puna_matmul_forward(c, p, 1, out, in, 0, 0, 0, 0, in2, C, ROWS, C, 0, 0, 0));
    p[0].w_dtype = 9;
    REFUSED("w_dtype of a product is 9", puna_matmul_forward(c, p, 1, out, in, 0, 0, 0, 0, in2, C, ROWS, C, 0, 0, 0));
    p[0].w_dtype = 0, p[0].N = 0;
    REFUSED("N of a product is 0", puna_matmul_forward(c, p, 1, out, in, 0, 0, 0, 0, in2, C, ROWS, C, 0, 0, 0));
    p[0].N = 4, p[0].y_stride = 3;
    REFUSED("y_stride of a product is 3", puna_matmul_forward(c, p, 1, out, in, 0, 0, 0, 0, in2, C, ROWS, C, 0, 0, 0));
    p[0].y_stride = 4, p[0].accumulate = 2;
    REFUSED("accumulate of a product is 2", puna_matmul_forward(c, p, 1, out, in, 0, 0, 0, 0, in2, C, ROWS, C, 0, 0, 0));
    p[0].accumulate = 0;
    int64_t bytes = 0;
    CHECK(puna_matmul_workspace_size(c, p, 1, ROWS, C, 0, &bytes) == PUNA_STATUS_OK, "%s", test_last_error());
    void *workspace = malloc((size_t)bytes + 1);
    if (bytes > 0) {
        REFUSED("workspace_bytes is",
                puna_matmul_forward(c, p, 1, out, in, 0, 0, 0, 0, in2, C, ROWS, C, 0, workspace, bytes - 1));
        REFUSED("workspace is null", puna_matmul_forward(c, p, 1, out, in, 0, 0, 0, 0, in2, C, ROWS, C, 0, NULL, bytes));
    }
#define MATMUL(y0, w0, y1, w1, x) puna_matmul_forward(c, p, 2, y0, w0, y1, w1, 0, 0, x, C, ROWS, C, 0, workspace, bytes)
    REFUSED("y0 overlaps x", MATMUL(out, in, extra, in, out));
    REFUSED("y0 overlaps w1", MATMUL(out, in, extra, out + 3, in2));
    REFUSED("y1 overlaps y0", MATMUL(out, in, out + 3, in, in2));
    REFUSED("y1 overlaps w0", MATMUL(out, extra, extra, in, in2));
#undef MATMUL
    free(workspace);
    bytes = 7;
    REFUSED("bytes is null", puna_matmul_workspace_size(c, p, 1, ROWS, C, 0, NULL));
    REFUSED("activations is -1", puna_matmul_workspace_size(c, p, 1, ROWS, C, -1, &bytes));
    REFUSED("rows is -1", puna_matmul_workspace_size(c, p, 1, -1, C, 0, &bytes));
    REFUSED("does not fit 64 bits", puna_matmul_workspace_size(c, p, 1, INT64_MAX, C, 0, &bytes));
    REFUSED("does not fit 64 bits", puna_matmul_workspace_size(c, p, 1, 65, INT64_MAX / 4 / 65 / 256 * 256, 0, &bytes));
    CHECK(bytes == 7, "bytes was written");
}

static void attention(void) {
    puna_context *c = context;
    enum { HD = 4, NH = 2, NKV = 1, T = 2, S = 3 };
#define ATTENTION(y_stride, q_stride, kv_stride, B, T, S, NH, NKV, HD, window, scale)                                          \
    puna_attention_forward(c, out, y_stride, extra, in, q_stride, in2, in2 + 16, kv_stride, B, T, S, NH, NKV, HD, window, scale, \
                           NULL, 0)
    REFUSED("NH is 3, expected a multiple of NKV, 2", ATTENTION(12, 12, 8, 1, T, S, 3, 2, HD, 0, 1));
    REFUSED("NKV is 0", ATTENTION(8, 8, 4, 1, T, S, NH, 0, HD, 0, 1));
    REFUSED("HD is 0", ATTENTION(8, 8, 4, 1, T, S, NH, NKV, 0, 0, 1));
    REFUSED("B is -1", ATTENTION(8, 8, 4, -1, T, S, NH, NKV, HD, 0, 1));
    REFUSED("S is 1, expected at least 2", ATTENTION(8, 8, 4, 1, T, 1, NH, NKV, HD, 0, 1));
    REFUSED("window is -1", ATTENTION(8, 8, 4, 1, T, S, NH, NKV, HD, -1, 1));
    REFUSED("scale is nan", ATTENTION(8, 8, 4, 1, T, S, NH, NKV, HD, 0, NAN));
    REFUSED("y_stride is 7", ATTENTION(7, 8, 4, 1, T, S, NH, NKV, HD, 0, 1));
    REFUSED("q_stride is 7", ATTENTION(8, 7, 4, 1, T, S, NH, NKV, HD, 0, 1));
    REFUSED("kv_stride is 3", ATTENTION(8, 8, 3, 1, T, S, NH, NKV, HD, 0, 1));
    REFUSED("does not fit 64 bits", ATTENTION(8, 8, 4, INT64_MAX, T, S, NH, NKV, HD, 0, 1));
    REFUSED("does not fit 64 bits", ATTENTION(8, 8, 4, 1, T, S, INT64_MAX, NKV, HD, 0, 1));
    REFUSED("HD is 2147483648, expected 1 to 2147483647", ATTENTION(8, 8, 4, 1, T, S, NH, NKV, (int64_t)1 << 31, 0, 1));
    int64_t bytes = 0;
    CHECK(puna_attention_workspace_size(c, NH, NKV, HD, &bytes) == PUNA_STATUS_OK, "%s", test_last_error());
    if (bytes > 0) REFUSED("workspace_bytes is 0, expected at least", ATTENTION(8, 8, 4, 1, T, S, NH, NKV, HD, 0, 1));
    bytes = 7;
    REFUSED("NH is 3, expected a multiple", puna_attention_workspace_size(c, 3, 2, HD, &bytes));
    CHECK(bytes == 7, "bytes was written");
#undef ATTENTION

    float cache[2 * 8 * HD] = {0}; /* one layer, one head, eight rows */
    puna_kv_sequence s[2] = {{cache, 8, 6, 2}, {cache, 8, 0, 0}};
#define APPEND(sequences, count, dtype, layer) \
    puna_kv_append(c, sequences, count, dtype, layer, in, in2, NKV * HD, NKV, HD)
    REFUSED("count is -1", APPEND(s, -1, 0, 0));
    REFUSED("sequences is null", APPEND(NULL, 1, 0, 0));
    REFUSED("cache_dtype is 4, expected 0 (F32) to 3 (Q8_0)", APPEND(s, 1, PUNA_DTYPE_Q4_0, 0));
    REFUSED("cache_dtype is -1, expected", APPEND(s, 1, -1, 0));
    REFUSED("HD is 4, expected a multiple of 32, the block of Q8_0", APPEND(s, 1, PUNA_DTYPE_Q8_0, 0));
    REFUSED("layer is -1", APPEND(s, 1, 0, -1));
    s[0].rows = 3;
    REFUSED("sequences[0] has position 6, rows 3 and capacity 8", APPEND(s, 1, 0, 0));
    s[0].rows = INT64_MAX;
    REFUSED("sequences[0] has position 6", APPEND(s, 1, 0, 0));
    s[0].rows = -1;
    REFUSED("sequences[0] has position 6, rows -1", APPEND(s, 1, 0, 0));
    s[0].rows = 2, s[0].position = -1;
    REFUSED("sequences[0] has position -1", APPEND(s, 1, 0, 0));
    s[0].position = 0, s[0].capacity = INT64_MAX;
    REFUSED("does not fit 64 bits", APPEND(s, 1, 0, 0));
    s[0].capacity = 8, s[0].cache = NULL;
    REFUSED("cache of a sequence is null", APPEND(s, 1, 0, 0));
    s[0].cache = in;
    REFUSED("k overlaps cache of a sequence", APPEND(s, 1, 0, 0));
    s[0].cache = misaligned(cache);
    REFUSED("cache of a sequence is at address", APPEND(s, 1, 0, 0));
#undef APPEND
    s[0].cache = out;
    REFUSED("y overlaps cache of a sequence", puna_attention_cached_forward(c, out, 8, in, 8, s, 1, 0, 0, NH, NKV, HD, 0, 1, extra,
                                                                             (int64_t)sizeof extra));
}

static void backward(void) {
    puna_context *c = context;
    REFUSED("dtable is null", puna_embedding_backward(c, NULL, ids, in, ROWS, ROWS, C));
    REFUSED("ids[2] is 2, expected 0 to 1", puna_embedding_backward(c, out, ids, in, ROWS, 2, C));
    REFUSED("dtable overlaps dy", puna_embedding_backward(c, out, ids, out + 8, ROWS, ROWS, C));
    REFUSED("dtable overlaps ids", puna_embedding_backward(c, (float *)ids, ids, in, 1, ROWS, 1));

#define RMSNORM(dx, dg, x, g, rstd, dy, accumulate) \
    puna_rmsnorm_backward(c, dx, dg, x, g, 0, rstd, dy, ROWS, C, accumulate)
    REFUSED("accumulate is 2, expected 0 to 1", RMSNORM(out, extra, in, in2, in, in, 2));
    REFUSED("g_dtype is 3", puna_rmsnorm_backward(c, out, extra, in, in2, 3, in, in, ROWS, C, 0));
    REFUSED("rstd is null", RMSNORM(out, extra, in, in2, NULL, in, 0));
    REFUSED("dy is null", RMSNORM(out, extra, in, in2, in, NULL, 0));
    REFUSED("dx overlaps dy", RMSNORM(out, extra, in, in2, in, out, 1));
    REFUSED("dx overlaps dy", RMSNORM(out, extra, in, in2, in, out + 1, 0));
    REFUSED("dx overlaps x", RMSNORM(out, extra, out, in2, in, in, 0));
    REFUSED("dg overlaps dx", RMSNORM(out, out + 3, in, in2, in, in, 0));
    REFUSED("dg overlaps dy", RMSNORM(out, extra, in, in2, in, extra, 0));
    REFUSED("dg overlaps rstd", RMSNORM(out, extra, in, in2, extra, in, 0));
    ACCEPTED(RMSNORM(out, extra, in, in2, in, out, 0));
    ACCEPTED(RMSNORM(out, NULL, in, in2, in, in, 1));
#undef RMSNORM

#define SWIGLU(dgate, dup, gate, up, dy) puna_swiglu_backward(c, dgate, dup, C, gate, up, C, dy, C, ROWS, C)
    REFUSED("dx_stride is 7", puna_swiglu_backward(c, out, extra, 7, in, in2, C, in, C, ROWS, C));
    REFUSED("x_stride is 7", puna_swiglu_backward(c, out, extra, C, in, in2, 7, in, C, ROWS, C));
    REFUSED("dy_stride is 7", puna_swiglu_backward(c, out, extra, C, in, in2, C, in, 7, ROWS, C));
    REFUSED("dup is null", SWIGLU(out, NULL, in, in2, in));
    REFUSED("dup overlaps dgate", SWIGLU(out, out + 8, in, in2, in));
    REFUSED("dgate overlaps up", SWIGLU(out, extra, in, out, in));
    REFUSED("dup overlaps gate", SWIGLU(out, extra, extra, in, in));
    REFUSED("dup overlaps dy", SWIGLU(out, extra, in, in2, extra + 1));
    ACCEPTED(SWIGLU(out, extra, out, extra, in));
    ACCEPTED(SWIGLU(out, extra, in, in2, extra));
#undef SWIGLU

    REFUSED("puna_rope_backward: dx_stride is 8, expected at least the row's width of 16",
            puna_rope_backward(c, out, C, in, 0, ROWS, 2, C));
    REFUSED("dx overlaps table", puna_rope_backward(c, out, C, out + 4, 0, ROWS, 1, C));

#define LOSS(losses, dlogits, logits, targets, scale) \
    puna_cross_entropy_forward_backward(c, losses, dlogits, logits, targets, -1, scale, ROWS, C)
    REFUSED("scale is nan", LOSS(extra, out, in, ids, NAN));
    REFUSED("losses is null", LOSS(NULL, out, in, ids, 1));
    REFUSED("targets is null", LOSS(extra, out, in, NULL, 1));
    REFUSED("dlogits overlaps logits", LOSS(extra, out + 1, out, ids, 1));
    REFUSED("losses overlaps logits", LOSS(extra, out, extra, ids, 1));
    REFUSED("losses overlaps dlogits", LOSS(out, out, in, ids, 1));
    REFUSED("losses overlaps targets", LOSS((float *)ids, out, in, ids, 1));
    reset();
    ids[1] = 8;
    refused("a target beyond V", LOSS(extra, out, in, ids, 1), "targets[1] is 8, expected 0 to 7, or -1 to ignore the row");
    reset();
    ids[1] = -2;
    refused("a negative target", LOSS(extra, out, in, ids, 1), "targets[1] is -2");
    reset();
    ids[1] = -1;
    accepted("an ignored target", LOSS(extra, out, in, ids, 1));
#undef LOSS

    int64_t bytes = 0;
    REFUSED("bytes is null", puna_matmul_backward_workspace_size(c, NULL));
    CHECK(puna_matmul_backward_workspace_size(c, &bytes) == PUNA_STATUS_OK, "%s", test_last_error());
    void *workspace = malloc((size_t)bytes + 1);
#define INPUT(dx, dx_stride, w, dtype, dy, dy_stride, accumulate, size) \
    puna_matmul_input_backward(c, dx, dx_stride, w, dtype, dy, dy_stride, ROWS, 4, C, accumulate, workspace, size)
    REFUSED("w_dtype is 3, expected 0 (F32) to 2 (BF16)", INPUT(out, C, in, 3, in2, 4, 0, bytes));
    REFUSED("dx_stride is 7", INPUT(out, 7, in, 0, in2, 4, 0, bytes));
    REFUSED("dy_stride is 3", INPUT(out, C, in, 0, in2, 3, 0, bytes));
    REFUSED("accumulate is -1", INPUT(out, C, in, 0, in2, 4, -1, bytes));
    REFUSED("w is null", INPUT(out, C, NULL, 0, in2, 4, 0, bytes));
    REFUSED("dx overlaps w", INPUT(out, C, out, 0, in2, 4, 0, bytes));
    REFUSED("dx overlaps dy", INPUT(out, C, in, 0, out, 4, 0, bytes));
    if (bytes > 0) REFUSED("workspace_bytes is", INPUT(out, C, in, 0, in2, 4, 0, bytes - 1));
    ACCEPTED(INPUT(out, C, in, 0, in2, 4, 1, bytes));
#undef INPUT
#define WEIGHT(dw, x, x_stride, dy, dy_stride, size) \
    puna_matmul_weight_backward(c, dw, x, x_stride, dy, dy_stride, ROWS, 4, C, workspace, size)
    REFUSED("x_stride is 7", WEIGHT(out, in, 7, in2, 4, bytes));
    REFUSED("dy_stride is 3", WEIGHT(out, in, C, in2, 3, bytes));
    REFUSED("dw is null", WEIGHT(NULL, in, C, in2, 4, bytes));
    REFUSED("dw overlaps x", WEIGHT(out, out, C, in2, 4, bytes));
    REFUSED("dw overlaps dy", WEIGHT(out, in, C, out + 31, 4, bytes));
    if (bytes > 0) REFUSED("workspace_bytes is", WEIGHT(out, in, C, in2, 4, bytes - 1));
    ACCEPTED(WEIGHT(out, in, C, in2, 4, bytes));
#undef WEIGHT
    free(workspace);
    ACCEPTED(puna_matmul_input_backward(c, NULL, C, NULL, 0, NULL, 4, 0, 4, C, 0, NULL, 0));
    ACCEPTED(puna_matmul_weight_backward(c, NULL, NULL, C, NULL, 4, 0, 4, C, NULL, 0));

    CHECK(puna_attention_backward_workspace_size(c, 2, 1, 4, &bytes) == PUNA_STATUS_OK, "%s", test_last_error());
    workspace = malloc((size_t)bytes + 1);
#define ATTENTION(dq, dk, dv, q, k, y, lse, dkv_stride, S, NH, window, scale, size) /* B 1, T 2, NKV 1, HD 4 */ \
    puna_attention_backward(c, dq, 8, dk, dv, dkv_stride, q, 8, k, in2 + 16, 4, y, 8, in + 32, 8, lse, 1, 2, S, NH, 1, 4,   \
                            window, scale, workspace, size)
#define BACKWARD(dq, dk, dv, q, k, y, lse) ATTENTION(dq, dk, dv, q, k, y, lse, 4, 3, 2, 0, 1, bytes)
    REFUSED("dkv_stride is 3", ATTENTION(out, extra, extra + 16, in, in2, in, in, 3, 3, 2, 0, 1, bytes));
    REFUSED("S is 1, expected at least 2", ATTENTION(out, extra, extra + 16, in, in2, in, in, 4, 1, 2, 0, 1, bytes));
    REFUSED("NH is 0", ATTENTION(out, extra, extra + 16, in, in2, in, in, 4, 3, 0, 0, 1, bytes));
    REFUSED("dq_stride is 8, expected", ATTENTION(out, extra, extra + 16, in, in2, in, in, 4, 3, 3, 0, 1, bytes));
    REFUSED("window is -1", ATTENTION(out, extra, extra + 16, in, in2, in, in, 4, 3, 2, -1, 1, bytes));
    REFUSED("scale is inf", ATTENTION(out, extra, extra + 16, in, in2, in, in, 4, 3, 2, 0, INFINITY, bytes));
    REFUSED("workspace_bytes is", ATTENTION(out, extra, extra + 16, in, in2, in, in, 4, 3, 2, 0, 1, bytes - 1));
    REFUSED("dq is null", BACKWARD(NULL, extra, extra + 16, in, in2, in, in));
    REFUSED("dv is null", BACKWARD(out, extra, NULL, in, in2, in, in));
    REFUSED("lse is null", BACKWARD(out, extra, extra + 16, in, in2, in, NULL));
    REFUSED("dq overlaps q", BACKWARD(out, extra, extra + 16, out, in2, in, in));
    REFUSED("dq overlaps y", BACKWARD(out, extra, extra + 16, in, in2, out, in));
    REFUSED("dk overlaps k", BACKWARD(out, extra, extra + 16, in, extra, in, in));
    REFUSED("dv overlaps lse", BACKWARD(out, extra, extra + 16, in, in2, in, extra + 20));
    REFUSED("dv overlaps dk", BACKWARD(out, extra, extra + 11, in, in2, in, in));
    REFUSED("dk overlaps dq", BACKWARD(out, out + 15, extra, in, in2, in, in));
    ACCEPTED(BACKWARD(out, extra, extra + 12, in, in2, in, in));
    REFUSED("NH is 3, expected a multiple", puna_attention_backward_workspace_size(c, 3, 2, 4, &bytes));
    REFUSED("bytes is null", puna_attention_backward_workspace_size(c, 2, 1, 4, NULL));
#undef BACKWARD
#undef ATTENTION
    free(workspace);
    ACCEPTED(puna_attention_backward(c, NULL, 8, NULL, NULL, 4, NULL, 8, NULL, NULL, 4, NULL, 8, NULL, 8, NULL, 0, 1, 1, 2, 1, 4,
                                     0, 1, NULL, 0));

    double sum = 7;
    REFUSED("n is -1", puna_squared_norm(c, &sum, in, -1));
    REFUSED("result is null", puna_squared_norm(c, NULL, in, 4));
    REFUSED("x is null", puna_squared_norm(c, &sum, NULL, 4));
    REFUSED("result is at address", puna_squared_norm(c, (double *)(void *)((char *)&sum + 4), in, 1));
    REFUSED("result overlaps x", puna_squared_norm(c, (double *)(void *)out, out, 4));
    CHECK(sum == 7, "result was written");

#define ADAMW(w, m, v, g, step, rate, beta1, beta2, eps, decay, scale) \
    puna_adamw_step(c, w, m, v, g, 4, step, rate, beta1, beta2, eps, decay, scale)
    REFUSED("step is 0, expected at least 1", ADAMW(out, out + 4, out + 8, in, 0, 1, 0.9, 0.9, 1, 0, 1));
    REFUSED("learning_rate is -1, expected a finite number, at least 0",
            ADAMW(out, out + 4, out + 8, in, 1, -1, 0.9, 0.9, 1, 0, 1));
    REFUSED("learning_rate is inf", ADAMW(out, out + 4, out + 8, in, 1, INFINITY, 0.9, 0.9, 1, 0, 1));
    REFUSED("beta1 is 1, expected a number in [0, 1)", ADAMW(out, out + 4, out + 8, in, 1, 1, 1, 0.9, 1, 0, 1));
    REFUSED("beta2 is nan", ADAMW(out, out + 4, out + 8, in, 1, 1, 0.9, NAN, 1, 0, 1));
    REFUSED("eps is -1", ADAMW(out, out + 4, out + 8, in, 1, 1, 0.9, 0.9, -1, 0, 1));
    REFUSED("weight_decay is nan", ADAMW(out, out + 4, out + 8, in, 1, 1, 0.9, 0.9, 1, NAN, 1));
    REFUSED("gradient_scale is inf", ADAMW(out, out + 4, out + 8, in, 1, 1, 0.9, 0.9, 1, 0, INFINITY));
    REFUSED("m is null", ADAMW(out, NULL, out + 8, in, 1, 1, 0.9, 0.9, 1, 0, 1));
    REFUSED("w overlaps g", ADAMW(out, out + 4, out + 8, out, 1, 1, 0.9, 0.9, 1, 0, 1));
    REFUSED("m overlaps v", ADAMW(out, out + 4, out + 5, in, 1, 1, 0.9, 0.9, 1, 0, 1));
#undef ADAMW

    ACCEPTED(puna_embedding_backward(c, NULL, NULL, NULL, 0, ROWS, C));
    ACCEPTED(puna_rmsnorm_backward(c, NULL, NULL, NULL, NULL, 0, NULL, NULL, 0, C, 0));
    ACCEPTED(puna_swiglu_backward(c, NULL, NULL, C, NULL, NULL, C, NULL, C, 0, C));
    ACCEPTED(puna_rope_backward(c, NULL, C, NULL, 0, 0, 1, C));
    ACCEPTED(puna_cross_entropy_forward_backward(c, NULL, NULL, NULL, NULL, -1, 1, 0, C));
    ACCEPTED(puna_squared_norm(c, &sum, NULL, 0));
    CHECK(sum == 0, "the norm of nothing is %g", sum);
    ACCEPTED(puna_adamw_step(c, NULL, NULL, NULL, NULL, 0, 1, 1, 0.9, 0.9, 1, 0, 1));
}

/* Calls with nothing to do may bring nothing; and columns of one array are not an overlap. */
static void odd_but_valid(void) {
    puna_context *c = context;
    ACCEPTED(puna_dequantize(c, NULL, NULL, 0, 0, C));
    ACCEPTED(puna_embedding_forward(c, NULL, NULL, 0, NULL, 0, ROWS, C));
    ACCEPTED(puna_rmsnorm_forward(c, NULL, NULL, NULL, NULL, 0, 0, C, 0));
    ACCEPTED(puna_add_forward(c, NULL, NULL, 0));
    ACCEPTED(puna_swiglu_forward(c, NULL, C, NULL, NULL, C, 0, C));
    ACCEPTED(puna_log_softmax_forward(c, NULL, NULL, 0, C));
    ACCEPTED(puna_argmax_forward(c, NULL, NULL, 0, C));
    ACCEPTED(puna_candidates_forward(c, NULL, NULL, NULL, NULL, 0, C, 2, 1));
    ACCEPTED(puna_rope_table(c, NULL, NULL, NULL, 0, C, 1));
    ACCEPTED(puna_rope_forward(c, NULL, C, NULL, 0, 0, 1, C));
    puna_matmul_product p = {.N = 4, .y_stride = 4};
    ACCEPTED(puna_matmul_forward(c, &p, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, C, 0, C, 0, NULL, 0));
    ACCEPTED(puna_attention_forward(c, NULL, 8, NULL, NULL, 8, NULL, NULL, 4, 0, 1, 1, 2, 1, 4, 0, 1, NULL, 0));
    ACCEPTED(puna_kv_append(c, NULL, 0, 0, 0, NULL, NULL, 4, 1, 4));
    ACCEPTED(puna_attention_cached_forward(c, NULL, 8, NULL, 8, NULL, 0, 0, 0, 2, 1, 4, 0, 1, NULL, 0));

    /* A row holds gate, up and y side by side; or y over gate. */
    ACCEPTED(puna_swiglu_forward(c, out + 8, 12, out, out + 4, 12, ROWS, 4));
    puna_matmul_product columns[2] = {{.N = 4, .y_stride = 12}, {.N = 8, .y_stride = 12}};
    int64_t bytes = 0;
    puna_matmul_workspace_size(c, columns, 2, ROWS, C, 0, &bytes);
    void *workspace = malloc((size_t)bytes + 1);
    ACCEPTED(puna_matmul_forward(c, columns, 2, out, in, out + 4, in, NULL, NULL, in2, C, ROWS, C, 0, workspace, bytes));
    free(workspace);
    ACCEPTED(puna_swiglu_forward(c, out, 8, out, out + 4, 8, ROWS, 4));
    ACCEPTED(puna_rmsnorm_forward(c, out, NULL, out, in, 0, ROWS, C, 0));
    reset();
    refused("y in the columns of up", puna_swiglu_forward(c, out + 5, 8, out, out + 4, 8, ROWS, 3), "y overlaps up");
}

void test_refusals(void) {
    puna_context_options options = {PUNA_BACKEND_CPU, 0, 1, PUNA_ISA_AUTO, PUNA_PRECISION_F32};
    test_case("a context");
    if (!CHECK(puna_context_create(&options, NULL, &context) == PUNA_STATUS_OK, "%s", test_last_error())) return;
    rows();
    rope();
    products();
    attention();
    backward();
    odd_but_valid();
    puna_context_destroy(context);
}
