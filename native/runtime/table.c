/* The table of one variant's kernels, compiled once per variant like the kernels themselves. */
#include "kernels.h"

const puna_ops PUNA_KERNEL(ops) = {
    .name = PUNA_VARIANT,
    .dequantize = PUNA_KERNEL(dequantize),
    .embedding_forward = PUNA_KERNEL(embedding_forward),
    .embedding_backward = PUNA_KERNEL(embedding_backward),
    .rmsnorm_forward = PUNA_KERNEL(rmsnorm_forward),
    .rmsnorm_backward = PUNA_KERNEL(rmsnorm_backward),
    .add_forward = PUNA_KERNEL(add_forward),
    .swiglu_forward = PUNA_KERNEL(swiglu_forward),
    .swiglu_backward = PUNA_KERNEL(swiglu_backward),
    .log_softmax_forward = PUNA_KERNEL(log_softmax_forward),
    .argmax_forward = PUNA_KERNEL(argmax_forward),
    .rope_table = PUNA_KERNEL(rope_table),
    .rope_forward = PUNA_KERNEL(rope_forward),
    .rope_backward = PUNA_KERNEL(rope_backward),
    .matmul_workspace_size = PUNA_KERNEL(matmul_workspace_size),
    .matmul_forward = PUNA_KERNEL(matmul_forward),
    .attention_workspace_size = PUNA_KERNEL(attention_workspace_size),
    .attention_forward = PUNA_KERNEL(attention_forward),
    .kv_append = PUNA_KERNEL(kv_append),
    .attention_cached_forward = PUNA_KERNEL(attention_cached_forward),
    .cross_entropy_forward_backward = PUNA_KERNEL(cross_entropy_forward_backward),
    .squared_norm = PUNA_KERNEL(squared_norm),
    .adamw_step = PUNA_KERNEL(adamw_step),
};
