"""Run: every file of examples/ does what its header says, with a tiny random model."""

import io
import json
import math
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from tests.conftest import REPOSITORY
from tests.tiny_model import noise, save_tiny
from tests.train.tones import minute_model, write_tones
from zipasr.tokenizer import Tokenizer

EXAMPLES = REPOSITORY / "examples"


def run_example(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run a file of examples/ as `python examples/NAME.py ARGUMENTS` does, in this process."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def require(package: str) -> None:
    """Skip the test with a reason if an optional package is not installed."""
    pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in `model` and a recording of 2 s, `a.wav`."""
    folder = tmp_path_factory.mktemp("examples")
    save_tiny(folder / "model")
    soundfile.write(folder / "a.wav", noise(2.0), 16_000)
    return folder


def test_every_example_is_tried() -> None:
    tried = set(re.findall(r'run_example\("(\w+)"', Path(__file__).read_text(encoding="utf-8")))
    assert tried == {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_header_gives_the_command(path: Path) -> None:
    assert f"python examples/{path.name}" in path.read_text(encoding="utf-8").split('"""')[1]


def test_transcribe(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("transcribe", monkeypatch, folder / "model", folder / "a.wav", folder / "missing.wav")
    output = capsys.readouterr()
    text, *words = output.out.splitlines()
    assert text.split()[1:] == [line.split()[-1] for line in words]
    assert words
    assert "missing.wav" in output.err


def test_subtitles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_example("subtitles", monkeypatch, folder / "model", folder / "a.wav")
    assert (folder / "a.srt").read_text(encoding="utf-8").startswith("1\n00:00:0")


def test_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.serve.running import streaming_recognizer

    recognizer = streaming_recognizer()
    recognizer.engine.scorer.save(tmp_path / "model", recognizer.engine.tokenizer)
    samples = (noise(3.0) * 32767).astype(np.int16)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(samples.tobytes())))
    run_example("live", monkeypatch, tmp_path / "model")
    assert capsys.readouterr().out.split()


def test_hotwords(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("hotwords", monkeypatch, folder / "model", folder / "a.wav", "LAZY DOG", "BOX")
    without, with_hotwords = capsys.readouterr().out.splitlines()
    assert without.startswith("without: ")
    assert with_hotwords.startswith("with: ")


def test_finetune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = Tokenizer.train(["LO MID HI UP DOWN"], kind="char", vocab_size=None)
    minute_model(vocab_size=tokenizer.vocab_size).save(tmp_path / "base", tokenizer)
    data = write_tones(tmp_path / "data", num_train=6, num_dev=2)
    settings = ("num_epochs=1", "batch.speed_factors=1.0", "num_workers=0", "device=cpu")
    run_example("finetune", monkeypatch, tmp_path / "base", data, tmp_path / "out", *settings)
    assert f"{tmp_path / 'out' / 'model'}: dev WER" in capsys.readouterr().out


def test_export_sherpa_onnx(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    require("onnx")
    require("onnxruntime")
    require("sherpa_onnx")
    run_example("export_sherpa_onnx", monkeypatch, folder / "model", folder / "exported", folder / "a.wav")
    assert capsys.readouterr().out.splitlines()[-1].strip()


def test_openai_client(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    require("openai")
    require("starlette")
    from tests.serve.running import offline_recognizer, running

    with running(offline_recognizer()) as service:
        run_example("openai_client", monkeypatch, f"{service.url}/v1", folder / "a.wav")
    text, *words = capsys.readouterr().out.splitlines()
    assert text.split() == [line.split()[-1] for line in words]
    assert words


def test_scaled_adam(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("scaled_adam", monkeypatch)
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert losses[-1] < 0.5 * losses[0]


def test_language_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every run of both optimizers learns: 20 steps, far better than chance."""
    require("matplotlib")
    run_example("language_model", monkeypatch, "--quick", "--out", tmp_path / "out")
    rows = re.findall(
        r"(ScaledAdam|AdamW), lr ([\d.]+): ([\d.]+) bits per character.*?( \(best\))?\n", capsys.readouterr().out
    )
    numbers = json.loads((tmp_path / "out" / "language_model.json").read_text())
    for name, runs in numbers["runs"].items():
        assert [run["lr"] for run in runs] == [float(lr) for optimizer, lr, _, _ in rows if optimizer == name]
        best = min(runs, key=lambda run: run["dev"])
        assert [float(lr) for optimizer, lr, _, mark in rows if optimizer == name and mark] == [best["lr"]]
        assert best["dev"] < 6.0 < math.log2(103)
        assert best["curve"][-1][1] < best["curve"][0][1]
    assert (tmp_path / "out" / "language_model.png").read_bytes().startswith(b"\x89PNG")


def test_zipformer_encoder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("zipformer_encoder", monkeypatch)
    found = re.search(r"accuracy ([\d.]+)", capsys.readouterr().out)
    assert found
    assert float(found[1]) > 0.5  # chance is 0.25
