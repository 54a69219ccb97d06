"""Text -> ids, for vocabularies that are lists of pieces: with scores of a unigram model, or with the order of merges.

A text is given as words with ▁ in front. Characters that no piece covers are their bytes in UTF-8, where the vocabulary has
all 256 of them, or else unknown.
"""

from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise

UNKNOWN = -1
"""Stands for an id where a vocabulary has no piece for a character."""


class Segmentation:
    """The pieces of a vocabulary that a text may be cut into."""

    def __init__(self, ids: Mapping[str, int], scores: Sequence[float], byte_ids: Sequence[int]) -> None:
        """Prepare a list of pieces.

        Args:
            ids: id of every piece that a text may have.
            scores: of every id.
            byte_ids: those of the bytes 0 to 255; empty: characters that no piece covers are unknown.
        """
        self._ids, self._byte_ids = dict(ids), tuple(byte_ids)
        self._scores = array("f", scores)
        self._longest = max(map(len, self._ids), default=0)

    def unigram(self, text: str) -> list[int]:
        """The ids of the cut with the highest sum of scores, of equal ones that with the longest first piece.

        Sums are in single precision, from the end of the text. Where no piece starts, the character is unknown, and the sum
        starts again at 0. Source: simple-sentencepiece 0.14, the tokenizer of the authors' package, gave the same ids for
        3000 texts with many equal sums (its pieces zh-en-8776).
        """
        best, ends = array("f", bytes(4 * (len(text) + 1))), [0] * len(text)
        for start in reversed(range(len(text))):
            stop = min(start + self._longest, len(text))
            found = [end for end in range(stop, start, -1) if text[start:end] in self._ids]
            if found:
                sums = array("f", [self._scores[self._ids[text[start:end]]] + best[end] for end in found])
                best[start] = max(sums)
                ends[start] = found[sums.index(best[start])]
        ids: list[int] = []
        start = 0
        while start < len(text):
            end = ends[start] or start + 1
            ids += self._ids_of(text[start:end])
            start = end
        return _with_single_unknowns(ids)

    def merged(self, text: str) -> list[int]:
        """The ids after merging neighbors of one word, those with the highest score first, of equal ones the first."""
        ids: list[int] = []
        for word in text.replace("▁", " ▁").split():
            parts = list(word)
            while True:
                joined = [self._ids.get(a + b) for a, b in pairwise(parts)]
                known = [i for i, id in enumerate(joined) if id is not None]
                if not known:
                    break
                place = max(known, key=lambda i: self._scores[self._ids[parts[i] + parts[i + 1]]])
                parts[place : place + 2] = [parts[place] + parts[place + 1]]
            for part in parts:
                ids += self._ids_of(part)
        return _with_single_unknowns(ids)

    def _ids_of(self, part: str) -> list[int]:
        """The id of a piece, or the ids of the bytes of a character that is none."""
        if part in self._ids:
            return [self._ids[part]]
        return [self._byte_ids[byte] for byte in part.encode("utf-8", "replace")] if self._byte_ids else [UNKNOWN]


def _with_single_unknowns(ids: Sequence[int]) -> list[int]:
    """The ids with one for unknown characters in a row."""
    return [id for before, id in pairwise((0, *ids)) if not before == id == UNKNOWN]
