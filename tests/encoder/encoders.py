"""Encoders to test: small ones with random weights, and those of the golden files."""

from typing import Any

import torch
from torch import Tensor

from tests.golden_files import encoder_config, encoder_tensors, load_golden
from zipasr.encoder.zipformer import Zipformer, ZipformerConfig

CHUNKS = [(-1, -1), (16, -1), (16, 64), (32, 128), (64, 64)]


def golden_encoder(kind: str) -> tuple[Zipformer, dict[str, Tensor]]:
    """The encoder of a golden file; its Conv-Embed is not in the file and not used.

    It has the original's position encodings, which in float32 depend on the processor: ours differ by up to 1e-5, and
    gradients then by 0.2 %.
    """
    meta, golden = load_golden(f"a_zipformer2_{kind}")
    encoder = Zipformer(encoder_config(meta, is_causal=kind == "causal"))
    own = encoder_tensors(golden)
    assert own.keys() == {name for name in encoder.state_dict() if not name.startswith("frontend.")}
    encoder.load_state_dict(own, strict=False)
    for stack in encoder.stacks:
        stack.positions.table = load_golden("pos_enc_dim24")[1]["out.dim24_T200_left0"][0]
    return encoder.eval(), golden


def small_config(**settings: Any) -> ZipformerConfig:
    """The configuration of a small encoder of four stacks, with `settings` replaced."""
    values: dict[str, Any] = {
        "num_features": 20,
        "conv_channels": (2, 4, 8),
        "channels": (16, 24, 32, 24),
        "unmasked_channels": (16, 16, 24, 20),
        "num_layers": (1, 2, 1, 1),
        "downsample": (1, 2, 4, 2),
        "feedforward": (16, 24, 32, 24),
        "num_heads": (2, 2, 2, 2),
        "kernel_sizes": (7, 7, 5, 7),
        "query_head_dim": 4,
        "value_head_dim": 4,
        "pos_dim": 8,
        "chunk_frames_50hz": (8, 16, -1),
        "left_context_frames_50hz": (16, 32, -1),
    }
    return ZipformerConfig(**(values | settings))


def small_encoder(**settings: Any) -> Zipformer:
    """An encoder of `small_config` with random weights, the same in every run."""
    torch.manual_seed(0)
    return Zipformer(small_config(**settings))
