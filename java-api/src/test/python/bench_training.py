"""Training speed and memory of Puna beside PyTorch on the CPU, in turn: the 15M shape of stories15M, batch 4 x 256, AdamW.

    python bench_training.py TOKENS [ROUNDS] [STEPS] [POLICY|ALL] [f32|bf16]

TOKENS: a folder of puna data, of at most 32,000 tokens. bf16: products in BF16, in PyTorch by autocast.

Needs torch and transformers. Every round runs each in a process of its own on two threads; the medians of all steps but each process's
first two are compared.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 32000, "hidden_size": 288,
          "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 6,
          "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2}
SEQUENCES, TOKENS, THREADS, WARM = 4, 256, 2, 2
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "..")


def torch_steps(steps, precision):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.set_num_threads(THREADS)
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in CONFIG.items() if k != "architectures"}, attn_implementation="sdpa"))
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    ids = torch.randint(0, CONFIG["vocab_size"], (SEQUENCES, TOKENS + 1))
    for _ in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(ids[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
        print(SEQUENCES * TOKENS / (time.perf_counter() - start), flush=True)


def run(command, read):
    """Tokens a second of each step, and the most memory that the process had, in MiB."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, command
        out.seek(0)
        return read(out.read().decode())[WARM:], usage.ru_maxrss / 1024


def puna(folder, tokens, steps, policy, precision):
    config, log = os.path.join(folder, "config.json"), os.path.join(folder, "log.jsonl")
    with open(config, "w", encoding="utf-8") as f:
        json.dump(CONFIG, f)
    java = os.path.join(os.environ.get("JAVA_HOME", "/usr"), "bin", "java")
    jar = os.path.join(ROOT, "examples", "target", "puna.jar")
    command = [java, "-XX:+UseSerialGC", "-jar", jar, "train", "--config", config, "--data", tokens, "--out",
               os.path.join(folder, "model"), "--steps", str(steps), "--batch", str(SEQUENCES), "--sequence", str(TOKENS),
               "--learning-rate", "1e-4", "--threads", str(THREADS), "--recompute", policy, "--precision", precision,
               "--evaluation-batches", "1", "--log", log]
    return run(command, lambda _: [json.loads(line)["tokens_per_second"] for line in open(log, encoding="utf-8")])


def main():
    tokens = sys.argv[1]
    rounds, steps = (int(value) for value in (sys.argv[2:4] + ["3", "8"][len(sys.argv[2:4]):]))
    policies = [sys.argv[4]] if len(sys.argv) > 4 and sys.argv[4] != "ALL" else ["STORE_ALL", "LLAMA", "FULL"]
    precision = sys.argv[5] if len(sys.argv) > 5 else "f32"
    rates, peaks = {}, {}
    for _ in range(rounds):
        for name in ["PyTorch"] + policies:
            with tempfile.TemporaryDirectory() as folder:
                if name == "PyTorch":
                    command = [sys.executable, os.path.abspath(__file__), "--torch", str(steps), precision]
                    values, peak = run(command, lambda out: [float(line) for line in out.split()])
                else:
                    values, peak = puna(folder, tokens, steps, name, precision)
            rates.setdefault(name, []).extend(values)
            peaks[name] = max(peaks.get(name, 0), peak)
    whole = statistics.median(rates["PyTorch"])
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"{name:10} {median:8.0f} tokens/s  {median / whole:5.2f} times  peak {peaks[name]:6.0f} MiB")


if __name__ == "__main__":
    if sys.argv[1] == "--torch":
        torch_steps(int(sys.argv[2]), sys.argv[3])
    else:
        main()
