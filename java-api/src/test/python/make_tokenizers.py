"""Trains small tokenizers of every kind that Puna reads, and writes what the tokenizers package makes of texts with them.

Usage: make_tokenizers.py OUT_DIR     (package tokenizers)

Written: NAME.json, a tokenizer.json, and expected.json: {"texts": [...], "drawn": [ids, ...], "tokenizers": {NAME: {"ids": [...],
"surrounded": [...], "text": [...], "drawn": [...]}}}: of each text its ids without and with special tokens and what they decode to,
of each list of drawn ids its text. Training text and texts are the project's own.
"""
import json
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = sys.argv[1]
CORPUS = [
    "The ferry left the island at seven, and nobody was surprised that it rained. The ferry came back at noon.",
    "She counted 1, 2, 3, 10, 25, 100, 2024 stones; he counted 12345 and gave up.", "def total(values):\n    return sum(values)\n\n\n",
    "don't can't won't I'll we've they're it's HE'S SHE'LL", "é è ü ñ ß日本語の文章 привет мир שלום مرحبا 🙂🙃", "snake_case camelCase HTTPServer x_1",
    "the cat and the hat and the bat sat on the mat at the flat   with   many    spaces", "\ttabs\tand\r\nline\nbreaks\n\n",
] * 8
TEXTS = [
    "", " ", "   ", "\n", "\t\n ", "the cat", " the cat ", "  the  cat  ", "The ferry, at 7:45!", "don't WE'LL it's", "12345 1 22 333 4444",
    "x1y22z333", "é e\u0301 日本語 привет 🙂👩‍👧", "שלום مرحبا", "snake_case camelCase HTTPServer", "a\r\nb\n\n c\t\td", "<s>the</s> cat <mask> the",
    "<s> the <mask>\n<mask> end", "[UNK] x", "unknown ☃ Ω letters", "...!?--- (see) \"quoted\"", "\u2581 literal \u2581\u2581x", "ﬁne Ａ１ ½ Ⅷ ²",
    "\u00a0nbsp\u3000wide", "the" * 60, " " * 70, "a-b/c_d", "\u0301start", "    return sum(values)\n", "nul\0in", "Mask MASK masks <mask>s",
]
draw = random.Random(5)
WORDS = "the cat The ferry and 12 3 4567 don't I'll é 日本 🙂 x_y , . ! ( ) \n  \t \r\n // <s> </s> \u2581".split(" ") + ["", " ", "  "]
TEXTS += ["".join(draw.choice(WORDS) + draw.choice(["", " ", " "]) for _ in range(draw.randrange(1, 10))) for _ in range(60)]
DRAWN = [[draw.randrange(300) for _ in range(draw.randrange(1, 9))] for _ in range(60)]

SPECIAL = ["<s>", "</s>", "[UNK]", "<mask>"]
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def sequence(*steps):
    return pre_tokenizers.Sequence(list(steps))


def make(pre, decoder=None, normalizer=None, post=None, model=None, byte_level=False):
    """A tokenizer of 300 pieces trained on CORPUS."""
    tokenizer = Tokenizer(model or models.BPE(unk_token=None if byte_level else "[UNK]"))
    tokenizer.pre_tokenizer = pre
    if decoder:
        tokenizer.decoder = decoder
    if normalizer:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.WordLevelTrainer if isinstance(tokenizer.model, models.WordLevel) else trainers.BpeTrainer
    extra = {} if trainer is trainers.WordLevelTrainer else {"initial_alphabet": alphabet}
    tokenizer.train_from_iterator(CORPUS, trainer(vocab_size=330 if byte_level else 300, special_tokens=SPECIAL, show_progress=False, **extra))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, special=True)])
    if post:
        tokenizer.post_processor = post
    return tokenizer


def template(single):
    return processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])


def metaspace(scheme, cut):
    return make(pre_tokenizers.Metaspace(prepend_scheme=scheme, split=cut), decoders.Metaspace(prepend_scheme=scheme, split=cut))


LEVEL = {"decoder": decoders.ByteLevel(), "byte_level": True}
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
LLAMA3 = CL100K.replace("?+", "?").replace("++", "+").replace(r"[\r\n]|\s+(", r"[\r\n]+|\s+(")
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
TOKENIZERS = {
    "bytelevel": make(GPT2, post=template("<s> $A </s>"), **LEVEL),
    "bytelevel-prefix-space": make(pre_tokenizers.ByteLevel(add_prefix_space=True), post=processors.ByteLevel(), **LEVEL),
    "bytelevel-whole": make(BYTES, **LEVEL),
    "bytelevel-no-decoder": make(GPT2, normalizer=normalizers.NFKC(), byte_level=True),
    "digits": make(sequence(pre_tokenizers.Digits(individual_digits=True), GPT2), **LEVEL),
    "punctuation-digits": make(sequence(pre_tokenizers.Punctuation("contiguous"), GPT2, pre_tokenizers.Digits(individual_digits=False),
                                        split("[0-9][0-9][0-9]")), **LEVEL),
    "split-of-its-own": make(sequence(split(r"\w+|[^\w\s]+|\s+"), BYTES), **LEVEL),
    "split-deepseek-coder": make(sequence(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(CJK),
                                          pre_tokenizers.Digits(individual_digits=True), BYTES), **LEVEL),
    "split-deepseek-llm": make(sequence(split("[\r\n]"), split("\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u0391-\u03ce\u0410-\u0451]+"),
                                        split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"), split(r"\s+$"),
                                        split(CJK), split(r"\p{N}+"), BYTES), **LEVEL),
    "split-llama3": make(sequence(split(LLAMA3), BYTES), **LEVEL),
    "split-possessive": make(sequence(split(CL100K), BYTES), **LEVEL),
    "split-removed": make(sequence(pre_tokenizers.Split(" ", "removed")), normalizer=normalizers.Lowercase()),
    "split-inverted": make(sequence(split("[a-z]+", "merged_with_previous", True), pre_tokenizers.Split("_", "merged_with_next"))),
    "metaspace-always": metaspace("always", True),
    "metaspace-first": metaspace("first", False),
    "metaspace-never": metaspace("never", True),
    "whitespace": make(pre_tokenizers.Whitespace(), normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
    "whitespace-split": make(pre_tokenizers.WhitespaceSplit(), post=template("<s> $A")),
    "words": make(sequence(pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()), model=models.WordLevel(unk_token="[UNK]")),
}

expected = {}
for name, tokenizer in TOKENIZERS.items():
    tokenizer.save(f"{OUT}/{name}.json", pretty=False)
    size = tokenizer.get_vocab_size()
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    expected[name] = {
        "ids": ids,
        "surrounded": [tokenizer.encode(text).ids for text in TEXTS[:12]],
        "text": [tokenizer.decode(part) for part in ids],
        "drawn": [tokenizer.decode([i % size for i in part]) for part in DRAWN],
    }
with open(f"{OUT}/expected.json", "w", encoding="utf-8") as out:
    json.dump({"texts": TEXTS, "drawn": DRAWN, "tokenizers": expected}, out, ensure_ascii=True, separators=(",", ":"))
    out.write("\n")
