"""Low-rank adapters (LoRA): selected linear layers learn W + (alpha / rank) · B A while W itself is frozen.

`add_lora` replaces each selected `nn.Linear` or `SwooshLinear` by a `LoraLinear` with the same input and output shapes,
(..., in) -> (..., out). B starts at zero, so the adapted model initially equals the original. For inference the product is
merged into W: `merged_copy` and `merged_state_dict` return the plain model with its original names and shapes.
Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, equation 3.
"""

import copy
import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.errors import ConfigError
from zipasr.nn.swoosh import SwooshLinear, swoosh_linear

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Size, scale and placement of low-rank adapters; the layers they adapt are frozen."""

    rank: int = 8
    """Rank of the update; 8 is that of the published Zipformer adaptation."""
    alpha: float = 8.0
    """The update is B A · alpha / rank."""
    targets: tuple[str, ...] = ("encoder.*attention*.in_proj", "encoder.*feed*forward*_proj")
    """Names of layers, or of modules to select all layers inside, with * as a wildcard. The default selects the projections
    to queries, keys and values and the feed-forward modules of the encoder, as in the published Zipformer adaptation."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"rank must be at least 1, but is {self.rank}")
        if not self.alpha > 0.0:
            raise ConfigError(f"alpha must be positive, but is {self.alpha}")
        if not self.targets:
            raise ConfigError("targets must name at least one layer, but is empty; without adapters set lora=none")


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update."""

    def __init__(self, base: nn.Linear | SwooshLinear, config: LoraConfig) -> None:
        super().__init__()
        out_channels, in_channels = base.weight.shape
        self.base = base.requires_grad_(False)
        self.scale = config.alpha / config.rank
        self.lora_a = nn.Parameter(base.weight.new_empty(config.rank, in_channels))
        """(rank, in); initialized at random, with entries of the same rms as the weight."""
        self.lora_b = nn.Parameter(base.weight.new_zeros(out_channels, config.rank))
        """(out, rank); initialized to 0."""
        rms = float(base.weight.detach().square().mean().sqrt()) or in_channels**-0.5
        nn.init.uniform_(self.lora_a, -math.sqrt(3.0) * rms, math.sqrt(3.0) * rms)

    @property
    def weight(self) -> Tensor:
        """The weight (out, in) of the layer without the update."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out); in a SwooshLinear both paths share the activation and one dropout mask."""
        base = self.base
        if isinstance(base, SwooshLinear):
            mask = base.dropout_mask(x)
            narrow = swoosh_linear(x, self.lora_a, None, mask, base.activation)
            wide = swoosh_linear(x, base.weight, base.bias, mask, base.activation)
        else:
            wide, narrow = base(x), functional.linear(x, self.lora_a)
        return wide + self.scale * functional.linear(narrow, self.lora_b)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """The weight (out, in) with the update added; computed in float64, in the dtype of the weight."""
        # MPS has no float64, and a sum over `rank` terms hardly needs it.
        wide = torch.float32 if self.lora_a.device.type == "mps" else torch.float64
        update = self.scale * (self.lora_b.to(wide) @ self.lora_a.to(wide))
        return (self.base.weight.to(wide) + update).to(self.base.weight.dtype)


def add_lora(model: nn.Module, config: LoraConfig, *, excluded: Collection[str] = ()) -> list[str]:
    """Add adapters to the layers that the configuration selects; the model is modified in place.

    Args:
        config: which layers get adapters, and their size.
        excluded: names of modules that get no adapters inside.
    Returns:
        The names of the adapted layers, in the model's order.
    Raises:
        ConfigError: a target matches no linear layer outside `excluded`; the message lists the nearest names. Or it
            selects a layer that has an adapter already, or the model is itself a layer.
    """
    if isinstance(model, nn.Linear | SwooshLinear | LoraLinear):
        raise ConfigError(
            f"the model must hold the layers to adapt, but is itself a {type(model).__name__}; put it into a module, "
            "such as nn.Sequential"
        )
    present = lora_layers(model)
    skipped = [*excluded, *(f"{name}.base" for name in present)]
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | SwooshLinear | LoraLinear)
        and not any(f"{name}.".startswith(f"{part}.") for part in skipped)
    ]
    chosen: set[str] = set()
    for target in config.targets:
        found = [name for name in names if fnmatchcase(name, target) or fnmatchcase(name, f"{target}.*")]
        if not found:
            near = difflib.get_close_matches(target, names, n=3, cutoff=0.0)
            but = f" outside {', '.join(excluded)}" if excluded else ""
            raise ConfigError(
                f"a target of lora must name a linear layer or a module with some{but}, but {target!r} matches none; the "
                f"nearest layers are {', '.join(near) or 'none'}"
            )
        if adapted := [name for name in found if name in present]:
            raise ConfigError(
                f"the layers of a target of lora must be plain, but {target!r} selects {adapted[0]}, which has an adapter "
                "already; use merged_copy first, or other targets"
            )
        chosen.update(found)
    for name in names:
        if name in chosen:
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear | SwooshLinear)
            model.set_submodule(name, LoraLinear(layer, config))
    return [name for name in names if name in chosen]


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers of a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """State dict of the equivalent plain model: adapters merged into the weights, under the original names.

    Without adapters this equals `model.state_dict()`.
    """
    layers = lora_layers(model)
    merged = {}
    for name, tensor in model.state_dict().items():
        owner, _, last = name.rpartition(".")
        layer = owner.removesuffix(".base")
        if owner in layers:  # lora_a or lora_b, which are in the weight
            continue
        if owner.endswith(".base") and layer in layers:
            merged[f"{layer}.{last}"] = layers[layer].merged_weight() if last == "weight" else tensor
        else:
            merged[name] = tensor
    return merged


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Unmerged weight, A and B of every adapted layer: what `merged_state_dict` leaves out; empty without adapters."""
    return {
        f"{name}.{part}": tensor.detach()
        for name, layer in lora_layers(model).items()
        for part, tensor in (("base.weight", layer.base.weight), ("lora_a", layer.lora_a), ("lora_b", layer.lora_b))
    }


def unmerged_state_dict(model: nn.Module, merged: Mapping[str, Tensor], unmerged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a model with adapters, rebuilt bit-exactly from `merged_state_dict` and `lora_state_dict`.

    Tensors missing in both are missing in the result; for a model without adapters the result is `merged`.
    """
    layers = lora_layers(model)
    tensors = {}
    for name, tensor in merged.items():
        owner, _, last = name.rpartition(".")
        if owner not in layers:
            tensors[name] = tensor
        elif last != "weight":
            tensors[f"{owner}.base.{last}"] = tensor
    return tensors | dict(unmerged)


def merged_copy(model: M) -> M:
    """A plain copy of a model with its adapters merged into the weights; it shares no tensor with the original."""
    plain = copy.deepcopy(model)
    for name, layer in lora_layers(plain).items():
        layer.base.weight.data = layer.merged_weight()
        plain.set_submodule(name, layer.base.requires_grad_(True))
    return plain
