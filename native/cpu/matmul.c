/*
 * Matrix product of F32 activations with weights of any type.
 *
 * ORDER OF SUMMATION, the same for one row and for many, for every tile and every thread. K is cut into stretches. In each, lane j
 * of one accumulator sums x[k] * w[k] over k = j, j + VEC_WIDTH, … with fused multiply-adds (the baseline of x86-64 rounds the
 * product), and the lanes are added by vec_hsum; the sums of the stretches are added to y one after another. So a row's bits depend
 * on its own x and w alone. In BF16 (lanes.h) a pair of elements stands for each.
 *
 * FEW ROWS (a token of each sequence) are bound by reading w, whose rows are decoded in registers: for one row of x as few side by side
 * as keep up with memory, for more several, so that many accumulators hide the latency of the multiply-add. Rows of F32, F16 or BF16
 * are so cheap to decode again for every few rows of x that this serves whole batches.
 *
 * ON AMX plain types are multiplied by tiles (plain_tiles.h), one row and many alike, in an order of their own, unless K is small.
 *
 * MANY ROWS (prompts, batches of training) are bound by arithmetic: x is packed once, and a panel of w, some rows over one stretch,
 * is decoded and packed into the thread's workspace, where it stays in the second-level cache while all rows of x in the share meet
 * it. Lanes of the register tile (gemm.h) are rows of w there, so it loads three vectors and eight numbers for 24 multiply-adds where
 * lanes along K load ten vectors; what vec_hsum's lanes would hold is summed after one another, in vec_hsum's order.
 *
 * WHAT WAS TRIED. Few rows, one thread of a Zen 4 at 118 GFLOP/s (AVX2) and 20 GB/s, busy with other work, N = 5632, K = 2048:
 *   1 row    F32 2.2 ms (21 GB/s), F16 1.2 ms (19), Q8_0 1.4 ms (8.8), Q4_0 and Q4_K 1.45 ms (4.5), Q6_K 1.9 ms (5)
 *            8 rows of w at a time, added up together: as 6 for K of 64, 288 and 2048. Q4_0 unpacked by a loop over 16 bytes:
 *            7.4 ms, GCC unrolls it into scalars
 *   2 rows   through panels F16 3.1 ms, in registers 1.5 ms; Q8_0 3.4 and 1.8 ms
 *   AVX-512  Q8_0 of 2 rows 1.4 ms. Tiles of 6 x 4 in place of 4 x 3: 24 rows of F32 as before, 48 a twelfth faster, F16 and BF16 a
 *            tenth (a busy Granite Rapids)
 *   sums     added up eight at a time: 16 rows a sixth slower with AVX2, no faster with AVX-512
 *   order    6 rows of w side by side, lines called for from the next 6, then as one_row_group says, called for in the order they lie
 *            in (two threads of a Zen 5 in turn, weights of 2 GB; reads between 40 and 75 GB/s): F32 45 to 54 GB/s with AVX-512, 48 to 59
 *            with AVX2; F16, K of 2048, 61 to 69, K of 5632 57 to 58, with AVX2 as before. 1.1B from a file, tokens/s: F16 15 to 18,
 *            F32 8.3 to 9.7. One row alone: F16 of 4096 bytes a tenth slower, with AVX2 half as fast, as each sum waits for the one before.
 *            Q8_0 one row alone 21 to 39 and 12 to 20, other block types slower. Two rows of x and more: as before, or slower
 *   groups   two to four rows of x with four rows of w, not six (a Zen 5, AVX-512): 4096 bytes apart 6 to 17 % faster, as six do not
 *            fit the ways of a first-level cache, 11264 apart as before, three rows a tenth slower. 1.1B F16, 2, 3, 4 sequences: 29
 *            to 32, 43 to 48, 58 to 63 tokens/s. Eight rows of x with three of w: in pairs 8 rows a fifth to a third faster, 16 2 to
 *            5 %, but F16 and BF16 that are not in pairs a tenth to a sixth slower
 *   layout   lanes that are four rows of w by four elements (a Zen 5): one row 6 to 10 % slower; 16 rows of w, one after another in
 *            k: F16 a fifth slower (16 rows whose stride is a power of two may not fit the ways of a first-level cache), four rows
 *            half as fast
 *   3 products of (64, 64) and one row, two threads: 1.2 us shared out, 0.75 on the caller
 * Many rows, two threads of a Zen 5 at 528 GFLOP/s, AVX-512, with lanes along K and then as above, old and new by turns, medians:
 *   rows x N x K        F32 512 x 5632 x 2048  430 to 460    512 x 768 x 288  382 to 414    1024 x 32000 x 288  431 to 449
 *                       F16 128 x 5632 x 2048  397 to 433    F32 72 and 96  340 to 365, 358 to 383    Q4_0 128  431 to 450
 *            AVX2, 266 GFLOP/s: 249 to 247, 246 to 244, F16 128 rows 237 to 237. The register tile alone: 0.94 (K of 288) to 0.97 of
 *            the ceiling, with x where it lies 0.87 to 0.92
 *   BF16     pairs that are rounded, in turn with the same context in F32, F32, F16 and BF16 weights, N 5632, K 2048: 16 rows 195 to 250,
 *            297 to 369, 302 to 375; 128 rows 390 to 684, 416 to 764, 408 to 758; 512 rows 452 to 883, 441 to 883, 441 to 888; 1 row
 *            as fast, F16 and BF16 of four rows 2 to 4 % slower
 *   stride   lanes of a packed tile 12,288 bytes apart: 128 rows of F16 4 % slower, as stores meet in one set of the first-level cache
 *   shares   8 for each thread, not 16: 2 to 4 % slower, as they come out uneven
 *   w        fetched a row at a time between the tiles, not a panel at once: a tenth faster (a Granite Rapids)
 */
