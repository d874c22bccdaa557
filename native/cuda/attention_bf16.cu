/*
 * Attention of many rows in contexts of PUNA_PRECISION_BF16: q, k, v and the weights rounded to BF16, once each; scores, softmax, lse and
 * sums F32.
 *
 * Version 3: keys and values lie rounded in a cache of BF16; others are rounded by a pass into the scratch, as (head, key, width). Then a
 * block of four warps for 64 queries of a head goes through 64 keys at a time, whose keys arrive by cp.async while it works on the values
 * before, and values while it works on the keys (FlashAttention-2's order); fragments by ldmatrix, weights stay in registers; only tiles on
 * the diagonal and at the window's edge look at positions, and a warp that sees none of a tile leaves it out. Blocks with the most keys
 * come first. Should be bound by the tensor cores and, half as much, by exp2; not measured. Next: 128 queries a block, which read the L2
 * half as often; WGMMA on sm_90a.
 *
 * What a row does not see adds nothing to it, whatever it holds: hidden scores are replaced, and where a tile that only some of its rows
 * see has values that are not finite, weights and values meet without tensor cores.
 */
#include "attention_bf16.cuh"

constexpr int kQueries = 64, kKeys = PUNA_CUDA_BF16_KEYS, kTileThreads = 128;
template <int kHD> constexpr int64_t kTileBytes = (kQueries + 2 * kKeys) * kPitch<kHD> * (int64_t)sizeof(uint16_t);

/* Whether one of two BF16 numbers is not finite. */
static __device__ bool odd_pair(uint32_t pair) { return (pair & 0x7F80) == 0x7F80 || (pair & 0x7F800000) == 0x7F800000; }

