#!/usr/bin/env python3
"""Makes the story-teller's tokenizer of its corpus: tokenizer.model.

    make_tokenizer.py STORIES.jsonl OUT

A SentencePiece byte-pair encoding. Every byte has a token of its own, the line break's among them, so that any text can be told.
<s> begins a story and </s> ends it. Needs the sentencepiece package.
"""
import json
import os
import sys

import sentencepiece

VOCABULARY = 2048


def main():
    corpus, out = sys.argv[1:]
    with open(corpus, encoding="utf-8") as f:
        stories = [json.loads(line)["text"] for line in f]
    os.makedirs(out, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for story in stories for line in story.split("\n")), model_prefix=os.path.join(out, "tokenizer"),
        vocab_size=VOCABULARY, model_type="bpe", byte_fallback=True, character_coverage=0.9999, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True, max_sentence_length=1 << 16,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2)
    os.remove(os.path.join(out, "tokenizer.vocab"))
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=os.path.join(out, "tokenizer.model"))
    tokens = sum(len(tokenizer.encode(story)) for story in stories)
    print("%d tokens, %.2f characters each" % (tokens, sum(map(len, stories)) / tokens))


if __name__ == "__main__":
    main()
