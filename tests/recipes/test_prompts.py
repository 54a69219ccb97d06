"""The recipes of the telephone prompts. Contract: the baseline encoders have the size of `tiny`. Run (slow): each of them
learns on the quick start's data."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from zipasr.model import AsrModel
from zipasr.recipes import prompts
from zipasr.train.config import TrainConfig
from zipasr.train.loop import train
from zipasr.train.metrics import read_metrics

COMPARED = (prompts.conformer, prompts.squeezeformer, prompts.branchformer, prompts.e_branchformer)

NUM_BATCHES = 100
"""A third of an epoch."""


def num_params(config: TrainConfig) -> int:
    with torch.device("meta"):
        model = AsrModel(dataclasses.replace(config.model, vocab_size=32))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("recipe", COMPARED, ids=lambda recipe: recipe.__name__)
def test_compared_encoders_are_of_the_size_of_tiny(recipe: Callable[[], TrainConfig]) -> None:
    config, tiny = recipe(), prompts.tiny()
    assert abs(num_params(config) / num_params(tiny) - 1.0) < 0.05
    assert config.adam is not None
    same = dataclasses.replace(config, adam=None, model=dataclasses.replace(config.model, encoder=tiny.model.encoder))
    assert same == tiny


@pytest.mark.slow(minutes=3)
@pytest.mark.network
@pytest.mark.parametrize("recipe", COMPARED, ids=lambda recipe: recipe.__name__)
def test_compared_encoders_learn_the_prompts(recipe: Callable[[], TrainConfig], prompts_dir: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(recipe(), data=str(prompts_dir), max_batches=NUM_BATCHES, log_interval=10, device="cpu")
    report = train(config, tmp_path, is_quiet=True)
    losses = [line["loss"] for line in read_metrics(tmp_path) if line["kind"] == "train"]
    assert losses[-1] < 0.6 * losses[0]
    assert report.num_steps == NUM_BATCHES
