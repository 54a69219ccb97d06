"""Edits between texts: a reference and a hypothesis in, insertions, deletions and substitutions of words and characters out.

Words are what white space separates; characters are those of the words, without the spaces between them. Counts are those of
the alignment with the fewest edits.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import kaldialign

from zipasr.text import normalize


class Errors(NamedTuple):
    """Edits that turn the reference into the hypothesis, and the length of the reference."""

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    num_reference: int = 0
    """Words or characters of the reference."""

    @property
    def total(self) -> int:
        """Number of edits."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def rate(self) -> float:
        """Edits in percent of the reference; an empty reference counts as one word, so that insertions count."""
        return 100.0 * self.total / max(1, self.num_reference)

    def plus(self, other: "Errors") -> "Errors":
        """Sum of two counts."""
        return Errors(*(a + b for a, b in zip(self, other, strict=True)))


class ErrorRates(NamedTuple):
    """Word and character errors of a set of utterances."""

    words: Errors = Errors()
    characters: Errors = Errors()

    def plus(self, other: "ErrorRates") -> "ErrorRates":
        """Sum of two counts."""
        return ErrorRates(self.words.plus(other.words), self.characters.plus(other.characters))


def count_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> Errors:
    """Fewest insertions, deletions and substitutions that turn one sequence into the other."""
    edits = kaldialign.edit_distance(list(reference), list(hypothesis))
    return Errors(edits["ins"], edits["del"], edits["sub"], len(reference))


def count_text_errors(reference: str, hypothesis: str, *, is_spaceless: bool = False) -> ErrorRates:
    """Word and character errors of one pair of texts, both normalized, since old vocabularies may have other spellings.

    Args:
        reference: what was said.
        hypothesis: what was recognized.
        is_spaceless: whether every character counts as a word, as is usual for Mandarin.
    """
    ref_words, hyp_words = normalize(reference).split(), normalize(hypothesis).split()
    characters = count_errors("".join(ref_words), "".join(hyp_words))
    return ErrorRates(characters if is_spaceless else count_errors(ref_words, hyp_words), characters)


def error_rates(pairs: Iterable[tuple[str, str]]) -> ErrorRates:
    """Word and character errors of many (reference, hypothesis) pairs of texts, summed."""
    total = ErrorRates()
    for reference, hypothesis in pairs:
        total = total.plus(count_text_errors(reference, hypothesis))
    return total
