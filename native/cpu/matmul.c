/*
 * Matrix product of F32 activations with weights of any type.
 *
 * ORDER OF SUMMATION, the same for one row and for many, for every tile and every thread: lane j of one accumulator sums
 * x[k] * w[k] over k = j, j + VEC_WIDTH, … with fused multiply-adds (the baseline of x86-64 rounds the product), and the lanes
 * are added by vec_hsum. So a row's bits depend on its own x and w alone.
 *
 * FEW ROWS (a token of each sequence) are bound by reading w: its rows are taken several at a time, so that many accumulators
 * hide the latency of the multiply-add, and decoded in registers. Rows of F32, F16 or BF16 are so cheap to decode again for
 * every four rows of x that this serves whole batches.
 *
 * ON AMX plain types are multiplied by tiles (plain_tiles.h), one row and many alike, in an order of their own, unless K is small.
 *
 * MANY ROWS (prompts) are bound by arithmetic: PANEL rows of w are decoded DEPTH elements deep into the thread's workspace,
 * once for all rows of x in the share, and multiplied in register tiles, whose accumulators wait in the workspace between one
 * depth and the next.
 *
 * WHAT WAS TRIED, one thread of a Zen 4 at 118 GFLOP/s (AVX2) and 20 GB/s, busy with other work, N = 5632, K = 2048:
 *   1 row    F32 2.2 ms (21 GB/s), F16 1.2 ms (19), Q8_0 1.4 ms (8.8), Q4_0 and Q4_K 1.45 ms (4.5), Q6_K 1.9 ms (5)
 *            8 rows of w at a time, added up by vec_hsum8: as 6 for K of 64, 288 and 2048. Q4_0 unpacked by a loop over 16 bytes:
 *            7.4 ms, GCC unrolls it into scalars
 *   2 rows   through panels F16 3.1 ms, in registers 1.5 ms; Q8_0 3.4 and 1.8 ms
 *   16 rows  through panels F16 6.4 ms, in registers 5.2 ms; Q4_K in panels 7.2 ms, with software prefetch 5.1 ms
 *   128      F32 82 GFLOP/s, Q4_0 87, Q4_K 92 (70 to 78 % of the peak); DEPTH 256 to 768 alike, 1024 a tenth slower
 *   AVX-512  many rows 50 GFLOP/s while GCC loaded x for every multiply-add, 80 with vec_keep; Q8_0 of 2 rows 1.4 ms. Tiles of
 *            6 x 4 in place of 4 x 3: 24 rows of F32 as before, 48 a twelfth faster, F16 and BF16 a tenth (a busy Granite Rapids)
 *   sums     of a tile added up eight at a time and stored as vectors right after the last depth, where each was a vec_hsum read
 *            back from the workspace (a Granite Rapids): 256 rows, K of 288, 27 % faster with AVX-512 and 12 % with AVX2; K of 512
 *            16 and 5 %, K of 2048 0 to 6 % and nothing. Rows of 3 sums copied from where they straddle two vectors: a third slower
 *   x        met by 24 rows of w in turn, not 12, and its next rows fetched meanwhile (a Granite Rapids, one thread): F16 of 512
 *            rows from 100 to 134 GFLOP/s of 235, K of 5632 from 112 to 145: there x is larger than the second cache; AVX2 80 to
 *            94. 36 and 48 rows, DEPTH 384, ROW_BLOCK 96 to 256 alike. With all in the first cache a tile alone does 165 to 184
 *   w        fetched a row at a time between the tiles, not a panel at once, and decoded once where it is one depth: 1024 rows, two
 *            threads, K of 288 and 32000 or 768 columns: 216 to 243 and 267 to 275 GFLOP/s, AVX2 154 to 176 and 181 to 193
 *   DEPTH    of 256 with AVX-512 (a Zen 5): K of 2048 and 5632 1 to 7 % faster, of 512 5 to 18 % slower; 48 rows of w a panel: slower
 *   ahead    a line in 2048 bytes of long rows touched, not each line asked for (a Zen 5): one row alone, over and over, up to 30 %
 *            faster; a whole model (1.1B, F16, mapped from a file) a tenth slower, why has not been found: not kept
 *   layout   many rows of AVX-512 in lanes that are four rows of w by four elements, so that sums weigh a quarter (a Zen 5): 128
 *            rows 14 to 20 % and 512 rows 22 to 30 % faster, with DEPTH 1024 and ROW_BLOCK 512; but one row in that order 6 to 10 %
 *            and 4 to 16 rows 5 to 20 % slower, and AVX2 no faster: not kept. Panels packed in the order of tiles, with that
 *            DEPTH: 128 rows as before, 512 rows 7 to 15 % faster, 48 rows 8 % slower
 *   3 products of (64, 64) and one row, two threads: 1.2 us shared out, 0.75 on the caller
 */
