/*
 * Matrix product of F32 activations with weights of any type.
 *
 * ORDER OF SUMMATION, the same for one row and for many, for every tile and every thread. K is cut into stretches. In each, lane j
 * of one accumulator sums x[k] * w[k] over k = j, j + VEC_WIDTH, … with fused multiply-adds (the baseline of x86-64 rounds the
 * product), and the lanes are added by vec_hsum; the sums of the stretches are added to y one after another. So a row's bits depend
 * on its own x and w alone.
 *
 * FEW ROWS (a token of each sequence) are bound by reading w: its rows are taken several at a time, so that many accumulators
 * hide the latency of the multiply-add, and decoded in registers. Rows of F32, F16 or BF16 are so cheap to decode again for
 * every four rows of x that this serves whole batches.
 *
 * ON AMX plain types are multiplied by tiles (plain_tiles.h), one row and many alike, in an order of their own, unless K is small.
 *
 * MANY ROWS (prompts) are bound by arithmetic: a panel of w, some rows over one stretch, is decoded and packed in the order of the
 * tiles into the thread's workspace, where it stays in the second-level cache while all rows of x in the share meet it.
 *
 * WHAT WAS TRIED. Many rows, until stretches were summed by themselves: panels of 24 rows of w, DEPTH deep, met ROW_BLOCK rows of x,
 * and accumulators waited in the workspace for the next depth. One thread of a Zen 4 at 118 GFLOP/s (AVX2) and 20 GB/s, busy with
 * other work, N = 5632, K = 2048:
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
 *   layout   many rows of AVX-512 in lanes that are four rows of w by four elements, with that DEPTH 1024 (a Zen 5): 128 rows 14 to
 *            20 % and 512 rows 22 to 30 % faster; but one row in that order 6 to 10 % and 4 to 16 rows 5 to 20 % slower, and AVX2 no
 *            faster: not kept. In lanes that are 16 rows of w, one after another in k: one row of F32 as fast, of F16 a fifth slower
 *            (16 rows whose stride is a power of two may not fit the ways of a first-level cache), four rows half as fast: not kept
 *   stretch  accumulators added up after a stretch, not stored and loaded again; panels of 96 rows, packed (a Zen 5, two threads, old
 *            and new by turns): AVX-512, 512 rows, K of 2048 and 5632, F16, 9 to 18 % faster, 128 rows 5 to 10 %, K of 288 and 768 7 to
 *            11 %; AVX2 512 rows 1 to 3 %, 128 rows alike. One row 0 to 10 % faster with AVX-512, alike with AVX2; 4 rows slower alone,
 *            11 to 14 and 5 %, and alike in a whole model. STRETCH 512: 4 to 32 rows 10 % slower with AVX2; with AVX-512 128 and 512
 *            rows 1 to 2 %. x packed as well, and rows of x outermost, so that w is packed again for each 126: slower
 *   direct   up to 64 rows, not 32: 36 to 64 rows of F16 and BF16 10 to 20 % faster than panels, of F32 0 to 10 %; 96 rows alike.
 *            Slower than the old panels: 65 to 127 rows of F32 with AVX2 (5 to 15 %), 4 to 16 rows of Q8_0 (up to 30 %)
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
 * PANEL: rows of w, over the longest stretch, that are packed together; they take less than half of a second-level cache.
 */
#if defined(PUNA_VARIANT_AVX512)
enum { TILE_ROWS = 6, TILE_N = 4, PANEL = 96 };
#else
enum { TILE_ROWS = 4, TILE_N = 3, PANEL = 48 };
#endif

enum {
    ACCUMULATORS = TILE_ROWS * TILE_N,
    STRETCH = 1024,      /* the longest; TILE_ROWS rows of x over it leave room in a first-level cache              */
    LARGEST_BLOCK = 256, /* elements of a block of any type                                                         */
    ONE_ROW_GROUP = 6, /* rows of w read side by side for one row of x                                              */
    PLAIN_DIRECT = 64, /* rows of x up to which w is decoded in registers: plain types,                             */
    BLOCK_DIRECT = TILE_ROWS, /* block types                                                                        */
    DIRECT_PANEL = 12, /* rows of w that all rows of x meet then before the next: a multiple of every tile's width  */
    SHARE_UNIT = 24,   /* rows of w of a share that are packed, a multiple as well                                  */
    PANEL_BYTES = PANEL * STRETCH * 4
};
_Static_assert((int)PLAIN_DIRECT <= (int)SMALLEST_ROW_SHARE, "a share decoded in registers has all rows of x");

