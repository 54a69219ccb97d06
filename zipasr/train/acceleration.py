"""Time and memory of encoder blocks: activation checkpointing, and torch.compile.

Both modify the blocks of a model in place, but not its parameters or their names; copy the model for validation first.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

_BLOCK_LISTS = ("blocks", "first_blocks", "reduced_blocks", "last_blocks")


def encoder_blocks(encoder: nn.Module) -> list[nn.Module]:
    """The repeated blocks of any encoder, in order."""
    stacks = getattr(encoder, "stacks", None)
    if stacks is not None:
        return [layer for stack in stacks for layer in stack.layers]
    return [block for name in _BLOCK_LISTS for block in getattr(encoder, name, ())]


def recompute_activations(encoder: nn.Module) -> None:
    """Save only the input of each block in training, and recompute the rest in the backward pass.

    The states of the random generators are saved too, including the CPU generator that decides whether modules are
    active: the recomputation draws the same numbers, and gradients are bit-identical.
    """
    for block in encoder_blocks(encoder):
        block.forward = functools.partial(_recomputed, block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Any], *args: Any) -> Any:
    if not block.training:
        return forward(*args)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True)


def compile_blocks(encoder: nn.Module, *, backend: str = "inductor") -> None:
    """Compile each block with torch.compile, for batches of any size."""
    for block in encoder_blocks(encoder):
        block.compile(backend=backend, dynamic=True)
