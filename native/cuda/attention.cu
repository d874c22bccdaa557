/*
 * Few rows of a sequence (a next token): version 1, split-KV: a block for a row, a key/value head with up to four of its query heads,
 * and a stretch of keys; its four warps take keys in turn, a warp's lanes share the head's width, and a second kernel joins the
 * stretches. Not measured. Next: eight lanes a key with 16-byte loads, so that a key costs three shuffles and not five a head.
 *
 * Many rows: version 1, tiles of 64 queries (32 for heads above 128) against 32 keys, softmax online, both products on the tensor cores
 * at F32's precision (mma.cuh). The weights' registers serve as the second product's left side as they are, because keys may be
 * taken in any order if values are too. A tile that holds a number that is not finite is computed without tensor cores: a hidden
 * key's weight of zero must not meet an infinity, nor a rest an infinity's other half. Not measured. Next: cp.async in two stages;
 * WGMMA on sm_90a. In contexts of PUNA_PRECISION_BF16 many rows are attention_bf16.cu.
 */
#include "attention.cuh"
#include "decode.cuh"

/* Where a layer of a sequence's cache is, and what the step adds to it; row is its first among all. */
static __host__ __device__ attention_part cached_part(const part_list &list, const puna_kv_sequence &sequence, int64_t row) {
    int64_t head_stride = sequence.capacity * list.HD, plane = list.NKV * (head_stride / list.block.elements * list.block.bytes);
    const char *k = (const char *)sequence.cache + list.layer * 2 * plane;
    return {k, k + plane, head_stride, list.HD, row, sequence.rows, sequence.position, 0};
}

static __device__ attention_part part_at(const part_list &list, int p) {
    int64_t row = list.parts[p].first; /* which in a recording is the sequence's number too */
    return list.sequences == nullptr ? list.parts[p] : cached_part(list, list.sequences[row], row);
}

/* Element i of a cache; puna_value without the arithmetic that the device has an instruction for. */
template <int32_t kDtype> static __device__ float key_value(const char *data, int64_t i) {
    if constexpr (kDtype == PUNA_DTYPE_Q8_0) {
        const puna_q8_0 *block = (const puna_q8_0 *)data + i / 32;
        return f16_value(block->d) * (float)block->q[i % 32];
    } else {
        return plain_value(data, kDtype, i);
    }
}

/* ------------------------------------------------- few rows --------------------------------------------------------- */

constexpr int kFewWarps = 4, kHeads = 4;

/* The part and the row in it of the call's row-th row. */
static __device__ int find_row(const part_list &list, int64_t &row) {
    int p = 0;
    while (row >= list.parts[p].rows) row -= list.parts[p++].rows;
    return p;
}

