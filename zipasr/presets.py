"""Model configurations of the paper by name: Zipformer, the encoders it is compared with, and its ablations; and their
published sizes and costs.

A preset is a function without arguments that returns an `AsrConfig`; `PRESETS` lists them. Presets define only the shape
of a model; recipes define its training.
Source: Yao et al. 2024, arXiv:2310.11230, tables 1, 2 and 5; the size xlarge of the authors' trainer, pkufool/zipformer.
"""

import difflib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zipasr import model
from zipasr.baselines import branchformer, conformer, e_branchformer, squeezeformer
from zipasr.baselines.branchformer import BranchformerConfig
from zipasr.baselines.e_branchformer import EBranchformerConfig
from zipasr.baselines.squeezeformer import SqueezeformerConfig
from zipasr.checkpoint import CheckpointFolder
from zipasr.encoder.ablation import AblationConfig
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.errors import ConfigError
from zipasr.heads.attention import AttentionConfig
from zipasr.heads.ctc import CtcConfig
from zipasr.model import CONFIG_FILE, AsrConfig, resolve_model_folder


def _with_ctc(encoder: SqueezeformerConfig) -> AsrConfig:
    """A Squeezeformer as published: CTC over 128 labels."""
    return AsrConfig(vocab_size=128, encoder=encoder, transducer=None, ctc=CtcConfig())


def _with_ctc_and_attention(encoder: BranchformerConfig | EBranchformerConfig) -> AsrConfig:
    """A (E-)Branchformer as published: CTC and an attention decoder of the encoder's width over 5000 labels."""
    decoder = AttentionConfig(dim=encoder.channels, attention_dim=encoder.channels, num_heads=encoder.num_heads)
    return AsrConfig(vocab_size=5000, encoder=encoder, transducer=None, ctc=CtcConfig(), attention=decoder)


def ablated_medium(ablation: AblationConfig) -> AsrConfig:
    """Zipformer-M with a component removed or replaced."""
    return AsrConfig(encoder=ZipformerConfig(ablation=ablation))


def xlarge() -> AsrConfig:
    """Zipformer-XL of the authors' own trainer: 288,154,582 parameters with a transducer head and 500 labels."""
    encoder = ZipformerConfig(
        channels=(192, 384, 768, 1024, 768, 384),
        unmasked_channels=(192, 256, 320, 512, 320, 256),
        num_layers=(2, 2, 4, 5, 4, 2),
        feedforward=(512, 1024, 2048, 3072, 2048, 1024),
    )
    return AsrConfig(encoder=encoder)


def medium_without_downsampling() -> AsrConfig:
    """Zipformer-M as one stack of 12 blocks at 25 Hz; its sizes are inferred from the published number of parameters."""
    encoder = ZipformerConfig(
        conv_embed_rate=4,
        channels=(512,),
        unmasked_channels=(256,),
        num_layers=(12,),
        downsample=(1,),
        feedforward=(1536,),
        num_heads=(8,),
        kernel_sizes=(31,),
    )
    return AsrConfig(encoder=encoder)


ABLATIONS: dict[str, AblationConfig] = {
    "medium-double-conformer": AblationConfig(block="conformer_pair"),
    "medium-no-nonlin-attention": AblationConfig(has_nonlin_attention=False),
    "medium-no-attention-sharing": AblationConfig(has_nonlin_attention=False, has_shared_attention_weights=False),
    "medium-no-bypass": AblationConfig(has_bypass=False),
    "medium-layer-norm": AblationConfig(norm="layer_norm"),
    "medium-only-swoosh-right": AblationConfig(activation="swoosh_right"),
    "medium-swish": AblationConfig(activation="swish"),
    "medium-adam-norms": AblationConfig(has_module_norms=True),
    "medium-no-balancer": AblationConfig(has_balancer=False),
    "medium-no-whitener": AblationConfig(has_whitener=False),
    "medium-no-constraints": AblationConfig(has_balancer=False, has_whitener=False),
}
"""Ablations of Zipformer-M in the paper's tables 5 and 6; `medium-adam-norms` is the model to train with Adam."""

PRESETS: dict[str, Callable[[], AsrConfig]] = {
    "tiny": model.tiny,
    "small": model.small,
    "medium": model.medium,
    "large": model.large,
    "xlarge": xlarge,
    # The paper's own Conformers have another transducer head than ours, see `TABLE_2`.
    "conformer-s": lambda: AsrConfig(encoder=conformer.small()),
    "conformer-m": lambda: AsrConfig(encoder=conformer.medium()),
    "conformer-l": lambda: AsrConfig(encoder=conformer.large()),
    "squeezeformer-xs": lambda: _with_ctc(squeezeformer.extra_small()),
    "squeezeformer-s": lambda: _with_ctc(squeezeformer.small()),
    "squeezeformer-sm": lambda: _with_ctc(squeezeformer.small_medium()),
    "squeezeformer-m": lambda: _with_ctc(squeezeformer.medium()),
    "squeezeformer-ml": lambda: _with_ctc(squeezeformer.medium_large()),
    "squeezeformer-l": lambda: _with_ctc(squeezeformer.large()),
    "branchformer": lambda: _with_ctc_and_attention(branchformer.base()),
    "e-branchformer-b": lambda: _with_ctc_and_attention(e_branchformer.base()),
    "e-branchformer-l": lambda: _with_ctc_and_attention(e_branchformer.large()),
    "medium-no-downsampling": medium_without_downsampling,
    **{name: functools.partial(ablated_medium, ablation) for name, ablation in ABLATIONS.items()},
}
"""All presets by name."""

ALIASES = {"zipformer-s": "small", "zipformer-m": "medium", "zipformer-l": "large", "zipformer-xl": "xlarge"}
"""Aliases of presets: their names in the paper's tables, and in its fashion that of the size that came later."""


