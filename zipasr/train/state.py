"""Training state, saved to and restored from a checkpoint folder so that a run resumes exactly where it stopped.

A training checkpoint is a model folder (it can be evaluated) that also contains `training.json`, `training.safetensors`
(optimizer, random states) and `average.safetensors` (the running average, float64). A model with adapters is stored
merged, along with `lora.safetensors` (weight, A and B of each adapted layer). In a distributed run rank 0 writes for all
ranks, which differ only in their random states and those of Whiten.
"""

import dataclasses
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zipasr import checkpoint
from zipasr.checkpoint import checkpoint_folders
from zipasr.encoder.rates import FEATURE_RATE_HZ
from zipasr.errors import CheckpointError
from zipasr.model import WEIGHTS_FILE, AsrModel
from zipasr.nn.constraint import Whiten
from zipasr.nn.lora import lora_state_dict, merged_state_dict, unmerged_state_dict
from zipasr.optim.eden import BatchEpochSchedule
from zipasr.randomness import random_state, set_random_state
from zipasr.tokenizer import Tokenizer
from zipasr.train.averaging import RunningAverage
from zipasr.train.distributed import Ranks
from zipasr.train.precision import LossScale

TRAINING_FILE = "training.json"
TENSORS_FILE = "training.safetensors"
AVERAGE_FILE = "average.safetensors"
VALIDATION_FILE = "validation.json"
LORA_FILE = "lora.safetensors"

logger = logging.getLogger(__name__)


@dataclass
class Position:
    """Progress of a run in epochs, batches, steps and seconds."""

    epoch: int = 0
    """Number of finished epochs."""
    index: int = 0
    """Finished batches of the current epoch, divided by `Ranks.batches_per_step`."""
    num_steps: int = 0
    """Optimizer steps since the start; each is of `accumulate_batches` times `Ranks.batches_per_step` batches."""
    audio_s: float = 0.0
    """Seconds of audio processed since the start, by all ranks, whether the model learned from it or not."""
    train_s: float = 0.0
    """Seconds spent training."""

    def audio_after(self, audio_s: float) -> float:
        """`audio_s` of the run after that many more seconds, in whole frames, so that the sizes of batches do not matter."""
        return round((self.audio_s + audio_s) * FEATURE_RATE_HZ) / FEATURE_RATE_HZ


@dataclass
class DivergenceState:
    """History of divergence in a run: skipped steps and rollbacks."""

    num_skipped: int = 0
    """Number of consecutive steps, up to now, that were skipped because a value was not finite."""
    num_rollbacks: int = 0
    """Number of rollbacks to an earlier checkpoint."""
    returned_to: list[int] = field(default_factory=list)
    """Checkpoints that the run was rolled back to, by their number of steps."""


