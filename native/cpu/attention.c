/*
 * Causal attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): neither scores nor weights are kept.
 *
 * The queries of a sequence that share a key/value head, G = NH / NKV for every token, are its rows: row i is head i % G of the
 * group at token i / G. A tile of up to ROWS of them goes through the keys, KEYS at a time. A block's keys are packed as F32,
 * transposed so that the lanes of a vector are keys, its values as F32 and contiguous; then
 *
 *   s = (scale * q) . k     m' = max(m, s)     p = exp(s - m')     l = l * exp(m - m') + sum p     acc = acc * exp(m - m') + p v
 *
 * where q . k and p v are register tiles. Packing serves all rows of the tile. Few rows, a next token's G for one, go through the
 * same sums, but values are read where they are, and of the keys only as many are packed at a time as the first cache holds well.
 *
 * ORDER OF SUMMATION. A score sums over HD one after another; p v is added key after key; l sums lane by lane. Keys form
 * stretches of STRETCH, each summed from zero; the sums of stretches are merged one after another, lanes of l at the very end.
 * Blocks and stretches begin at multiples of their lengths counted from position 0, so a row's bits depend on its position and
 * the sequence alone, not on its tile, the prompt's pieces, the threads or the type of call. Keys a row does not see are never
 * weighed and a tile reads none that all its rows do not see; a vector's scores beyond a row's edge are dropped.
 *
 * A share is a tile with all its keys or, where there are too few of those for the threads, with one stretch: the partial sums
 * then lie in the workspace until the caller merges them, as many as there is room for at a time.
 *
 * One thread of a Granite Rapids in its own time, a prompt of 2048, 32 heads of 128 in 8 groups, of 249 GFLOP/s (AVX2: of 134):
 *   1  lanes are elements of a head, sums of lanes for each score; 32 rows, 32 keys    70 (51), at 512
 *   2  keys transposed, one register tile for both products; 96 rows, 64 keys          136
 *   3  192 rows, and the tiles of a head one after another                             150 (93)
 *   4  exp without subnormal numbers, the largest score without a branch               158 (98); heads of 64, T = 512: 125
 * A token after 16384, G = 4, two threads beside other programs, AVX-512 and AVX2, of what reading the same memory took by turns:
 *   1  as a prompt, the next lines called while a block is packed                      F16 at 9 GB/s of 21
 *   2  few keys packed at a time, without a branch for each vector; values in place    1.3 times as fast, after 2048 1.1 to 1.3
 *   3  lines called in the order they lie in, Q8_0 by bytes                        F16 15.7 of 21 (75 %), Q8_0 11.3 of 20 (57 %);
 *      where others leave 12 to 13 GB/s, 91 % and more of them
 *   4  lines of several pages called side by side, GB/s of 27 to 29    F16 18.0 to 20.5 (AVX2 18.1 to 19.5), F32 21.7 to 24.5
 *      (22.1 to 23.8), Q8_0 14.3 to 15.0 (12.1 to 12.2)
 *   5  keys transposed and multiplied in registers, for up to six rows (two threads of a Zen 5 in turn, after 8192, GB/s of 40 to 64):
 *      F16 33 to 43 (AVX2 32 to 36), Q8_0 26 to 31, F32 36 to 40 (33 to 45); Q8_0 on AVX2 as before, so packed still
 *   6  texts of some hundred tokens: their first block called, handed out from some microseconds on, GB/s after 64 (of a Zen 5, where
 *      weights flush the caches between): F32 9 to 16, F16 13 to 34, Q8_0 7 to 19; after 250 F32 18 to 25
 *   7  BF16, transposed as pairs: in turn with F16 0.95 to 1.2 times as fast, in its cache 1.1 (AVX2 0.94 to 1.1); element by element
 *      on AVX2 0.86 of F16
 *   8  scales of Q8_0 converted by vectors: AVX2, two threads, after 8191, 17.7 to 18.8 GB/s; AVX-512 as before
 * Tried without gain: calling a block's lines ahead in one go, every other line, or none; into the first cache; keeping the scores
 * of 48 rows instead of 192 (kept, for the memory); keys of a short text in registers by pairs of vectors rather than by four.
 * Tried on AMX, in pieces of BF16, in one order for few rows and many: prompts of F32 1.1 to 1.2 times as fast, of F16 1.5 times; a
 * token after 8191 of F32 at 0.8 times, F16 0.8 to 1.2, Q8_0 half, as cutting keys and values takes longer than reading. A whole
 * prompt of 2000 was faster by no more than 6 %, and tokens slower or of other bits: not kept.
 */
#include "decode.h"
#include "integer.h"
#include "kernels.h"
#include "rows.h"

#include <float.h>
#include <math.h>

enum {
    ROWS = 192,        /* rows of a tile                                                                            */
    SCORE_ROWS = 48,   /* rows whose scores are kept at a time, so that they stay in the first cache                 */
    KEYS = 64,         /* keys of a block                                                                           */
    STRETCH = 512,     /* keys of a stretch, whole blocks                                                           */
    FEW_ROWS = 16,     /* rows for which values are not packed                                                      */
    SPLIT_ROWS = 16,   /* rows of a tile at most where stretches are shares                                         */
    PARTIAL_ROWS = 128 /* rows of partial sums, for each thread: eight tiles of SPLIT_ROWS                           */
};

/* A register tile has 6 rows and TILE_VECS vectors, or fewer rows and more vectors: enough sums to hide a multiply-add. */
#if defined(PUNA_VARIANT_AVX512)
enum { TILE_VECS = 4 };
#else
enum { TILE_VECS = 2 };
#endif

/* Keys and values of one key/value head of one sequence, and where its rows of q and y are. */
typedef struct head {
    const char *k, *v;
    int64_t stride;   /* bytes between positions                                                                    */
    int64_t position; /* of token 0                                                                                 */
    int64_t end;      /* positions that there are                                                                   */
    int64_t token;    /* of q and y, token 0                                                                        */
} head;

/* What rows have gathered from some of their keys; l and acc in units of exp(m). Widths are padded to whole vectors. */
typedef struct sums {
    float *m;   /* (rows)                                                                                           */
    float *l;   /* (rows, VEC_WIDTH)                                                                                */
    float *acc; /* (rows, width)                                                                                    */
} sums;

/* A thread's workspace. */
typedef struct tile {
    sums whole, stretch;        /* of all keys so far; of a stretch's                                               */
    float *q;                   /* (ROWS, width)                                                                    */
    float *s;                   /* (SCORE_ROWS, KEYS)                                                                  */
    float *k;                   /* (HD, KEYS)                                                                       */
    float *v;                   /* (KEYS, width)                                                                    */
    float largest[ROWS], shift[ROWS], factor[ROWS]; /* of the block at hand: its largest score, m', exp(m - m')     */
    int64_t first[ROWS], end[ROWS]; /* the keys a row sees: [first, end)                                            */
    int32_t lo[ROWS], hi[ROWS]; /* the same within the block at hand, [0, KEYS]; 0, 0 when it sees none             */
} tile;

