"""Training on a GPU. Run: it learns in each precision, resumes, and survives a batch that does not fit."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.train.ranks import new_stepper, random_batch
from tests.train.tones import minute_config, write_tones
from zipasr.train.acceleration import recompute_activations
from zipasr.train.loop import train
from zipasr.train.metrics import read_metrics
from zipasr.train.state import checkpoint_folders
from zipasr.train.step import Stepper

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"), num_train=24, num_dev=2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_learns_and_resumes(
    data: Path, tmp_path: Path, precision: Literal["float32", "bfloat16", "float16"], is_compiled: bool
) -> None:
    config = minute_config(data, device="cuda", precision=precision, use_compile=is_compiled, num_epochs=5)
    train(config, tmp_path, is_quiet=True)
    report = train(dataclasses.replace(config, num_epochs=10), tmp_path, is_quiet=True)
    lines = [line for line in read_metrics(tmp_path) if line["kind"] == "train"]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1]["memory_gib"] > 0.0
    assert list(checkpoint_folders(tmp_path))[-1] == report.num_steps == 30


def on_cuda() -> Stepper:
    stepper = new_stepper(minute_config())
    stepper.state.model.to("cuda").train()
    stepper.device = torch.device("cuda", torch.cuda.current_device())
    return stepper


def test_recomputed_activations_give_the_same_gradients() -> None:
    """The random masks of the device are drawn again with the same values."""
    batch = random_batch(torch.Generator().manual_seed(0))
    found = []
    for is_recomputing in (False, True):
        stepper = on_cuda()
        if is_recomputing:
            recompute_activations(stepper.state.model.encoder)
        torch.manual_seed(0)
        stepper.losses(batch, 1)[1].backward()
        found.append({name: p.grad for name, p in stepper.state.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-4, atol=1e-4)


def test_batch_that_does_not_fit_is_split() -> None:
    stepper = on_cuda()
    batch = random_batch(torch.Generator().manual_seed(0), size=4096)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(stepper.device).total_memory
    torch.cuda.set_per_process_memory_fraction(2**30 / total, stepper.device)
    try:
        result = stepper.step([batch], 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, stepper.device)
    assert result.is_learned
    assert "out of memory: took a batch in " in result.problems[0]
