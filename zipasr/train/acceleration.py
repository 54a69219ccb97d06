"""Trading time and memory in the blocks of an encoder: computing activations again, and torch.compile.

Both change the blocks of a model in place, not its parameters or their names; copies for validation are made before.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

_BLOCK_LISTS = ("blocks", "first_blocks", "reduced_blocks", "last_blocks")


def encoder_blocks(encoder: nn.Module) -> list[nn.Module]:
    """The repeated blocks of any encoder, in their order."""
    stacks = getattr(encoder, "stacks", None)
    if stacks is not None:
        return [layer for stack in stacks for layer in stack.layers]
    return [block for name in _BLOCK_LISTS for block in getattr(encoder, name, ())]


def recompute_activations(encoder: nn.Module) -> None:
    """Keep only the input of each block while training, and compute the rest again in the backward pass.

    The states of the random generators are kept, too, those of the processor included, from which modules decide whether
    they act: the second pass draws what the first one drew, and gradients are the same, bit by bit.
    """
    for block in encoder_blocks(encoder):
        block.forward = functools.partial(_recomputed, block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Any], *args: Any) -> Any:
    if not block.training:
        return forward(*args)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True)


def compile_blocks(encoder: nn.Module, *, backend: str = "inductor") -> None:
    """Have torch.compile make kernels of each block, for batches of any size."""
    for block in encoder_blocks(encoder):
        block.compile(backend=backend, dynamic=True)