#include "decode.h"
#include "kernels.h"
#if defined(PUNA_VARIANT_AVX512)
#include "plain_tiles.h"
#endif
#include "products.h"

/*
 * A tile of R rows of x and N of w has R * N accumulators, which fill the registers with the fewer of its other vectors and one.
 * DEPTH: elements of K decoded together, a whole number of the largest block, where there are more than MOST_DEPTH; a panel of
 * them fills the first-level cache.
 */
#if defined(PUNA_VARIANT_AVX512)
enum { TILE_ROWS = 6, ACCUMULATORS = 24, DEPTH = 512, MOST_DEPTH = 512 };
#else
enum { TILE_ROWS = 4, ACCUMULATORS = 12, DEPTH = 256, MOST_DEPTH = 384 };
#endif

enum {
    ONE_ROW_GROUP = 6, /* rows of w read side by side for one row of x                                              */
    PLAIN_DIRECT = 32, /* rows of x up to which w is decoded in registers: plain types,                             */
    BLOCK_DIRECT = 3,  /* block types                                                                               */
    DIRECT_PANEL = 12, /* rows of w that all rows of x meet then before the next: a multiple of every tile's width  */
    PANEL = 24,        /* rows of w decoded together, a multiple as well                                            */
    ROW_BLOCK = 128    /* rows of x that meet a decoded panel                                                       */
};

/* ---------------------------------------------------------------------------------------------------------------------
 * Few rows: decoded in registers
 * ------------------------------------------------------------------------------------------------------------------ */

/* acc[r, n] += x[r] * w[n][k], lane by lane, for R rows of x and N of w. Of a tile's R + N vectors the fewer stay in registers. */
PUNA_INLINE void multiply_step(int32_t dtype, const int R, const int N, vec acc[ACCUMULATORS], const float *x, int64_t x_stride,
                               const void *const w[12], int64_t k) {
    if (R < N) {
        vec x_k[TILE_ROWS];
        for (int r = 0; r < R; r++) x_k[r] = vec_keep(vec_load(x + r * x_stride));
        for (int n = 0; n < N; n++) {
            vec w_k = vec_keep(plain_vec(dtype, w[n], k));
            for (int r = 0; r < R; r++) acc[r * N + n] = vec_fma(x_k[r], w_k, acc[r * N + n]);
        }
    } else {
        vec w_k[4];
        for (int n = 0; n < N; n++) w_k[n] = vec_keep(plain_vec(dtype, w[n], k));
        for (int r = 0; r < R; r++) {
            vec x_k = vec_keep(vec_load(x + r * x_stride));
            for (int n = 0; n < N; n++) acc[r * N + n] = vec_fma(x_k, w_k[n], acc[r * N + n]);
        }
    }
}

/*
 * y[r, n] (= or +=) the sum of the lanes of acc[r, n], for R rows and the first columns of N. Rows of 3 and of 6 are filled up to
 * 4 and 8, so that each is copied out of one stored vector, which the processor need not wait for.
 */
