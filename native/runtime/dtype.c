#include "internal.h"

static const struct {
    puna_block block;
    const char *name;
} dtypes[PUNA_DTYPE_COUNT] = {
    [PUNA_DTYPE_F32] = {{1, 4}, "F32"},      [PUNA_DTYPE_F16] = {{1, 2}, "F16"},      [PUNA_DTYPE_BF16] = {{1, 2}, "BF16"},
    [PUNA_DTYPE_Q8_0] = {{32, 34}, "Q8_0"},  [PUNA_DTYPE_Q4_0] = {{32, 18}, "Q4_0"},  [PUNA_DTYPE_Q4_K] = {{256, 144}, "Q4_K"},
    [PUNA_DTYPE_Q6_K] = {{256, 210}, "Q6_K"},
};

static bool is_dtype(int32_t dtype) { return dtype >= 0 && dtype < PUNA_DTYPE_COUNT; }

puna_block puna_block_of(int32_t dtype) { return is_dtype(dtype) ? dtypes[dtype].block : (puna_block){0, 0}; }

const char *puna_dtype_name(int32_t dtype) { return is_dtype(dtype) ? dtypes[dtype].name : "no type"; }

puna_status puna_dtype_block(int32_t dtype, int64_t *elements, int64_t *bytes) {
    if (!is_dtype(dtype))
        return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "puna_dtype_block: dtype is %d, expected 0 to %d", dtype,
                         PUNA_DTYPE_COUNT - 1);
    if (elements == NULL || bytes == NULL)
        return puna_fail(PUNA_STATUS_INVALID_ARGUMENT, "puna_dtype_block: %s is null", elements == NULL ? "elements" : "bytes");
    *elements = dtypes[dtype].block.elements;
    *bytes = dtypes[dtype].block.bytes;
    return PUNA_STATUS_OK;
}
