"""The largest `batch.max_duration_s` that fits into memory, found before a run by trying worst-case batches.

The memory of a batch grows with its frames (the encoder), with frames times tokens (the lattice of the transducer) and
with frames times the vocabulary. For each utterance length the batch with the most tokens is tried: forward, backward
and an optimizer step. No audio is read: features are noise of the right shape.
"""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from zipasr.data.batching import Batch
from zipasr.data.manifest_index import IndexedCuts
from zipasr.device import check_precision, fast_matmul, select_device
from zipasr.encoder.rates import FEATURE_RATE_HZ, MIN_FEATURES
from zipasr.errors import ZipasrError
from zipasr.nn.schedule import set_step
from zipasr.profile import peak_bytes, process_status, start_of_peak
from zipasr.tokenizer import Tokenizer
from zipasr.train.acceleration import recompute_activations
from zipasr.train.config import TrainConfig
from zipasr.train.distributed import Ranks
from zipasr.train.folder import tokenizer_folder
from zipasr.train.setup import new_state, open_data
from zipasr.train.step import Stepper, is_out_of_memory

_SAFE_SHARE = 0.9  # of the memory: batches of other shapes fragment it
_PRECISION = 1.05  # maximum ratio of the limit to the result
_MOST_TIMES = {True: 32.0, False: 4.0}  # maximum factor on the setting, on a GPU and elsewhere
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
_NUM_SPREAD, _NUM_GROUPS, _NUM_TALKATIVE = 1000, 50, 20  # sampled utterances: evenly spread, and by length of text


class Shape(NamedTuple):
    """Shape of a batch of equal utterances."""

    num_utterances: int
    num_frames: int
    """Frames per utterance at 100 Hz."""
    num_tokens: int


@dataclass(frozen=True)
class Trial:
    """Result of trying batches up to a duration."""

    max_duration_s: float
    shape: Shape
    """The batch that needed the most memory, or that did not fit."""
    peak_bytes: int | None
    """Peak memory; None if the batch did not fit or was predicted not to fit."""


@dataclass(frozen=True)
class ProbeReport:
    """Trials, and the largest safe duration."""

    device: str
    budget_bytes: int
    configured_s: float
    safe_s: float
    trials: tuple[Trial, ...]

    def format(self) -> str:
        """A table of the trials, and one line with the recommendation."""
        lines = [f"memory of {self.device} for training: {self.budget_bytes / 2**30:.2f} GiB"]
        for trial in self.trials:
            found = f"{trial.peak_bytes / 2**30:6.2f} GiB" if trial.peak_bytes is not None else "does not fit"
            n, frames, tokens = trial.shape
            lines.append(
                f"  max_duration_s {trial.max_duration_s:8.1f}: {found}  (worst: {n} x {frames / FEATURE_RATE_HZ:.1f} s, "
                f"{tokens} tokens)"
            )
        verdict = "fits" if self.configured_s <= self.safe_s else "is too much"
        lines.append(
            f"batch.max_duration_s={math.floor(self.safe_s)} is the largest that is safe of those tried; the setting, "
            f"{self.configured_s:g}, {verdict}"
        )
        return "\n".join(lines)


def probe(config: TrainConfig, out: Path, *, num_processes: int = 1) -> ProbeReport:
    """Find the largest safe `batch.max_duration_s` of a run; nothing is written.

    The vocabulary of the run in `out` is used if it has started. Each of `num_processes` of this machine that will train
    together has a batch and an equal part of the memory.

    Raises:
        ConfigError: the device or its precision is not available.
        DataError: the data cannot be used.
        ZipasrError: not even a single utterance fits.
    """
    config.check_loss_scales()
    device = select_device(config.device)
    check_precision(config.precision, device, is_training=True)
    config, tokenizer, data = open_data(config, tokenizer_folder(out))
    sizes = _sizes(data.train, tokenizer)
    budget = memory_budget(device) // num_processes
    name = f"{device} in each of {num_processes} processes" if num_processes > 1 else str(device)
    with fast_matmul(device) if config.use_onednn_matmul else nullcontext():
        trier = _Trier(config, tokenizer, device)
        return find_largest(config, sizes, trier.peak, budget, name, may_overshoot=device.type == "cuda")


def find_largest(
    config: TrainConfig,
    sizes: Sequence[tuple[float, int]],
    peak: Callable[[Shape], int | None],
    budget_bytes: int,
    device: str,
    *,
    may_overshoot: bool,
) -> ProbeReport:
    """Search for the largest duration whose worst batch stays within the budget.

    Args:
        config: the run.
        sizes: seconds and tokens of each utterance.
        peak: takes a training step on a batch of a shape; returns the peak memory, or None if the batch does not fit.
        budget_bytes: memory limit.
        device: name of the device.
        may_overshoot: whether a batch that does not fit may be tried; on a CPU the system would kill the process.
    Raises:
        ZipasrError: a single utterance does not fit.
    """
    trials: list[Trial] = []

    def fits(duration_s: float) -> bool:
        worst, most = None, 0
        for shape in worst_shapes(config, sizes, duration_s):
            known = [t for t in trials if t.peak_bytes is not None]
            guess = max((t.peak_bytes or 0) * duration_s / t.max_duration_s for t in known) if known else 0
            used = peak(shape) if may_overshoot or guess <= budget_bytes else None
            if used is None or used > budget_bytes:
                trials.append(Trial(duration_s, shape, None))
                return False
            worst, most = (shape, used) if used > most else (worst, most)
        assert worst is not None
        trials.append(Trial(duration_s, worst, most))
        return True

    longest_s = _slowest_copy_s(config, max(seconds for seconds, _ in sizes))
    total_s = sum(seconds for seconds, _ in sizes) / min(config.batch.speed_factors)
    configured_s = config.batch.max_duration_s
    low = min(longest_s, configured_s)  # a batch has one utterance at least
    if not fits(low):
        raise ZipasrError(
            f"not even one utterance fits into the memory of {device} ({budget_bytes / 2**30:.2f} GiB): {trials[-1].shape}; "
            "lower max_duration_s (of an utterance), or take a smaller model or use_activation_checkpointing=true"
        )
    high, most_s = low, max(min(_MOST_TIMES[may_overshoot] * configured_s, total_s), low)
    while high < most_s:
        high = min(2.0 * high, most_s)
        if not fits(high):
            break
        low = high
    while high > low * _PRECISION:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return ProbeReport(device, budget_bytes, configured_s, low, tuple(sorted(trials, key=lambda t: t.max_duration_s)))


