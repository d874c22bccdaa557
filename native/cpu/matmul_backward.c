/*
 * The gradients of a matrix product, both as c (M, N) (= or +=) a (M, P) times b (P, N) with b row-major:
 *   dx (rows, K) = dy (rows, N) times w (N, K), summed over N        dw (N, K) += dy transposed (N, rows) times x, over rows
 *
 * A share is a block of c. It goes through P in stretches of DEPTH: packs its stretch of a, TILE_ROWS rows side by side, and of
 * b, TILE_COLUMNS columns side by side and decoded, into the thread's workspace, and multiplies them tile by tile.
 *
 * ORDER OF SUMMATION. An element of c sums DEPTH products one after another from zero with vec_fma; the stretches' sums are
 * added to it one after another. So its bits depend on its row of a and column of b alone, not on shares or neighbours.
 *
 * One thread of a Zen 4 at 118 GFLOP/s, busy with other work, in its own time (AVX2; AVX-512 is alike), rows x N x K:
 *   1024 x 288 x 288  dx 98, dw 102 GFLOP/s     1024 x 768 x 288  90, 92     1024 x 288 x 768  97, 101
 *   256 x 32000 x 288  76, 89 (64 and 75 % of the peak): w comes from memory once a share
 */
#include "decode.h"
#include "gemm.h"
#include "kernels.h"

enum {
    DEPTH = 256,
    MOST_ROWS = 192,    /* of a share: a whole number of tiles in every variant; with these the packed stretches       */
    MOST_COLUMNS = 384, /* of a and b take 200 and 400 kB, less than a second-level cache                              */
    LEAST_ROWS = 48,
    SHARES_PER_THREAD = 3,
    THREAD_BYTES = (MOST_ROWS + MOST_COLUMNS) * DEPTH * 4
};

typedef struct job {
    float *c;
    const float *a;
    const char *b;
    int64_t c_stride, a_row, a_step, b_stride; /* of b in elements of its dtype                                       */
    int32_t b_dtype;
    bool accumulate;
    int64_t M, N, P;
    int64_t share_M, share_N, column_shares;
    char *workspace;
} job;

/* to (tiles, depth, TILE_ROWS); rows that are missing from the last tile are zero. */
static void pack_a(float *to, const float *a, int64_t a_row, int64_t a_step, int64_t rows, int64_t depth) {
    for (int64_t m = 0; m < rows; m += TILE_ROWS, a += TILE_ROWS * a_row, to += TILE_ROWS * depth) {
        if (rows - m >= TILE_ROWS && a_row == 1) {
            for (int64_t p = 0; p < depth; p++) memcpy(to + p * TILE_ROWS, a + p * a_step, TILE_ROWS * sizeof(float));
        } else if (rows - m >= TILE_ROWS) {
            for (int64_t p = 0; p < depth; p++)
                for (int i = 0; i < TILE_ROWS; i++) to[p * TILE_ROWS + i] = a[i * a_row + p * a_step];
        } else {
            for (int64_t p = 0; p < depth; p++)
                for (int64_t i = 0; i < TILE_ROWS; i++)
                    to[p * TILE_ROWS + i] = i < rows - m ? a[i * a_row + p * a_step] : 0;
        }
    }
}

/* to (tiles, depth, TILE_COLUMNS); columns that are missing from the last tile are zero. */
PUNA_INLINE void pack_b(float *to, const char *b, int32_t dtype, int64_t stride, int64_t columns, int64_t depth) {
    int64_t row_bytes = stride * (dtype == PUNA_DTYPE_F32 ? 4 : 2);
    for (int64_t n = 0; n < columns; n += TILE_COLUMNS)
        for (int64_t p = 0; p < depth; p++, to += TILE_COLUMNS) {
            const char *row = b + p * row_bytes;
            if (columns - n >= TILE_COLUMNS) {
                for (int j = 0; j < TILE_COLUMNS; j += VEC_WIDTH) vec_store(to + j, plain_vec(dtype, row, n + j));
            } else {
                for (int j = 0; j < TILE_COLUMNS; j += VEC_WIDTH) {
                    int64_t left = puna_max(0, puna_min(columns - n - j, VEC_WIDTH));
                    vec_store(to + j, left > 0 ? plain_vec_partial(dtype, row, n + j, left) : vec_zero());
                }
            }
        }
}