@dataclass
class TrainState:
    """The mutable state of a run: model, optimizer, schedules, averages and position."""

    model: AsrModel
    optimizer: torch.optim.Optimizer
    scheduler: BatchEpochSchedule
    average: RunningAverage
    position: Position
    divergence: DivergenceState = field(default_factory=DivergenceState)
    loss_scale: LossScale = field(default_factory=LossScale)

    def save(self, folder: Path, tokenizer: Tokenizer, ranks: Ranks | None = None) -> None:
        """Write a training checkpoint, atomically; with several ranks, all must call this."""
        ranks = ranks or Ranks()
        told = ranks.exchange(None if ranks.is_main else self._of_rank())
        ranks.from_main(lambda: self._write(folder, tokenizer, told, ranks.batches_per_step))

    def _write(self, folder: Path, tokenizer: Tokenizer, told: list[Any], batches_per_step: int) -> None:
        documents, tensors, blobs = self.model.to_files(tokenizer)
        adapters = lora_state_dict(self.model)
        if adapters:
            tensors = {WEIGHTS_FILE: merged_state_dict(self.model), LORA_FILE: adapters}
        named: dict[str, Tensor] = {}
        documents[TRAINING_FILE] = {
            "position": dataclasses.asdict(self.position),
            "scheduler": self.scheduler.state_dict(),
            "optimizer": _flatten(self.optimizer.state_dict(), "optimizer", named),
            "whiten_prob": self._whiten_prob(),
            "divergence": dataclasses.asdict(self.divergence),
            "loss_scale": dataclasses.asdict(self.loss_scale),
            "ranks": told,
            "batches_per_step": batches_per_step,
        }
        named |= {f"random.{name}": tensor for name, tensor in random_state(self._device).items()}
        tensors |= {TENSORS_FILE: named, AVERAGE_FILE: self.average.tensors}
        checkpoint.write_folder(folder, documents=documents, tensors=tensors, blobs=blobs)

    def load(self, folder: Path, ranks: Ranks | None = None) -> None:
        """Restore everything from a training checkpoint.

        If its steps were of a different number of batches, the position is converted to about the same number of batches.
        Ranks that did not exist keep their current random state.

        Raises:
            CheckpointError: the checkpoint is damaged or belongs to another model or version.
        """
        files = checkpoint.CheckpointFolder(folder)
        document, named = files.document(TRAINING_FILE), files.tensors(TENSORS_FILE)
        average = files.tensors(AVERAGE_FILE)
        adapters = files.tensors(LORA_FILE) if LORA_FILE in files.names() else {}
        weights = unmerged_state_dict(self.model, files.tensors(WEIGHTS_FILE), adapters)
        checkpoint.load_weights(self.model, weights, source=str(folder / WEIGHTS_FILE))
        with _of_this_version(folder):
            self.optimizer.load_state_dict(_unflatten(document["optimizer"], named))
            self.scheduler.load_state_dict(document["scheduler"])
            self.average.load(average)
            told, rank = document["ranks"], ranks.rank if ranks is not None else 0
            own = told[rank] if 0 < rank < len(told) else None
            self._set_whiten_prob(own["whiten_prob"] if own else document["whiten_prob"])
            self.position = Position(**document["position"])
            self.divergence = DivergenceState(**document["divergence"])
            self.loss_scale = LossScale(**document["loss_scale"])
        if ranks is not None and (before := _batches_per_step(document)) != ranks.batches_per_step:
            self._change_ranks(before, ranks.batches_per_step)
        if own is not None:
            set_random_state(_from_hex(own["random"]), self._device)
        elif rank == 0:
            saved = {name.removeprefix("random."): t for name, t in named.items() if name.startswith("random.")}
            set_random_state(saved, self._device)

    def _change_ranks(self, before: int, now: int) -> None:
        logger.warning(
            "the run continues in steps of %d batches instead of %d, one for each process of torchrun: schedules "
            "count steps, and some batches of this epoch may be read twice",
            now,
            before,
        )
        self.position.index = self.position.index * before // now

    def _of_rank(self) -> dict[str, Any]:
        """The state specific to one rank, as JSON."""
        random = {name: bytes(state.tolist()).hex() for name, state in random_state(self._device).items()}
        return {"random": random, "whiten_prob": self._whiten_prob()}

    def _whiten_prob(self) -> dict[str, float]:
        return {name: m.prob for name, m in self.model.named_modules() if isinstance(m, Whiten)}

    def _set_whiten_prob(self, probs: Mapping[str, float]) -> None:
        for name, module in self.model.named_modules():
            if isinstance(module, Whiten):
                module.prob = probs[name]

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


class CheckpointNote(NamedTuple):
    """What `training.json` of a checkpoint says about the run, without its tensors."""

    position: Position
    divergence: DivergenceState
    batches_per_step: int
    """See `Ranks`."""


def read_note(folder: Path) -> CheckpointNote:
    """Position and history of a run when it wrote a training checkpoint.

    Raises:
        CheckpointError: it is damaged, or of another version.
    """
    document = checkpoint.CheckpointFolder(folder).document(TRAINING_FILE)
    with _of_this_version(folder):
        return CheckpointNote(
            Position(**document["position"]), DivergenceState(**document["divergence"]), _batches_per_step(document)
        )


def _batches_per_step(document: Mapping[str, Any]) -> int:
    """`Ranks.batches_per_step` of those that wrote a checkpoint; up to version 0.2.0 it was their number."""
    return int(document.get("batches_per_step", len(document["ranks"])))


