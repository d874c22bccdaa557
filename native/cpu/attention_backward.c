/*
 * Gradients of causal attention, from the log-sum-exp of the forward pass (Dao et al. 2022): weights are computed again, a block
 * at a time. With s = scale * q . k, as the forward pass has it:
 *   p = exp(s - lse)     dp = dy . v     ds = p * (dp - dy . y)     dv += p dy     dk += ds scale q     dq += ds scale k
 *
 * A share is one key/value head of one sequence with all its query heads, so that nobody else adds to its dk, dv and dq: there
 * are B * NKV shares. The rows are those of the forward pass, row i being query head i % G of the group at token i / G. For each block
 * of KEYS keys, in order, its tiles of ROWS rows pass in order; all five products of a tile and a block are register tiles.
 *
 * ORDER OF SUMMATION. s and dp sum over HD one after another; dv and dk of a key sum the rows of a tile one after another from
 * zero, then the tiles; dq of a row sums the keys of a block one after another from zero, then the blocks. dy . y is summed lane
 * by lane. Blocks begin at multiples of KEYS and tiles at multiples of ROWS, so threads have no say.
 *
 * Blocks and tiles that do not see each other are left out; within them a register tile leaves out the vectors of keys that none
 * of its rows sees. Single hidden scores inside a vector are computed and given the weight 0.
 *
 * Two threads of a busy Granite Rapids, GFLOP/s by the visible scores, blocks of 48 keys -> 192 (every block reads all of q, dy, y and
 * dq, which lie in memory); a multiply-add's ceiling is 465 with AVX-512 and 227 with AVX2:
 *   8 heads of 64, T = 1024    221 -> 259    T = 4096    230 -> 282 (AVX2 143 -> 168)      4 x 256, 6 heads of 48    173 -> 175
 *   32 of 128, T = 1024        202 -> 246    8 of them of keys    235 -> 284
 * 288 keys: a twentieth faster, but a megabyte of cache at HD 128. The next tile's rows fetched ahead: as fast. Keys and values
 * transposed in registers, not one by one, a Zen 5, old and new in turn, AVX-512 and AVX2: 8 heads of 128, T = 1024 327 to 370 and
 * 194 to 208; 16 of 128, T = 512 271 to 332 and 174 to 196; 4 x 256, 6 of 48 265 to 300 and 161 to 173. 96 and 144 rows: as fast.
 */
#include "gemm.h"
#include "kernels.h"

enum {
    ROWS = 48, /* of a tile: a whole number of register tiles in every variant                                      */
    KEYS = 192 /* of a block: the same, and a whole number of vectors                                               */
};

/* A thread's workspace. width is HD padded to whole vectors. */
typedef struct tile {
    float *q, *dy, *dq;    /* (ROWS, width): q times scale; beyond the rows there are, zero                         */
    float *k;              /* (KEYS, width), times scale                                                            */
    float *k_t, *v_t;      /* (HD, KEYS): beyond the keys there are, zero                                           */
    float *dk, *dv;        /* (KEYS, width)                                                                         */
    float *p, *ds;         /* (ROWS, KEYS)                                                                          */
    float lse[ROWS], dot[ROWS];
    int64_t lo[ROWS], hi[ROWS]; /* the keys of the block that a row sees: [lo, hi)                                  */
} tile;

typedef struct job {
    float *dq, *dk, *dv;
    const float *q, *k, *v, *y, *dy, *lse;
    int64_t dq_stride, dkv_stride, q_stride, kv_stride, y_stride, dy_stride;
    int64_t T, S, NH, NKV, HD, window;
    float scale;
    char *workspace;
} job;

static int64_t thread_floats(int64_t HD) {
    return (3 * ROWS + 3 * KEYS) * padded(HD) + 2 * KEYS * HD + 2 * ROWS * KEYS;
}

static int64_t first_visible(const job *j, int64_t position) {
    return j->window > 0 ? puna_max(0, position - j->window + 1) : 0;
}

