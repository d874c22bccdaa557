/*
 * Causal attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): neither scores nor weights are kept.
 *
 * The queries of a sequence that share a key/value head, G = NH / NKV for every token, are its rows: row i is head i % G of the
 * group at token i / G. A share takes a tile of up to ROWS of them through the keys, KEYS at a time:
 *
 *   s = (scale * q) . k     m' = max(m, s)     p = exp(s - m')     l = l * exp(m - m') + sum p     acc = acc * exp(m - m') + p v
 *
 * ORDER OF SUMMATION. A score sums over HD lane by lane and then by vec_hsum; p v is added key after key; a block of keys is
 * added up lane by lane. Blocks begin at multiples of KEYS counted from position 0, so a row's bits depend on its position
 * and the sequence alone, not on its tile, the prompt's pieces, or the type of call. Keys a row does not see are neither
 * read nor scored for it: register tiles cover the keys all their rows see, and each row does its own edges.
 *
 * Keys and values in F16, or of a width that is no whole number of vectors, pass through the thread's workspace as padded F32.
 *
 * One thread of a Zen 4 at 118 GFLOP/s (AVX2) and 20 GB/s, busy with other work: a prompt of 512 runs at 46 (HD 64, NH 32, NKV 8)
 * to 60 GFLOP/s (HD 128), a token after 2048 reads its F32 cache at 15 GB/s (HD 64, NKV 4, L3) and an F16 one at 10.
 */
#include "decode.h"
#include "kernels.h"
#include "rows.h"

#include <math.h>

enum {
    ROWS = 32, /* rows of a tile                                                                                    */
    KEYS = 32  /* keys of a block                                                                                   */
};

/* Keys and values of one key/value head of one sequence, and where its rows of q and y are. */
typedef struct head {
    const char *k, *v;
    int64_t stride;   /* bytes between positions                                                                    */
    int64_t position; /* of token 0                                                                                 */
    int64_t token;    /* of q and y, token 0                                                                        */
} head;

/* A thread's workspace. Widths are padded to whole vectors. */
typedef struct tile {
    float *q, *acc;             /* (ROWS, width)                                                                    */
    float *s;                   /* (ROWS, KEYS)                                                                     */
    float *k, *v;               /* (KEYS, width)                                                                    */
    float m[ROWS], l[ROWS];
    int64_t first[ROWS], end[ROWS]; /* the keys a row sees: [first, end)                                            */
    int64_t lo[ROWS], hi[ROWS]; /* the same within the block at hand, [0, KEYS]                                     */
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
    int64_t tile_rows; /* rows of a tile, at most ROWS                                                              */
    int64_t tiles;     /* over all sequences, for one key/value head                                                */
    int64_t shares;
    char *workspace;
} job;

static int64_t padded(int64_t HD) { return puna_ceil_div(HD, VEC_WIDTH) * VEC_WIDTH; }

static int64_t thread_floats(int64_t HD) { return (2 * ROWS + 2 * KEYS) * padded(HD) + ROWS * KEYS; }

static int64_t sequence_rows(const job *j, int64_t s) { return j->k != NULL ? j->T : j->sequences[s].rows; }

static head head_of(const job *j, int64_t s, int64_t h, int64_t token) {
    if (j->k != NULL) {
        int64_t at = s * j->S * j->kv_stride + h * j->HD;
        return (head){(const char *)(j->k + at), (const char *)(j->v + at), j->kv_stride * 4, j->S - j->T, token};
    }
    const puna_kv_sequence *sequence = &j->sequences[s];
    int64_t stride = j->HD * (j->dtype == PUNA_DTYPE_F32 ? 4 : 2), plane = sequence->capacity * stride;
    const char *k = (const char *)sequence->cache + (j->layer * 2 * j->NKV + h) * plane;
    return (head){k, k + j->NKV * plane, stride, sequence->position, token};
}

/* s[r, key] = q[r] . k[key] for R rows and keys <= 8 / R keys; a missing key repeats the last one and is dropped. */
PUNA_INLINE void score_tile(const int R, float *s, const float *q, int64_t width, const float *k, int64_t stride,
                            int64_t keys) {
    const int J = 8 / R;
    const float *k_j[8];
    vec acc[8];
    for (int j = 0; j < J; j++) k_j[j] = k + puna_min(j, keys - 1) * stride;
    for (int i = 0; i < 8; i++) acc[i] = vec_zero();
    for (int64_t d = 0; d < width; d += VEC_WIDTH) {
        for (int j = 0; j < J; j++) {
            vec k_d = vec_load(k_j[j] + d);
            for (int r = 0; r < R; r++) acc[r * J + j] = vec_fma(vec_load(q + r * width + d), k_d, acc[r * J + j]);
        }
    }
    float sums[8];
    vec_hsum8(sums, acc);
    for (int r = 0; r < R; r++)
        for (int j = 0; j < J && j < keys; j++) s[r * KEYS + j] = sums[r * J + j];
}