/* Of list's parts the heads from first_head on, one for each x of the grid. Keys are counted from the first that lies in part.k. */
template <int kHD>
static __global__ void __launch_bounds__(kTileThreads)
    attend_tile_bf16(attention_call j, const __grid_constant__ part_list list, int64_t first_head) {
    DYNAMIC_SHARED(uint16_t, shared);
    uint16_t *q_tile = shared, *k_tile = q_tile + kQueries * kPitch<kHD>, *v_tile = k_tile + kKeys * kPitch<kHD>;
    const attention_part &part = list.parts[blockIdx.y];
    int64_t first = (int64_t)(gridDim.z - 1 - blockIdx.z) * kQueries, head = first_head + blockIdx.x;
    if (first >= part.rows) return;
    int64_t last = min(first + kQueries, part.rows) - 1, kv_head = blockIdx.x / (j.NH / j.NKV);
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, own = threadIdx.x / 32 * 16;
    const bf16_matrix k = {(const uint16_t *)part.k + kv_head * part.head_stride, part.key_stride};
    const bf16_matrix v = {(const uint16_t *)part.v + kv_head * part.head_stride, part.key_stride};

    int64_t end = part.position + last + 1, begin = part.position + first;
    begin = (j.window > 0 && begin >= j.window ? begin - j.window + 1 : 0) / kKeys * kKeys;
    ask_for_tile<kKeys, kHD, kTileThreads>(k_tile, k, begin, end, 0, k.stride);
    commit_copies();
    for (int at = threadIdx.x; at < kQueries * kHD / 2; at += kTileThreads) {
        int r = at / (kHD / 2), d = at % (kHD / 2) * 2;
        const float *q = j.q + (part.first + first + r) * j.q_stride + head * j.HD + d;
        bool inside = first + r <= last;
        *(uint32_t *)(q_tile + place<kHD>(r, d / 8) + d % 8) = bf16_pair(inside && d < j.HD ? q[0] : 0, inside && d + 1 < j.HD ? q[1] : 0);
    }

    float y[kHD / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}; /* of scores times log2(e)     */
    float scale = j.scale * kLog2E;
    int64_t position = part.position + first + own; /* of the warp's first row, 15 before its last                  */
    for (int64_t key0 = begin; key0 < end; key0 += kKeys) {
        auto meets_edge = [&](int64_t from, int64_t to) { /* rows of these positions do not all see all of these keys */
            return key0 + kKeys - 1 > from || (j.window > 0 && key0 <= to - j.window);
        };
        bool hidden = key0 > position + 15 || (j.window > 0 && key0 + kKeys - 1 <= position - j.window);
        wait_for_copies<0>();
        __syncthreads(); /* keys are here, and nobody is left in the values before */
        ask_for_tile<kKeys, kHD, kTileThreads>(v_tile, v, key0, end, 0, v.stride);
        commit_copies();

        float s[kKeys / 8][4] = {};
        if (!hidden) scores<kHD, kKeys>(s, q_tile, own, k_tile);
        wait_for_copies<0>();
        __syncthreads(); /* values are here, and nobody is left in the keys */
        if (key0 + kKeys < end) ask_for_tile<kKeys, kHD, kTileThreads>(k_tile, k, key0 + kKeys, end, 0, k.stride);
        commit_copies();
        int odd = 0;
        if (meets_edge(part.position + first, part.position + last)) {
            for (int at = threadIdx.x; at < kKeys * kHD / 2; at += kTileThreads) {
                int key = at / (kHD / 2), d = at % (kHD / 2) * 2;
                odd |= odd_pair(*(const uint32_t *)(v_tile + place<kHD>(key, d / 8) + d % 8));
            }
            odd = __syncthreads_or(odd);
        }
        if (hidden) continue;

        unsigned seen = ~0u; /* bit 4 n + e */
        UNROLL
        for (int n = 0; n < kKeys / 8; n++)
            UNROLL
            for (int e = 0; e < 4; e++) s[n][e] *= scale;
        if (meets_edge(position, position + 15)) {
            UNROLL
            for (int n = 0; n < kKeys / 8; n++)
                UNROLL
                for (int e = 0; e < 4; e++) {
                    int64_t key = key0 + 8 * n + 2 * t + e % 2, at = position + g + e / 2 * 8;
                    if (key <= at && (j.window == 0 || key > at - j.window)) continue;
                    s[n][e] = -INFINITY;
                    seen &= ~(1u << (4 * n + e));
                }
        }
        UNROLL
        for (int i = 0; i < 2; i++) { /* a row's scores are in four lanes */
            float new_largest = largest[i];
            UNROLL
            for (int n = 0; n < kKeys / 8; n++) new_largest = fmaxf(new_largest, fmaxf(s[n][2 * i], s[n][2 * i + 1]));
            new_largest = fmaxf(new_largest, __shfl_xor_sync(kAllLanes, new_largest, 1));
            new_largest = fmaxf(new_largest, __shfl_xor_sync(kAllLanes, new_largest, 2));
            float shift = shift_of(new_largest), correction = exp2f(largest[i] - shift);
            largest[i] = new_largest;
            total[i] *= correction;
            UNROLL
            for (int d = 0; d < kHD / 8; d++) y[d][2 * i] *= correction, y[d][2 * i + 1] *= correction;
            UNROLL
            for (int n = 0; n < kKeys / 8; n++)
                UNROLL
                for (int e = 2 * i; e < 2 * i + 2; e++) {
                    s[n][e] = exp2f(s[n][e] - shift);
                    total[i] += s[n][e];
                }
        }
        if (odd) {
            UNROLL
            for (int n = 0; n < kKeys / 8; n++)
                UNROLL
                for (int e = 0; e < 4; e++) s[n][e] = puna_bf16_to_f32((uint16_t)bf16_pair(s[n][e], 0));
            add_seen<kKeys / 8, kHD>(y, s, seen, lane, [=](int key, int d) {
                return puna_bf16_to_f32(v_tile[place<kHD>(key, d / 8) + d % 8]);
            });
            continue;
        }
        add_products<kHD, kKeys>(y, s, v_tile);
    }
    bool pairs = ((uintptr_t)j.y | (uint64_t)(j.y_stride | j.HD) * sizeof(float)) % sizeof(float2) == 0;
    UNROLL
    for (int i = 0; i < 2; i++) {
        total[i] += __shfl_xor_sync(kAllLanes, total[i], 1);
        total[i] += __shfl_xor_sync(kAllLanes, total[i], 2);
        int64_t r = first + own + g + 8 * i;
        if (r > last) continue;
        float *to = j.y + (part.first + r) * j.y_stride + head * j.HD;
        UNROLL
        for (int d = 0; d < kHD / 8; d++) {
            int column = 8 * d + 2 * t;
            store_pair(to + column, y[d][2 * i] / total[i], y[d][2 * i + 1] / total[i], j.HD - column, pairs, false);
        }
        if (j.lse != nullptr && t == 0) j.lse[part.lse + head * part.rows + r] = largest[i] * kLn2 + logf(total[i]);
    }
}