/* partial (rows, splits, NH, HD + 2): the sums, then the largest score and the total of weights. */
template <int kHD, int32_t kDtype>
static __global__ void __launch_bounds__(32 * kFewWarps)
    attend_split(attention_call j, part_list list, int64_t first_row, int64_t split_keys, int64_t splits, float *partial) {
    take_turn();
    constexpr int kLaneWidth = kHD / 32;
    __shared__ float sums[kFewWarps][kHeads][kHD];
    __shared__ float largests[kFewWarps][kHeads], totals[kFewWarps][kHeads];
    int64_t group = j.NH / j.NKV, groups = (group + kHeads - 1) / kHeads;
    int64_t unit = blockIdx.x, split = blockIdx.y;
    int64_t row = first_row + unit / (j.NKV * groups), kv_head = unit / groups % j.NKV;
    int64_t head = kv_head * group + unit % groups * kHeads;
    int heads = (int)min((int64_t)kHeads, (kv_head + 1) * group - head);
    int64_t at_row = row;
    const attention_part part = part_at(list, find_row(list, at_row));
    int64_t position = part.position + at_row;
    int64_t begin = j.window > 0 && position >= j.window ? position - j.window + 1 : 0;
    begin += split * split_keys;
    if (begin > position) return; /* the whole block: a stretch that only longer sequences have */
    int64_t end = min(begin + split_keys, position + 1);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    float q[kHeads][kLaneWidth], sum[kHeads][kLaneWidth], largest[kHeads], total[kHeads];
    for (int h = 0; h < kHeads; h++) {
        largest[h] = -INFINITY, total[h] = 0;
        for (int i = 0; i < kLaneWidth; i++) {
            int64_t d = lane + 32 * i;
            sum[h][i] = 0;
            q[h][i] = h < heads && d < j.HD ? j.q[(part.first + at_row) * j.q_stride + (head + h) * j.HD + d] : 0;
        }
    }
    for (int64_t key = begin + warp; key < end; key += kFewWarps) {
        int64_t at = kv_head * part.head_stride + key * part.key_stride;
        float k[kLaneWidth], v[kLaneWidth];
        for (int i = 0; i < kLaneWidth; i++) {
            int64_t d = lane + 32 * i;
            k[i] = d < j.HD ? key_value<kDtype>(part.k, at + d) : 0;
            v[i] = d < j.HD ? key_value<kDtype>(part.v, at + d) : 0;
        }
        for (int h = 0; h < kHeads; h++) {
            if (h >= heads) break;
            float dot = 0;
            for (int i = 0; i < kLaneWidth; i++) dot = fmaf(q[h][i], k[i], dot);
            float score = warp_reduce<sum_of>(dot) * j.scale, new_largest = fmaxf(largest[h], score);
            float correction = expf(largest[h] - shift_of(new_largest)), weight = expf(score - shift_of(new_largest));
            largest[h] = new_largest;
            total[h] = fmaf(total[h], correction, weight);
            for (int i = 0; i < kLaneWidth; i++) sum[h][i] = fmaf(weight, v[i], sum[h][i] * correction);
        }
    }
    for (int h = 0; h < kHeads; h++) {
        for (int i = 0; i < kLaneWidth; i++) sums[warp][h][lane + 32 * i] = sum[h][i];
        if (lane == 0) largests[warp][h] = largest[h], totals[warp][h] = total[h];
    }
    __syncthreads();
    for (int h = 0; h < heads; h++) {
        float *out = partial + ((unit / (j.NKV * groups) * splits + split) * j.NH + head + h) * (j.HD + 2);
        float all_largest = -INFINITY;
        for (int w = 0; w < kFewWarps; w++) all_largest = fmaxf(all_largest, largests[w][h]);
        for (int64_t d = threadIdx.x; d < j.HD + 1; d += blockDim.x) {
            float all = 0;
            for (int w = 0; w < kFewWarps; w++)
                all = fmaf(d < j.HD ? sums[w][h][d] : totals[w][h], expf(largests[w][h] - shift_of(all_largest)), all);
            out[d < j.HD ? d : d + 1] = all;
        }
        if (threadIdx.x == 0) out[j.HD] = all_largest;
    }
}

static __global__ void join_splits(attention_call j, part_list list, int64_t first_row, int64_t split_keys, int64_t splits,
                                   const float *partial) {
    take_turn();
    int64_t head = blockIdx.y, row = first_row + blockIdx.x, at_row = row;
    const attention_part part = part_at(list, find_row(list, at_row));
    int64_t position = part.position + at_row;
    int64_t seen = j.window > 0 ? min(j.window, position + 1) : position + 1;
    int64_t used = (seen + split_keys - 1) / split_keys, width = j.HD + 2;
    const float *from = partial + (blockIdx.x * splits * j.NH + head) * width;
    float largest = -INFINITY, total = 0;
    for (int64_t s = 0; s < used; s++) largest = fmaxf(largest, from[s * j.NH * width + j.HD]);
    for (int64_t s = 0; s < used; s++) {
        const float *split = from + s * j.NH * width;
        total = fmaf(split[j.HD + 1], expf(split[j.HD] - shift_of(largest)), total);
    }
    for (int64_t d = threadIdx.x; d < j.HD; d += blockDim.x) {
        float sum = 0;
        for (int64_t s = 0; s < used; s++) {
            const float *split = from + s * j.NH * width;
            sum = fmaf(split[d], expf(split[j.HD] - shift_of(largest)), sum);
        }
        j.y[(part.first + at_row) * j.y_stride + head * j.HD + d] = sum / total;
    }
    if (j.lse != nullptr && threadIdx.x == 0) j.lse[part.lse + head * part.rows + at_row] = largest + logf(total);
}

