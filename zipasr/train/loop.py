"""The training loop: read batches, take a step, average, log, validate, save; stop, resume and roll back.

A run lives in a folder: `config.json`, `checkpoints/batch-N/` (to resume from), `model/` (the averaged model of the
last validation, to evaluate and use), `best/`, `metrics.jsonl`, `tensorboard/`. The same command on the same folder goes on
where the run stopped. Under torchrun several processes run this loop in step; see `distributed`. Those that a run on a CPU
starts itself do too; see `rounds`.
"""

import logging
import math
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from zipasr.checkpoint import locked
from zipasr.data.batching import Batch
from zipasr.data.reading import read_batches
from zipasr.device import check_precision, fast_matmul
from zipasr.errors import ZipasrError
from zipasr.nn.schedule import set_step
from zipasr.optim import clipping
from zipasr.randomness import stable_seed
from zipasr.train.acceleration import compile_blocks, recompute_activations
from zipasr.train.config import TrainConfig
from zipasr.train.data import read_split
from zipasr.train.distributed import Ranks, joined
from zipasr.train.local_ranks import LocalRanks
from zipasr.train.metrics import RunLog, SilentLog, peak_memory_gib, read_metrics, sparing_warnings
from zipasr.train.outlook import describe_data, describe_length
from zipasr.train.rescue import diagnosis, good_checkpoints, roll_back
from zipasr.train.rounds import Round, RoundStepper, new_stepper, read_rounds
from zipasr.train.setup import RunSetup, expected_length, new_state, set_up
from zipasr.train.signals import StopRequest, stop_request
from zipasr.train.state import TrainState, checkpoint_path, load_newest, remove_old
from zipasr.train.step import StepResult
from zipasr.train.validation import Validation
from zipasr.train.validator import Validator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainReport:
    """Outcome of a training run."""

    folder: Path
    num_steps: int
    wer: float
    """Word error rate of the averaged model on dev in percent, by its best search; NaN if the run is not finished."""
    hours_per_hour: float
    """Training speed in hours of audio per hour."""
    is_finished: bool = True
    """Whether the run is finished; otherwise SIGTERM stopped it, and it can be resumed."""
    is_main: bool = True
    """Whether this is the main process (rank 0) of a distributed run."""
    validation: Validation | None = None
    """The last validation; None if the run is not finished, and on other processes than the first."""
    findings: tuple[str, ...] = ()
    """Findings from the differences between the searches, each with its cure."""


def train(
    config: TrainConfig,
    out: Path,
    *,
    is_quiet: bool = False,
    is_save_interval_given: bool = True,
    ranks: Ranks | None = None,
) -> TrainReport:
    """Train a model in the folder `out`, or resume the run that is there.

    Args:
        config: configuration of the run; if `out` already holds a run, it must be the same except for a few fields.
        out: the run folder.
        is_quiet: whether to hide the progress bar.
        is_save_interval_given: whether `config.save_interval` is what the user wants. Otherwise a new run chooses another if
            its length needs one, and a resumed run keeps its own, unless its length has changed.
        ranks: the processes that train together; None: those of torchrun's environment, or this one alone.
    Raises:
        ConfigError: the configuration is inconsistent, or conflicts with the device or the run in `out`.
        DataError: the data cannot be used.
        CheckpointError: a checkpoint cannot be written or read.
        ZipasrError: training diverged repeatedly, or another process of the run has died.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
    """
    config.check_complete()
    with joined(config.device, config.rank_timeout_s, ranks) as (ranks, device):
        check_precision(config.precision, device, is_training=True)
        cuts, dev_cuts = ranks.main_first(lambda: [read_split(config.data, name) for name in ("train", "dev")])
        with locked(out) if ranks.is_main else nullcontext():
            setup = set_up(config, out, ranks, device, cuts, dev_cuts, is_save_interval_given=is_save_interval_given)
            matmul = fast_matmul(device) if config.use_onednn_matmul else nullcontext()
            is_helper = isinstance(ranks, LocalRanks) and not ranks.is_main
            with stop_request(is_helper=is_helper) as request, matmul, sparing_warnings(clipping.__name__):
                while True:  # once, and again after each rollback to an earlier checkpoint
                    log, state = _begin(setup, is_quiet=is_quiet)
                    try:
                        report = _Run(setup, state, log).go(request)
                    finally:
                        log.close()
                    if report is not None:
                        return report