typedef struct job {
    float *y, *lse;
    const float *q;
    int64_t y_stride, q_stride, NH, NKV, HD, window;
    float scale;
    int32_t dtype;
    /* plain arrays: k not null */
    const float *k, *v;
    int64_t kv_stride, T, S;
    /* caches */
    const puna_kv_sequence *sequences;
    int64_t layer;

    int64_t count;     /* sequences                                                                                 */
    int64_t tile_rows; /* rows of a tile                                                                            */
    int64_t units;     /* tiles, or stretches of tiles, over all sequences and key/value heads                      */
    int64_t shares;
    int64_t first_unit, partials; /* where stretches are shares: the first of a round, and how many a round has     */
    char *workspace, *partial_sums;
} job;

static int64_t padded(int64_t HD) { return puna_ceil_div(HD, VEC_WIDTH) * VEC_WIDTH; }

static int64_t sums_floats(int64_t rows, int64_t width) { return rows * (1 + VEC_WIDTH + width); }

/* rows are a multiple of VEC_WIDTH, or there is one group of them. */
static sums sums_at(float *memory, int64_t rows) { return (sums){memory, memory + rows, memory + rows * (1 + VEC_WIDTH)}; }

static int64_t thread_floats(int64_t HD) {
    int64_t width = padded(HD);
    return 2 * sums_floats(ROWS, width) + ROWS * width + SCORE_ROWS * KEYS + 2 * KEYS * width;
}

static tile tile_at(float *memory, int64_t width) {
    tile t;
    t.whole = sums_at(memory, ROWS), memory += sums_floats(ROWS, width);
    t.stretch = sums_at(memory, ROWS), memory += sums_floats(ROWS, width);
    t.q = memory, memory += ROWS * width;
    t.s = memory, memory += SCORE_ROWS * KEYS;
    t.k = memory, t.v = memory + KEYS * width;
    return t;
}

static int64_t sequence_rows(const job *j, int64_t s) { return j->k != NULL ? j->T : j->sequences[s].rows; }
static int64_t sequence_position(const job *j, int64_t s) { return j->k != NULL ? j->S - j->T : j->sequences[s].position; }

static int64_t first_visible(int64_t position, int64_t window) {
    return window > 0 ? puna_max(0, position - window + 1) : 0;
}

static head head_of(const job *j, int64_t s, int64_t h, int64_t token) {
    if (j->k != NULL) {
        int64_t at = s * j->S * j->kv_stride + h * j->HD;
        return (head){(const char *)(j->k + at), (const char *)(j->v + at), j->kv_stride * 4, j->S - j->T, j->S, token};
    }
    const puna_kv_sequence *sequence = &j->sequences[s];
    int64_t stride = puna_row_bytes(j->dtype, j->HD), plane = sequence->capacity * stride;
    const char *k = (const char *)sequence->cache + (j->layer * 2 * j->NKV + h) * plane;
    return (head){k, k + j->NKV * plane, stride, sequence->position, sequence->position + sequence->rows, token};
}

/* ------------------------------------------------- products ---------------------------------------------------------- */

/* Elements [d, d + n) of a row, n <= VEC_WIDTH. A row of blocks is whole vectors. */
PUNA_INLINE vec load_elements(const int32_t dtype, const char *row, int64_t d, int64_t n) {
    if (dtype == PUNA_DTYPE_Q8_0) {
        const puna_q8_0 *block = (const puna_q8_0 *)row + d / PUNA_Q8_0_ELEMENTS;
        return vec_mul(vec_set1(vec_f16_to_f32(block->d)), vec_load_i8(block->q + d % PUNA_Q8_0_ELEMENTS));
    }
    return n == VEC_WIDTH ? plain_vec(dtype, row, d) : plain_vec_partial(dtype, row, d, n);
}

/*
 * Calling memory into the cache that will be wanted within some microseconds: the line of elements d on of a row, once for the
 * vectors in it, and a stretch of bytes, once for the stretches in a line. In order is best: the processor then goes on by itself.
 */
PUNA_INLINE void call_line(const int32_t dtype, const char *row, int64_t d) {
    int64_t elements = is_plain(dtype) ? 64 / element_bytes(dtype) : 64;
    if (d % elements == 0) __builtin_prefetch(row + d / elements * (dtype == PUNA_DTYPE_Q8_0 ? 68 : 64), 0, 2);
}

