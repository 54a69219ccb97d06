"""Contract: PyTorch and exported graphs use `--threads` threads, reader processes included; threads do not spin by
default."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import torch

from tests.tiny_model import noise, save_tiny
from tests.train.tones import minute_config
from zipasr.cli import main
from zipasr.cli.threads import use_threads, use_threads_for_training, wait_without_spinning
from zipasr.device import SMALL_MODEL_PARAMETERS
from zipasr.onnx_runtime import graph as onnx_graph


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("threads")
    save_tiny(folder / "run" / "model", has_transducer=False)
    soundfile.write(folder / "a.wav", noise(0.5), 16_000)
    return folder


@pytest.mark.parametrize(("flags", "expected"), [(["--threads", "2"], 2), ([], 1)])
def test_pytorch(folder: Path, flags: list[str], expected: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", str(folder / "run"), str(folder / "a.wav"), *flags]) == 0
    assert torch.get_num_threads() == expected
    capsys.readouterr()


def test_exported_graphs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[int] = []
    open_session = onnx_graph.open_session

    def noted(graph: bytes, *, name: str, num_threads: int) -> object:
        opened.append(num_threads)
        return open_session(graph, name=name, num_threads=num_threads)

    assert main(["export", str(folder / "run"), "--out", str(tmp_path / "out")]) == 0
    monkeypatch.setattr(onnx_graph, "open_session", noted)
    for flags in (["--threads", "2"], []):
        assert main(["transcribe", str(tmp_path / "out"), str(folder / "a.wav"), *flags]) == 0
    assert opened == [2, 1]
    capsys.readouterr()


def test_a_larger_model_keeps_all_cores(tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "model") / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(4 * SMALL_MODEL_PARAMETERS)
    use_threads(str(tmp_path))
    assert torch.get_num_threads() == 3


def test_training_counts_its_readers() -> None:
    config = minute_config(num_workers=2, device="cpu")
    assert use_threads_for_training(config, None) == config
    assert torch.get_num_threads() == 1
    assert use_threads_for_training(config, 5).num_workers == 1
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("verb", ["transcribe", "evaluate", "serve", "train"])
@pytest.mark.parametrize("value", ["0", "-1", str(10**30)])
def test_out_of_range(folder: Path, verb: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    rest = {"train": ["prompts:tiny", "--out", "run"], "serve": [str(folder / "run")]}
    assert main([verb, *rest.get(verb, [str(folder / "run"), "x"]), "--threads", value]) == 2
    assert f"threads must be from 1 to 1024, but is {value}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ({"GOMP_SPINCOUNT": "9"}, None),
        ({"KMP_BLOCKTIME": "0"}, None),
    ],
)
def test_wait_policy(given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = dict(given)
    monkeypatch.setattr(os, "environ", environ)
    wait_without_spinning()
    assert environ == given | ({"OMP_WAIT_POLICY": "PASSIVE"} if expected == "PASSIVE" else {})
    assert environ.get("OMP_WAIT_POLICY") == expected


def test_wait_policy_is_set_before_torch_loads() -> None:
    code = """
import json, os, sys
class Finder:
    def find_spec(self, name, *rest):
        if name == "torch":
            print(json.dumps(os.environ.get("OMP_WAIT_POLICY")))
            raise SystemExit(0)
sys.meta_path.insert(0, Finder())
from zipasr.cli import main
main(["profile", "tiny", "--no-time"])
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP", "KMP"))}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
    assert json.loads(done.stdout) == "PASSIVE"
