#!/usr/bin/env python3
"""Times what PyTorch has of the operations that puna-test --times-on-cuda times, on the same shapes: native/cuda/check runs both.

Operands are used in turn until they are 256 MiB, so that they come from memory. F32 products are PyTorch's without TF32. Products
of block types have no counterpart; those of F16 and BF16 are PyTorch's with activations of the same type.
"""
import time

import torch
import torch.nn.functional as F

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
COLD = 256 << 20


def seconds(make, call):
    """The median seconds of call(*operands), with several operands made in turn."""
    sets = [make()]
    each = sum(tensor.numel() * tensor.element_size() for tensor in sets[0])
    sets += [make() for _ in range(min(15, COLD // each - 1))]

    def run(calls):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for i in range(calls):
            call(*sets[i % len(sets)])
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls

    run(2)
    once = run(1)
    times = sorted(run(int(min(20, max(1, 0.02 / once)))) for _ in range(3 if once > 0.05 else 9))
    return times[len(times) // 2]


def report(name, shape, make, call, flops=0.0, traffic=0.0):
    time_of_call = seconds(make, call)
    line = f"{name:32} {shape:72} {time_of_call * 1e6:10.1f} us"
    if flops:
        line += f" {flops / time_of_call * 1e-9:9.1f} GFLOP/s"
    if traffic:
        line += f" {traffic / time_of_call * 1e-9:9.1f} GB/s"
    print(line, flush=True)


def normal(*shape, dtype=torch.float32, gradient=False):
    return torch.randn(*shape, dtype=dtype, device="cuda", requires_grad=gradient)


def products():
    shapes = [(rows, 5632, 2048) for rows in (1, 4, 8, 16, 128, 512)]
    shapes += [(1, 2048, 5632), (1, 32000, 2048), (1, 14336, 4096), (128, 14336, 4096), (1, 4096, 14336)]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for rows, N, K in shapes:
            report("matmul_forward", f"{dtype} rows={rows} N={N} K={K}",
                   lambda: (normal(rows, K, dtype=dtype), normal(N, K, dtype=dtype)), lambda x, w: x @ w.T,
                   2.0 * rows * N * K, normal(1, dtype=dtype).element_size() * (N * K + rows * (N + K)))


def attention():
    for dtype in (torch.float32, torch.bfloat16):
        for S, NH, NKV, HD in [(512, 32, 8, 128), (2048, 32, 8, 128), (8192, 32, 8, 128), (512, 32, 8, 64)]:
            def make():
                return normal(1, NH, S, HD, dtype=dtype), normal(1, NKV, S, HD, dtype=dtype), normal(1, NKV, S, HD, dtype=dtype)
            report("attention_forward", f"{dtype} T={S} NH={NH} NKV={NKV} HD={HD}", make,
                   lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
                   4.0 * S * NH * HD * (S + 1) / 2)
        for B, S, NH, HD in [(4, 256, 6, 48), (1, 512, 32, 64), (1, 1024, 8, 128)]:
            def make():
                return tuple(normal(B, NH, S, HD, dtype=dtype, gradient=True) for _ in range(3))
            report("attention forward and backward", f"{dtype} B={B} T={S} NH={NH} HD={HD}", make,
                   lambda q, k, v: torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, is_causal=True).sum(), (q, k, v)),
                   14.0 * B * S * NH * HD * (S + 1) / 2)
    for S, NH, NKV, HD in [(8192, 32, 8, 128), (2048, 32, 4, 64)]:
        report("attention_cached_forward", f"float16 after {S - 1} NH={NH} NKV={NKV} HD={HD}",
               lambda: (normal(1, NH, 1, HD, dtype=torch.float16), normal(1, NKV, S, HD, dtype=torch.float16),
                        normal(1, NKV, S, HD, dtype=torch.float16)),
               lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), 4.0 * S * NH * HD, 4.0 * S * NKV * HD)


def rows():
    report("rmsnorm_forward", "rows=2048 C=4096", lambda: (normal(2048, 4096), normal(4096)),
           lambda x, g: F.rms_norm(x, (4096,), g), traffic=8.0 * 2048 * 4096)
    report("swiglu_forward", "rows=512 FF=11008", lambda: (normal(512, 11008), normal(512, 11008)),
           lambda gate, up: F.silu(gate) * up, traffic=12.0 * 512 * 11008)
    report("add_forward", "n=8388608", lambda: (normal(8388608), normal(8388608)), lambda y, x: y.add_(x), traffic=12.0 * 8388608)
    report("log_softmax_forward", "rows=64 V=32000", lambda: (normal(64, 32000),), lambda x: F.log_softmax(x, 1),
           traffic=8.0 * 64 * 32000)
    report("argmax_forward", "rows=1 V=128256", lambda: (normal(1, 128256),), lambda x: x.argmax(1).item(), traffic=4.0 * 128256)


if __name__ == "__main__":
    device = torch.cuda.get_device_name()
    print(f"PyTorch {torch.__version__}, {device}: copies at "
          f"{2 * COLD / seconds(lambda: (normal(COLD // 4), normal(COLD // 4)), lambda y, x: y.copy_(x)) * 1e-9:.1f} GB/s")
    products()
    attention()
    rows()
