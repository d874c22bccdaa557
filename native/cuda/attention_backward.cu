/*
 * Version 1: one kernel body in two roles, each block the only writer of what it sums, so without atomics and always in one order:
 *   dq      a block owns queries (rows q, dy) and streams keys (rows k, v)
 *   dk, dv  a block owns keys (rows k, v) and streams the queries of all heads that read them (rows q, dy)
 * Either way s = own1 stream1^T and dp = own2 stream2^T, from which p and ds, then first += ds stream1 and second += p stream2: all on
 * the tensor cores at F32's precision (mma.cuh). dy . y is summed again where it is needed. Heads above 128 take dk and dv one
 * after the other, for the registers. Not measured. Next: cp.async; sharing s and dp between the roles as FlashAttention does
 * would cost atomics or a pass. In contexts of PUNA_PRECISION_BF16 sixteen rows and more are attention_backward_bf16.cu.
 */
#include "attention.cuh"

int64_t PUNA_KERNEL(attention_backward_workspace_size)(puna_context *context, int64_t NH, int64_t NKV, int64_t HD) {
    (void)context, (void)NH, (void)NKV, (void)HD;
    return 0;
}

template <int kHD> constexpr int kOwn = kHD <= 128 ? 64 : 32;
template <int kHD> constexpr int kStream = kHD <= 96 ? 32 : 16;
template <int kHD> constexpr int64_t kBackwardBytes = 2 * (kOwn<kHD> + kStream<kHD>) * (kHD + 4) * (int64_t)sizeof(float);

/* A tile of rows first … of an array whose row is stride elements, the head's columns already added to data. */
template <int kHD>
static __device__ void load_rows(float *tile, int rows, const float *data, int64_t stride, int64_t first, int64_t end, int64_t HD) {
    for (int at = threadIdx.x; at < rows * kHD; at += blockDim.x) {
        int r = at / kHD, d = at % kHD;
        tile[r * (kHD + 4) + d] = first + r < end && d < HD ? data[(first + r) * stride + d] : 0;
    }
}

/* lse and dy . y of the tile's queries, of batch b and a head; a warp a row. */
static __device__ void load_queries(float *lse, float *dots, int rows, const backward_call &j, int64_t b, int64_t head,
                                    int64_t first, int64_t end) {
    for (int r = threadIdx.x / 32; r < rows; r += blockDim.x / 32) {
        float dot = 0;
        int64_t row = b * j.T + first + r;
        bool inside = first + r < end;
        for (int64_t d = threadIdx.x % 32; d < j.HD && inside; d += 32)
            dot = fmaf(j.dy[row * j.dy_stride + head * j.HD + d], j.y[row * j.y_stride + head * j.HD + d], dot);
        dot = warp_reduce<sum_of>(dot);
        if (threadIdx.x % 32 == 0) {
            dots[r] = dot;
            lse[r] = inside ? j.lse[(b * j.NH + head) * j.T + first + r] : 0;
        }
    }
}

/* c (16, 8 n) = own rows times streamed rows. */
template <int kHD> static __device__ void scores(float (*c)[4], const float *own, const float *stream, int g, int t) {
    constexpr int kPitch = kHD + 4;
    for (int d = 0; d < kHD; d += 8) {
        const float *at = own + g * kPitch + d + t;
        split_tf32 a[4] = {split(at[0]), split(at[8 * kPitch]), split(at[4]), split(at[8 * kPitch + 4])};
        UNROLL
        for (int n = 0; n < kStream<kHD> / 8; n++) {
            const float *from = stream + (8 * n + g) * kPitch + d + t;
            split_tf32 b[2] = {split(from[0]), split(from[4])};
            multiply<true>(c[n], a, b);
        }
    }
}

/* sum (16, HD) += c (16, 8 n) times streamed rows, in the order of columns that attention.cu explains. */
template <int kHD> static __device__ void add_products(float (*sum)[4], const float (*c)[4], const float *stream, int g, int t) {
    constexpr int kPitch = kHD + 4;
    UNROLL
    for (int n = 0; n < kStream<kHD> / 8; n++) {
        split_tf32 a[4] = {split(c[n][0]), split(c[n][2]), split(c[n][1]), split(c[n][3])};
        UNROLL
        for (int d = 0; d < kHD / 8; d++) {
            const float *from = stream + (8 * n + 2 * t) * kPitch + 8 * d + g;
            split_tf32 b[2] = {split(from[0]), split(from[kPitch])};
            multiply<true>(sum[d], a, b);
        }
    }
}