PUNA_INLINE void store_sums(const int R, const int N, float *y, int64_t y_stride, const vec acc[ACCUMULATORS], int64_t columns,
                            bool accumulate) {
    const int width = N == 3 ? 4 : N == 6 ? 8 : N;
    float sums[32];
    for (int i = 0; i < R * width; i += 8) {
        vec some[8];
        for (int j = 0; j < 8; j++) {
            int r = (i + j) / width, n = (i + j) % width;
            some[j] = r < R && n < N ? acc[r * N + n] : vec_zero();
        }
        vec_hsum8(sums + i, some);
    }
    for (int r = 0; r < R; r++, y += y_stride) {
        if (accumulate) {
            for (int n = 0; n < N && n < columns; n++) y[n] += sums[r * width + n];
        } else if (columns >= N) {
            memcpy(y, sums + r * width, (size_t)N * sizeof(float));
        } else {
            for (int n = 0; n < columns; n++) y[n] = sums[r * width + n];
        }
    }
}

/*
 * y[r, g] (= or +=) x[r] . w[g] for R rows of x and the first N <= G of G rows of w; the others repeat the last. fetch: the next
 * G rows are fetched ahead. They begin on pages that no hardware prefetcher looks at yet, and finding a page takes longer than
 * a row lasts, so each page is touched far before.
 */
PUNA_INLINE void direct_tile(int32_t dtype, const int R, const int G, float *y, int64_t y_stride, const char *w,
                             int64_t row_bytes, const float *x, int64_t x_stride, int64_t K, int64_t N, bool accumulate,
                             bool fetch) {
    const void *w_g[12];
    vec acc[ACCUMULATORS];
    for (int g = 0; g < G; g++) w_g[g] = w + puna_min(g, N - 1) * row_bytes;
    for (int i = 0; i < R * G; i++) acc[i] = vec_zero();
    if (is_plain(dtype)) {
        int64_t k = 0;
        const int64_t size = dtype == PUNA_DTYPE_F32 ? 4 : 2;
        for (; k + VEC_WIDTH <= K; k += VEC_WIDTH) {
            if (fetch && k * size % 64 == 0) {
                const char *at = w + k * size;
                for (int g = 0; g < G; g++) __builtin_prefetch(at + (puna_min(g, N - 1) + G) * row_bytes, 0, 2);
                if (k * size % 4096 == 0)
                    for (int g = 0; g < G; g++) __builtin_prefetch(at + (puna_min(g, N - 1) + DIRECT_PANEL) * row_bytes, 0, 2);
            }
            multiply_step(dtype, R, G, acc, x + k, x_stride, w_g, k);
        }
        if (k < K) { /* tail of the summed dimension */
            for (int g = 0; g < G; g++) {
                vec w_k = plain_vec_partial(dtype, w_g[g], k, K - k);
                for (int r = 0; r < R; r++)
                    acc[r * G + g] = vec_fma(vec_load_partial(x + r * x_stride + k, K - k), w_k, acc[r * G + g]);
            }
        }
    } else {
        int64_t elements = block_elements(dtype), chunk = elements_per_scale(dtype);
        unpacked u[12];
        for (int64_t block = 0; block < K / elements; block++) {
            for (int g = 0; g < G; g++) unpack(dtype, w_g[g], block, &u[g]);
            for (int64_t c = 0; c < elements; c += chunk)
                for (int g = 0; g < G; g++)
                    for (int64_t i = c; i < c + chunk; i += VEC_WIDTH) {
                        vec w_k = unpacked_vec(dtype, &u[g], i);
                        for (int r = 0; r < R; r++)
                            acc[r * G + g] = vec_fma(vec_load(x + r * x_stride + block * elements + i), w_k, acc[r * G + g]);
                    }
        }
    }
    for (int r = 0; r < R; r++) /* store_sums here: 16 rows a sixth slower with AVX2, no faster with AVX-512 */
        for (int g = 0; g < G && g < N; g++) {
            float sum = vec_hsum(acc[r * G + g]);
            y[r * y_stride + g] = accumulate ? y[r * y_stride + g] + sum : sum;
        }
}

/* R rows of x against N rows of w. */
#define DIRECT_TILES(R, G)                                                                                                    \
    for (int64_t g = 0; g < some_N; g += G)                                                                                   \
        direct_tile(dtype, R, G, y + r * y_stride + n + g, y_stride, w + (n + g) * row_bytes, row_bytes, x + r * x_stride,    \
                    x_stride, K, some_N - g, accumulate, r == 0);

