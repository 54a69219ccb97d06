"""What a configuration becomes when its run starts: data, vocabulary, batches, model, optimizer and schedule."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch

from zipasr.checkpoint import build
from zipasr.config import from_json, to_json
from zipasr.data.batching import Batch, BatchReader
from zipasr.data.manifest_index import IndexedCuts
from zipasr.data.plan import BatchPlan
from zipasr.model import AsrModel
from zipasr.optim import Eden, Noam, ScaledAdam
from zipasr.optim.eden import BatchEpochSchedule
from zipasr.tokenizer import Tokenizer
from zipasr.train.average_span import AverageSpan, with_fitting_save_interval
from zipasr.train.averaging import RunningAverage
from zipasr.train.config import TrainConfig
from zipasr.train.data import TrainData, read_split, select
from zipasr.train.distributed import Ranks
from zipasr.train.finetune import begin, trained_groups
from zipasr.train.folder import ResolvedRun, check_same_data, resolve_run, write_run
from zipasr.train.outlook import RunLength, TimeLeft
from zipasr.train.preflight import check_new_run
from zipasr.train.resolve import with_vocabulary
from zipasr.train.state import Position, TrainState
from zipasr.train.validation import validation_batches


class RunSetup(NamedTuple):
    """The fixed parts of a run: configuration, folder, device, data, plan and vocabulary; they never change during it."""

    config: TrainConfig
    out: Path
    ranks: Ranks
    device: torch.device
    tokenizer: Tokenizer
    data: TrainData
    plan: BatchPlan
    reader: BatchReader
    dev_batches: list[Batch]
    """Batches of the dev set; empty on all ranks but the first."""
    span: AverageSpan
    """Determines where averages start, and remembers its warnings."""
    time_left: TimeLeft
    """Estimates once how long the run still takes."""


def set_up(
    config: TrainConfig,
    out: Path,
    ranks: Ranks,
    device: torch.device,
    cuts: IndexedCuts,
    dev_cuts: IndexedCuts,
    *,
    is_save_interval_given: bool = True,
) -> RunSetup:
    """Open or create the run in a locked folder, and check its data; all ranks must call this.

    `config` lacks the size of the vocabulary; for `is_save_interval_given` see `loop.train`.

    Raises:
        ConfigError: `out` holds a run with other settings or data.
        DataError: the data cannot be used.
        CheckpointError: the folder cannot be read or written.
    """
    run = _resolved(config, out, ranks, cuts, is_save_interval_given=is_save_interval_given)
    config, tokenizer = run.config, run.tokenizer
    data = select(cuts, dev_cuts, tokenizer, config)
    plan, reader = data.plan(config), data.reader(config, tokenizer)
    if run.has_new_length and not is_save_interval_given:
        config = with_fitting_save_interval(config, expected_length(config, plan, ranks).num_steps)
        run = run._replace(config=config)

    def accept() -> None:
        check_same_data(data, out, config)
        write_run(run, out)

    ranks.from_main(accept)
    dev_batches = validation_batches(data.scored_dev, tokenizer, config) if ranks.is_main else []
    span, time_left = AverageSpan(config, out), TimeLeft(config.valid_interval)
    return RunSetup(config, out, ranks, device, tokenizer, data, plan, reader, dev_batches, span, time_left)


def _resolved(
    config: TrainConfig, out: Path, ranks: Ranks, cuts: IndexedCuts, *, is_save_interval_given: bool
) -> ResolvedRun:
    """Configuration and vocabulary of a run: rank 0 resolves them, and checks the data of a new run, for all ranks."""

    def resolved() -> dict[str, Any]:
        run = resolve_run(config, out, cuts, is_save_interval_given=is_save_interval_given)
        check_new_run(run.config, run.tokenizer, out)
        return run._asdict() | {"config": to_json(run.config), "tokenizer": run.tokenizer.to_bytes().hex()}

    found = ranks.from_main(resolved)
    made = from_json(TrainConfig, found.pop("config"), where=str(out))
    return ResolvedRun(made, Tokenizer.from_bytes(bytes.fromhex(found.pop("tokenizer"))), **found)


def expected_length(config: TrainConfig, plan: BatchPlan, ranks: Ranks, position: Position | None = None) -> RunLength:
    """About the length of the whole run, seen from a position in it.

    The epochs differ by a few batches; planning all of them would take minutes for a thousand hours of audio.
    """
    position = position or Position()
    epochs_left = max(config.num_epochs - position.epoch, 0)
    total = position.num_steps - position.index // config.accumulate_batches
    batches_a_step = config.accumulate_batches * ranks.batches_per_step
    total += epochs_left and epochs_left * math.ceil(plan.num_batches(position.epoch) / batches_a_step)
    num_steps = min(total, config.max_batches or total)
    return RunLength(num_steps, config.num_epochs * num_steps / max(total, 1))


class RunData(NamedTuple):
    """Configuration with the size of the vocabulary, vocabulary and data of a run."""

    config: TrainConfig
    tokenizer: Tokenizer
    data: TrainData


def open_data(config: TrainConfig, tokenizer_folder: Path | None = None) -> RunData:
    """The data of a run, without writing anything; see `with_vocabulary`.

    Raises:
        DataError: the data cannot be used.
        CheckpointError: the vocabulary cannot be read.
    """
    cuts = read_split(config.data, "train")
    config, tokenizer = with_vocabulary(config, cuts, tokenizer_folder)
    return RunData(config, tokenizer, select(cuts, read_split(config.data, "dev"), tokenizer, config))


def new_state(
    config: TrainConfig, device: torch.device, tokenizer: Tokenizer, run_folder: Path | None = None
) -> tuple[TrainState, list[str]]:
    """The state of a run at its start, and log lines about finetuning. Seeds torch's global generators.

    With the folder of a run that has checkpoints and loads one next, the checkpoint to finetune may be missing.
    """
    torch.manual_seed(config.seed)
    model = build(AsrModel, config.model, source="the configuration of the run")
    notes = begin(model, config, tokenizer, run_folder)
    model.to(device)
    optimizer, scheduler = new_optimizer(config, model)
    return TrainState(model, optimizer, scheduler, RunningAverage(model, config.average_period), Position()), notes


def new_optimizer(config: TrainConfig, model: AsrModel) -> tuple[torch.optim.Optimizer, BatchEpochSchedule]:
    """Optimizer of the parameters that are trained, and schedule of its rate."""
    if config.adam is not None:
        trained = [p for p in model.parameters() if p.requires_grad]
        adam = torch.optim.Adam(trained, lr=config.adam.factor, betas=config.adam.betas, eps=1e-9)
        return adam, Noam(adam, config.adam.warmup_batches)
    optimizer = ScaledAdam(trained_groups(model), lr=config.lr, clipping_scale=config.clipping_scale)
    eden = Eden(
        optimizer,
        lr_batches=config.lr_batches,
        lr_epochs=config.lr_epochs,
        lr_hours=config.lr_hours,
        warmup_batches=config.lr_warmup_batches,
        warmup_start=config.lr_warmup_start,
    )
    return optimizer, eden
