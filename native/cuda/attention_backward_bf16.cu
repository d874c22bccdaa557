/*
 * The backward pass of attention in contexts of PUNA_PRECISION_BF16: q, k, v, dy, p and ds rounded to BF16, once each; scores and all sums
 * F32. Two roles, as attention_backward.cu has them, and like those without atomics.
 *
 * Version 2: operands are rounded by passes into the scratch, as (head, row, width), which also leave each row's lse and dy . y; four warps
 * own 64 rows and stream 32, of heads above 128 16, in two stages of cp.async; fragments by ldmatrix, p and ds stay in registers; only
 * tiles at an edge look at positions, and a warp that meets none of a tile leaves it out. Should be bound by the tensor cores, of which
 * it asks seven products where five would do, were s and dp shared; not measured. Next: WGMMA on sm_90a.
 */
#include "attention_bf16.cuh"

constexpr int kOwn = 64, kOwners = 128; /* rows, threads */
template <int kHD> constexpr int kStream = kHD <= 128 ? 32 : 16;
template <int kHD> constexpr int64_t kBackwardBytes =
    2 * (kOwn + 2 * kStream<kHD>) * kPitch<kHD> * (int64_t)sizeof(uint16_t) + 2 * kStream<kHD> * (int64_t)sizeof(float2);

/*
 * Of batches from first_batch on the key/value heads from first_head on: q and dy (batches, heads group, T, stride), k and v (batches,
 * heads, S, stride), sums (batches, heads group, pairs of rows): lse log2(e) and dy . y.
 */
struct rounded_arrays {
    uint16_t *q, *dy, *k, *v;
    float2 *sums;
    int64_t stride, sums_stride, first_batch, first_head, heads;
};

/* A warp a row; y is the head, z the batch. dy . y is that of the rounded dy, as dp is, so that ds adds up to zero. */
static __global__ void __launch_bounds__(256) round_queries(rounded_arrays to, backward_call j) {
    int64_t row = (int64_t)blockIdx.x * 8 + threadIdx.x / 32, group = j.NH / j.NKV, head = to.first_head * group + blockIdx.y;
    int64_t in = (to.first_batch + blockIdx.z) * j.T + row, out_head = (int64_t)blockIdx.z * gridDim.y + blockIdx.y;
    if (row >= j.T) {
        if (row < to.sums_stride && threadIdx.x % 32 == 0) to.sums[out_head * to.sums_stride + row] = {0, 0}; /* the last pair's */
        return;
    }
    const float *q = j.q + in * j.q_stride + head * j.HD, *dy = j.dy + in * j.dy_stride + head * j.HD;
    const float *y = j.y + in * j.y_stride + head * j.HD;
    int64_t out = (out_head * j.T + row) * to.stride;
    uint32_t *q_to = (uint32_t *)(to.q + out), *dy_to = (uint32_t *)(to.dy + out);
    float dot = 0;
    for (int64_t d = threadIdx.x % 32 * 2; d < to.stride; d += 64) {
        bool first = d < j.HD, second = d + 1 < j.HD;
        uint32_t pair = bf16_pair(first ? dy[d] : 0, second ? dy[d + 1] : 0);
        if (first) dot = fmaf(puna_bf16_to_f32((uint16_t)pair), y[d], dot);
        if (second) dot = fmaf(puna_bf16_to_f32((uint16_t)(pair >> 16)), y[d + 1], dot);
        q_to[d / 2] = bf16_pair(first ? q[d] : 0, second ? q[d + 1] : 0);
        dy_to[d / 2] = pair;
    }
    dot = warp_reduce<sum_of>(dot);
    float lse = j.lse[((to.first_batch + blockIdx.z) * j.NH + head) * j.T + row];
    if (threadIdx.x % 32 == 0) to.sums[out_head * to.sums_stride + row] = {lse * kLog2E, dot};
}

template <int kHD>
static __device__ void store(float *out, int64_t stride, const float (*sum)[4], float factor, int64_t row, int64_t end, int64_t HD) {
    int t = threadIdx.x % 4;
    bool pairs = ((uintptr_t)out | (uint64_t)stride * sizeof(float)) % sizeof(float2) == 0;
    UNROLL
    for (int d = 0; d < kHD / 8; d++)
        UNROLL
        for (int i = 0; i < 2; i++) {
            int64_t r = row + 8 * i, column = 8 * d + 2 * t;
            if (r < end)
                store_pair(out + r * stride + column, sum[d][2 * i] * factor, sum[d][2 * i + 1] * factor, HD - column, pairs, false);
        }
}