@contextmanager
def _of_this_version(folder: Path) -> Iterator[None]:
    """Context manager: refuse a checkpoint with missing or unknown entries."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder} must be a training checkpoint of this model and version, but is of another: {error!r}; start anew "
            "in another --out, with --from to keep the weights"
        ) from error


def rewrite(folder: Path, divergence: DivergenceState, lr_factor: float) -> None:
    """Replace the divergence state of a training checkpoint and multiply its learning rates, atomically.

    Raises:
        CheckpointError: it is damaged, or cannot be written.
    """
    files = checkpoint.CheckpointFolder(folder)
    document = files.document(TRAINING_FILE)
    optimizer = _unflatten(document["optimizer"], files.tensors(TENSORS_FILE))
    for group in optimizer["param_groups"]:
        group["initial_lr"] *= lr_factor
        group["lr"] *= lr_factor
    document["optimizer"] = _flatten(optimizer, "optimizer", {})
    document["divergence"] = dataclasses.asdict(divergence)
    blobs = {name: files.blob(name) for name in files.names() if name != TRAINING_FILE}
    checkpoint.write_folder(folder, documents={TRAINING_FILE: document}, tensors={}, blobs=blobs)


def _from_hex(states: Mapping[str, str]) -> dict[str, Tensor]:
    return {name: torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8) for name, text in states.items()}


def best_folders(run_folder: Path) -> dict[int, Path]:
    """Models of the best validations of a run by number of steps, oldest first."""
    return checkpoint.numbered_folders(run_folder / "best")


def checkpoint_path(run_folder: Path, num_steps: int) -> Path:
    """Path of the checkpoint after `num_steps` steps."""
    return run_folder / checkpoint.CHECKPOINTS_SUBFOLDER / f"batch-{num_steps:08d}"


def load_newest(state: TrainState, run_folder: Path, ranks: Ranks | None = None) -> bool:
    """Resume from the newest intact checkpoint, with a warning if newer ones are damaged; False if there is none.

    Raises:
        CheckpointError: there are checkpoints, but none of them can be read.
    """
    ranks = ranks or Ranks()
    name = ranks.from_main(lambda: _load_newest(state, run_folder, ranks))
    if name and not ranks.is_main:
        state.load(run_folder / "checkpoints" / name, ranks)
    return name != ""


def _load_newest(state: TrainState, run_folder: Path, ranks: Ranks) -> str:
    """Load it and return its name; empty if there is none."""
    folders = list(checkpoint_folders(run_folder).values())
    problems = []
    for folder in reversed(folders):
        try:
            state.load(folder, ranks)
            return folder.name
        except CheckpointError as error:
            problems.append(str(error))
            logger.warning("skipping a checkpoint: %s", error)
    if folders:
        raise CheckpointError(
            f"none of the {len(folders)} checkpoints in {run_folder / 'checkpoints'} can be read: {problems[0]}. "
            "Remove the folder to start over, or choose another --out"
        )
    return ""


def remove_old(run_folder: Path, keep: int, newest: int, save_interval: int = 1) -> None:
    """Delete all but the `keep` newest checkpoints up to `newest` steps, and incomplete files of killed runs.

    Checkpoints of an interruption (not at a multiple of `save_interval`) are not counted, and are deleted once there is a
    newer one. The regular checkpoints that averages and rollbacks need thus remain, however often a run is stopped. Later
    checkpoints than `newest` are damaged ones that the run skipped on resuming; they do not count and are overwritten.
    """
    folders = {n: folder for n, folder in checkpoint_folders(run_folder).items() if n <= newest}
    regular = [n for n in folders if n % save_interval == 0]
    kept = {*regular[-keep:], *list(folders)[-1:]}
    left_over = (run_folder / "checkpoints").glob(".batch-*.partial-*")
    for folder in [*(path for n, path in folders.items() if n not in kept), *left_over]:
        shutil.rmtree(folder, ignore_errors=True)


def keep_best(
    run_folder: Path,
    model: AsrModel,
    tokenizer: Tokenizer,
    metrics: Mapping[str, float],
    num_steps: int,
    keep: int,
    *,
    beside: Mapping[str, bytes],
) -> None:
    """Write the model of a validation to `best/` if it is among the `keep` with the lowest error rates; delete the others.

    `metrics` are those of the validation, with `wer`; `beside` is name -> content of the files of its default search.
    """
    found = {path: validation_wer(path) for path in best_folders(run_folder).values()}
    own = run_folder / "best" / f"batch-{num_steps:08d}"
    found[own] = metrics["wer"]
    best = sorted(found, key=lambda path: (found[path], path.name))[:keep]
    if own in best:
        documents, tensors, blobs = model.to_files(tokenizer)
        documents[VALIDATION_FILE] = dict(metrics)
        checkpoint.write_folder(own, documents=documents, tensors=tensors, blobs=blobs, replaceable=beside)
    for path in found.keys() - set(best):
        shutil.rmtree(path, ignore_errors=True)


def validation_wer(folder: Path) -> float:
    """Error rate on dev of a model in `best/`, in percent; infinite if the folder is damaged."""
    try:
        return float(checkpoint.CheckpointFolder(folder).document(VALIDATION_FILE)["wer"])
    except CheckpointError:
        return math.inf  # damaged: deleted first


def _flatten(value: Any, prefix: str, named: dict[str, Tensor]) -> Any:
    """Replace tensors in nested dicts and lists by their names in `named`; keys that are not strings are preserved."""
    if isinstance(value, Tensor):
        named[prefix] = value
        return {"tensor": prefix}
    if isinstance(value, Mapping):
        return {"items": [[key, _flatten(item, f"{prefix}.{key}", named)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flatten(item, f"{prefix}.{i}", named) for i, item in enumerate(value)]}
    return {"value": value}


def _unflatten(value: Any, named: Mapping[str, Tensor]) -> Any:
    ((kind, content),) = value.items()
    if kind == "tensor":
        return named[content]
    if kind == "items":
        return {key: _unflatten(item, named) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_unflatten(item, named) for item in content]
        return items if kind == "list" else tuple(items)
    return content
