/*
 * The kernels of one variant. Each file of native/reference is compiled once and each of native/cpu once per instruction set;
 * native/cuda makes one more variant, in a library of its own.
 * PUNA_KERNEL gives a kernel's name the variant's prefix, so that all of them live in one library and meet in one table per
 * variant (table.c). Signatures and contracts are those of puna_ops in internal.h.
 */
#ifndef PUNA_KERNELS_H
#define PUNA_KERNELS_H

#include "internal.h"

#if defined(PUNA_VARIANT_REFERENCE)
#define PUNA_VARIANT "reference"
#define PUNA_KERNEL(name) puna_reference_##name
#elif defined(PUNA_VARIANT_BASELINE)
#define PUNA_VARIANT "baseline"
#define PUNA_KERNEL(name) puna_cpu_baseline_##name
#elif defined(PUNA_VARIANT_AVX2)
#define PUNA_VARIANT "avx2"
#define PUNA_KERNEL(name) puna_cpu_avx2_##name
#elif defined(PUNA_VARIANT_AVX512)
#define PUNA_VARIANT "avx512"
#define PUNA_KERNEL(name) puna_cpu_avx512_##name
#elif defined(PUNA_VARIANT_DOTPROD)
#define PUNA_VARIANT "dotprod"
#define PUNA_KERNEL(name) puna_cpu_dotprod_##name
#elif defined(PUNA_VARIANT_CUDA)
#define PUNA_VARIANT "cuda"
#define PUNA_KERNEL(name) puna_cuda_##name
#else
#error "compile this file through puna_kernels in CMakeLists.txt, which names its variant"
#endif

puna_status PUNA_KERNEL(dequantize)(puna_context *, float *y, const void *w, int32_t dtype, int64_t rows, int64_t C);
puna_status PUNA_KERNEL(embedding_forward)(puna_context *, float *y, const void *table, int32_t dtype, const int32_t *ids,
                                           int64_t rows, int64_t V, int64_t C);
puna_status PUNA_KERNEL(embedding_backward)(puna_context *, float *dtable, const int32_t *ids, const float *dy, int64_t rows,
                                            int64_t V, int64_t C);
puna_status PUNA_KERNEL(rmsnorm_forward)(puna_context *, float *y, float *rstd, const float *x, const void *g, int32_t g_dtype,
                                         int64_t rows, int64_t C, float eps);
puna_status PUNA_KERNEL(rmsnorm_backward)(puna_context *, float *dx, float *dg, const float *x, const void *g,
                                          int32_t g_dtype, const float *rstd, const float *dy, int64_t rows, int64_t C,
                                          int32_t accumulate);
puna_status PUNA_KERNEL(add_forward)(puna_context *, float *y, const float *x, int64_t n);
puna_status PUNA_KERNEL(swiglu_forward)(puna_context *, float *y, int64_t y_stride, const float *gate, const float *up,
                                        int64_t x_stride, int64_t rows, int64_t FF);
puna_status PUNA_KERNEL(swiglu_backward)(puna_context *, float *dgate, float *dup, int64_t dx_stride, const float *gate,
                                         const float *up, int64_t x_stride, const float *dy, int64_t dy_stride, int64_t rows,
                                         int64_t FF);
puna_status PUNA_KERNEL(log_softmax_forward)(puna_context *, float *y, const float *x, int64_t rows, int64_t V);
puna_status PUNA_KERNEL(argmax_forward)(puna_context *, int32_t *y, const float *x, int64_t rows, int64_t V);
puna_status PUNA_KERNEL(candidates_forward)(puna_context *, float *values, int32_t *ids, double *sums, const float *x, int64_t rows,
                                            int64_t V, int64_t n, double temperature);
puna_status PUNA_KERNEL(rope_table)(puna_context *, float *table, const float *frequencies, const int32_t *positions,
                                    int64_t rows, int64_t HD, float magnitude);
puna_status PUNA_KERNEL(rope_forward)(puna_context *, float *x, int64_t x_stride, const float *table, int32_t layout,
                                      int64_t rows, int64_t heads, int64_t HD);
