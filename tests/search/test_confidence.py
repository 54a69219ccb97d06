"""Calibration of confidence. Reference: a slow search for the likeliest parameters; NCE by its definition. Law: the order of
words does not change. Contract: the file in the model folder."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zipasr.errors import CheckpointError
from zipasr.search.confidence import (
    Calibration,
    calibration_error,
    fit_calibration,
    normalized_cross_entropy,
    read_calibrations,
    reliability,
    write_calibration,
)


def drawn(num_words: int, temperature: float, offset: float, seed: int = 0) -> tuple[list[float], list[bool]]:
    """Confidences, and words that are as often right as a calibration predicts."""
    generator = np.random.default_rng(seed)
    confidences = generator.beta(3, 1, num_words).tolist()
    truth = Calibration(temperature=temperature, offset=offset)
    return confidences, [bool(generator.random() < truth.apply(p)) for p in confidences]


def log_likelihood(calibration: Calibration, confidences: list[float], is_right: list[bool]) -> float:
    words = zip(map(calibration.apply, confidences), is_right, strict=True)
    return sum(math.log(p if right else 1 - p) for p, right in words)


@pytest.mark.parametrize(("temperature", "offset"), [(1.0, 0.0), (2.0, -1.0), (0.7, -2.0), (3.0, 0.5)])
def test_finds_what_the_words_were_drawn_with(temperature: float, offset: float) -> None:
    confidences, is_right = drawn(20_000, temperature, offset)
    found = fit_calibration(confidences, is_right)
    assert 1 / found.temperature == pytest.approx(1 / temperature, abs=0.06)
    assert found.offset == pytest.approx(offset, abs=0.12)


def test_no_neighbor_is_likelier() -> None:
    confidences, is_right = drawn(400, 1.7, -0.8, seed=1)
    found = fit_calibration(confidences, is_right)
    best = log_likelihood(found, confidences, is_right)
    for slope_change in (-0.05, 0.0, 0.05):
        for offset_change in (-0.05, 0.0, 0.05):
            near = Calibration(temperature=1 / (1 / found.temperature + slope_change), offset=found.offset + offset_change)
            assert log_likelihood(near, confidences, is_right) <= best + 1e-2


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_any_words_give_a_calibration_that_keeps_their_order(words: list[tuple[float, bool]]) -> None:
    confidences, is_right = [p for p, _ in words], [r for _, r in words]
    calibration = fit_calibration(confidences, is_right)
    ordered = [calibration.apply(p) for p in sorted(confidences)]
    assert ordered == sorted(ordered)
    assert all(0 < p < 1 for p in ordered)


@pytest.mark.parametrize("is_right", [True, False])
def test_words_that_are_all_alike_give_a_finite_calibration(is_right: bool) -> None:
    calibration = fit_calibration([0.9] * 50, [is_right] * 50)
    assert (calibration.apply(0.9) > 0.9) == is_right
    assert math.isnan(normalized_cross_entropy([0.9] * 50, [is_right] * 50))


def test_cross_entropy_by_its_definition() -> None:
    confidences, is_right = [0.9, 0.8, 0.4, 0.7], [True, True, False, False]
    share = 0.5
    most = -len(is_right) * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
    told = sum(math.log2(p if r else 1 - p) for p, r in zip(confidences, is_right, strict=True))
    assert normalized_cross_entropy(confidences, is_right) == pytest.approx((most + told) / most)
    assert normalized_cross_entropy([1.0, 0.0], [True, False]) == pytest.approx(1.0, abs=1e-4)
    assert normalized_cross_entropy([0.5, 0.5], [True, False]) == pytest.approx(0.0)
    assert normalized_cross_entropy([0.1, 0.9], [True, False]) < 0


def test_calibration_mends_confidence_that_misleads() -> None:
    confidences, is_right = drawn(3000, 2.5, -1.5, seed=2)
    fitted = fit_calibration(confidences[::2], is_right[::2])
    calibrated = [fitted.apply(p) for p in confidences[1::2]]
    before = calibration_error(reliability(confidences[1::2], is_right[1::2]))
    after = calibration_error(reliability(calibrated, is_right[1::2]))
    assert before > 0.2
    assert after < 0.05
    better = normalized_cross_entropy(calibrated, is_right[1::2])
    assert better > normalized_cross_entropy(confidences[1::2], is_right[1::2])


def test_reliability_curve_holds_every_word_once() -> None:
    bins = reliability([0.9, 0.1, 0.5, 0.7, 0.3], [True, False, True, True, False], num_bins=2)
    assert [b.num_words for b in bins] == [3, 2]
    assert bins[0].confidence == pytest.approx(0.3)
    assert bins[0].accuracy == pytest.approx(1 / 3)
    assert bins[1].accuracy == 1.0
    assert len(reliability([0.5], [True])) == 1
    assert reliability([], []) == []
    assert calibration_error([]) == 0.0


@pytest.mark.parametrize(("confidences", "is_right"), [([], []), ([0.5], [])])
def test_words_must_match(confidences: list[float], is_right: list[bool]) -> None:
    with pytest.raises(ValueError, match="there must be words"):
        fit_calibration(confidences, is_right)


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": math.nan}, {"offset": math.inf}])
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        Calibration(**settings)


def test_the_file_keeps_a_calibration_for_each_search(tmp_path: Path) -> None:
    assert read_calibrations(tmp_path) == {}
    write_calibration(tmp_path, "beam", Calibration(temperature=2.0, offset=-1.0))
    write_calibration(tmp_path, "greedy", Calibration(temperature=1.5))
    path = write_calibration(tmp_path, "beam", Calibration(temperature=3.0))
    assert read_calibrations(tmp_path) == {"beam": Calibration(temperature=3.0), "greedy": Calibration(temperature=1.5)}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", ["{", "[]", '{"beam": {"temperature": -1}}', '{"beam": {"heat": 1}}', "3"])
def test_damaged_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "confidence.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"confidence\.json must hold"):
        read_calibrations(tmp_path)
    with pytest.raises(CheckpointError, match=r"confidence\.json must hold"):
        write_calibration(tmp_path, "beam", Calibration())
    assert (tmp_path / "confidence.json").read_text() == content


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_calibration(tmp_path / "none", "beam", Calibration())
