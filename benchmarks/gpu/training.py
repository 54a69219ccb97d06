"""Training steps of whole models, and the transducer loss alone: time, use of the card, host waits, memory.

A step is forward, both transducer losses, backward and ScaledAdam, as the trainer takes it in bf16: parameters in float32,
the encoder under autocast. Inputs are noise; a batch is 1000 s of audio in utterances of 20 s.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gpu.ceilings import PEAK_BF16
from gpu.models import SIZES, Inputs, build, config_of, noise_inputs
from gpu.runner import Block, free_memory
from gpu.timing import NUM_INPUT_SETS, count_operators, peak_mib, profile_call, time_calls
from zipasr.device import arithmetic
from zipasr.losses import prune_ranges, pruned_transducer_loss, simple_transducer_loss
from zipasr.model import AsrModel
from zipasr.nn.schedule import set_step
from zipasr.optim import ScaledAdam
from zipasr.profile import count_flops

BATCH_S = 1000.0
UTTERANCE_S = 20.0
HALF_WAY = 10_000.0
"""Step of the schedules: every constraint at work, warm-up over."""
PROFILED = "M"
SIMPLE_SCALE = 0.5


class Step:
    """A model, its optimizer, and batches that take turns."""

    def __init__(self, model: AsrModel, batches: list[Inputs], device: torch.device, precision: str) -> None:
        self.model, self.device, self.precision = model.to(device).train(), device, precision
        self.batches = [batch.to(device) for batch in batches]
        self.optimizer = ScaledAdam(model.named_parameters(), lr=0.045, clipping_scale=2.0)
        set_step(model, HALF_WAY)

    def take(self, batch: Inputs) -> Tensor:
        """One step; the weighted loss (), left on the device."""
        with arithmetic(self.precision, self.device):
            losses = self.model(*batch)
            total = SIMPLE_SCALE * losses["simple"] + losses["pruned"]
        total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total.detach()

    def calls(self) -> list[Callable[[], Tensor]]:
        """A step on each batch."""
        return [lambda batch=batch: self.take(batch) for batch in self.batches]


def training_step(block: Block) -> None:
    """Steps of S, M, L and the 288 M shape in bf16."""
    for size in SIZES:
        block.case(f"{size} bfloat16", lambda size=size: measure_step(block, size, "bfloat16"))
    block.case("M float32", lambda: measure_step(block, "M", "float32"))


def measure_step(block: Block, size: str, precision: str) -> dict[str, Any]:
    """Time the largest batch that fits: 1000 s, or a half or a quarter of it."""
    for part in (1, 2, 4):
        try:
            return _measure_step(block, size, precision, BATCH_S / part)
        except torch.OutOfMemoryError:
            if part == 4:
                raise
        free_memory(block.device)  # not before the traceback, which holds the tensors, is gone
    raise AssertionError("a part is returned or raises")


def _measure_step(block: Block, size: str, precision: str, batch_s: float) -> dict[str, Any]:
    utterance_s, num_utterances = (1.0, 2) if block.is_toy else (UTTERANCE_S, round(batch_s / UTTERANCE_S))
    config = config_of(size, is_toy=block.is_toy)
    batches = [
        noise_inputs(num_utterances, utterance_s, vocab_size=config.vocab_size, seed=seed) for seed in range(NUM_INPUT_SETS)
    ]
    model = build(config)
    operations = 3 * step_forward_flops(model, num_utterances, round(100 * utterance_s))
    step = Step(model, batches, block.device, precision)
    calls = step.calls()
    times = time_calls(calls, block.device, is_toy=block.is_toy)
    memory = peak_mib(calls[0], block.device)
    counts = count_operators(calls[1], block.device)
    seconds, audio_s = times["ms"] / 1e3, num_utterances * utterance_s
    found = {"audio_s": audio_s, "audio_s_per_s": audio_s / seconds, "teraflop": operations / 1e12, **times, **memory}
    found |= shares_of_ceilings(block, operations / seconds, 1e9 * counts["gigabytes"] / seconds) | counts
    if size == PROFILED and precision == "bfloat16":
        found["profile"] = profile_call(calls[2], block.device)
        found["launches"] = found["profile"]["launches"]
    return found


def step_forward_flops(model: AsrModel, num_utterances: int, num_frames: int) -> int:
    """Operations of the encoder and of the transducer head's products in a forward pass: F(T) + 2 T' (R J V + D V + D J).

    A step counts as three forward passes, the backward pass being two.
    """
    assert model.transducer is not None
    head = model.transducer.config
    channels, vocab_size = model.encoder.output_channels, model.config.vocab_size
    a_frame = head.prune_range * head.joiner_dim * vocab_size + channels * (vocab_size + head.joiner_dim)
    encoder = count_flops(model.encoder, num_frames)
    return num_utterances * (encoder + 2 * model.output_length(num_frames) * a_frame)


def shares_of_ceilings(block: Block, flops_per_s: float, bytes_per_s: float) -> dict[str, float]:
    """MFU by the data sheet (CUDA only) and by the measured product, and the share of the measured copy, where measured."""
    measured = block.setting.ceilings
    shares = {"mfu_data_sheet": flops_per_s / PEAK_BF16} if block.device.type == "cuda" else {}
    if "flops_per_s" in measured:
        shares["mfu_measured"] = flops_per_s / measured["flops_per_s"]
    if "bytes_per_s" in measured:
        shares["bandwidth_share"] = bytes_per_s / measured["bytes_per_s"]
    return shares


NUM_LOSS_UTTERANCES = 30
LOSS_WIDTH = 512
PRUNE_RANGE = 5


def transducer_loss(block: Block) -> None:
    """The parts of the pruned transducer loss for 30 utterances with lengths as in LibriSpeech, V = 500 and 5000."""
    for vocab_size in (500, 5000):
        vocab_size = vocab_size // 10 if block.is_toy else vocab_size
        lattices = [LossCase(block, vocab_size, seed) for seed in range(NUM_INPUT_SETS)]
        for part in ("simple", "prune", "joiner", "pruned", "all"):

            def measure(part: str = part, lattices: list[LossCase] = lattices) -> dict[str, Any]:
                calls = [getattr(lattice, part) for lattice in lattices]
                times = time_calls(calls, block.device, is_toy=block.is_toy)
                counts = count_operators(calls[0], block.device)
                names = ("operators", "gigabytes", "host_waits", "copies_to_device")
                return {**times, **peak_mib(calls[1], block.device), **{name: counts[name] for name in names}}

            block.case(f"{part}, V = {vocab_size}", measure)


class LossCase:
    """One batch of frames and label contexts, and each part of the loss on it, forward and backward.

    Lengths are drawn like those of train-clean-100: mostly 12 to 16 s, some down to 2 s, with four labels a second.
    """

    def __init__(self, block: Block, vocab_size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        num_utterances, longest = (3, 20) if block.is_toy else (NUM_LOSS_UTTERANCES, 400)
        width = 16 if block.is_toy else LOSS_WIDTH
        shares = torch.rand(num_utterances, generator=generator).pow(0.35).clamp(min=0.12)
        frame_lens = (longest * shares).round().long()
        label_lens = (frame_lens / 25 * 4).round().long().clamp(min=1)
        num_labels = int(label_lens.max())

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(block.device).requires_grad_()

        self.frames = normal(num_utterances, int(frame_lens.max()), width)
        self.contexts = normal(num_utterances, num_labels + 1, width)
        self.am_weight, self.lm_weight = normal(vocab_size, width), normal(vocab_size, width)
        self.output_weight = normal(vocab_size, width)
        self.labels = torch.randint(1, vocab_size, (num_utterances, num_labels), generator=generator)
        self.lens = frame_lens, label_lens  # on the host, as in training
        with torch.no_grad():
            self.occupations = self._simple()[1:]
        self.band = self.prune()
        self.logits = self._logits(self.band.positions_NTR).detach().requires_grad_()

    def _simple(self) -> Any:
        am_NTV = functional.linear(self.frames, 0.1 * self.am_weight)
        lm_NUV = functional.linear(self.contexts, 0.1 * self.lm_weight)
        return simple_transducer_loss(am_NTV, lm_NUV, self.labels, *self.lens, blank=0)

    def _logits(self, positions_NTR: Tensor) -> Tensor:
        index = positions_NTR.flatten(1)[:, :, None].expand(-1, -1, self.contexts.shape[-1])
        rows = self.contexts.gather(1, index).view(*positions_NTR.shape, -1)
        return functional.linear(torch.tanh(rows + self.frames[:, :, None]), 0.1 * self.output_weight)

    def _pruned(self, logits: Tensor, band: Any) -> Tensor:
        return pruned_transducer_loss(logits, band.first_label_NT, self.labels, *self.lens, blank=0).sum()

    def simple(self) -> None:
        """The projections and the simple loss."""
        weights = [self.frames, self.contexts, self.am_weight, self.lm_weight]
        torch.autograd.grad(self._simple().loss_N.sum(), weights)

    def prune(self) -> Any:
        """The band; there is no backward pass."""
        return prune_ranges(*self.occupations, *self.lens, PRUNE_RANGE)

    def joiner(self) -> None:
        """The joiner in the band."""
        weights = [self.frames, self.contexts, self.output_weight]
        torch.autograd.grad(self._logits(self.band.positions_NTR).sum(), weights)

    def pruned(self) -> None:
        """The loss in the band, the logits given."""
        torch.autograd.grad(self._pruned(self.logits, self.band), self.logits)

    def all(self) -> None:
        """Everything, as the transducer head does it."""
        simple = self._simple()
        band = prune_ranges(*simple[1:], *self.lens, PRUNE_RANGE)
        total = simple.loss_N.sum() + self._pruned(self._logits(band.positions_NTR), band)
        torch.autograd.grad(total, [self.frames, self.contexts, self.am_weight, self.lm_weight, self.output_weight])
