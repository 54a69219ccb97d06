"""What a run says about itself. Contract: its size at the start, the time left once after a minute, in words."""

import dataclasses
from pathlib import Path

import pytest

from tests.train.runs import run
from tests.train.tones import minute_config, write_tones
from zipasr.data.batching import BatchConfig
from zipasr.train import outlook
from zipasr.train.outlook import RunLength, TimeLeft, describe_length, in_words
from zipasr.train.state import Position


def walk(time_left: TimeLeft, steps: range, *, step_s: float, start_s: float = 0.0) -> list[tuple[int, str]]:
    """What is said after which step, where each step takes `step_s` and the first two of all 100 s."""
    said = []
    for n in steps:
        train_s = start_s + (n - steps.start + 1) * step_s + 100.0
        text = time_left.estimate(Position(num_steps=n, train_s=train_s))
        if text is not None:
            said.append((n, text))
    return said


def test_time_left_is_said_once_from_the_speed_of_a_minute() -> None:
    time_left = TimeLeft(valid_interval=500)
    time_left.start(Position(), total_steps=2000)
    assert walk(time_left, range(1, 1000), step_s=2.0) == [
        (32, "about 66 minutes left on this machine (2 s per batch), plus 4 validations")
    ]


def test_time_left_of_a_resumed_run_is_measured_anew() -> None:
    time_left = TimeLeft(valid_interval=500)
    time_left.start(Position(num_steps=1900, train_s=1e6), total_steps=2000)
    ((_, said),) = walk(time_left, range(1901, 2000), step_s=3.0, start_s=1e6)
    assert said == "about 4 minutes left on this machine (3 s per batch), plus a validation"


def test_going_back_starts_the_measurement_again_and_repeats_nothing() -> None:
    time_left = TimeLeft(valid_interval=500)
    time_left.start(Position(), total_steps=2000)
    assert walk(time_left, range(1, 20), step_s=2.0) == []
    time_left.start(Position(num_steps=10, train_s=20.0), total_steps=2000)
    ((n, said),) = walk(time_left, range(11, 500), step_s=4.0)
    assert n == 27 and "(4 s per batch)" in said
    time_left.start(Position(num_steps=10, train_s=20.0), total_steps=2000)
    assert walk(time_left, range(11, 500), step_s=4.0) == []


def test_a_run_that_ends_within_the_minute_says_nothing() -> None:
    time_left = TimeLeft(valid_interval=500)
    time_left.start(Position(), total_steps=30)
    assert walk(time_left, range(1, 31), step_s=2.0) == []


@pytest.mark.parametrize(
    ("duration_s", "words"),
    [
        (0.2, "1 seconds"),
        (59.0, "59 seconds"),
        (150.0, "2 minutes"),
        (3600.0, "60 minutes"),
        (9000.0, "2.5 hours"),
        (72_000.0, "20 hours"),
        (400_000.0, "4.6 days"),
    ],
)
def test_durations_in_words(duration_s: float, words: str) -> None:
    assert in_words(duration_s) == words


def test_length_in_words() -> None:
    config = minute_config(valid_interval=500, save_interval=250, batch=BatchConfig(speed_factors=(0.9, 1.0, 1.1)))
    assert describe_length(config, RunLength(4670, 17.62), Position()) == (
        "about 4,670 batches, 17.6 epochs at 3 speeds each: a validation every 500, a checkpoint every 250"
    )
    config = dataclasses.replace(config, batch=BatchConfig(speed_factors=(1.0,)))
    assert describe_length(config, RunLength(400, 1.0), Position(num_steps=100)) == (
        "batch 100 of about 400, 1 epoch: a validation at the end, a checkpoint every 250"
    )


@pytest.mark.parametrize("max_batches", [None, 5])
def test_first_lines_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, max_batches: int | None
) -> None:
    """They come without a progress bar too, and a resumed run says where it is."""
    monkeypatch.setattr(outlook, "MEASURED_S", 0.0)
    data = write_tones(tmp_path / "data", num_train=24, num_dev=3)
    config = minute_config(data, num_epochs=4, max_batches=max_batches)
    num_steps = run(config, tmp_path / "run").num_steps
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("training ")]
    assert line.endswith(": 24 utterances, 0.01 h, 3 to validate on, a vocabulary of 14 tokens")
    epochs = "4 epochs" if max_batches is None else f"{4 * 5 / 12:.3g} epochs"
    assert f"\nabout {num_steps} batches, {epochs}: a validation at the end, a checkpoint every 1,000\n" in said
    assert said.count("left on this machine") == 1
    run(dataclasses.replace(config, num_epochs=8, max_batches=num_steps + 2), tmp_path / "run")
    said = capsys.readouterr().err
    assert f"\nbatch {num_steps} of about {num_steps + 2}, " in said
