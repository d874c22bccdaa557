/*
 * The gradients of a matrix product, both as c (M, N) (= or +=) a (M, P) times b (P, N) with b row-major:
 *   dx (rows, K) = dy (rows, N) times w (N, K), summed over N        dw (N, K) += dy transposed (N, rows) times x, over rows
 *
 * A share is a block of c. It goes through P in stretches of at most DEPTH: packs its stretch of b, TILE_COLUMNS columns side by side
 * and decoded, into the thread's workspace, and multiplies tile by tile. dy is read where it lies for dx, but for rows that fill no
 * tile, which are packed as all of dy transposed is, TILE_ROWS rows side by side.
 *
 * On AMX tiles multiply what is packed (gemm_tiles.h), in an order of their own.
 *
 * ORDER OF SUMMATION. An element of c sums a stretch's products one after another from zero with vec_fma; the stretches' sums are
 * added to it one after another. So its bits depend on its row of a and column of b alone, not on shares or neighbours.
 *
 * Two threads of a busy Granite Rapids, GFLOP/s of the best of 40 calls, before shares had up to 288 rows, tiles were packed side by
 * side and c was fetched ahead -> after; a multiply-add's ceiling is 465 with AVX-512 and 227 with AVX2:
 *   rows x N x K         dx AVX-512    dw AVX-512    dx AVX2       dw AVX2
 *   1024 x 1536 x 288    384 -> 390    376 -> 386    226 -> 235    220 -> 237
 *   524 x 32000 x 288    328 -> 332    315 -> 355    177 -> 200    185 -> 198: dy and w or dw come from memory
 * Two threads of a Zen 5, in turn, 512 x 32000 x 288: dx 315 to 361 with one share of a large b for each thread, as each share reads all
 * of it; dw 390 to 408 (AVX2 226 to 241) with rows of dy, a page each, fetched while those before are packed. AVX2's tile of 4 x 3 in
 * place of 6 x 2: 1 to 4 % faster.
 * dy where it lies, not packed, and a DEPTH of 192, not 256, by turns: 1024 x 768 x 288 dx 439 to 455, 512 x 5632 x 2048 359 to 405 (AVX2
 * 217 to 224, 219 to 226), dw 0 to 3 % faster. dw from dy where it lies: 1 % faster or, of 32000, 4 % slower, a page for each step.
 * In BF16 (lanes.h), in turn with F32: dx 404 to 708 (512 x 768 x 288), 396 to 656 (5632 x 2048), 433 to 683 (32000 x 288), dw 324 to 705,
 * 406 to 738, 429 to 787; the 15M shape trains at 5,700 tokens/s, not 3,700.
 * No gain, AVX-512: b packed once for all shares (dx a tenth slower with two threads: the other core's cache is far), a transposed in
 * registers (as the plain loop, or slower), tiles of 12 x 2 in place of 8 x 3 (as fast), the next stretch of a or b fetched between
 * the tiles (as fast). With AMX, GFLOP/s before and after on a busy machine: 1024 x 768 x 288 dx 316 to 400, dw 288 to 354;
 * 1024 x 32000 x 288 325 to 415 and 312 to 403; 1024 x 288 x 288 alike.
 * Packing the next stretch while one is multiplied, tile by tile: dx of 32000 a sixth slower, as w is not read row by row.
 */
#include "gemm.h"
#if defined(PUNA_VARIANT_AVX512)
#include "gemm_tiles.h"
#endif
#include "kernels.h"
#include "lanes.h"

enum {
    DEPTH = 192,        /* in lanes: TILE_COLUMNS of it, 36 kB, fit a first-level cache                               */
    MOST_ROWS = 288,    /* of a share: a whole number of tiles in every variant; with these the packed stretches       */
    MOST_COLUMNS = 384, /* of a and b take 220 and 300 kB, less than a second-level cache                              */
    LEAST_ROWS = 72,
    SHARES_PER_THREAD = 2,
    CACHE_BYTES = 16 << 20, /* a larger b comes from memory each time it is read                                      */
    PACK_STEPS = 8,     /* of a's steps that all tiles take together, while the next are called for                    */
    LINE = 16,          /* floats                                                                                      */
    THREAD_BYTES = (MOST_ROWS + MOST_COLUMNS) * DEPTH * 4
};

