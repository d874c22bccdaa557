"""Tiny LLaMA models as GGUF files, one for each weight type and each way a file may differ, with what transformers computes.

    python make_gguf.py [OUT]        OUT defaults to ../resources/fixtures; files go to OUT/gguf, NAME.gguf beside NAME.json

Needs numpy, torch, transformers, safetensors, sentencepiece, gguf. Each file is read back with the gguf package, its tensors
decoded with gguf.quants and the rows of queries and keys put back from interleaved pairs to halves; transformers then computes
in float32. The vocabulary is a SentencePiece BPE of letters, a few pairs and, where the file is meant to be small, no bytes.
"""
import os
import shutil
import sys
import tempfile

import gguf
import numpy as np
import safetensors.numpy
import sentencepiece
from gguf import GGMLQuantizationType as Type
from sentencepiece import sentencepiece_model_pb2

import reference
from make_models import NOTE, write_plain

TEXTS = ["the cat sat", "a  hat,\tthen.", "", " tea é", "thethe eat\nnaïve"]

BASE = dict(width=32, ff=64, layers=2, heads=4, kv_heads=2, head=8, tied=False, theta=10000.0, eps=1e-5, context=128, bytes=False)
K = dict(width=256, ff=256, layers=1, heads=4, kv_heads=1, head=64)

