"""Figures. Contract: a PNG from whatever numbers a run has; where there is none, a sentence."""

from pathlib import Path

import pytest

from zipasr.errors import DataError
from zipasr.plots import plot_curves

TRAIN = [
    {"kind": "train", "batch": b, "loss": 9.0 / b, "simple": 5.0 / b, "pruned": 3.0 / b, "ctc": 2.0 / b} for b in (1, 2)
]
DEV = [{"kind": "dev", "batch": 2, "pruned_loss": 3.5, "transducer_wer": 40.0, "ctc_wer": 60.0, "wer": 40.0}]


@pytest.mark.parametrize(
    "lines", [TRAIN + DEV, TRAIN, DEV, [{"kind": "train", "batch": 1, "ctc": 1.0}], [{"kind": "dev", "batch": 1}]]
)
def test_writes_a_png(tmp_path: Path, lines: list[dict]) -> None:
    path = plot_curves(lines, tmp_path / "curves.png")
    assert path == tmp_path / "curves.png"
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert len(content) > 5000


@pytest.mark.parametrize("lines", [[], [{"kind": "other", "batch": 1}]])
def test_nothing_to_draw(tmp_path: Path, lines: list[dict]) -> None:
    with pytest.raises(DataError, match="lines of metrics to draw"):
        plot_curves(lines, tmp_path / "curves.png")


@pytest.mark.parametrize("name", ["no/such/folder/curves.png", "curves.nonsense"])
def test_place_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        plot_curves(TRAIN, tmp_path / name)
