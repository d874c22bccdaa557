"""Causal attention of Puna beside PyTorch's on the CPU, in turn: forward and backward pass of one sequence, F32, two threads.

    python bench_attention.py LIBRARY [ROUNDS] [HEADSxKEY_VALUE_HEADSxWIDTH ...]      LIBRARY: path of libpuna.so

Needs torch and numpy. PyTorch has the layout that it likes best and its keys and values repeated for every query head beforehand, which
it is not charged for. Both passes' medians; GFLOP/s count the visible scores, two products forwards and five backwards.
"""
import ctypes
import statistics
import sys
import time

import torch

THREADS = 2
I64, POINTER, FLOAT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float


class Puna:
    def __init__(self, library):
        self.library, self.context = ctypes.CDLL(library), POINTER()
        self.call("context_create", (ctypes.c_int32 * 4)(0, 0, THREADS, 0), None, ctypes.byref(self.context))

    def call(self, name, *arguments):
        plain = [I64(a) if isinstance(a, int) else POINTER(a.data_ptr()) if isinstance(a, torch.Tensor) else a for a in arguments]
        assert getattr(self.library, "puna_" + name)(*plain) == 0, name

    def workspace(self, name, *shape):
        count = I64()
        self.call(name, self.context, *shape, ctypes.byref(count))
        return torch.empty(count.value // 4 + 16)


def compare(puna, heads, kv_heads, width, tokens, rounds):
    q, dy = torch.randn(tokens, heads, width), torch.randn(tokens, heads, width)
    k, v = torch.randn(tokens, kv_heads, width), torch.randn(tokens, kv_heads, width)
    y, lse, dq, dk, dv = torch.empty_like(q), torch.empty(heads, tokens), torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    forward_space = puna.workspace("attention_workspace_size", heads, kv_heads, width)
    backward_space = puna.workspace("attention_backward_workspace_size", heads, kv_heads, width)
    n, m, scale = heads * width, kv_heads * width, FLOAT(width ** -0.5)
    shape = (1, tokens, tokens, heads, kv_heads, width, 0)

    def forward():
        puna.call("attention_forward", puna.context, y, n, lse, q, n, k, v, m, *shape, scale, forward_space, forward_space.nbytes)

    def backward():
        puna.call("attention_backward", puna.context, dq, n, dk, dv, m, q, n, k, v, m, y, n, dy, n, lse, *shape, scale, backward_space,
                  backward_space.nbytes)

    repeat = heads // kv_heads
    tq, tdy = (t.transpose(0, 1).unsqueeze(0).contiguous() for t in (q, dy))
    tk, tv = (t.transpose(0, 1).unsqueeze(0).repeat_interleave(repeat, 1).contiguous() for t in (k, v))
    leaves = [t.requires_grad_() for t in (tq, tk, tv)]
    times = [[], [], [], []]

    def timed(place, run):
        start = time.perf_counter()
        result = run()
        times[place].append(time.perf_counter() - start)
        return result

    for _ in range(rounds + 1):
        timed(0, forward)
        timed(1, backward)
        ty = timed(2, lambda: torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True))
        gradients = timed(3, lambda: torch.autograd.grad(ty, leaves, tdy))
    assert torch.allclose(ty[0].transpose(0, 1), y, atol=1e-4)
    for ours, theirs in ((dq, gradients[0]), (dk, gradients[1]), (dv, gradients[2])):
        theirs = theirs[0].transpose(0, 1).reshape(tokens, ours.shape[1], -1, width).sum(2)
        assert torch.allclose(theirs, ours, atol=1e-3), (theirs - ours).abs().max()
    ahead, back, torch_ahead, torch_back = (statistics.median(t[1:]) for t in times)
    products = tokens * (tokens + 1) / 2 * n * 2e-9
    print(f"{heads:3} x {kv_heads:2} x {width:3} {tokens:6} tokens: forward {2 * products / ahead:6.1f} GFLOP/s, {torch_ahead / ahead:5.2f} times "
          f"PyTorch; backward {5 * products / back:6.1f}, {torch_back / back:5.2f}; both {(torch_ahead + torch_back) / (ahead + back):5.2f}",
          flush=True)


def main():
    torch.set_num_threads(THREADS)
    puna = Puna(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    shapes = [tuple(int(d) for d in s.split("x")) for s in sys.argv[3:]] or [(8, 8, 64), (32, 32, 128)]
    for heads, kv_heads, width in shapes:
        for tokens in (512, 1024, 2048, 4096):
            compare(puna, heads, kv_heads, width, tokens, rounds)


if __name__ == "__main__":
    main()