/* to (width) = factor * from (HD), padded with zeros. */
static void load_row(float *to, const float *from, float factor, int64_t HD) {
    vec f = vec_set1(factor);
    int64_t d = 0;
    for (; d + VEC_WIDTH <= HD; d += VEC_WIDTH) vec_store(to + d, vec_mul(vec_load(from + d), f));
    if (d < HD) vec_store(to + d, vec_mul(vec_load_partial(from + d, HD - d), f));
}

static void store_row(float *to, const float *from, int64_t HD) { memcpy(to, from, (size_t)HD * sizeof(float)); }

/* to (HD, KEYS) = the transpose of rows of HD, stride apart; columns from rows on are zero. */
static void transpose(float *to, const float *from, int64_t stride, int64_t rows, int64_t HD) {
    for (int64_t r = 0; r < KEYS; r += VEC_WIDTH)
        for (int64_t d = 0; d < HD; d += VEC_WIDTH) {
            vec turned[VEC_WIDTH];
            const int64_t left = HD - d;
            for (int i = 0; i < VEC_WIDTH; i++) {
                const float *row = from + (r + i) * stride + d;
                turned[i] = r + i >= rows ? vec_zero() : left >= VEC_WIDTH ? vec_load(row) : vec_load_partial(row, left);
            }
            vec_transpose(turned);
            for (int i = 0; i < VEC_WIDTH && i < left; i++) vec_store(to + (d + i) * KEYS + r, turned[i]);
        }
}

static float dot_row(const float *a, const float *b, int64_t HD) {
    vec sum = vec_zero();
    for (int64_t d = 0; d < HD; d += VEC_WIDTH) {
        int64_t n = puna_min(VEC_WIDTH, HD - d);
        sum = n == VEC_WIDTH ? vec_fma(vec_load(a + d), vec_load(b + d), sum)
                             : vec_fma(vec_load_partial(a + d, n), vec_load_partial(b + d, n), sum);
    }
    return vec_hsum(sum);
}

/* TILE_ROWS rows of c, columns [from, to) of width: as gemm_tile, which says what the others are. */
PUNA_INLINE void multiply(float *c, int64_t c_stride, const float *a, int64_t a_row, int64_t a_step, const float *b,
                          int64_t b_step, int64_t depth, bool add, int64_t from, int64_t to, int64_t width) {
    int64_t n = from / VEC_WIDTH * VEC_WIDTH;
    for (; n < to && n + TILE_COLUMNS <= width; n += TILE_COLUMNS)
        gemm_tile(TILE_VECS, c + n, c_stride, a, a_row, a_step, b + n, b_step, depth, add);
    for (; n < to; n += VEC_WIDTH) gemm_tile(1, c + n, c_stride, a, a_row, a_step, b + n, b_step, depth, add);
}

/* The keys that any of the TILE_ROWS rows from i on sees: [*lo, *hi), empty as [KEYS, 0). */
static void seen_by_any(const tile *t, int64_t i, int64_t *lo, int64_t *hi) {
    *lo = KEYS, *hi = 0;
    for (int64_t r = i; r < i + TILE_ROWS; r++)
        if (t->lo[r] < t->hi[r]) *lo = puna_min(*lo, t->lo[r]), *hi = puna_max(*hi, t->hi[r]);
}

/* From scores and dp to weights and ds, which are zero where a row does not see. */
static void weigh_row(tile *t, int64_t i) {
    float *p = t->p + i * KEYS, *ds = t->ds + i * KEYS;
    vec lse = vec_set1(t->lse[i]), dot = vec_set1(t->dot[i]);
    int64_t lo = t->lo[i], hi = t->hi[i];
    for (int64_t k = 0; k < KEYS; k += VEC_WIDTH) {
        bool seen = k + VEC_WIDTH > lo && k < hi;
        vec weight = seen ? vec_exp(vec_sub(vec_load(p + k), lse)) : vec_zero();
        vec_store(ds + k, seen ? vec_mul(weight, vec_sub(vec_load(ds + k), dot)) : vec_zero());
        vec_store(p + k, weight);
    }
    for (int64_t k = lo / VEC_WIDTH * VEC_WIDTH; k < lo; k++) p[k] = ds[k] = 0;
    for (int64_t k = hi; k % VEC_WIDTH != 0; k++) p[k] = ds[k] = 0;
}

