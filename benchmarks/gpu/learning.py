"""Small training runs on a task that can be learned in minutes: stability in half precision, and a curve beside a CPU's.

The task: every label has a spectrum of its own, drawn from a seed; an utterance is a sequence of labels, each held for some
frames, under noise. Features are (N, T, 80) at 100 Hz. All batches are drawn on the CPU.
"""

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import origin
from torch import Tensor, nn

from gpu.models import Inputs, build, toy
from gpu.runner import Block, write_json
from zipasr.device import DTYPES, arithmetic
from zipasr.encoder.ablation import AblationConfig
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.model import AsrConfig, AsrModel
from zipasr.nn.schedule import set_step
from zipasr.optim import Eden, ScaledAdam
from zipasr.train.precision import LossScale

NUM_LABELS_AN_UTTERANCE = 8
FRAMES_A_LABEL = 20
NUM_UTTERANCES = 4
VOCAB_SIZE = 40
SCHEDULE_STEPS_A_BATCH = 8.0
"""The schedules inside the model run so fast that a few hundred batches take them through."""
LEARNING_RATE = 0.045


class Task:
    """Batches of the task by number."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        self.spectra_VF = 2.0 * torch.randn(VOCAB_SIZE, 80, generator=generator)

    def batch(self, number: int) -> Inputs:
        """Batch `number`: labels of 16 to 24 frames, under noise."""
        generator = torch.Generator().manual_seed(1_000_000 * self.seed + number)
        labels_NS = torch.randint(1, VOCAB_SIZE, (NUM_UTTERANCES, NUM_LABELS_AN_UTTERANCE), generator=generator)
        holds_NS = FRAMES_A_LABEL + torch.randint(-4, 5, labels_NS.shape, generator=generator)
        lens = holds_NS.sum(1)
        features = torch.randn(NUM_UTTERANCES, int(lens.max()), 80, generator=generator)
        for n, (labels, holds) in enumerate(zip(labels_NS, holds_NS, strict=True)):
            features[n, : lens[n]] += self.spectra_VF[labels].repeat_interleave(holds, 0)
        return Inputs(features, lens, labels_NS, torch.full((NUM_UTTERANCES,), NUM_LABELS_AN_UTTERANCE))


class Learner:
    """A small model in training, with the loss scale of the trainer in float16."""

    def __init__(self, config: AsrConfig, device: torch.device, precision: str) -> None:
        self.model = build(config).to(device).train()
        self.device, self.precision, self.task = device, precision, Task()
        self.optimizer = ScaledAdam(self.model.named_parameters(), lr=LEARNING_RATE, clipping_scale=2.0)
        self.schedule = Eden(self.optimizer, lr_batches=200.0, lr_epochs=1.0, warmup_batches=50.0)
        self.scale, self.num_skipped, self.number = LossScale(), 0, 0

    def step(self) -> float:
        """One step; the loss in nats a frame at 25 Hz, nan if the step was skipped for something that is not finite."""
        self.number += 1
        set_step(self.model, SCHEDULE_STEPS_A_BATCH * self.number)
        self.schedule.step_batch(self.number)
        batch = self.task.batch(self.number)
        with arithmetic(self.precision, self.device):
            losses = self.model(*batch.to(self.device))
        total = 0.5 * losses["simple"] + losses["pruned"] + 0.1 * losses["ctc"]
        (total * self.scale.scale).backward()
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))) / self.scale.scale
        loss, size = torch.stack([losses["pruned"].detach(), norm]).tolist()
        is_good = math.isfinite(loss) and math.isfinite(size)
        if is_good:
            torch._foreach_mul_(grads, 1.0 / self.scale.scale)
            self.optimizer.step()
        self._note(is_good)
        self.optimizer.zero_grad(set_to_none=True)
        return loss / (float(batch.lens.sum()) / 4) if is_good else math.nan

    def _note(self, is_good: bool) -> None:
        self.num_skipped += not is_good
        if self.precision == "float16":
            if is_good:
                self.scale.after_good_step(self.number)
            else:
                self.scale.after_overflow()


# Stability.


class LargestActivations:
    """Remembers, while it is on, the largest absolute output of every module, on the device."""

    def __init__(self, model: nn.Module) -> None:
        self.largest: dict[str, Tensor] = {}
        self.is_on = False
        for name, module in model.named_modules():
            module.register_forward_hook(self._look(name))

    def _look(self, name: str) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, out: Any) -> None:
            if self.is_on and isinstance(out, Tensor) and out.is_floating_point() and out.numel():
                size = out.detach().abs().amax().float()
                self.largest[name] = torch.maximum(self.largest[name], size) if name in self.largest else size

        return look

    def top(self, num: int = 8) -> dict[str, float]:
        """The modules with the largest outputs."""
        names = list(self.largest)
        values = torch.stack([self.largest[name] for name in names]).tolist() if names else []
        return dict(sorted(zip(names, values, strict=True), key=lambda pair: -pair[1])[:num])


def stability(block: Block) -> None:
    """200 steps in float16 and bf16, with and without Balancer."""
    for precision in ("float16", "bfloat16"):
        for has_balancer in (True, False):
            name = f"{precision}, {'with' if has_balancer else 'without'} Balancer"
            block.case(name, lambda p=precision, b=has_balancer: measure_stability(block, p, b))


def small(*, has_balancer: bool = True) -> AsrConfig:
    """The toy model, without the Balancers of its encoder if so asked."""
    config = toy()
    assert isinstance(config.encoder, ZipformerConfig)
    encoder = dataclasses.replace(config.encoder, ablation=AblationConfig(has_balancer=has_balancer))
    return dataclasses.replace(config, vocab_size=VOCAB_SIZE, encoder=encoder)


def measure_stability(block: Block, precision: str, has_balancer: bool) -> dict[str, Any]:
    """Losses, skipped steps, the loss scale and the largest activations of every tenth step."""
    num_steps = 3 if block.is_toy else 200
    learner = Learner(small(has_balancer=has_balancer), block.device, precision)
    activations = LargestActivations(learner.model)
    losses = []
    for i in range(num_steps):
        activations.is_on = i % 10 == 0
        losses.append(learner.step())
    finite = [loss for loss in losses if math.isfinite(loss)]
    top = activations.top()
    return {
        "num_steps": num_steps,
        "num_skipped": learner.num_skipped,
        "loss_scale": learner.scale.scale,
        "first_loss": finite[0] if finite else None,
        "last_loss": statistics.mean(finite[-20:]) if finite else None,
        "largest_activation": max(top.values(), default=0.0),
        "share_of_float16": max(top.values(), default=0.0) / torch.finfo(DTYPES["float16"]).max,
        "largest": top,
    }


# The curve beside a CPU's.

CURVE_STEPS = 500
TOY_CURVE_STEPS = 5
WINDOW = 50


def settings() -> dict[str, Any]:
    """What a curve depends on; a reference with other settings is of no use."""
    return {
        "num_steps": CURVE_STEPS,
        "num_utterances": NUM_UTTERANCES,
        "num_labels": NUM_LABELS_AN_UTTERANCE,
        "frames_a_label": FRAMES_A_LABEL,
        "vocab_size": VOCAB_SIZE,
        "schedule_steps_a_batch": SCHEDULE_STEPS_A_BATCH,
        "learning_rate": LEARNING_RATE,
        "num_parameters": sum(p.numel() for p in AsrModel(small()).parameters()),
    }


def learning_curve(num_steps: int, device: torch.device, precision: str = "float32") -> list[float]:
    """The loss of every step."""
    learner = Learner(small(), device, precision)
    return [round(learner.step(), 6) for _ in range(num_steps)]


def make_reference(path: Path) -> None:
    """Compute the curve on this CPU, with one thread, and write it."""
    torch.set_num_threads(1)
    head, start = origin(), time.monotonic()
    losses = learning_curve(CURVE_STEPS, torch.device("cpu"))
    seconds = round(time.monotonic() - start, 1)
    write_json(path, {**head, "device": "cpu", "seconds": seconds, "settings": settings(), "losses": losses})


def training_curve(block: Block) -> None:
    """500 steps with the batches and first weights of the reference, in float32 and bf16, beside its losses."""
    precisions = ("float32",) if block.is_toy else ("float32", "bfloat16")
    for precision in precisions:
        block.case(precision, lambda precision=precision: compare_curve(block, precision))


def compare_curve(block: Block, precision: str) -> dict[str, Any]:
    """Both curves as means of 50 steps, and how far apart they are.

    The first loss must agree within rounding. Later ones cannot: dropout and skips are drawn on the device.
    """
    path = block.setting.reference_curve
    reference = json.loads(path.read_text())
    if reference["settings"] != settings():
        raise ValueError(f"{path.name} must have the settings {settings()}, but has {reference['settings']}; make it anew")
    num_steps = TOY_CURVE_STEPS if block.is_toy else CURVE_STEPS
    start = time.monotonic()
    losses, expected = learning_curve(num_steps, block.device, precision), reference["losses"][:num_steps]
    ours, theirs = window_means(losses), window_means(expected)
    return {
        "num_steps": num_steps,
        "steps_per_s": num_steps / (time.monotonic() - start),
        "first_difference": abs(losses[0] - expected[0]),
        "last_mean": ours[-1],
        "last_reference": theirs[-1],
        "largest_difference": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
        "means": ours,
        "reference_means": theirs,
    }


def window_means(losses: list[float]) -> list[float]:
    """Means of 50 losses each; skipped steps (nan) do not count."""
    windows = [[x for x in losses[i : i + WINDOW] if math.isfinite(x)] for i in range(0, len(losses), WINDOW)]
    return [statistics.mean(window) if window else math.nan for window in windows]
