"""Checkpoint averaging: the mean of chosen checkpoints, or of all models of a part of a run, as a model folder.

A run writes its averaged model automatically (`model/`); this file is for other choices afterwards. Tensors are read,
averaged in float64 and put into the model one by one: memory holds one model and one tensor per checkpoint.
"""

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zipasr.checkpoint import CHECKSUMS, CheckpointFolder, build, checkpoint_folders, first_few, write_text
from zipasr.config import differences
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub import local_model
from zipasr.model import CONFIG_FILE, MODEL_SUBFOLDER, WEIGHTS_FILE, AsrConfig, AsrModel, resolve_model_folder
from zipasr.search.default_search import SEARCH_FILES
from zipasr.tokenizer import MODEL_FILE, Tokenizer
from zipasr.train.average_span import checkpoints_needed, is_far
from zipasr.train.averaging import interval_average
from zipasr.train.config import TrainConfig
from zipasr.train.folder import CONFIG_FILE as RUN_CONFIG_FILE
from zipasr.train.folder import stored_config
from zipasr.train.state import AVERAGE_FILE, TRAINING_FILE, read_note

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Averaged:
    """A written model folder, and the checkpoints that were averaged."""

    folder: Path
    sources: tuple[Path, ...]
    """The averaged checkpoints; for an interval, its two ends (only the later one if it starts with the run)."""
    description: str
    """Description of what was averaged."""