static void pass_tile(tile *t, int64_t rows, int64_t keys, int64_t HD) {
    int64_t width = padded(HD), lo, hi;
    for (int64_t i = 0; i < rows; i += TILE_ROWS) {
        seen_by_any(t, i, &lo, &hi);
        const float *q = t->q + i * width, *dy = t->dy + i * width;
        multiply(t->p + i * KEYS, KEYS, q, width, 1, t->k_t, KEYS, HD, false, lo, hi, KEYS);
        multiply(t->ds + i * KEYS, KEYS, dy, width, 1, t->v_t, KEYS, HD, false, lo, hi, KEYS);
        for (int64_t r = i; r < i + TILE_ROWS; r++) weigh_row(t, r);
        if (lo < hi)
            multiply(t->dq + i * width, width, t->ds + i * KEYS + lo, KEYS, 1, t->k + lo * width, width, hi - lo, true, 0, width,
                     width);
    }
    for (int64_t k = 0; k < keys; k += TILE_ROWS) { /* rows that see any of these keys follow one another */
        int64_t first = 0, end = rows;
        while (first < rows && (t->hi[first] <= k || t->lo[first] >= k + TILE_ROWS)) first++;
        while (end > first && (t->hi[end - 1] <= k || t->lo[end - 1] >= k + TILE_ROWS)) end--;
        if (first == end) continue;
        multiply(t->dv + k * width, width, t->p + first * KEYS + k, 1, KEYS, t->dy + first * width, width, end - first, true, 0,
                 width, width);
        multiply(t->dk + k * width, width, t->ds + first * KEYS + k, 1, KEYS, t->q + first * width, width, end - first, true, 0,
                 width, width);
    }
}

/* Rows [i0, i0 + rows) of key/value head h of sequence b against the keys [block, block + keys). */
static void take_tile(const job *j, tile *t, int64_t b, int64_t h, int64_t i0, int64_t rows, int64_t block, int64_t keys) {
    int64_t G = j->NH / j->NKV, HD = j->HD, width = padded(HD);
    bool begins = block == first_visible(j, j->S - j->T + i0 / G) / KEYS * KEYS; /* nothing has been added to dq before */
    for (int64_t i = 0; i < puna_ceil_div(rows, TILE_ROWS) * TILE_ROWS; i++) {
        float *q = t->q + i * width, *dy = t->dy + i * width, *dq = t->dq + i * width;
        t->lo[i] = t->hi[i] = 0;
        if (i >= rows) {
            memset(q, 0, (size_t)width * sizeof(float));
            memset(dy, 0, (size_t)width * sizeof(float));
            memset(dq, 0, (size_t)width * sizeof(float));
            t->lse[i] = t->dot[i] = 0;
            continue;
        }
        int64_t token = (i0 + i) / G, head = h * G + (i0 + i) % G, row = b * j->T + token, position = j->S - j->T + token;
        int64_t lo = puna_max(first_visible(j, position) - block, 0), hi = puna_min(position + 1 - block, keys);
        if (lo < hi) t->lo[i] = lo, t->hi[i] = hi;
        load_row(q, j->q + row * j->q_stride + head * HD, j->scale, HD);
        load_row(dy, j->dy + row * j->dy_stride + head * HD, 1, HD);
        if (begins) memset(dq, 0, (size_t)width * sizeof(float));
        else load_row(dq, j->dq + row * j->dq_stride + head * HD, 1, HD);
        t->lse[i] = j->lse[(b * j->NH + head) * j->T + token];
        t->dot[i] = dot_row(dy, j->y + row * j->y_stride + head * HD, HD);
    }
    pass_tile(t, rows, keys, HD);
    for (int64_t i = 0; i < rows; i++) {
        int64_t token = (i0 + i) / G, head = h * G + (i0 + i) % G;
        store_row(j->dq + (b * j->T + token) * j->dq_stride + head * HD, t->dq + i * width, HD);
    }
}