def preset_names() -> list[str]:
    """All names that `find_preset` accepts, aliases included."""
    return [*PRESETS, *ALIASES]


def find_preset(name: str) -> AsrConfig:
    """The configuration of the preset `name`.

    Raises:
        ConfigError: there is no such preset; the message lists the nearest names.
    """
    preset = PRESETS.get(ALIASES.get(name, name))
    if preset is None:
        raise ConfigError(f"there is no preset {name!r}; {_nearest(name)}")
    return preset()


def find_config(name_or_folder: str | os.PathLike[str]) -> AsrConfig:
    """The configuration of a preset, or of the model in a folder (a model folder or that of a training run).

    A preset takes precedence over a folder of the same name; write ./small for the folder. Weights are not read.

    Raises:
        ConfigError: `name_or_folder` is neither a preset nor a folder; the message lists the nearest names.
        CheckpointError: the folder contains no model.
    """
    name = os.fspath(name_or_folder)
    if name in PRESETS or name in ALIASES:
        return find_preset(name)
    if not Path(name).is_dir():
        raise ConfigError(f"{name!r} must be a preset or a folder with a model, but is neither; {_nearest(name)}")
    return CheckpointFolder(resolve_model_folder(name)).config(AsrConfig, CONFIG_FILE)


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, preset_names(), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"the presets are {', '.join(preset_names())}"


# Published sizes and costs.


@dataclass(frozen=True)
class Published:
    """Published size and cost of a model in the paper's tables 2 and 5."""

    title: str
    """Name of the model in the table."""
    type: str
    """Heads of the model."""
    params_m: float
    """Parameters of the whole model, in millions."""
    gflops: float | None
    """Operations of the encoder for 30 s, in 10^9."""
    head_params: int | None = None
    """Parameters of the head that the count includes, if it differs from the head of our preset."""

    @property
    def family(self) -> str:
        """The title without the size."""
        return self.title.rpartition("-")[0] or self.title


def _conformer_head_params(channels: int, *, vocab_size: int = 500, dim: int = 512) -> int:
    """Number of parameters of the transducer head of the paper's own Conformers.

    The encoder ends in a linear layer to the vocabulary, and so does the predictor (an embedding, a depthwise convolution
    over two labels and a linear layer); the joiner maps from there to `dim` and back.
    """
    encoder_output = (channels + 1) * vocab_size
    predictor = vocab_size * dim + 2 * dim + (dim + 1) * vocab_size
    joiner = (vocab_size + 1) * dim + (dim + 1) * vocab_size
    return encoder_output + predictor + joiner


_TRANSDUCER = "pruned transducer"
TABLE_2: dict[str, Published] = {
    "squeezeformer-xs": Published("Squeezeformer-XS", "CTC", 9.0, 18.2),
    "squeezeformer-s": Published("Squeezeformer-S", "CTC", 18.6, 33.7),
    "squeezeformer-sm": Published("Squeezeformer-SM", "CTC", 28.2, 47.6),
    "squeezeformer-m": Published("Squeezeformer-M", "CTC", 55.6, 88.4),
    "squeezeformer-ml": Published("Squeezeformer-ML", "CTC", 125.1, 183.3),
    "squeezeformer-l": Published("Squeezeformer-L", "CTC", 236.3, 333.7),
    "e-branchformer-b": Published("E-Branchformer-B", "CTC/AED", 41.1, 78.1),
    "branchformer": Published("Branchformer", "CTC/AED", 116.2, 238.3),
    "e-branchformer-l": Published("E-Branchformer-L", "CTC/AED", 148.9, 284.4),
    "conformer-s": Published("Conformer-S", _TRANSDUCER, 9.8, 29.1, _conformer_head_params(144)),
    "conformer-m": Published("Conformer-M", _TRANSDUCER, 28.4, 77.0, _conformer_head_params(256)),
    "conformer-l": Published("Conformer-L", _TRANSDUCER, 122.5, 294.2, _conformer_head_params(512)),
    "zipformer-s": Published("Zipformer-S", _TRANSDUCER, 23.3, 40.8),
    "zipformer-m": Published("Zipformer-M", _TRANSDUCER, 65.6, 62.9),
    "zipformer-l": Published("Zipformer-L", _TRANSDUCER, 148.4, 107.7),
}
"""Table 2 of the paper, in its order, by the name of our preset."""

TABLE_5: dict[str, Published] = {
    "medium-no-downsampling": Published("no temporal downsampling", _TRANSDUCER, 94.2, None),
    "medium-double-conformer": Published("Conformer blocks", _TRANSDUCER, 73.9, None),
    "medium-no-nonlin-attention": Published("no NLA", _TRANSDUCER, 58.7, None),
    "medium-no-attention-sharing": Published("no NLA, no sharing", _TRANSDUCER, 60.9, None),
    "medium-no-bypass": Published("no Bypass", _TRANSDUCER, 65.5, None),
    "medium-layer-norm": Published("LayerNorm", _TRANSDUCER, 65.6, None),
    "medium-only-swoosh-right": Published("only SwooshR", _TRANSDUCER, 65.5, None),
    "medium-swish": Published("Swish", _TRANSDUCER, 65.5, None),
    "medium-adam-norms": Published("Adam", _TRANSDUCER, 65.6, None),
}
"""The paper's ablations of Zipformer-M, by the name of our preset; operations are not published."""


def find_published(name: str) -> Published | None:
    """Published size and cost of the preset `name`; None if not published."""
    rows = {**TABLE_2, **TABLE_5}
    return next((row for title, row in rows.items() if name in (title, ALIASES.get(title))), None)