#include "gemm.h"
#include "kernels.h"
#include "lanes.h"
#if defined(PUNA_VARIANT_AVX512)
#include "plain_tiles.h"
#endif
#include "products.h"

/* Decoded in registers, a tile of R rows of x and N of w has R * N accumulators, which fill the registers with its other vectors. */
#if defined(PUNA_VARIANT_AVX512)
enum { MOST_X = 6, ACCUMULATORS = 24, F32_DIRECT = 20, PANEL = 96 };
#else
enum { MOST_X = 4, ACCUMULATORS = 12, F32_DIRECT = 64, PANEL = 48 };
#endif

enum {
    STRETCH = 1024,         /* the longest, in lanes                                                                */
    LARGEST_BLOCK = 256,    /* elements of a block of any type                                                      */
    LONG_ROW = 8192,        /* bytes of a row of w that is read alone                                               */
    ROW_AHEAD = 16384,      /* bytes from where w is read for one row of x to where it is fetched, at least,        */
    PAGE_AHEAD = 32768,     /* and from there to where pages are looked up                                          */
    HALF_DIRECT = 64,       /* rows of x up to which w is decoded in registers: F16 and BF16, F32_DIRECT of F32,    */
    BLOCK_DIRECT = MOST_X,  /* block types,                                                                         */
    PAIRS_DIRECT = 28,      /* and plain ones in pairs                                                              */
    DIRECT_UNIT = 12,       /* rows of w that all rows of x meet then before the next: a multiple of every tile's   */
    PACKED_UNIT = 48,       /* rows of w of a share that are packed: a multiple of every TILE_COLUMNS               */
    MOST_PACKED_ROWS = 512, /* rows of x that are packed at once                                                    */
    PACK_ROWS = 24,         /* of them by one share: a multiple of every TILE_ROWS                                  */
    LEVELS = VEC_WIDTH == 16 ? 4 : VEC_WIDTH == 8 ? 3 : 2, /* of vec_hsum's tree                                  */
    LANE_GAP = 16,          /* floats between the lanes of packed w: stores that are a multiple of 4096 bytes apart meet */
    PANEL_BYTES = PANEL * (STRETCH + LANE_GAP) * 4 /* less than half of a second-level cache                         */
};
_Static_assert((int)HALF_DIRECT <= (int)SMALLEST_ROW_SHARE, "a share decoded in registers has all rows of x");

