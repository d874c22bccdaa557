/* What the attention kernels share. */
#ifndef PUNA_CUDA_ATTENTION_CUH
#define PUNA_CUDA_ATTENTION_CUH

#include "mma.cuh"

#include "attention_plan.h"

/* One sequence's part of a call. Strides count elements. */
struct attention_part {
    const char *k, *v; /* of the first key/value head and key                                                       */
    int64_t head_stride, key_stride;
    int64_t first;    /* row in q and y                                                                             */
    int64_t rows;
    int64_t position; /* of the first row: it sees keys up to this one                                              */
    int64_t lse;      /* where the part's (NH, rows) begin                                                          */
};

constexpr int kParts = 32;
struct part_list {
    attention_part parts[kParts];
    int count;
    /* In a recording caches, capacities and positions are those of the replay's sequences, which lie on the device; else null. */
    const puna_kv_sequence *sequences;
    int64_t layer, NKV, HD;
    puna_block block; /* of the caches' type */
};

struct attention_call {
    float *y, *lse;
    const float *q;
    int64_t y_stride, q_stride, NH, NKV, HD, window;
    float scale;
};

struct backward_call {
    float *dq, *dk, *dv;
    const float *q, *k, *v, *y, *dy, *lse;
    int64_t dq_stride, dkv_stride, q_stride, kv_stride, y_stride, dy_stride, B, T, S, NH, NKV, HD, window;
    float scale;
};

/* What a block of the backward pass sums. */
enum { DQ, DK_DV, DK, DV };

/*
 * From where to where rows are streamed that meet the own rows own0 to own_end - 1, in whole tiles of kRows from the start: queries where
 * keys are owned, else keys.
 */
template <int kRows, bool kKeysOwned>
static __device__ void streamed_rows(const backward_call &j, int64_t own0, int64_t own_end, int64_t *begin, int64_t *end) {
    int64_t shift = j.S - j.T;
    if (kKeysOwned) {
        *begin = max((int64_t)0, own0 - shift);
        *end = j.window > 0 ? min(j.T, max((int64_t)0, own_end - 1 + j.window - shift)) : j.T;
    } else {
        *begin = j.window > 0 && shift + own0 >= j.window ? shift + own0 - j.window + 1 : 0;
        *end = shift + own_end;
    }
    *begin = *begin / kRows * kRows;
}

/* Many rows of a sequence in a context of PUNA_PRECISION_BF16, of whose keys and values one head's fit the scratch: attention_bf16.cu. */
bool rounds_attention(const cuda_context &c, const attention_part &part, const attention_call &j);
cudaError_t attend_in_bf16(cuda_context &c, const attention_call &j, const part_list &list, int32_t cache_dtype);
/* The same of gradients: attention_backward_bf16.cu. */
bool rounds_gradients(const cuda_context &c, const backward_call &j);
cudaError_t gradients_in_bf16(cuda_context &c, const backward_call &j);

/* The largest score so far as it may be subtracted: of nothing but minus infinities every weight is zero. */
static inline __device__ float shift_of(float largest) { return largest == -INFINITY ? 0 : largest; }

/*
 * y (16, HD) += the weights s (16, 8 n) times values, where bit 4 n + e of seen is set: without tensor cores, for values that a weight
 * of zero must not meet.
 */
template <int kN, int kHD, class Value>
static __device__ void add_seen(float (*y)[4], const float (*s)[4], unsigned seen, int lane, Value value) {
    int t = lane % 4;
    UNROLL
    for (int n = 0; n < kN; n++)
        for (int in_n = 0; in_n < 8; in_n++) {
            int key = 8 * n + in_n, owner = (lane & ~3) | (in_n / 2);
            unsigned owner_seen = __shfl_sync(kAllLanes, seen, owner);
            UNROLL
            for (int i = 0; i < 2; i++) {
                float even = __shfl_sync(kAllLanes, s[n][2 * i], owner);
                float uneven = __shfl_sync(kAllLanes, s[n][2 * i + 1], owner);
                float weight = key % 2 == 0 ? even : uneven;
                if (!(owner_seen >> (4 * n + 2 * i + key % 2) & 1)) continue;
                UNROLL
                for (int d = 0; d < kHD / 8; d++)
                    UNROLL
                    for (int e = 0; e < 2; e++) y[d][2 * i + e] = fmaf(weight, value(key, 8 * d + 2 * t + e), y[d][2 * i + e]);
            }
        }
}

#endif
