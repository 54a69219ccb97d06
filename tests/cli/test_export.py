"""Contract: `zipasr export` writes what it says, on stdout and as JSON, and turns mistakes into one line."""

import json
from pathlib import Path

import pytest

from tests.tiny_model import save_tiny
from zipasr.cli import main
from zipasr.onnx_runtime import is_exported


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("cli_export") / "model", has_transducer=False)


def test_export_says_what_it_wrote(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["export", str(model_dir), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: ")
    assert "model.onnx  differs from PyTorch by" in printed
    assert is_exported(out)
    assert main(["export", str(model_dir), "--out", str(out), "--fp16", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["files"] == {"ctc": "model.fp16.onnx"}
    assert written["precision"] == "float16"
    assert not (out / "model.onnx").exists()


def test_mistakes(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["export", str(tmp_path), "--out", out]) == 1
    assert "must be a model folder" in capsys.readouterr().err
    assert main(["export", str(model_dir), "--out", out, "--tolerance", "0"]) == 2
    assert "--tolerance must be positive" in capsys.readouterr().err
    assert main(["export", str(model_dir), "--out", out, "--tolerance", "1e-12"]) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert main(["export", str(model_dir), "--out", str(tmp_path.parent)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert not Path(out).exists()
