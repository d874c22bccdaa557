#!/usr/bin/env python3
"""Makes one GGUF file of a trained story-teller, its tokenizer inside.

    make_gguf.py MODEL_DIRECTORY OUT.gguf [F16|Q8_0 [REPETITION_PENALTY]]

MODEL_DIRECTORY is what puna train writes, with a SentencePiece tokenizer.model. A penalty is what the file recommends to generate with.
Needs numpy, safetensors, sentencepiece and gguf.
"""
import json
import os
import sys

import gguf
import safetensors.numpy
import sentencepiece
from gguf import GGMLQuantizationType, LlamaFileType, TokenType, quants

NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    if name.startswith("model.layers."):
        _, _, layer, rest = name.removesuffix(".weight").split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]


def pairs(weight, heads):
    """Rows of each head from halves (i, i + HD/2), Hugging Face's, to pairs (2i, 2i + 1), GGUF's."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def vocabulary(writer, file):
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=file)
    tokens, scores, types = [], [], []
    for i in range(tokenizer.vocab_size()):
        tokens.append(tokenizer.id_to_piece(i).encode())
        scores.append(tokenizer.get_score(i))
        types.append(TokenType.UNKNOWN if tokenizer.is_unknown(i) else TokenType.CONTROL if tokenizer.is_control(i)
                     else TokenType.BYTE if tokenizer.is_byte(i) else TokenType.NORMAL)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(tokenizer.bos_id())
    writer.add_eos_token_id(tokenizer.eos_id())
    writer.add_unk_token_id(tokenizer.unk_id())
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def main():
    directory, out = sys.argv[1:3]
    kind = sys.argv[3] if len(sys.argv) > 3 else "Q8_0"
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name("Puna story-teller")
    writer.add_description("Tells short stories for small children. Trained by Puna on TinyStories.")
    writer.add_license("CDLA-Sharing-1.0")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    writer.add_file_type({"F16": LlamaFileType.MOSTLY_F16, "Q8_0": LlamaFileType.MOSTLY_Q8_0}[kind])
    if len(sys.argv) > 4:
        writer.add_sampling_penalty_repeat(float(sys.argv[4]))
    vocabulary(writer, os.path.join(directory, "tokenizer.model"))
    for name, weight in safetensors.numpy.load_file(os.path.join(directory, "model.safetensors")).items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = pairs(weight, heads if name.endswith("q_proj.weight") else kv_heads)
        # The weights of RMSNorm stay as they are.
        dtype = GGMLQuantizationType.F32 if weight.ndim == 1 else GGMLQuantizationType[kind]
        data = weight if weight.ndim == 1 else quants.quantize(weight, dtype)
        writer.add_tensor(gguf_name(name), data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print("%s: %d bytes" % (out, os.path.getsize(out)))


if __name__ == "__main__":
    main()
