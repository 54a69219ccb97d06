"""A long recording with one long text -> pieces that training accepts, each with its words and how sure they are.

A given model aligns the text (`recognizer.align_text`); the recording is cut in the pauses between words. The text of a
piece is that of the source, letter for letter: digits, punctuation and letters that the model lacks are aligned as far as
it can write them. A piece whose words the model does not find in the audio has a low confidence.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.prepare.spoken import spoken_words
from zipasr.recognizer import Recognizer
from zipasr.recognizer.file_alignment import align_text
from zipasr.text import single_spaced, split_words
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Word

_LONG_PAUSE_S = 2.0
"""A pause that always ends a piece: it may hold speech that is not in the text."""
_PAUSE_S = 0.5
"""A pause of this length or more is as good a place to cut as any; sentences are usually this far apart."""
_MIN_PIECE_S = 2.0
"""A piece is not cut earlier for a better pause."""
_MARGIN_S = 0.25
"""What a piece keeps of the pauses before and after it, at most half of each."""


class Piece(NamedTuple):
    """A part of a recording and its text."""

    start_s: float
    end_s: float
    text: str
    confidence: float
    """Geometric mean of the confidences of its words, in [0, 1]."""


class _Unit(NamedTuple):
    """The least part of a text that is not cut: a word, or a character of a script without spaces."""

    text: str
    """As in the source, with what follows it that the model cannot write."""
    start_s: float
    end_s: float
    log_confidences: tuple[float, ...]


def cut_by_alignment(
    recognizer: Recognizer, samples: np.ndarray, text: str, *, lang: str, max_duration_s: float
) -> list[Piece]:
    """Align a long text with its recording, and cut both in the pauses.

    Args:
        recognizer: its model has a CTC head.
        samples: (samples,) float32 at 16 kHz.
        text: what is said, as written.
        lang: its language, in which digits are spelled for the alignment.
        max_duration_s: longest piece. A word that is longer by itself is a piece of that length.
    Raises:
        DataError: the model can write nothing of the text, or the text is too long for the recording.
        ConfigError: the model has no CTC head.
    """
    tokenizer = recognizer.engine.tokenizer
    joiner = tokenizer.word_joiner
    parts = split_words(text, joiner)
    written = [_writable(part, tokenizer, lang) for part in parts]
    words = align_text(recognizer, samples, joiner.join(filter(None, written))).words
    num_words = [len(split_words(part, joiner)) for part in written]
    assert sum(num_words) == len(words), "the alignment has other words than the text"
    units = list(_units(parts, num_words, words, joiner))
    return list(_pieces(units, joiner, max_duration_s, duration_s=len(samples) / SAMPLE_RATE_HZ))


def _writable(part: str, tokenizer: Tokenizer, lang: str) -> str:
    """A part of the text as the model can write it; empty if it can write nothing of it."""
    spelled = tokenizer.spelling(part)
    if tokenizer.unknown_characters(spelled):
        spelled = tokenizer.spelling(spoken_words(part, lang))
    unknown = tokenizer.unknown_characters(spelled)
    return single_spaced("".join(character for character in spelled if character not in unknown))


def _units(parts: Sequence[str], num_words: Sequence[int], words: Sequence[Word], joiner: str) -> Iterator[_Unit]:
    """Each part with the times of its words; one without words joins the part before, the first ones the part after."""
    texts: list[str] = []
    unit: _Unit | None = None
    first = 0
    for part, count in zip(parts, num_words, strict=True):
        texts.append(part)
        if count:
            if unit:
                yield unit._replace(text=joiner.join(texts[:-1]))
                texts = [part]
            spoken = words[first : first + count]
            first += count
            confidences = tuple(math.log(max(word.confidence, 1e-10)) for word in spoken)
            unit = _Unit("", spoken[0].start_s, spoken[-1].end_s, confidences)
    if unit:
        yield unit._replace(text=joiner.join(texts))


def _pieces(units: Sequence[_Unit], joiner: str, max_duration_s: float, duration_s: float) -> Iterator[Piece]:
    """Group units into pieces, cut in the pauses that `_best_end` chooses."""
    first = 0
    while first < len(units):
        last = _best_end(units, first, max_duration_s - 2 * _MARGIN_S)
        chosen = units[first : last + 1]
        before_s = units[first - 1].end_s if first else 0.0
        after_s = units[last + 1].start_s if last + 1 < len(units) else duration_s
        start_s, end_s = chosen[0].start_s, chosen[-1].end_s
        log_confidences = [value for unit in chosen for value in unit.log_confidences]
        yield Piece(
            start_s - min(_MARGIN_S, max(0.0, start_s - before_s) / 2),
            end_s + min(_MARGIN_S, max(0.0, after_s - end_s) / 2),
            joiner.join(unit.text for unit in chosen),
            math.exp(sum(log_confidences) / len(log_confidences)),
        )
        first = last + 1


def _best_end(units: Sequence[_Unit], first: int, max_s: float) -> int:
    """The last unit of the piece that starts with unit `first`: it ends in the latest of the longest pauses."""
    best, best_key = first, (-1.0, 0.0)
    for last in range(first, len(units)):
        length_s = units[last].end_s - units[first].start_s
        if length_s > max_s:
            break
        pause_s = units[last + 1].start_s - units[last].end_s if last + 1 < len(units) else math.inf
        key = (min(pause_s, _PAUSE_S) if length_s >= _MIN_PIECE_S else 0.0, length_s)
        if key >= best_key:
            best, best_key = last, key
        if pause_s >= _LONG_PAUSE_S:
            return last
    return best
