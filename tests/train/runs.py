"""Whole training runs: starting, interrupting and comparing them."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from zipasr.checkpoint import CheckpointFolder
from zipasr.model import AsrModel
from zipasr.train.config import TrainConfig
from zipasr.train.loop import TrainReport, train
from zipasr.train.state import AVERAGE_FILE, TENSORS_FILE, TRAINING_FILE
from zipasr.train.step import Stepper


def run(config: TrainConfig, out: Path) -> TrainReport:
    """Train without progress output."""
    return train(config, out, is_quiet=True)


def stop_after(monkeypatch: pytest.MonkeyPatch, num_batches: int, number: int = signal.SIGINT) -> None:
    """Press Ctrl-C, or send another signal, in the middle of a batch."""
    losses = Stepper.losses

    def interrupt(self: Any, batch: Any, b: int) -> Any:
        if b == num_batches:
            signal.raise_signal(number)
        return losses(self, batch, b)

    monkeypatch.setattr(Stepper, "losses", interrupt)


def content(folder: Path) -> dict[str, Any]:
    """The content of a training checkpoint except the training time."""
    files = CheckpointFolder(folder)
    training = files.document(TRAINING_FILE)
    del training["position"]["train_s"]
    tensors = {name: files.tensors(name) for name in (TENSORS_FILE, AVERAGE_FILE, "model.safetensors")}
    return {"training": training, **tensors}


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Check that two checkpoints, read by `content`, are equal bit by bit."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[name]), name
        elif isinstance(value, dict) and name != "training":
            assert_same(value, b[name])
        else:
            assert value == b[name], name


def stop_after_batches(monkeypatch: pytest.MonkeyPatch, num_batches: int) -> None:
    """Press Ctrl-C while the model computes its losses for the `num_batches`-th time."""
    forward, count = AsrModel.forward, 0

    def interrupt(self: AsrModel, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == num_batches:
            signal.raise_signal(signal.SIGINT)
        return forward(self, *arguments)

    monkeypatch.setattr(AsrModel, "forward", interrupt)