/* x is the head of the arrays, a key/value head where keys are owned, y the batch, z the tile. */
template <int kHD, int kWhat>
static __global__ void __launch_bounds__(kOwners) gradients_bf16(backward_call j, const __grid_constant__ rounded_arrays from) {
    DYNAMIC_SHARED(uint16_t, shared);
    constexpr bool keys = kWhat != DQ, first_wanted = kWhat != DV, second_wanted = kWhat == DK_DV || kWhat == DV;
    constexpr int kRows = kStream<kHD>, kStage = 2 * kRows * kPitch<kHD>;
    uint16_t *own1 = shared, *own2 = own1 + kOwn * kPitch<kHD>, *streams = own2 + kOwn * kPitch<kHD>;
    float2 *stream_sums = (float2 *)(streams + 2 * kStage);
    int64_t group = j.NH / j.NKV, shift = j.S - j.T, stride = from.stride;
    int64_t kv_head = keys ? blockIdx.x : blockIdx.x / group, first_head = keys ? kv_head * group : blockIdx.x;
    /* From the first keys, or from the last rows: those that meet the most come first. */
    int64_t own0 = (int64_t)(keys ? blockIdx.z : gridDim.z - 1 - blockIdx.z) * kOwn, own_end = min(own0 + kOwn, keys ? j.S : j.T);
    int64_t k_at = (blockIdx.y * from.heads + kv_head) * j.S * stride;
    int64_t q_head = blockIdx.y * from.heads * group + first_head, q_at = q_head * j.T * stride;
    const bf16_matrix k = {from.k + k_at, stride}, v = {from.v + k_at, stride}, q = {from.q + q_at, stride}, dy = {from.dy + q_at, stride};
    const float2 *sums = from.sums + q_head * from.sums_stride;
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, own = threadIdx.x / 32 * 16;

    int64_t begin, end; /* the same of every head */
    streamed_rows<kRows, keys>(j, own0, own_end, &begin, &end);
    int tiles = end > begin ? (int)((end - begin + kRows - 1) / kRows) : 0, steps = tiles * (keys ? (int)group : 1);
    auto ask = [&](int step) {
        if (step < steps) {
            uint16_t *stage = streams + step % 2 * kStage;
            int64_t row = begin + step % tiles * kRows, head = step / tiles;
            const bf16_matrix q_of = {q.data + head * j.T * stride, stride}, dy_of = {dy.data + head * j.T * stride, stride};
            ask_for_tile<kRows, kHD, kOwners>(stage, keys ? q_of : k, row, end, 0, stride);
            ask_for_tile<kRows, kHD, kOwners>(stage + kStage / 2, keys ? dy_of : v, row, end, 0, stride);
            int at = 2 * threadIdx.x; /* two rows' sums are 16 bytes */
            bool inside = row + at < end;
            if (keys && at < kRows)
                copy_async(stream_sums + step % 2 * kRows + at, sums + head * from.sums_stride + (inside ? row + at : 0), inside);
        }
        commit_copies();
    };
    ask_for_tile<kOwn, kHD, kOwners>(own1, keys ? k : q, own0, own_end, 0, stride);
    if (first_wanted) ask_for_tile<kOwn, kHD, kOwners>(own2, keys ? v : dy, own0, own_end, 0, stride);
    ask(0);
    float2 own_sums[2] = {{0, 0}, {0, 0}};
    UNROLL
    for (int i = 0; i < 2; i++)
        if (!keys && own0 + own + g + 8 * i < own_end) own_sums[i] = sums[own0 + own + g + 8 * i];

    float first[first_wanted ? kHD / 8 : 1][4] = {}, second[second_wanted ? kHD / 8 : 1][4] = {};
    float scale = j.scale * kLog2E;
    for (int step = 0; step < steps; step++) {
        wait_for_copies<0>();
        __syncthreads(); /* this step is here, and nobody is left in the one before, whose place is next */
        ask(step + 1);
        const uint16_t *stream1 = streams + step % 2 * kStage, *stream2 = stream1 + kStage / 2;
        int64_t stream0 = begin + step % tiles * kRows, own_row = own0 + own;
        int64_t key0 = keys ? own_row : stream0, key1 = key0 + (keys ? 16 : kRows) - 1;
        int64_t position0 = shift + (keys ? stream0 : own_row), position1 = position0 + (keys ? kRows : 16) - 1;
        if (key0 > position1 || (j.window > 0 && key1 <= position0 - j.window)) continue; /* the warp sees nothing */
        bool edge = key1 > position0 || (j.window > 0 && key0 <= position1 - j.window) || stream0 + kRows > end;

        float p[kRows / 8][4] = {}, ds[kRows / 8][4] = {};
        scores<kHD, kRows>(p, own1, own, stream1);
        if (first_wanted) scores<kHD, kRows>(ds, own2, own, stream2);
        UNROLL
        for (int n = 0; n < kRows / 8; n++)
            UNROLL
            for (int e = 0; e < 4; e++) {
                int stream_at = 8 * n + 2 * t + e % 2;
                const float2 of = keys ? stream_sums[step % 2 * kRows + stream_at] : own_sums[e / 2];
                bool visible = true;
                if (edge) {
                    int64_t own_at = own_row + g + e / 2 * 8, key = keys ? own_at : stream0 + stream_at;
                    int64_t position = shift + (keys ? stream0 + stream_at : own_at);
                    visible = stream0 + stream_at < end && key <= position && (j.window == 0 || key > position - j.window);
                }
                p[n][e] = visible ? exp2f(fmaf(p[n][e], scale, -of.x)) : 0;
                ds[n][e] = visible ? p[n][e] * (ds[n][e] - of.y) : 0;
            }
        if constexpr (first_wanted) add_products<kHD, kRows>(first, ds, stream1);
        if constexpr (second_wanted) add_products<kHD, kRows>(second, p, stream2);
    }
    wait_for_copies<0>(); /* where nothing was streamed, too */
    int64_t row = own0 + own + g, b = from.first_batch + blockIdx.y;
    if constexpr (kWhat == DQ) {
        float *dq = j.dq + b * j.T * j.dq_stride + (from.first_head * group + first_head) * j.HD;
        store<kHD>(dq, j.dq_stride, first, j.scale, row, own_end, j.HD);
    } else {
        int64_t at = b * j.S * j.dkv_stride + (from.first_head + kv_head) * j.HD;
        if constexpr (first_wanted) store<kHD>(j.dk + at, j.dkv_stride, first, j.scale, row, own_end, j.HD);
        if constexpr (second_wanted) store<kHD>(j.dv + at, j.dkv_stride, second, 1, row, own_end, j.HD);
    }
}