def _begin(setup: RunSetup, *, is_quiet: bool) -> tuple[RunLog, TrainState]:
    """The state to continue from, and the log opened at its position."""
    config, out, ranks, plan = setup.config, setup.out, setup.ranks, setup.plan
    state, notes = new_state(config, setup.device, setup.tokenizer, out)
    if not ranks.is_main:
        torch.manual_seed(stable_seed(config.seed, ranks.rank))  # masks differ between the ranks, weights do not
        state.average.tensors.clear()
    is_resumed = load_newest(state, out, ranks)
    ranks.copy_from_main(state.model.state_dict().values())
    if not ranks.is_main:
        return SilentLog(), state
    position = state.position
    if is_resumed:  # a kill between writing a checkpoint and deleting the oldest must not change later averages
        remove_old(out, config.keep_checkpoints, position.num_steps, config.save_interval)
    length = expected_length(config, plan, ranks, position)
    log = RunLog(out, total_steps=length.num_steps, done_steps=position.num_steps, is_quiet=is_quiet)
    num_parameters = sum(p.numel() for p in state.model.parameters())
    verb = "continuing with" if is_resumed else "training"
    where = f"{setup.device} x {ranks.size}" if ranks.size > 1 else str(setup.device)
    where = f"{setup.device} in {ranks.size} processes" if ranks.steps_at_once > 1 else where
    log.message(
        f"{verb} {num_parameters / 1e6:.2f} M parameters on {where} in {out}: "
        f"{describe_data(setup.data, setup.tokenizer.vocab_size)}"
    )
    log.message(describe_length(config, length, position))
    for note in notes if not is_resumed else ():
        log.message(note)
    setup.span.foresee(length.num_steps)
    setup.time_left.start(position, length.num_steps)
    return log, state


