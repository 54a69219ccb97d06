"""The training loop: read a batch, sum the losses, step the optimizer under its schedule, average, validate, save.

A run lives in a folder: `config.json`, `checkpoints/batch-N/` (to resume from), `model/` (the averaged model of the
last validation, to evaluate and use), `metrics.jsonl`, `tensorboard/`. The same command on the same folder goes on where the
run stopped.
"""

import copy
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from zipasr import checkpoint
from zipasr.data.batching import Batch, BatchPlan, BatchReader, read_batches
from zipasr.device import fast_matmul, select_device
from zipasr.errors import CheckpointError, ZipasrError
from zipasr.model import AsrModel
from zipasr.nn.schedule import set_step
from zipasr.optim import Eden, Noam, ScaledAdam
from zipasr.optim.eden import BatchEpochSchedule
from zipasr.tokenizer import Tokenizer
from zipasr.train.averaging import RunningAverage, interval_average
from zipasr.train.config import TrainConfig
from zipasr.train.data import TrainData, read_cuts, select
from zipasr.train.folder import check_same_data, locked, open_run
from zipasr.train.metrics import RunLog
from zipasr.train.state import (
    AVERAGE_FILE,
    Position,
    TrainState,
    checkpoint_folders,
    checkpoint_path,
    load_newest,
    remove_old,
)
from zipasr.train.validation import validate, validation_batches

MODEL_FOLDER = "model"
_MAX_SKIPPED = 10
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainReport:
    """How a run ended."""

    folder: Path
    num_batches: int
    wer: float
    """Word error rate on the dev set in percent, of the averaged model, by greedy search."""
    hours_per_hour: float
    """Hours of sound trained on per hour."""


def train(config: TrainConfig, out: Path, *, is_quiet: bool = False) -> TrainReport:
    """Train a model, or go on training it, in the folder `out`.

    Args:
        config: the run; where `out` holds a run already, it must be the same up to a few fields.
        out: the run folder.
        is_quiet: whether to leave out the progress bar.
    Raises:
        ConfigError: the configuration contradicts itself or the run in `out`.
        DataError: the data cannot be used.
        CheckpointError: nothing can be written or read.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
    """
    config.check_loss_scales()
    device = select_device(config.device)
    cuts = read_cuts(Path(config.data) / "train_cuts.jsonl.gz")
    dev_cuts = read_cuts(Path(config.data) / "dev_cuts.jsonl.gz")
    with locked(out):
        return _train(config, out, device, cuts, dev_cuts, is_quiet=is_quiet)


def _train(
    config: TrainConfig, out: Path, device: torch.device, cuts: list[Any], dev_cuts: list[Any], *, is_quiet: bool
) -> TrainReport:
    config, tokenizer = open_run(config, out, cuts)
    data = select(cuts, dev_cuts, tokenizer, config)
    check_same_data(data, out, config)
    plan = BatchPlan([cut.duration for cut in data.train], config.batch, seed=config.seed)
    ratio = config.consistency.time_mask_ratio if config.consistency is not None else None
    features = config.model.features
    reader = BatchReader(data.train, tokenizer, features, config.batch, seed=config.seed, time_mask_ratio=ratio)

    torch.manual_seed(config.seed)
    state = _new_state(config, device)
    is_resumed = load_newest(state, out)
    position = state.position
    # The epochs differ by a few batches; planning all of them would take minutes for a thousand hours of sound.
    epochs_left = max(config.num_epochs - position.epoch, 0)
    total = position.num_batches - position.index + (epochs_left and epochs_left * len(plan.epoch(position.epoch)))
    log = RunLog(out, total_batches=total, done_batches=position.num_batches, is_quiet=is_quiet)
    num_parameters = sum(p.numel() for p in state.model.parameters())
    verb = "going on with" if is_resumed else "training"
    log.message(
        f"{verb} {num_parameters / 1e6:.2f} M parameters on {device} in {out}: "
        f"{len(data.train)} utterances, {plan.durations_s.sum() / 3600:.2f} h, batch {position.num_batches} of about {total}"
    )
    try:
        run = _Run(config, out, state, tokenizer, data, log, device)
        matmul = fast_matmul(device) if config.use_onednn_matmul else nullcontext()
        with _catch_interrupt() as interrupted, matmul:
            batches = read_batches(
                plan,
                reader,
                epoch=position.epoch,
                index=position.index,
                num_epochs=config.num_epochs,
                num_workers=config.num_workers,
            )
            for placed in batches:
                run.step(placed.batch, is_last_of_epoch=placed.is_last)
                if interrupted.is_set():
                    run.save()
                    log.message(f"stopped after batch {position.num_batches}; run the same command to go on")
                    raise KeyboardInterrupt
            return run.finish()
    finally:
        log.close()