def worst_shapes(config: TrainConfig, sizes: Sequence[tuple[float, int]], max_duration_s: float) -> list[Shape]:
    """Worst-case batches that fill the duration with the most tokens, for several utterance lengths from short to long.

    The slowest speed of the configuration is assumed, and concatenated utterances have their maximum length.
    """
    ordered = sorted(sizes)
    shapes = []
    for quantile in _QUANTILES:
        place = round(quantile * (len(ordered) - 1))
        seconds = ordered[place][0]
        rate = max((tokens / length for length, tokens in ordered), default=0.0)
        # The most tokens of any utterance up to this length; concatenated ones have the highest token rate.
        tokens = max(tokens for length, tokens in ordered if length <= seconds)
        if config.batch.concat_prob > 0.0 and seconds < config.batch.concat_max_s:
            seconds, tokens = config.batch.concat_max_s, math.ceil(rate * config.batch.concat_max_s)
        duration_s = _slowest_copy_s(config, seconds)
        num = max(int(max_duration_s / duration_s), 1)
        shape = Shape(num, max(math.ceil(duration_s * FEATURE_RATE_HZ), MIN_FEATURES), max(tokens, 1))
        if shape not in shapes:
            shapes.append(shape)
    return shapes


def _slowest_copy_s(config: TrainConfig, seconds: float) -> float:
    """Upper bound on the seconds of an utterance at its slowest speed."""
    copy_s = seconds / min(config.batch.speed_factors)
    return min(copy_s, max(seconds, config.max_duration_s)) if config.use_copy_limits else copy_s


def memory_budget(device: torch.device) -> int:
    """Bytes that training may use: a safe share of a GPU's free memory, or of the memory available to this process."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(_SAFE_SHARE * (free + torch.cuda.memory_reserved(device)))
    if sys.platform == "linux":
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        budget = int(lines["MemAvailable"].split()[0]) * 1024 + process_status("VmRSS")
        for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
            text = Path(path).read_text().strip() if Path(path).is_file() else ""
            budget = min(budget, int(text)) if text.isdigit() else budget
        return int(_SAFE_SHARE * budget)
    raise ZipasrError(f"the memory of {device} cannot be measured on {sys.platform}; probe on a GPU, or on Linux")


def _sizes(cuts: IndexedCuts, tokenizer: Tokenizer) -> list[tuple[float, int]]:
    """Seconds and tokens of sampled utterances of every length, including those with the longest texts."""
    order = np.argsort(cuts.durations_s, kind="stable")
    spread = np.unique(np.linspace(0, len(order) - 1, _NUM_SPREAD).round().astype(int))
    chosen = set(order[spread].tolist())
    for group in np.array_split(order, _NUM_GROUPS):
        talkative = np.argsort(cuts.num_characters[group], kind="stable")[-_NUM_TALKATIVE:]
        chosen.update(group[talkative].tolist())
    return [(float(cuts.durations_s[i]), len(tokenizer.encode(cuts[i].supervisions[0].text))) for i in sorted(chosen)]


class _Trier:
    """Takes training steps on random batches, with its own model."""

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, device: torch.device) -> None:
        self.config, self.device = config, device
        self.state, _ = new_state(config, device, tokenizer)
        if config.use_activation_checkpointing:
            recompute_activations(self.state.model.encoder)
        self.stepper = Stepper(config, self.state, Ranks(), device)
        self.num_labels = tokenizer.vocab_size

    def peak(self, shape: Shape) -> int | None:
        """Peak bytes during two steps on such a batch; in the second the optimizer's state already exists."""
        self.state.model.train()
        set_step(self.state.model, self.config.schedule_progress(1))
        start_of_peak(self.device)
        try:
            batch = self._batch(shape)
            for _ in range(2):
                self.stepper.state.optimizer.zero_grad(set_to_none=True)
                _, total = self.stepper.losses(batch, 1)
                total.backward()
                del total
                self.state.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        finally:
            self.state.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return peak_bytes(self.device)

    def _batch(self, shape: Shape) -> Batch:
        num, frames, tokens = shape
        num_views = 2 if self.config.consistency is not None else 1
        return Batch(
            features=torch.randn(num * num_views, frames, self.config.model.features.num_mel_bins),
            feature_lens=torch.full((num * num_views,), frames),
            labels=torch.randint(1, self.num_labels, (num, tokens)),
            label_lens=torch.full((num,), tokens),
            ids=tuple(f"made-up-{i}" for i in range(num)),
            audio_s=num * frames / FEATURE_RATE_HZ,
        )
