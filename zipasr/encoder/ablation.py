"""What can be left out of the Zipformer encoder or put in another's place: the paper's tables 5 and 6 as a configuration.

`AblationConfig` names the ingredients; the small modules here stand where one of them is missing. The temporal
downsampling is left out by the shape of the encoder instead (`ZipformerConfig.conv_embed_rate`, `downsample`).
Source: Yao et al. 2024, arXiv:2310.11230, sections 4.0.2 to 4.0.4.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from zipasr.errors import ConfigError
from zipasr.nn.constraint import Balancer, Whiten
from zipasr.nn.norm import BiasNorm
from zipasr.nn.swoosh import ActivationKind


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """Ingredients of the encoder; the defaults are Zipformer itself."""

    block: Literal["zipformer", "conformer_pair"] = "zipformer"
    """`conformer_pair` puts two Conformer-style blocks in the place of each Zipformer block."""
    has_nonlin_attention: bool = True
    """Whether the block has its non-linear attention."""
    has_shared_attention_weights: bool = True
    """Whether the second self-attention uses the weights of the first; otherwise it computes its own."""
    has_bypass: bool = True
    """Whether the block has its two Bypass modules; the one around a stack stays."""
    norm: Literal["bias_norm", "layer_norm"] = "bias_norm"
    """Normalization at the end of each block and of Conv-Embed."""
    has_module_norms: bool = False
    """Whether every module of the block has a BiasNorm at its input, without which Adam diverged in the paper."""
    activation: Literal["swoosh", "swoosh_right", "swish"] = "swoosh"
    """`swoosh` is SwooshL or SwooshR by place; the others are used everywhere."""
    has_balancer: bool = True
    """Whether Balancers shape the activations of the encoder while training; those of the predictor stay."""
    has_whitener: bool = True
    """Whether Whiteners shape the activations of the encoder while training."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("block", ("zipformer", "conformer_pair")),
            ("norm", ("bias_norm", "layer_norm")),
            ("activation", ("swoosh", "swoosh_right", "swish")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, but is {getattr(self, name)!r}")
        if self.block == "conformer_pair" and not (self.has_nonlin_attention and self.has_shared_attention_weights):
            raise ConfigError(
                "has_nonlin_attention and has_shared_attention_weights must be left at true with conformer_pair, whose "
                "blocks have neither anyway; change one thing at a time"
            )

    @property
    def left_activation(self) -> ActivationKind:
        """The activation where Zipformer has SwooshL."""
        return "swoosh_left" if self.activation == "swoosh" else self.activation

    @property
    def right_activation(self) -> ActivationKind:
        """The activation where Zipformer has SwooshR."""
        return "swoosh_right" if self.activation == "swoosh" else self.activation

    def make_norm(self, channels: int) -> nn.Module:
        """The normalization of the end of a block."""
        return nn.LayerNorm(channels) if self.norm == "layer_norm" else BiasNorm(channels)

    def with_input_norm(self, module: nn.Module, channels: int) -> nn.Module:
        """`module`, with a normalization of its input in front if so configured."""
        return NormedInput(module, self.make_norm(channels)) if self.has_module_norms else module

    def switch_constraints(self, encoder: nn.Module) -> None:
        """Switch off the constraints that are to be left out, everywhere in `encoder`."""
        for module in encoder.modules():
            if isinstance(module, Balancer) and not self.has_balancer:
                module.prob = 0.0
            if isinstance(module, Whiten) and not self.has_whitener:
                module.grad_scale = 0.0


class NormedInput(nn.Module):
    """A module with a normalization before it."""

    def __init__(self, module: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.module, self.norm = module, norm

    def forward(self, x: Tensor, *args: Any) -> Any:
        """`module` of the normalized (N, T, D) and of whatever else it takes."""
        return self.module(self.norm(x), *args)


class NoBypass(nn.Module):
    """Stands where a Bypass is left out."""

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return `after`."""
        return after
