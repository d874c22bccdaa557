"""Golden decoding of every weight type: bytes, and the float32 bits that the gguf package decodes them to.

    python make_blocks.py [OUT]        OUT defaults to ../resources/fixtures; OUT/blocks gets TYPE.bin, TYPE.f32 and blocks.json

Needs numpy and gguf. Block types: random bytes, their F16 scales random over every finite value and, in the first blocks, zero,
negative zero, the least and the largest subnormal, the least normal, one and the largest, of either sign. F16 and BF16: every
exponent and sign with mantissas at and beside their ends, infinities and a quiet NaN included.
"""
import json
import os
import sys
from importlib.metadata import version

import gguf
import numpy as np

SCALES = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x8400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF], "<u2")
ROWS = 8  # of three blocks each
# type: bytes of a block, offsets of its F16 scales
BLOCKS = {"Q8_0": (34, [0]), "Q4_0": (18, [0]), "Q4_K": (144, [0, 2]), "Q6_K": (210, [208])}


def finite_halves(rng, count):
    return (rng.randint(0, 0x7C00, count) | rng.randint(0, 2, count) << 15).astype("<u2")


def random_blocks(rng, size, offsets):
    blocks = rng.randint(0, 256, (ROWS * 3, size)).astype(np.uint8)
    for i, offset in enumerate(offsets):
        scales = finite_halves(rng, len(blocks))
        scales[:len(SCALES)] = np.roll(SCALES, 5 * i)  # where there are two, every kind meets another kind
        blocks[:, offset:offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(ROWS, -1)


def plain(exponent_bits, mantissa_bits):
    top = (1 << mantissa_bits) - 1
    mantissas = [0, 1, top // 3, top // 2 + 1, top - 1, top]
    infinite = (1 << exponent_bits) - 1
    values = [e << mantissa_bits | m for e in range(infinite) for m in mantissas]
    values += [infinite << mantissa_bits, infinite << mantissa_bits | 1 << (mantissa_bits - 1)]
    values = np.array(values + [v | 1 << 15 for v in values], "<u2")
    return values.view(np.uint8).reshape(2, -1)


def main(out):
    folder = os.path.join(out, "blocks")
    os.makedirs(folder, exist_ok=True)
    rng = np.random.RandomState(20)
    encoded = {name: random_blocks(rng, *layout) for name, layout in BLOCKS.items()}
    encoded |= {"F16": plain(5, 10), "BF16": plain(8, 7)}
    table = []
    for name, data in encoded.items():
        values = gguf.quants.dequantize(data.view(np.float16) if name == "F16" else data, gguf.GGMLQuantizationType[name])
        values = np.ascontiguousarray(values, "<f4")
        data.tofile(os.path.join(folder, name + ".bin"))
        values.tofile(os.path.join(folder, name + ".f32"))
        table.append({"dtype": name, "rows": values.shape[0], "columns": values.shape[1]})
    with open(os.path.join(folder, "blocks.json"), "w", encoding="utf-8") as f:
        json.dump({"made_with": {"numpy": np.__version__, "gguf": version("gguf")}, "types": table}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1
         else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "resources", "fixtures"))
