"""Recovery from divergence: roll back to a good checkpoint with a lower learning rate, or diagnose the failure.

A rollback changes the run folder: the good checkpoint is rewritten with the lower rate and a note, and later checkpoints are
deleted. The run then resumes from the folder as after any stop, so that a kill in between changes nothing.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zipasr.checkpoint import CheckpointFolder, checkpoint_folders, first_few
from zipasr.data.batching import Batch
from zipasr.errors import CheckpointError
from zipasr.model import WEIGHTS_FILE
from zipasr.randomness import set_random_state
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TrainConfig
from zipasr.train.metrics import forget_after
from zipasr.train.state import DivergenceState, TrainState, best_folders, checkpoint_path, read_note, rewrite
from zipasr.train.step import Stepper, halves

_NUM_LISTED = 4


def good_checkpoints(out: Path) -> dict[int, DivergenceState]:
    """Checkpoints of a run, oldest first, that are intact, have finite weights and were written after a good step."""
    good = {}
    for number, folder in checkpoint_folders(out).items():
        try:
            divergence = read_note(folder).divergence
            weights = CheckpointFolder(folder).tensors(WEIGHTS_FILE)
        except CheckpointError:
            continue
        if divergence.num_skipped == 0 and all(map(_is_finite, weights.values())):
            good[number] = divergence
    return good


def roll_back(
    out: Path, divergence: DivergenceState, config: TrainConfig, tokenizer: Tokenizer, new_state: Callable[[], TrainState]
) -> int:
    """Roll a run back to the newest good checkpoint, at a lower learning rate; returns the checkpoint's number of steps.

    If the run was already rolled back to that checkpoint and diverged again without a newer one, the one before is used.
    Without any, the run starts over. Checkpoints of an interruption do not count, so that interruptions change nothing.
    Models in `best/` of later validations are deleted, and later lines in the log of metrics become invalid. `divergence`
    is the current state, and `new_state` creates the initial state of the run.
    """
    good = {n: before for n, before in good_checkpoints(out).items() if n % config.save_interval == 0}
    number = max((n for n in good if n not in divergence.returned_to), default=0)
    folder = checkpoint_path(out, number)
    if number not in good:
        shutil.rmtree(folder, ignore_errors=True)
        new_state().save(folder, tokenizer)
    num_rollbacks = divergence.num_rollbacks + 1
    before = good[number].num_rollbacks if number in good else 0
    returned_to = [*(n for n in divergence.returned_to if n < number), number]
    rewrite(folder, DivergenceState(0, num_rollbacks, returned_to), config.rollback_lr_factor ** (num_rollbacks - before))
    # Last, and newest first: after a kill in between, the rollback is repeated from what is left, with the same result.
    forget_after(out, number)
    for folders in (best_folders(out), checkpoint_folders(out)):
        for later in [path for n, path in folders.items() if n > number][::-1]:
            shutil.rmtree(later)
    return number


def diagnosis(stepper: Stepper, batches: Sequence[Batch], num_steps: int) -> str:
    """Diagnosis of a failed step, on one screen: the step is repeated, without the update, with hooks on every module.

    The gradients of `stepper`, which took the step on these batches, are lost.
    """
    model, optimizer = stepper.state.model, stepper.state.optimizer
    bad_weights = [name for name, p in model.named_parameters() if not _is_finite(p)]
    bad_input = [batch.ids for batch in batches if not _is_finite(batch.features)]
    watch = _Watch(model)
    totals = []
    optimizer.zero_grad(set_to_none=True)
    set_random_state(stepper.random_before, stepper.device)
    try:
        for batch in batches:
            _, total = stepper.losses(batch, num_steps)
            totals.append(total.item())
            total.backward()
        norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    except RuntimeError as error:
        norms = {}
        watch.note = f" (taking the step again failed: {str(error).splitlines()[0][:100]})"
    finally:
        watch.remove()
        optimizer.zero_grad(set_to_none=True)
    is_loss_finite = all(map(math.isfinite, totals))
    alone = _bad_alone(stepper, batches, num_steps) if not is_loss_finite else []
    lines = [
        f"diagnosis of step {num_steps}: learning rate {optimizer.param_groups[0]['lr']:.4g}, loss "
        f"{', '.join(f'{total:.4g}' for total in totals) or 'unknown'}{watch.note}",
        f"  utterances: {_few([name for batch in batches for name in batch.ids])}",
        f"  first module whose output is not finite: {watch.first or 'none'}",
        f"  largest outputs: {_few([f'{name} {value:.3g}' for name, value in _largest(watch.peaks)])}",
        f"  largest gradients: {_few([f'{name} {value:.3g}' for name, value in _largest(norms)])}",
        f"  parameters that are not finite: {_few(bad_weights)}",
        f"  utterances whose loss is not finite alone: {_few(alone)}",
        "likely causes: " + "\n  or ".join(_causes(stepper.config, bad_weights, bad_input, alone, watch.first)),
    ]
    return "\n".join(lines)


def _causes(
    config: TrainConfig, bad_weights: Sequence[str], bad_input: Sequence[Any], alone: Sequence[str], first: str
) -> list[str]:
    causes = []
    if bad_input:
        causes.append("features that are not finite: look at the recordings named above")
    elif alone and len(alone) <= 2:
        causes.append(f"the data: {_few(alone)} alone gives no finite loss; look at its recording and text, or leave it out")
    if bad_weights:
        causes.append("an earlier step that damaged the weights: go back further, to an older checkpoint")
    if config.precision == "float16" and first:
        causes.append("activations beyond the range of float16: set precision=bfloat16")
    if config.adam is None:
        batch_s = config.batch.max_duration_s
        causes.append(
            f"a learning rate too high for batches of {batch_s:g} s: lower lr (now {config.lr}), or larger batches"
        )
    else:
        causes.append(f"a learning rate too high: lower adam.factor (now {config.adam.factor})")
    causes.append("a warm-up too short for the model: raise lr_warmup_batches, or lower lr_warmup_start")
    return causes[:4]


class _Watch:
    """Hooks on every module that record the first non-finite output and the largest outputs."""

    def __init__(self, model: nn.Module) -> None:
        self.first, self.note = "", ""
        self.peaks: dict[str, float] = {}
        self._hooks = [
            module.register_forward_hook(self._hook(f"{name} ({type(module).__name__})"))
            for name, module in model.named_modules()
            if name
        ]

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, given: Any, out: Any) -> None:
            for tensor in _tensors(out):
                if tensor.is_floating_point() and tensor.numel():
                    peak = tensor.detach().abs().max().item()
                    if math.isfinite(peak):
                        self.peaks[name] = max(peak, self.peaks.get(name, 0.0))
                    else:
                        self.first = self.first or name

        return look

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _bad_alone(stepper: Stepper, batches: Sequence[Batch], num_steps: int) -> list[str]:
    """Utterances whose loss is not finite when computed alone, in eval mode."""
    bad, queue = list[str](), list(batches)
    was_training = stepper.state.model.training
    stepper.state.model.eval()
    with torch.no_grad():
        while queue:
            batch = queue.pop(0)
            if _is_finite(stepper.losses(batch, num_steps)[1]):
                continue
            if len(batch.ids) > 1:
                queue += halves(batch)
            else:
                bad += batch.ids
    stepper.state.model.train(was_training)
    return bad


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in _tensors(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    return []


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _largest(values: dict[str, float]) -> list[tuple[str, float]]:
    """The largest values, with non-finite ones first."""
    ordered = sorted(values.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1], reverse=True)
    return ordered[:_NUM_LISTED]


def _few(names: Sequence[str]) -> str:
    return first_few(names, _NUM_LISTED, separator=", ") or "none"
