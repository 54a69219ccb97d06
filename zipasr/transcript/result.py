"""The result of recognition: text, tokens and words with times and confidence, n-best hypotheses. Times are seconds from the
start of the recording."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from zipasr.text import are_unspaced

_WORD_START = "\u2581"
_MAX_GAP_S = 1.0
"""Tokens of a word are nearer to each other than this, except where a search completes a word after a pause."""


@dataclass(frozen=True)
class Token:
    """One recognized piece of the vocabulary, with time and probability."""

    text: str
    """The piece as in the vocabulary: a leading ▁ (U+2581) starts a word. Of pieces of bytes, the characters that end with
    its bytes, which may be none."""
    start_s: float
    """Time of the frame that emitted it."""
    end_s: float
    """End of that frame (40 ms later at 25 Hz), or of its interval in an alignment."""
    log_prob: float
    """Natural logarithm of its probability."""
    channel: int | None = None
    """Its channel, in a transcript merged from several."""
    id: int | None = None
    """Its id in the vocabulary, if known."""


@dataclass(frozen=True)
class Word:
    """One word with its times and confidence, from its first token to its last."""

    text: str
    start_s: float
    end_s: float
    confidence: float
    """Geometric mean of the probabilities of its tokens, in [0, 1]."""
    channel: int | None = None
    """Its channel, in a transcript merged from several."""


Part = TypeVar("Part", Token, Word)


@dataclass(frozen=True)
class Transcript:
    """Recognition result of one recording: text, tokens, words and score."""

    text: str
    tokens: tuple[Token, ...] = ()
    words: tuple[Word, ...] = ()
    duration_s: float = 0.0
    """Length of the recording in seconds."""
    score: float = 0.0
    """Log-probability of the hypothesis in its search, plus scores of language models and hotwords; comparable within one
    recording only."""
    alternatives: "tuple[Transcript, ...]" = ()
    """The other n-best hypotheses, best first, if the search was configured to return several."""
    channel: int | None = None
    """Transcribed channel of the recording, from 0; None: all channels, mixed."""
    joiner: str | None = None
    """Separator of words in the language of the model, if known."""
    slots: Mapping[str, Any] | None = None
    """Values by name that the tags of a graph put out, such as {"size": "large"}; None: it was not decoded under a graph, or
    is that of a recording in several pieces."""
    shortfall: float | None = None
    """Nats per token by which the best path through a graph is less probable than free decoding; see
    `search.graph.rejection`. It is there also when the answer is nothing for that reason. None: as `slots`."""

    @property
    def word_joiner(self) -> str:
        """Separator of words in `text`: a space, nothing in languages written without spaces, or `text.MIXED_JOINER`."""
        if self.joiner is not None:
            return self.joiner
        return "" if len(self.words) > 1 and " " not in self.text else " "

    def to_dict(self) -> dict[str, object]:
        """Return the fields for JSON: times rounded to 1 ms, other numbers to 6 digits, non-finite numbers as null."""
        optional: dict[str, object] = {} if self.channel is None else {"channel": self.channel}
        if self.slots is not None:
            optional["slots"] = dict(self.slots)
            optional["shortfall"] = None if self.shortfall is None else _rounded(self.shortfall, 6)
        if self.alternatives:
            optional["alternatives"] = [hypothesis.to_dict() for hypothesis in self.alternatives]
        return {
            "text": self.text,
            "duration_s": _rounded(self.duration_s, 3),
            "score": _rounded(self.score, 6),
            "words": [{**_text_and_times(word), "confidence": _rounded(word.confidence, 6)} for word in self.words],
            "tokens": [{**_text_and_times(token), "log_prob": _rounded(token.log_prob, 6)} for token in self.tokens],
            **optional,
        }


def word_starts(texts: Sequence[str], *, is_each_a_word: bool = False, is_mixed: bool = False) -> list[bool]:
    """Return which of some tokens start words; see `words_from_tokens`, which has the same arguments."""
    starts = [i == 0 or is_each_a_word or text.startswith(_WORD_START) for i, text in enumerate(texts)]
    before = ""
    for i, text in enumerate(texts):
        if is_mixed and text and are_unspaced(before, text):
            first = i
            while not texts[first - 1]:  # earlier bytes of the same character
                first -= 1
            starts[first] = True
        before = text or before
    return starts


def words_from_tokens(tokens: Sequence[Token], *, is_each_a_word: bool = False, is_mixed: bool = False) -> tuple[Word, ...]:
    """Group tokens into words: a token with a leading ▁ starts a word, and so does the first token.

    The times of a word are the start of its first token and the end of its last. If more than 1 s lies between two of its
    tokens, they are those of the side with more tokens, or with the more probable ones. A lone ▁ (the space of a character
    vocabulary) belongs to the next word; without one it is dropped. Tokens without text at the end of a word, bytes that
    are no character, are dropped.

    Args:
        tokens: in order of time.
        is_each_a_word: for languages written without spaces, each token is a word, except a lone ▁.
        is_mixed: a character of Chinese or Japanese after another starts a word without ▁ too.
    """
    groups: list[list[Token]] = []
    starts = word_starts([token.text for token in tokens], is_each_a_word=is_each_a_word, is_mixed=is_mixed)
    for token, is_start in zip(tokens, starts, strict=True):
        if is_start:
            groups.append([])
        groups[-1].append(token)
    words = []
    for group in groups:
        text = "".join(token.text for token in group).replace(_WORD_START, "")
        if text:
            while not group[-1].text:
                group.pop()
            words.append(word_of_tokens(text, group))
    return tuple(words)


def word_of_tokens(text: str, tokens: Sequence[Token]) -> Word:
    """Return a word with the times and the confidence of its tokens, one or more; see `words_from_tokens`."""
    mean_log_prob = sum(token.log_prob for token in tokens) / len(tokens)
    start_s, end_s = _extent(tokens)
    return Word(text, start_s, end_s, math.exp(min(mean_log_prob, 0.0)))


def _extent(tokens: Sequence[Token]) -> tuple[float, float]:
    """The start and the end of the tokens of a word, on one side of every long gap between them."""

    def weight(side: Sequence[Token]) -> tuple[int, float]:
        spoken = [token for token in side if token.text != _WORD_START]
        return len(spoken), sum(token.log_prob for token in spoken)

    best = max(cut_at_gaps(tokens, _MAX_GAP_S), key=weight)
    return best[0].start_s, best[-1].end_s


def cut_at_gaps(parts: Sequence[Part], max_gap_s: float) -> list[list[Part]]:
    """Tokens or words in order of time, cut where more than `max_gap_s` lies between two of them."""
    groups: list[list[Part]] = []
    for part in parts:
        if not groups or part.start_s - groups[-1][-1].end_s > max_gap_s:
            groups.append([])
        groups[-1].append(part)
    return groups


def _text_and_times(part: Word | Token) -> dict[str, object]:
    channel: dict[str, object] = {} if part.channel is None else {"channel": part.channel}
    return {"text": part.text, "start_s": _rounded(part.start_s, 3), "end_s": _rounded(part.end_s, 3), **channel}


def _rounded(value: float, num_digits: int) -> float | None:
    return round(float(value), num_digits) if math.isfinite(value) else None