/* Scores of R rows against the keys [lo, hi) of the block at k. */
PUNA_INLINE void score_rows(const int R, float *s, const float *q, int64_t width, const float *k, int64_t stride, int64_t lo,
                            int64_t hi) {
    for (int64_t j = lo; j < hi; j += 8 / R) score_tile(R, s + j, q, width, k + j * stride, stride, hi - j);
}

/* acc[r, d] += sum over the keys [lo, hi) of p[r, key] * v[key, d] for R rows and N vectors of d. */
PUNA_INLINE void weigh_tile(const int R, const int N, float *acc, int64_t width, const float *p, const float *v,
                            int64_t stride, int64_t lo, int64_t hi) {
    vec sum[8];
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) sum[r * N + n] = vec_load(acc + r * width + n * VEC_WIDTH);
    for (int64_t j = lo; j < hi; j++) {
        vec v_j[8];
        for (int n = 0; n < N; n++) v_j[n] = vec_load(v + j * stride + n * VEC_WIDTH);
        for (int r = 0; r < R; r++) {
            vec p_j = vec_set1(p[r * KEYS + j]);
            for (int n = 0; n < N; n++) sum[r * N + n] = vec_fma(p_j, v_j[n], sum[r * N + n]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) vec_store(acc + r * width + n * VEC_WIDTH, sum[r * N + n]);
}

PUNA_INLINE void weigh_rows(const int R, float *acc, int64_t width, const float *p, const float *v, int64_t stride, int64_t lo,
                            int64_t hi) {
    if (lo >= hi) return;
    int64_t d = 0;
    for (; d + 8 / R * VEC_WIDTH <= width; d += 8 / R * VEC_WIDTH)
        weigh_tile(R, 8 / R, acc + d, width, p, v + d, stride, lo, hi);
    for (; d < width; d += VEC_WIDTH) weigh_tile(R, 1, acc + d, width, p, v + d, stride, lo, hi);
}

/* The keys of the block that all of R rows see; empty as [0, 0). */
static void common_keys(const tile *t, int64_t i, int64_t R, int64_t *lo, int64_t *hi) {
    *lo = 0, *hi = KEYS;
    for (int64_t r = i; r < i + R; r++) *lo = puna_max(*lo, t->lo[r]), *hi = puna_min(*hi, t->hi[r]);
    if (*lo >= *hi) *lo = *hi = 0;
}

/* From scores to weights: s becomes p; m, l and acc move to the new maximum. */
static void softmax_row(tile *t, int64_t i, int64_t width) {
    float *s = t->s + i * KEYS, *acc = t->acc + i * width;
    for (int64_t j = 0; j < t->lo[i]; j++) s[j] = -INFINITY; /* unseen: weight 0 */
    for (int64_t j = t->hi[i]; j < KEYS; j++) s[j] = -INFINITY;
    vec largest = vec_load(s), sum = vec_zero();
    for (int64_t j = VEC_WIDTH; j < KEYS; j += VEC_WIDTH) largest = vec_max(largest, vec_load(s + j));
    float m = vec_hmax(largest);
    if (t->m[i] > m) m = t->m[i];
    vec shift = vec_set1(m == -INFINITY ? 0 : m); /* nothing but -inf so far: weights of 0, not NaN */
    for (int64_t j = 0; j < KEYS; j += VEC_WIDTH) {
        vec p = vec_exp(vec_sub(vec_load(s + j), shift));
        vec_store(s + j, p);
        sum = vec_add(sum, p);
    }
    float rescale[VEC_WIDTH];
    vec factor = vec_exp(vec_sub(vec_set1(t->m[i]), shift));
    vec_store(rescale, factor);
    t->l[i] = t->l[i] * rescale[0] + vec_hsum(sum);
    t->m[i] = m;
    for (int64_t d = 0; d < width; d += VEC_WIDTH) vec_store(acc + d, vec_mul(vec_load(acc + d), factor));
}

/* Takes all rows of a tile through one block of keys, which begins at k and v. */
static void attend_block(tile *t, int64_t rows, int64_t width, const float *k, const float *v, int64_t stride) {
    int64_t lo, hi;
    for (int64_t i = 0; i < rows; i += 2) {
        int64_t R = puna_min(2, rows - i);
        common_keys(t, i, R, &lo, &hi);
        float *s = t->s + i * KEYS;
        const float *q = t->q + i * width;
        if (R == 2) {
            for (int64_t r = 0; r < R; r++)
                score_rows(1, s + r * KEYS, q + r * width, width, k, stride, t->lo[i + r], lo < hi ? lo : t->hi[i + r]);
            score_rows(2, s, q, width, k, stride, lo, hi);
            for (int64_t r = 0; r < R && lo < hi; r++)
                score_rows(1, s + r * KEYS, q + r * width, width, k, stride, hi, t->hi[i + r]);
        } else {
            score_rows(1, s, q, width, k, stride, t->lo[i], t->hi[i]);
        }
    }
    for (int64_t i = 0; i < rows; i++)
        if (t->lo[i] < t->hi[i]) softmax_row(t, i, width);
    for (int64_t i = 0; i < rows; i += 4) {
        int64_t R = puna_min(4, rows - i);
        common_keys(t, i, R, &lo, &hi);
        float *acc = t->acc + i * width;
        const float *p = t->s + i * KEYS;
        if (R < 4) lo = hi = 0;
        for (int64_t r = 0; r < R; r++)
            weigh_rows(1, acc + r * width, width, p + r * KEYS, v, stride, t->lo[i + r], lo < hi ? lo : t->hi[i + r]);
        weigh_rows(4, acc, width, p, v, stride, lo, hi);
        for (int64_t r = 0; r < R && lo < hi; r++)
            weigh_rows(1, acc + r * width, width, p + r * KEYS, v, stride, hi, t->hi[i + r]);
    }
}

/* to (rows, width) = rows of HD elements of dtype, padded with zeros. */
static void load_rows(float *to, int64_t width, const char *from, int64_t stride, int32_t dtype, int64_t rows, int64_t HD) {
    for (int64_t r = 0; r < rows; r++) {
        decode_elements(to + r * width, from + r * stride, dtype, HD);
        for (int64_t d = HD; d < width; d++) to[r * width + d] = 0;
    }
}

static int64_t first_visible(int64_t position, int64_t window) {
    return window > 0 ? puna_max(0, position - window + 1) : 0;
}

/* Rows [i0, i0 + rows) of a sequence's queries of key/value head h. */
static void attend_tile(const job *j, const head *kv, int64_t s, int64_t h, int64_t i0, int64_t rows, float *memory) {
    int64_t G = j->NH / j->NKV, HD = j->HD, width = padded(HD);
    tile t;
    t.q = memory, t.acc = t.q + ROWS * width, t.k = t.acc + ROWS * width, t.v = t.k + KEYS * width, t.s = t.v + KEYS * width;
    vec scale = vec_set1(j->scale);
    for (int64_t i = 0; i < rows; i++) {
        int64_t token = (i0 + i) / G, head = h * G + (i0 + i) % G, position = kv->position + token;
        load_rows(t.q + i * width, width, (const char *)(j->q + (kv->token + token) * j->q_stride + head * HD), 0,
                  PUNA_DTYPE_F32, 1, HD);
        for (int64_t d = 0; d < width; d += VEC_WIDTH) {
            vec_store(t.q + i * width + d, vec_mul(vec_load(t.q + i * width + d), scale));
            vec_store(t.acc + i * width + d, vec_zero());
        }
        t.m[i] = -INFINITY, t.l[i] = 0;
        t.first[i] = first_visible(position, j->window);
        t.end[i] = position + 1;
    }

    bool direct = j->dtype == PUNA_DTYPE_F32 && width == HD;
    int64_t end = kv->position + (i0 + rows - 1) / G + 1; /* of the whole tile: first and end grow with the token */
    int64_t first = first_visible(kv->position + i0 / G, j->window);
    for (int64_t block = first / KEYS * KEYS; block < end; block += KEYS) {
        for (int64_t i = 0; i < rows; i++) {
            t.lo[i] = puna_min(puna_max(t.first[i] - block, 0), KEYS);
            t.hi[i] = puna_max(puna_min(t.end[i] - block, KEYS), 0);
            if (t.lo[i] >= t.hi[i]) t.lo[i] = t.hi[i] = 0;
        }
        const char *k = kv->k + block * kv->stride, *v = kv->v + block * kv->stride;
        if (direct) {
            attend_block(&t, rows, width, (const float *)k, (const float *)v, kv->stride / 4);
        } else {
            int64_t lo = puna_max(first - block, 0), hi = puna_min(end - block, KEYS);
            load_rows(t.k + lo * width, width, k + lo * kv->stride, kv->stride, j->dtype, hi - lo, HD);
            load_rows(t.v + lo * width, width, v + lo * kv->stride, kv->stride, j->dtype, hi - lo, HD);
            attend_block(&t, rows, width, t.k, t.v, width);
        }
    }

    for (int64_t i = 0; i < rows; i++) {
        int64_t token = (i0 + i) / G, head = h * G + (i0 + i) % G;
        float *y = j->y + (kv->token + token) * j->y_stride + head * HD;
        vec l = vec_set1(t.l[i]);
        int64_t d = 0;
        for (; d + VEC_WIDTH <= HD; d += VEC_WIDTH) vec_store(y + d, vec_div(vec_load(t.acc + i * width + d), l));
        if (d < HD) vec_store_partial(y + d, vec_div(vec_load(t.acc + i * width + d), l), HD - d); /* tail of the head */
        if (j->lse != NULL) j->lse[(s * j->NH + head) * j->T + token] = t.m[i] + logf(t.l[i]);
    }
}

static void run_share(void *arguments, int64_t share, int32_t thread) {
    const job *j = arguments;
    int64_t G = j->NH / j->NKV, units = j->tiles * j->NKV;
    float *memory = (float *)j->workspace + thread * thread_floats(j->HD);
    for (int64_t unit = share * units / j->shares; unit < (share + 1) * units / j->shares; unit++) {
        int64_t h = unit % j->NKV, at = j->tiles - 1 - unit / j->NKV; /* the last tokens, which see most, first */
        int64_t s = 0, token = 0;
        for (;; s++) {
            int64_t tiles = puna_ceil_div(sequence_rows(j, s) * G, j->tile_rows);
            if (at < tiles) break;
            at -= tiles;
            token += sequence_rows(j, s);
        }
        head kv = head_of(j, s, h, token);
        int64_t i0 = at * j->tile_rows, rows = puna_min(j->tile_rows, sequence_rows(j, s) * G - i0);
        attend_tile(j, &kv, s, h, i0, rows, memory);
    }
}

enum { SHARE_CYCLES = 20000 }; /* some microseconds: far above what handing out a share costs */

/* Tiles are as large as leaves a share for every thread; small ones go together in a share. */
static void run(puna_context *context, job *j, void *workspace) {
    int64_t G = j->NH / j->NKV;
    double cycles = 0;
    for (int64_t s = 0; s < j->count; s++) {
        int64_t rows = sequence_rows(j, s), position = j->k != NULL ? j->S - j->T : j->sequences[s].position;
        double seen = (double)position + (double)rows / 2;
        if (j->window > 0 && seen > (double)j->window) seen = (double)j->window;
        cycles += (double)(rows * j->NH) * (seen + 8) * (double)j->HD / VEC_WIDTH;
    }
    for (j->tile_rows = ROWS;; j->tile_rows /= 2) {
        j->tiles = 0;
        for (int64_t s = 0; s < j->count; s++) j->tiles += puna_ceil_div(sequence_rows(j, s) * G, j->tile_rows);
        if (j->tiles * j->NKV >= context->threads || j->tile_rows == 1) break;
    }
    int64_t worth = cycles / SHARE_CYCLES < 1e6 ? (int64_t)(cycles / SHARE_CYCLES) : 1000000;
    j->shares = puna_max(1, puna_min(j->tiles * j->NKV, worth));
    j->workspace = (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63);
    puna_parallel(context, j->tiles == 0 ? 0 : j->shares, run_share, j);
}

int64_t PUNA_KERNEL(attention_workspace_size)(puna_context *context, int64_t NH, int64_t NKV, int64_t HD) {
    (void)NH, (void)NKV;
    return context->threads * thread_floats(HD) * (int64_t)sizeof(float) + 63;
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

static void store_head(const append *a, void *cache, int64_t at, const float *from) {
    if (a->dtype == PUNA_DTYPE_F32) {
        memcpy((float *)cache + at, from, (size_t)a->HD * sizeof(float));
        return;
    }
    uint16_t *to = (uint16_t *)cache + at;
    int64_t d = 0;
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
