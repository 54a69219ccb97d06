"""ARPA files read and used in the simplest way: with a dictionary and a recursion."""

import math
from collections.abc import Sequence
from pathlib import Path

Arpa = dict[tuple[str, ...], tuple[float, float]]
"""Maps an n-gram to the natural logarithms of its probability and of its backoff weight."""


def parse(path: Path) -> Arpa:
    """The n-grams of a plain ARPA file."""
    found, order = {}, 0
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.endswith("-grams:"):
            order = int(line[1:].split("-")[0])
        elif order and line and line != "\\end\\":
            fields = line.split()
            backoff = float(fields[order + 1]) if len(fields) > order + 1 else 0.0
            found[tuple(fields[1 : order + 1])] = (float(fields[0]) * math.log(10), backoff * math.log(10))
    return found


def log_prob(arpa: Arpa, history: Sequence[str], word: str) -> float:
    """Log-probability, in nats, of a known word after a history that starts with <s>."""
    longest = max(map(len, arpa))
    context = tuple(history)[len(history) - min(longest - 1, len(history)) :]
    if (*context, word) in arpa:
        return arpa[(*context, word)][0]
    return arpa.get(context, (0.0, 0.0))[1] + log_prob(arpa, context[1:], word)


def sentence_log_prob(arpa: Arpa, words: Sequence[str], *, has_end: bool = True) -> float:
    """Log-probability of a sentence in nats; unknown words count as <unk>."""
    known = [word if (word,) in arpa else "<unk>" for word in words]
    row = ["<s>", *known, *(["</s>"] if has_end else [])]
    return sum(log_prob(arpa, row[:i], row[i]) for i in range(1, len(row)))
