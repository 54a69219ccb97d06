"""The memory probe. Law: it finds the limit of a fake memory, from below. Run: the command prints it and changes nothing."""

from pathlib import Path

import pytest

from tests.train.tones import minute_config, write_tones
from zipasr.cli import main
from zipasr.errors import ZipasrError
from zipasr.train.probe import ProbeReport, Shape, find_largest, worst_shapes

SIZES = [(1.0, 3), (2.0, 5), (4.0, 9), (8.0, 30), (8.0, 12)] * 100


def test_worst_shapes_fill_the_duration() -> None:
    shapes = worst_shapes(minute_config(), SIZES, 40.0)
    assert shapes == [Shape(40, 100, 3), Shape(20, 200, 5), Shape(10, 400, 9), Shape(5, 800, 30)]
    slowed = minute_config(batch=minute_config().batch.__class__(speed_factors=(0.5, 1.0)))
    assert worst_shapes(slowed, SIZES, 40.0)[-1] == Shape(2, 1600, 30)
    assert worst_shapes(slowed, SIZES, 1.0)[-1] == Shape(1, 1600, 30)  # at least one utterance


def memory(shape: Shape) -> int:
    """Bytes that a batch needs if frames count, and frames times tokens."""
    frames = shape.num_utterances * shape.num_frames
    return 1000 + frames * (10 + shape.num_tokens)


@pytest.mark.parametrize("budget", [40_000, 150_000, 1_000_000])
@pytest.mark.parametrize("may_overshoot", [True, False])
def test_finds_the_limit(budget: int, may_overshoot: bool) -> None:
    tried = []

    def peak(shape: Shape) -> int | None:
        used = memory(shape)
        tried.append(used)
        return used if used <= 1.1 * budget else None

    config = minute_config()
    report = find_largest(config, SIZES, peak, budget, "box", may_overshoot=may_overshoot)
    assert all(memory(shape) <= budget for shape in worst_shapes(config, SIZES, report.safe_s))
    if may_overshoot:
        worst = max(memory(shape) for shape in worst_shapes(config, SIZES, 1.3 * report.safe_s + 8.0))
        assert worst > budget or report.safe_s == 32 * config.batch.max_duration_s
    else:
        assert max(tried) <= budget  # predicted beforehand: the system would kill the process
    assert f"batch.max_duration_s={int(report.safe_s)} is the largest that is safe" in report.format()


def test_not_even_one_utterance() -> None:
    with pytest.raises(ZipasrError, match="not even one utterance fits into the memory of box"):
        find_largest(minute_config(), SIZES, lambda shape: None, 1000, "box", may_overshoot=True)


def test_setting_that_is_too_large_is_reported() -> None:
    report = ProbeReport("box", 2**30, 600.0, 312.7, ())
    assert "=312 is the largest that is safe of those tried; the setting, 600, is too much" in report.format()


def test_command_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = write_tones(tmp_path / "data", num_train=6, num_dev=2)
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from tests.train.tones import minute_config\nfrom zipasr.train.config import TrainConfig\n\n"
        f"def run() -> TrainConfig:\n    return minute_config({str(data)!r})\n"
    )
    before = sorted(data.glob("[!.]*"))  # an index of the manifest may be made
    out = tmp_path / "run"
    assert main(["train", f"{recipe}:run", "--out", str(out), "--probe", "--set", "batch.max_duration_s=2"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("memory of cpu for training: ")
    assert "the setting, 2, fits" in printed
    assert not out.exists()
    assert sorted(data.glob("[!.]*")) == before