CASES = {
    "f32": dict(BASE, types=Type.F32, layers=1, kv_heads=4, bytes=True,
                covers="F32, multi-head attention, a vocabulary with bytes"),
    "f16": dict(BASE, types=Type.F16, covers="F16"),
    "bf16": dict(BASE, types=Type.BF16, covers="BF16"),
    "q8_0": dict(BASE, types=Type.Q8_0, width=64, head=16, ff=96, covers="Q8_0"),
    "q4_0": dict(BASE, **{**K, "ff": 64, "head": 32}, types=Type.Q4_0, output=Type.Q6_K, covers="Q4_0 with a Q6_K head"),
    "q4_k_m": dict(BASE, **K, types=Type.Q4_K, output=Type.Q6_K, mixed=True,
                   covers="Q4_K_M: Q4_K, and Q6_K for values, the way down and the head"),
    "tied": dict(BASE, types=Type.F16, tied=True, covers="no output.weight: the embedding serves"),
    "rope-freqs": dict(BASE, types=Type.BF16, head=32, heads=2, theta=500000.0,
                       covers="rope_freqs.weight as Llama 3.1's files have it",
                       rope={"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                             "original_max_position_embeddings": 64, "rope_type": "llama3"}),
    "rope-yarn": dict(BASE, types=Type.BF16, head=16, covers="llama.rope.scaling.type yarn",
                      rope={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}),
    "rope-linear": dict(BASE, types=Type.BF16, head=16, covers="llama.rope.scaling.type linear",
                        rope={"rope_type": "linear", "factor": 4.0}),
    "key-length": dict(BASE, types=Type.F16, head=20, heads=4, covers="attention.key_length apart from width / heads"),
    "version2": dict(BASE, types=Type.F16, version=2, covers="GGUF version 2"),
    "alignment64": dict(BASE, types=Type.F16, alignment=64, covers="general.alignment 64"),
}


def vocabulary(with_bytes):
    """Pieces, scores and types in SentencePiece's numbering (1 normal, 2 unknown, 3 control, 6 byte)."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    if with_bytes:
        pieces += [(f"<0x{i:02X}>", 0.0, 6) for i in range(256)]
    merges = ["th", "▁t", "he", "at", "the", "▁the", "▁a", "ea", "▁at", "en", "▁c", "▁cat"]
    pieces += [(m, -float(i), 1) for i, m in enumerate(merges)]
    pieces += [(c, -float(len(merges) + i), 1) for i, c in enumerate("▁abcdefghijklmnopqrstuvwxyz.,!?'\"-0123456789éT")]
    return pieces


def sentencepiece_model(pieces):
    """The same vocabulary as a tokenizer, with the options of LLaMA's."""
    proto = sentencepiece_model_pb2.ModelProto()
    for piece, score, kind in pieces:
        proto.pieces.add(piece=piece, score=score, type=kind)
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = any(kind == 6 for _, _, kind in pieces)
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def interleave(weight, heads):
    """Rows of a head from halves (i, i + HD/2) to pairs (2i, 2i + 1)."""
    head = weight.shape[0] // heads
    return weight.reshape(heads, 2, head // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def halves(weight, heads):
    head = weight.shape[0] // heads
    return weight.reshape(heads, head // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def half(values):
    return np.asarray(values, np.float32).astype(np.float16)


def quantize_q6_k(blocks):
    """Scale of sixteen values from their largest; no search for better ones: any valid bytes will do."""
    sub = blocks.reshape(-1, 16, 16)
    scale = np.abs(sub).max(-1) / 31
    d = half(scale.max(-1, keepdims=True) / 127)
    scales = np.rint(scale / d.astype(np.float32)).clip(0, 127)
    step = d.astype(np.float32) * scales
    q = np.rint(sub / np.where(step == 0, 1, step)[..., None]).clip(-32, 31).astype(np.int8) + 32
    q = q.astype(np.uint8).reshape(-1, 2, 4, 32)  # halves of 128, then quarters of 32
    low = np.concatenate([(q[:, :, 0] & 15) | (q[:, :, 2] & 15) << 4, (q[:, :, 1] & 15) | (q[:, :, 3] & 15) << 4], -1)
    high = (q[:, :, 0] >> 4) | (q[:, :, 1] >> 4) << 2 | (q[:, :, 2] >> 4) << 4 | (q[:, :, 3] >> 4) << 6
    n = len(blocks)
    return np.concatenate([low.reshape(n, 128), high.reshape(n, 64), scales.astype(np.uint8), d.view(np.uint8)], -1)


def quantize_q4_k(blocks):
    """Scale and minimum of thirty-two values from their range."""
    sub = blocks.reshape(-1, 8, 32)
    low = np.maximum(0, -sub.min(-1))
    scale = (np.maximum(sub.max(-1), 0) + low) / 15
    d, m = half(scale.max(-1, keepdims=True) / 63), half(low.max(-1, keepdims=True) / 63)
    scales = np.rint(scale / d.astype(np.float32)).clip(0, 63).astype(np.uint8)
    mins = np.rint(low / m.astype(np.float32)).clip(0, 63).astype(np.uint8)
    step = d.astype(np.float32) * scales
    q = np.rint((sub + (m.astype(np.float32) * mins)[..., None]) / np.where(step == 0, 1, step)[..., None])
    q = q.clip(0, 15).astype(np.uint8).reshape(-1, 4, 2, 32)
    nibbles = (q[:, :, 0] | q[:, :, 1] << 4).reshape(-1, 128)
    packed = np.concatenate([scales[:, :4] | (scales[:, 4:] >> 4) << 6, mins[:, :4] | (mins[:, 4:] >> 4) << 6,
                             (scales[:, 4:] & 15) | (mins[:, 4:] & 15) << 4], -1)
    return np.concatenate([d.view(np.uint8), m.view(np.uint8), packed, nibbles], -1)


def encode(weight, kind):
    own = {Type.Q4_K: quantize_q4_k, Type.Q6_K: quantize_q6_k}.get(kind)
    if own is None:
        return gguf.quants.quantize(weight, kind)
    return own(weight.reshape(-1, 256)).reshape(weight.shape[0], -1)


def hugging_face_config(case, vocab):
    rope = {"rope_type": "default", **case.get("rope", {}), "rope_theta": case["theta"]}
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": case["width"],
            "intermediate_size": case["ff"], "num_hidden_layers": case["layers"], "num_attention_heads": case["heads"],
            "num_key_value_heads": case["kv_heads"], "head_dim": case["head"], "vocab_size": vocab,
            "max_position_embeddings": case["context"], "rms_norm_eps": case["eps"], "tie_word_embeddings": case["tied"],
            "rope_parameters": rope}


def names(layers):
    pairs = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    parts = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    for i in range(layers):
        pairs.update({f"blk.{i}.{a}": f"model.layers.{i}.{b}" for a, b in parts.items()})
    return {a + ".weight": b + ".weight" for a, b in pairs.items()}


def llama3_divisors(rope, theta, head):
    """What Llama 3.1's converted files carry: by how much each frequency is to be divided (see the model's release notes)."""
    frequencies = theta ** (-np.arange(0, head, 2, dtype=np.float64) / head)
    wavelengths = 2 * np.pi / frequencies
    old, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((old / wavelengths - low) / (high - low)).clip(0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def write_gguf(path, case, pieces, weights):
    writer = gguf.GGUFWriter(path, "llama")
    if "alignment" in case:
        writer.add_custom_alignment(case["alignment"])
    writer.add_name("tiny")
    writer.add_context_length(case["context"])
    writer.add_embedding_length(case["width"])
    writer.add_block_count(case["layers"])
    writer.add_feed_forward_length(case["ff"])
    writer.add_head_count(case["heads"])
    writer.add_head_count_kv(case["kv_heads"])
    writer.add_layer_norm_rms_eps(case["eps"])
    writer.add_rope_freq_base(case["theta"])
    writer.add_rope_dimension_count(case["head"])
    writer.add_vocab_size(len(pieces))
    if case["head"] * case["heads"] != case["width"]:
        writer.add_key_length(case["head"])
        writer.add_value_length(case["head"])
    rope = case.get("rope", {})
    if rope.get("rope_type") in ("yarn", "linear"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([p for p, _, _ in pieces])
    writer.add_token_scores([s for _, s, _ in pieces])
    writer.add_token_types([t for _, _, t in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)

    for name, source in names(case["layers"]).items():
        if source not in weights:
            continue
        weight = weights[source]
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
            continue
        if "attn_q" in name or "attn_k" in name:
            weight = interleave(weight, case["heads" if "attn_q" in name else "kv_heads"])
        kind = case["types"]
        if name == "output.weight":
            kind = case.get("output", kind)
        elif case.get("mixed") and ("attn_v" in name or "ffn_down" in name):
            kind = Type.Q6_K
        data = encode(weight, kind)
        writer.add_tensor(name, data, raw_dtype=None if kind in (Type.F32, Type.F16) else kind)
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(rope, case["theta"], case["head"]))

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if "version" in case:  # versions 2 and 3 share the little-endian layout
        with open(path, "r+b") as f:
            f.seek(4)
            f.write(int(case["version"]).to_bytes(4, "little"))


def read_gguf(path, case):
    """The file's weights under Hugging Face's names, decoded, rows of queries and keys as halves."""
    renamed, weights, kinds = names(case["layers"]), {}, {}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        weight = weight.reshape([int(n) for n in reversed(tensor.shape)])
        if "attn_q" in tensor.name or "attn_k" in tensor.name:
            weight = halves(weight, case["heads" if "attn_q" in tensor.name else "kv_heads"])
        weights[renamed[tensor.name]] = np.ascontiguousarray(weight)
        kinds[tensor.name] = tensor.tensor_type.name
    return weights, kinds


def make(out, name, case, first_seed):
    pieces = vocabulary(case["bytes"])
    config = hugging_face_config(case, len(pieces))
    tokenizer = sentencepiece_model(pieces)
    for seed in range(first_seed, first_seed + 50):
        with tempfile.TemporaryDirectory() as scratch:
            path = os.path.join(scratch, name + ".gguf")
            write_gguf(path, case, pieces, reference.random_weights(config, seed))
            weights, kinds = read_gguf(path, case)
            folder = os.path.join(scratch, name)
            os.makedirs(folder)
            write_plain(os.path.join(folder, "config.json"), config)
            safetensors.numpy.save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
            expected = reference.expectations(folder, len(pieces), seed)
            if expected is None:
                continue
            if "rope" in case:
                other = os.path.join(scratch, "other")
                shutil.copytree(folder, other)
                write_plain(os.path.join(other, "config.json"), hugging_face_config({**case, "rope": {}}, len(pieces)))
                change = reference.difference(folder, other, expected[-1]["ids"])
                assert change > 0.01, (name, "the case hardly depends on what it covers", change)
            target = os.path.join(out, "gguf")
            os.makedirs(target, exist_ok=True)
            shutil.copy(path, target)
            reference.write_json(os.path.join(target, name + ".json"), {
                "case": name, "covers": case["covers"], "seed": seed,
                "note": NOTE + " texts: encoded without BOS.",
                "made_with": reference.versions(gguf=gguf_version(), sentencepiece=sentencepiece.__version__),
                "types": sorted(set(kinds.values())), "prompts": expected,
                "texts": [{"text": t, "ids": tokenizer.encode(t)} for t in TEXTS]})
        print(name, "seed", seed, os.path.getsize(os.path.join(target, name + ".gguf")), "bytes", sorted(set(kinds.values())))
        return
    raise SystemExit(f"{name}: no seed from {first_seed} on keeps the greedy choices apart")


def gguf_version():
    from importlib.metadata import version
    return version("gguf")


if __name__ == "__main__":
    for index, (case_name, case_spec) in enumerate(CASES.items()):
        make(sys.argv[1] if len(sys.argv) > 1 else reference.DEFAULT_OUT, case_name, case_spec, 100_000 + 1000 * index)