template <int kHD> static __device__ void store(float *out, int64_t stride, const float (*sum)[4], float factor, int64_t row,
                                                int64_t end, int64_t HD, int t) {
    UNROLL
    for (int d = 0; d < kHD / 8; d++)
        UNROLL
        for (int e = 0; e < 4; e++) {
            int64_t r = row + e / 2 * 8, column = 8 * d + 2 * t + e % 2;
            if (r < end && column < HD) out[r * stride + column] = sum[d][e] * factor;
        }
}

template <int kHD, int kWhat> static __global__ void __launch_bounds__(2 * kOwn<kHD>) gradients(backward_call j) {
    DYNAMIC_SHARED(float, shared);
    __shared__ float own_lse[kOwn<kHD>], own_dots[kOwn<kHD>], stream_lse[kStream<kHD>], stream_dots[kStream<kHD>];
    constexpr bool keys = kWhat != DQ, first_wanted = kWhat != DV, second_wanted = kWhat == DK_DV || kWhat == DV;
    constexpr int kPitch = kHD + 4;
    float *own1 = shared, *own2 = own1 + kOwn<kHD> * kPitch;
    float *stream1 = own2 + kOwn<kHD> * kPitch, *stream2 = stream1 + kStream<kHD> * kPitch;
    int64_t own_rows = keys ? j.S : j.T, tiles = (own_rows + kOwn<kHD> - 1) / kOwn<kHD>, group = j.NH / j.NKV, shift = j.S - j.T;
    /* From the first keys, or from the last rows: those that meet the most come first. */
    int64_t b = blockIdx.x / tiles, tile = keys ? blockIdx.x % tiles : tiles - 1 - blockIdx.x % tiles;
    int64_t own0 = tile * kOwn<kHD>, own_end = min(own0 + kOwn<kHD>, own_rows);
    int64_t kv_head = keys ? blockIdx.y : blockIdx.y / group;
    int64_t first_head = keys ? kv_head * group : blockIdx.y, last_head = keys ? first_head + group : first_head + 1;
    const float *k = j.k + b * j.S * j.kv_stride + kv_head * j.HD, *v = j.v + b * j.S * j.kv_stride + kv_head * j.HD;
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, own = threadIdx.x / 32 * 16;

    int64_t begin, end; /* the same of every head */
    streamed_rows<kStream<kHD>, keys>(j, own0, own_end, &begin, &end);

    float first[first_wanted ? kHD / 8 : 1][4] = {}, second[second_wanted ? kHD / 8 : 1][4] = {};
    if (keys) {
        load_rows<kHD>(own1, kOwn<kHD>, k, j.kv_stride, own0, own_end, j.HD);
        load_rows<kHD>(own2, kOwn<kHD>, v, j.kv_stride, own0, own_end, j.HD);
    }
    for (int64_t head = first_head; head < last_head; head++) {
        const float *q = j.q + b * j.T * j.q_stride + head * j.HD, *dy = j.dy + b * j.T * j.dy_stride + head * j.HD;
        if (!keys) {
            load_rows<kHD>(own1, kOwn<kHD>, q, j.q_stride, own0, own_end, j.HD);
            load_rows<kHD>(own2, kOwn<kHD>, dy, j.dy_stride, own0, own_end, j.HD);
            load_queries(own_lse, own_dots, kOwn<kHD>, j, b, head, own0, own_end);
        }
        for (int64_t stream0 = begin; stream0 < end; stream0 += kStream<kHD>) {
            __syncthreads();
            load_rows<kHD>(stream1, kStream<kHD>, keys ? q : k, keys ? j.q_stride : j.kv_stride, stream0, end, j.HD);
            load_rows<kHD>(stream2, kStream<kHD>, keys ? dy : v, keys ? j.dy_stride : j.kv_stride, stream0, end, j.HD);
            if (keys) load_queries(stream_lse, stream_dots, kStream<kHD>, j, b, head, stream0, end);
            __syncthreads();
            float p[kStream<kHD> / 8][4] = {}, ds[kStream<kHD> / 8][4] = {};
            scores<kHD>(p, own1 + own * kPitch, stream1, g, t);
            if (first_wanted) scores<kHD>(ds, own2 + own * kPitch, stream2, g, t);
            UNROLL
            for (int n = 0; n < kStream<kHD> / 8; n++)
                UNROLL
                for (int e = 0; e < 4; e++) {
                    int own_at = own + g + e / 2 * 8, stream_at = 8 * n + 2 * t + e % 2;
                    int64_t own_row = own0 + own_at, stream_row = stream0 + stream_at;
                    int64_t key = keys ? own_row : stream_row, position = shift + (keys ? stream_row : own_row);
                    bool visible = own_row < own_end && stream_row < end && key <= position &&
                                   (j.window == 0 || key > position - j.window);
                    float lse = keys ? stream_lse[stream_at] : own_lse[own_at];
                    float dot = keys ? stream_dots[stream_at] : own_dots[own_at];
                    p[n][e] = visible ? expf(p[n][e] * j.scale - lse) : 0;
                    ds[n][e] = visible ? p[n][e] * (ds[n][e] - dot) : 0;
                }
            if constexpr (first_wanted) add_products<kHD>(first, ds, stream1, g, t);
            if constexpr (second_wanted) add_products<kHD>(second, p, stream2, g, t);
        }
    }
    int64_t row = own0 + own + g;
    if constexpr (kWhat == DQ) {
        store<kHD>(j.dq + b * j.T * j.dq_stride + first_head * j.HD, j.dq_stride, first, j.scale, row, own_end, j.HD, t);
    } else {
        int64_t at = b * j.S * j.dkv_stride + kv_head * j.HD;
        if constexpr (first_wanted) store<kHD>(j.dk + at, j.dkv_stride, first, j.scale, row, own_end, j.HD, t);
        if constexpr (second_wanted) store<kHD>(j.dv + at, j.dkv_stride, second, 1, row, own_end, j.HD, t);
    }
}