/* The keys that a part's rows see, from the first of a tile on: the same tiles however a prompt is cut. */
static int64_t first_of(const attention_part &part, int64_t window) {
    return puna_cuda_first_key(part.position, window) / kKeys * kKeys;
}
static int64_t keys_of(const attention_part &part, int64_t window) { return part.position + part.rows - first_of(part, window); }

bool rounds_attention(const cuda_context &c, const attention_part &part, const attention_call &j) {
    return c.precision == PUNA_PRECISION_BF16 && puna_cuda_bf16_key_bytes(keys_of(part, j.window), j.HD) <= kRoundedBytes;
}

/* Attends the parts of a list, whose keys and values are BF16 and begin with head first_head. */
template <int kHD> static cudaError_t attend_rounded(cuda_context &c, const attention_call &j, const part_list &list, int64_t first_head,
                                                     int64_t heads) {
    int64_t rows = 0, group = j.NH / j.NKV;
    for (int p = 0; p < list.count; p++) rows = puna_max(rows, list.parts[p].rows);
    dim3 grid((unsigned)(heads * group), (unsigned)list.count, (unsigned)puna_ceil_div(rows, kQueries));
    return launch(c, attend_tile_bf16<kHD>, grid, kTileThreads, kTileBytes<kHD>, j, list, first_head * group);
}

/* Rounds and attends count parts, of their key/value heads those from first_head on. */
template <int kHD> static cudaError_t attend_parts(cuda_context &c, const attention_call &j, const attention_part *parts, int count,
                                                   int32_t dtype, int64_t first_head, int64_t heads) {
    part_list list = {};
    uint16_t *at = (uint16_t *)c.scratch;
    int64_t stride = puna_cuda_bf16_stride(j.HD);
    for (int p = 0; p < count; p++) {
        int64_t keys = keys_of(parts[p], j.window), first = first_of(parts[p], j.window), size = heads * keys * stride;
        uint16_t *k = at, *v = at + size;
        CUDA_TRY(round_part(c, k, v, parts[p], dtype, first_head, heads, first, keys, j.HD));
        attention_part &part = list.parts[list.count++];
        part = parts[p];
        part.k = (const char *)k, part.v = (const char *)v, part.head_stride = keys * stride, part.key_stride = stride;
        part.position -= first;
        at += 2 * size;
    }
    return attend_rounded<kHD>(c, j, list, first_head, heads);
}

/* Whether keys and values are rounded as they are and lie as copies of 16 bytes want them. */
static bool lie_rounded(const attention_call &j, const part_list &list, int32_t dtype) {
    uintptr_t bits = 0;
    for (int p = 0; p < list.count; p++) bits |= (uintptr_t)list.parts[p].k | (uintptr_t)list.parts[p].v;
    return dtype == PUNA_DTYPE_BF16 && j.HD % 8 == 0 && bits % 16 == 0;
}

/* Where they lie; or as many whole sequences at a time as the scratch holds, or as many heads of one. */
template <int kHD> static cudaError_t attend_lists(cuda_context &c, const attention_call &j, const part_list &list, int32_t dtype) {
    if (lie_rounded(j, list, dtype)) return attend_rounded<kHD>(c, j, list, 0, j.NKV);
    for (int p = 0; p < list.count;) {
        int count = 0;
        for (int64_t keys = 0; p + count < list.count; count++) {
            keys += keys_of(list.parts[p + count], j.window);
            if (j.NKV * puna_cuda_bf16_key_bytes(keys, j.HD) > kRoundedBytes) break;
        }
        if (count > 0) {
            CUDA_TRY(attend_parts<kHD>(c, j, list.parts + p, count, dtype, 0, j.NKV));
            p += count;
            continue;
        }
        int64_t most = kRoundedBytes / puna_cuda_bf16_key_bytes(keys_of(list.parts[p], j.window), j.HD);
        for (int64_t h = 0; h < j.NKV; h += most)
            CUDA_TRY(attend_parts<kHD>(c, j, list.parts + p, 1, dtype, h, puna_min(most, j.NKV - h)));
        p++;
    }
    return cudaSuccess;
}

cudaError_t attend_in_bf16(cuda_context &c, const attention_call &j, const part_list &list, int32_t cache_dtype) {
    return j.HD <= 64 ? attend_lists<64>(c, j, list, cache_dtype) : j.HD <= 96 ? attend_lists<96>(c, j, list, cache_dtype)
           : j.HD <= 128 ? attend_lists<128>(c, j, list, cache_dtype) : attend_lists<256>(c, j, list, cache_dtype);
}
