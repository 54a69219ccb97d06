"""Ablations of the Zipformer encoder: components to remove or replace, as in tables 5 and 6 of the paper.

`AblationConfig` lists the components; the small modules here replace removed ones. Temporal downsampling is ablated
through the shape of the encoder instead (`ZipformerConfig.conv_embed_rate`, `downsample`).
Source: Yao et al. 2024, arXiv:2310.11230, sections 4.0.2 to 4.0.4.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from zipasr.errors import ConfigError
from zipasr.nn.constraint import Balancer, Whiten
from zipasr.nn.norm import BiasNorm
from zipasr.nn.swoosh import ActivationKind

Block = Literal["zipformer", "conformer_pair"]
Norm = Literal["bias_norm", "layer_norm"]
Activation = Literal["swoosh", "swoosh_right", "swish"]


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """Components of the encoder; the defaults are Zipformer itself."""

    block: Block = "zipformer"
    """`conformer_pair` replaces each Zipformer block by two Conformer-style blocks."""
    has_nonlin_attention: bool = True
    """Whether the block has its non-linear attention."""
    has_shared_attention_weights: bool = True
    """Whether the second self-attention uses the weights of the first; otherwise it computes its own."""
    has_bypass: bool = True
    """Whether the block has its two Bypass modules; the one around a stack is kept."""
    norm: Norm = "bias_norm"
    """Normalization at the end of each block and of Conv-Embed."""
    has_module_norms: bool = False
    """Whether every module of the block has a BiasNorm at its input, without which Adam diverged in the paper."""
    activation: Activation = "swoosh"
    """`swoosh` uses SwooshL or SwooshR depending on the module; the others apply everywhere."""
    has_balancer: bool = True
    """Whether Balancers constrain the encoder's activations in training; those of the predictor are kept."""
    has_whitener: bool = True
    """Whether Whiten modules constrain the encoder's activations in training."""

    def __post_init__(self) -> None:
        for name, kinds in (("block", Block), ("norm", Norm), ("activation", Activation)):
            if getattr(self, name) not in get_args(kinds):
                raise ConfigError(f"{name} must be one of {', '.join(get_args(kinds))}, but is {getattr(self, name)!r}")
        if self.block == "conformer_pair" and not (self.has_nonlin_attention and self.has_shared_attention_weights):
            raise ConfigError(
                "has_nonlin_attention and has_shared_attention_weights must be true with conformer_pair, whose blocks have "
                f"neither, but are {self.has_nonlin_attention} and {self.has_shared_attention_weights}; change one component"
                " at a time"
            )

    @property
    def left_activation(self) -> ActivationKind:
        """The activation used in place of SwooshL."""
        return "swoosh_left" if self.activation == "swoosh" else self.activation

    @property
    def right_activation(self) -> ActivationKind:
        """The activation used in place of SwooshR."""
        return "swoosh_right" if self.activation == "swoosh" else self.activation

    def make_norm(self, channels: int) -> nn.Module:
        """A new normalization module for the end of a block."""
        return nn.LayerNorm(channels) if self.norm == "layer_norm" else BiasNorm(channels)

    def with_input_norm(self, module: nn.Module, channels: int) -> nn.Module:
        """`module`, preceded by a normalization of its input if `has_module_norms`."""
        return NormedInput(module, self.make_norm(channels)) if self.has_module_norms else module

    def switch_constraints(self, encoder: nn.Module) -> None:
        """Disable the ablated Balancers and Whiten modules everywhere in `encoder`, in place."""
        for module in encoder.modules():
            if isinstance(module, Balancer) and not self.has_balancer:
                module.prob = 0.0
            if isinstance(module, Whiten) and not self.has_whitener:
                module.grad_scale = 0.0


class NormedInput(nn.Module):
    """A module whose input is normalized first."""

    def __init__(self, module: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.module, self.norm = module, norm

    def forward(self, x: Tensor, *args: Any) -> Any:
        """Apply `module` to the normalized (N, T, D) and its other arguments."""
        return self.module(self.norm(x), *args)


class NoBypass(nn.Module):
    """Replacement of an ablated Bypass: the output of the layers, unchanged."""

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return `after`."""
        return after
