"""One optimization step: forward and backward over its batches, agreement of all ranks, sum of gradients, update.

All ranks skip a step if a loss or gradient on any rank is not finite. A batch that does not fit into memory is split into
halves, recursively if needed, and its gradients are summed: the result is the same, because losses are sums.
"""

import math
import signal
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zipasr.checkpoint import first_few
from zipasr.data.batching import Batch
from zipasr.device import DTYPES
from zipasr.encoder.rates import FEATURE_RATE_HZ
from zipasr.errors import ZipasrError
from zipasr.nn.placement import moved
from zipasr.optim import ScaledAdam
from zipasr.randomness import random_state
from zipasr.train.config import TrainConfig
from zipasr.train.distributed import Ranks
from zipasr.train.state import TrainState

_OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc")
_NUM_LISTED = 8
"""Number of utterances that a message names."""


class StepResult(NamedTuple):
    """Result of a step, identical on every rank."""

    is_learned: bool
    """Whether the model was updated."""
    losses: dict[str, float]
    """Each loss and their weighted sum "loss", in nats, summed over the batches of all ranks; empty if not learned."""
    audio_s: float
    """Seconds of audio in the batches of all ranks, whether learned or not."""
    problems: tuple[str, ...]
    """Messages about problems such as non-finite losses or gradients, with the ids of the utterances."""
    is_diverging: bool
    """Whether the step was skipped for a non-finite value other than the expected overflows of float16."""
    stop_signal: int
    """Signal that requested a stop on any rank, or 0."""


class _Gradients(NamedTuple):
    """Result of the forward and backward passes of one rank."""

    losses: dict[str, float]
    """The weighted sum "loss" and each loss, in nats, summed over the batches; zeros if no batch fits into memory."""
    norm: float
    """Norm of the gradients, without the loss scale."""
    num_pieces: int
    """Parts that the batches were taken in."""
    unfit: tuple[str, ...]
    """Utterances that do not fit into memory even alone."""


class Signs(NamedTuple):
    """Numbers of one rank in a step, or sums over all ranks: each counts ranks unless stated otherwise."""

    sigint: float
    sigterm: float
    bad_losses: float
    bad: float
    """With a loss or gradient that is not finite."""
    pieces: float
    """Parts of batches that fit into memory."""
    split: float
    """That took a batch in parts."""
    unfit: float
    """Utterances that do not fit into memory."""
    audio_s: float
    """Seconds of audio."""

    @property
    def stop_signal(self) -> int:
        """Signal that asked any rank to stop, or 0."""
        return signal.SIGINT if self.sigint else signal.SIGTERM if self.sigterm else 0