template <int kHD, int kWhat> static cudaError_t launch_gradients(cuda_context &c, const backward_call &j) {
    int64_t blocks = j.B * puna_ceil_div(kWhat == DQ ? j.T : j.S, kOwn<kHD>), heads = kWhat == DQ ? j.NH : j.NKV;
    if (blocks == 0) return cudaSuccess;
    if (blocks > INT32_MAX || heads > 65535) return cudaErrorInvalidConfiguration;
    return launch(c, gradients<kHD, kWhat>, dim3((unsigned)blocks, (unsigned)heads), 2 * kOwn<kHD>, kBackwardBytes<kHD>, j);
}

template <int kHD> static cudaError_t backward(cuda_context &c, const backward_call &j) {
    CUDA_TRY((launch_gradients<kHD, DQ>(c, j)));
    if constexpr (kHD <= 128) {
        return launch_gradients<kHD, DK_DV>(c, j);
    } else {
        CUDA_TRY((launch_gradients<kHD, DK>(c, j)));
        return launch_gradients<kHD, DV>(c, j);
    }
}

puna_status PUNA_KERNEL(attention_backward)(puna_context *context, float *dq, int64_t dq_stride, float *dk, float *dv,
                                            int64_t dkv_stride, const float *q, int64_t q_stride, const float *k, const float *v,
                                            int64_t kv_stride, const float *y, int64_t y_stride, const float *dy,
                                            int64_t dy_stride, const float *lse, int64_t B, int64_t T, int64_t S, int64_t NH,
                                            int64_t NKV, int64_t HD, int64_t window, float scale, void *workspace) {
    (void)workspace;
    const char *op = "puna_attention_backward";
    if (HD > PUNA_CUDA_MOST_WIDTH)
        return static_cast<cuda_context *>(context)->fail(PUNA_STATUS_UNSUPPORTED, "%s: HD is %lld, on a CUDA device at most %d",
                                                          op, (long long)HD, PUNA_CUDA_MOST_WIDTH);
    backward_call j = {dq, dk, dv, q, k, v, y, dy, lse, dq_stride, dkv_stride, q_stride, kv_stride, y_stride, dy_stride, B, T, S,
                       NH, NKV, HD, window, scale};
    return run(context, op, [=](cuda_context &c) {
        if (rounds_gradients(c, j)) return gradients_in_bf16(c, j);
        return HD <= 64 ? backward<64>(c, j) : HD <= 96 ? backward<96>(c, j) : HD <= 128 ? backward<128>(c, j) : backward<256>(c, j);
    });
}
