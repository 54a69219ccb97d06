"""Contract: who is told that references are written in another style than the model writes, and what the error rate is."""

import pytest

from zipasr.evaluate import describe_style
from zipasr.tokenizer import Tokenizer

UPPER = Tokenizer.train(["THE QUICK BROWN FOX JUMPS OVER A LAZY DOG", "IT'S"], kind="char", vocab_size=None)
CASED = Tokenizer.train(["The quick brown fox jumps over a lazy dog.", "TQBFJOLD,"], kind="char", vocab_size=None)
MANDARIN = Tokenizer.train(["今天天气好"], kind="spaceless", vocab_size=None)


@pytest.mark.parametrize(
    ("pair", "tokenizer", "expected"),
    [
        (("the quick fox", "THE QUICK DOG"), UPPER, ["3 of 3 reference words have lower case, which", "(WER 33.33 %)"]),
        (("THE FOX.", "THE FOX"), UPPER, ["1 of 2 reference words have punctuation, which", "(WER 0.00 %)"]),
        (("The fox, a dog", "THE FOX A DOG"), UPPER, ["4 of 4 reference words have lower case and punctuation"]),
        (("THE FOX", "the fox"), Tokenizer.train(["the fox"], kind="char", vocab_size=None), ["upper case", "0.00 %"]),
        (("the fox", "nonsense everywhere"), UPPER, ["2 of 2 reference words have lower case", "(WER 100.00 %)"]),
        (("the fox jumps", "The fox, jumps."), CASED, ["differ from the references in case or punctuation", "(WER 0.00 %)"]),
        (("今天，天气好", "今天天气"), MANDARIN, ["1 of 1 reference words have punctuation", "(CER 20.00 %)"]),
    ],
)
def test_another_style(pair: tuple[str, str], tokenizer: Tokenizer, expected: list[str]) -> None:
    hint = describe_style([pair], tokenizer)
    assert hint is not None and "--scoring words" in hint
    assert all(part in hint for part in expected), hint


@pytest.mark.parametrize(
    ("reference", "hypothesis", "tokenizer"),
    [
        ("THE QUICK FOX", "A LAZY DOG JUMPS", UPPER),
        ("IT’S A DOG", "IT'S A DOG", UPPER),
        ("THE КОТ", "THE DOG", UPPER),  # no style could write it
        ("THE QUICK BROWN FOX JUMPS OVER A LAZY DOG IT'S A dog", "THE QUICK BROWN FOX", UPPER),  # one name of 12 words
        ("The fox", "The dog", CASED),
        ("", "", UPPER),
    ],
)
def test_the_same_style(reference: str, hypothesis: str, tokenizer: Tokenizer) -> None:
    assert describe_style([(reference, hypothesis)], tokenizer) is None
