"""Activation diagnostics: the activations at every Balancer and Whiten, compared with their limits.

Both modules are the identity, so hooks on them observe the activations without changing anything. Moments of every channel
are summed over batches in float64; no activation is kept. Padding counts, as for Balancer and Whiten in training.
Source: Yao et al. 2024, arXiv:2310.11230, section 3.5 and appendix (the limits and their reasons).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zipasr.checkpoint import checkpoint_folders
from zipasr.data.batching import Batch
from zipasr.data.lengths import num_encoder_frames
from zipasr.errors import DataError
from zipasr.features import FbankConfig
from zipasr.model import MODEL_SUBFOLDER, AsrModel
from zipasr.nn.attention import AttentionWeights
from zipasr.nn.constraint import MEAN_ABS_TO_RMS, Balancer, Whiten, normalized_mean
from zipasr.nn.schedule import Schedule
from zipasr.tokenizer import Tokenizer
from zipasr.train.averaging import in_float64
from zipasr.train.data import plain_batches
from zipasr.train.folder import stored_config
from zipasr.train.state import TRAINING_FILE, read_note

_SAME_SIGN = 10.0
"""Ratio of mean to standard deviation above which a channel counts as never changing its sign; larger is not worse."""


@dataclass(frozen=True, kw_only=True)
class ModuleActivations:
    """Statistics of the activations at one module."""

    name: str
    """Path of the module in the model."""
    kind: str
    """balancer, whiten, attention, or output (of a module with weights)."""
    rms: float | None = None
    """Root mean square over all activations; NaN or infinite if an activation is."""
    channel_rms: tuple[float, float] | None = None
    """Smallest and largest root mean square of a channel."""
    rms_limits: tuple[float, float] | None = None
    """Balancer's limits on it."""
    positive: tuple[float, float] | None = None
    """Smallest and largest share of positive values of a channel."""
    positive_limits: tuple[float, float] | None = None
    """Balancer's limits on it."""
    outside: float | None = None
    """Share of the channels outside a limit of Balancer."""
    whiteness: float | None = None
    """Metric of Whiten: 1 if the channels are uncorrelated with equal variance, the number of channels if all are equal."""
    whiteness_limit: float | None = None
    """Limit of the metric above which Whiten is active."""
    entropy: tuple[float, float] | None = None
    """Attention: smallest and largest entropy of a head, in nats, mean over queries; 0 if it attends to one frame only."""
    entropy_limit: float | None = None
    """Attention: mean over queries of the maximum entropy, ln of the number of keys."""
    badness: float = 0.0
    """Distance from the limits in nats: mean over channels for Balancer, ln(metric / limit) for Whiten; 0 inside."""

    @property
    def is_exceeded(self) -> bool:
        """Whether a limit is exceeded or a value is not finite."""
        return self.badness > 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of this kind as JSON values; non-finite numbers as text."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: _jsonable(value) for name, value in fields.items()} | {"is_exceeded": self.is_exceeded}


def diagnose(
    model: AsrModel, batches: Sequence[Batch], *, progress: float = math.inf, has_outputs: bool | None = None
) -> list[ModuleActivations]:
    """Encode some batches and report on every Balancer, Whiten and attention, worst first.

    Encoder and heads run as in training, but in eval mode: nothing is dropped or masked at random.

    Args:
        model: any model, on any device; it is not modified.
        batches: speech with text.
        progress: progress of the model's schedules, which change the limits; see `TrainConfig.schedule_progress`. Infinity:
            the end of training.
        has_outputs: also report on the outputs of every module with weights, which have no limits. None: only if the
            encoder has neither Balancer nor Whiten.
    Raises:
        DataError: there are no batches.
    """
    if not batches:
        raise DataError("there must be at least one batch of speech, but there is none")
    if has_outputs is None:
        has_outputs = not any(isinstance(module, Balancer | Whiten) for module in model.encoder.modules())
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with _watching(model, progress, has_outputs=has_outputs) as watchers, torch.no_grad():
            for batch in batches:
                fields = (batch.features, batch.feature_lens, batch.labels, batch.label_lens)
                model(*(field.to(device) for field in fields))
    finally:
        model.train(was_training)
    reports = [watcher.report() for watcher in watchers if watcher.num_seen > 0]
    return sorted(reports, key=lambda report: -report.badness)


