"""Where the averaged model starts. Contract: one warning with the cure if that is far from the configured share, else
none."""

import dataclasses
import logging
import re
from pathlib import Path

import pytest

from tests.train.tones import minute_config, write_tones
from zipasr.checkpoint import checkpoint_folders
from zipasr.errors import ConfigError
from zipasr.recipes.librispeech import medium
from zipasr.recipes.prompts import tiny
from zipasr.train.average_span import AverageSpan, is_far, with_fitting_save_interval
from zipasr.train.folder import stored_config
from zipasr.train.loop import train


@pytest.mark.parametrize(
    ("total", "share", "every", "keep", "said"),
    [
        (1000, 0.3, 100, 5, None),
        (1000, 0.3, 100, 3, None),  # starts at 800 instead of 700
        (1000, 0.3, 100, 2, r"begin at batch 700 .*, but will begin at batch 900, .* set keep_checkpoints=4, or in a new"),
        (1000, 0.9, 10, 20, r"begin at batch 100 .*, but will begin at the start of the run, .* set keep_checkpoints=91,"),
        (1000, 0.3, 5000, 30, r"but will begin at the start of the run, .* in a new run, set save_interval=150 or less"),
        (1000, 1.0, 5000, 1, None),
        (15, 0.3, 5000, 1, None),  # a single model is averaged
    ],
)
def test_what_the_configuration_implies(
    total: int, share: float, every: int, keep: int, said: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = minute_config(average_period=10, average_share=share, save_interval=every, keep_checkpoints=keep)
    span = AverageSpan(config, tmp_path)
    for _ in range(2):
        span.foresee(total)
    if said is None:
        assert not caplog.records
    else:
        (record,) = caplog.records
        assert re.search(said, record.getMessage())
        needed = re.search(r"set keep_checkpoints=(\d+)|set save_interval=(\d+)", record.getMessage())
        assert needed is not None
        name = "keep_checkpoints" if needed[1] else "save_interval"
        cured = AverageSpan(minute_config(**{**vars_of(share, every, keep), name: int(needed[1] or needed[2])}), tmp_path)
        caplog.clear()
        cured.foresee(total)
        assert not caplog.records


def vars_of(share: float, every: int, keep: int) -> dict[str, float | int]:
    return {"average_period": 10, "average_share": share, "save_interval": every, "keep_checkpoints": keep}


@pytest.mark.parametrize("period", [1, 10, 200])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("keep", [2, 8, 30])
@pytest.mark.parametrize("every", [1, 250, 4000])
def test_a_chosen_save_interval_fits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, period: int, share: float, keep: int, every: int
) -> None:
    """Whatever the length of the run, nothing is left to warn about, and an interval that fits stays as it is."""
    config = minute_config(average_period=period, average_share=share, save_interval=every, keep_checkpoints=keep)
    for total in (1, 12, 100, 600, 5000, 480_000):
        caplog.clear()
        AverageSpan(config, tmp_path).foresee(total)
        fitted = with_fitting_save_interval(config, total)
        assert (fitted == config) == (not caplog.records)
        caplog.clear()
        AverageSpan(fitted, tmp_path).foresee(total)
        assert not caplog.records, (total, fitted.save_interval)


@pytest.mark.parametrize(("total", "expected"), [(4670, 250), (300, 250), (200, 20), (40, 10), (15, 250)])
def test_save_interval_of_the_quick_start_at_other_lengths(total: int, expected: int) -> None:
    assert with_fitting_save_interval(tiny(), total).save_interval == expected


def test_published_recipe_warns_about_fewer_gpus(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On one of the GPUs that it names, its checkpoints do not reach back far enough."""
    span = AverageSpan(medium(), tmp_path)
    span.foresee(120_000)
    assert not caplog.records
    span.foresee(480_000)
    assert "set keep_checkpoints=61" in caplog.text


def test_far_is_further_than_to_another_checkpoint_or_half_of_the_part() -> None:
    assert not is_far(60, 50.0, 100, save_interval=10)
    assert is_far(61, 50.0, 100, save_interval=10)
    assert not is_far(65, 50.0, 90, save_interval=30)
    assert is_far(75, 50.0, 90, save_interval=30)
    assert is_far(25, 50.0, 90, save_interval=30)


@pytest.mark.parametrize(("keep", "num_said"), [(30, 0), (2, 1)])
def test_checkpoints_that_do_not_reach_back_cause_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, keep: int, num_said: int
) -> None:
    """The warning comes in advance, or at the first of three validations where it happens."""
    data = write_tones(tmp_path / "tones", num_train=24, num_dev=2)
    changes = {"num_epochs": 4, "average_period": 1, "save_interval": 1, "valid_interval": 3, "average_share": 0.6}
    with caplog.at_level(logging.WARNING, logger="zipasr.train.average_span"):
        train(minute_config(data, keep_checkpoints=keep, **changes), tmp_path / "run", is_quiet=True)
    assert caplog.text.count("the averaged model of a run of about 12 batches should begin at batch 5") == num_said
    assert caplog.text.count("but begins at") == num_said
    if num_said:
        assert "the averaged model of batch 6 should begin at batch 2 (average_share 0.6), but begins at " in caplog.text


def test_a_run_chooses_its_save_interval_at_its_start_and_again_for_another_length(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, out = write_tones(tmp_path / "tones", num_train=24, num_dev=2), tmp_path / "run"
    config = minute_config(data, num_epochs=4, average_period=1, keep_checkpoints=2)
    for num_epochs, expected, saved in ((4, 2, [10, 12]), (4, 2, [10, 12]), (12, 5, [30, 35, 36])):
        changed = dataclasses.replace(config, num_epochs=num_epochs)
        train(changed, out, is_quiet=True, is_save_interval_given=False)
        stored = stored_config(out)
        assert stored is not None and stored.save_interval == expected
        assert list(checkpoint_folders(out)) == saved
    assert "the averaged model of" not in caplog.text
    with pytest.raises(ConfigError, match=r"save_interval \(was 5, now 1000\)"):
        train(changed, out, is_quiet=True)
