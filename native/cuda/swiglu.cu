/* Version 1: an element a thread. Should be bound by memory; not measured. Next: float4 where strides allow. */
#include "common.cuh"

/* The limit at minus infinity is zero from below, where the formula itself would say inf / inf. */
static __device__ float silu(float a) { return a == -INFINITY ? -0.0f : a / (1 + expf(-a)); }

static __device__ float silu_derivative(float a) {
    if (isinf(a)) return a > 0 ? 1 : 0;
    float e = expf(-fabsf(a)), s = a >= 0 ? 1 / (1 + e) : e / (1 + e); /* no overflow on either side */
    float rest = a >= 0 ? e / (1 + e) : 1 / (1 + e);
    return s * (1 + a * rest);
}

static __global__ void gate_rows(float *y, int64_t y_stride, const float *gate, const float *up, int64_t x_stride, int64_t rows,
                                 int64_t FF) {
    take_turn();
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * FF; i += stride) {
        int64_t r = i / FF, f = i % FF;
        y[r * y_stride + f] = silu(gate[r * x_stride + f]) * up[r * x_stride + f];
    }
}

puna_status PUNA_KERNEL(swiglu_forward)(puna_context *context, float *y, int64_t y_stride, const float *gate, const float *up,
                                        int64_t x_stride, int64_t rows, int64_t FF) {
    return run(context, "puna_swiglu_forward", [=](cuda_context &c) {
        return launch_next(c, gate_rows, blocks_for(rows * FF, 256), 256, 0, y, y_stride, gate, up, x_stride, rows, FF);
    });
}

static __global__ void gate_gradients(float *dgate, float *dup, int64_t dx_stride, const float *gate, const float *up,
                                      int64_t x_stride, const float *dy, int64_t dy_stride, int64_t rows, int64_t FF) {
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * FF; i += stride) {
        int64_t r = i / FF, f = i % FF;
        float a = gate[r * x_stride + f], b = up[r * x_stride + f], d = dy[r * dy_stride + f];
        dgate[r * dx_stride + f] = d * b * silu_derivative(a);
        dup[r * dx_stride + f] = d * silu(a);
    }
}

puna_status PUNA_KERNEL(swiglu_backward)(puna_context *context, float *dgate, float *dup, int64_t dx_stride, const float *gate,
                                         const float *up, int64_t x_stride, const float *dy, int64_t dy_stride, int64_t rows,
                                         int64_t FF) {
    return run(context, "puna_swiglu_backward", [=](cuda_context &c) {
        return launch(c, gate_gradients, blocks_for(rows * FF, 256), 256, 0, dgate, dup, dx_stride, gate, up, x_stride, dy,
                      dy_stride, rows, FF);
    });
}