/* A dozen rows of w at a time, which stay in the cache for all rows of x. */
PUNA_INLINE void direct_rows(int32_t dtype, float *y, int64_t y_stride, const char *w, int64_t row_bytes, const float *x,
                             int64_t x_stride, int64_t rows, int64_t K, int64_t N, bool accumulate) {
    for (int64_t n = 0; n < N; n += DIRECT_PANEL) {
        int64_t some_N = puna_min(DIRECT_PANEL, N - n), r = 0;
#if defined(PUNA_VARIANT_AVX512)
        for (; r + 6 <= rows; r += 6) DIRECT_TILES(6, 4)
        switch (rows - r) {
        case 5: DIRECT_TILES(5, 4) break;
        case 4: DIRECT_TILES(4, 6) break;
        case 3: DIRECT_TILES(3, 6) break;
#else
        for (; r + 4 <= rows; r += 4) DIRECT_TILES(4, 3)
        switch (rows - r) {
        case 3: DIRECT_TILES(3, 4) break;
#endif
        case 2: DIRECT_TILES(2, 6) break;
        case 1: DIRECT_TILES(1, ONE_ROW_GROUP) break;
        default: break;
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Many rows
 * ------------------------------------------------------------------------------------------------------------------ */

/* panel (N, MOST_DEPTH) = elements [k, k + depth) of N rows of w; a tail is padded with zeros to a whole vector. */
static void decode_panel(float *panel, const char *w, int64_t row_bytes, int32_t dtype, int64_t k, int64_t depth, int64_t N) {
    for (int64_t n = 0; n < N; n++, panel += MOST_DEPTH) {
        decode_elements(panel, w + n * row_bytes + puna_row_bytes(dtype, k), dtype, depth);
        for (int64_t i = depth; i % VEC_WIDTH != 0; i++) panel[i] = 0;
    }
}

/* What a panel is multiplied with and where its sums go: y[r, :columns] (= or +=), after the last depth. */
typedef struct panel_job {
    const float *x;
    int64_t x_stride, rows;
    float *y;
    int64_t y_stride, columns;
    bool accumulate, first, last;
    const char *next; /* what is decoded next: so many bytes of each row of a panel; null where it has been fetched  */
    int64_t next_bytes, row_bytes;
} panel_job;

/*
 * Fetches what is decoded next by and by, between the tiles: after those of rows [r, r + TILE_ROWS) of x. It lies far off, where no
 * hardware prefetcher looks; called in one go it would be waited for. Inlined, because GCC drops calls of a function that only fetches.
 */
PUNA_INLINE void fetch_next(const panel_job *j, int64_t r) {
    if (j->next == NULL) return;
    for (int64_t n = PANEL * r / j->rows, end = PANEL * (r + TILE_ROWS) / j->rows; n < end; n++)
        for (int64_t i = 0; i < j->next_bytes; i += 64) __builtin_prefetch(j->next + n * j->row_bytes + i, 0, 2);
}

/*
 * Continues R x N sums over one depth: acc[r, n] += x[r, :depth] . panel[n, :depth], for rows of x from r0 and of the panel from
 * n0. The accumulators of row r and panel row n wait at sums + (r * PANEL + n) * VEC_WIDTH between one depth and the next. The
 * tiles of a panel fetch the next R rows of x between them.
 */
PUNA_INLINE void tile(const panel_job *j, const int R, const int N, int64_t r0, int n0, float *sums, const float *panel,
                      int64_t depth) {
    const float *x = j->x + r0 * j->x_stride;
    vec acc[ACCUMULATORS];
    sums += (r0 * PANEL + n0) * VEC_WIDTH;
    panel += n0 * MOST_DEPTH;
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++)
            acc[r * N + n] = j->first ? vec_zero() : vec_load(sums + (r * PANEL + n) * VEC_WIDTH);
    const void *w[12];
    for (int n = 0; n < N; n++) w[n] = panel + n * MOST_DEPTH;
    int64_t k = 0;
    for (; k + VEC_WIDTH <= depth; k += VEC_WIDTH) {
        for (int r = n0 / N; r < R; r += PANEL / N) __builtin_prefetch(x + (R + r) * j->x_stride + k);
        multiply_step(PUNA_DTYPE_F32, R, N, acc, x + k, j->x_stride, w, k);
    }
    if (k < depth) { /* tail of the summed dimension */
        for (int r = 0; r < R; r++) {
            vec x_r = vec_load_partial(x + r * j->x_stride + k, depth - k);
            for (int n = 0; n < N; n++) acc[r * N + n] = vec_fma(x_r, vec_load(panel + n * MOST_DEPTH + k), acc[r * N + n]);
        }
    }
    if (j->last) {
        store_sums(R, N, j->y + r0 * j->y_stride + n0, j->y_stride, acc, j->columns - n0, j->accumulate);
    } else {
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) vec_store(sums + (r * PANEL + n) * VEC_WIDTH, acc[r * N + n]);
    }
}

/* R rows of x against the panel's rows, N at a time. */
#define PANEL_TILES(R, N)                                                                                                     \
    for (int n = 0; n < PANEL && n < j->columns; n += N) tile(j, R, N, r, n, sums, panel, depth);

static void multiply_panel(const panel_job *j, float *sums, const float *panel, int64_t depth) {
    int64_t rows = j->rows, r = 0;
#if defined(PUNA_VARIANT_AVX512)
    for (; r + 6 <= rows; r += 6) {
        PANEL_TILES(6, 4)
        fetch_next(j, r);
    }
    switch (rows - r) {
    case 5: PANEL_TILES(5, 4) break;
    case 4: PANEL_TILES(4, 6) break;
    case 3: PANEL_TILES(3, 6) break;
    case 2: PANEL_TILES(2, 12) break;
#else
    for (; r + 4 <= rows; r += 4) {
        PANEL_TILES(4, 3)
        fetch_next(j, r);
    }
    switch (rows - r) {
    case 3: PANEL_TILES(3, 4) break;
    case 2: PANEL_TILES(2, 6) break;
#endif
    case 1: PANEL_TILES(1, 12) break;
    default: break;
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Shares
 * ------------------------------------------------------------------------------------------------------------------ */

typedef struct call {
    const puna_matmul_product *products;
    float *const *y;
    const void *const *w;
    const float *x;
    int64_t x_stride, rows, K;
    char *x_tiles[2]; /* packed rows of x, in either order of pairs; null where they are not needed                 */
    char *workspace;
    int64_t thread_bytes; /* each thread's part of the workspace                                                    */
    product_shares shares;
} call;

/* A thread's part of the workspace, where vectors multiply: a decoded panel, then the accumulators of ROW_BLOCK rows against it. */
enum {
    PANEL_FLOATS = PANEL * MOST_DEPTH,
    SUMS_FLOATS = ROW_BLOCK * PANEL * VEC_WIDTH,
    THREAD_BYTES = (PANEL_FLOATS + SUMS_FLOATS) * 4
};

static void many_rows(const call *c, int32_t p, int64_t n0, int64_t N, int64_t r0, int64_t rows, float *panel) {
    const puna_matmul_product *product = &c->products[p];
    int64_t row_bytes = puna_row_bytes(product->w_dtype, c->K);
    const float *x = c->x + r0 * c->x_stride;
    float *sums = panel + PANEL_FLOATS;
    for (int64_t n = n0; n < n0 + N; n += PANEL) {
        int64_t panel_N = puna_min(PANEL, n0 + N - n);
        const char *w = (const char *)c->w[p] + n * row_bytes;
        for (int64_t r = 0; r < rows; r += ROW_BLOCK) {
            panel_job j = {.x_stride = c->x_stride, .rows = puna_min(ROW_BLOCK, rows - r), .y_stride = product->y_stride};
            j.y = c->y[p] + (r0 + r) * product->y_stride + n;
            j.columns = panel_N;
            j.accumulate = product->accumulate;
            j.row_bytes = row_bytes;
            for (int64_t k = 0, depth; k < c->K; k += depth) {
                depth = c->K <= MOST_DEPTH ? c->K : puna_min(DEPTH, c->K - k);
                bool whole = depth == c->K; /* decoded once for all rows                                            */
                if (r == 0 || !whole) decode_panel(panel, w, row_bytes, product->w_dtype, k, depth, panel_N);
                j.first = k == 0;
                j.last = k + depth == c->K;
                j.next = r > 0 && whole ? NULL : j.last ? w + PANEL * row_bytes : w + puna_row_bytes(product->w_dtype, k + depth);
                j.next_bytes = puna_row_bytes(product->w_dtype, depth);
                j.x = x + r * c->x_stride + k;
                multiply_panel(&j, sums, panel, depth);
            }
        }
    }
}

/* Cycles, roughly, for one row of w: reading and decoding it, and multiplying it with every row of x. */
static double row_cycles(int64_t rows, int64_t K) { return (double)K * (0.5 + (double)rows / (2 * VEC_WIDTH)); }

#if defined(PUNA_VARIANT_AVX512)
enum { LEAST_TILED_K = 1024 };
_Static_assert(sizeof(tile_space) >= THREAD_BYTES, "vectors multiply block types beside tiles");

static void run_share(void *arguments, int64_t share, int32_t thread);

static double tile_row_cycles(int64_t rows, int64_t K) { return (double)K * (0.6 + (double)rows / 50); }

/*
 * Whether tiles, with such pairs, multiply any of the products. It is a matter of K alone, so that one row is multiplied as many are:
 * where rows of w are short, one row of x at a time would be a third slower with tiles.
 */
static bool uses_tiles(const puna_context *context, const puna_matmul_product *products, int32_t count, int64_t K,
                       bool neighbours) {
    bool any = false;
    for (int32_t p = 0; p < count; p++)
        any |= is_plain(products[p].w_dtype) && pairs_neighbours(products[p].w_dtype) == neighbours;
    return any && K >= LEAST_TILED_K && context->isa == PUNA_ISA_AMX;
}

static int64_t x_tiles_bytes(int64_t rows, int64_t K) {
    const int64_t steps = puna_ceil_div(K, STEP), side = puna_min(rows, SIDE);
    return puna_ceil_div(rows, SIDE) * steps * PIECES * SIDE * side * 4;
}

static void pack_x_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const call *c = arguments;
    const int64_t r = share * SIDE;
    for (int neighbours = 0; neighbours < 2; neighbours++)
        if (c->x_tiles[neighbours] != NULL)
            pack_x(neighbours, c->x_tiles[neighbours] + share * x_tiles_bytes(SIDE, c->K), c->x + r * c->x_stride, c->x_stride,
                   puna_min(SIDE, c->rows - r), (int)puna_min(SIDE, c->rows), c->K);
}

static void tile_share(const call *c, product_share s, tile_space *space) {
    const puna_matmul_product *product = &c->products[s.p];
    const int32_t dtype = product->w_dtype;
    const int64_t row_bytes = puna_row_bytes(dtype, c->K);
    const char *w = (const char *)c->w[s.p] + s.n * row_bytes;
    const char *x = c->x_tiles[pairs_neighbours(dtype)] + s.r / SIDE * x_tiles_bytes(SIDE, c->K);
    float *y = c->y[s.p] + s.r * product->y_stride + s.n;
    load_shapes((int)puna_min(SIDE, c->rows));
#define TILE_ARGUMENTS y, product->y_stride, w, row_bytes, x, (int)s.rows, c->K, s.N, product->accumulate, space
    if (c->rows <= SIDE) FOR_PLAIN_DTYPE(dtype, few_rows, TILE_ARGUMENTS)
    else FOR_PLAIN_DTYPE(dtype, tiled_rows, TILE_ARGUMENTS)
    _tile_release();
}

/* As matmul_forward, where tiles multiply some of the products: MOST_TILED_ROWS of x after another. */
static void run_tiles(puna_context *context, const call *all, int32_t count) {
    call c = *all;
    c.thread_bytes = sizeof(tile_space);
    float *y[PUNA_MATMUL_MAX_PRODUCTS];
    c.y = y;
    for (int neighbours = 0; neighbours < 2; neighbours++)
        if (uses_tiles(context, c.products, count, c.K, neighbours)) {
            c.x_tiles[neighbours] = c.workspace;
            c.workspace += x_tiles_bytes(puna_min(all->rows, MOST_TILED_ROWS), c.K);
        }
    for (int64_t r = 0; r < all->rows; r += MOST_TILED_ROWS) {
        c.rows = puna_min(MOST_TILED_ROWS, all->rows - r);
        c.x = all->x + r * all->x_stride;
        for (int32_t p = 0; p < count; p++) y[p] = all->y[p] + r * c.products[p].y_stride;
        puna_parallel(context, puna_ceil_div(c.rows, SIDE), pack_x_share, &c);
        c.shares = share_products(context, c.products, count, c.rows, tile_row_cycles(c.rows, c.K), PANEL_ROWS, 2 * SIDE);
        run_product_shares(context, &c.shares, count, run_share, &c);
    }
}
#endif

/* Decoding again for every four rows of x costs less than a panel, up to here. */
static bool is_direct(int32_t dtype, int64_t rows) { return rows <= (is_plain(dtype) ? PLAIN_DIRECT : BLOCK_DIRECT); }

static void run_share(void *arguments, int64_t share, int32_t thread) {
    const call *c = arguments;
    product_share s = find_share(&c->shares, c->products, c->rows, share);
    const puna_matmul_product *product = &c->products[s.p];
#if defined(PUNA_VARIANT_AVX512)
    if (is_plain(product->w_dtype) && c->x_tiles[pairs_neighbours(product->w_dtype)] != NULL) {
        tile_share(c, s, (tile_space *)(c->workspace + thread * c->thread_bytes));
        return;
    }
#endif
    if (is_direct(product->w_dtype, c->rows)) {
        int64_t row_bytes = puna_row_bytes(product->w_dtype, c->K);
        FOR_DTYPE(product->w_dtype, direct_rows, c->y[s.p] + s.n, product->y_stride, (const char *)c->w[s.p] + s.n * row_bytes,
                  row_bytes, c->x, c->x_stride, c->rows, c->K, s.N, product->accumulate)
    } else {
        many_rows(c, s.p, s.n, s.N, s.r, s.rows, (float *)(c->workspace + thread * c->thread_bytes));
    }
}

int64_t PUNA_KERNEL(matmul_workspace_size)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                           int64_t rows, int64_t K) {
#if defined(PUNA_VARIANT_AVX512)
    const int tiled = uses_tiles(context, products, count, K, false) + uses_tiles(context, products, count, K, true);
    if (tiled > 0)
        return 63 + tiled * x_tiles_bytes(puna_min(rows, MOST_TILED_ROWS), K) + context->threads * (int64_t)sizeof(tile_space);
#endif
    (void)products, (void)count, (void)K;
    return rows <= BLOCK_DIRECT ? 0 : context->threads * (int64_t)THREAD_BYTES + 63;
}

puna_status PUNA_KERNEL(matmul_forward)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                        float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                        int64_t rows, int64_t K, void *workspace) {
    call c = {.products = products, .y = y, .w = w, .x = x, .x_stride = x_stride, .rows = rows, .K = K};
    c.thread_bytes = THREAD_BYTES;
    c.workspace = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
#if defined(PUNA_VARIANT_AVX512)
    if (uses_tiles(context, products, count, K, false) || uses_tiles(context, products, count, K, true)) {
        run_tiles(context, &c, count);
        return PUNA_STATUS_OK;
    }
#endif
    c.shares = share_products(context, products, count, rows, row_cycles(rows, K), rows <= PLAIN_DIRECT ? DIRECT_PANEL : PANEL,
                              TILE_ROWS);
    run_product_shares(context, &c.shares, count, run_share, &c);
    return PUNA_STATUS_OK;
}
