"""What make_models.py and make_gguf.py share: random weights, and what transformers computes with them in float32 on the CPU.

Weights come from numpy's legacy generator, whose stream is fixed for good; everything runs on one thread.
"""
import json
import os
import platform

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

DEFAULT_OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "resources", "fixtures")
PROMPT_LENGTHS = (1, 2, 17, 70)
EVERY_POSITION = 17  # the prompt whose logits are kept at every position
GREEDY_TOKENS = 24
GREEDY_MARGIN = 1e-3  # between the two best logits at every greedy step: no correct float32 engine may choose otherwise


def versions(**more):
    return {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__,
            "transformers": transformers.__version__, **more}


def shortest(values):
    """Decimal numbers that read back as the same float32, as short as they can be."""
    if isinstance(values, (list, np.ndarray, torch.Tensor)) and np.ndim(values) > 0:
        return [shortest(v) for v in values]
    return float(str(np.float32(values)))


def write_json(path, value):
    """One line for each list of numbers: small, and a diff shows what changed."""
    def render(v, depth):
        pad = " " * (depth + 1)
        if isinstance(v, dict) and v and not all(isinstance(x, (int, float)) for x in v.values()):
            body = ",\n".join(pad + json.dumps(k) + ": " + render(x, depth + 1) for k, x in v.items())
            return "{\n" + body + "\n" + " " * depth + "}"
        if isinstance(v, list) and any(isinstance(x, (dict, list)) for x in v):
            return "[\n" + ",\n".join(pad + render(x, depth + 1) for x in v) + "\n" + " " * depth + "]"
        return json.dumps(v, ensure_ascii=False, separators=(",", ":"))
    with open(path, "w", encoding="utf-8") as f:
        f.write(render(value, 0) + "\n")


def random_weights(config, seed, embedding_std=0.5):
    """Weights under Hugging Face's names. Queries and keys are scaled up so that attention is far from uniform and a wrong
    rotation shows; the head so that logits spread over several units."""
    rng = np.random.RandomState(seed)
    width, ff, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    head = config.get("head_dim") or width // heads

    def matrix(rows, columns, gain=1.0):
        return (rng.standard_normal((rows, columns)) * gain / np.sqrt(columns)).astype(np.float32)

    def gain():
        return rng.uniform(0.5, 1.5, width).astype(np.float32)

    weights = {"model.embed_tokens.weight": (rng.standard_normal((vocab, width)) * embedding_std).astype(np.float32)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        weights[layer + "input_layernorm.weight"] = gain()
        weights[layer + "self_attn.q_proj.weight"] = matrix(heads * head, width, 1.5)
        weights[layer + "self_attn.k_proj.weight"] = matrix(kv_heads * head, width, 1.5)
        weights[layer + "self_attn.v_proj.weight"] = matrix(kv_heads * head, width)
        weights[layer + "self_attn.o_proj.weight"] = matrix(width, heads * head)
        weights[layer + "post_attention_layernorm.weight"] = gain()
        weights[layer + "mlp.gate_proj.weight"] = matrix(ff, width)
        weights[layer + "mlp.up_proj.weight"] = matrix(ff, width)
        weights[layer + "mlp.down_proj.weight"] = matrix(width, ff)
    weights["model.norm.weight"] = gain()
    if config.get("tie_word_embeddings", False):
        # Embeddings small beside what the layers add, or every token would predict itself; the last norm spreads the logits.
        weights["model.embed_tokens.weight"] *= np.float32(0.25)
        weights["model.norm.weight"] *= np.float32(5)
    else:
        weights["lm_head.weight"] = matrix(vocab, width, 3.0)
    return weights


def prompts(vocab, seed):
    rng = np.random.RandomState(seed)
    lists = [rng.randint(0, vocab, n).tolist() for n in PROMPT_LENGTHS]
    lists[-1][:2] = [0, vocab - 1]
    return lists


def load(folder, dtype=torch.float32):
    # A model with dynamic NTK remembers the longest sequence it has seen, so every prompt gets a model of its own.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


@torch.no_grad()
def logits(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0]


@torch.no_grad()
def greedy(model, ids):
    """Prompt in one step, then one token a step from the cache, never stopped. Returns the ids and each one's logits."""
    step, past, chosen, rows = torch.tensor([ids]), None, [], []
    for _ in range(GREEDY_TOKENS):
        out = model(step, past_key_values=past, use_cache=True)
        past = out.past_key_values
        rows.append(out.logits[0, -1])
        chosen.append(int(rows[-1].argmax()))
        step = torch.tensor([[chosen[-1]]])
    return chosen, torch.stack(rows)


def expectations(folder, vocab, seed):
    """Everything that a test compares, for every prompt. None, for another seed, where two logits come too close to rank
    or the greedy text only repeats itself."""
    dynamic = "dynamic" in load(folder).config.rope_parameters["rope_type"]
    out, largest = [], 0.0
    for ids in prompts(vocab, seed):
        every = logits(load(folder), ids)
        chosen, rows = greedy(load(folder), ids)
        best = rows.topk(2).values
        if float((best[:, 0] - best[:, 1]).min()) < 2 * GREEDY_MARGIN or len(set(chosen)) < 6:
            return None
        # The cache may not change what is computed, except under dynamic NTK, where keys keep the rotation they were cached with.
        if not dynamic:
            whole = logits(load(folder), ids + chosen[:-1])[len(ids) - 1:]
            assert float((whole - rows).abs().max()) < 1e-4, folder
        # Far less rounding error than a test may allow: the model is well conditioned.
        largest = max(largest, float((logits(load(folder, torch.float64), ids) - every.double()).abs().max()))
        prompt = {"ids": ids, "logits": shortest(every[-1]), "greedy": chosen}
        if len(ids) == EVERY_POSITION:
            if vocab < 200:  # keeps the file small
                prompt["every_position"] = shortest(every)
            top = torch.log_softmax(rows, -1).topk(6)
            if float((top.values[:, :5] - top.values[:, 1:]).min()) < GREEDY_MARGIN / 2:
                return None
            prompt["top_ids"] = top.indices[:, :5].tolist()
            prompt["top_logprobs"] = shortest(top.values[:, :5])
        out.append(prompt)
    assert largest < 5e-5, (folder, largest)
    return out


def difference(folder, other, ids):
    """How much the logits of two folders differ: what a case is about must matter."""
    return float((logits(load(folder), ids) - logits(load(other), ids)).abs().max())
