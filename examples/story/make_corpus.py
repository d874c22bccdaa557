#!/usr/bin/env python3
"""Makes the story-teller's corpus of two pieces of TinyStories.

    make_corpus.py SAMPLE LOWERCASE OUT.jsonl

SAMPLE is the beginning of TinyStories' training text, its stories parted by <|endoftext|>. LOWERCASE begins with the same stories and
has as many again, all in lower case, with a line break between stories and, mostly, two between paragraphs. Where a story of LOWERCASE
ends and which of its words have capitals is learnt from the part that both have: counts of what stands around a line break or a word.
How well that works is measured on stories that the counts have not seen, and printed.

OUT gets a line {"text": ...} for each story; one that comes twice is kept once. Needs Python alone.
"""
import collections
import hashlib
import json
import re
import sys
from math import log

SEPARATOR = "<|endoftext|>"
WORD = re.compile(r"[a-z]+(?:'[a-z]+)*|\n|[^\sa-z]+", re.IGNORECASE)
DETERMINERS = {"a", "an", "the", "his", "her", "their", "my", "your", "our", "its", "this", "that", "some", "every", "one", "two"}

# UTF-8 read as Windows-1252 and then put in lower case.
MOJIBAKE = [("â€œ", '"'), ("â€\x9d", '"'), ("â€™", "'"), ("â€˜", "'"), ("â€“", "-"), ("â€”", "-"), ("â€¦", "..."), ("ã±", "ñ"),
            ("ã©", "é"), ("ã³", "ó"), ("ã¡", "á"), ("â€", '"'), ("â", "")]
PLAIN = str.maketrans({"“": '"', "”": '"', "’": "'", "‘": "'", "–": "-", "—": "-", "…": "...", "«": '"', "»": '"', "\u00a0": " "})


def plain(text):
    """One kind of quotation mark, single spaces, paragraphs on lines of their own."""
    for wrong, right in MOJIBAKE:
        text = text.replace(wrong, right)
    lines = (" ".join(line.split()) for line in text.translate(PLAIN).split("\n"))
    return "\n".join(line for line in lines if line)


def letters(text):
    """What both texts share whatever their spaces, quotes and capitals."""
    return "".join(c for c in text.lower() if "a" <= c <= "z")


# ---- where stories end ----

def break_features(before, after, seen_blank, next_blank):
    """Of a single line break: how the new line begins, how the last one ended, whether blank lines part paragraphs around it."""
    begin = after.split()[:4]
    end = before.split()[-3:]
    return ["b1 " + " ".join(begin[:1]), "b2 " + " ".join(begin[:2]), "b3 " + " ".join(begin[:3]), "e " + " ".join(end[-2:]),
            "blank %d %d" % (seen_blank, next_blank), "style %d %s" % (seen_blank, begin[:1]), "quote %d" % after.startswith('"')]


class Bayes:
    """Naive Bayes on named features, with add-one smoothing: the logarithm of the odds."""

    def __init__(self):
        self.counts = [collections.Counter(), collections.Counter()]
        self.totals = [0, 0]

    def learn(self, features, label):
        self.totals[label] += 1
        self.counts[label].update(features)

    def odds(self, features):
        odds = log(self.totals[1] + 1) - log(self.totals[0] + 1)
        for f in features:
            odds += log((self.counts[1][f] + 0.1) / (self.totals[1] + 1)) - log((self.counts[0][f] + 0.1) / (self.totals[0] + 1))
        return odds


def line_breaks(text):
    """Yields (match, line before, line after, whether blank, whether the next one is) of each run of line breaks."""
    runs = list(re.finditer(r"\s*\n\s*", text))
    ends = [0] + [run.end() for run in runs]
    starts = [run.start() for run in runs] + [len(text)]
    blank = [run.group().count("\n") > 1 for run in runs] + [False]
    for i, run in enumerate(runs):
        yield run, text[ends[i]:starts[i]], text[ends[i + 1]:starts[i + 1]], blank[i], blank[i + 1]


def split_stories(text, bayes):
    stories, start, seen_blank = [], 0, False
    for found, before, after, blank, next_blank in line_breaks(text):
        if not blank and bayes.odds(break_features(before, after, seen_blank, next_blank)) > 0:
            stories.append(text[start:found.start()])
            start, seen_blank = found.end(), False
        seen_blank |= blank
    stories.append(text[start:])
    return stories


def learn_breaks(text, ends, last, bayes):
    """Learns from the part of text whose stories end after the numbers of letters in ends, up to the last."""
    count, at, seen_blank, right, breaks = 0, 0, False, 0, 0
    for found, before, after, blank, next_blank in line_breaks(text):
        count += len(letters(text[at:found.start()]))
        at = found.start()
        if count >= last:
            break
        if not blank:
            features = break_features(before, after, seen_blank, next_blank)
            truth = count in ends
            if breaks > 500:
                right += (bayes.odds(features) > 0) == truth
            breaks += 1
            bayes.learn(features, int(truth))
            if truth:
                seen_blank = False
        seen_blank |= blank
    tried = breaks - 501
    print("story boundaries: %.2f %% of %d line breaks right, each before it was learnt" % (100 * right / tried, tried))