def average_checkpoints(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Averaged:
    """Write the plain mean of the weights of some checkpoints or models as a model folder.

    Args:
        folders: checkpoints, models or runs (whose model is used), of one configuration and vocabulary; any number.
        out: folder to write; an existing model is replaced.
    Raises:
        CheckpointError: a folder is missing or damaged, or belongs to another configuration or vocabulary.
        ConfigError: there are no folders, one is repeated, or `out` is one of them or holds something other than a model.
    """
    paths = [resolve_model_folder(local_model(folder)) for folder in folders]
    if not paths:
        raise ConfigError("there must be checkpoints to average, but none is named")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(f"every checkpoint must be named once, but they are {', '.join(map(str, paths))}")
    _check_place(Path(out), paths)
    files = [CheckpointFolder(path) for path in paths]
    _check_alike(files)
    weights = [file.open_tensors(WEIGHTS_FILE) for file in files]

    def mean(name: str) -> Tensor:
        last: Tensor = weights[-1].get_tensor(name)
        if not last.is_floating_point():
            return last  # a counter: that of the last checkpoint named
        total = last.double()
        for source in weights[:-1]:
            total += source.get_tensor(name).double()
        return total / len(weights)

    _write(files[-1], weights[-1].keys(), mean, Path(out))
    what = "the weights of one checkpoint" if len(paths) == 1 else f"the mean of {len(paths)} checkpoints"
    return Averaged(Path(out), tuple(paths), what)


def average_interval(
    run_folder: str | os.PathLike[str], out: str | os.PathLike[str], *, start: int, end: int | None = None
) -> Averaged:
    """Write the mean of all models between two checkpoints of a run, computed from their running averages.

    Args:
        run_folder: the run.
        out: folder to write; an existing model is replaced.
        start: batches of the first checkpoint, whose own model is excluded; 0: the start of the run.
        end: batches of the second checkpoint, which is included; None: the newest.
    Raises:
        CheckpointError: there is no such run or checkpoint, or it is damaged.
        ConfigError: no model entered the running average in between, or `out` cannot be used.
    """
    folders = run_checkpoints(run_folder)
    end = max(folders) if end is None else end
    for batches in (start, end):
        if batches not in folders and not (batches == 0 and batches == start):
            raise CheckpointError(
                f"{run_folder} must hold the checkpoint of batch {batches}, but holds those of "
                f"{', '.join(map(str, folders))}; choose among them"
            )
    period = _run_config(Path(run_folder)).average_period
    if not start // period < end // period:
        raise ConfigError(
            f"models must have entered the running average after batch {start} and up to batch {end}, but one enters "
            f"every {period} batches only; choose checkpoints that are further apart"
        )
    files = [CheckpointFolder(folders[n]) for n in (start, end) if n >= period]  # before, no model has entered
    sources = tuple(file.path for file in files)
    _check_place(Path(out), sources)
    _check_alike(files)
    averages = [file.open_tensors(AVERAGE_FILE) for file in files]
    weights = files[-1].open_tensors(WEIGHTS_FILE)
    averaged = set(averages[-1].keys())

    def mean(name: str) -> Tensor:
        if name not in averaged:
            tensor: Tensor = weights.get_tensor(name)
            return tensor
        before, now = ({name: average.get_tensor(name)} for average in (averages[0], averages[-1]))
        return interval_average(before, start, now, end, period)[name]

    _write(files[-1], weights.keys(), mean, Path(out))
    num_models = end // period - start // period
    what = f"the mean of {num_models} models, one every {period} batches, after batch {start} and up to batch {end}"
    return Averaged(Path(out), sources, what)


def newest_checkpoints(run_folder: str | os.PathLike[str], number: int) -> list[Path]:
    """The last `number` checkpoints of a run, oldest first.

    Checkpoints of an interruption, not at a multiple of `save_interval`, are skipped with a warning: they are closer to
    their neighbors than others, so the mean would depend on the time of the interruption. The end of a finished run counts.

    Raises:
        CheckpointError: there are fewer, or the newest is damaged.
        ConfigError: `number` is below 1.
    """
    if number < 1:
        raise ConfigError(f"there must be 1 checkpoint or more to average, but {number} are asked for")
    folders, config = run_checkpoints(run_folder), _run_config(Path(run_folder))
    newest = max(folders)
    position = read_note(folders[newest]).position
    is_finished = position.epoch >= config.num_epochs or position.num_steps >= (config.max_batches or math.inf)
    counted = [n for n in folders if (n > 0 and n % config.save_interval == 0) or (n == newest and is_finished)]
    left_out = [folders[n].name for n in folders if n not in counted and n >= ([0, *counted][-number:][0])]
    if len(counted) < number:
        beside = f" beside {', '.join(left_out)}, where it was interrupted or begins" if left_out else ""
        raise CheckpointError(
            f"{run_folder} must hold {number} checkpoints at multiples of save_interval ({config.save_interval}), but holds "
            f"{len(counted)}{beside}; ask for fewer, name them with --checkpoints, or train with a larger keep_checkpoints"
        )
    if left_out:
        logger.warning(
            "left out %s: an interruption wrote it, and not after %d batches more; name it with --checkpoints to have it in",
            ", ".join(left_out),
            config.save_interval,
        )
    return [folders[n] for n in counted[-number:]]


def start_of_epochs(run_folder: str | os.PathLike[str], num_epochs: int) -> int:
    """Batches of the checkpoint nearest to the point `num_epochs` epochs before the newest one, or 0, the run's start.

    All epochs have nearly the same number of batches, so their mean is used. A warning is logged if the nearest is far.

    Raises:
        CheckpointError: the run has trained for fewer epochs, or its checkpoints are damaged.
        ConfigError: `num_epochs` is below 1.
    """
    if num_epochs < 1:
        raise ConfigError(f"there must be 1 epoch or more to average over, but {num_epochs} are asked for")
    folders, config = run_checkpoints(run_folder), _run_config(Path(run_folder))
    newest = max(folders)
    position = read_note(folders[newest]).position
    num_done = position.epoch
    if num_done < num_epochs:
        raise CheckpointError(
            f"{run_folder} must have trained for {num_epochs} epochs, but has finished {num_done}; ask for fewer epochs, "
            "or for checkpoints by their batches"
        )
    epoch_batches = (newest - position.index / config.accumulate_batches) / num_done
    target = newest - num_epochs * epoch_batches
    start = min([0, *(n for n in folders if n < newest)], key=lambda batches: abs(batches - target))
    if is_far(start, target, newest, config.save_interval):
        needed = checkpoints_needed(newest - target, config.save_interval)
        is_coarse = needed <= config.keep_checkpoints
        logger.warning(
            "the last %d epochs of %s begin at about batch %.0f, but the nearest place that is kept is %s, %.1f epochs "
            "before the end: the mean begins there. Choose another --epochs, and let a run that needs more %s",
            num_epochs,
            run_folder,
            target,
            f"the checkpoint of batch {start}" if start else "the start of the run",
            (newest - start) / epoch_batches,
            "have a smaller save_interval" if is_coarse else f"have keep_checkpoints={needed} or more",
        )
    return start


def run_checkpoints(run_folder: str | os.PathLike[str]) -> dict[int, Path]:
    """Checkpoints of a run by their batches, oldest first.

    Raises:
        CheckpointError: there is no such run, or it has no checkpoint.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} must be the folder of a run, but there is no such folder; give train's --out")
    folders = checkpoint_folders(folder)
    if not folders:
        raise CheckpointError(
            f"{folder} must be the folder of a run with checkpoints/batch-N in it, but holds no checkpoint; give train's "
            "--out, or train until the first one"
        )
    return folders


def _run_config(run_folder: Path) -> TrainConfig:
    config = stored_config(run_folder)
    if config is None:
        raise CheckpointError(
            f"{run_folder} must hold the configuration of the run, but has no {RUN_CONFIG_FILE}; restore it, or average "
            "checkpoints by name"
        )
    return config


def _check_place(out: Path, sources: Sequence[Path]) -> None:
    """Raise unless writing `out` replaces nothing but an older model."""
    if out.resolve() in {path.resolve() for path in sources}:
        raise ConfigError(f"the mean must be written to another folder than the checkpoints', but --out is {out}")
    is_taken = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    is_model = (out / CHECKSUMS).is_file() and (out / WEIGHTS_FILE).is_file() and not (out / TRAINING_FILE).exists()
    if is_taken and not is_model:
        raise ConfigError(f"{out} must be a new folder or one of a model, which is replaced, but holds something else")


def _check_alike(files: Sequence[CheckpointFolder]) -> None:
    """Raise unless all checkpoints have the configuration and the vocabulary of the last one."""
    last = files[-1]
    for other in files[:-1]:
        changed = differences(last.document(CONFIG_FILE), other.document(CONFIG_FILE))
        if changed:
            different = [f"{name} ({found}, there {there})" for name, (there, found) in changed.items()]
            raise CheckpointError(
                f"{other.path} must have the configuration of {last.path}, but differs in {first_few(different, 4)}; "
                "average checkpoints of one run"
            )
        if other.blob(MODEL_FILE) != last.blob(MODEL_FILE):
            raise CheckpointError(
                f"{other.path} must have the vocabulary of {last.path}, but has another one: the same row of the output "
                "stands for another piece there; average checkpoints of one run"
            )


def _write(like: CheckpointFolder, names: Sequence[str], mean: Callable[[str], Tensor], out: Path) -> None:
    """Save a model with the configuration and tokenizer of `like` and the tensors `mean(name)`."""
    model = build(AsrModel, like.config(AsrConfig, CONFIG_FILE), source=str(like.path / CONFIG_FILE))
    own = model.state_dict()
    if set(own) != set(names):
        wrong = sorted(set(own) ^ set(names))
        raise CheckpointError(f"{like.path / WEIGHTS_FILE} does not match its configuration: {', '.join(wrong[:5])}")
    with torch.no_grad():
        for name, tensor in own.items():
            value = mean(name)
            if value.shape != tensor.shape:
                raise CheckpointError(
                    f"{name} in {like.path / WEIGHTS_FILE} must be {tuple(tensor.shape)}, but is {tuple(value.shape)}"
                )
            tensor.copy_(value)
    model.save(out, Tokenizer.from_bytes(like.blob(MODEL_FILE)))
    for folder in (like.path, like.path.parent.parent / MODEL_SUBFOLDER):  # a model with a default search, or its run's
        found = [name for name in SEARCH_FILES if (folder / name).is_file()]
        for name in found:
            write_text(out / name, (folder / name).read_bytes())
        if found:
            break
