"""benchmarks/gpu.py. Contract: errors, deadlines and kills leave a complete record, and torch and numpy are sufficient. Run:
every block at toy size."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.watchdog import WATCHDOG_S

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "gpu.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
BLOCKS = (
    "ceilings",
    "correctness",
    "training-step",
    "transducer-loss",
    "decoding",
    "figure-5",
    "stability",
    "training-curve",
)
TORCH_ALONE = """
import importlib.machinery, runpy, sys
torch_needs = "typing_extensions sympy mpmath networkx jinja2 markupsafe fsspec filelock setuptools".split()
ours = {"zipasr", "gpu", "machine"}
allowed = {*sys.stdlib_module_names, "torch", "torchgen", "functorch", "triton", "numpy", *ours, *torch_needs}

class Only:
    find_distributions = importlib.machinery.PathFinder.find_distributions

    @staticmethod
    def find_spec(name, path=None, target=None):
        known = name.partition(".")[0] in allowed or name.startswith("_sysconfigdata")
        return importlib.machinery.PathFinder.find_spec(name, path, target) if known else None

sys.meta_path[:] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, Only]
script = sys.argv[1]
sys.argv = sys.argv[1:]
sys.path.insert(0, script.rpartition("/")[0])
runpy.run_path(script, run_name="__main__")
"""
"""Runs a script as if only torch, its dependencies, triton and numpy were installed."""


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that runs blocks."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from gpu import runner

    return runner


def run(runner: ModuleType, functions: dict[str, Any], path: Path, *, total_s: float = 60.0) -> dict[str, Any]:
    """Run blocks made of functions, and return the record of each from disk."""
    specs = [runner.BlockSpec(name, function, 30.0) for name, function in functions.items()]
    setting = runner.Setting(device=torch.device("cpu"), is_toy=True, reference_curve=path)
    document: dict[str, Any] = {}
    runner.run_blocks(specs, setting, document, path, total_s=total_s, scale=total_s / 60.0)
    assert json.loads(path.read_text()) == document
    assert runner.table(document)
    return document["blocks"]


def fail() -> dict[str, Any]:
    raise RuntimeError("out of luck")


def test_errors_are_recorded_and_the_rest_runs(runner: ModuleType, tmp_path: Path) -> None:
    def partly(block: Any) -> None:
        block.case("bad", fail)
        block.case("good", lambda: {"ms": 1.0})

    blocks = run(runner, {"first": lambda block: fail(), "second": partly, "third": lambda block: None}, tmp_path / "a.json")
    assert blocks["first"]["status"] == "failed"
    assert blocks["first"]["error"]["type"] == "RuntimeError"
    assert blocks["first"]["error"]["message"] == "out of luck"
    assert "fail" in blocks["first"]["error"]["traceback"][-1]
    assert blocks["second"]["status"] == "failed"
    assert blocks["second"]["reason"] == "bad: RuntimeError: out of luck"
    assert blocks["second"]["cases"]["good"]["ms"] == 1.0
    assert blocks["third"]["status"] == "ok"


def test_no_time_skips_with_a_reason(runner: ModuleType, tmp_path: Path) -> None:
    blocks = run(runner, {"first": lambda block: None, "second": lambda block: None}, tmp_path / "a.json", total_s=0.0)
    assert [block["status"] for block in blocks.values()] == ["skipped"] * 2
    assert all(block["reason"] == "no time left" for block in blocks.values())


def test_a_block_is_stopped_at_its_deadline(runner: ModuleType, tmp_path: Path) -> None:
    def slow(block: Any) -> None:
        block.case("quick", lambda: {"ms": 1.0})
        block.case("long", lambda: signal.raise_signal(signal.SIGALRM))  # like the timer at the deadline
        block.deadline = time.monotonic()
        block.case("late", lambda: {"ms": 1.0})

    blocks = run(runner, {"slow": slow, "after": lambda block: None}, tmp_path / "a.json")
    assert blocks["slow"]["status"] == "incomplete"
    assert blocks["slow"]["cases"]["quick"]["status"] == "ok"
    assert blocks["slow"]["cases"]["long"]["reason"] == "stopped at the deadline of the block"
    assert blocks["slow"]["cases"]["late"]["reason"] == "the deadline of the block had passed"
    assert blocks["after"]["status"] == "ok"


def test_the_timer_ends_what_would_not_end(runner: ModuleType) -> None:
    with pytest.raises(runner.OutOfTime), runner.interrupt_at(time.monotonic() + 0.1):
        time.sleep(WATCHDOG_S)


def test_a_missing_package_is_named(runner: ModuleType, tmp_path: Path) -> None:
    from gpu import absent

    module = absent._AbsentModule("frobnicate")
    blocks = run(runner, {"needy": lambda block: block.case("call", lambda: module.load("x"))}, tmp_path / "a.json")
    assert blocks["needy"]["cases"]["call"]["status"] == "not run"
    assert blocks["needy"]["reason"] == "call: needs frobnicate"


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_host_waits_are_counted_without_draws(runner: ModuleType, mode: Any) -> None:
    from gpu.timing import count_operators

    x = torch.ones(4, 4)

    def call() -> None:
        for _ in range(3):
            torch.rand(()).item()
        (x @ x).sum().item()
        bool((x > 0).any())
        x[x > 0]

    with mode():
        counts = count_operators(call, torch.device("cpu"))
    assert counts["host_draws"] == 3
    assert counts["waits"] == {"_local_scalar_dense": 2, "index by a mask": 1}


def test_a_kill_leaves_a_complete_file(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    command = [sys.executable, str(SCRIPT), "--toy", "--out", str(out), "--blocks", "ceilings", "correctness"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            if out.exists() and json.loads(out.read_text())["blocks"]["correctness"]["status"] == "running":
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.wait()
    blocks = json.loads(out.read_text())["blocks"]
    assert blocks["ceilings"]["status"] == "ok"
    assert blocks["correctness"]["status"] == "running"


@pytest.mark.slow(minutes=2)
def test_every_block_runs_with_torch_alone(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    command = [sys.executable, "-c", TORCH_ALONE, str(SCRIPT), "--toy", "--out", str(out)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads(out.read_text())
    assert tuple(document["blocks"]) == BLOCKS
    outcomes = [(block["status"], block.get("reason")) for block in document["blocks"].values()]
    assert outcomes == [("ok", None)] * len(BLOCKS)
    placeholders = document["blocks"]["ceilings"]["cases"]["versions"]["placeholders"]
    assert {"av", "safetensors", "sentencepiece", "soundfile", "soxr"} <= set(placeholders)
    cases = document["blocks"]["correctness"]["cases"]
    assert all(case.get("is_within", True) for case in cases.values()), cases
    assert document["blocks"]["training-curve"]["cases"]["float32"]["first_difference"] < 1e-4
    assert set(done.stdout.split(":")[0].split()) == {"ceilings"}