static void head_share(void *arguments, int64_t share, int32_t thread) {
    const job *j = arguments;
    int64_t b = share / j->NKV, h = share % j->NKV, G = j->NH / j->NKV, HD = j->HD, width = padded(HD);
    tile t;
    t.q = (float *)j->workspace + thread * thread_floats(HD);
    t.dy = t.q + ROWS * width, t.dq = t.dy + ROWS * width, t.k = t.dq + ROWS * width, t.dk = t.k + KEYS * width;
    t.dv = t.dk + KEYS * width, t.k_t = t.dv + KEYS * width, t.v_t = t.k_t + KEYS * HD, t.p = t.v_t + KEYS * HD;
    t.ds = t.p + ROWS * KEYS;
    for (int64_t block = 0; block < j->S; block += KEYS) {
        int64_t keys = puna_min(KEYS, j->S - block), row = b * j->S + block;
        const float *k = j->k + row * j->kv_stride + h * HD, *v = j->v + row * j->kv_stride + h * HD;
        for (int64_t i = 0; i < keys; i++) load_row(t.k + i * width, k + i * j->kv_stride, j->scale, HD);
        transpose(t.k_t, k, j->kv_stride, keys, HD);
        transpose(t.v_t, v, j->kv_stride, keys, HD);
        memset(t.dk, 0, (size_t)(2 * KEYS * width) * sizeof(float)); /* dk and dv */
        int64_t first = puna_max(0, block - (j->S - j->T)) * G / ROWS * ROWS;
        for (int64_t i0 = first; i0 < j->T * G && first_visible(j, j->S - j->T + i0 / G) < block + keys; i0 += ROWS)
            take_tile(j, &t, b, h, i0, puna_min(ROWS, j->T * G - i0), block, keys);
        for (int64_t i = 0; i < keys; i++) {
            store_row(j->dk + (row + i) * j->dkv_stride + h * HD, t.dk + i * width, HD);
            store_row(j->dv + (row + i) * j->dkv_stride + h * HD, t.dv + i * width, HD);
        }
    }
}

int64_t PUNA_KERNEL(attention_backward_workspace_size)(puna_context *context, int64_t NH, int64_t NKV, int64_t HD) {
    (void)NH, (void)NKV;
    return context->threads * thread_floats(HD) * (int64_t)sizeof(float) + 63;
}

puna_status PUNA_KERNEL(attention_backward)(puna_context *context, float *dq, int64_t dq_stride, float *dk, float *dv,
                                            int64_t dkv_stride, const float *q, int64_t q_stride, const float *k, const float *v,
                                            int64_t kv_stride, const float *y, int64_t y_stride, const float *dy,
                                            int64_t dy_stride, const float *lse, int64_t B, int64_t T, int64_t S, int64_t NH,
                                            int64_t NKV, int64_t HD, int64_t window, float scale, void *workspace) {
    job j = {.dq = dq, .dk = dk, .dv = dv, .q = q, .k = k, .v = v, .y = y, .dy = dy, .lse = lse, .dq_stride = dq_stride,
             .dkv_stride = dkv_stride, .q_stride = q_stride, .kv_stride = kv_stride, .y_stride = y_stride,
             .dy_stride = dy_stride, .T = T, .S = S, .NH = NH, .NKV = NKV, .HD = HD, .window = window, .scale = scale};
    j.workspace = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    puna_parallel(context, B * NKV, head_share, &j);
    return PUNA_STATUS_OK;
}