class _Run:
    """One run in progress."""

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        state: TrainState,
        tokenizer: Tokenizer,
        data: TrainData,
        log: RunLog,
        device: torch.device,
    ) -> None:
        self.config, self.out, self.state, self.tokenizer = config, out, state, tokenizer
        self.log, self.device = log, device
        self.num_skipped = 0
        self.dev_batches = validation_batches(data.dev, tokenizer, config)
        self.dev_texts = {cut.id: cut.supervisions[0].text for cut in data.dev}
        self.dev_model = copy.deepcopy(state.model).eval()  # a new model would draw from the random state just restored
        self.last_validation: tuple[int, dict[str, float]] = (-1, {})
        self.last_saved = state.position.num_batches
        self.clock = time.monotonic()

    def step(self, batch: Batch, *, is_last_of_epoch: bool) -> None:
        """Learn from one batch, then average, log, validate and save as far as it is time to."""
        config, state, position = self.config, self.state, self.state.position
        position.num_batches += 1
        b = position.num_batches
        state.model.train()
        set_step(state.model, b * config.batch.max_duration_s / config.ref_duration_s)
        losses, total = self._losses(batch, b)
        is_finite = self._is_finite(total, batch)
        if is_finite:
            total.backward()
            if config.adam is not None and config.adam.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.adam.max_grad_norm)
            state.scheduler.step_batch(b)
            state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.average.update(state.model, b)

        position.audio_s += batch.audio_s
        position.train_s += time.monotonic() - self.clock  # reading the batch included
        self.clock = time.monotonic()
        position.index += 1
        if is_last_of_epoch:
            position.epoch, position.index = position.epoch + 1, 0
            state.scheduler.step_epoch(position.epoch)
        if is_finite:
            self.log.batch({**losses, "loss": total.item()}, audio_s=batch.audio_s)
        else:
            self.log.batch({}, audio_s=0.0)
        if b % config.log_interval == 0:
            optimizer = state.optimizer
            clip = {"clip_factor": optimizer.last_clip_factor} if isinstance(optimizer, ScaledAdam) else {}
            rate = optimizer.param_groups[0]["lr"]
            self.log.train_line(b, lr=rate, epoch=position.epoch, audio_h=position.audio_s / 3600, **clip)
        if b % config.save_interval == 0:
            self.save()
        if b % config.valid_interval == 0:
            self.validate()
        self.log.pause(time.monotonic() - self.clock)
        self.clock = time.monotonic()

    def _losses(self, batch: Batch, b: int) -> tuple[dict[str, float], Tensor]:
        """Each loss as a number, and their weighted sum; all summed over the batch, in nats."""
        dtype = torch.bfloat16 if self.config.precision == "bfloat16" else torch.float32
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            losses = self.state.model(
                batch.features.to(self.device),
                batch.feature_lens.to(self.device),
                batch.labels.to(self.device),
                batch.label_lens.to(self.device),
            )
        weights = loss_weights(self.config, b)
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return {name: loss.item() for name, loss in losses.items()}, total

    def _is_finite(self, total: Tensor, batch: Batch) -> bool:
        if torch.isfinite(total):
            self.num_skipped = 0
            return True
        self.num_skipped += 1
        self.log.message(f"skipped a batch whose loss is {total.item()}: {', '.join(batch.ids[:8])}")
        if self.num_skipped >= _MAX_SKIPPED:
            raise ZipasrError(
                f"the loss must be a finite number, but was not in {_MAX_SKIPPED} batches in a row; lower lr "
                f"(now {self.config.lr}) or look at the utterances named above. The last checkpoint is in "
                f"{self.out / 'checkpoints'}"
            )
        return False

    def save(self) -> None:
        """Write a checkpoint to resume from and drop the oldest beyond those to keep."""
        b = self.state.position.num_batches
        self.state.save(checkpoint_path(self.out, b), self.tokenizer)
        self.last_saved = b
        remove_old(self.out, self.config.keep_checkpoints, b)

    def validate(self) -> dict[str, float]:
        """Average the model, measure it on the dev set and write it to the `model` folder."""
        b = self.state.position.num_batches
        self.dev_model.load_state_dict(self.state.model.state_dict() | self._average(b))
        metrics = validate(self.dev_model, self.dev_batches, self.dev_texts, self.tokenizer, self.device)
        self.dev_model.save(self.out / MODEL_FOLDER, self.tokenizer)
        self.log.line("dev", b, metrics)
        self.log.message(
            f"batch {b}, epoch {self.state.position.epoch}: dev "
            + ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
        )
        self.last_validation = (b, metrics)
        return metrics

    def _average(self, b: int) -> dict[str, Tensor]:
        """The mean of the models over about the last `average_share` of the run: from a checkpoint on, or from its start.

        Checkpoints that an interruption left do not count, so that it changes nothing.
        """
        now, period = self.state.average.tensors, self.config.average_period
        if b < period:  # no model has entered yet
            return {name: tensor for name, tensor in self.state.model.state_dict().items() if name in now}
        target = b * (1.0 - self.config.average_share)
        folders = {n: path for n, path in checkpoint_folders(self.out).items() if n % self.config.save_interval == 0}
        starts = [0, *(n for n in folders if period <= n < b // period * period)]
        for start in sorted(starts, key=lambda n: abs(n - target)):
            if start == 0:
                break
            try:
                before = checkpoint.CheckpointFolder(folders[start]).tensors(AVERAGE_FILE)
            except CheckpointError as error:
                logger.warning("averaging over another part of the run: %s", error)
            else:
                return interval_average(before, start, now, b, period)
        return interval_average(now, 0, now, b, period)

    def finish(self) -> TrainReport:
        """Save and validate a last time."""
        position = self.state.position
        if position.num_batches != self.last_saved:
            self.save()
        b, metrics = self.last_validation
        if b != position.num_batches:
            metrics = self.validate()
        speed = position.audio_s / max(position.train_s, 1e-9)
        return TrainReport(self.out, position.num_batches, metrics["wer"], speed)


def loss_weights(config: TrainConfig, num_batches: int) -> dict[str, float]:
    """Weight of each loss after `num_batches` batches (from 1), for the losses that the configuration asks for.

    Over the warm-up, the simple loss falls from 1 to its scale while the pruned one rises from 0.1 to 1 and that of
    consistency from 0 to its scale; CTC and the attention decoder are constant.
    """
    done = min(num_batches / config.loss_warmup_batches, 1.0) if config.loss_warmup_batches > 0 else 1.0
    model, weights = config.model, {}
    if model.transducer is not None:
        weights["simple"] = 1.0 - done * (1.0 - config.simple_loss_scale)
        weights["pruned"] = 0.1 + 0.9 * done
    is_ctc_alone = model.transducer is None and model.attention is None
    if model.ctc is not None:
        weights["ctc"] = 1.0 if is_ctc_alone else config.ctc_loss_scale
    if model.attention is not None:
        weights["attention"] = config.attention_loss_scale
    if config.consistency is not None:
        scale = config.consistency.scale
        weights["consistency"] = done * (scale if scale is not None else 0.2 if is_ctc_alone else 0.02)
    return weights


def _new_state(config: TrainConfig, device: torch.device) -> TrainState:
    model = AsrModel(config.model).to(device)
    optimizer, scheduler = _new_optimizer(config, model)
    return TrainState(model, optimizer, scheduler, RunningAverage(model, config.average_period), Position())


def _new_optimizer(config: TrainConfig, model: AsrModel) -> tuple[torch.optim.Optimizer, BatchEpochSchedule]:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if config.adam is not None:
        adam = torch.optim.Adam([p for _, p in named], lr=config.adam.factor, betas=config.adam.betas, eps=1e-9)
        return adam, Noam(adam, config.adam.warmup_batches)
    optimizer = ScaledAdam(named, lr=config.lr, clipping_scale=config.clipping_scale)
    eden = Eden(
        optimizer,
        lr_batches=config.lr_batches,
        lr_epochs=config.lr_epochs,
        warmup_batches=config.lr_warmup_batches,
        warmup_start=config.lr_warmup_start,
    )
    return optimizer, eden


@contextmanager
def _catch_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event; a second one interrupts at once. Does nothing outside the main thread."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGINT, previous)
        os.write(2, b"\nstopping: a checkpoint is saved after this batch; Ctrl-C again stops at once, without it\n")

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
