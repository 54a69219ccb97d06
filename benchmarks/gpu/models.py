"""The models and inputs that the blocks share: presets, the 288 M shape, toys for a CPU, and noise from seeds.

Features are (N, T, 80) at 100 Hz, labels (N, S) ids from 1; everything is drawn on the CPU and so the same everywhere.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from gpu.absent import replace_absent_packages

ABSENT = replace_absent_packages()
"""Packages that this machine lacks and that tensors alone do not need; replaced before zipasr is imported below."""

from zipasr import model as presets  # noqa: E402
from zipasr.encoder.zipformer import ZipformerConfig  # noqa: E402
from zipasr.heads.ctc import CtcConfig  # noqa: E402
from zipasr.heads.transducer import TransducerConfig  # noqa: E402
from zipasr.model import AsrConfig, AsrModel  # noqa: E402
from zipasr.nn.encoded import Encoded  # noqa: E402
from zipasr.presets import xlarge  # noqa: E402
from zipasr.search.contexts import first_context  # noqa: E402

CONTEXT_SCALE = 0.2
LABELS_PER_S = 4.0
"""About what a vocabulary of 500 pieces needs for read English."""


class Inputs(NamedTuple):
    """A batch as `AsrModel.loss` takes it."""

    features: Tensor
    lens: Tensor
    labels_NS: Tensor
    label_lens: Tensor

    def to(self, device: torch.device) -> "Inputs":
        """The same batch with its features on a device; labels and lengths stay on the host, as in training."""
        return self._replace(features=self.features.to(device))


def toy() -> AsrConfig:
    """Two stacks of one block, narrow; 40 labels; both heads. Runs in milliseconds on one core."""
    encoder = ZipformerConfig(
        conv_channels=(4, 8, 8),
        channels=(32, 48),
        unmasked_channels=(32, 32),
        num_layers=(1, 1),
        downsample=(1, 2),
        feedforward=(48, 64),
        num_heads=(2, 2),
        kernel_sizes=(15, 15),
        query_head_dim=16,
    )
    transducer = TransducerConfig(predictor_dim=32, joiner_dim=32)
    return AsrConfig(vocab_size=40, encoder=encoder, transducer=transducer, ctc=CtcConfig())


SIZES = {"S": presets.small, "M": presets.medium, "L": presets.large, "288M": xlarge}
"""The models that are timed, by name."""


def config_of(size: str, *, is_toy: bool, has_ctc: bool = False) -> AsrConfig:
    """The configuration of one of `SIZES`, or the toy in its place."""
    config = toy() if is_toy else SIZES[size]()
    return dataclasses.replace(config, ctc=CtcConfig() if has_ctc else None)


def build(config: AsrConfig, *, seed: int = 0) -> AsrModel:
    """A model on the CPU with weights from a seed."""
    torch.manual_seed(seed)
    return AsrModel(config)


def noise_inputs(num_utterances: int, seconds: float, *, vocab_size: int, seed: int = 0) -> Inputs:
    """Utterances of equal length with random features and labels."""
    generator = torch.Generator().manual_seed(seed)
    num_frames, num_labels = round(100 * seconds), max(1, round(LABELS_PER_S * seconds))
    return Inputs(
        torch.randn(num_utterances, num_frames, 80, generator=generator),
        torch.full((num_utterances,), num_frames),
        torch.randint(1, vocab_size, (num_utterances, num_labels), generator=generator),
        torch.full((num_utterances,), num_labels),
    )


def standardized(encoded: Encoded) -> Encoded:
    """Frames with mean 0 and deviation 1 in every channel: random encoders tell frames of noise hardly apart."""
    frames = encoded.frames
    return Encoded((frames - frames.mean((0, 1))) / frames.std((0, 1)).clamp(min=1e-6), encoded.lens)


@torch.no_grad()
def balance_blank(model: AsrModel, encoded: Encoded, *, share_of_labels: float = 0.15) -> None:
    """Shift the blank's bias so that random weights emit labels about as often as trained ones do.

    The share is of frames at which a label wins over blank in the first context. Contexts are made to count less than they
    do at random, so that about as many labels win in others; how many a search finds is recorded beside its time. The
    frames should be `standardized`.
    """
    blank = model.blank_id
    if model.transducer is not None:
        model.transducer.joiner.predictor_proj.weight.mul_(CONTEXT_SCALE)
        context_1C = torch.tensor([first_context(model)], device=encoded.frames.device)
        logits_NTV = model.join(model.project_frames(encoded.frames), model.predict(context_1C))
        model.transducer.joiner.output.bias[blank] += _missing(logits_NTV, blank, share_of_labels)
    if model.ctc is not None:
        scores_NTV = model.ctc_log_probs(encoded.frames)
        model.ctc.output.bias[blank] += _missing(scores_NTV, blank, share_of_labels)


def _missing(scores_NTV: Tensor, blank: int, share_of_labels: float) -> Tensor:
    """What the blank lacks so that it wins in all but a share of the frames."""
    others_NTV = scores_NTV.index_fill(-1, torch.tensor([blank], device=scores_NTV.device), -torch.inf)
    margin = (others_NTV.amax(-1) - scores_NTV[..., blank]).flatten()
    return margin.quantile(1.0 - share_of_labels)
