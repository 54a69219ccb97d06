"""Calibration of confidences: probabilities of words and whether they were right in, a calibration and measures out.

A search is overconfident, by an amount that depends on model and search. A calibration maps each
confidence p to sigmoid(logit(p) / temperature + offset), fitted so that among words with confidence 0.8 about 80 % are
right. The order of words by confidence does not change.
Source: Platt 1999, "Probabilistic outputs for support vector machines"; Guo et al. 2017, arXiv:1706.04599 (temperature);
Siu and Gish 1999, "Evaluation of word confidence for speech recognition systems" (normalized cross-entropy).
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zipasr.checkpoint import write_text
from zipasr.config import from_json
from zipasr.errors import CheckpointError
from zipasr.lines import parse_json

CALIBRATION_FILE = "confidence.json"
"""File in a model folder with the calibration of each search that has one."""

_SMALLEST = 1e-6
"""Confidences are kept this far from 0 and 1, so that the loss of one word is bounded."""
_MAX_STEPS = 100
_SMALLEST_SLOPE = 1e-3
_STRENGTH = 0.01
"""Regularization of the slope and the offset towards 1 and 0, in words: enough for a solution if all words are right or a
threshold separates them, negligible with dozens of both."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A map from the confidences of a search to probabilities that a word is right."""

    temperature: float = 1.0
    """Above 1 makes confidences less extreme; positive."""
    offset: float = 0.0
    """Added to the log-odds."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf or not math.isfinite(self.offset):
            raise ValueError(
                f"the temperature must be positive and the offset finite, but they are {self.temperature} and {self.offset}"
            )

    def apply(self, confidence: float) -> float:
        """Probability that a word with this confidence is right."""
        return float(_sigmoid(_logit(np.array([confidence])) / self.temperature + self.offset)[0])


class ReliabilityBin(NamedTuple):
    """A group of words with similar confidence."""

    confidence: float
    """Mean confidence."""
    accuracy: float
    """Share of words that are right."""
    num_words: int


def read_calibrations(folder: str | os.PathLike[str]) -> dict[str, Calibration]:
    """The calibrations in a model folder, by the method of search; none if there is no such file.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(folder) / CALIBRATION_FILE
    if not path.exists():
        return {}
    try:
        entries = parse_json(path.read_text(encoding="utf-8"))
        return {method: from_json(Calibration, entry, where=method) for method, entry in entries.items()}
    except (OSError, ValueError, AttributeError) as error:  # ConfigError and what json raises are ValueErrors
        raise CheckpointError(
            f"{path} must hold a temperature and an offset for each search, but cannot be read: {error}; delete it, and "
            "measure again with: zipasr evaluate --calibration --save"
        ) from error


def write_calibration(folder: str | os.PathLike[str], method: str, calibration: Calibration) -> Path:
    """Write a calibration into a model folder, beside those of other searches, atomically.

    Raises:
        CheckpointError: it cannot be written, or the file that is there is damaged.
    """
    path = Path(folder) / CALIBRATION_FILE
    entries = {name: asdict(known) for name, known in (read_calibrations(folder) | {method: calibration}).items()}
    return write_text(path, json.dumps(entries, indent=2) + "\n")


def fit_calibration(confidences: Sequence[float], is_right: Sequence[bool]) -> Calibration:
    """The maximum-likelihood calibration, found by Newton's method.

    Args:
        confidences: in [0, 1], one per word.
        is_right: whether each word was right.
    Raises:
        ValueError: there are no words, or the numbers of both differ.
    """
    odds, right = _checked(confidences, is_right)
    design = np.stack([odds, np.ones_like(odds)], axis=1)
    prior, weights = np.array([1.0, 0.0]), np.array([1.0, 0.0])

    def loss(weights: np.ndarray) -> float:
        scores = design @ weights
        return float((np.logaddexp(0.0, scores) - right * scores).sum() + 0.5 * _STRENGTH * ((weights - prior) ** 2).sum())

    for _ in range(_MAX_STEPS):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (p - right) + _STRENGTH * (weights - prior)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + _STRENGTH * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-9:
            step = step / 2  # far from the optimum a full step may increase the loss
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    slope, offset = float(weights[0]), float(weights[1])
    if slope < _SMALLEST_SLOPE:  # confidences are uninformative or misleading: then nearly all become equal
        slope = _SMALLEST_SLOPE
        offset = float(_logit(right.mean(keepdims=True))[0] - slope * odds.mean())
    return Calibration(temperature=1.0 / slope, offset=offset)


def normalized_cross_entropy(confidences: Sequence[float], is_right: Sequence[bool]) -> float:
    """Information of the confidences beyond the share of right words: 1 for perfect, 0 for none, below 0 misleading.

    NaN if all words are right or all wrong, since it is undefined then.

    Raises:
        ValueError: as `fit_calibration`.
    """
    odds, right = _checked(confidences, is_right)
    share = right.mean()
    if share in (0.0, 1.0):
        return math.nan
    known = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    p = _sigmoid(odds)
    measured = -np.where(right > 0, np.log(p), np.log(1 - p)).mean()
    return float((known - measured) / known)


def reliability(confidences: Sequence[float], is_right: Sequence[bool], *, num_bins: int = 10) -> list[ReliabilityBin]:
    """The reliability curve: words sorted by confidence, in bins of equal size, so that every point is equally certain;
    fewer bins if there are few words."""
    order = np.argsort(np.asarray(confidences, np.float64), kind="stable")
    values, right = np.asarray(confidences, np.float64)[order], np.asarray(is_right, np.float64)[order]
    parts = np.array_split(np.arange(len(values)), min(num_bins, len(values))) if len(values) else []
    return [ReliabilityBin(float(values[i].mean()), float(right[i].mean()), len(i)) for i in parts]


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean distance between confidence and accuracy over the bins, weighted by their words; 0 without words."""
    total = sum(b.num_words for b in bins)
    return sum(b.num_words * abs(b.confidence - b.accuracy) for b in bins) / total if total else 0.0


def _checked(confidences: Sequence[float], is_right: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    if len(confidences) != len(is_right) or not len(confidences):
        raise ValueError(
            f"there must be words, each with a confidence and whether it was right, but there are {len(confidences)} "
            f"confidences and {len(is_right)} judgements"
        )
    return _logit(np.asarray(confidences, np.float64)), np.asarray(is_right, np.float64)


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, _SMALLEST, 1 - _SMALLEST)
    return np.log(p) - np.log1p(-p)


def _sigmoid(odds: np.ndarray) -> np.ndarray:
    limit = math.log((1 - _SMALLEST) / _SMALLEST)
    return 1.0 / (1.0 + np.exp(-np.clip(odds, -limit, limit)))
