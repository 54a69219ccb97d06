"""The result of recognition: text, tokens and words with times and confidence, and how it is written as JSON.

Pure data: no audio, no model. Times are seconds from the start of the recording.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_WORD_START = "\u2581"


@dataclass(frozen=True)
class Token:
    """One piece of the vocabulary as it was recognised."""

    text: str
    """The piece as the vocabulary has it: ▁ (U+2581) in front begins a word."""
    start_s: float
    """Time of the frame that emitted it."""
    end_s: float
    """End of that frame (40 ms later at 25 Hz), or of its stretch where an alignment knows better."""
    log_prob: float
    """Natural logarithm of its probability."""


@dataclass(frozen=True)
class Word:
    """One word, from its first token to its last."""

    text: str
    start_s: float
    end_s: float
    confidence: float
    """Geometric mean of the probabilities of its tokens, in [0, 1]."""


@dataclass(frozen=True)
class Transcript:
    """What was said in one recording."""

    text: str
    tokens: tuple[Token, ...] = ()
    words: tuple[Word, ...] = ()
    duration_s: float = 0.0
    """Length of the recording."""
    score: float = 0.0
    """Log-probability of the hypothesis by the search that found it; comparable within one recording only."""

    def to_dict(self) -> dict[str, object]:
        """Return it for JSON: times to 1 ms, the rest to 6 digits; a number that is not finite becomes null."""
        return {
            "text": self.text,
            "duration_s": _rounded(self.duration_s, 3),
            "score": _rounded(self.score, 6),
            "words": [
                {
                    "text": word.text,
                    "start_s": _rounded(word.start_s, 3),
                    "end_s": _rounded(word.end_s, 3),
                    "confidence": _rounded(word.confidence, 6),
                }
                for word in self.words
            ],
            "tokens": [
                {
                    "text": token.text,
                    "start_s": _rounded(token.start_s, 3),
                    "end_s": _rounded(token.end_s, 3),
                    "log_prob": _rounded(token.log_prob, 6),
                }
                for token in self.tokens
            ],
        }


def words_from_tokens(tokens: Sequence[Token], *, is_each_a_word: bool = False) -> tuple[Word, ...]:
    """Group tokens into words: a token with ▁ in front begins one, and so does the first token of all.

    A word starts with its first token and ends with its last. A lone ▁ (the space of a character vocabulary) belongs to
    the word after it; one with nothing after it makes no word.

    Args:
        tokens: in order of time.
        is_each_a_word: for languages written without spaces, every token is a word of its own, lone ▁ left out.
    """
    groups: list[list[Token]] = []
    for token in tokens:
        if not groups or is_each_a_word or token.text.startswith(_WORD_START):
            groups.append([])
        groups[-1].append(token)
    words = []
    for group in groups:
        text = "".join(token.text for token in group).replace(_WORD_START, "")
        if text:
            mean_log_prob = sum(token.log_prob for token in group) / len(group)
            words.append(Word(text, group[0].start_s, group[-1].end_s, math.exp(min(mean_log_prob, 0.0))))
    return tuple(words)


def _rounded(value: float, num_digits: int) -> float | None:
    return round(float(value), num_digits) if math.isfinite(value) else None
