"""Contract: `zipasr plot` writes a figure into the run folder and prints its path, or reports what is missing."""

import json
from pathlib import Path

import pytest

from zipasr.cli import main


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    lines = [{"kind": "train", "step": b, "loss": 1.0 / b, "ctc": 1.0 / b} for b in (10, 20)]
    lines.append({"kind": "dev", "step": 20, "ctc_wer": 50.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_draws_into_the_run_folder(run_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["plot", str(run_folder)]) == 0
    assert capsys.readouterr().out == f"{run_folder / 'curves.png'}\n"
    assert (run_folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_out(run_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["plot", str(run_folder), "--out", str(run_folder / "other.png")]) == 0
    assert (run_folder / "other.png").is_file()
    assert not (run_folder / "curves.png").exists()


def test_folder_without_metrics(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["plot", str(tmp_path)]) == 1
    assert "metrics.jsonl, but has none; give train's --out" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text("")
    assert main(["plot", str(tmp_path)]) == 1
    assert "train for some more batches" in capsys.readouterr().err
    assert not (tmp_path / "curves.png").exists()


def test_out_that_cannot_be_written(run_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["plot", str(run_folder), "--out", str(run_folder / "no" / "where.png")]) == 1
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert "Traceback" not in error
