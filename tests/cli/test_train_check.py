"""Contract: `zipasr train --check` prints how much data would be dropped, does not train, and exits 1 if it is too much."""

from pathlib import Path

import pytest

from tests.train.tones import write_tones
from zipasr.cli import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"), num_train=20, num_dev=2)


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ([], 0, ""),
        (["min_duration_s=2"], 1, "would be: 20 too short; change min_duration_s"),
        (["min_duration_s=0.6"], 1, "at most 20% of the training utterances may be lost (max_lost_share)"),
        (["min_duration_s=0.6", "max_lost_share=0.9"], 0, ""),
        (["max_lost_share=2"], 2, "max_lost_share must be within 0 and 1"),
    ],
)
def test_check(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, settings: list[str], code: int, message: str
) -> None:
    argv = [part for setting in settings for part in ("--set", setting)]
    assert main(["train", str(data), "--out", str(tmp_path / "run"), "--check", *argv]) == code
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    if code < 2:
        assert "train: tokens of an utterance: " in captured.out
        assert captured.out.splitlines()[0].split() == ["split", "utterances", "hours", "lost", "looked", "at"]
    assert not (tmp_path / "run").exists()


def test_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "run"), "--check"]) == 1
    assert "make it with: zipasr prepare SOURCE" in capsys.readouterr().err
