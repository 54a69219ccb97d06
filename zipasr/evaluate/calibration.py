"""Calibration of confidence: the words of an evaluation in, the quality of their confidence before and after calibration
out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zipasr.errors import DataError
from zipasr.evaluate.rates import UtteranceResult
from zipasr.hub import refuse_built_in
from zipasr.recognizer.opening import search_folder
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
"""With fewer words, fitting and testing the two parameters makes no sense."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceQuality:
    """How well a set of confidences predicts which words are correct."""

    normalized_cross_entropy: float
    """1: perfect prediction; 0: no better than the share of correct words; below 0: misleading."""
    calibration_error: float
    """Mean distance between confidence and the share of correct words, over the bins of the reliability curve."""
    curve: tuple[ReliabilityBin, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON; an undefined number becomes null."""
        nce = self.normalized_cross_entropy
        return {
            "normalized_cross_entropy": round(nce, 6) if nce == nce else None,
            "calibration_error": round(self.calibration_error, 6),
            "curve": [bin._asdict() for bin in self.curve],
        }


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """The quality of a search's confidences, raw and calibrated."""

    num_words: int
    num_right: int
    raw: ConfidenceQuality
    calibrated: ConfidenceQuality
    """Each word is calibrated by a fit on the other half of the utterances, so that the estimate is not optimistic."""
    calibration: Calibration
    """The calibration fitted on all words, to be saved."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "num_words": self.num_words,
            "num_right": self.num_right,
            "temperature": round(self.calibration.temperature, 6),
            "offset": round(self.calibration.offset, 6),
            "raw": self.raw.to_dict(),
            "calibrated": self.calibrated.to_dict(),
        }


def calibrate(results: Sequence[UtteranceResult]) -> CalibrationReport:
    """Fit a calibration to the words of an evaluation and measure its gain on words that it was not fitted on.

    Args:
        results: recognized utterances with raw confidences.
    Raises:
        DataError: there are too few words.
    """
    halves = [[word for result in results[half::2] for word in result.confidences] for half in (0, 1)]
    num_words = sum(map(len, halves))
    if num_words < _MIN_WORDS or not all(halves):
        raise DataError(
            f"a calibration needs at least {_MIN_WORDS} recognized words in at least two utterances, but there are "
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
    """Save a calibration in the folder of a model, a run or graphs, and return the file; later transcripts use it.

    Raises:
        CheckpointError: there is no model, or the file cannot be written.
        ConfigError: the model comes with the package.
    """
    place = search_folder(folder)
    refuse_built_in(place)
    return write_calibration(place, method, calibration)


def _quality(words: Sequence[tuple[float, bool]]) -> ConfidenceQuality:
    confidences, is_right = _columns(words)
    curve = tuple(reliability(confidences, is_right))
    return ConfidenceQuality(
        normalized_cross_entropy=normalized_cross_entropy(confidences, is_right),
        calibration_error=calibration_error(curve),
        curve=curve,
    )


def _columns(words: Sequence[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [confidence for confidence, _ in words], [is_right for _, is_right in words]
