"""Golden files: what the original system computed with seeded weights, for tests to compare with.

Names inside a file: `in.*` inputs, `w.*` weights under the original's names, `out.*` outputs, `grad.*` gradients. Tensors
inside the original's encoder are time-first (T, N, D); ours are batch-first.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.heads.attention import AttentionConfig
from zipasr.hub import rename_layer_key, rename_state_dict

FOLDER = Path(__file__).parent / "golden"


def load_golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the tensors of one golden file."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        meta = json.loads(file.metadata()["meta"])
        return meta, {key: file.get_tensor(key) for key in file.keys()}


def weights(tensors: dict[str, Tensor], prefix: str = "w.") -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def layer_tensors(tensors: dict[str, Tensor], prefix: str = "w.") -> dict[str, Tensor]:
    """Tensors of one encoder block under our names."""
    return {rename_layer_key(key): tensor for key, tensor in weights(tensors, prefix).items()}


def encoder_tensors(tensors: dict[str, Tensor], prefix: str = "w.") -> dict[str, Tensor]:
    """Tensors of the stacks under the names that they have in `Zipformer`."""
    renamed = rename_state_dict({f"encoder.{key}": tensor for key, tensor in weights(tensors, prefix).items()})
    return {key.removeprefix("encoder."): tensor for key, tensor in renamed.items()}


def frontend_tensors(tensors: dict[str, Tensor], prefix: str = "w.") -> dict[str, Tensor]:
    """Tensors of Conv-Embed under the names that they have in `ConvEmbed`."""
    renamed = rename_state_dict({f"encoder_embed.{key}": tensor for key, tensor in weights(tensors, prefix).items()})
    return {key.removeprefix("encoder.frontend."): tensor for key, tensor in renamed.items()}


def encoder_config(meta: dict[str, Any], *, is_causal: bool = False) -> ZipformerConfig:
    """Our configuration of the encoder that a golden file was made with."""

    def numbers(name: str) -> tuple[int, ...]:
        return tuple(int(item) for item in meta[name].split(","))

    return ZipformerConfig(
        channels=numbers("encoder_dim"),
        unmasked_channels=numbers("encoder_unmasked_dim"),
        num_layers=numbers("num_encoder_layers"),
        downsample=numbers("downsampling_factor"),
        feedforward=numbers("feedforward_dim"),
        num_heads=numbers("num_heads"),
        kernel_sizes=numbers("cnn_module_kernel"),
        query_head_dim=int(meta["query_head_dim"]),
        value_head_dim=int(meta["value_head_dim"]),
        pos_head_dim=int(meta["pos_head_dim"]),
        pos_dim=meta["pos_dim"],
        is_causal=is_causal,
    )


def attention_config(meta: dict[str, Any]) -> AttentionConfig:
    """Our configuration of the attention decoder that the golden model was made with."""
    return AttentionConfig(
        num_layers=meta["attention_decoder_num_layers"],
        dim=meta["attention_decoder_dim"],
        attention_dim=meta["attention_decoder_attention_dim"],
        num_heads=meta["attention_decoder_num_heads"],
        feedforward=meta["attention_decoder_feedforward_dim"],
    )


def batch_first(x: Tensor) -> Tensor:
    """(T, N, ...) -> (N, T, ...)."""
    return x.transpose(0, 1)


def assert_close_to(actual: Tensor, expected: Tensor, rel: float = 1e-5, name: str = "tensor") -> None:
    """Fail unless max|actual - expected| <= rel · max|expected|, the measure of the golden files."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)} is not {tuple(expected.shape)}"
    actual, expected = actual.detach(), expected.detach()
    difference = (actual.double() - expected.double()).abs().max().item() if expected.numel() else 0.0
    limit = rel * expected.abs().max().item() if expected.numel() else 0.0
    assert difference <= limit, f"{name}: differs by {difference:.3g}, more than {limit:.3g}"


def assert_gradients(module: nn.Module, expected: dict[str, Tensor], rel: float = 1e-5) -> None:
    """Fail unless the gradients of the named parameters of `module` are as expected."""
    own = dict(module.named_parameters())
    for name, gradient in expected.items():
        actual = own[name].grad
        assert actual is not None, f"{name} has no gradient"
        assert_close_to(actual, gradient, rel, name)


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, the same in every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
