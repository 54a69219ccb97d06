"""Contract: `zipasr average` writes a model that can be evaluated, says what it averaged, and refuses wrong arguments."""

import json
import shutil
from pathlib import Path

import pytest

from tests.train.tones import minute_config, write_tones
from zipasr.cli import main
from zipasr.train.loop import train


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = write_tones(folder / "data", num_train=24, num_dev=2)
    train(minute_config(data, num_epochs=3, save_interval=2), folder / "exp", is_quiet=True)
    return folder / "exp"


@pytest.mark.parametrize(
    ("argv", "description"),
    [
        (["--last", "2"], "the mean of 2 checkpoints"),
        (["--epochs", "1"], "the mean of"),
        (["--from", "0", "--to", "4"], "the mean of 2 models, one every 2 batches, after batch 0 and up to batch 4"),
        (["--from", "2"], "after batch 2 and up to batch"),
        (["--checkpoints", "2", "4"], "the mean of 2 checkpoints"),
    ],
)
def test_writes_a_model_that_can_be_evaluated(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, argv: list[str], description: str
) -> None:
    out = tmp_path / "model"
    assert main(["average", str(run_folder), *argv, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{out}: ") and description in captured.out
    assert captured.err == ""
    if argv == ["--last", "2"]:
        assert captured.out.endswith("(batch-00000008, batch-00000009)\n")
        cuts = run_folder.parent / "data" / "dev_cuts.jsonl.gz"
        assert main(["evaluate", str(out), str(cuts), "--search", "greedy", "--json"]) == 0
        assert "wer" in json.dumps(json.loads(capsys.readouterr().out))


def test_folders_by_name_and_json(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = [str(run_folder / "checkpoints" / f"batch-{b:08d}") for b in (2, 4)]
    out = tmp_path / "model"
    assert main(["average", "--checkpoints", *folders, "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"model": str(out), "description": "the mean of 2 checkpoints", "checkpoints": folders}


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["RUN"], 2, "required"),
        (["RUN", "--last", "1", "--epochs", "1"], 2, "not allowed with"),
        (["RUN", "--last", "1", "--to", "4"], 2, "--to has no effect without --from"),
        (["--last", "1"], 2, "is not given; name the run"),
        (["--checkpoints", "2", "4"], 2, "RUN must be given with the batches 2, 4"),
        (["RUN", "--checkpoints", "RUN/model"], 2, "RUN has no effect"),
        (["RUN", "--checkpoints", "2", "999"], 1, "the checkpoints of batch 999, but holds those of"),
        (["RUN", "--last", "0"], 2, "1 checkpoint or more"),
        (["RUN", "--last", "999"], 1, "larger keep_checkpoints"),
        (["RUN", "--from", "3"], 1, "the checkpoint of batch 3"),
        (["NOWHERE", "--last", "1"], 1, "no such folder; give train's --out"),
    ],
)
def test_refuses(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, argv: list[str], code: int, message: str
) -> None:
    argv = [arg.replace("RUN", str(run_folder)) if not arg.startswith("-") else arg for arg in argv]
    assert main(["average", *argv, "--out", str(tmp_path / "out")]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_the_run_itself_is_safe(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    assert main(["average", str(run), "--last", "1", "--out", str(run)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert (run / "checkpoints").is_dir()