typedef struct job {
    float *c;
    const float *a;
    const char *b;
    int64_t c_stride, a_row, a_step, b_stride; /* of b in elements of its dtype                                       */
    int32_t b_dtype;
    bool accumulate, transposed; /* a is dy transposed                                                                 */
    int64_t M, N, P;
    int64_t share_M, share_N, column_shares;
    bool bf16;  /* both operands are rounded                                                                           */
    bool tiles; /* of AMX                                                                                               */
    char *workspace;
} job;

/* Elements [n, n + VEC_WIDTH) of row p of b, and in pairs of row p + 1 too, zeros from columns and from row depth on. */
PUNA_INLINE vec load_lanes(const int32_t dtype, const int each, const char *b, int64_t row_bytes, int64_t p, int64_t n, int64_t depth,
                           int64_t columns) {
    vec row = plain_lanes_until(dtype, 1, b + p * row_bytes, n, columns);
    if (each == 1) return row;
    return pairs_of_rows(row, p + 1 < depth ? plain_lanes_until(dtype, 1, b + (p + 1) * row_bytes, n, columns) : vec_zero());
}

/* to (tiles, depth, TILE_ROWS); rows that are missing from the last tile are zero. More than one tile of them has an a_row of 1. */
static void pack_a(float *to, const float *a, int64_t a_row, int64_t a_step, int64_t rows, int64_t depth) {
    int64_t whole = rows / TILE_ROWS * TILE_ROWS, left = rows - whole;
    int64_t p = 0;
    for (; p + PACK_STEPS <= depth; p += PACK_STEPS)
        for (int64_t m = 0; m < whole; m += TILE_ROWS) {
            const float *from = a + m + p * a_step; /* each step has a page of its own */
            for (int i = 0; i < PACK_STEPS && m % LINE == 0; i++) __builtin_prefetch(from + (PACK_STEPS + i) * a_step);
            for (int i = 0; i < PACK_STEPS; i++)
                memcpy(to + m * depth + (p + i) * TILE_ROWS, from + i * a_step, TILE_ROWS * sizeof(float));
        }
    for (; p < depth; p++)
        for (int64_t m = 0; m < whole; m += TILE_ROWS)
            memcpy(to + m * depth + p * TILE_ROWS, a + m + p * a_step, TILE_ROWS * sizeof(float));
    for (p = 0; p < depth && left > 0; p++)
        for (int64_t i = 0; i < TILE_ROWS; i++)
            to[whole * depth + p * TILE_ROWS + i] = i < left ? a[(whole + i) * a_row + p * a_step] : 0;
}

/* The same in pairs of steps, a_row being 1. */
static void pack_a_pairs(float *to, const float *a, int64_t a_step, int64_t rows, int64_t depth) {
    const int64_t lanes = puna_ceil_div(depth, MOST_EACH);
    for (int64_t l = 0; l < lanes; l += PACK_STEPS)
        for (int64_t m = 0; m < rows; m += VEC_WIDTH) {
            const int64_t end = puna_min(l + PACK_STEPS, lanes);
            for (int i = 0; i < MOST_EACH * PACK_STEPS; i++) __builtin_prefetch(a + m + ((l + PACK_STEPS) * MOST_EACH + i) * a_step);
            for (int64_t i = l; i < end; i++) {
                float pairs[VEC_WIDTH];
                vec_store(pairs, load_lanes(PUNA_DTYPE_F32, MOST_EACH, (const char *)a, a_step * 4, MOST_EACH * i, m, depth, rows));
                for (int t = 0; t < VEC_WIDTH && m + t < rows; t += TILE_ROWS)
                    memcpy(to + (m + t) * lanes + i * TILE_ROWS, pairs + t, TILE_ROWS * sizeof(float));
            }
        }
}

/* to (rows, lanes) = a's rows, whose a_step is 1, in pairs; rows up to a whole tile are zero. */
static void round_a(float *to, const float *a, int64_t a_row, int64_t rows, int64_t depth, int64_t lanes) {
    for (int64_t m = 0; m < puna_ceil_div(rows, TILE_ROWS) * TILE_ROWS; m++, to += lanes)
        for (int64_t l = 0; l < lanes; l += VEC_WIDTH)
            vec_store(to + l, m < rows ? plain_lanes_until(PUNA_DTYPE_F32, MOST_EACH, a + m * a_row, MOST_EACH * l, depth) : vec_zero());
}