class Stepper:
    """Takes the training steps of a run on one rank."""

    def __init__(self, config: TrainConfig, state: TrainState, ranks: Ranks, device: torch.device) -> None:
        self.config, self.state, self.ranks, self.device = config, state, ranks, device
        self.parameters = [p for p in state.model.parameters() if p.requires_grad]
        self.suspects: list[Batch] = []
        """Batches of this rank in the last skipped step, if they caused it; for the diagnosis."""
        self.random_before: dict[str, Tensor] = {}
        """Random state at the start of the last step."""
        self._num_steps, self._num_clipped = 0, torch.zeros(())
        self._grad_norm = math.nan

    def step(self, batches: Sequence[Batch | None], num_steps: int, *, stop_signal: int = 0) -> StepResult:
        """Take one training step on the batches of this rank; None is a batch that this rank does not have.

        Args:
            batches: at most `accumulate_batches`; as many on every rank.
            num_steps: number of this step in the run, from 1.
            stop_signal: signal that requested a stop on this rank, or 0.
        """
        own = [batch for batch in batches if batch is not None]
        self.random_before = random_state(self.device)
        found = self._learn(own, num_steps)
        own_signs = self._signs(found, own, stop_signal)
        is_loss_bad, is_bad = own_signs.bad_losses > 0, own_signs.bad > 0
        signs, losses = self._agree(own_signs, {name: 0.0 if is_bad else loss for name, loss in found.losses.items()})
        has_problems = signs.bad or signs.split or signs.unfit
        problems = self._problems(found, own, is_loss_bad, is_bad) if has_problems else ()

        is_diverging = signs.bad > 0
        is_learned = signs.bad == 0 and signs.pieces > 0
        if is_learned:
            is_learned = self._update(found.norm, num_steps, signs.audio_s)
            is_diverging = not is_learned  # only the sum over the ranks was too large
        if is_diverging and signs.bad_losses == 0 and self.config.precision == "float16":
            is_diverging = not self.state.loss_scale.after_overflow()
        self.suspects = own if is_bad or (is_diverging and signs.bad == 0) else []
        self.state.optimizer.zero_grad(set_to_none=True)
        return StepResult(is_learned, losses if is_learned else {}, signs.audio_s, problems, is_diverging, signs.stop_signal)

    def _signs(self, found: _Gradients, own: Sequence[Batch], stop_signal: int) -> Signs:
        """The numbers of this rank in a step."""
        is_loss_bad = not all(map(math.isfinite, found.losses.values()))
        return Signs(
            sigint=stop_signal == signal.SIGINT,
            sigterm=stop_signal == signal.SIGTERM,
            bad_losses=is_loss_bad,
            bad=is_loss_bad or not math.isfinite(found.norm),
            pieces=found.num_pieces,
            split=found.num_pieces > len(own),
            unfit=len(found.unfit),
            audio_s=sum(batch.audio_s for batch in own),
        )

    def _agree(self, signs: Signs, losses: dict[str, float]) -> tuple[Signs, dict[str, float]]:
        """The sums over all ranks, in one message."""
        sums = self.ranks.sum([*map(float, signs), *losses.values()])
        return Signs(*sums[: len(signs)]), dict(zip(losses, sums[len(signs) :], strict=True))

    def losses(self, batch: Batch, num_steps: int) -> tuple[dict[str, Tensor], Tensor]:
        """Each loss, and their weighted sum; all summed over the batch, in nats.

        Labels and lengths stay on the CPU, where they are checked; the model moves them to the device when needed.
        """
        dtype = DTYPES[self.config.precision]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            losses = self.state.model(moved(batch.features, self.device), batch.feature_lens, batch.labels, batch.label_lens)
        weights = loss_weights(self.config, num_steps)
        return losses, torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()

    def figures(self) -> dict[str, float]:
        """Numbers for the log: the last gradient norm, and the share of clipped steps since the last call."""
        optimizer = self.state.optimizer
        clip = {"clip_factor": optimizer.last_clip_factor} if isinstance(optimizer, ScaledAdam) else {}
        if self._num_steps:
            clip |= {"grad_norm": self._grad_norm, "clip_rate": float(self._num_clipped) / self._num_steps}
        if self.config.precision == "float16":
            clip["loss_scale"] = self.state.loss_scale.scale
        self._num_steps, self._num_clipped = 0, torch.zeros(())
        return clip

    def _learn(self, batches: Sequence[Batch], num_steps: int) -> _Gradients:
        """Accumulate gradients of the batches, in as many pieces as memory requires; read their losses and norm at once."""
        pieces, unfit = list(batches), list[str]()
        names = ["loss", *loss_weights(self.config, num_steps)]
        while True:
            self.state.optimizer.zero_grad(set_to_none=True)
            values: list[Tensor] = []
            for piece in pieces:
                losses = self._backward(piece, num_steps)
                if losses is None:
                    break
                values.append(torch.stack([losses[name] for name in names]))
            if len(values) == len(pieces):
                break
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            too_large = pieces[len(values)]
            if len(too_large.ids) == 1:
                unfit += too_large.ids
                del pieces[len(values)]
            else:
                pieces = [
                    p for piece in pieces for p in (halves(piece) if len(piece.ids) >= len(too_large.ids) else [piece])
                ]
        if not pieces:
            return _Gradients(dict.fromkeys(names, 0.0), 0.0, 0, tuple(unfit))
        grad_norm = gradient_norm(self.parameters) / self.state.loss_scale.scale
        sums = torch.stack(values).sum(0) if len(values) > 1 else values[0]
        *read, norm = torch.cat([sums, grad_norm.view(1)]).tolist()
        return _Gradients(dict(zip(names, read, strict=True)), norm, len(pieces), tuple(unfit))

    def _backward(self, batch: Batch, num_steps: int) -> dict[str, Tensor] | None:
        """Add the gradients of one batch; returns its losses and their weighted sum "loss", None if out of memory."""
        try:
            losses, total = self.losses(batch, num_steps)
            scale = self.state.loss_scale.scale
            (total if scale == 1.0 else total * scale).backward()
            return {name: loss.detach() for name, loss in {"loss": total, **losses}.items()}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _update(self, norm: float, num_steps: int, audio_s: float) -> bool:
        """Sum the gradients over the ranks and update the model; False, without an update, if the sum is not finite."""
        state, config = self.state, self.config
        scale = state.loss_scale.scale
        if self.ranks.size > 1:
            self.ranks.sum_gradients(self.parameters)
            norm = float(gradient_norm(self.parameters)) / scale
        if not math.isfinite(norm):
            return False
        if scale != 1.0:
            torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], 1.0 / scale)
        if config.adam is not None and config.adam.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, config.adam.max_grad_norm)
        state.scheduler.step_batch(num_steps)
        if state.scheduler.is_by_hours:
            state.scheduler.step_hours(state.position.audio_after(audio_s) / 3600)
        try:
            state.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ZipasrError(
                f"the optimizer needs memory in addition to the model, but there is none left on {self.device}: "
                f"{str(error).splitlines()[0][:150]}; take a smaller model or a device with more memory"
            ) from error
        if config.precision == "float16":
            state.loss_scale.after_good_step(num_steps)
        self._note(norm)
        return True

    def _note(self, norm: float) -> None:
        self._grad_norm = norm
        self._num_steps += 1
        adam = self.config.adam
        if adam is not None:
            self._num_clipped += adam.max_grad_norm is not None and norm > adam.max_grad_norm
            return
        factors = [state["clip_factor"] for state in self.state.optimizer.state.values() if "clip_factor" in state]
        if factors:  # counted on the device: reading it would make the host wait
            self._num_clipped = self._num_clipped.to(factors[0].device) + (torch.stack(factors) < 1.0).any()

    def _problems(self, found: _Gradients, own: Sequence[Batch], is_loss_bad: bool, is_bad: bool) -> tuple[str, ...]:
        """Collect the messages of all ranks; all ranks must call this."""
        said = []
        names = first_few([name for batch in own for name in batch.ids], _NUM_LISTED, separator=", ")
        if is_loss_bad:
            said.append(f"skipped a batch whose loss is {found.losses['loss']}: {names}")
        elif is_bad and self.config.precision == "float16":
            said.append(
                f"skipped a batch whose gradients overflowed at a loss scale of {self.state.loss_scale.scale:g}: {names}"
            )
        elif is_bad:
            said.append(f"skipped a batch whose gradients are not finite: {names}")
        if found.unfit:
            unfit = first_few(found.unfit, _NUM_LISTED, separator=", ")
            said.append(f"skipped utterances that do not fit into memory even alone: {unfit}")
        elif found.num_pieces > len(own):
            said.append(
                f"out of memory: took a batch in {found.num_pieces} pieces ({names}); lower batch.max_duration_s if this "
                "happens often (zipasr train --probe finds what fits)"
            )
        return tuple(text for texts in self.ranks.exchange(said) for text in texts)