template <int kHD, int32_t kDtype> static cudaError_t attend_few(cuda_context &c, const attention_call &j, const part_list &list) {
    int64_t rows = 0, keys = 0, group = j.NH / j.NKV, groups = puna_ceil_div(group, kHeads);
    for (int p = 0; p < list.count; p++) {
        const attention_part &part = list.parts[p];
        int64_t seen = list.sequences != nullptr ? c.recorded.capacity : part.position + part.rows;
        rows += part.rows;
        keys = puna_max(keys, j.window > 0 ? puna_min(seen, j.window) : seen);
    }
    int64_t split_keys = puna_cuda_split_keys(keys, j.NH, j.HD, kScratchBytes);
    if (split_keys == 0 || j.NH > 65535) return cudaErrorInvalidConfiguration;
    int64_t splits = puna_ceil_div(keys, split_keys);
    if (splits > 65535) return cudaErrorInvalidConfiguration;
    int64_t most = kScratchBytes / (splits * puna_cuda_partial_bytes(j.NH, j.HD));
    float *partial = (float *)c.scratch;
    for (int64_t r = 0; r < rows; r += most) {
        int64_t part = puna_min(most, rows - r);
        dim3 grid((unsigned)(part * j.NKV * groups), (unsigned)splits), joined((unsigned)part, (unsigned)j.NH);
        CUDA_TRY(launch_next(c, attend_split<kHD, kDtype>, grid, 32 * kFewWarps, 0, j, list, r, split_keys, splits, partial));
        CUDA_TRY(launch_next(c, join_splits, joined, 64, 0, j, list, r, split_keys, splits, partial));
    }
    return cudaSuccess;
}

/* ------------------------------------------------- many rows -------------------------------------------------------- */

constexpr int kTileKeys = 32;
template <int kHD> constexpr int kTileQueries = kHD <= 128 ? 64 : 32;
template <int kHD> constexpr int64_t kTileBytes = (kTileQueries<kHD> + 2 * kTileKeys) * (kHD + 4) * (int64_t)sizeof(float);