PUNA_INLINE void call_bytes(const char *from, int64_t bytes) {
    if (bytes < 64 && (int64_t)((uintptr_t)from % 64) >= bytes) return;
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

/*
 * As many bytes of a block without gaps as lie at at, some from each of its pages, near enough: the processor reads several pages
 * side by side faster than one after another.
 */
PUNA_INLINE void call_some(const int32_t dtype, const char *block, int64_t stride, int64_t at, int64_t bytes) {
    const int pages = (VEC_WIDTH >= 16 ? 4 : 2) / (dtype == PUNA_DTYPE_Q8_0 ? 2 : 1);
    for (int page = 0; page < pages; page++) call_bytes(block + KEYS * stride / pages * page + at / pages, bytes / pages);
}

/* The bytes that n elements take, of Q8_0 near enough. */
PUNA_INLINE int64_t bytes_of(const int32_t dtype, int64_t n) {
    return is_plain(dtype) ? n * element_bytes(dtype) : n * (int64_t)sizeof(puna_q8_0) / PUNA_Q8_0_ELEMENTS;
}

/*
 * The right side of a product: rows of dtype, stride bytes apart. Where calls is not null rows have no gaps, and while they are
 * read as many bytes of the block there are called, after so many.
 */
typedef struct side {
    const char *rows, *calls;
    int64_t stride;
    int64_t called;
    int32_t dtype;
} side;

static side packed_side(const float *rows, int64_t stride) {
    return (side){(const char *)rows, NULL, stride * (int64_t)sizeof(float), 0, PUNA_DTYPE_F32};
}

/* V vectors of a row from element j on, the last of n elements. They fill a block, or do not cross the end of one. */
PUNA_INLINE void load_vectors(const int32_t dtype, const int V, vec *b, const char *row, int64_t j, int64_t n) {
    const puna_q8_0 *block = (const puna_q8_0 *)row + j / PUNA_Q8_0_ELEMENTS;
    vec scale = vec_zero();
    for (int v = 0; v < V; v++) {
        if (dtype == PUNA_DTYPE_Q8_0) {
            const puna_q8_0 *at = block + v * VEC_WIDTH / PUNA_Q8_0_ELEMENTS;
            if (v * VEC_WIDTH % PUNA_Q8_0_ELEMENTS == 0) scale = vec_set1(vec_f16_to_f32(at->d));
            b[v] = vec_keep(vec_mul(scale, vec_load_i8(at->q + (j + v * VEC_WIDTH) % PUNA_Q8_0_ELEMENTS)));
        } else {
            b[v] = vec_keep(load_elements(dtype, row, j + v * VEC_WIDTH, V == 1 ? n : VEC_WIDTH));
        }
    }
}

/*
 * c[r, j + i] = c[r, j + i] * factor[r] (or 0, where factor is null) + sum over k < depth of a[r, k] * b[k, j + i], one after
 * another, for R rows and V vectors of i, the last of which has n elements.
 */
PUNA_INLINE void product_tile(const int R, const int V, const int32_t dtype, const bool calls, float *c, int64_t c_stride,
                              const float *factor, const float *a, int64_t a_stride, const side *b, int64_t depth, int64_t j,
                              int64_t n) {
    const char *row = b->rows;
    int64_t stride = b->stride, called = b->called + bytes_of(dtype, j * depth);
    vec sum[6 * TILE_VECS];
    c += j;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            sum[r * V + v] = factor == NULL ? vec_zero() : vec_mul(vec_load(c + r * c_stride + v * VEC_WIDTH), vec_set1(factor[r]));
    for (int64_t k = 0; k < depth; k++, row += stride) {
        vec b_k[8];
        load_vectors(dtype, V, b_k, row, j, n);
        if (calls) {
            call_some(dtype, b->calls, stride, called, bytes_of(dtype, V * VEC_WIDTH));
            called += bytes_of(dtype, V * VEC_WIDTH);
        }
        for (int r = 0; r < R; r++) {
            vec a_k = vec_set1(a[r * a_stride + k]);
            for (int v = 0; v < V; v++) sum[r * V + v] = vec_fma(a_k, b_k[v], sum[r * V + v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) vec_store(c + r * c_stride + v * VEC_WIDTH, sum[r * V + v]);
}

/* The same for any number of columns; c has whole vectors. */
PUNA_INLINE void product_rows(const int R, const int32_t dtype, const bool calls, float *c, int64_t c_stride,
                              const float *factor, const float *a, int64_t a_stride, const side *b, int64_t depth,
                              int64_t columns) {
    const int V = R >= 4 ? TILE_VECS : R == 2 ? 4 : 8;
    int64_t j = 0;
    for (; j + V * VEC_WIDTH <= columns; j += V * VEC_WIDTH)
        product_tile(R, V, dtype, calls, c, c_stride, factor, a, a_stride, b, depth, j, VEC_WIDTH);
    if (V > 4 && j + 4 * VEC_WIDTH <= columns) {
        product_tile(R, 4, dtype, calls, c, c_stride, factor, a, a_stride, b, depth, j, VEC_WIDTH);
        j += 4 * VEC_WIDTH;
    }
    if (V > 2 && j + 2 * VEC_WIDTH <= columns) {
        product_tile(R, 2, dtype, calls, c, c_stride, factor, a, a_stride, b, depth, j, VEC_WIDTH);
        j += 2 * VEC_WIDTH;
    }
    for (; j < columns; j += VEC_WIDTH)
        product_tile(R, 1, dtype, calls, c, c_stride, factor, a, a_stride, b, depth, j, puna_min(columns - j, VEC_WIDTH));
}

/* Rows that go together in a register tile, of those left. */
static int64_t group_of(int64_t left) { return left >= 6 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

#define PRODUCT(name, dtype, calls)                                                                                          \
    static void name(int64_t R, float *c, int64_t c_stride, const float *factor, const float *a, int64_t a_stride,           \
                     const side *b, int64_t depth, int64_t columns) {                                                        \
        switch (R) {                                                                                                         \
        case 6: product_rows(6, dtype, calls, c, c_stride, factor, a, a_stride, b, depth, columns); break;                   \
        case 4: product_rows(4, dtype, calls, c, c_stride, factor, a, a_stride, b, depth, columns); break;                   \
        case 2: product_rows(2, dtype, calls, c, c_stride, factor, a, a_stride, b, depth, columns); break;                   \
        default: product_rows(1, dtype, calls, c, c_stride, factor, a, a_stride, b, depth, columns); break;                  \
        }                                                                                                                    \
    }
PRODUCT(product_packed, PUNA_DTYPE_F32, false)
PRODUCT(product_f32, PUNA_DTYPE_F32, true)
PRODUCT(product_f16, PUNA_DTYPE_F16, true)
PRODUCT(product_bf16, PUNA_DTYPE_BF16, true)
PRODUCT(product_q8_0, PUNA_DTYPE_Q8_0, true)

static void product(int64_t R, float *c, int64_t c_stride, const float *factor, const float *a, int64_t a_stride, const side *b,
                    int64_t depth, int64_t columns) {
    if (b->calls == NULL) product_packed(R, c, c_stride, factor, a, a_stride, b, depth, columns);
    else if (b->dtype == PUNA_DTYPE_F32) product_f32(R, c, c_stride, factor, a, a_stride, b, depth, columns);
    else if (b->dtype == PUNA_DTYPE_F16) product_f16(R, c, c_stride, factor, a, a_stride, b, depth, columns);
    else if (b->dtype == PUNA_DTYPE_BF16) product_bf16(R, c, c_stride, factor, a, a_stride, b, depth, columns);
    else product_q8_0(R, c, c_stride, factor, a, a_stride, b, depth, columns);
}

/* The product from row k of b on. */
static side rows_from(const side *b, int64_t k) {
    return (side){b->rows + k * b->stride, b->calls, b->stride, b->called + k * b->stride, b->dtype};
}

/* ------------------------------------------------- packing ----------------------------------------------------------- */

/*
 * k[d + i, 0, …) = elements d + i, i < n, of VEC_WIDTH keys, whose rows are row[] bytes behind keys. As many of their values' bytes
 * are called. Rows are pitch bytes apart, or 0 where there are gaps between.
 */
PUNA_INLINE void pack_elements(const int32_t dtype, float *k, int64_t stride, const char *keys, const char *values,
                               const int64_t *row, int64_t pitch, int64_t d, int64_t n) {
    vec a[VEC_WIDTH];
    for (int i = 0; i < VEC_WIDTH; i++) {
        a[i] = load_elements(dtype, keys + row[i], d, n);
        if (pitch == 0) call_line(dtype, values + row[i], d);
    }
    if (pitch != 0)
        call_some(dtype, values, pitch, row[0] + bytes_of(dtype, d * VEC_WIDTH), bytes_of(dtype, VEC_WIDTH * VEC_WIDTH));
    vec_transpose(a);
    for (int i = 0; i < VEC_WIDTH; i++)
        if (i < n) vec_store(k + (d + i) * stride, a[i]);
}

/* The scales of VEC_WIDTH consecutive keys' blocks, times 2^-24. */
PUNA_INLINE vec scales_q8_0(const char *block, int64_t pitch) {
    uint16_t halves[VEC_WIDTH];
    collect_halves(halves, VEC_WIDTH, block, pitch);
    return vec_mul(vec_load_f16(halves), vec_set1(0x1p-24f));
}

/* The four bytes of each lane: each is moved to the top, which makes 2^24 times the integer. */
PUNA_INLINE void unpack_bytes(vec k[4], ivec four, vec scale) {
    const ivec top = ivec_set1((int32_t)0xFF000000);
    k[0] = vec_mul(ivec_to_f32(ivec_shl(four, 24)), scale);
    k[1] = vec_mul(ivec_to_f32(ivec_and(ivec_shl(four, 16), top)), scale);
    k[2] = vec_mul(ivec_to_f32(ivec_and(ivec_shl(four, 8), top)), scale);
    k[3] = vec_mul(ivec_to_f32(ivec_and(four, top)), scale);
}

/* The same for a block of VEC_WIDTH consecutive keys of Q8_0, whose bytes are transposed four at a time. */
PUNA_INLINE void pack_q8_0(float *k, int64_t stride, const char *keys, const char *values, int64_t pitch, int64_t key,
                           int64_t d) {
    int64_t at = d / PUNA_Q8_0_ELEMENTS * (int64_t)sizeof(puna_q8_0);
    const vec scale = scales_q8_0(keys + at, pitch);
    call_some(PUNA_DTYPE_Q8_0, values, pitch, key * pitch + at * VEC_WIDTH, VEC_WIDTH * (int64_t)sizeof(puna_q8_0));
    for (int half = 0; half < PUNA_Q8_0_ELEMENTS; half += 16) {
        ivec columns[4];
        ivec_columns(columns, keys + at + (int64_t)offsetof(puna_q8_0, q) + half, pitch);
        for (int c = 0; c < 4; c++) {
            vec four[4];
            unpack_bytes(four, columns[c], scale);
            for (int i = 0; i < 4; i++) vec_store(k + (d + half + 4 * c + i) * stride, four[i]);
        }
    }
}

/*
 * k (HD, stride) = the keys [lo, hi) of the block from column lo - first on, transposed. Keys that share a vector with these
 * repeat one of them. Their values are called meanwhile: the processor by itself does not look ahead in so many rows.
 */
PUNA_INLINE void pack_keys(const int32_t dtype, float *k, int64_t stride, const head *kv, int64_t block, int64_t first, int64_t lo,
                           int64_t hi, int64_t HD) {
    const char *keys = kv->k + block * kv->stride, *values = kv->v + block * kv->stride;
    int64_t pitch = kv->stride == bytes_of(dtype, HD) ? kv->stride : 0;
    for (int64_t j = lo / VEC_WIDTH * VEC_WIDTH; j < hi; j += VEC_WIDTH) {
        float *to = k + j - first;
        if (dtype == PUNA_DTYPE_Q8_0 && j >= lo && j + VEC_WIDTH <= hi) {
            for (int64_t d = 0; d < HD; d += PUNA_Q8_0_ELEMENTS)
                pack_q8_0(to, stride, keys + j * kv->stride, values, kv->stride, j, d);
            continue;
        }
        int64_t row[VEC_WIDTH], d = 0;
        for (int i = 0; i < VEC_WIDTH; i++) row[i] = puna_max(lo, puna_min(j + i, hi - 1)) * kv->stride;
        for (; d + VEC_WIDTH <= HD; d += VEC_WIDTH) pack_elements(dtype, to, stride, keys, values, row, pitch, d, VEC_WIDTH);
        if (d < HD) pack_elements(dtype, to, stride, keys, values, row, pitch, d, HD - d); /* tail of the head */
    }
}

/* v (KEYS, width) = the values of keys [lo, hi) of the block, padded with zeros. The next block's keys are called meanwhile. */
PUNA_INLINE void pack_values(const int32_t dtype, float *v, const head *kv, int64_t block, int64_t lo, int64_t hi, int64_t HD) {
    int64_t width = padded(HD);
    const char *keys = kv->k + block * kv->stride, *values = kv->v + block * kv->stride;
    for (int64_t j = lo; j < hi; j++) {
        const char *next = keys + puna_min(j + KEYS, kv->end - 1 - block) * kv->stride, *row = values + j * kv->stride;
        int64_t d = 0;
        for (; d + VEC_WIDTH <= HD; d += VEC_WIDTH) {
            vec_store(v + j * width + d, load_elements(dtype, row, d, VEC_WIDTH));
            call_line(dtype, next, d);
        }
        if (d < HD) vec_store(v + j * width + d, load_elements(dtype, row, d, HD - d)); /* tail of the head */
    }
}

/* ------------------------------------------------- a tile ------------------------------------------------------------ */

/* The keys of the block that all of R rows see, and those that any of them sees; empty as [0, 0). */
static void visible(const tile *t, int64_t i, int64_t R, int64_t *all_lo, int64_t *all_hi, int64_t *any_lo, int64_t *any_hi) {
    *all_lo = 0, *all_hi = KEYS, *any_lo = KEYS, *any_hi = 0;
    for (int64_t r = i; r < i + R; r++) {
        *all_lo = puna_max(*all_lo, t->lo[r]), *all_hi = puna_min(*all_hi, t->hi[r]);
        if (t->lo[r] < t->hi[r]) *any_lo = puna_min(*any_lo, t->lo[r]), *any_hi = puna_max(*any_hi, t->hi[r]);
    }
    if (*all_lo >= *all_hi) *all_lo = *all_hi = 0;
    if (*any_lo >= *any_hi) *any_lo = *any_hi = 0;
}

static float *scores_of(const tile *t, int64_t i) { return t->s + i % SCORE_ROWS * KEYS; }

/* The largest of s[from, end), whole vectors. */
PUNA_INLINE float largest_score(const float *s, int64_t from, int64_t end) {
    vec largest = vec_load(s + from);
    for (int64_t j = from + VEC_WIDTH; j < end; j += VEC_WIDTH) largest = vec_max(largest, vec_load(s + j));
    return vec_hmax(largest);
}

/* s[from, end) = exp(s - shift); returns their sum, lane by lane. */
PUNA_INLINE vec weigh_scores(float *s, int64_t from, int64_t end, vec shift) {
    vec sum = vec_zero();
    for (int64_t j = from; j < end; j += VEC_WIDTH) {
        vec p = vec_exp_weight(vec_sub(vec_load(s + j), shift));
        vec_store(s + j, p);
        sum = vec_add(sum, p);
    }
    return sum;
}

/* From the scores of rows [begin, rows) to weights: m and l move to the new maximum, and factor says how far acc has to. */
static void weigh_block(tile *t, const sums *to, int64_t begin, int64_t rows) {
    for (int64_t i = begin; i < rows; i++) {
        float *s = scores_of(t, i);
        int64_t lo = t->lo[i], hi = t->hi[i], from = lo / VEC_WIDTH * VEC_WIDTH, end = padded(hi);
        if (hi - lo == KEYS) {
            t->largest[i] = largest_score(s, 0, KEYS);
        } else if (lo < hi) {
            for (int64_t j = from; j < lo; j++) s[j] = -INFINITY; /* unseen: weight 0 */
            for (int64_t j = hi; j < end; j++) s[j] = -INFINITY;
            t->largest[i] = largest_score(s, from, end);
        } else {
            t->largest[i] = -INFINITY;
        }
    }
    /* Nothing but -inf so far: weights of 0, not NaN. vec_max passes a NaN on that comes second. */
    vec least = vec_set1(-FLT_MAX);
    for (int64_t i = begin; i < rows; i += VEC_WIDTH) {
        int64_t n = puna_min(VEC_WIDTH, rows - i);
        vec m = vec_load_partial(to->m + i, n), largest = vec_max(m, vec_load_partial(t->largest + i, n));
        vec shift = vec_max(least, largest);
        vec_store_partial(t->factor + i, vec_exp_weight(vec_sub(m, shift)), n);
        vec_store_partial(t->shift + i, shift, n);
        vec_store_partial(to->m + i, largest, n);
    }
    for (int64_t i = begin; i < rows; i++) {
        if (t->lo[i] >= t->hi[i]) continue;
        float *s = scores_of(t, i), *l = to->l + i * VEC_WIDTH;
        vec shift = vec_set1(t->shift[i]), sum;
        if (t->hi[i] - t->lo[i] == KEYS) sum = weigh_scores(s, 0, KEYS, shift);
        else sum = weigh_scores(s, t->lo[i] / VEC_WIDTH * VEC_WIDTH, padded(t->hi[i]), shift);
        vec_store(l, vec_fma(vec_load(l), vec_set1(t->factor[i]), sum));
    }
}

/* The scores of rows [begin, end) of a tile, at most SCORE_ROWS, from the block packed in k. */
static void score_block(const tile *t, int64_t begin, int64_t end, int64_t HD) {
    int64_t width = padded(HD), all_lo, all_hi, any_lo, any_hi;
    for (int64_t i = begin, R; i < end; i += R) {
        R = group_of(end - i);
        visible(t, i, R, &all_lo, &all_hi, &any_lo, &any_hi);
        int64_t from = any_lo / VEC_WIDTH * VEC_WIDTH;
        side keys = packed_side(t->k + from, KEYS);
        product(R, scores_of(t, i) + from, KEYS, NULL, t->q + i * width, width, &keys, HD, padded(any_hi) - from);
    }
}

/* acc = acc * factor + the values of the block, weighed, for rows [begin, end) of a tile. */
static void add_values(const tile *t, const sums *to, int64_t begin, int64_t end, const side *values, int64_t HD) {
    int64_t width = padded(HD), all_lo, all_hi, any_lo, any_hi;
    float one = 1;
    for (int64_t i = begin, R; i < end; i += R) {
        R = group_of(end - i);
        visible(t, i, R, &all_lo, &all_hi, &any_lo, &any_hi);
        float factor[6];
        memcpy(factor, t->factor + i, (size_t)R * sizeof(float));
        /* Each row's edges by themselves, in the order of the keys: before what all see, and behind it. */
        for (int64_t r = i; r < i + R; r++) {
            int64_t lo = t->lo[r], hi = all_lo < all_hi ? all_lo : t->hi[r];
            if (lo >= hi) continue;
            side v = rows_from(values, lo);
            product(1, to->acc + r * width, width, factor + r - i, scores_of(t, r) + lo, KEYS, &v, hi - lo, HD);
            factor[r - i] = 1;
        }
        if (all_lo >= all_hi) continue;
        side v = rows_from(values, all_lo);
        product(R, to->acc + i * width, width, factor, scores_of(t, i) + all_lo, KEYS, &v, all_hi - all_lo, HD);
        v = rows_from(values, all_hi);
        for (int64_t r = i; r < i + R; r++)
            if (all_hi < t->hi[r])
                product(1, to->acc + r * width, width, &one, scores_of(t, r) + all_hi, KEYS, &v, t->hi[r] - all_hi, HD);
    }
}

/* Takes a tile through the keys [lo, hi) of a block, packed for many rows. */
PUNA_INLINE void attend_packed(const int32_t dtype, tile *t, const head *kv, const sums *to, int64_t rows, int64_t block,
                               int64_t lo, int64_t hi, int64_t HD) {
    side values = packed_side(t->v, padded(HD));
    pack_keys(dtype, t->k, KEYS, kv, block, 0, lo, hi, HD);
    pack_values(dtype, t->v, kv, block, lo, hi, HD);
    for (int64_t i = 0, end; i < rows; i = end) {
        end = puna_min(i + SCORE_ROWS, rows);
        score_block(t, i, end, HD);
        weigh_block(t, to, i, end);
        add_values(t, to, i, end, &values, HD);
    }
}

#if VEC_WIDTH > 4
enum { PAIR = 2 * VEC_WIDTH /* keys */ };

/* Whether keys of a type are scored in registers: with the bytes of Q8_0 in them AVX2 has too few. */
PUNA_INLINE bool fits_registers(const int32_t dtype, int64_t HD) {
    return HD % VEC_WIDTH == 0 && (dtype != PUNA_DTYPE_Q8_0 || VEC_WIDTH == 16);
}

/* sums += n elements, from d on, of a pair of vectors of keys times those of R rows of q. */
PUNA_INLINE void add_elements(const int R, vec sums[6][2], const float *q, int64_t width, int64_t d, const vec *a, const vec *b,
                              const int n) {
    for (int i = 0; i < n; i++)
        for (int r = 0; r < R; r++) {
            vec q_d = vec_set1(q[r * width + d + i]);
            sums[r][0] = vec_fma(q_d, a[i], sums[r][0]);
            sums[r][1] = vec_fma(q_d, b[i], sums[r][1]);
        }
}

/*
 * s[r, 0, …) = q[r] . k for R rows and PAIR consecutive keys of a block, pitch bytes apart, the first of them key: a few elements at
 * a time are transposed in registers, and nothing is stored. As many bytes of their values are called meanwhile, but of F32 on AVX-512:
 * those would be asked for faster than memory answers.
 */
PUNA_INLINE void score_pair(const int32_t dtype, const int R, float *s, const float *q, int64_t width, const char *keys,
                            const char *values, int64_t pitch, int64_t key, int64_t HD) {
    vec sums[6][2];
    for (int r = 0; r < R; r++) sums[r][0] = sums[r][1] = vec_zero();
    keys += key * pitch;
    if (dtype == PUNA_DTYPE_Q8_0) {
        for (int64_t d = 0; d < HD; d += PUNA_Q8_0_ELEMENTS) {
            const char *block = keys + d / PUNA_Q8_0_ELEMENTS * (int64_t)sizeof(puna_q8_0);
            const vec scale[2] = {scales_q8_0(block, pitch), scales_q8_0(block + VEC_WIDTH * pitch, pitch)};
            call_some(dtype, values, pitch, key * pitch + bytes_of(dtype, d * PAIR), PAIR * (int64_t)sizeof(puna_q8_0));
            for (int half = 0; half < PUNA_Q8_0_ELEMENTS; half += 16) {
                ivec columns[2][4];
                const char *bytes = block + offsetof(puna_q8_0, q) + half;
                ivec_columns(columns[0], bytes, pitch);
                ivec_columns(columns[1], bytes + VEC_WIDTH * pitch, pitch);
#pragma GCC unroll 4
                for (int c = 0; c < 4; c++) {
                    vec k[2][4];
                    for (int v = 0; v < 2; v++) unpack_bytes(k[v], columns[v][c], scale[v]);
                    add_elements(R, sums, q, width, d + half + 4 * c, k[0], k[1], 4);
                }
            }
        }
    } else {
        const int64_t size = element_bytes(dtype);
        const int each = dtype == PUNA_DTYPE_BF16 ? 2 : 1; /* elements in a lane: half as much to transpose                */
        for (int64_t d = 0; d < HD; d += each * VEC_WIDTH / 2) {
            vec k[2][VEC_WIDTH / 2];
            for (int v = 0; v < 2; v++) {
                for (int i = 0; i < VEC_WIDTH / 2; i++) {
                    const char *a = keys + (v * VEC_WIDTH + i + i / 4 * 4) * pitch + d * size, *b = a + 4 * pitch;
                    k[v][i] = dtype == PUNA_DTYPE_F16 ? vec_join_f16((const uint16_t *)a, (const uint16_t *)b)
                                                      : vec_join((const float *)a, (const float *)b);
                }
                vec_transpose_halves(k[v]);
            }
            if (dtype != PUNA_DTYPE_F32 || VEC_WIDTH < 16)
                call_some(dtype, values, pitch, key * pitch + bytes_of(dtype, d * PAIR), bytes_of(dtype, each * VEC_WIDTH / 2 * PAIR));
            if (each == 1) add_elements(R, sums, q, width, d, k[0], k[1], VEC_WIDTH / 2);
            for (int i = 0; i < VEC_WIDTH / 2 && each == 2; i++) {
                vec a[2], b[2];
                vec_split_bf16(a, k[0][i]);
                vec_split_bf16(b, k[1][i]);
                add_elements(R, sums, q, width, d + 2 * i, a, b, 2);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < 2; v++) vec_store(s + r * KEYS + v * VEC_WIDTH, sums[r][v]);
}

/* All keys from first on, before last. */
PUNA_INLINE void score_pairs(const int32_t dtype, int64_t R, const tile *t, const head *kv, int64_t block, int64_t first, int64_t last,
                             int64_t HD) {
    const char *keys = kv->k + block * kv->stride, *values = kv->v + block * kv->stride;
    for (; first < last; first += PAIR) {
        float *s = scores_of(t, 0) + first;
        switch (R) {
        case 6: score_pair(dtype, 6, s, t->q, padded(HD), keys, values, kv->stride, first, HD); break;
        case 4: score_pair(dtype, 4, s, t->q, padded(HD), keys, values, kv->stride, first, HD); break;
        case 2: score_pair(dtype, 2, s, t->q, padded(HD), keys, values, kv->stride, first, HD); break;
        default: score_pair(dtype, 1, s, t->q, padded(HD), keys, values, kv->stride, first, HD); break;
        }
    }
}
#else
PUNA_INLINE bool fits_registers(const int32_t dtype, int64_t HD) { return (void)dtype, (void)HD, false; }
PUNA_INLINE void score_pairs(const int32_t dtype, int64_t R, const tile *t, const head *kv, int64_t block, int64_t first, int64_t last,
                             int64_t HD) {
    (void)dtype, (void)R, (void)t, (void)kv, (void)block, (void)first, (void)last, (void)HD;
}
#endif

/*
 * The same for few rows: keys are multiplied in registers or, where more rows share them than one register tile has, or only some are
 * seen, packed a few vectors at a time, which stay in the first cache until then. Values are read where they are, once for up to six
 * rows.
 */
PUNA_INLINE void attend_few(const int32_t dtype, tile *t, const head *kv, const sums *to, int64_t rows, int64_t block, int64_t lo,
                            int64_t hi, int64_t HD) {
    int64_t width = padded(HD), columns = (rows < 4 ? 4 : 2) * VEC_WIDTH;
    const bool in_registers = fits_registers(dtype, HD) && group_of(rows) == rows && kv->stride == bytes_of(dtype, HD);
    for (int64_t at = lo / columns * columns; at < hi; at += columns) {
        int64_t first = puna_max(at, lo), from = first / VEC_WIDTH * VEC_WIDTH, last = puna_min(at + columns, hi);
        if (in_registers && last - first == columns) {
            score_pairs(dtype, rows, t, kv, block, first, last, HD);
            continue;
        }
        pack_keys(dtype, t->k, columns, kv, block, at, first, last, HD);
        side keys = packed_side(t->k + from - at, columns);
        for (int64_t i = 0, R; i < rows; i += R) {
            R = group_of(rows - i);
            product(R, scores_of(t, i) + from, KEYS, NULL, t->q + i * width, width, &keys, HD, padded(last) - from);
        }
    }
    weigh_block(t, to, 0, rows);
    const char *next = kv->k + (block + KEYS < kv->end ? block + KEYS : block) * kv->stride;
    side values = {kv->v + block * kv->stride, kv->stride == bytes_of(dtype, HD) ? next : NULL, kv->stride, 0, dtype};
    add_values(t, to, 0, rows, &values, HD);
}

PUNA_INLINE void attend_block(const int32_t dtype, tile *t, const head *kv, const sums *to, int64_t rows, int64_t block, int64_t lo,
                              int64_t hi, int64_t HD) {
    if (rows <= FEW_ROWS) attend_few(dtype, t, kv, to, rows, block, lo, hi, HD);
    else attend_packed(dtype, t, kv, to, rows, block, lo, hi, HD);
}

/*
 * Calls the first block of the keys [begin, end) and its values into the first cache, in the order they lie in: nothing called them
 * before, and of a short text they are most of it. Inlined by force: GCC drops calls of a function that does no more than that.
 */
PUNA_INLINE void call_first_block(const head *kv, int64_t begin, int64_t end) {
    const int64_t from = begin * kv->stride, to = puna_min(begin / KEYS * KEYS + KEYS, end) * kv->stride;
    for (int64_t i = from; i < to; i += 64) __builtin_prefetch(kv->k + i, 0, 3);
    for (int64_t i = from; i < to; i += 64) __builtin_prefetch(kv->v + i, 0, 3);
}

/* to = the sums of the tile's rows over those of the keys [begin, end), within one stretch, that they see. */
static void attend_stretch(const job *j, tile *t, const head *kv, const sums *to, int64_t rows, int64_t begin, int64_t end) {
    int64_t width = padded(j->HD);
    for (int64_t i = 0; i < rows; i++) to->m[i] = -INFINITY;
    memset(to->l, 0, (size_t)(rows * VEC_WIDTH) * sizeof(float));
    memset(to->acc, 0, (size_t)(rows * width) * sizeof(float));
    if (rows <= FEW_ROWS && begin == t->first[0]) call_first_block(kv, begin, end); /* after what would wait behind it */
    for (int64_t block = begin / KEYS * KEYS; block < end; block += KEYS) {
        for (int64_t i = 0; i < rows; i++) {
            t->lo[i] = (int32_t)puna_min(puna_max(t->first[i] - block, 0), KEYS);
            t->hi[i] = (int32_t)puna_max(puna_min(t->end[i] - block, KEYS), 0);
            if (t->lo[i] >= t->hi[i]) t->lo[i] = t->hi[i] = 0;
        }
        int64_t lo = puna_max(begin - block, 0), hi = puna_min(end - block, KEYS);
        switch (j->dtype) {
        case PUNA_DTYPE_F32: attend_block(PUNA_DTYPE_F32, t, kv, to, rows, block, lo, hi, j->HD); break;
        case PUNA_DTYPE_F16: attend_block(PUNA_DTYPE_F16, t, kv, to, rows, block, lo, hi, j->HD); break;
        case PUNA_DTYPE_BF16: attend_block(PUNA_DTYPE_BF16, t, kv, to, rows, block, lo, hi, j->HD); break;
        default: attend_block(PUNA_DTYPE_Q8_0, t, kv, to, rows, block, lo, hi, j->HD); break;
        }
    }
}

/* Row i of whole takes up what it gathered in a stretch; its first one is copied. */
static void merge_row(const sums *whole, const sums *stretch, int64_t i, int64_t width, bool first) {
    float *l = whole->l + i * VEC_WIDTH, *acc = whole->acc + i * width;
    const float *l_s = stretch->l + i * VEC_WIDTH, *acc_s = stretch->acc + i * width;
    if (first) {
        whole->m[i] = stretch->m[i];
        memcpy(l, l_s, VEC_WIDTH * sizeof(float));
        memcpy(acc, acc_s, (size_t)width * sizeof(float));
        return;
    }
    vec m = vec_set1(whole->m[i]), m_s = vec_set1(stretch->m[i]), largest = vec_max(m, m_s);
    vec shift = vec_max(vec_set1(-FLT_MAX), largest);
    vec f = vec_exp_weight(vec_sub(m, shift)), f_s = vec_exp_weight(vec_sub(m_s, shift));
    vec_store_partial(whole->m + i, largest, 1);
    vec_store(l, vec_fma(vec_load(l_s), f_s, vec_mul(vec_load(l), f)));
    for (int64_t d = 0; d < width; d += VEC_WIDTH)
        vec_store(acc + d, vec_fma(vec_load(acc_s + d), f_s, vec_mul(vec_load(acc + d), f)));
}

static void merge_tile(const tile *t, const sums *stretch, int64_t rows, int64_t width, int64_t begin) {
    for (int64_t i = 0; i < rows; i++)
        if (t->first[i] < begin + STRETCH && t->end[i] > begin)
            merge_row(&t->whole, stretch, i, width, t->first[i] >= begin);
}

/* A piece of work: rows [i0, i0 + rows) of the queries of sequence s that read key/value head h, and the keys they see. */
typedef struct unit {
    head kv;
    int64_t s, h, i0, rows, first, end, stretch, stretches;
} unit;

static int64_t stretches_of(const job *j, int64_t s) {
    int64_t position = sequence_position(j, s), end = position + sequence_rows(j, s);
    return puna_ceil_div(end, STRETCH) - first_visible(position, j->window) / STRETCH;
}

/* Unit at in the order sequence, head, tile, and stretch where those are shares. */
static unit find_unit(const job *j, int64_t at) {
    int64_t G = j->NH / j->NKV, token = 0, stretches = 1, tiles;
    unit u = {.s = 0};
    for (;; u.s++) {
        if (j->partials > 0) stretches = stretches_of(j, u.s);
        tiles = puna_ceil_div(sequence_rows(j, u.s) * G, j->tile_rows);
        if (at < tiles * j->NKV * stretches) break;
        at -= tiles * j->NKV * stretches;
        token += sequence_rows(j, u.s);
    }
    u.stretch = at % stretches, u.stretches = stretches;
    u.h = at / stretches / tiles;
    u.i0 = at / stretches % tiles * j->tile_rows;
    u.rows = puna_min(j->tile_rows, sequence_rows(j, u.s) * G - u.i0);
    u.kv = head_of(j, u.s, u.h, token);
    u.first = first_visible(u.kv.position + u.i0 / G, j->window); /* first and end grow with the token */
    u.end = u.kv.position + (u.i0 + u.rows - 1) / G + 1;
    return u;
}

/* Where stretch number u->stretch of its sequence begins. */
static int64_t stretch_begin(const job *j, const unit *u) {
    return (first_visible(u->kv.position, j->window) / STRETCH + u->stretch) * STRETCH;
}

static void find_keys(const job *j, const unit *u, tile *t) {
    int64_t G = j->NH / j->NKV;
    for (int64_t i = 0; i < u->rows; i++) {
        int64_t position = u->kv.position + (u->i0 + i) / G;
        t->first[i] = first_visible(position, j->window);
        t->end[i] = position + 1;
    }
}

static void load_queries(const job *j, const unit *u, tile *t) {
    int64_t G = j->NH / j->NKV, HD = j->HD, width = padded(HD);
    vec scale = vec_set1(j->scale);
    for (int64_t i = 0; i < u->rows; i++) {
        int64_t token = (u->i0 + i) / G, head = u->h * G + (u->i0 + i) % G;
        const float *q = j->q + (u->kv.token + token) * j->q_stride + head * HD;
        for (int64_t d = 0; d < HD; d += VEC_WIDTH)
            vec_store(t->q + i * width + d,
                      vec_mul(load_elements(PUNA_DTYPE_F32, (const char *)q, d, puna_min(HD - d, VEC_WIDTH)), scale));
    }
}

static void store_results(const job *j, const unit *u, const tile *t) {
    int64_t G = j->NH / j->NKV, HD = j->HD, width = padded(HD);
    for (int64_t i = 0; i < u->rows; i++) {
        int64_t token = (u->i0 + i) / G, head = u->h * G + (u->i0 + i) % G;
        float *y = j->y + (u->kv.token + token) * j->y_stride + head * HD, *acc = t->whole.acc + i * width;
        float sum = vec_hsum(vec_load(t->whole.l + i * VEC_WIDTH));
        vec l = vec_set1(sum);
        int64_t d = 0;
        for (; d + VEC_WIDTH <= HD; d += VEC_WIDTH) vec_store(y + d, vec_div(vec_load(acc + d), l));
        if (d < HD) vec_store_partial(y + d, vec_div(vec_load(acc + d), l), HD - d); /* tail of the head */
        if (j->lse != NULL) j->lse[(u->s * j->NH + head) * j->T + token] = t->whole.m[i] + logf(sum);
    }
}

/* ------------------------------------------------- shares ------------------------------------------------------------ */

static float *memory_of(const job *j, int32_t thread) { return (float *)j->workspace + thread * thread_floats(j->HD); }

/* Tiles with all their keys. The last tokens, which see most, come first. */
static void tile_share(void *arguments, int64_t share, int32_t thread) {
    const job *j = arguments;
    int64_t width = padded(j->HD);
    tile t = tile_at(memory_of(j, thread), width);
    for (int64_t at = share * j->units / j->shares; at < (share + 1) * j->units / j->shares; at++) {
        unit u = find_unit(j, j->units - 1 - at);
        find_keys(j, &u, &t);
        load_queries(j, &u, &t);
        for (int64_t begin = u.first / STRETCH * STRETCH; begin < u.end; begin += STRETCH) {
            int64_t first = puna_max(begin, u.first), end = puna_min(begin + STRETCH, u.end);
            bool only = first == u.first && end == u.end; /* merging would copy */
            attend_stretch(j, &t, &u.kv, only ? &t.whole : &t.stretch, u.rows, first, end);
            if (!only) merge_tile(&t, &t.stretch, u.rows, width, begin);
        }
        store_results(j, &u, &t);
    }
}

static sums partial_at(const job *j, int64_t at) {
    return sums_at((float *)j->partial_sums + at * sums_floats(j->tile_rows, padded(j->HD)), j->tile_rows);
}

/* A stretch of a tile's keys. */
static void stretch_share(void *arguments, int64_t share, int32_t thread) {
    const job *j = arguments;
    tile t = tile_at(memory_of(j, thread), padded(j->HD));
    unit u = find_unit(j, j->first_unit + share);
    sums to = partial_at(j, share);
    int64_t begin = stretch_begin(j, &u), first = puna_max(begin, u.first), end = puna_min(begin + STRETCH, u.end);
    find_keys(j, &u, &t);
    load_queries(j, &u, &t);
    attend_stretch(j, &t, &u.kv, &to, u.rows, first, end);
}

static void run_stretches(puna_context *context, job *j) {
    tile t = tile_at(memory_of(j, 0), padded(j->HD)); /* its whole outlives the rounds */
    for (j->first_unit = 0; j->first_unit < j->units; j->first_unit += j->partials) {
        int64_t count = puna_min(j->partials, j->units - j->first_unit);
        puna_parallel(context, count, stretch_share, j);
        for (int64_t at = 0; at < count; at++) {
            unit u = find_unit(j, j->first_unit + at);
            sums stretch = partial_at(j, at);
            find_keys(j, &u, &t);
            merge_tile(&t, &stretch, u.rows, padded(j->HD), stretch_begin(j, &u));
            if (u.stretch + 1 == u.stretches) store_results(j, &u, &t);
        }
    }
}

enum { SHARE_CYCLES = 2500 }; /* two microseconds or so where memory is cold: far above what handing out a share costs */

/* What packing a block's keys and values costs, in rows of a tile. */
enum { PACKING_ROWS = 8 };

/* Chooses the tiles and hands them out: as large as leaves several shares for every thread, small ones together in a share. */
static void run(puna_context *context, job *j, void *workspace) {
    int64_t G = j->NH / j->NKV, stretches = 0;
    double cycles, largest;
    for (j->tile_rows = ROWS;; j->tile_rows = puna_max(SPLIT_ROWS, j->tile_rows / 2)) {
        j->units = stretches = 0;
        cycles = largest = 0;
        for (int64_t s = 0; s < j->count; s++) {
            int64_t rows = sequence_rows(j, s) * G, tiles = puna_ceil_div(rows, j->tile_rows);
            double seen = (double)sequence_position(j, s) + (double)sequence_rows(j, s) / 2;
            if (j->window > 0 && seen > (double)j->window) seen = (double)j->window;
            double key_cycles = (seen + 8) * (double)j->HD / VEC_WIDTH;
            largest = fmax(largest, key_cycles * (double)(puna_min(rows, j->tile_rows) + PACKING_ROWS));
            cycles += key_cycles * (double)((rows + PACKING_ROWS * tiles) * j->NKV);
            j->units += tiles * j->NKV;
            stretches += tiles * j->NKV * stretches_of(j, s);
        }
        if (largest * 4 * context->threads <= cycles || context->threads == 1 || j->tile_rows == SPLIT_ROWS) break;
    }
    if (j->units == 0) return;
    j->workspace = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    int64_t worth = cycles / SHARE_CYCLES < 1e6 ? (int64_t)(cycles / SHARE_CYCLES) : 1000000;
    if (worth > 1 && context->threads > 1 && largest * 4 * context->threads > cycles && stretches > j->units) {
        j->units = stretches;
        j->partial_sums = (char *)(memory_of(j, context->threads));
        j->partials = context->threads * PARTIAL_ROWS / j->tile_rows;
        run_stretches(context, j);
    } else {
        j->shares = puna_max(1, puna_min(j->units, worth));
        puna_parallel(context, j->shares, tile_share, j);
    }
}

int64_t PUNA_KERNEL(attention_workspace_size)(puna_context *context, int64_t NH, int64_t NKV, int64_t HD) {
    (void)NH, (void)NKV;
    int64_t partials = context->threads > 1 ? sums_floats(PARTIAL_ROWS, padded(HD)) : 0;
    return context->threads * (thread_floats(HD) + partials) * (int64_t)sizeof(float) + 63;
}

puna_status PUNA_KERNEL(attention_forward)(puna_context *context, float *y, int64_t y_stride, float *lse, const float *q,
                                           int64_t q_stride, const float *k, const float *v, int64_t kv_stride, int64_t B,
                                           int64_t T, int64_t S, int64_t NH, int64_t NKV, int64_t HD, int64_t window,
                                           float scale, void *workspace) {
    job j = {.y = y, .lse = lse, .q = q, .y_stride = y_stride, .q_stride = q_stride, .NH = NH, .NKV = NKV, .HD = HD,
             .window = window, .scale = scale, .dtype = PUNA_DTYPE_F32, .k = k, .v = v, .kv_stride = kv_stride, .T = T, .S = S,
             .count = B};
    run(context, &j, workspace);
    return PUNA_STATUS_OK;
}

puna_status PUNA_KERNEL(attention_cached_forward)(puna_context *context, float *y, int64_t y_stride, const float *q,
                                                  int64_t q_stride, const puna_kv_sequence *sequences, int32_t count,
                                                  int32_t cache_dtype, int64_t layer, int64_t NH, int64_t NKV, int64_t HD,
                                                  int64_t window, float scale, void *workspace) {
    job j = {.y = y, .q = q, .y_stride = y_stride, .q_stride = q_stride, .NH = NH, .NKV = NKV, .HD = HD, .window = window,
             .scale = scale, .dtype = cache_dtype, .sequences = sequences, .layer = layer, .count = count};
    run(context, &j, workspace);
    return PUNA_STATUS_OK;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Storing keys and values
 * ------------------------------------------------------------------------------------------------------------------ */

typedef struct append {
    const puna_kv_sequence *sequences;
    int64_t layer, kv_stride, NKV, HD, rows, share_rows;
    int32_t dtype;
    const float *k, *v;
} append;

/* The HD elements at from become those of a cache from element at on. */
static void store_head(const append *a, void *cache, int64_t at, const float *from) {
    if (a->dtype == PUNA_DTYPE_Q8_0) {
        puna_q8_0 *to = (puna_q8_0 *)cache + at / PUNA_Q8_0_ELEMENTS;
        for (int64_t d = 0; d < a->HD; d += PUNA_Q8_0_ELEMENTS) puna_quantize_q8_0(to++, from + d);
        return;
    }
    if (a->dtype == PUNA_DTYPE_F32) {
        memcpy((float *)cache + at, from, (size_t)a->HD * sizeof(float));
        return;
    }
    uint16_t *to = (uint16_t *)cache + at;
    int64_t d = 0;
    if (a->dtype == PUNA_DTYPE_BF16) {
        for (; d < a->HD; d++) to[d] = puna_f32_to_bf16(from[d]); /* compilers make vectors of it */
        return;
    }
    for (; d + VEC_WIDTH <= a->HD; d += VEC_WIDTH) vec_store_f16(to + d, vec_load(from + d));
    if (d < a->HD) vec_store_f16_partial(to + d, vec_load_partial(from + d, a->HD - d), a->HD - d); /* tail of the head */
}

static void append_share(void *arguments, int64_t share, int32_t thread) {
    (void)thread;
    const append *a = arguments;
    int64_t row = share * a->share_rows, end = puna_min(row + a->share_rows, a->rows), t = row;
    const puna_kv_sequence *sequence = a->sequences;
    for (; row < end; row++, t++) {
        while (t >= sequence->rows) t -= sequence++->rows;
        for (int64_t h = 0; h < a->NKV; h++) {
            int64_t at = ((a->layer * 2 * a->NKV + h) * sequence->capacity + sequence->position + t) * a->HD;
            store_head(a, sequence->cache, at, a->k + row * a->kv_stride + h * a->HD);
            at += a->NKV * sequence->capacity * a->HD;
            store_head(a, sequence->cache, at, a->v + row * a->kv_stride + h * a->HD);
        }
    }
}

puna_status PUNA_KERNEL(kv_append)(puna_context *context, const puna_kv_sequence *sequences, int32_t count,
                                   int32_t cache_dtype, int64_t layer, const float *k, const float *v, int64_t kv_stride,
                                   int64_t NKV, int64_t HD) {
    append a = {.sequences = sequences, .layer = layer, .kv_stride = kv_stride, .NKV = NKV, .HD = HD, .dtype = cache_dtype,
                .k = k, .v = v};
    for (int32_t s = 0; s < count; s++) a.rows += sequences[s].rows;
    a.share_rows = rows_per_share(2 * NKV * HD * (int64_t)sizeof(float));
    puna_parallel(context, puna_ceil_div(a.rows, a.share_rows), append_share, &a);
    return PUNA_STATUS_OK;
}
