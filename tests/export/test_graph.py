"""Law: the replacements compute what the modules compute, at every length. Contract: the model itself is not changed."""

import dataclasses

import pytest
import torch

from tests.export.models import causal_model, random_model
from tests.tiny_model import tiny_tokenizer
from zipasr.encoder import rates
from zipasr.encoder.ablation import AblationConfig
from zipasr.encoder.zipformer import Zipformer
from zipasr.errors import ConfigError
from zipasr.export.blocks import TracedSwooshLinear, swoosh
from zipasr.export.graph import for_tracing
from zipasr.features import PADDING_VALUE
from zipasr.model import AsrModel, tiny
from zipasr.nn.swoosh import SHIFT_AND_OFFSET, SwooshLinear, activate


def encoded_by(encoder: Zipformer, x: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    frames, lens = encoder.encode_frames(encoder.frontend(x), rates.embed_lengths(lens))
    return frames.masked_fill((torch.arange(frames.shape[1]) >= lens.unsqueeze(1)).unsqueeze(-1), 0.0)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("lens", [(9,), (11, 9), (24,), (25, 100), (391, 400, 50)])
def test_replacements_equal_the_encoder(is_causal: bool, lens: tuple[int, ...]) -> None:
    encoder = (causal_model() if is_causal else random_model()).encoder
    assert isinstance(encoder, Zipformer)
    x = torch.randn(len(lens), max(lens), 80) * 3 - 8
    for row, length in zip(x, lens, strict=True):
        row[length:] = PADDING_VALUE
    with torch.no_grad():
        expected = encoded_by(encoder, x, torch.tensor(lens))
        found = encoded_by(for_tracing(encoder), x, torch.tensor(lens))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_model_is_not_changed() -> None:
    encoder = random_model().encoder
    assert isinstance(encoder, Zipformer)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    for_tracing(encoder)
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", ["swoosh_left", "swoosh_right"])
def test_swoosh_is_exact_for_every_input(kind: str) -> None:
    x = torch.cat([torch.linspace(-30, 30, 6001), torch.tensor([-1e4, -200.0, -89.0, 89.0, 200.0, 1e4])])
    shift, offset = SHIFT_AND_OFFSET[kind]
    expected = activate(x.double(), kind)  # type: ignore[arg-type]
    found = swoosh(x - shift) - (0.08 * shift + offset)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=3e-6)


def test_constants_move_into_the_biases() -> None:
    module = SwooshLinear(12, 5, "swoosh_left").eval()
    x = 3 * torch.randn(2, 7, 12)
    with torch.no_grad():
        torch.testing.assert_close(TracedSwooshLinear(module)(x - 4.0), module(x), rtol=0, atol=2e-6)


@pytest.mark.parametrize("ablation", [AblationConfig(norm="layer_norm"), AblationConfig(block="conformer_pair")])
def test_ablations_are_refused(ablation: AblationConfig) -> None:
    encoder = dataclasses.replace(tiny().encoder, ablation=ablation)  # type: ignore[arg-type]
    model = AsrModel(dataclasses.replace(tiny(), vocab_size=tiny_tokenizer().vocab_size, encoder=encoder))
    with pytest.raises(ConfigError, match="ablations"):
        for_tracing(model.encoder)  # type: ignore[arg-type]
