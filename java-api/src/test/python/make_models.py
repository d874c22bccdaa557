"""Random-weight models in Hugging Face's format, with the logits and greedy tokens that transformers computes for them.

    python make_models.py [OUT]        OUT defaults to ../resources/fixtures; one folder is written for each case

Needs numpy, torch, transformers, safetensors. Weights of BF16 and F16 files are upcast: everything is computed in float32.
Dynamic NTK, as transformers decodes with a cache: a prompt longer than the original context is rotated with the base of its whole
length; each later token uses the base of the length it brings, and keys keep the rotation they were cached with.
"""
import json
import os
import shutil
import sys
import tempfile

import safetensors
import safetensors.torch
import torch

import reference

NOTE = ("logits: at the prompt's last position; every_position: the same at each position; greedy: tokens by argmax with a cache, "
        "never stopped; top_ids and top_logprobs: the five likeliest at each greedy step, natural logarithms.")

SMALL = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 24,
         "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
         "vocab_size": 67, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
         "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "attention_bias": False, "mlp_bias": False}


def small(**changes):
    """SMALL with changes; None removes a key."""
    return {k: v for k, v in {**SMALL, **changes}.items() if v is not None}


def parameters(**rope):
    """The newer spelling: everything about RoPE, the base too, in rope_parameters."""
    return {"rope_theta": None, "rope_parameters": rope}


