"""What other implementations make of texts: sentencepiece, tiktoken and tokenizers.

Usage: make_tokens.py DATA_DIR OUT.json     (packages sentencepiece, tiktoken, tokenizers)

The texts are the project's own. Written: {"texts": [...], "ids": {file below DATA_DIR: [[ids of the text], ...]}}, without special
tokens, and {"decoded": {file: [[ids, text], ...]}} of ids drawn at random, special ones among them. Byte pieces of SentencePiece are
drawn a whole character at a time: where bytes are no characters, tokenizers also replaces the good ones beside them.
"""
import json
import random
import sys

import sentencepiece
import tiktoken
import tokenizers
from tiktoken.load import load_tiktoken_bpe

DATA, OUT = sys.argv[1:]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")

TEXTS = [
    "", " ", "  ", "   ", "\n", "\t", "\n\n \n", "a", " a", "a ", "  a  ", "a  b   c", " leading and trailing ",
    "The kettle sang while the rain went on.", "Once upon a time, there was a little boat.", "Puna: 3,141.59 + 0x1F == ?",
    "don't WON'T we'll I'VE", "1234567 12 3 00", "é è ü ß Å ñ", "e\u0301 combining", "日本語の文章です。", "Привет, мир!", "שלום עולם", "مرحبا",
    "🙂🙃 👩‍👩‍👧 🇫🇮", "math: ∀x∈ℝ ∃y", "\u2581 literal \u2581\u2581", "tab\tseparated\tvalues", "windows\r\nline\r\n", "nul\0inside",
    "\u00a0nbsp\u00a0", "\u200bzero width\u200b", "\ufeffbom", "    indented code {\n        return x;\n    }\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "          many spaces", "........!!!!????----", "snake_case camelCase PascalCase",
    "\U00020000\U0010ffff", "<|not_a_token|> <x>", "mixed 日本 and latin та кириллица",
]
WORDS = "the cat sat on a mat and then ran , . ! 12 345 Über naïve 猫 🙂 \n  \t x_y it's (see) below\u2581 aa aaa".split(" ") + ["", " ", "  "]
draw = random.Random(7)
TEXTS += ["".join(draw.choice(WORDS) + draw.choice(["", " ", " "]) for _ in range(draw.randrange(1, 12))) for _ in range(150)]

ids, decoded = {}, {}
for file in ["tok/llama2/tokenizer.model", "hf/stories260K/tokenizer.model", "hf/babyllama-tok361/tokenizer.model"]:
    model = sentencepiece.SentencePieceProcessor(f"{DATA}/{file}")
    ids[file] = [model.encode(text) for text in TEXTS]
for file in ["tok/llama3/tokenizer.model", "tok/small/tiktoken_small.model"]:
    model = tiktoken.Encoding(file, pat_str=LLAMA3, mergeable_ranks=load_tiktoken_bpe(f"{DATA}/{file}"), special_tokens={})
    ids[file] = [model.encode_ordinary(text) for text in TEXTS]
for file in ["tok/llama2/tokenizer.json", "tok/llama3/tokenizer.json", "tok/small/tiny_bpe_tokenizer.json", "hf/stories260K/tokenizer.json"]:
    model = tokenizers.Tokenizer.from_file(f"{DATA}/{file}")
    ids[file] = [model.encode(text, add_special_tokens=False).ids for text in TEXTS]
    decoded[file] = []
    for _ in range(100):
        drawn = []
        for _ in range(draw.randrange(1, 12)):
            if model.id_to_token(3) != "<0x00>":
                drawn.append(draw.randrange(model.get_vocab_size()))
            elif draw.random() < 0.3:
                drawn += [3 + byte for byte in draw.choice("é猫🙂\n\u20ac").encode()]
            else:
                drawn.append(draw.choice([0, 1, 2, *range(259, model.get_vocab_size())]))
        decoded[file].append([drawn, model.decode(drawn, skip_special_tokens=True)])

with open(OUT, "w", encoding="utf-8") as out:
    json.dump({"texts": TEXTS, "ids": ids, "decoded": decoded}, out, ensure_ascii=True, separators=(",", ":"))
    out.write("\n")