/* The stretches of K are as equal as the largest block allows; the last is what is left. */
PUNA_INLINE int64_t stretch_of(const int each, int64_t K) {
    return puna_ceil_div(puna_ceil_div(K, puna_ceil_div(K, each * STRETCH)), each * LARGEST_BLOCK) * each * LARGEST_BLOCK;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Few rows: decoded in registers
 * ------------------------------------------------------------------------------------------------------------------ */

/* acc[r, n] += x[r] * w[n][k], lane by lane, for R rows of x and N of w. Of a tile's R + N vectors the fewer stay in registers. */
PUNA_INLINE void multiply_step(int32_t dtype, const int each, const int R, const int N, vec acc[ACCUMULATORS], const float *x,
                               int64_t x_stride, const void *const w[12], int64_t k) {
    if (R < N) {
        vec x_k[MOST_X];
        for (int r = 0; r < R; r++) x_k[r] = vec_keep(vec_load(x + r * x_stride));
        for (int n = 0; n < N; n++) {
            vec w_k = vec_keep(plain_lanes(dtype, each, w[n], k));
            for (int r = 0; r < R; r++) acc[r * N + n] = multiply_add(each, x_k[r], w_k, acc[r * N + n]);
        }
    } else {
        vec w_k[4];
        for (int n = 0; n < N; n++) w_k[n] = vec_keep(plain_lanes(dtype, each, w[n], k));
        for (int r = 0; r < R; r++) {
            vec x_k = vec_keep(vec_load(x + r * x_stride));
            for (int n = 0; n < N; n++) acc[r * N + n] = multiply_add(each, x_k, w_k[n], acc[r * N + n]);
        }
    }
}

/*
 * y[r, g] (= or +=) x[r] . w[g] over the stretch [start, end) of K, for R rows of x, which lie in lanes already, and the first N <= G
 * of G rows of w; the others repeat the last. fetch: what follows is fetched ahead, for one row of x in the order it lies in, else
 * from the next G rows at once. It begins on pages that no hardware prefetcher looks at yet, and finding a page takes longer than a
 * row lasts, so each page is touched far before.
 */
PUNA_INLINE void direct_tile(int32_t dtype, const int each, const int R, const int G, float *y, int64_t y_stride, const char *w,
                             int64_t row_bytes, const float *x, int64_t x_stride, int64_t start, int64_t end, int64_t N,
                             bool accumulate, bool fetch) {
    const void *w_g[12];
    vec acc[ACCUMULATORS];
    for (int g = 0; g < G; g++) w_g[g] = w + puna_min(g, N - 1) * row_bytes;
    for (int i = 0; i < R * G; i++) acc[i] = vec_zero();
    if (is_plain(dtype)) {
        int64_t k = start;
        const int64_t size = dtype == PUNA_DTYPE_F32 ? 4 : 2, step = each * VEC_WIDTH, lines = puna_ceil_div(step * size, 64);
        for (; k + step <= end; k += step) {
            if (fetch && R == 1 && k * size % 64 == 0) {
                const char *ahead = w + G * k * size + puna_max(G * row_bytes, ROW_AHEAD);
                for (int i = 0; i < G * lines; i++) __builtin_prefetch(ahead + 64 * i, 0, 2);
                if (G * k * size % 4096 < 64 * G * lines) __builtin_prefetch(ahead + PAGE_AHEAD, 0, 2);
            } else if (fetch && k * size % 64 == 0) {
                const char *at = w + k * size;
                for (int g = 0; g < G; g++)
                    for (int i = 0; i < lines; i++) __builtin_prefetch(at + (puna_min(g, N - 1) + G) * row_bytes + 64 * i, 0, 2);
                if (k * size % 4096 == 0)
                    for (int g = 0; g < G; g++) __builtin_prefetch(at + (puna_min(g, N - 1) + DIRECT_UNIT) * row_bytes, 0, 2);
            }
            multiply_step(dtype, each, R, G, acc, x + k / each, x_stride, w_g, k);
        }
        if (k < end) { /* tail of the summed dimension */
            for (int g = 0; g < G; g++) {
                vec w_k = plain_lanes_until(dtype, each, w_g[g], k, end);
                for (int r = 0; r < R; r++)
                    acc[r * G + g] = multiply_add(each, vec_load_partial(x + r * x_stride + k / each, puna_ceil_div(end - k, each)),
                                                  w_k, acc[r * G + g]);
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
    for (int r = 0; r < R; r++)
        for (int g = 0; g < G && g < N; g++) {
            float sum = vec_hsum(acc[r * G + g]);
            y[r * y_stride + g] = accumulate ? y[r * y_stride + g] + sum : sum;
        }
}

/* R rows of x against N rows of w. */
#define DIRECT_TILES(R, G)                                                                                                    \
    for (int64_t g = 0; g < some_N; g += G)                                                                                   \
        for (int64_t k = 0; k < K; k += stretch)                                                                              \
            direct_tile(dtype, each, R, G, y + r * y_stride + n + g, y_stride, w + (n + g) * row_bytes, row_bytes, x + r * x_stride,\
                        x_stride, k, puna_min(k + stretch, K), some_N - g, accumulate || k > 0, r == 0);

/* Rows of w side by side for one row of x: as few as keep up with memory, which is read the faster the fewer they are. */
PUNA_INLINE int one_row_group(int32_t dtype, int64_t row_bytes) {
    if (!is_plain(dtype)) return dtype == PUNA_DTYPE_Q8_0 ? 1 : 6;
    if (VEC_WIDTH == 16) return row_bytes < LONG_ROW ? 2 : 1;
    return dtype == PUNA_DTYPE_F32 ? 2 : VEC_WIDTH == 8 ? 3 : 6;
}

/* A dozen rows of w at a time, which stay in the cache for all rows of x. */
PUNA_INLINE void direct_rows(int32_t dtype, const int each, float *y, int64_t y_stride, const char *w, int64_t row_bytes,
                             const float *x, int64_t x_stride, int64_t rows, int64_t K, int64_t N, bool accumulate) {
    const int64_t stretch = stretch_of(each, K);
    for (int64_t n = 0; n < N; n += DIRECT_UNIT) {
        int64_t some_N = puna_min(DIRECT_UNIT, N - n), r = 0;
#if defined(PUNA_VARIANT_AVX512)
        for (; r + 8 <= rows && each > 1; r += 8) DIRECT_TILES(8, 3)
        for (; r + 6 <= rows; r += 6) DIRECT_TILES(6, 4)
        switch (rows - r) {
        case 5: DIRECT_TILES(5, 4) break;
        case 4: DIRECT_TILES(4, 4) break;
        case 3: DIRECT_TILES(3, 4) break;
        case 2: DIRECT_TILES(2, 4) break;
#else
        for (; r + 4 <= rows; r += 4) DIRECT_TILES(4, 3)
        switch (rows - r) {
        case 3: DIRECT_TILES(3, 4) break;
        case 2: DIRECT_TILES(2, 6) break;
#endif
        case 1:
            switch (one_row_group(dtype, row_bytes)) {
            case 1: DIRECT_TILES(1, 1) break;
            case 2: DIRECT_TILES(1, 2) break;
            case 3: DIRECT_TILES(1, 3) break;
            default: DIRECT_TILES(1, 6) break;
            }
            break;
        default: break;
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Many rows
 * ------------------------------------------------------------------------------------------------------------------ */

/*
 * Both sides are packed by lanes: element k of a stretch, or pair k, is in lane k % VEC_WIDTH, at step k / VEC_WIDTH, the last step
 * filled up with zeros. Each of vec_hsum's lanes is so a product of its own, in register tiles whose lanes are rows of w, and its sums
 * wait in memory until vec_hsum's tree has the other half. Lanes are packed in the order in which that tree is climbed soonest, their
 * bits reversed.
 */
PUNA_INLINE int lane_place(int lane) {
    static const uint8_t reversed[16] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};
    return reversed[lane] / (16 / VEC_WIDTH);
}

/* Steps that a stretch of depth takes. */
PUNA_INLINE int64_t steps_of(const int each, int64_t depth) { return puna_ceil_div(depth, each * VEC_WIDTH); }

/* to (VEC_WIDTH lanes, steps, TILE_ROWS) = a[:rows, :depth] of a tile, zeros beyond. Several steps are turned over at once. */
PUNA_INLINE void pack_tile(const int each, float *to, const float *a, int64_t a_row, int64_t rows, int64_t depth) {
    enum { TOGETHER = VEC_WIDTH / TILE_ROWS };
    const int64_t steps = steps_of(each, depth);
    for (int64_t s = 0; s < steps; s += TOGETHER) {
        vec turned[VEC_WIDTH];
        for (int i = 0; i < VEC_WIDTH; i++) {
            const int r = i % TILE_ROWS, step = i / TILE_ROWS;
            const int64_t k = (s + step) * each * VEC_WIDTH;
            for (int e = 0; e < each; e++) __builtin_prefetch(a + (r + TILE_ROWS) * a_row + k + e * VEC_WIDTH);
            turned[i] = r < rows ? plain_lanes_until(PUNA_DTYPE_F32, each, a + r * a_row, k, depth) : vec_zero();
        }
        vec_transpose(turned);
        for (int lane = 0; lane < VEC_WIDTH; lane++) {
            float *place = to + (lane_place(lane) * steps + s) * TILE_ROWS;
            if (s + TOGETHER <= steps) vec_store(place, turned[lane]);
            else vec_store_partial(place, turned[lane], (steps - s) * TILE_ROWS);
        }
    }
}

PUNA_INLINE int64_t lane_stride(int64_t steps, int64_t width) { return steps * width + LANE_GAP; }

/* What a packed tile of w takes. */
PUNA_INLINE int64_t tile_floats(int64_t steps) { return VEC_WIDTH * lane_stride(steps, TILE_COLUMNS); }

/* to (N / TILE_COLUMNS, VEC_WIDTH lanes, steps, TILE_COLUMNS or as many vectors as the last tile has) = w[:N, k : k + depth]. */
PUNA_INLINE void pack_panel(int32_t dtype, const int each, float *to, const char *w, int64_t row_bytes, int64_t k, int64_t depth,
                            int64_t N) {
    const int64_t steps = steps_of(each, depth), step = each * VEC_WIDTH, elements = puna_max(block_elements(dtype), step);
    for (int64_t n = 0; n < N; n += VEC_WIDTH) {
        const int64_t tile = n / TILE_COLUMNS * TILE_COLUMNS, width = puna_min(TILE_COLUMNS, padded(N - tile));
        const char *row[VEC_WIDTH];
        for (int i = 0; i < VEC_WIDTH; i++) row[i] = w + puna_min(n + i, N - 1) * row_bytes;
        for (int64_t first = k; first < k + depth; first += elements) {
            unpacked u[VEC_WIDTH];
            if (!is_plain(dtype))
                for (int i = 0; i < VEC_WIDTH; i++) unpack(dtype, row[i], first / elements, &u[i]);
            for (int64_t e = 0; e < elements; e += step) {
                vec turned[VEC_WIDTH];
                for (int i = 0; i < VEC_WIDTH; i++)
                    turned[i] = is_plain(dtype) ? plain_lanes_until(dtype, each, row[i], first, k + depth)
                                                : unpacked_vec(dtype, &u[i], e);
                vec_transpose(turned);
                float *place = to + tile / TILE_COLUMNS * tile_floats(steps) + (first + e - k) / step * width + n - tile;
                for (int lane = 0; lane < VEC_WIDTH; lane++)
                    vec_store(place + lane_place(lane) * lane_stride(steps, width), turned[lane]);
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

/* y[r, n] (= or +=) x[r] . w[n] over one stretch, for the first rows and columns of a packed tile of x and of w with V vectors. */
PUNA_INLINE void tile(const int each, const int V, float *y, int64_t y_stride, int64_t rows, int64_t columns, const float *x,
                      const float *w, int64_t steps, bool add) {
    vec acc[TILE_ROWS * TILE_VECS], waiting[LEVELS][TILE_ROWS * TILE_VECS];
    if (rows >= TILE_ROWS && columns >= V * VEC_WIDTH) gemm_fetch(V, y, y_stride);
    for (int lane = 0; lane < VEC_WIDTH; lane++, x += steps * TILE_ROWS, w += lane_stride(steps, V * VEC_WIDTH)) {
        gemm_sums(each, V, acc, x, 1, TILE_ROWS, w, V * VEC_WIDTH, steps);
        int level = 0;
        for (; lane >> level & 1; level++)
            for (int m = 0; m < TILE_ROWS; m++)
                for (int j = 0; j < V; j++) acc[m * V + j] = vec_add(waiting[level][m * V + j], acc[m * V + j]);
        if (level == LEVELS) break;
        for (int m = 0; m < TILE_ROWS; m++)
            for (int j = 0; j < V; j++) waiting[level][m * V + j] = acc[m * V + j];
    }
    gemm_store(V, y, y_stride, rows, columns, acc, add);
}

PUNA_INLINE void multiply_panel(const int each, float *y, int64_t y_stride, const float *x, int64_t rows, const float *panel,
                                int64_t steps, int64_t N, bool add, next_panel next) {
    for (int64_t r = 0; r < rows; r += TILE_ROWS, x += TILE_ROWS * steps * VEC_WIDTH) {
        for (int64_t n = 0; n < N; n += TILE_COLUMNS) {
            const float *w = panel + n / TILE_COLUMNS * tile_floats(steps);
#define TILE(V) tile(each, V, y + r * y_stride + n, y_stride, rows - r, N - n, x, w, steps, add)
            if (N - n > (TILE_VECS - 1) * VEC_WIDTH) TILE(TILE_VECS);
            else if (TILE_VECS > 2 && N - n > VEC_WIDTH) TILE(2);
            else TILE(1);
        }
        fetch_rows(next, next.N * r / rows, next.N * puna_min(r + TILE_ROWS, rows) / rows);
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Shares
 * ------------------------------------------------------------------------------------------------------------------ */

typedef struct call {
    const puna_context *context;
    const puna_matmul_product *products;
    float *const *y;
    const void *const *w;
    const float *x;
    int64_t x_stride, rows, K;
    char *x_tiles[2]; /* rows of x packed for AMX, in either order of pairs; null where they are not needed         */
    float *x_packed[MOST_EACH]; /* and for vectors, by the elements of a lane: (stretches, rows / TILE_ROWS, as pack_tile); the same */
    float *x_pairs;             /* rows of x in pairs, pairs_stride apart; the same                                 */
    char *workspace;
    int64_t thread_bytes; /* each thread's part of the workspace                                                    */
    product_shares shares;
} call;

/* Lanes of a row of x in pairs. */
static int64_t pairs_stride(int64_t K) { return steps_of(MOST_EACH, K) * VEC_WIDTH; }

static int each_of(const puna_context *context, int32_t dtype) { return context->bf16 && is_plain(dtype) ? MOST_EACH : 1; }

/* A function for each type: all of them within run_share leave GCC short of registers, and few rows are a tenth slower. */
#define DIRECT_ROWS(name, dtype, each)                                                                                        \
    static PUNA_NOINLINE void direct_rows_##name(const call *c, product_share s) {                                            \
        const puna_matmul_product *product = &c->products[s.p];                                                               \
        const float *x = (each) > 1 ? c->x_pairs : c->x;                                                                      \
        const int64_t x_stride = (each) > 1 ? pairs_stride(c->K) : c->x_stride;                                               \
        const int64_t row_bytes = puna_row_bytes(PUNA_DTYPE_##dtype, c->K);                                                   \
        direct_rows(PUNA_DTYPE_##dtype, each, c->y[s.p] + s.n, product->y_stride, (const char *)c->w[s.p] + s.n * row_bytes,  \
                    row_bytes, x, x_stride, c->rows, c->K, s.N, product->accumulate);                                         \
    }
DIRECT_ROWS(F32, F32, 1)
DIRECT_ROWS(F16, F16, 1)
DIRECT_ROWS(BF16, BF16, 1)
DIRECT_ROWS(Q8_0, Q8_0, 1)
DIRECT_ROWS(Q4_0, Q4_0, 1)
DIRECT_ROWS(Q4_K, Q4_K, 1)
DIRECT_ROWS(Q6_K, Q6_K, 1)
#if defined(PUNA_VARIANT_AVX512)
DIRECT_ROWS(F32_pairs, F32, 2)
DIRECT_ROWS(F16_pairs, F16, 2)
DIRECT_ROWS(BF16_pairs, BF16, 2)
#endif

static void (*const direct_rows_of[MOST_EACH][PUNA_DTYPE_COUNT])(const call *c, product_share s) = {
    {
        [PUNA_DTYPE_F32] = direct_rows_F32,   [PUNA_DTYPE_F16] = direct_rows_F16,   [PUNA_DTYPE_BF16] = direct_rows_BF16,
        [PUNA_DTYPE_Q8_0] = direct_rows_Q8_0, [PUNA_DTYPE_Q4_0] = direct_rows_Q4_0, [PUNA_DTYPE_Q4_K] = direct_rows_Q4_K,
        [PUNA_DTYPE_Q6_K] = direct_rows_Q6_K,
    },
#if defined(PUNA_VARIANT_AVX512)
    {
        [PUNA_DTYPE_F32] = direct_rows_F32_pairs, [PUNA_DTYPE_F16] = direct_rows_F16_pairs,
        [PUNA_DTYPE_BF16] = direct_rows_BF16_pairs,
    },
#endif
};

static int64_t whole_tiles(int64_t rows) { return puna_ceil_div(rows, TILE_ROWS) * TILE_ROWS; }

PUNA_INLINE void pack_x_rows(const int each, const call *c, int64_t first, int64_t end) {
    const int64_t stretch = stretch_of(each, c->K);
    for (int64_t r = first; r < end; r += TILE_ROWS)
        for (int64_t k = 0; k < c->K; k += stretch) {
            const int64_t depth = puna_min(stretch, c->K - k), lanes = steps_of(each, depth) * VEC_WIDTH;
            pack_tile(each, c->x_packed[each - 1] + k / each * whole_tiles(c->rows) + r * lanes, c->x + r * c->x_stride + k,
                      c->x_stride, end - r, depth);
        }
}

static void pack_x_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const call *c = arguments;
    const int64_t first = share * PACK_ROWS, end = puna_min(first + PACK_ROWS, c->rows);
    if (c->x_packed[0] != NULL) pack_x_rows(1, c, first, end);
    if (c->x_packed[MOST_EACH - 1] != NULL && MOST_EACH > 1) pack_x_rows(MOST_EACH, c, first, end);
}

/* Rows of x in pairs. */
static void round_x_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const call *c = arguments;
    for (int64_t r = share * PACK_ROWS; r < puna_min((share + 1) * PACK_ROWS, c->rows); r++)
        for (int64_t k = 0; k < c->K; k += MOST_EACH * VEC_WIDTH)
            vec_store(c->x_pairs + r * pairs_stride(c->K) + k / MOST_EACH,
                      plain_lanes_until(PUNA_DTYPE_F32, MOST_EACH, c->x + r * c->x_stride, k, c->K));
}

/* A share's rows of w, a panel after another, each a stretch after another, with its rows of x. */
static void many_rows(const call *c, product_share s, float *panel) {
    const puna_matmul_product *product = &c->products[s.p];
    const int32_t dtype = product->w_dtype;
    const int each = each_of(c->context, dtype);
    const int64_t row_bytes = puna_row_bytes(dtype, c->K), stretch = puna_min(stretch_of(each, c->K), c->K);
    const int64_t panels = puna_ceil_div(s.N, PANEL_BYTES / 4 / tile_floats(steps_of(each, stretch)) * TILE_COLUMNS);
    const int64_t panel_N = puna_ceil_div(puna_ceil_div(s.N, panels), TILE_COLUMNS) * TILE_COLUMNS;
    for (int64_t n = 0; n < s.N; n += panel_N) {
        const char *w = (const char *)c->w[s.p] + (s.n + n) * row_bytes;
        const int64_t columns = puna_min(panel_N, s.N - n);
        float *y = c->y[s.p] + s.r * product->y_stride + s.n + n;
        for (int64_t k = 0; k < c->K; k += stretch) {
            const int64_t depth = puna_min(stretch, c->K - k), after = puna_min(stretch, c->K - k - depth);
            const int64_t steps = steps_of(each, depth);
            if (each > 1) FOR_PLAIN_DTYPE(dtype, pack_panel, MOST_EACH, panel, w, row_bytes, k, depth, columns)
            else FOR_DTYPE(dtype, pack_panel, 1, panel, w, row_bytes, k, depth, columns)
            next_panel next = {w + puna_row_bytes(dtype, k + depth), puna_row_bytes(dtype, after), row_bytes, columns};
            if (after == 0) next.w = w + columns * row_bytes, next.bytes = puna_row_bytes(dtype, stretch);
            const float *x = c->x_packed[each - 1] + k / each * whole_tiles(c->rows) + s.r * steps * VEC_WIDTH;
            const bool add = product->accumulate || k > 0;
            if (each > 1) multiply_panel(MOST_EACH, y, product->y_stride, x, s.rows, panel, steps, columns, add, next);
            else multiply_panel(1, y, product->y_stride, x, s.rows, panel, steps, columns, add, next);
        }
    }
}

/* Decoding again for every few rows of x costs less than a panel, up to here. */
static bool is_direct(int32_t dtype, int each, int64_t rows) {
    return rows <= (each > 1 ? PAIRS_DIRECT : dtype == PUNA_DTYPE_F32 ? F32_DIRECT : is_plain(dtype) ? HALF_DIRECT : BLOCK_DIRECT);
}

/* Cycles, roughly, for one row of w: reading and decoding it, and multiplying it with every row of x. */
static double row_cycles(int64_t rows, int64_t K) { return (double)K * (0.5 + (double)rows / (2 * VEC_WIDTH)); }

#if defined(PUNA_VARIANT_AVX512)
enum {
    LEAST_TILED_K = 1024,
    TILE_THREAD_BYTES = sizeof(tile_space) > PANEL_BYTES ? sizeof(tile_space) : PANEL_BYTES /* vectors multiply block types */
};
_Static_assert((int)MOST_PACKED_ROWS <= (int)MOST_TILED_ROWS, "what is packed at once fits tile_space");

static double tile_row_cycles(int64_t rows, int64_t K) { return (double)K * (0.6 + (double)rows / 50); }

/*
 * Whether tiles, not vectors, multiply weights of a type. It is a matter of K alone, so that one row is multiplied as many are:
 * where rows of w are short, one row of x at a time would be a third slower with tiles.
 */
static bool uses_tiles(const puna_context *context, int32_t dtype, int64_t K) {
    return is_plain(dtype) && K >= LEAST_TILED_K && context->isa == PUNA_ISA_AMX;
}

static int64_t x_tiles_bytes(const puna_context *context, int64_t rows, int64_t K) {
    const int64_t steps = puna_ceil_div(K, STEP), side = puna_min(rows, SIDE), pieces = context->bf16 ? 1 : PIECES;
    return puna_ceil_div(rows, SIDE) * steps * pieces * SIDE * side * 4;
}

static void pack_x_tiles_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const call *c = arguments;
    const int64_t r = share * SIDE;
    for (int neighbours = 0; neighbours < 2; neighbours++) {
        if (c->x_tiles[neighbours] == NULL) continue;
#define PACK_ARGUMENTS                                                                                                        \
    neighbours, c->x_tiles[neighbours] + share * x_tiles_bytes(c->context, SIDE, c->K), c->x + r * c->x_stride, c->x_stride,  \
        puna_min(SIDE, c->rows - r), (int)puna_min(SIDE, c->rows), c->K
        if (c->context->bf16) pack_x(1, PACK_ARGUMENTS);
        else pack_x(PIECES, PACK_ARGUMENTS);
    }
}

static void tile_share(const call *c, product_share s, void *space) {
    const puna_matmul_product *product = &c->products[s.p];
    const int32_t dtype = product->w_dtype;
    const int64_t row_bytes = puna_row_bytes(dtype, c->K);
    const char *w = (const char *)c->w[s.p] + s.n * row_bytes;
    const char *x = c->x_tiles[pairs_neighbours(dtype)] + s.r / SIDE * x_tiles_bytes(c->context, SIDE, c->K);
    float *y = c->y[s.p] + s.r * product->y_stride + s.n;
    load_shapes((int)puna_min(SIDE, c->rows));
#define TILE_ARGUMENTS y, product->y_stride, w, row_bytes, x, (int)s.rows, c->K, s.N, product->accumulate, space
    if (c->context->bf16 && c->rows <= SIDE) FOR_PLAIN_DTYPE(dtype, few_rows, 1, TILE_ARGUMENTS)
    else if (c->context->bf16) FOR_PLAIN_DTYPE(dtype, tiled_rows, 1, TILE_ARGUMENTS)
    else if (c->rows <= SIDE) FOR_PLAIN_DTYPE(dtype, few_rows, PIECES, TILE_ARGUMENTS)
    else FOR_PLAIN_DTYPE(dtype, tiled_rows, PIECES, TILE_ARGUMENTS)
    _tile_release();
}
#else /* no tiles */
enum { SIDE = 1, PANEL_ROWS = 1, TILE_THREAD_BYTES = 0 };
static bool uses_tiles(const puna_context *context, int32_t dtype, int64_t K) { return (void)context, (void)dtype, (void)K, false; }
static bool pairs_neighbours(int32_t dtype) { return (void)dtype, false; }
static int64_t x_tiles_bytes(const puna_context *context, int64_t rows, int64_t K) { return (void)context, (void)rows, (void)K, 0; }
static double tile_row_cycles(int64_t rows, int64_t K) { return (void)rows, (void)K, 0; }
static void pack_x_tiles_share(void *arguments, int64_t share, int32_t thread) { (void)arguments, (void)share, (void)thread; }
static void tile_share(const call *c, product_share s, void *space) { (void)c, (void)s, (void)space; }
#endif

/* What a call packs of x, and the bytes that this and each thread's workspace take. */
typedef struct packing {
    bool tiles, vectors;
    int64_t x_tiles_bytes[2], x_packed_bytes[MOST_EACH], x_pairs_bytes, thread_bytes;
} packing;

static packing packing_of(const puna_context *context, const puna_matmul_product *products, int32_t count, int64_t rows,
                          int64_t K) {
    packing p = {0};
    const int64_t at_once = puna_min(rows, MOST_PACKED_ROWS), last = (rows - 1) % MOST_PACKED_ROWS + 1;
    for (int32_t i = 0; i < count; i++) {
        const int32_t dtype = products[i].w_dtype;
        const int each = each_of(context, dtype);
        if (uses_tiles(context, dtype, K)) {
            p.tiles = true, p.x_tiles_bytes[pairs_neighbours(dtype)] = x_tiles_bytes(context, at_once, K);
            continue;
        }
        if (!is_direct(dtype, each, at_once)) {
            p.vectors = true;
            p.x_packed_bytes[each - 1] = whole_tiles(at_once) * steps_of(each, K) * VEC_WIDTH * (int64_t)sizeof(float);
        }
        if (each > 1 && last <= PAIRS_DIRECT) p.x_pairs_bytes = last * pairs_stride(K) * (int64_t)sizeof(float);
    }
    if (p.vectors || p.tiles) p.thread_bytes = p.tiles ? TILE_THREAD_BYTES : PANEL_BYTES;
    return p;
}

static void run_share(void *arguments, int64_t share, int32_t thread) {
    const call *c = arguments;
    const product_share s = find_share(&c->shares, c->products, c->rows, share);
    const int32_t dtype = c->products[s.p].w_dtype;
    const int each = each_of(c->context, dtype);
    char *space = c->workspace + thread * c->thread_bytes;
    if (uses_tiles(c->context, dtype, c->K)) tile_share(c, s, space);
    else if (is_direct(dtype, each, c->rows)) direct_rows_of[each - 1][dtype](c, s);
    else many_rows(c, s, (float *)space);
}

/* The next bytes of the workspace; null for none. */
static char *take(char **workspace, int64_t bytes) {
    char *taken = *workspace;
    *workspace += bytes;
    return bytes > 0 ? taken : NULL;
}

int64_t PUNA_KERNEL(matmul_workspace_size)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                           int64_t rows, int64_t K) {
    const packing p = packing_of(context, products, count, rows, K);
    int64_t bytes = p.x_pairs_bytes + context->threads * p.thread_bytes;
    for (int i = 0; i < 2; i++) bytes += p.x_tiles_bytes[i];
    for (int i = 0; i < MOST_EACH; i++) bytes += p.x_packed_bytes[i];
    return bytes > 0 ? 63 + bytes : 0;
}

puna_status PUNA_KERNEL(matmul_forward)(puna_context *context, const puna_matmul_product *products, int32_t count,
                                        float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                        int64_t rows, int64_t K, void *workspace) {
    const packing p = packing_of(context, products, count, rows, K);
    float *y_part[PUNA_MATMUL_MAX_PRODUCTS];
    call c = {.context = context, .products = products, .y = y_part, .w = w, .x_stride = x_stride, .K = K};
    c.thread_bytes = p.thread_bytes;
    c.workspace = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    for (int i = 0; i < 2; i++) c.x_tiles[i] = take(&c.workspace, p.x_tiles_bytes[i]);
    for (int i = 0; i < MOST_EACH; i++) c.x_packed[i] = (float *)take(&c.workspace, p.x_packed_bytes[i]);
    c.x_pairs = (float *)take(&c.workspace, p.x_pairs_bytes);
    for (int64_t r = 0; r < rows; r += MOST_PACKED_ROWS) {
        c.rows = puna_min(MOST_PACKED_ROWS, rows - r);
        c.x = x + r * x_stride;
        for (int32_t i = 0; i < count; i++) y_part[i] = y[i] + r * products[i].y_stride;
        if (p.tiles) puna_parallel(context, puna_ceil_div(c.rows, SIDE), pack_x_tiles_share, &c);
        if (p.vectors) puna_parallel(context, puna_ceil_div(c.rows, PACK_ROWS), pack_x_share, &c);
        if (c.x_pairs != NULL && c.rows <= PAIRS_DIRECT) puna_parallel(context, puna_ceil_div(c.rows, PACK_ROWS), round_x_share, &c);
        const double row = p.tiles ? tile_row_cycles(c.rows, K) : row_cycles(c.rows, K);
        const int64_t unit = p.tiles ? PANEL_ROWS : p.vectors ? PACKED_UNIT : DIRECT_UNIT, row_unit = p.tiles ? 2 * SIDE : TILE_ROWS;
        c.shares = share_products(context, products, count, c.rows, row, unit, row_unit);
        run_product_shares(context, &c.shares, count, run_share, &c);
    }
    return PUNA_STATUS_OK;
}