/* The stretches of K are as equal as the largest block allows; the last is what is left. */
static int64_t stretch_of(int64_t K) {
    return puna_ceil_div(puna_ceil_div(K, puna_ceil_div(K, STRETCH)), LARGEST_BLOCK) * LARGEST_BLOCK;
}

static int64_t padded(int64_t depth) { return puna_ceil_div(depth, VEC_WIDTH) * VEC_WIDTH; }

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
PUNA_INLINE void store_sums(const int R, const int N, float *y, int64_t y_stride, const vec *acc, int64_t columns,
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
 * y[r, g] (= or +=) x[r] . w[g] over the stretch [start, end) of K, for R rows of x and the first N <= G of G rows of w; the others
 * repeat the last. fetch: the next G rows are fetched ahead. They begin on pages that no hardware prefetcher looks at yet, and
 * finding a page takes longer than a row lasts, so each page is touched far before.
 */
PUNA_INLINE void direct_tile(int32_t dtype, const int R, const int G, float *y, int64_t y_stride, const char *w,
                             int64_t row_bytes, const float *x, int64_t x_stride, int64_t start, int64_t end, int64_t N,
                             bool accumulate, bool fetch) {
    const void *w_g[12];
    vec acc[ACCUMULATORS];
    for (int g = 0; g < G; g++) w_g[g] = w + puna_min(g, N - 1) * row_bytes;
    for (int i = 0; i < R * G; i++) acc[i] = vec_zero();
    if (is_plain(dtype)) {
        int64_t k = start;
        const int64_t size = dtype == PUNA_DTYPE_F32 ? 4 : 2;
        for (; k + VEC_WIDTH <= end; k += VEC_WIDTH) {
            if (fetch && k * size % 64 == 0) {
                const char *at = w + k * size;
                for (int g = 0; g < G; g++) __builtin_prefetch(at + (puna_min(g, N - 1) + G) * row_bytes, 0, 2);
                if (k * size % 4096 == 0)
                    for (int g = 0; g < G; g++) __builtin_prefetch(at + (puna_min(g, N - 1) + DIRECT_PANEL) * row_bytes, 0, 2);
            }
            multiply_step(dtype, R, G, acc, x + k, x_stride, w_g, k);
        }
        if (k < end) { /* tail of the summed dimension */
            for (int g = 0; g < G; g++) {
                vec w_k = plain_vec_partial(dtype, w_g[g], k, end - k);
                for (int r = 0; r < R; r++)
                    acc[r * G + g] = vec_fma(vec_load_partial(x + r * x_stride + k, end - k), w_k, acc[r * G + g]);
            }
        }
    } else {
        int64_t elements = block_elements(dtype), chunk = elements_per_scale(dtype);
        unpacked u[12];
        for (int64_t block = start / elements; block < end / elements; block++) {
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
        for (int64_t k = 0; k < K; k += stretch)                                                                              \
            direct_tile(dtype, R, G, y + r * y_stride + n + g, y_stride, w + (n + g) * row_bytes, row_bytes, x + r * x_stride,\
                        x_stride, k, puna_min(k + stretch, K), some_N - g, accumulate || k > 0, r == 0);

/* A dozen rows of w at a time, which stay in the cache for all rows of x. */
PUNA_INLINE void direct_rows(int32_t dtype, float *y, int64_t y_stride, const char *w, int64_t row_bytes, const float *x,
                             int64_t x_stride, int64_t rows, int64_t K, int64_t N, bool accumulate) {
    const int64_t stretch = stretch_of(K);
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

/* to (N / TILE_N, depth / VEC_WIDTH, TILE_N, VEC_WIDTH) = w[:N, k : k + depth] decoded; rows from N on repeat the last. */
PUNA_INLINE void pack_panel(int32_t dtype, float *to, const char *w, int64_t row_bytes, int64_t k, int64_t depth, int64_t N) {
    for (int64_t n0 = 0; n0 < N; n0 += TILE_N, to += TILE_N * padded(depth))
        for (int64_t n = n0; n < n0 + TILE_N; n++) {
            const char *row = w + puna_min(n, N - 1) * row_bytes;
            float *place = to + (n - n0) * VEC_WIDTH;
            int64_t i = k;
            if (is_plain(dtype)) {
                for (; i + VEC_WIDTH <= k + depth; i += VEC_WIDTH, place += TILE_N * VEC_WIDTH)
                    vec_store(place, plain_vec(dtype, row, i));
                if (i < k + depth) vec_store(place, plain_vec_partial(dtype, row, i, k + depth - i));
            } else {
                for (const int64_t elements = block_elements(dtype); i < k + depth; i += elements) {
                    unpacked u;
                    unpack(dtype, row, i / elements, &u);
                    for (int64_t j = 0; j < elements; j += VEC_WIDTH, place += TILE_N * VEC_WIDTH)
                        vec_store(place, unpacked_vec(dtype, &u, j));
                }
            }
        }
}

/* What is packed next: so many bytes of each of N rows. */
typedef struct next_panel {
    const char *w;
    int64_t bytes, row_bytes, N;
} next_panel;

/*
 * Fetches rows [n, end) of what is packed next. It lies far off, where no hardware prefetcher looks, and called in one go it would be
 * waited for: so by and by, between the tiles. Inlined, because GCC drops calls of a function that only fetches.
 */
PUNA_INLINE void fetch_rows(next_panel next, int64_t n, int64_t end) {
    for (; n < end; n++)
        for (int64_t i = 0; i < next.bytes; i += 64) __builtin_prefetch(next.w + n * next.row_bytes + i, 0, 2);
}

/*
 * y[r, n] (= or +=) x[r] . w[n] over one stretch, for R rows of x and the first columns of a group of packed w. Row ahead of x is
 * fetched for the tiles that follow.
 */
PUNA_INLINE void tile(const int R, float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t ahead, const float *w,
                      int64_t depth, int64_t columns, bool accumulate) {
    vec acc[ACCUMULATORS];
    for (int r = 0; r < R; r++)
        for (int n = 0; n < TILE_N; n++) acc[r * TILE_N + n] = vec_zero();
    const void *w_n[12];
    for (int n = 0; n < TILE_N; n++) w_n[n] = w + n * VEC_WIDTH;
    int64_t k = 0;
    for (; k + VEC_WIDTH <= depth; k += VEC_WIDTH) {
        __builtin_prefetch(x + ahead * x_stride + k);
        multiply_step(PUNA_DTYPE_F32, R, TILE_N, acc, x + k, x_stride, w_n, k * TILE_N);
    }
    if (k < depth) { /* tail of the summed dimension */
        for (int r = 0; r < R; r++) {
            vec x_k = vec_load_partial(x + r * x_stride + k, depth - k);
            for (int n = 0; n < TILE_N; n++)
                acc[r * TILE_N + n] = vec_fma(x_k, vec_load(w + k * TILE_N + n * VEC_WIDTH), acc[r * TILE_N + n]);
        }
    }
    store_sums(R, TILE_N, y, y_stride, acc, columns, accumulate);
}

/* R rows of x against the N rows of a panel; of the R rows that follow, one is fetched beside each group of w. */
#define PANEL_TILES(R)                                                                                                        \
    for (int64_t n = 0, g = 0; n < N; n += TILE_N, g = g + 1 < R ? g + 1 : 0)                                                 \
        tile(R, y + n, y_stride, x, x_stride, R + g, panel + n * padded(depth), depth, N - n, accumulate);

static void multiply_panel(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows, const float *panel,
                           int64_t depth, int64_t N, bool accumulate, next_panel next) {
    const int64_t all = rows;
    for (; rows >= TILE_ROWS; rows -= TILE_ROWS, y += TILE_ROWS * y_stride, x += TILE_ROWS * x_stride) {
        PANEL_TILES(TILE_ROWS)
        fetch_rows(next, next.N * (all - rows) / all, next.N * (all - rows + TILE_ROWS) / all);
    }
    switch (rows) {
#if defined(PUNA_VARIANT_AVX512)
    case 5: PANEL_TILES(5) break;
    case 4: PANEL_TILES(4) break;
#endif
    case 3: PANEL_TILES(3) break;
    case 2: PANEL_TILES(2) break;
    case 1: PANEL_TILES(1) break;
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

/* A function for each type: all of them within run_share leave GCC short of registers, and few rows are a tenth slower. */
#define DIRECT_ROWS(dtype)                                                                                                    \
    static PUNA_NOINLINE void direct_rows_##dtype(const call *c, product_share s) {                                           \
        const puna_matmul_product *product = &c->products[s.p];                                                               \
        const int64_t row_bytes = puna_row_bytes(PUNA_DTYPE_##dtype, c->K);                                                   \
        direct_rows(PUNA_DTYPE_##dtype, c->y[s.p] + s.n, product->y_stride, (const char *)c->w[s.p] + s.n * row_bytes,        \
                    row_bytes, c->x, c->x_stride, c->rows, c->K, s.N, product->accumulate);                                   \
    }
DIRECT_ROWS(F32)
DIRECT_ROWS(F16)
DIRECT_ROWS(BF16)
DIRECT_ROWS(Q8_0)
DIRECT_ROWS(Q4_0)
DIRECT_ROWS(Q4_K)
DIRECT_ROWS(Q6_K)

static void (*const direct_rows_of[])(const call *c, product_share s) = {
    [PUNA_DTYPE_F32] = direct_rows_F32,   [PUNA_DTYPE_F16] = direct_rows_F16,   [PUNA_DTYPE_BF16] = direct_rows_BF16,
    [PUNA_DTYPE_Q8_0] = direct_rows_Q8_0, [PUNA_DTYPE_Q4_0] = direct_rows_Q4_0, [PUNA_DTYPE_Q4_K] = direct_rows_Q4_K,
    [PUNA_DTYPE_Q6_K] = direct_rows_Q6_K,
};

/* A share's rows of w, a panel after another, each a stretch after another, with its rows of x. */
static void many_rows(const call *c, product_share s, float *panel) {
    const puna_matmul_product *product = &c->products[s.p];
    const int32_t dtype = product->w_dtype;
    const int64_t row_bytes = puna_row_bytes(dtype, c->K), stretch = puna_min(stretch_of(c->K), c->K);
    const int64_t panels = puna_ceil_div(s.N, PANEL_BYTES / 4 / padded(stretch) / TILE_N * TILE_N);
    const int64_t panel_N = puna_ceil_div(puna_ceil_div(s.N, panels), TILE_N) * TILE_N;
    for (int64_t n = 0; n < s.N; n += panel_N) {
        const char *w = (const char *)c->w[s.p] + (s.n + n) * row_bytes;
        const int64_t columns = puna_min(panel_N, s.N - n);
        float *y = c->y[s.p] + s.r * product->y_stride + s.n + n;
        for (int64_t k = 0; k < c->K; k += stretch) {
            const int64_t depth = puna_min(stretch, c->K - k), after = puna_min(stretch, c->K - k - depth);
            FOR_DTYPE(dtype, pack_panel, panel, w, row_bytes, k, depth, columns)
            next_panel next = {w + puna_row_bytes(dtype, k + depth), puna_row_bytes(dtype, after), row_bytes, columns};
            if (after == 0) next.w = w + columns * row_bytes, next.bytes = puna_row_bytes(dtype, stretch);
            multiply_panel(y, product->y_stride, c->x + s.r * c->x_stride + k, c->x_stride, s.rows, panel, depth, columns,
                           product->accumulate || k > 0, next);
        }
    }
}

/* Cycles, roughly, for one row of w: reading and decoding it, and multiplying it with every row of x. */
static double row_cycles(int64_t rows, int64_t K) { return (double)K * (0.5 + (double)rows / (2 * VEC_WIDTH)); }

#if defined(PUNA_VARIANT_AVX512)
enum {
    LEAST_TILED_K = 1024,
    TILE_THREAD_BYTES = sizeof(tile_space) > PANEL_BYTES ? sizeof(tile_space) : PANEL_BYTES /* vectors multiply block types */
};

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
    c.thread_bytes = TILE_THREAD_BYTES;
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

/* Decoding again for every few rows of x costs less than a panel, up to here. */
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
    if (is_direct(product->w_dtype, c->rows)) direct_rows_of[product->w_dtype](c, s);
    else many_rows(c, s, (float *)(c->workspace + thread * c->thread_bytes));
}

int64_t PUNA_KERNEL(matmul_workspace_size)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                           int64_t rows, int64_t K) {
#if defined(PUNA_VARIANT_AVX512)
    const int tiled = uses_tiles(context, products, count, K, false) + uses_tiles(context, products, count, K, true);
    if (tiled > 0)
        return 63 + tiled * x_tiles_bytes(puna_min(rows, MOST_TILED_ROWS), K) + context->threads * (int64_t)TILE_THREAD_BYTES;
#endif
    (void)products, (void)count, (void)K;
    return rows <= BLOCK_DIRECT ? 0 : context->threads * (int64_t)PANEL_BYTES + 63;
}

puna_status PUNA_KERNEL(matmul_forward)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                        float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                        int64_t rows, int64_t K, void *workspace) {
    call c = {.products = products, .y = y, .w = w, .x = x, .x_stride = x_stride, .rows = rows, .K = K};
    c.thread_bytes = PANEL_BYTES;
    c.workspace = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
#if defined(PUNA_VARIANT_AVX512)
    if (uses_tiles(context, products, count, K, false) || uses_tiles(context, products, count, K, true)) {
        run_tiles(context, &c, count);
        return PUNA_STATUS_OK;
    }
#endif
    c.shares = share_products(context, products, count, rows, row_cycles(rows, K), rows <= PLAIN_DIRECT ? DIRECT_PANEL : SHARE_UNIT,
                              TILE_ROWS);
    run_product_shares(context, &c.shares, count, run_share, &c);
    return PUNA_STATUS_OK;
}
