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


def gradients(y, *inputs):
    """Of sum(y * dy) for a random dy: what PyTorch's autograd gives for every input."""
    dy = normal(*y.shape)
    return dy, [expected(g) for g in torch.autograd.grad(y, inputs, f64(dy))]


def leaf(array):
    return f64(array).requires_grad_()


def embedding_backward(rows, vocabulary, width):
    table, ids = leaf(normal(vocabulary, width)), rng.randint(0, vocabulary, rows).astype(np.int32)
    dy, (dtable,) = gradients(F.embedding(torch.from_numpy(ids).long(), table), table)
    case("embedding_backward", ids=tensor(ids), dy=tensor(dy), dtable=dtable)


def rmsnorm_backward(rows, width, eps):
    x, g = normal(rows, width), rng.uniform(0.5, 1.5, width).astype(np.float32)
    x64, g64 = leaf(x), leaf(g)
    dy, (dx, dg) = gradients(F.rms_norm(x64, (width,), g64, eps), x64, g64)
    rstd = torch.rsqrt(f64(x).square().mean(-1) + eps)
    case("rmsnorm_backward", x=tensor(x), g=tensor(g), rstd=expected(rstd), dy=tensor(dy), dx=dx, dg=dg)


def swiglu_backward(rows, width):
    gate, up = normal(rows, width, scale=4), normal(rows, width)
    gate.flat[:4] = [0, -100, 100, -20]
    gate64, up64 = leaf(gate), leaf(up)
    dy, (dgate, dup) = gradients(F.silu(gate64) * up64, gate64, up64)
    case("swiglu_backward", gate=tensor(gate), up=tensor(up), dy=tensor(dy), dgate=dgate, dup=dup)


def rope_backward(layout, rows, heads, width):
    x = leaf(normal(rows, heads, width))
    angles = torch.from_numpy(rng.uniform(0, 6, (rows, width // 2)).astype(np.float32)).double()
    table = torch.stack((torch.cos(angles), torch.sin(angles)), -1).float()
    cos, sin = (t[:, None] for t in table.double().unbind(-1))
    if layout == "HALVES":
        a, b = x.chunk(2, -1)
        y = torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
    else:
        a, b = x[..., ::2], x[..., 1::2]
        y = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    dy, (dx,) = gradients(y.reshape(rows, -1), x)
    dx["shape"] = [rows, heads * width]
    case("rope_backward", layout=layout, table=expected(table.reshape(rows, width)), HD=width, dy=tensor(dy), dx=dx)


def matmul_backward(rows, columns, inner):
    x, w = normal(rows, inner), normal(columns, inner)
    x64, w64 = leaf(x), leaf(w)
    dy, (dx, dw) = gradients(F.linear(x64, w64), x64, w64)
    case("matmul_backward", x=tensor(x), w=tensor(w), dy=tensor(dy), dx=dx, dw=dw)


def attention_backward(batch, tokens, keys, heads, kv_heads, width, window):
    q, k, v = normal(batch * tokens, heads * width), normal(batch * keys, kv_heads * width), normal(batch * keys, kv_heads * width)
    inputs = [leaf(a) for a in (q, k, v)]
    q64, k64, v64 = (a.reshape(batch, -1, n, width).transpose(1, 2) for a, n in zip(inputs, (heads, kv_heads, kv_heads)))
    position, key = torch.arange(keys - tokens, keys)[:, None], torch.arange(keys)[None, :]
    visible = (key <= position) & (key > position - (window or keys))
    scale = width ** -0.5
    y = F.scaled_dot_product_attention(q64, k64, v64, attn_mask=visible, scale=scale, enable_gqa=True)
    y = y.transpose(1, 2).reshape(batch * tokens, -1)
    scores = q64 @ k64.repeat_interleave(heads // kv_heads, 1).transpose(2, 3) * scale
    lse = torch.logsumexp(scores.masked_fill(~visible, -torch.inf), -1)
    dy, (dq, dk, dv) = gradients(y, *inputs)
    case("attention_backward", B=batch, NH=heads, NKV=kv_heads, HD=width, window=window, scale=scale, q=tensor(q), k=tensor(k),
         v=tensor(v), y=expected(y), lse=expected(lse), dy=tensor(dy), dq=dq, dk=dk, dv=dv)


def cross_entropy(rows, width):
    logits, targets = normal(rows, width, scale=3), rng.randint(0, width, rows).astype(np.int32)
    targets[rows // 2] = -100
    logits64 = leaf(logits)
    losses = F.cross_entropy(logits64, torch.from_numpy(targets).long(), reduction="none", ignore_index=-100)
    (dlogits,) = torch.autograd.grad(losses.sum() * 0.25, logits64)
    case("cross_entropy", logits=tensor(logits), targets=tensor(targets), ignored=-100, scale=0.25, losses=expected(losses),
         dlogits=expected(dlogits))


def adamw(elements, steps):
    w = normal(elements)
    parameter = torch.nn.Parameter(f64(w))
    optimizer = torch.optim.AdamW([parameter], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    gradients_ = normal(steps, elements)
    for gradient in gradients_:
        parameter.grad = f64(gradient) * 0.5
        optimizer.step()
    case("adamw", w=tensor(w), gradients=tensor(gradients_), y=expected(parameter))


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
    embedding_backward(9, 4, 33)
    rmsnorm_backward(5, 33, 1e-5)
    rmsnorm_backward(67, 8, 1e-5)
    swiglu_backward(3, 37)
    rope_backward("HALVES", 3, 2, 10)
    rope_backward("INTERLEAVED", 3, 2, 10)
    matmul_backward(13, 7, 33)
    matmul_backward(2, 259, 5)
    attention_backward(1, 9, 9, 8, 1, 6, 0)
    attention_backward(2, 5, 11, 6, 2, 10, 0)
    attention_backward(1, 51, 51, 2, 2, 8, 20)
    cross_entropy(5, 131)
    adamw(37, 5)
    with open(os.path.join(out, "kernels.json"), "w", encoding="utf-8") as f:
        json.dump({"made_with": reference.versions(gguf=version("gguf")), "cases": cases}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else reference.DEFAULT_OUT)
