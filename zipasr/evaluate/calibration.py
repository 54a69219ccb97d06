"""Confidence measured: the words of an evaluation in, what their confidences are worth before and after calibration out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zipasr.errors import DataError
from zipasr.evaluate.rates import UtteranceResult
from zipasr.model import resolve_model_folder
from zipasr.search.confidence import (
    Calibration,
    ReliabilityBin,
    calibration_error,
    fit_calibration,
    normalized_cross_entropy,
    reliability,
    write_calibration,
)

_MIN_WORDS = 20
"""Below this, two numbers cannot be fitted and tested in any sense."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceQuality:
    """What a set of confidences is worth."""

    normalised_cross_entropy: float
    """1: they tell right from wrong words; 0: no more than the share of right words does; below 0: they mislead."""
    calibration_error: float
    """Mean distance between confidence and the share of right words, over the bins of the curve."""
    curve: tuple[ReliabilityBin, ...]
    """The reliability curve."""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON; a number that is not defined becomes null."""
        nce = self.normalised_cross_entropy
        return {
            "normalised_cross_entropy": round(nce, 6) if nce == nce else None,
            "calibration_error": round(self.calibration_error, 6),
            "curve": [bin._asdict() for bin in self.curve],
        }


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """The confidences of a search as they are and as they would be calibrated."""

    num_words: int
    num_right: int
    raw: ConfidenceQuality
    calibrated: ConfidenceQuality
    """Each word by a calibration fitted on the utterances of the other half of the set, so that it is no self-praise."""
    calibration: Calibration
    """Fitted on all words: the one to keep."""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "num_words": self.num_words,
            "num_right": self.num_right,
            "temperature": round(self.calibration.temperature, 6),
            "offset": round(self.calibration.offset, 6),
            "raw": self.raw.to_dict(),
            "calibrated": self.calibrated.to_dict(),
        }


def calibrate(results: Sequence[UtteranceResult]) -> CalibrationReport:
    """Fit a calibration to the words of an evaluation and measure what it gains on words that it was not fitted on.

    Args:
        results: utterances as they were recognised, with confidences that are not calibrated yet.
    Raises:
        DataError: there are too few words.
    """
    halves = [[word for result in results[half::2] for word in result.confidences] for half in (0, 1)]
    num_words = sum(map(len, halves))
    if num_words < _MIN_WORDS or not all(halves):
        raise DataError(
            f"a calibration needs {_MIN_WORDS} recognised words or more, in two utterances or more, but there are "
            f"{num_words} in {len(results)}; take a larger set"
        )
    fitted = [fit_calibration(*_columns(half)) for half in halves]
    calibrated = [
        (other.apply(confidence), is_right)
        for half, other in zip(halves, reversed(fitted), strict=True)
        for confidence, is_right in half
    ]
    words = [*halves[0], *halves[1]]
    return CalibrationReport(
        num_words=num_words,
        num_right=sum(is_right for _, is_right in words),
        raw=_quality(words),
        calibrated=_quality(calibrated),
        calibration=fit_calibration(*_columns(words)),
    )


def save_calibration(folder: str | os.PathLike[str], method: str, calibration: Calibration) -> Path:
    """Keep a calibration in a model folder, or in that of a run, for all later transcripts by the same search.

    Raises:
        CheckpointError: there is no model, or the file cannot be written.
    """
    return write_calibration(resolve_model_folder(folder), method, calibration)


def _quality(words: Sequence[tuple[float, bool]]) -> ConfidenceQuality:
    confidences, is_right = _columns(words)
    curve = tuple(reliability(confidences, is_right))
    return ConfidenceQuality(
        normalised_cross_entropy=normalized_cross_entropy(confidences, is_right),
        calibration_error=calibration_error(curve),
        curve=curve,
    )


def _columns(words: Sequence[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [confidence for confidence, _ in words], [is_right for _, is_right in words]
