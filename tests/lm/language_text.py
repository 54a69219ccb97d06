"""A small artificial language for tests of language models: each word of a sentence depends on the word before."""

import random
from pathlib import Path

from zipasr.tokenizer import Tokenizer

_NEXT = {"": "AB", "A": "BC", "B": "CD", "C": "AD", "D": "A"}


def sentences(num: int, seed: int = 0) -> list[str]:
    """Lines of 3 to 9 one-letter words."""
    source, lines = random.Random(seed), []
    for _ in range(num):
        words = [""]
        for _ in range(source.randint(3, 9)):
            words.append(source.choice(_NEXT[words[-1]]))
        lines.append(" ".join(words[1:]))
    return lines


def write_text(path: Path, num: int = 120, seed: int = 0) -> Path:
    """A file of such sentences."""
    path.write_text("\n".join(sentences(num, seed)) + "\n", encoding="utf-8")
    return path


def tokenizer() -> Tokenizer:
    """A tokenizer of letters."""
    return Tokenizer.train(sentences(20), kind="char", vocab_size=None)