CASES = {
    "llama1": dict(
        covers="LLaMA 1's first conversions: LLaMAForCausalLM, no num_key_value_heads, no rope_theta, no "
               "max_position_embeddings, eps 1e-6 on small embeddings, F16, buffers of frequencies among the tensors",
        config={"architectures": ["LLaMAForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 32,
                "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 67,
                "max_sequence_length": 2048, "rms_norm_eps": 1e-6, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1,
                "initializer_range": 0.02, "torch_dtype": "float16", "use_cache": True},
        dtype=torch.float16, embedding_std=0.002, buffers=True, without={"rms_norm_eps": 1e-5}),
    "mha-odd": dict(
        covers="multi-head attention, odd sizes everywhere: width 22, head width 10, feed-forward 37, vocabulary 131",
        config=small(hidden_size=22, num_attention_heads=2, num_key_value_heads=2, head_dim=10, intermediate_size=37,
                     vocab_size=131)),
    "gqa8-head64": dict(
        covers="GQA 8:1, head width 64 apart from width / heads, F16",
        config=small(hidden_size=16, num_attention_heads=8, num_key_value_heads=1, head_dim=64, rope_theta=500000.0),
        dtype=torch.float16),
    "gqa3-head80": dict(
        covers="GQA 3:1, head width 80, tied embeddings, BF16, an eos list",
        config=small(hidden_size=24, num_attention_heads=3, num_key_value_heads=1, head_dim=80, vocab_size=131,
                     tie_word_embeddings=True, eos_token_id=[2, 5]), dtype=torch.bfloat16),
    "gqa2-head128": dict(
        covers="GQA 2:1, head width 128, BF16",
        config=small(hidden_size=20, num_attention_heads=4, num_key_value_heads=2, head_dim=128, num_hidden_layers=1),
        dtype=torch.bfloat16),
    "gqa3-tied": dict(
        covers="nine query heads on three, tied embeddings, no head_dim in the file, BF16: SmolLM2's proportions",
        config=small(hidden_size=36, num_attention_heads=9, num_key_value_heads=3, head_dim=None, intermediate_size=96,
                     tie_word_embeddings=True, vocab_size=131), dtype=torch.bfloat16),
    "mqa-tied-f16": dict(
        covers="one key/value head, tied embeddings, F16",
        config=small(num_key_value_heads=1, tie_word_embeddings=True), dtype=torch.float16),
    "stored-head": dict(
        covers="tie_word_embeddings true, yet the file stores a head of its own: transformers then does not tie",
        config=small(tie_word_embeddings=True), dtype=torch.bfloat16, stored_head=True),
    "sharded": dict(
        covers="three safetensors shards and their index, BF16 and F32 tensors mixed",
        config=small(), shards=3, mixed=True),
    "eps-large": dict(
        covers="an eps that the squares do not drown",
        config=small(rms_norm_eps=1e-2), embedding_std=0.05, dtype=torch.bfloat16, without={"rms_norm_eps": 1e-5}),
    "rope-linear": dict(
        covers="linear scaling, older spelling ('type')",
        config=small(rope_scaling={"type": "linear", "factor": 4.0}), dtype=torch.bfloat16, without={"rope_scaling": None}),
    "rope-linear-new": dict(
        covers="linear scaling, newer spelling",
        config=small(**parameters(rope_type="linear", factor=2.5, rope_theta=100000.0)), dtype=torch.bfloat16,
        without={"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}}),
    "rope-default-new": dict(
        covers="no scaling, newer spelling: the base stands in rope_parameters alone",
        config=small(**parameters(rope_type="default", rope_theta=500.0)), dtype=torch.bfloat16,
        without={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    "rope-llama3": dict(
        covers="llama3 scaling, older spelling, long, blended and short wavelengths, tied embeddings",
        config=small(head_dim=32, num_attention_heads=2, rope_theta=500000.0, tie_word_embeddings=True, rope_scaling={
            "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64,
            "rope_type": "llama3"}), dtype=torch.bfloat16, without={"rope_scaling": None}),
    "rope-llama3-new": dict(
        covers="llama3 scaling, newer spelling, factors 32, 1.5 and 6",
        config=small(head_dim=32, num_attention_heads=2, **parameters(
            factor=32.0, high_freq_factor=6.0, low_freq_factor=1.5, original_max_position_embeddings=48, rope_type="llama3",
            rope_theta=10000.0)), dtype=torch.bfloat16,
        without={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    "rope-yarn": dict(
        covers="YaRN, older spelling, everything by default",
        config=small(rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}),
        dtype=torch.bfloat16, without={"rope_scaling": None}),
    "rope-yarn-magnitude": dict(
        covers="YaRN, explicit attention_factor, beta_fast and beta_slow; original context taken from max_position_embeddings",
        config=small(max_position_embeddings=64, rope_scaling={
            "rope_type": "yarn", "factor": 3.0, "attention_factor": 1.5, "beta_fast": 16, "beta_slow": 2}), dtype=torch.bfloat16,
        without={"rope_scaling": {"rope_type": "yarn", "factor": 3.0, "beta_fast": 16, "beta_slow": 2}}),
    "rope-yarn-untruncated": dict(
        covers="YaRN, newer spelling, truncate false",
        config=small(**parameters(rope_type="yarn", factor=8.0, original_max_position_embeddings=64, truncate=False,
                                  rope_theta=10000.0)), dtype=torch.bfloat16,
        without={"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64,
                                     "rope_theta": 10000.0}}),
    "rope-yarn-mscale": dict(
        covers="YaRN, newer spelling, mscale and mscale_all_dim",
        config=small(**parameters(rope_type="yarn", factor=16.0, original_max_position_embeddings=32, mscale=1.0,
                                  mscale_all_dim=0.5, rope_theta=10000.0)), dtype=torch.bfloat16,
        without={"rope_parameters": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 32,
                                     "rope_theta": 10000.0}}),
    "rope-dynamic": dict(
        covers="dynamic NTK: a prompt below the original context of 32 that grows past it, and one far beyond",
        config=small(max_position_embeddings=32, rope_scaling={"type": "dynamic", "factor": 4.0}), dtype=torch.bfloat16,
        without={"rope_scaling": None}),
    "rope-dynamic-new": dict(
        covers="dynamic NTK, newer spelling, original context 24",
        config=small(max_position_embeddings=24, head_dim=32, **parameters(rope_type="dynamic", factor=2.0, rope_theta=10000.0)),
        dtype=torch.bfloat16, without={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    "mistral-window": dict(
        covers="Mistral, a window of 13 shorter than the prompts, GQA 4:1",
        config=small(architectures=["MistralForCausalLM"], model_type="mistral", num_key_value_heads=1, sliding_window=13,
                     attention_bias=None, mlp_bias=None), without={"sliding_window": 14}),
    "mistral-plain": dict(
        covers="Mistral without a window (null), base 1e6, no head_dim",
        config={**small(architectures=["MistralForCausalLM"], model_type="mistral", head_dim=None, rope_theta=1e6,
                        attention_bias=None, mlp_bias=None), "sliding_window": None}, dtype=torch.bfloat16),
}


def write(folder, case, weights):
    os.makedirs(folder)
    tensors = {k: torch.from_numpy(v) for k, v in weights.items()}
    dtype = case.get("dtype", torch.float32)
    tensors = {k: v.to(dtype) for k, v in tensors.items()}
    if case.get("mixed"):
        tensors = {k: v.to(torch.bfloat16) if "mlp" in k else v for k, v in tensors.items()}
    if case.get("stored_head"):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    if case.get("buffers"):
        for i in range(case["config"]["num_hidden_layers"]):
            tensors[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.full((4,), 7.0)
    shards = case.get("shards", 1)
    if shards == 1:
        safetensors.torch.save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    else:
        names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
        parts = [dict(list(tensors.items())[i::shards]) for i in range(shards)]
        for name, part in zip(names, parts):
            safetensors.torch.save_file(part, os.path.join(folder, name), metadata={"format": "pt"})
        index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
                 "weight_map": {k: name for name, part in zip(names, parts) for k in part}}
        write_plain(os.path.join(folder, "model.safetensors.index.json"), index)
    write_plain(os.path.join(folder, "config.json"), case["config"])


def write_plain(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2)
        f.write("\n")


def make(out, name, case, first_seed):
    config = case["config"]
    for seed in range(first_seed, first_seed + 50):
        with tempfile.TemporaryDirectory() as scratch:
            folder = os.path.join(scratch, name)
            write(folder, case, reference.random_weights(config, seed, case.get("embedding_std", 0.5)))
            expected = reference.expectations(folder, config["vocab_size"], seed)
            if expected is None:
                continue
            if "without" in case:
                other = os.path.join(scratch, "other")
                shutil.copytree(folder, other)
                write_plain(os.path.join(other, "config.json"), {**config, **case["without"]})
                change = reference.difference(folder, other, expected[-1]["ids"])
                assert change > 0.01, (name, "the case hardly depends on what it covers", change)
            reference.write_json(os.path.join(folder, "expected.json"), {
                "case": name, "covers": case["covers"], "seed": seed, "note": NOTE,
                "made_with": reference.versions(safetensors=safetensors.__version__), "prompts": expected})
            target = os.path.join(out, "models", name)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target)
        print(name, "seed", seed, sum(os.path.getsize(os.path.join(target, f)) for f in os.listdir(target)), "bytes")
        return
    raise SystemExit(f"{name}: no seed from {first_seed} on keeps the greedy choices apart")


if __name__ == "__main__":
    for index, (case_name, case_spec) in enumerate(CASES.items()):
        make(sys.argv[1] if len(sys.argv) > 1 else reference.DEFAULT_OUT, case_name, case_spec, 1000 * (index + 1))
