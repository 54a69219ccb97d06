"""What a configuration becomes when its run starts: data, vocabulary, batches, model, optimizer and schedule."""

from pathlib import Path
from typing import NamedTuple

import torch

from zipasr.data.batching import Batch, BatchReader
from zipasr.data.manifest_index import IndexedCuts
from zipasr.data.plan import BatchPlan
from zipasr.model import AsrModel
from zipasr.optim import Eden, Noam, ScaledAdam
from zipasr.optim.eden import BatchEpochSchedule
from zipasr.tokenizer import Tokenizer
from zipasr.train.average_span import AverageSpan
from zipasr.train.averaging import RunningAverage
from zipasr.train.config import TrainConfig
from zipasr.train.data import TrainData, read_split, select
from zipasr.train.distributed import Ranks
from zipasr.train.finetune import begin, trained_groups
from zipasr.train.folder import check_same_data, open_run
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


def set_up(
    config: TrainConfig, out: Path, ranks: Ranks, device: torch.device, cuts: IndexedCuts, dev_cuts: IndexedCuts
) -> RunSetup:
    """Open or create the run in a locked folder, and check its data.

    Args:
        config: configuration of the run, without the size of its vocabulary.
        out: folder of the run.
        ranks: all ranks must call this.
        device: device of this rank.
        cuts: training cuts.
        dev_cuts: cuts to validate on.
    Raises:
        ConfigError: `out` holds a run with other settings or data.
        DataError: the data cannot be used.
        CheckpointError: the folder cannot be read or written.
    """

    def opened() -> tuple[TrainConfig, Tokenizer]:
        resolved, tokenizer = open_run(config, out, cuts)
        if ranks.is_main:
            check_new_run(resolved, tokenizer, out)
        return resolved, tokenizer

    config, tokenizer = ranks.main_first(opened)
    data = select(cuts, dev_cuts, tokenizer, config)
    plan, reader = data.plan(config), data.reader(config, tokenizer)
    ranks.from_main(lambda: check_same_data(data, out, config))
    dev_batches = validation_batches(data.dev, tokenizer, config) if ranks.is_main else []
    return RunSetup(config, out, ranks, device, tokenizer, data, plan, reader, dev_batches, AverageSpan(config, out))


class RunData(NamedTuple):
    """Configuration with the size of the vocabulary, vocabulary and data of a run."""

    config: TrainConfig
    tokenizer: Tokenizer
    data: TrainData


def open_data(config: TrainConfig, tokenizer_folder: Path | None = None) -> RunData:
    """The data of a run, without writing anything.

    Args:
        config: configuration of the run.
        tokenizer_folder: see `with_vocabulary`.
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
    """The state of a run at its start, and log lines about finetuning.

    With the folder of a run that has checkpoints and loads one next, the checkpoint to finetune may be missing.
    """
    model = AsrModel(config.model)
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
        warmup_batches=config.lr_warmup_batches,
        warmup_start=config.lr_warmup_start,
    )
    return optimizer, eden
