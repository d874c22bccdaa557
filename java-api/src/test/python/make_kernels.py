"""Golden values of single operations: PyTorch's own operators in float64 on float32 inputs, rounded to float32 once.

    python make_kernels.py [OUT]        OUT defaults to ../resources/fixtures; writes OUT/kernels.json

Needs numpy, torch, transformers, gguf. Tensors are {dtype, shape, base64 of the little-endian bytes}; a case holds an operation's
tensors under the names that native/include/puna.h gives them, its numbers, and what is expected.
"""
import base64
import json
import os
import sys
from importlib.metadata import version

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import reference
from make_gguf import encode

rng = np.random.RandomState(7)
cases = []


def tensor(array):
    array = np.ascontiguousarray(array)
    kind = {"float32": "F32", "int32": "I32", "float16": "F16"}[str(array.dtype)]
    return {"dtype": kind, "shape": list(array.shape), "base64": base64.b64encode(array.tobytes()).decode()}


def expected(value):
    return tensor(value.detach().to(torch.float32).contiguous().numpy())


def normal(*shape, scale=1.0):
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def f64(array):
    return torch.from_numpy(np.asarray(array)).double()


def case(op, **parts):
    cases.append({"op": op, **parts})


def rmsnorm(rows, width, eps, scale):
    x, g = normal(rows, width, scale=scale), rng.uniform(0.5, 1.5, width).astype(np.float32)
    case("rmsnorm", x=tensor(x), g=tensor(g), eps=eps, y=expected(F.rms_norm(f64(x), (width,), f64(g), eps)))


def swiglu(rows, width):
    gate, up = normal(rows, width, scale=4), normal(rows, width)
    gate.flat[:4] = [0, -100, 100, -20]
    case("swiglu", gate=tensor(gate), up=tensor(up), y=expected(F.silu(f64(gate)) * f64(up)))


def log_softmax(rows, width, scale, shift):
    x = normal(rows, width, scale=scale) + np.float32(shift)
    case("log_softmax", x=tensor(x), y=expected(F.log_softmax(f64(x), -1)))


def rope(layout, positions, heads, width, theta, magnitude):
    x = normal(len(positions), heads * width)
    frequencies = (theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)).astype(np.float32)
    position = np.array(positions, np.int32)
    # The angle is the product rounded to float32, as the model's code has it.
    angles = torch.from_numpy(position.astype(np.float32)[:, None] * frequencies[None, :]).double()
    v = f64(x).reshape(len(positions), heads, width)
    if layout == "HALVES":
        cos, sin = (torch.cat((f(angles), f(angles)), -1) * magnitude for f in (torch.cos, torch.sin))
        y, _ = apply_rotary_pos_emb(v, v, cos, sin, unsqueeze_dim=1)
    else:
        turns = torch.polar(torch.full_like(angles, magnitude), angles)[:, None]
        y = torch.view_as_real(torch.view_as_complex(v.reshape(len(positions), heads, -1, 2)) * turns)
    case("rope", layout=layout, x=tensor(x), frequencies=tensor(frequencies), positions=tensor(position), heads=heads, HD=width,
         magnitude=magnitude, y=expected(y.reshape(len(positions), -1)))


def attention(batch, tokens, keys, heads, kv_heads, width, window):
    q = normal(batch, tokens, heads, width, scale=2)
    k, v = normal(batch, keys, kv_heads, width, scale=2), normal(batch, keys, kv_heads, width)
    position = torch.arange(keys - tokens, keys)[:, None]
    key = torch.arange(keys)[None, :]
    visible = key <= position
    if window:
        visible &= key > position - window
    scale = width ** -0.5
    q64, k64, v64 = (f64(a).transpose(1, 2) for a in (q, k, v))
    y = F.scaled_dot_product_attention(q64, k64, v64, attn_mask=visible, scale=scale, enable_gqa=True)
    scores = q64 @ k64.repeat_interleave(heads // kv_heads, 1).transpose(2, 3) * scale
    lse = torch.logsumexp(scores.masked_fill(~visible, -torch.inf), -1)
    case("attention", B=batch, NH=heads, NKV=kv_heads, HD=width, window=window, scale=scale,
         q=tensor(q.reshape(batch * tokens, -1)), k=tensor(k.reshape(batch * keys, -1)), v=tensor(v.reshape(batch * keys, -1)),
         y=expected(y.transpose(1, 2).reshape(batch * tokens, -1)), lse=expected(lse))


def matmul(kind, rows, columns, inner):
    kind = gguf.GGMLQuantizationType[kind]
    x, weight = normal(rows, inner), normal(columns, inner)
    data = encode(weight, kind)
    w = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(columns, inner)
    case("matmul", x=tensor(x), w={"dtype": kind.name, "shape": [columns, inner], "base64": base64.b64encode(data.tobytes()).decode()},
         y=expected(F.linear(f64(x), f64(w))))


def main(out):
    rmsnorm(3, 24, 1e-5, 1.0)
    rmsnorm(2, 131, 1e-6, 1e-3)
    rmsnorm(1, 1, 1e-5, 100.0)
    swiglu(3, 37)
    log_softmax(2, 131, 3.0, 0.0)
    log_softmax(1, 67, 10.0, 1000.0)
    for layout in ("HALVES", "INTERLEAVED"):
        rope(layout, [0, 1, 2, 999], 2, 16, 10000.0, 1.0)
        rope(layout, [130000], 1, 10, 500000.0, 1.25)
    attention(1, 5, 5, 4, 4, 8, 0)
    attention(2, 3, 9, 6, 2, 10, 0)
    attention(1, 1, 70, 8, 1, 16, 0)
    attention(1, 6, 20, 2, 1, 8, 4)
    for kind, inner in (("F32", 133), ("F16", 133), ("BF16", 133), ("Q8_0", 96), ("Q4_0", 96), ("Q4_K", 512), ("Q6_K", 512)):
        matmul(kind, 3, 5, inner)
    with open(os.path.join(out, "kernels.json"), "w", encoding="utf-8") as f:
        json.dump({"made_with": reference.versions(gguf=version("gguf")), "cases": cases}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else reference.DEFAULT_OUT)