static void multiply(const job *j, float *c, int64_t rows, int64_t columns, const float *a, const float *b, int64_t depth,
                     bool add) {
    for (int64_t n = 0; n < columns; n += TILE_COLUMNS, b += TILE_COLUMNS * depth) {
        const float *a_m = a;
        for (int64_t m = 0; m < rows; m += TILE_ROWS, a_m += TILE_ROWS * depth) {
            float *to = c + m * j->c_stride + n;
            if (rows - m >= TILE_ROWS && columns - n >= TILE_COLUMNS) {
                gemm_tile(TILE_VECS, to, j->c_stride, a_m, 1, TILE_ROWS, b, TILE_COLUMNS, depth, add);
                continue;
            }
            float edge[TILE_ROWS * TILE_COLUMNS]; /* a tile over the edge of c */
            gemm_tile(TILE_VECS, edge, TILE_COLUMNS, a_m, 1, TILE_ROWS, b, TILE_COLUMNS, depth, false);
            for (int64_t i = 0; i < puna_min(TILE_ROWS, rows - m); i++)
                for (int64_t k = 0; k < puna_min(TILE_COLUMNS, columns - n); k++) {
                    float sum = edge[i * TILE_COLUMNS + k];
                    to[i * j->c_stride + k] = add ? to[i * j->c_stride + k] + sum : sum;
                }
        }
    }
}

static void run_share(void *arguments, int64_t share, int32_t thread) {
    const job *j = arguments;
    int64_t m0 = share / j->column_shares * j->share_M, rows = puna_min(j->share_M, j->M - m0);
    int64_t n0 = share % j->column_shares * j->share_N, columns = puna_min(j->share_N, j->N - n0);
    float *a = (float *)(j->workspace + thread * (int64_t)THREAD_BYTES), *b = a + MOST_ROWS * DEPTH;
    int64_t element = j->b_dtype == PUNA_DTYPE_F32 ? 4 : 2;
    for (int64_t p = 0; p < j->P; p += DEPTH) {
        int64_t depth = puna_min(DEPTH, j->P - p);
        const char *from = j->b + (p * j->b_stride + n0) * element;
        pack_a(a, j->a + m0 * j->a_row + p * j->a_step, j->a_row, j->a_step, rows, depth);
        switch (j->b_dtype) { /* a constant each, so that the loop has no branch */
        case PUNA_DTYPE_F32: pack_b(b, from, PUNA_DTYPE_F32, j->b_stride, columns, depth); break;
        case PUNA_DTYPE_F16: pack_b(b, from, PUNA_DTYPE_F16, j->b_stride, columns, depth); break;
        default: pack_b(b, from, PUNA_DTYPE_BF16, j->b_stride, columns, depth); break;
        }
        multiply(j, j->c + m0 * j->c_stride + n0, rows, columns, a, b, depth, j->accumulate || p > 0);
    }
}

/* The fewest parts of at most most, as equal as whole tiles allow. */
static int64_t part_of(int64_t whole, int64_t most, int64_t tile) {
    return puna_ceil_div(puna_ceil_div(whole, puna_ceil_div(whole, most)), tile) * tile;
}

static void run(puna_context *context, job *j, void *workspace) {
    j->workspace = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    j->share_N = part_of(j->N, MOST_COLUMNS, TILE_COLUMNS);
    j->column_shares = puna_ceil_div(j->N, j->share_N);
    int64_t most = MOST_ROWS, wanted = SHARES_PER_THREAD * (int64_t)context->threads;
    while (most > LEAST_ROWS && puna_ceil_div(j->M, most) * j->column_shares < wanted) most /= 2;
    j->share_M = part_of(j->M, most, TILE_ROWS);
    puna_parallel(context, puna_ceil_div(j->M, j->share_M) * j->column_shares, run_share, j);
}

int64_t PUNA_KERNEL(matmul_backward_workspace_size)(puna_context *context) {
    return context->threads * (int64_t)THREAD_BYTES + 63;
}

puna_status PUNA_KERNEL(matmul_input_backward)(puna_context *context, float *dx, int64_t dx_stride, const void *w,
                                               int32_t w_dtype, const float *dy, int64_t dy_stride, int64_t rows, int64_t N,
                                               int64_t K, int32_t accumulate, void *workspace) {
    job j = {.c = dx, .c_stride = dx_stride, .a = dy, .a_row = dy_stride, .a_step = 1, .b = w, .b_stride = K, .b_dtype = w_dtype,
             .accumulate = accumulate, .M = rows, .N = K, .P = N};
    run(context, &j, workspace);
    return PUNA_STATUS_OK;
}

puna_status PUNA_KERNEL(matmul_weight_backward)(puna_context *context, float *dw, const float *x, int64_t x_stride,
                                                const float *dy, int64_t dy_stride, int64_t rows, int64_t N, int64_t K,
                                                void *workspace) {
    job j = {.c = dw, .c_stride = K, .a = dy, .a_row = 1, .a_step = dy_stride, .b = (const char *)x, .b_stride = x_stride,
             .b_dtype = PUNA_DTYPE_F32, .accumulate = true, .M = N, .N = K, .P = rows};
    run(context, &j, workspace);
    return PUNA_STATUS_OK;
}
