"""What a run must remember to go on exactly where it stopped, as files of a checkpoint folder and back.

A training checkpoint is a model folder (it can be evaluated) with `training.json`, `training.safetensors` (optimizer,
random states) and `average.safetensors` (the running average, float64) beside the model.
"""

import dataclasses
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zipasr import checkpoint
from zipasr.errors import CheckpointError
from zipasr.model import WEIGHTS_FILE, AsrModel, load_weights
from zipasr.nn.constraint import Whiten
from zipasr.optim.eden import BatchEpochSchedule
from zipasr.tokenizer import Tokenizer
from zipasr.train.averaging import RunningAverage

TRAINING_FILE = "training.json"
TENSORS_FILE = "training.safetensors"
AVERAGE_FILE = "average.safetensors"

logger = logging.getLogger(__name__)


@dataclass
class Position:
    """How far a run has come."""

    epoch: int = 0
    """Epochs finished."""
    index: int = 0
    """Batches of the present epoch that are done."""
    num_batches: int = 0
    """Batches done since the start."""
    audio_s: float = 0.0
    """Seconds of sound seen since the start."""
    train_s: float = 0.0
    """Seconds spent training."""


@dataclass
class TrainState:
    """The moving parts of a run."""

    model: AsrModel
    optimizer: torch.optim.Optimizer
    scheduler: BatchEpochSchedule
    average: RunningAverage
    position: Position

    def save(self, folder: Path, tokenizer: Tokenizer) -> None:
        """Write a training checkpoint, atomically."""
        documents, tensors, blobs = self.model.to_files(tokenizer)
        named: dict[str, Tensor] = {}
        documents[TRAINING_FILE] = {
            "position": dataclasses.asdict(self.position),
            "scheduler": self.scheduler.state_dict(),
            "optimizer": _flatten(self.optimizer.state_dict(), "optimizer", named),
            "whiten_prob": {name: m.prob for name, m in self.model.named_modules() if isinstance(m, Whiten)},
        }
        named["random.cpu"] = torch.get_rng_state()
        if self._device.type == "cuda":
            named["random.cuda"] = torch.cuda.get_rng_state(self._device)
        elif self._device.type == "mps":
            named["random.mps"] = torch.mps.get_rng_state()
        tensors |= {TENSORS_FILE: named, AVERAGE_FILE: self.average.tensors}
        checkpoint.write_folder(folder, documents=documents, tensors=tensors, blobs=blobs)

    def load(self, folder: Path) -> None:
        """Take over everything from a training checkpoint.

        Raises:
            CheckpointError: it is damaged or belongs to another model or version.
        """
        files = checkpoint.CheckpointFolder(folder)
        document, named = files.document(TRAINING_FILE), files.tensors(TENSORS_FILE)
        average = files.tensors(AVERAGE_FILE)
        load_weights(self.model, files.tensors(WEIGHTS_FILE), source=str(folder / WEIGHTS_FILE))
        try:
            self.optimizer.load_state_dict(_unflatten(document["optimizer"], named))
            self.scheduler.load_state_dict(document["scheduler"])
            self.average.load(average)
            for name, module in self.model.named_modules():
                if isinstance(module, Whiten):
                    module.prob = document["whiten_prob"][name]
            self.position = Position(**document["position"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder} must be a training checkpoint of this model and version, but is of another: {error!r}"
            ) from error
        torch.set_rng_state(named["random.cpu"])
        if self._device.type == "cuda" and "random.cuda" in named:
            torch.cuda.set_rng_state(named["random.cuda"], self._device)
        elif self._device.type == "mps" and "random.mps" in named:
            torch.mps.set_rng_state(named["random.mps"])

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def checkpoint_folders(run_folder: Path) -> dict[int, Path]:
    """Training checkpoints of a run by the number of batches, oldest first."""
    found = {}
    for path in (run_folder / "checkpoints").glob("batch-*"):
        match = re.fullmatch(r"batch-(\d+)", path.name)
        if match and path.is_dir():
            found[int(match.group(1))] = path
    return dict(sorted(found.items()))


def checkpoint_path(run_folder: Path, num_batches: int) -> Path:
    """Where the checkpoint after `num_batches` batches goes."""
    return run_folder / "checkpoints" / f"batch-{num_batches:08d}"


def load_newest(state: TrainState, run_folder: Path) -> bool:
    """Continue from the newest checkpoint that is whole, saying so if a newer one is not; False if there is none.

    Raises:
        CheckpointError: there are checkpoints, but none of them can be read.
    """
    folders = list(checkpoint_folders(run_folder).values())
    problems = []
    for folder in reversed(folders):
        try:
            state.load(folder)
            return True
        except CheckpointError as error:
            problems.append(str(error))
            logger.warning("skipping a checkpoint: %s", error)
    if folders:
        raise CheckpointError(
            f"none of the {len(folders)} checkpoints in {run_folder / 'checkpoints'} can be read: {problems[0]}. "
            "Remove the folder to start anew, or choose another --out"
        )
    return False


def remove_old(run_folder: Path, keep: int, newest: int) -> None:
    """Remove all but the `keep` newest checkpoints of those up to `newest` batches, and what a killed run left half done.

    Later ones are damaged ones that the run was resumed in front of; they do not count, and are overwritten in time.
    """
    folders = [folder for n, folder in checkpoint_folders(run_folder).items() if n <= newest]
    for folder in [*folders[:-keep], *(run_folder / "checkpoints").glob(".batch-*.partial-*")]:
        shutil.rmtree(folder, ignore_errors=True)


def _flatten(value: Any, prefix: str, named: dict[str, Tensor]) -> Any:
    """Replace tensors inside nested dicts and lists by their names in `named`; keys that are not text survive."""
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