puna_status PUNA_KERNEL(rope_backward)(puna_context *, float *dx, int64_t dx_stride, const float *table, int32_t layout,
                                       int64_t rows, int64_t heads, int64_t HD);

int64_t PUNA_KERNEL(matmul_workspace_size)(puna_context *, const puna_matmul_product *products, int32_t count, int64_t rows,
                                           int64_t K);
puna_status PUNA_KERNEL(matmul_forward)(puna_context *, const puna_matmul_product *products, int32_t count, float *const y[],
                                        const void *const w[], const float *x, int64_t x_stride, int64_t rows, int64_t K,
                                        void *workspace);
int64_t PUNA_KERNEL(matmul_integer_workspace_size)(puna_context *, const puna_matmul_product *products, int32_t count,
                                                   int64_t rows, int64_t K, int32_t activations);
puna_status PUNA_KERNEL(matmul_integer_forward)(puna_context *, const puna_matmul_product *products, int32_t count,
                                                float *const y[], const void *const w[], const float *x, int64_t x_stride,
                                                int64_t rows, int64_t K, int32_t activations, void *workspace);
int64_t PUNA_KERNEL(matmul_backward_workspace_size)(puna_context *);
puna_status PUNA_KERNEL(matmul_input_backward)(puna_context *, float *dx, int64_t dx_stride, const void *w, int32_t w_dtype,
                                               const float *dy, int64_t dy_stride, int64_t rows, int64_t N, int64_t K,
                                               int32_t accumulate, void *workspace);
puna_status PUNA_KERNEL(matmul_weight_backward)(puna_context *, float *dw, const float *x, int64_t x_stride, const float *dy,
                                                int64_t dy_stride, int64_t rows, int64_t N, int64_t K, void *workspace);
int64_t PUNA_KERNEL(attention_workspace_size)(puna_context *, int64_t NH, int64_t NKV, int64_t HD);
puna_status PUNA_KERNEL(attention_forward)(puna_context *, float *y, int64_t y_stride, float *lse, const float *q,
                                           int64_t q_stride, const float *k, const float *v, int64_t kv_stride, int64_t B,
                                           int64_t T, int64_t S, int64_t NH, int64_t NKV, int64_t HD, int64_t window,
                                           float scale, void *workspace);
int64_t PUNA_KERNEL(attention_backward_workspace_size)(puna_context *, int64_t NH, int64_t NKV, int64_t HD);
puna_status PUNA_KERNEL(attention_backward)(puna_context *, float *dq, int64_t dq_stride, float *dk, float *dv,
                                            int64_t dkv_stride, const float *q, int64_t q_stride, const float *k,
                                            const float *v, int64_t kv_stride, const float *y, int64_t y_stride,
                                            const float *dy, int64_t dy_stride, const float *lse, int64_t B, int64_t T,
                                            int64_t S, int64_t NH, int64_t NKV, int64_t HD, int64_t window, float scale,
                                            void *workspace);
puna_status PUNA_KERNEL(kv_append)(puna_context *, const puna_kv_sequence *sequences, int32_t count, int32_t cache_dtype,
                                   int64_t layer, const float *k, const float *v, int64_t kv_stride, int64_t NKV, int64_t HD);
puna_status PUNA_KERNEL(attention_cached_forward)(puna_context *, float *y, int64_t y_stride, const float *q, int64_t q_stride,
                                                  const puna_kv_sequence *sequences, int32_t count, int32_t cache_dtype,
                                                  int64_t layer, int64_t NH, int64_t NKV, int64_t HD, int64_t window,
                                                  float scale, void *workspace);
puna_status PUNA_KERNEL(cross_entropy_forward_backward)(puna_context *, float *losses, float *dlogits, const float *logits,
                                                        const int32_t *targets, int32_t ignored, float scale, int64_t rows,
                                                        int64_t V);
puna_status PUNA_KERNEL(squared_norm)(puna_context *, double *result, const float *x, int64_t n);
puna_status PUNA_KERNEL(adamw_step)(puna_context *, float *w, float *m, float *v, const float *g, int64_t n, int64_t step,
                                    double learning_rate, double beta1, double beta2, double eps, double weight_decay,
                                    double gradient_scale);

#endif
