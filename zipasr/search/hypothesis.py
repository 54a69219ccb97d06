"""`Hypothesis`: one result of a search for one utterance. Pure data; frames are counted at 25 Hz."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Output(NamedTuple):
    """A symbol that a path through a graph puts out: a word as it is written, or a tag."""

    symbol: str
    """The word, or the tag, which starts with `{`."""
    place: int
    """Number of tokens before it; a word that its first token puts out is at that token."""


class Hypothesis(NamedTuple):
    """A token sequence with the frames and probabilities of its tokens."""

    ids: tuple[int, ...] = ()
    """Token ids, without blank."""
    frames: tuple[int, ...] = ()
    """Frame at 25 Hz that emitted each token, from 0."""
    log_probs: tuple[float, ...] = ()
    """Log-probability of each token where it was emitted, in nats, after blank penalty and temperature."""
    score: float = 0.0
    """Log-probability in nats of the paths with these ids, blanks included; not normalized by length.

    Greedy searches follow one path; beam searches sum the paths with equal ids that they kept. Rescoring adds the weighted
    score of another model.
    """
    outputs: tuple[Output, ...] = ()
    """What a path through a graph puts out, in order; empty without a graph."""
    shortfall: float | None = None
    """Nats per token by which the audio is less probable on a path through a graph than by free decoding of the same
    frames, below 0 if it is more probable; infinite if no path is left; None without a graph."""
    is_complete: bool = True
    """Whether it ends where a graph allows it to end."""
    has_words: bool = False
    """Whether it is of a graph that puts out words, and not only tags; they say what was said where its tokens do not."""

    def normalized_score(self, context_size: int) -> float:
        """Score per label, by which the beam ranks; the `context_size` labels of the first context count as well."""
        return normalized(self.score, len(self.ids), context_size=context_size)


def normalized(score: float, num_labels: int, *, context_size: int) -> float:
    """Score per label; see `Hypothesis.normalized_score`."""
    return score / (num_labels + context_size)


def with_scores(hypotheses: Sequence[Hypothesis], scores: Iterable[float]) -> list[Hypothesis]:
    """Hypotheses with new scores, the best first."""
    rescored = [hypothesis._replace(score=score) for hypothesis, score in zip(hypotheses, scores, strict=True)]
    return sorted(rescored, key=lambda hypothesis: -hypothesis.score)