template <int kHD, int kWhat> static cudaError_t launch_gradients(cuda_context &c, const backward_call &j, const rounded_arrays &from,
                                                                  int64_t batches) {
    int64_t tiles = puna_ceil_div(kWhat == DQ ? j.T : j.S, kOwn), heads = kWhat == DQ ? from.heads * (j.NH / j.NKV) : from.heads;
    dim3 grid((unsigned)heads, (unsigned)batches, (unsigned)tiles);
    return launch(c, gradients_bf16<kHD, kWhat>, grid, kOwners, kBackwardBytes<kHD>, j, from);
}

template <int kHD> static cudaError_t backward(cuda_context &c, const backward_call &j, const rounded_arrays &from, int64_t batches) {
    CUDA_TRY((launch_gradients<kHD, DQ>(c, j, from, batches)));
    if constexpr (kHD <= 128) {
        return launch_gradients<kHD, DK_DV>(c, j, from, batches);
    } else {
        CUDA_TRY((launch_gradients<kHD, DK>(c, j, from, batches)));
        return launch_gradients<kHD, DV>(c, j, from, batches);
    }
}

/* Rounds what these batches and heads read, and computes their gradients. */
static cudaError_t some_gradients(cuda_context &c, const backward_call &j, int64_t first_batch, int64_t batches, int64_t first_head,
                                  int64_t heads) {
    int64_t group = j.NH / j.NKV, stride = puna_cuda_bf16_stride(j.HD);
    int64_t q_size = heads * group * j.T * stride, k_size = heads * j.S * stride;
    uint16_t *at = (uint16_t *)c.scratch;
    rounded_arrays to = {};
    to.q = at, to.dy = to.q + batches * q_size, to.k = to.dy + batches * q_size, to.v = to.k + batches * k_size;
    to.sums = (float2 *)(to.v + batches * k_size);
    to.stride = stride, to.sums_stride = puna_ceil_div(j.T, 2) * 2;
    to.first_batch = first_batch, to.first_head = first_head, to.heads = heads;
    dim3 rows((unsigned)puna_ceil_div(j.T, 8), (unsigned)(heads * group), (unsigned)batches);
    CUDA_TRY(launch(c, round_queries, rows, 256, 0, to, j));
    for (int64_t b = 0; b < batches; b++) {
        int64_t from = (first_batch + b) * j.S * j.kv_stride;
        attention_part part = {(const char *)(j.k + from), (const char *)(j.v + from), j.HD, j.kv_stride, 0, 0, 0, 0};
        CUDA_TRY(round_part(c, to.k + b * k_size, to.v + b * k_size, part, PUNA_DTYPE_F32, first_head, heads, 0, j.S, j.HD));
    }
    return j.HD <= 64 ? backward<64>(c, j, to, batches) : j.HD <= 96 ? backward<96>(c, j, to, batches)
           : j.HD <= 128 ? backward<128>(c, j, to, batches) : backward<256>(c, j, to, batches);
}

static int64_t head_bytes(const backward_call &j) { return puna_cuda_bf16_gradient_bytes(j.T, j.S, j.NH / j.NKV, j.HD); }

bool rounds_gradients(const cuda_context &c, const backward_call &j) {
    return c.precision == PUNA_PRECISION_BF16 && j.T >= PUNA_CUDA_TILE_ROWS && head_bytes(j) <= kRoundedBytes;
}

/* As many whole batches at a time as the scratch holds, or as many heads of one. */
cudaError_t gradients_in_bf16(cuda_context &c, const backward_call &j) {
    int64_t heads = puna_min(j.NKV, kRoundedBytes / head_bytes(j));
    int64_t batches = heads < j.NKV ? 1 : puna_min(65535, kRoundedBytes / (j.NKV * head_bytes(j)));
    for (int64_t b = 0; b < j.B; b += batches)
        for (int64_t h = 0; h < j.NKV; h += heads)
            CUDA_TRY(some_gradients(c, j, b, puna_min(batches, j.B - b), h, puna_min(heads, j.NKV - h)));
    return cudaSuccess;
}