def loss_weights(config: TrainConfig, num_steps: int) -> dict[str, float]:
    """Weight of each configured loss in step `num_steps` (from 1).

    Over the warm-up, the simple loss falls from 1 to its scale while the pruned one rises from 0.1 to 1 and, if configured,
    that of consistency from 0 to its scale; CTC and the attention decoder are constant.
    """
    done = min(num_steps / config.loss_warmup_batches, 1.0) if config.loss_warmup_batches > 0 else 1.0
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
        scale = config.consistency.scale if config.consistency.scale is not None else 0.2 if is_ctc_alone else 0.02
        weights["consistency"] = done * scale if config.consistency.has_warmup else scale
    return weights


def halves(batch: Batch) -> list[Batch]:
    """The first and second half of the utterances of a batch of two or more, with all their views and the same padding.

    The padding is kept, because what follows an utterance affects its last frames through Conv-Embed.
    """
    size, middle = len(batch.ids), len(batch.ids) // 2
    num_views = batch.features.shape[0] // size

    def part(start: int, end: int) -> Batch:
        lens = batch.feature_lens.view(num_views, size)[:, start:end]
        return Batch(
            features=batch.features.unflatten(0, (num_views, size))[:, start:end].flatten(0, 1),
            feature_lens=lens.flatten(),
            labels=batch.labels[start:end],
            label_lens=batch.label_lens[start:end],
            ids=batch.ids[start:end],
            audio_s=float(lens[0].sum()) / FEATURE_RATE_HZ,
        )

    return [part(0, middle), part(middle, size)]


def gradient_norm(parameters: Iterable[torch.nn.Parameter]) -> Tensor:
    """The norm () of all gradients together, on their device; 0 if there are none."""
    grads = [p.grad for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))) if grads else torch.zeros(())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)