class _Run:
    """One run in progress, on one rank."""

    def __init__(self, setup: RunSetup, state: TrainState, log: RunLog) -> None:
        self.setup, self.state, self.log = setup, state, log
        self.config, self.out, self.ranks = setup.config, setup.out, setup.ranks
        self.stepper = new_stepper(setup.config, state, setup.ranks, setup.device)
        self.validator = Validator(setup, state, log) if self.ranks.is_main else None
        if self.config.use_activation_checkpointing:
            recompute_activations(state.model.encoder)
        if self.config.use_compile:
            compile_blocks(state.model.encoder)
        self.last_validated = -1
        self.last_saved = state.position.num_steps
        self.clock = time.monotonic()

    def go(self, request: StopRequest) -> TrainReport | None:
        """Train to the end or until a stop is requested; None after a rollback, when the run must be restarted."""
        if self._owes_validation():
            self.validate()
        for result in self._results(request):
            if self.state.divergence.num_skipped >= self.config.max_skipped_batches:
                self._go_back()
                return None
            # All ranks must stop after the same step, so a request that arrives too late for this step waits for the next.
            stop_signal = result.stop_signal if self.ranks.size > 1 else request.signal
            if stop_signal:
                self.save()
                b = self.state.position.num_steps
                self.log.message(
                    f"stopped after batch {b}; run the same command to resume. To try what it has learned so far: "
                    f"zipasr transcribe {shlex.quote(str(self.out))} RECORDING"
                )
                if stop_signal == signal.SIGINT:
                    raise KeyboardInterrupt
                return TrainReport(self.out, b, math.nan, self._speed(), is_finished=False, is_main=self.ranks.is_main)
        return self.finish()

    def _owes_validation(self) -> bool:
        """Whether the run was killed between the checkpoint it resumed from and the validation after it."""
        b = self.state.position.num_steps
        if b == 0 or b % self.config.valid_interval:
            return False
        return self.ranks.from_main(
            lambda: not any(line["kind"] == "dev" and line["step"] == b for line in read_metrics(self.out))
        )

    def _results(self, request: StopRequest) -> Iterator[StepResult]:
        """Take all steps; yield the result of each before the next is taken."""
        if isinstance(self.stepper, RoundStepper):
            plan, reader = self.setup.plan, self.setup.reader
            for turn, batches in read_rounds(plan, reader, self.config, self.state.position, self.ranks):
                yield from self._round(self.stepper, turn, batches, request)
            return
        for batches, is_last_of_epoch in self._steps():
            yield self.step(batches, is_last_of_epoch=is_last_of_epoch, stop_signal=request.signal)

    def _round(
        self, stepper: RoundStepper, turn: Round, batches: Sequence[Batch | None], request: StopRequest
    ) -> Iterator[StepResult]:
        """Take the steps of a round; average, log, validate and save if due after each."""
        first, position = self.state.position.num_steps + 1, self.state.position
        numbers = range(first, first + len(turn.steps))
        self.state.model.train()
        set_step(self.state.model, self.config.schedule_progress(min(first + self.ranks.rank, numbers[-1])))
        results = stepper.round(batches, numbers, request=request)
        for number, indices in zip(numbers, turn.steps, strict=True):
            position.num_steps = number
            result = next(results)
            is_last = turn.is_last and number == numbers[-1]
            self._account(result, num_batches=len(indices), is_last_of_epoch=is_last)
            yield result

    def _steps(self) -> Iterator[tuple[list[Batch | None], bool]]:
        """Yield the batches of each step of this rank, and whether the step is the last of its epoch."""
        position, group, limit = self.state.position, list[Batch | None](), self.config.max_batches or math.inf
        if position.num_steps >= limit:
            return
        for placed in read_batches(
            self.setup.plan,
            self.setup.reader,
            start=(position.epoch, position.index),
            num_epochs=self.config.num_epochs,
            num_workers=self.config.num_workers,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            pin_memory=self.setup.device.type == "cuda",
        ):
            group.append(placed.batch)
            if len(group) == self.config.accumulate_batches or placed.is_last:
                yield group, placed.is_last
                group = []
                if position.num_steps >= limit:
                    return

    def step(self, batches: Sequence[Batch | None], *, is_last_of_epoch: bool, stop_signal: int = 0) -> StepResult:
        """Take one training step, then average, log, validate and save if due."""
        state, position = self.state, self.state.position
        position.num_steps += 1
        b = position.num_steps
        state.model.train()
        # Differs: the published trainer does this every 10 batches, which for schedules over thousands makes no difference.
        set_step(state.model, self.config.schedule_progress(b, batches_per_step=self.ranks.batches_per_step))
        result = self.stepper.step(batches, b, stop_signal=stop_signal)
        self._account(result, num_batches=len(batches), is_last_of_epoch=is_last_of_epoch)
        return result

    def _account(self, result: StepResult, *, num_batches: int, is_last_of_epoch: bool) -> None:
        """Average, log, validate and save if due after a step."""
        config, state, position = self.config, self.state, self.state.position
        b = position.num_steps
        if result.is_learned or result.is_diverging:
            state.divergence.num_skipped = state.divergence.num_skipped + 1 if result.is_diverging else 0
        for problem in result.problems:
            self.log.message(problem)
        if self.ranks.is_main:
            state.average.update(state.model, b)

        position.audio_s = position.audio_after(result.audio_s)
        position.train_s += time.monotonic() - self.clock  # includes reading the batch
        self.clock = time.monotonic()
        position.index += num_batches
        if is_last_of_epoch:
            position.epoch, position.index = position.epoch + 1, 0
            if not state.scheduler.is_by_hours:
                state.scheduler.step_epoch(position.epoch)
        time_left = self.setup.time_left.estimate(position)
        if time_left is not None:
            self.log.message(time_left)
        self.log.step(result.losses, audio_s=result.audio_s if result.is_learned else 0.0)
        if b % config.log_interval == 0:
            rate, hours = state.optimizer.param_groups[0]["lr"], position.audio_s / 3600
            memory = {"memory_gib": peak_memory_gib(self.setup.device)}
            self.log.train_line(b, lr=rate, epoch=position.epoch, audio_h=hours, **self.stepper.figures(), **memory)
        if b % config.save_interval == 0:
            self.save()
        if b % config.valid_interval == 0:
            self.validate()
        self.log.pause(time.monotonic() - self.clock)
        self.clock = time.monotonic()

    def save(self) -> None:
        """Write a checkpoint to resume from, and delete the oldest beyond those to keep."""
        b = self.state.position.num_steps
        self.state.save(checkpoint_path(self.out, b), self.setup.tokenizer, self.ranks)
        self.last_saved = b
        if self.ranks.is_main:
            remove_old(self.out, self.config.keep_checkpoints, b, self.config.save_interval)

    def validate(self, *, is_last: bool = False) -> None:
        """Average the model, evaluate it on dev and write it to the `model` folder on rank 0; the other ranks wait."""
        self.ranks.from_main(lambda: self._validator.validate(is_last=is_last))
        self.last_validated = self.state.position.num_steps

    @property
    def _validator(self) -> Validator:
        """The validator; only rank 0 has one."""
        assert self.validator is not None
        return self.validator

    def _go_back(self) -> None:
        """Roll the run back to a good checkpoint, or give up after too many rollbacks.

        Raises:
            ZipasrError: there were too many rollbacks.
        """
        config, divergence, b = self.config, self.state.divergence, self.state.position.num_steps
        if divergence.num_rollbacks >= config.max_rollbacks:
            self._give_up()

        def initial_state() -> TrainState:
            return new_state(config, torch.device("cpu"), self.setup.tokenizer)[0]

        number = self.ranks.from_main(lambda: roll_back(self.out, divergence, config, self.setup.tokenizer, initial_state))
        times, factor = divergence.num_rollbacks + 1, config.rollback_lr_factor ** (divergence.num_rollbacks + 1)
        self.log.message(
            f"the last {divergence.num_skipped} steps up to {b} were not finite: going back to step {number} with the "
            f"learning rate times {factor:g} (time {times} of at most {config.max_rollbacks})"
        )

    def _give_up(self) -> NoReturn:
        config, stepper = self.config, self.stepper
        suspects = stepper.suspects
        said = self.ranks.exchange(diagnosis(stepper, suspects, self.state.position.num_steps) if suspects else "")
        if not self.ranks.is_main:
            raise SystemExit(1)
        self.log.error(next((text for text in said if text), ""))
        good = max(good_checkpoints(self.out), default=None)
        where = (
            f"The last good checkpoint is {checkpoint_path(self.out, good)}" if good is not None else "No checkpoint is good"
        )
        again = f", and going back {config.max_rollbacks} times did not help" if config.max_rollbacks else ""
        raise ZipasrError(
            f"the loss and its gradients must be finite numbers, but were not in {config.max_skipped_batches} steps in a "
            f"row{again}; lower lr (now {config.lr}) or see the diagnosis above. {where}"
        )

    def finish(self) -> TrainReport:
        """Save and validate for the last time."""
        position = self.state.position
        if position.num_steps != self.last_saved:
            self.save()
        if self.last_validated != position.num_steps:
            self.validate(is_last=True)
        metrics = self.ranks.from_main(lambda: self._validator.choose())
        validator = self.validator
        return TrainReport(
            self.out,
            position.num_steps,
            metrics["wer"],
            self._speed(),
            is_main=self.ranks.is_main,
            validation=validator.last if validator is not None else None,
            findings=validator.findings() if validator is not None else (),
        )

    def _speed(self) -> float:
        return self.state.position.audio_s / max(self.state.position.train_s, 1e-9)