/* to (tiles, lanes of depth, TILE_COLUMNS); columns that are missing from the last tile are zero. */
PUNA_INLINE void pack_b(const int32_t dtype, const int each, float *to, const char *b, int64_t stride, int64_t columns,
                        int64_t depth) {
    const int64_t lanes = puna_ceil_div(depth, each), row_bytes = stride * element_bytes(dtype);
    for (int64_t l = 0; l < lanes; l++)
        for (int64_t n = 0; n < columns; n += TILE_COLUMNS)
            for (int j = 0; j < TILE_COLUMNS; j += VEC_WIDTH)
                vec_store(to + n * lanes + l * TILE_COLUMNS + j, load_lanes(dtype, each, b, row_bytes, each * l, n + j, depth, columns));
}

/* The stretches of P are as equal as whole vectors allow. */
static int64_t stretch_of(int each, int64_t P) {
    return puna_ceil_div(puna_ceil_div(P, puna_ceil_div(P, each * DEPTH)), each * VEC_WIDTH) * each * VEC_WIDTH;
}

/* c (= or +=) a times the packed b, depth lanes deep. a_tile lies between two tiles of a's rows. */
PUNA_INLINE void multiply(const int each, const job *j, float *c, int64_t rows, int64_t columns, const float *a, int64_t a_row,
                          int64_t a_step, int64_t a_tile, const float *b, int64_t depth, bool add) {
    for (int64_t n = 0; n < columns; n += TILE_COLUMNS, b += TILE_COLUMNS * depth) {
        const float *a_m = a;
        for (int64_t m = 0; m < rows; m += TILE_ROWS, a_m += a_tile) {
            vec acc[TILE_ROWS * TILE_VECS];
            float *to = c + m * j->c_stride + n;
            if (rows - m >= TILE_ROWS && columns - n >= TILE_COLUMNS) gemm_fetch(TILE_VECS, to, j->c_stride);
            gemm_sums(each, TILE_VECS, acc, a_m, a_row, a_step, b, TILE_COLUMNS, depth);
            gemm_store(TILE_VECS, to, j->c_stride, rows - m, columns - n, acc, add);
        }
    }
}

#if defined(PUNA_VARIANT_AVX512)
enum {
    MOST_TILE_ROWS = 512, /* of a share                                                                             */
    MOST_TILE_COLUMNS = 512,
    A_BYTES = MOST_TILE_ROWS * TILE_DEPTH * PIECES * 2,
    TILE_THREAD_BYTES = A_BYTES + MOST_TILE_COLUMNS * TILE_DEPTH * PIECES * 2
};

PUNA_INLINE void tile_stretches(const int32_t dtype, const int most, const job *j, float *c, const float *a, const char *b, int64_t rows,
                                int64_t columns, char *space) {
    char *packed_b = space + A_BYTES;
    const int64_t row_bytes = j->b_stride * element_bytes(dtype);
    for (int64_t p = 0; p < j->P; p += TILE_DEPTH) {
        const int64_t depth = puna_min(TILE_DEPTH, j->P - p);
        pack_a_tiles(most, space, a + p * j->a_step, j->a_row, j->a_step, rows, depth);
        pack_b_tiles(dtype, most, packed_b, b + p * row_bytes, row_bytes, columns, depth);
        multiply_gemm_tiles(dtype, most, c, j->c_stride, rows, columns, space, packed_b, puna_ceil_div(depth, STEP),
                            j->accumulate || p > 0);
    }
}
#endif