def schedule_progress_of(model_folder: Path) -> float:
    """Progress of the schedules of a model at its place in a run; infinity if unknown from its path.

    Args:
        model_folder: a checkpoint of a run, the model of a run (then its newest checkpoint counts), or any other model.
    Raises:
        CheckpointError: the run is damaged.
    """
    if (model_folder / TRAINING_FILE).is_file():
        run, folder = model_folder.resolve().parent.parent, model_folder
    else:
        run = model_folder.resolve().parent
        newest = list(checkpoint_folders(run).values())[-1:]
        if model_folder.name != MODEL_SUBFOLDER or not newest:
            return math.inf
        folder = newest[0]
    config = stored_config(run)
    if config is None:
        return math.inf
    note = read_note(folder)
    return config.schedule_progress(note.position.num_steps, batches_per_step=note.batches_per_step)


def read_speech(
    cuts: Sequence[Any], tokenizer: Tokenizer, features: FbankConfig, *, num_utterances: int, batch_duration_s: float = 60.0
) -> list[Batch]:
    """`plain_batches`, of up to `batch_duration_s` of audio, of at most `num_utterances` utterances, spread evenly.

    Those too short for an encoder frame are left out.

    Raises:
        DataError: there are no cuts, or none is long enough, or one cannot be read.
    """
    if not len(cuts):
        raise DataError("there must be utterances to encode, but the manifest holds none with a text")
    number = min(num_utterances, len(cuts))
    spread = [cuts[i * len(cuts) // number] for i in range(number)]
    chosen = [cut for cut in spread if num_encoder_frames(cut.num_samples) > 0]
    if not chosen:
        raise DataError(f"there must be utterances of 0.1 s or more to encode, but all {number} are too short for a frame")
    return list(plain_batches(chosen, tokenizer, features, max_duration_s=batch_duration_s))


class _Watcher:
    """Hook that observes the output of one module: moments of every channel; subclasses know its limits."""

    kind = "output"

    def __init__(self, name: str) -> None:
        self.name, self.num_seen = name, 0
        self._sums: dict[str, Tensor] = {}
        """Over all frames seen, by moment, in float64."""

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not (isinstance(output, Tensor) and output.is_floating_point() and output.dim() >= 2):
            return
        rows = in_float64(output).reshape(-1, output.shape[-1])
        self.num_seen += rows.shape[0]
        terms = {"mean": rows.sum(0), "square": rows.square().sum(0), "positive": (rows > 0.0).double().sum(0)}
        self._sums = {name: self._sums.get(name, 0.0) + term.cpu() for name, term in terms.items()}

    def report(self) -> ModuleActivations:
        return self._finished(self._figures(), 0.0)

    def _moment(self, name: str) -> Tensor:
        return self._sums[name] / self.num_seen

    def _figures(self) -> dict[str, Any]:
        square, positive = self._moment("square"), self._moment("positive")
        rms = square.sqrt()
        return {
            "rms": square.mean().sqrt().item(),
            "channel_rms": (rms.min().item(), rms.max().item()),
            "positive": (positive.min().item(), positive.max().item()),
        }

    def _finished(self, figures: dict[str, Any], badness: float) -> ModuleActivations:
        is_finite = math.isfinite(figures["rms"]) if "rms" in figures else True
        return ModuleActivations(name=self.name, kind=self.kind, badness=badness if is_finite else math.inf, **figures)


class _BalancerWatcher(_Watcher):
    kind = "balancer"

    def __init__(self, name: str, module: Balancer, progress: float) -> None:
        super().__init__(name)
        at = [_at(limit, progress) for limit in (module.min_positive, module.max_positive, module.min_abs, module.max_abs)]
        self.positive_limits = (at[0], at[1])
        self.rms_limits = (MEAN_ABS_TO_RMS * at[2], MEAN_ABS_TO_RMS * at[3])

    def report(self) -> ModuleActivations:
        """Limits are compared as Balancer does: the share of positive values by mean / standard deviation."""
        mean, square = self._moment("mean"), self._moment("square")
        std = (square - mean.square()).clamp(min=1e-20).sqrt()
        low, high = (normalized_mean(share) for share in self.positive_limits)
        ratio = mean / std
        rms = square.clamp(min=1e-20).sqrt()
        too_far = (ratio.clamp(-_SAME_SIGN, _SAME_SIGN) - ratio.clamp(low, high)).abs()
        too_loud = (rms.clamp(*self.rms_limits) / rms).log().abs()
        figures = self._figures() | {
            "rms_limits": self.rms_limits,
            "positive_limits": self.positive_limits,
            "outside": ((too_far > 0.0) | (too_loud > 0.0)).double().mean().item(),
        }
        return self._finished(figures, (too_far + too_loud).mean().item())


class _WhitenWatcher(_Watcher):
    kind = "whiten"

    def __init__(self, name: str, module: Whiten, progress: float) -> None:
        super().__init__(name)
        self.num_groups, self.limit = module.num_groups, _at(module.limit, progress)
        self.products: Tensor | float = 0.0

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        super().__call__(module, inputs, output)
        groups = in_float64(output).reshape(-1, self.num_groups, output.shape[-1] // self.num_groups).transpose(0, 1)
        self.products = self.products + (groups.transpose(1, 2) @ groups).cpu()

    def report(self) -> ModuleActivations:
        means = self._moment("mean").view(self.num_groups, -1, 1)
        covariance = self.products - self.num_seen * means @ means.transpose(1, 2)
        size = covariance.shape[0] * covariance.shape[1]
        mean_diag = covariance.diagonal(dim1=1, dim2=2).sum() / size
        metric = (covariance.square().sum() / size / (mean_diag.square() + 1e-20)).item()
        figures = self._figures() | {"whiteness": metric, "whiteness_limit": self.limit}
        return self._finished(figures, max(0.0, math.log(max(metric, 1e-20) / self.limit)) if metric == metric else math.inf)


class _AttentionWatcher(_Watcher):
    kind = "attention"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.entropies, self.largest = torch.zeros(()), 0.0

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        weights_NHTT = in_float64(output)
        entropy_NHT = -torch.special.xlogy(weights_NHTT, weights_NHTT).sum(-1)
        num_keys_NHT = (weights_NHTT > 0.0).sum(-1).clamp(min=1)
        self.entropies = self.entropies + entropy_NHT.mean(2).sum(0).cpu()
        self.largest += num_keys_NHT.double().log().amax(1).mean(1).sum().item()
        self.num_seen += weights_NHTT.shape[0]

    def report(self) -> ModuleActivations:
        entropies = self.entropies / self.num_seen
        is_finite = bool(torch.isfinite(entropies).all())
        figures = {
            "entropy": (entropies.min().item(), entropies.max().item()),
            "entropy_limit": self.largest / self.num_seen,
        }
        return self._finished(figures, 0.0 if is_finite else math.inf)


@contextmanager
def _watching(model: nn.Module, progress: float, *, has_outputs: bool) -> Iterator[list[_Watcher]]:
    """Context manager: attach a watcher to every reported module."""
    watchers, handles = [], []
    for name, module in model.named_modules():
        watcher: _Watcher
        if isinstance(module, Balancer):
            watcher = _BalancerWatcher(name, module, progress)
        elif isinstance(module, Whiten):
            watcher = _WhitenWatcher(name, module, progress)
        elif isinstance(module, AttentionWeights):
            watcher = _AttentionWatcher(name)
        elif has_outputs and next(module.parameters(recurse=False), None) is not None:
            watcher = _Watcher(name)
        else:
            continue
        watchers.append(watcher)
        handles.append(module.register_forward_hook(watcher))
    try:
        yield watchers
    finally:
        for handle in handles:
            handle.remove()


def _at(limit: Schedule | float, progress: float) -> float:
    return limit(progress) if isinstance(limit, Schedule) else limit


def _jsonable(value: Any) -> Any:
    """`value` with non-finite numbers, which JSON lacks, as text."""
    if isinstance(value, tuple | list):
        return [_jsonable(item) for item in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
