"""Contract: `zipasr export` writes what it reports, on stdout and as JSON, and reports mistakes in one line."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from lhotse import CutSet, Recording, SupervisionSegment

from tests.export.traces import traced_once
from tests.tiny_model import noise, save_tiny
from zipasr.cli import main
from zipasr.export import export_model
from zipasr.onnx_runtime import is_exported


@pytest.fixture(scope="module", autouse=True)
def _traced_once() -> Iterator[None]:
    with traced_once():
        yield


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("cli_export") / "model", has_transducer=False)


def write_cuts(folder: Path, *texts: str) -> Path:
    """Cuts of noise labeled with these texts."""
    made = []
    for i, text in enumerate(texts):
        soundfile.write(folder / f"{i}.wav", noise(1.5, seed=i), 16_000)
        cut = Recording.from_file(folder / f"{i}.wav").to_cut()
        cut.supervisions = [SupervisionSegment(str(i), cut.recording_id, start=0, duration=cut.duration, text=text)]
        made.append(cut)
    CutSet.from_cuts(made).to_file(folder / "cuts.jsonl.gz")
    return folder / "cuts.jsonl.gz"


def test_export_reports_what_it_wrote(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_int8_needs_cuts(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["export", str(model_dir), "--out", str(tmp_path / "out")]
    for flags, message in (
        (["--int8"], "--cuts names none"),
        (["--cuts", "dev.jsonl.gz"], "--cuts has no effect without --int8"),
        (["--max-wer-increase", "1"], "--max-wer-increase has no effect without --int8"),
        (["--int8", "--cuts", "dev.jsonl.gz", "--max-wer-increase", "-1"], "must be 0 or more"),
        (["--int8", "--fp16"], "not allowed with"),
        (["--chunk-ms", "320"], "is_causal=True"),
        (["--left-context-ms", "1280"], "give --chunk-ms too"),
    ):
        assert main([*line, *flags]) == 2
        assert message in capsys.readouterr().err
    assert main([*line, "--int8", "--cuts", str(tmp_path / "none.jsonl.gz")]) == 1
    assert "none.jsonl.gz" in capsys.readouterr().err


def test_int8_is_measured_on_cuts(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cuts = write_cuts(tmp_path, "ONE TWO", "THREE FOUR")
    line = ["export", str(model_dir), "--out", str(tmp_path / "out"), "--int8", "--cuts", str(cuts)]
    assert main([*line, "--max-wer-increase", "100"]) == 0
    printed = capsys.readouterr().out
    assert "ctc: " in printed
    assert "modules kept in float32" in printed
    assert (tmp_path / "out" / "quantization.json").is_file()


def test_missing_packages_are_named(model_dir: Path, tmp_path: Path) -> None:
    exported = export_model(model_dir, tmp_path / "exported").folder
    soundfile.write(tmp_path / "audio.wav", noise(0.5), 16_000)
    code = (
        "import sys; sys.modules['onnx'] = sys.modules['onnxruntime'] = None\nfrom zipasr.cli import main\n"
        f"print(main(['export', {str(model_dir)!r}, '--out', {str(tmp_path / 'out')!r}]))\n"
        f"print(main(['transcribe', {str(exported)!r}, {str(tmp_path / 'audio.wav')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "2"]
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all('pip install "zipasr[onnx]"' in line for line in lines)
    assert not (tmp_path / "out").exists()