static void run_share(void *arguments, int64_t share, int32_t thread) {
    const job *j = arguments;
    int64_t m0 = share / j->column_shares * j->share_M, rows = puna_min(j->share_M, j->M - m0);
    int64_t n0 = share % j->column_shares * j->share_N, columns = puna_min(j->share_N, j->N - n0);
#if defined(PUNA_VARIANT_AVX512)
    if (j->tiles) {
        load_shapes(SIDE);
#define STRETCH_ARGUMENTS                                                                                                     \
    j, j->c + m0 * j->c_stride + n0, j->a + m0 * j->a_row, j->b + n0 * element_bytes(j->b_dtype), rows, columns,              \
        j->workspace + thread * (int64_t)TILE_THREAD_BYTES
        if (j->bf16) FOR_PLAIN_DTYPE(j->b_dtype, tile_stretches, 1, STRETCH_ARGUMENTS)
        else FOR_PLAIN_DTYPE(j->b_dtype, tile_stretches, PIECES, STRETCH_ARGUMENTS)
        _tile_release();
        return;
    }
#endif
    float *packed = (float *)(j->workspace + thread * (int64_t)THREAD_BYTES), *b = packed + MOST_ROWS * DEPTH;
    const int each = j->bf16 ? MOST_EACH : 1;
    const int64_t stretch = stretch_of(each, j->P), in_place = j->transposed ? 0 : rows / TILE_ROWS * TILE_ROWS;
    for (int64_t p = 0; p < j->P; p += stretch) {
        const int64_t depth = puna_min(stretch, j->P - p);
        const float *a = j->a + m0 * j->a_row + p * j->a_step;
        float *c = j->c + m0 * j->c_stride + n0;
        const bool add = j->accumulate || p > 0;
        const char *b_p = j->b + (p * j->b_stride + n0) * element_bytes(j->b_dtype);
        if (each > 1) {
            const int64_t lanes = puna_ceil_div(depth, MOST_EACH), stride = padded(lanes);
            FOR_PLAIN_DTYPE(j->b_dtype, pack_b, MOST_EACH, b, b_p, j->b_stride, columns, depth)
            if (j->transposed) {
                pack_a_pairs(packed, a, j->a_step, rows, depth);
                multiply(MOST_EACH, j, c, rows, columns, packed, 1, TILE_ROWS, TILE_ROWS * lanes, b, lanes, add);
            } else {
                round_a(packed, a, j->a_row, rows, depth, stride);
                multiply(MOST_EACH, j, c, rows, columns, packed, stride, 1, TILE_ROWS * stride, b, lanes, add);
            }
            continue;
        }
        FOR_PLAIN_DTYPE(j->b_dtype, pack_b, 1, b, b_p, j->b_stride, columns, depth)
        multiply(1, j, c, in_place, columns, a, j->a_row, 1, TILE_ROWS * j->a_row, b, depth, add);
        if (rows == in_place) continue;
        pack_a(packed, a + in_place * j->a_row, j->a_row, j->a_step, rows - in_place, depth);
        multiply(1, j, c + in_place * j->c_stride, rows - in_place, columns, packed, 1, TILE_ROWS, TILE_ROWS * depth, b, depth, add);
    }
}

/* The fewest parts of at most most, as equal as whole tiles allow. */
static int64_t part_of(int64_t whole, int64_t most, int64_t tile) {
    return puna_ceil_div(puna_ceil_div(whole, puna_ceil_div(whole, most)), tile) * tile;
}

static void run(puna_context *context, job *j, void *workspace) {
    j->workspace = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    j->bf16 = context->bf16;
    int64_t most = MOST_ROWS, most_N = MOST_COLUMNS, tile_M = TILE_ROWS, tile_N = TILE_COLUMNS;
#if defined(PUNA_VARIANT_AVX512)
    j->tiles = context->isa == PUNA_ISA_AMX;
    if (j->tiles) most = MOST_TILE_ROWS, most_N = MOST_TILE_COLUMNS, tile_M = tile_N = 2 * SIDE;
#endif
    j->share_N = part_of(j->N, most_N, tile_N);
    j->column_shares = puna_ceil_div(j->N, j->share_N);
    const bool large = j->P * j->b_stride * element_bytes(j->b_dtype) > CACHE_BYTES;
    const int64_t wanted = (j->tiles || large ? 1 : SHARES_PER_THREAD) * (int64_t)context->threads; /* as each packs all of b */
    while (most > LEAST_ROWS && puna_ceil_div(j->M, most) * j->column_shares < wanted) most /= 2;
    j->share_M = part_of(j->M, most, tile_M);
    puna_parallel(context, puna_ceil_div(j->M, j->share_M) * j->column_shares, run_share, j);
}

int64_t PUNA_KERNEL(matmul_backward_workspace_size)(puna_context *context) {
#if defined(PUNA_VARIANT_AVX512)
    if (context->isa == PUNA_ISA_AMX) return context->threads * (int64_t)TILE_THREAD_BYTES + 63;
#endif
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
    job j = {.c = dw, .c_stride = K, .a = dy, .a_row = 1, .a_step = dy_stride, .transposed = true, .b = (const char *)x,
             .b_stride = x_stride, .b_dtype = PUNA_DTYPE_F32, .accumulate = true, .M = N, .N = K, .P = rows};
    run(context, &j, workspace);
    return PUNA_STATUS_OK;
}
