"""The threshold of rejection of a graph, tuned on two dev sets: utterances that the graph allows, and other speech.

A recognizer answers nothing where the audio is less probable under its graph than by free decoding, by more nats per token
than the threshold (`search/graph/rejection.py`).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.errors import ConfigError, DataError
from zipasr.evaluate.rates import ReferenceUtterance, is_cut, max_whole_s, readable_groups, rewriting
from zipasr.recognizer import Recognizer
from zipasr.search.graph.rejection import REJECTION


@dataclass(frozen=True, kw_only=True)
class TunedRejection:
    """A threshold, and what it gives on the utterances that it was tuned on."""

    threshold: float
    """Nats per token."""
    num_allowed: int
    """Utterances that the graph allows."""
    num_right: int
    """How many of these have the right text without rejection."""
    num_kept: int
    """How many of those that are right are still answered with the threshold."""
    num_other: int
    """Utterances of other speech."""
    num_answered: int
    """How many of these are answered without rejection."""
    num_false: int
    """How many are still answered with the threshold."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "rejection": self.threshold,
            "allowed": {"utterances": self.num_allowed, "right": self.num_right, "right_and_answered": self.num_kept},
            "other": {"utterances": self.num_other, "answered_without": self.num_answered, "answered": self.num_false},
        }

    def __str__(self) -> str:
        return (
            f"rejection above {self.threshold:g} nats per token: {self.num_kept} of {self.num_allowed} utterances are right "
            f"({self.num_right} without rejection), {self.num_false} of {self.num_other} others are answered "
            f"({self.num_answered} without rejection)"
        )


def tune_rejection(
    recognizer: Recognizer,
    allowed: Iterable[ReferenceUtterance],
    other: Iterable[ReferenceUtterance],
    *,
    scoring: str | None = None,
) -> TunedRejection:
    """Choose the threshold with the largest share of right answers less the share of other speech that is answered.

    Long recordings are left out, as those that cannot be read: their pieces have a threshold each (`without_long`).

    Args:
        recognizer: a model with a graph; the threshold that it has does not matter.
        allowed: utterances that the graph allows, with their texts, of a dev set.
        other: other speech; its texts do not matter.
        scoring: see `evaluate`.
    Raises:
        ConfigError: the recognizer has no graph, or `scoring` is unknown.
        DataError: no utterance of a set can be read, none of those that the graph allows is right, or no other is answered,
            so that there is nothing to tune.
    """
    rewrite = rewriting(scoring)
    pairs, others = (_answers(recognizer, utterances) for utterances in (allowed, other))
    right = [shortfall for reference, text, shortfall in pairs if rewrite(reference) == rewrite(text)]
    false = [shortfall for _, text, shortfall in others if text]
    for name, found in (("that the graph allows", pairs), ("of other speech", others)):
        if not found:
            raise DataError(f"there must be utterances {name}, but none can be read; check the cuts")
    if not right or not false:
        raise DataError(
            f"there must be right answers and false ones to choose a threshold between, but {len(right)} of {len(pairs)} "
            f"utterances are right and {len(false)} of {len(others)} others are answered; check that the texts are written "
            "as the graph has them, and give more speech"
        )
    threshold = best_threshold(right, false, num_allowed=len(pairs), num_other=len(others))
    return TunedRejection(
        threshold=threshold,
        num_allowed=len(pairs),
        num_right=len(right),
        num_kept=sum(value <= threshold for value in right),
        num_other=len(others),
        num_answered=len(false),
        num_false=sum(value <= threshold for value in false),
    )


def best_threshold(right: Sequence[float], false: Sequence[float], *, num_allowed: int, num_other: int) -> float:
    """The threshold that keeps the most right answers less false ones; of equally good ones halfway between their ends.

    Args:
        right: shortfalls of the right answers, in nats per token.
        false: those of answers to other speech.
        num_allowed, num_other: number of utterances of each kind, by which both count.
    """
    weights = [(value, 1 / num_allowed) for value in right] + [(value, -1 / num_other) for value in false]
    values = sorted({value for value, _ in weights})
    gains, gain = [], 0.0
    for value in values:
        gain += sum(weight for other, weight in weights if other == value)
        gains.append(gain)
    best = [i for i, gain in enumerate(gains) if math.isclose(gain, max(gains), abs_tol=1e-12)]
    after = values[best[0] + 1] if best[0] + 1 < len(values) else values[best[0]] + 1.0
    return round((values[best[0]] + after) / 2, 6)


def without_long(recognizer: Recognizer, utterances: Iterable[ReferenceUtterance]) -> Iterator[ReferenceUtterance]:
    """Yield utterances, those that are too long for one answer without samples but with a problem."""
    for utterance in utterances:
        if utterance.samples is None or not is_cut(recognizer, utterance.samples):
            yield utterance
            continue
        problem = (
            f"it must be at most {max_whole_s(recognizer):g} s long for a threshold to be tuned on it, but is "
            f"{len(utterance.samples) / SAMPLE_RATE_HZ:.1f} s; cut it into utterances, for example with: zipasr prepare "
            "SOURCE --align-with MODEL --out DIR"
        )
        yield utterance._replace(samples=None, problem=problem)


def _answers(recognizer: Recognizer, utterances: Iterable[ReferenceUtterance]) -> list[tuple[str, str, float]]:
    """Reference, text and shortfall of every utterance that can be read, without rejection."""
    if recognizer.graph is None:
        raise ConfigError("a recognizer must have a graph for its rejection to be tuned, but has none; give it with --graph")
    graph = recognizer.graph._replace(settings={**recognizer.graph.settings, REJECTION: None})
    found = []
    for group in readable_groups(without_long(recognizer, utterances), []):
        transcripts = recognizer.transcribe_many([samples for _, samples, _ in group], graph=graph, use_true_times=False)
        for (_, _, reference), transcript in zip(group, transcripts, strict=True):
            shortfall = math.inf if transcript.shortfall is None else transcript.shortfall
            found.append((reference, transcript.text, shortfall))
    return found