template <int kHD, int32_t kDtype>
static __global__ void __launch_bounds__(2 * kTileQueries<kHD>) attend_tile(attention_call j, part_list list) {
    DYNAMIC_SHARED(float, shared);
    constexpr int kPitch = kHD + 4, kThreads = 2 * kTileQueries<kHD>;
    constexpr bool kRestOfB = kDtype != PUNA_DTYPE_F16 && kDtype != PUNA_DTYPE_BF16; /* of keys and values, beyond TF32 */
    float *q_tile = shared, *k_tile = q_tile + kTileQueries<kHD> * kPitch, *v_tile = k_tile + kTileKeys * kPitch;
    const attention_part &part = list.parts[blockIdx.z];
    /* The last rows, which see the most keys, come first: what is begun at the end is short. */
    int64_t first = (int64_t)(gridDim.x - 1 - blockIdx.x) * kTileQueries<kHD>, head = blockIdx.y;
    if (first >= part.rows) return;
    int64_t last = min(first + kTileQueries<kHD>, part.rows) - 1, kv_head = head / (j.NH / j.NKV);
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, own = threadIdx.x / 32 * 16;

    for (int at = threadIdx.x; at < kTileQueries<kHD> * kHD; at += kThreads) {
        int r = at / kHD, d = at % kHD;
        bool inside = first + r <= last && d < j.HD;
        q_tile[r * kPitch + d] = inside ? j.q[(part.first + first + r) * j.q_stride + head * j.HD + d] : 0;
    }
    int64_t end = part.position + last + 1, begin = part.position + first;
    begin = j.window > 0 && begin >= j.window ? begin - j.window + 1 : 0;
    begin = begin / kTileKeys * kTileKeys; /* so that keys come in the same tiles whatever the rows */

    float y[kHD / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    for (int64_t key0 = begin; key0 < end; key0 += kTileKeys) {
        int odd = 0;
        __syncthreads();
        for (int at = threadIdx.x; at < kTileKeys * kHD; at += kThreads) {
            int key = at / kHD, d = at % kHD;
            int64_t from = kv_head * part.head_stride + (key0 + key) * part.key_stride + d;
            bool inside = key0 + key < end && d < j.HD;
            float k = inside ? key_value<kDtype>(part.k, from) : 0, v = inside ? key_value<kDtype>(part.v, from) : 0;
            k_tile[key * kPitch + d] = k;
            v_tile[key * kPitch + d] = v;
            odd |= !isfinite(k) || !isfinite(v);
        }
        odd = __syncthreads_or(odd);

        float s[kTileKeys / 8][4] = {};
        if (odd) {
            UNROLL
            for (int n = 0; n < kTileKeys / 8; n++)
                UNROLL
                for (int e = 0; e < 4; e++) {
                    const float *q_r = q_tile + (own + g + e / 2 * 8) * kPitch, *k_r = k_tile + (8 * n + 2 * t + e % 2) * kPitch;
                    for (int d = 0; d < j.HD; d++) s[n][e] = fmaf(q_r[d], k_r[d], s[n][e]);
                }
        } else {
            for (int d = 0; d < kHD; d += 8) {
                const float *q_at = q_tile + (own + g) * kPitch + d + t;
                split_tf32 a[4] = {split(q_at[0]), split(q_at[8 * kPitch]), split(q_at[4]), split(q_at[8 * kPitch + 4])};
                UNROLL
                for (int n = 0; n < kTileKeys / 8; n++) {
                    const float *k_at = k_tile + (8 * n + g) * kPitch + d + t;
                    split_tf32 b[2] = {split(k_at[0]), split(k_at[4])};
                    multiply<kRestOfB>(s[n], a, b);
                }
            }
        }
        float new_largest[2] = {largest[0], largest[1]};
        unsigned seen = 0; /* bit 4 n + e */
        UNROLL
        for (int n = 0; n < kTileKeys / 8; n++)
            UNROLL
            for (int e = 0; e < 4; e++) {
                int64_t key = key0 + 8 * n + 2 * t + e % 2, position = part.position + first + own + g + e / 2 * 8;
                bool visible = key <= position && (j.window == 0 || key > position - j.window) && key < end;
                s[n][e] = visible ? s[n][e] * j.scale : -INFINITY;
                seen |= (unsigned)visible << (4 * n + e);
                new_largest[e / 2] = fmaxf(new_largest[e / 2], s[n][e]);
            }
        UNROLL
        for (int i = 0; i < 2; i++) { /* a row's scores are in four lanes */
            new_largest[i] = fmaxf(new_largest[i], __shfl_xor_sync(kAllLanes, new_largest[i], 1));
            new_largest[i] = fmaxf(new_largest[i], __shfl_xor_sync(kAllLanes, new_largest[i], 2));
            float correction = expf(largest[i] - shift_of(new_largest[i]));
            largest[i] = new_largest[i];
            total[i] *= correction;
            UNROLL
            for (int d = 0; d < kHD / 8; d++) y[d][2 * i] *= correction, y[d][2 * i + 1] *= correction;
        }
        UNROLL
        for (int n = 0; n < kTileKeys / 8; n++)
            UNROLL
            for (int e = 0; e < 4; e++) {
                s[n][e] = expf(s[n][e] - shift_of(largest[e / 2]));
                total[e / 2] += s[n][e];
            }
        if (odd) {
            add_seen<kTileKeys / 8, kHD>(y, s, seen, lane, [=](int key, int d) { return v_tile[key * kPitch + d]; });
            continue;
        }
        UNROLL
        for (int n = 0; n < kTileKeys / 8; n++) {
            /* Column t of the left side is key 2 t, column t + 4 is key 2 t + 1; the right side's rows likewise. */
            split_tf32 a[4] = {split(s[n][0]), split(s[n][2]), split(s[n][1]), split(s[n][3])};
            UNROLL
            for (int d = 0; d < kHD / 8; d++) {
                const float *v_at = v_tile + (8 * n + 2 * t) * kPitch + 8 * d + g;
                split_tf32 b[2] = {split(v_at[0]), split(v_at[kPitch])};
                multiply<kRestOfB>(y[d], a, b);
            }
        }
    }
    UNROLL
    for (int i = 0; i < 2; i++) {
        total[i] += __shfl_xor_sync(kAllLanes, total[i], 1);
        total[i] += __shfl_xor_sync(kAllLanes, total[i], 2);
        int64_t r = first + own + g + 8 * i;
        if (r > last) continue;
        float *to = j.y + (part.first + r) * j.y_stride + head * j.HD;
        UNROLL
        for (int d = 0; d < kHD / 8; d++)
            UNROLL
            for (int e = 0; e < 2; e++)
                if (8 * d + 2 * t + e < j.HD) to[8 * d + 2 * t + e] = y[d][2 * i + e] / total[i];
        if (j.lse != nullptr && t == 0) j.lse[part.lse + head * part.rows + r] = largest[i] + logf(total[i]);
    }
}

template <int kHD, int32_t kDtype> static cudaError_t attend_many(cuda_context &c, const attention_call &j, const part_list &list) {
    int64_t rows = 0;
    for (int p = 0; p < list.count; p++) rows = puna_max(rows, list.parts[p].rows);
    int64_t tiles = puna_ceil_div(rows, kTileQueries<kHD>);
    if (tiles > INT32_MAX || j.NH > 65535) return cudaErrorInvalidConfiguration;
    dim3 grid((unsigned)tiles, (unsigned)j.NH, (unsigned)list.count);
    return launch(c, attend_tile<kHD, kDtype>, grid, 2 * kTileQueries<kHD>, kTileBytes<kHD>, j, list);
}

/* ------------------------------------------------- calls ------------------------------------------------------------ */

enum how { FEW_ROWS, MANY_ROWS, MANY_ROWS_IN_BF16, HOWS };

template <int32_t kDtype> static cudaError_t attend(cuda_context &c, const attention_call &j, const part_list &list, int how) {
    if (list.count == 0) return cudaSuccess;
    if (how == MANY_ROWS_IN_BF16) return attend_in_bf16(c, j, list, kDtype);
    if (how == FEW_ROWS)
        return j.HD <= 64 ? attend_few<64, kDtype>(c, j, list) : j.HD <= 128 ? attend_few<128, kDtype>(c, j, list)
               : attend_few<256, kDtype>(c, j, list);
    return j.HD <= 64 ? attend_many<64, kDtype>(c, j, list) : j.HD <= 96 ? attend_many<96, kDtype>(c, j, list)
           : j.HD <= 128 ? attend_many<128, kDtype>(c, j, list) : attend_many<256, kDtype>(c, j, list);
}

/* Computes count parts, part_of(i), kParts of a kind at a time. */
template <int32_t kDtype, class PartOf> static cudaError_t attend_all(cuda_context &c, const attention_call &j, int64_t count,
                                                                 PartOf part_of, const part_list &empty = {}) {
    part_list lists[HOWS] = {empty, empty, empty};
    for (int64_t i = 0; i < count; i++) {
        attention_part part = part_of(i);
        if (part.rows == 0) continue;
        int how = part.rows < PUNA_CUDA_TILE_ROWS ? FEW_ROWS : rounds_attention(c, part, j) ? MANY_ROWS_IN_BF16 : MANY_ROWS;
        part_list &list = lists[how];
        list.parts[list.count++] = part;
        if (list.count < kParts) continue;
        CUDA_TRY(attend<kDtype>(c, j, list, how));
        list.count = 0;
    }
    CUDA_TRY(attend<kDtype>(c, j, lists[MANY_ROWS_IN_BF16], MANY_ROWS_IN_BF16));
    CUDA_TRY(attend<kDtype>(c, j, lists[MANY_ROWS], MANY_ROWS));
    return attend<kDtype>(c, j, lists[FEW_ROWS], FEW_ROWS);
}

static bool too_wide(puna_context *base, const char *op, int64_t HD, puna_status *status) {
    if (HD <= PUNA_CUDA_MOST_WIDTH) return false;
    *status = static_cast<cuda_context *>(base)->fail(PUNA_STATUS_UNSUPPORTED, "%s: HD is %lld, on a CUDA device at most %d", op,
                                                      (long long)HD, PUNA_CUDA_MOST_WIDTH);
    return true;
}

int64_t PUNA_KERNEL(attention_workspace_size)(puna_context *context, int64_t NH, int64_t NKV, int64_t HD) {
    (void)context, (void)NH, (void)NKV, (void)HD;
    return 0;
}

puna_status PUNA_KERNEL(attention_forward)(puna_context *context, float *y, int64_t y_stride, float *lse, const float *q,
                                           int64_t q_stride, const float *k, const float *v, int64_t kv_stride, int64_t B,
                                           int64_t T, int64_t S, int64_t NH, int64_t NKV, int64_t HD, int64_t window,
                                           float scale, void *workspace) {
    (void)workspace;
    const char *op = "puna_attention_forward";
    puna_status status;
    if (too_wide(context, op, HD, &status)) return status;
    attention_call j = {y, lse, q, y_stride, q_stride, NH, NKV, HD, window, scale};
    return run(context, op, [=](cuda_context &c) {
        return attend_all<PUNA_DTYPE_F32>(c, j, B, [=](int64_t b) {
            return attention_part{(const char *)(k + b * S * kv_stride), (const char *)(v + b * S * kv_stride), HD, kv_stride,
                                  b * T, T, S - T, b * NH * T};
        });
    });
}

static part_list empty_list(const cuda_context &c, int32_t cache_dtype, int64_t layer, int64_t NKV, int64_t HD) {
    part_list list = {};
    list.sequences = c.sequences;
    list.layer = layer, list.NKV = NKV, list.HD = HD, list.block = puna_block_of(cache_dtype);
    return list;
}

puna_status PUNA_KERNEL(attention_cached_forward)(puna_context *context, float *y, int64_t y_stride, const float *q,
                                                  int64_t q_stride, const puna_kv_sequence *sequences, int32_t count,
                                                  int32_t cache_dtype, int64_t layer, int64_t NH, int64_t NKV, int64_t HD,
                                                  int64_t window, float scale, void *workspace) {
    (void)workspace;
    const char *op = "puna_attention_cached_forward";
    puna_status status;
    if (too_wide(context, op, HD, &status)) return status;
    attention_call j = {y, nullptr, q, y_stride, q_stride, NH, NKV, HD, window, scale};
    return run(context, op, [=](cuda_context &c) {
        part_list empty = empty_list(c, cache_dtype, layer, NKV, HD);
        int64_t row = 0;
        auto next = [&](int64_t s) {
            attention_part part = cached_part(empty, sequences[s], row);
            row += part.rows;
            return part;
        };
        switch (cache_dtype) {
        case PUNA_DTYPE_F32: return attend_all<PUNA_DTYPE_F32>(c, j, count, next, empty);
        case PUNA_DTYPE_F16: return attend_all<PUNA_DTYPE_F16>(c, j, count, next, empty);
        case PUNA_DTYPE_BF16: return attend_all<PUNA_DTYPE_BF16>(c, j, count, next, empty);
        default: return attend_all<PUNA_DTYPE_Q8_0>(c, j, count, next, empty);
        }
    });
}

/* A block for a row of the step: its keys, then its values, step elements at a time, which are a block of the cache's type. */
static __global__ void append(part_list list, int32_t cache_dtype, int64_t step, const float *k, const float *v, int64_t kv_stride,
                              int64_t NKV, int64_t HD) {
    take_turn();
    int64_t t = blockIdx.x;
    const attention_part part = part_at(list, find_row(list, t));
    for (int64_t i = threadIdx.x * step; i < 2 * NKV * HD; i += blockDim.x * step) {
        bool value = i >= NKV * HD;
        int64_t h = i / HD % NKV, d = i % HD;
        const float *a = (value ? v : k) + (part.first + t) * kv_stride + h * HD + d;
        void *to = (void *)(value ? part.v : part.k);
        int64_t at = h * part.head_stride + (part.position + t) * HD + d;
        if (cache_dtype == PUNA_DTYPE_F32) ((float *)to)[at] = *a;
        else if (cache_dtype == PUNA_DTYPE_F16) ((uint16_t *)to)[at] = f16_bits(*a);
        else if (cache_dtype == PUNA_DTYPE_BF16) ((uint16_t *)to)[at] = (uint16_t)bf16_pair(*a, 0);
        else puna_quantize_q8_0((puna_q8_0 *)to + at / step, a);
    }
}

puna_status PUNA_KERNEL(kv_append)(puna_context *context, const puna_kv_sequence *sequences, int32_t count,
                                   int32_t cache_dtype, int64_t layer, const float *k, const float *v, int64_t kv_stride,
                                   int64_t NKV, int64_t HD) {
    return run(context, "puna_kv_append", [=](cuda_context &c) {
        part_list list = empty_list(c, cache_dtype, layer, NKV, HD);
        int64_t row = 0, rows = 0, step = puna_block_of(cache_dtype).elements;
        for (int32_t s = 0; s < count; s++) {
            if (sequences[s].rows > 0) list.parts[list.count++] = cached_part(list, sequences[s], row);
            row += sequences[s].rows, rows += sequences[s].rows;
            if (rows == 0 || (list.count < kParts && s + 1 < count)) continue;
            if (rows > INT32_MAX) return cudaErrorInvalidConfiguration;
            CUDA_TRY(launch_next(c, append, (unsigned)rows, kRowThreads, 0, list, cache_dtype, step, k, v, kv_stride, NKV, HD));
            list.count = 0, rows = 0;
        }
        return cudaSuccess;
    });
}
