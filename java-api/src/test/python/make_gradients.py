"""Loss, gradient and a hundred AdamW steps of models of this repository, by transformers and PyTorch in float32.

    python make_gradients.py [OUT] [MODEL]      OUT defaults to ../resources/fixtures; MODEL is a folder elsewhere, of a model that is too
                                                large for its gradient to be kept: of that, sketches are

Needs numpy, torch, transformers, safetensors, and the models that make_models.py made. For each case OUT/gradients/CASE.safetensors holds
the gradient of every tensor, as F32, and CASE.json the batch, its mean loss and the loss before each step of training on that batch,
and how far off every gradient is when PyTorch's autocast computes products in BF16.
"""
import os
import sys

import numpy as np
import safetensors.torch
import torch

import reference

CASES = ["mha-odd", "gqa3-tied", "mistral-window", "rope-llama3"]
SEQUENCES, TOKENS, STEPS = 3, 37, 100
ADAMW = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
CLIP = 1.0


def batch(vocabulary, seed):
    """Random tokens; a seventh of the targets does not count."""
    rng = np.random.RandomState(seed)
    ids = rng.randint(0, vocabulary, (SEQUENCES, TOKENS))
    targets = rng.randint(0, vocabulary, (SEQUENCES, TOKENS))
    targets[rng.uniform(size=targets.shape) < 1 / 7] = -100
    return torch.tensor(ids), torch.tensor(targets)


def loss_of(model, ids, targets):
    logits = model(ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def case(folder, seed):
    model = reference.load(folder)
    ids, targets = batch(model.config.vocab_size, seed)
    loss = loss_of(model, ids, targets)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_of(model, ids, targets).backward()
    bf16_errors = {name: float("%.3g" % ((p.grad - gradients[name]).norm() / gradients[name].norm()))
                   for name, p in model.named_parameters()}

    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": norms, "weight_decay": 0.0}], **ADAMW)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        step = loss_of(model, ids, targets)
        step.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(step.item())
    expected = {"note": "mean loss in nats over targets that are not -1, and before each step of AdamW on this batch: rate 1e-3, betas "
                        "0.9 and 0.95, eps 1e-8, decay 0.1 of matrices alone, gradient clipped at norm 1. bf16_errors: length of the difference over that of the "
                        "gradient.",
                "versions": reference.versions(), "ids": ids.tolist(),
                "targets": torch.where(targets == -100, -1, targets).tolist(), "loss": loss.item(), "losses": losses,
                "bf16_errors": bf16_errors}
    return gradients, expected


def sketch(gradient):
    """The norm, and sums with sixteen patterns of signs: of a difference they have its length as their root mean square."""
    values = gradient.flatten().double().numpy()
    h = np.arange(values.size, dtype=np.uint64) * np.uint64(2654435761) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(15)
    h = h * np.uint64(2246822519) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(13)
    sums = [float(np.where(h >> np.uint64(k) & np.uint64(1), values, -values).sum()) for k in range(16)]
    return {"norm": float(np.linalg.norm(values)), "sums": sums}


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else reference.DEFAULT_OUT
    folder = os.path.join(out, "gradients")
    os.makedirs(folder, exist_ok=True)
    models = {name: os.path.join(reference.DEFAULT_OUT, "models", name) for name in CASES}
    if len(sys.argv) > 2:
        models = {os.path.basename(os.path.normpath(sys.argv[2])): sys.argv[2]}
    for seed, (name, model) in enumerate(models.items()):
        gradients, expected = case(model, seed)
        if name in CASES:
            safetensors.torch.save_file(gradients, os.path.join(folder, name + ".safetensors"))
        else:
            expected["sketches"] = {tensor: sketch(gradient) for tensor, gradient in gradients.items()}
        reference.write_json(os.path.join(folder, name + ".json"), expected)
        print(name, expected["loss"], expected["losses"][-1], sum(g.numel() for g in gradients.values()))


if __name__ == "__main__":
    main()