# ---- capitals ----

def kind(token):
    """A token before a word, as far as capitals depend on it."""
    if token is None or token == "\n":
        return "\n"
    return token.lower() if token[0].isalnum() else token


class Capitals:
    """Of a word between two others: how often it had a capital, from the widest context that was seen often enough."""

    def __init__(self):
        self.counts = collections.defaultdict(lambda: [0, 0])

    @staticmethod
    def contexts(before, word, after):
        sort = before if before and not before[0].isalnum() and before != "," else "word"
        return [(before, word, after), (before, word), (sort, word), (sort,)]

    def learn(self, story):
        tokens = WORD.findall(story)
        for i, token in enumerate(tokens):
            if token[0].isalpha():
                after = tokens[i + 1] if i + 1 < len(tokens) else None
                for context in self.contexts(kind(tokens[i - 1] if i else None), token.lower(), kind(after)):
                    self.counts[context][token[0].isupper()] += 1

    def capital(self, before, word, after, names):
        if word in names and before not in DETERMINERS:
            return True
        for context, least in zip(self.contexts(before, word, after), (3, 3, 2, 1)):
            lower, upper = self.counts.get(context, (0, 0))
            if lower + upper >= least:
                return upper > lower
        return False

    def known(self, word):
        return sum(self.counts.get(("word", word), (0, 0)))

    def restore(self, story):
        # A word of this story that is called a name is one, where it is not a common word.
        names = {name for name in re.findall(r"\b(?:named|called|is|name was|am) ([a-z]+)(?=[.,!?\n ])", story)
                 if self.known(name) == 0}
        names |= {name for name in re.findall(r"\bnamed ([a-z]+)", story) if self.known(name) < 50 and name not in DETERMINERS}
        # So is one that the sample never has, which comes again and again, and never with an article.
        words = re.findall(r"[a-z]+", story)
        articles = {word for article, word in zip(words, words[1:]) if article in DETERMINERS}
        names |= {word for word, times in collections.Counter(words).items() if times > 2 and word not in articles
                  and self.known(word) == 0 and len(word) > 2 and not word.endswith(("ing", "ed", "s"))}
        out, at, previous = [], 0, None
        found = list(WORD.finditer(story))
        for i, match in enumerate(found):
            word = match.group()
            after = found[i + 1].group() if i + 1 < len(found) else None
            if word[0].isalpha() and self.capital(kind(previous), word, kind(after), names):
                out.append(story[at:match.start()] + word[0].upper() + word[1:])
                at = match.end()
            previous = word
        return "".join(out) + story[at:]


def measure_capitals(stories):
    capitals = Capitals()
    for story in stories[len(stories) // 5:]:
        capitals.learn(story)
    right = words = 0
    for story in stories[:len(stories) // 5]:
        restored = capitals.restore(story.lower())
        for a, b in zip(WORD.findall(story), WORD.findall(restored)):
            if a[0].isalpha():
                words += 1
                right += a[0] == b[0]
    print("capitals: %.2f %% of %d words right" % (100 * right / words, words))


# ---- all together ----

def main():
    sample_file, lowercase_file, out = sys.argv[1:]
    with open(sample_file, encoding="utf-8") as f:
        cased = [plain(story) for story in f.read().split(SEPARATOR)[:-1]]  # the last is cut off
    with open(lowercase_file, encoding="utf-8") as f:
        lowercase = f.read()
    cased = [story for story in cased if story]

    ends, count = set(), 0
    for story in cased:
        count += len(letters(story))
        ends.add(count)
    bayes = Bayes()
    learn_breaks(lowercase, ends, count, bayes)
    measure_capitals(cased)
    capitals = Capitals()
    for story in cased:
        capitals.learn(story)

    at = 0  # where the stories begin that the sample has not
    while count > 0:
        count -= "a" <= lowercase[at] <= "z"
        at += 1
    rest = split_stories(lowercase[lowercase.index("\n", at):].lstrip(), bayes)
    restored = [capitals.restore(plain(story)) for story in rest[:-1]]

    seen, characters = set(), 0
    with open(out, "w", encoding="utf-8") as f:
        for story in cased + restored:
            digest = hashlib.sha256(letters(story).encode()).digest()
            if digest not in seen and len(story) >= 100:
                seen.add(digest)
                characters += len(story)
                f.write(json.dumps({"text": story}, ensure_ascii=False) + "\n")
    print("%d stories of %d characters" % (len(seen), characters))


if __name__ == "__main__":
    main()
