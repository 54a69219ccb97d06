"""Contract: PyTorch and exported graphs use `--threads` threads, reader processes included; threads do not spin by
default."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from tests.tiny_model import noise, save_tiny
from tests.train.tones import minute_config
from zipasr.cli import main, threads
from zipasr.cli.threads import num_cores, use_threads, use_threads_for_training, wait_without_spinning
from zipasr.device import SMALL_MODEL_PARAMETERS
from zipasr.onnx_runtime import graph as onnx_graph
from zipasr.recipes.find import find_recipe
from zipasr.train.config import AdamConfig, TrainConfig


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


def adam_config(**changes: Any) -> TrainConfig:
    """A run whose steps cannot be computed at once."""
    return minute_config(num_workers=2, device="cpu", adam=AdamConfig(), **changes)


def test_training_counts_its_readers() -> None:
    assert use_threads_for_training(adam_config(), None) == (adam_config(), 1)
    assert torch.get_num_threads() == 1
    assert use_threads_for_training(adam_config(), 5) == (dataclasses.replace(adam_config(), num_workers=1), 1)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("num_threads", "num_processes", "num_workers"), [(1, 1, 0), (2, 2, 0), (3, 2, 0), (6, 2, 2), (None, 2, 3)]
)
def test_small_model_trains_in_processes_of_one_thread(
    num_threads: int | None, num_processes: int, num_workers: int
) -> None:
    """The default is the number of cores. Readers are of each process."""
    config = minute_config(num_workers=7, device="cpu")
    expected = dataclasses.replace(config, num_workers=num_workers)
    assert use_threads_for_training(config, num_threads) == (expected, num_processes)
    assert torch.get_num_threads() == 1


def test_larger_model_trains_in_one_process() -> None:
    config = minute_config(device="cpu", model=find_recipe("librispeech:small").model)
    assert use_threads_for_training(config, 2) == (config, 1)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("variables", [{"TORCHELASTIC_RUN_ID": "x"}, {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}])
def test_processes_of_torchrun_start_no_others(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert use_threads_for_training(minute_config(device="cpu"), 2).num_processes == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 3),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 3),
        ({"cpu.max": "no number"}, 3),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_cores_of_a_container(files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "_CONTROL_GROUP", tmp_path)
    assert num_cores() == expected


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
from zipasr.cli import main, threads
main(["profile", "tiny", "--no-time"])
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP", "KMP"))}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
    assert json.loads(done.stdout) == "PASSIVE"
