"""Processes that train together: `launch` starts them like torchrun, each with a function of this file."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from tests.forked import Forked
from tests.ports import free_port
from tests.train.tones import minute_config, minute_model
from zipasr.data.batching import Batch
from zipasr.model import AsrModel
from zipasr.optim import Eden
from zipasr.train import setup
from zipasr.train.averaging import RunningAverage
from zipasr.train.config import TrainConfig
from zipasr.train.distributed import Ranks, joined
from zipasr.train.loop import train
from zipasr.train.state import Position, TrainState
from zipasr.train.step import Stepper

REPOSITORY = Path(__file__).parents[2]


def launch(work: Callable[..., None], *args: object, size: int = 2) -> list[Forked]:
    """Start ranks that call the function `work` of this file with arguments, passed as text."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    return [
        Forked(
            work,
            *map(str, args),
            cwd=REPOSITORY,
            environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]


def make_exact() -> None:
    """Make steps functions of the gradients that do not amplify rounding.

    Every model trains as in eval mode (no dropout, skips, masks or constraints), by plain gradient descent: Adam makes full
    steps even for gradients that are zero up to rounding, such as that of the bias of attention keys.
    """
    AsrModel.train = lambda self, mode=True: nn.Module.train(self, False)  # type: ignore[method-assign,assignment]
    setup.new_optimizer = lambda config, model: descent(model, lr_hours=0.002)  # type: ignore[assignment]


def descent(model: nn.Module, lr_hours: float | None = None) -> tuple[torch.optim.Optimizer, Eden]:
    """An optimizer for plain gradient descent, and Eden by hours or, without `lr_hours`, by epochs."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    lr_epochs = 100.0 if lr_hours is None else None
    return optimizer, Eden(optimizer, 100.0, lr_epochs, lr_hours=lr_hours, warmup_batches=1.0)


def random_batch(generator: torch.Generator, size: int = 8) -> Batch:
    """Utterances of equal length with random features and labels."""
    return Batch(
        features=torch.randn(size, 80, 80, generator=generator),
        feature_lens=torch.full((size,), 80),
        labels=torch.randint(3, 14, (size, 5), generator=generator),
        label_lens=torch.full((size,), 5),
        ids=tuple(f"u{i}" for i in range(size)),
        audio_s=0.8 * size,
    )


def new_stepper(config: TrainConfig, ranks: Ranks | None = None) -> Stepper:
    """A stepper on a model with the same weights every time."""
    model = AsrModel(minute_model().config)
    model.load_state_dict(minute_model().state_dict())
    state = TrainState(model, *descent(model), RunningAverage(model, 2), Position())
    return Stepper(config, state, ranks or Ranks(), torch.device("cpu"))


def take_steps(stepper: Stepper, batches: list[list[Batch | None]]) -> dict[str, Any]:
    """Parameters after some steps, each on a list of batches."""
    stepper.state.model.train()
    for b, step_batches in enumerate(batches, start=1):
        assert stepper.step(step_batches, b).is_learned
    return {name: tensor.clone() for name, tensor in stepper.state.model.state_dict().items()}


def law(out: str, data: str) -> None:
    """Train each rank on half of every batch, then a whole run on a plan with an odd number of batches."""
    make_exact()
    with joined("cpu", 60.0) as (ranks, _):
        generator = torch.Generator().manual_seed(0)
        batches: list[list[Batch | None]] = []
        for _ in range(5):
            batch = random_batch(generator)
            start, end = 4 * ranks.rank, 4 * ranks.rank + 4
            batches.append([Batch(*(field[start:end] for field in batch[:5]), audio_s=3.2)])
        stepper = new_stepper(minute_config(), ranks)
        weights = take_steps(stepper, batches)
        said = [step_in_trouble(stepper, batches[0], trouble) for trouble in ("loss", "gradient", "memory")]
        kept = all(torch.equal(tensor, weights[name]) for name, tensor in stepper.state.model.state_dict().items())
    (Path(out) / f"rank{ranks.rank}.json").write_text(json.dumps([*said, kept]))
    safetensors.torch.save_file(weights, Path(out) / f"rank{ranks.rank}.safetensors")
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
    train(law_config(data), Path(out) / "run", is_quiet=True)


def step_in_trouble(stepper: Stepper, batches: list[Batch | None], trouble: str) -> list[Any]:
    """Take a step in which rank 1 has a loss or gradients that are not finite, or too little memory; save the outcome."""
    losses, is_second = stepper.losses, stepper.ranks.rank == 1

    def spoil(batch: Batch, num_steps: int) -> Any:
        parts, total = losses(batch, num_steps)
        if is_second and trouble == "memory":
            raise torch.OutOfMemoryError("out of memory")
        bad = (0.0 * next(stepper.state.model.parameters())).sum().sqrt() if trouble == "gradient" else float("nan")
        return parts, total + bad if is_second else total

    stepper.losses = spoil  # type: ignore[method-assign]
    result = stepper.step(batches, 9)
    stepper.losses = losses  # type: ignore[method-assign]
    return [result.is_learned, result.is_diverging, *result.problems]


def law_config(data: str, **changes: Any) -> TrainConfig:
    """A run of three batches per epoch without randomness."""
    plain = minute_config().batch
    return minute_config(data, batch=dataclasses.replace(plain, spec_augment=None), num_epochs=3, lr=0.02, **changes)


def runs(out: str, data: str) -> None:
    """Train a whole run with all randomness on, and one in two parts."""
    for i, (name, num_epochs) in enumerate((("whole", 2), ("parts", 1), ("parts", 2))):
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + (i > 0))
        train(minute_config(data, num_epochs=num_epochs, save_interval=3), Path(out) / name, is_quiet=True)


def diverging(out: str, data: str) -> None:
    """Train a run in which the second rank has no finite loss from step 2 on."""
    losses = Stepper.losses

    def spoil(self: Stepper, batch: Batch, num_steps: int) -> Any:
        parts, total = losses(self, batch, num_steps)
        return parts, total * float("nan") if num_steps >= 2 and self.ranks.rank == 1 else total

    Stepper.losses = spoil  # type: ignore[method-assign]
    batch = dataclasses.replace(minute_config().batch, max_duration_s=4.0)
    config = minute_config(data, batch=batch, save_interval=1, max_skipped_batches=2, max_rollbacks=1)
    train(config, Path(out), is_quiet=True)


def endless(out: str, data: str) -> None:
    """Do what `zipasr train` does, for a run that does not end."""
    from zipasr.cli import main

    recipe = Path(out) / "endless.py"
    sys.exit(main(["train", f"{recipe}:run", "--out", f"{out}/run", "--set", f"data={data}", "--no-progress"]))
