"""Golden: log-probabilities of the original's CTC head. Law: padding, order and impossible utterances. Contract: the
loss is the sum over the batch, in float32."""

import math

import pytest
import torch
from torch.nn import functional

from tests.golden_files import assert_close_to, load_golden, seeded, weights
from zipasr.errors import ConfigError
from zipasr.heads.ctc import CtcConfig, CtcHead
from zipasr.losses import consistency_loss
from zipasr.nn.encoded import Encoded


def head(dropout: float = 0.1) -> CtcHead:
    torch.manual_seed(0)
    return CtcHead(CtcConfig(dropout=dropout), encoder_channels=8, vocab_size=6, blank=0).eval()


ENCODED = Encoded(seeded(3, 9, 8), torch.tensor([9, 7, 4]))
LABELS = torch.tensor([[1, 2, 3], [4, 4, 0], [5, 0, 0]])
LABEL_LENS = torch.tensor([3, 2, 1])


def test_log_probs_equal_golden() -> None:
    _, golden = load_golden("e_asr_model")
    module = CtcHead(CtcConfig(), encoder_channels=64, vocab_size=30, blank=0).eval()
    module.output.load_state_dict(weights(golden, "w.ctc_output.1."))
    assert_close_to(module(golden["out.encoder_out"]), golden["out.ctc_output"])


def test_loss_is_the_sum_over_the_batch() -> None:
    module = head()
    expected = functional.ctc_loss(
        module(ENCODED.frames).transpose(0, 1), LABELS, ENCODED.lens, LABEL_LENS, blank=0, reduction="sum"
    )
    losses = module.loss(ENCODED, LABELS, LABEL_LENS)
    assert losses.keys() == {"ctc"}
    torch.testing.assert_close(losses["ctc"], expected)
    each = [
        module.loss(Encoded(ENCODED.frames[n : n + 1], ENCODED.lens[n : n + 1]), LABELS[n : n + 1], LABEL_LENS[n : n + 1])
        for n in range(3)
    ]
    torch.testing.assert_close(sum(loss["ctc"] for loss in each), expected)


@pytest.mark.parametrize("padding", [0, 5, -1, -100])
def test_what_padding_holds_does_not_matter(padding: int) -> None:
    module = head()
    labels = LABELS.clone()
    labels[1, 2:], labels[2, 1:] = padding, padding
    frames = ENCODED.frames.clone()
    frames[1, 7:], frames[2, 4:] = 50.0, -50.0
    loss = module.loss(Encoded(frames, ENCODED.lens), labels, LABEL_LENS)["ctc"]
    torch.testing.assert_close(loss, module.loss(ENCODED, LABELS, LABEL_LENS)["ctc"])


def test_an_utterance_without_alignment_has_zero_loss() -> None:
    """Two equal labels need three frames; the rest of the batch must still train."""
    module = head()
    encoded = Encoded(ENCODED.frames, torch.tensor([9, 2, 4]))
    loss = module.loss(encoded, LABELS, LABEL_LENS)["ctc"]
    rest = [0, 2]
    expected = module.loss(Encoded(ENCODED.frames[rest], encoded.lens[rest]), LABELS[rest], LABEL_LENS[rest])["ctc"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_an_utterance_without_frames_has_zero_loss() -> None:
    module, rest = head(), [0, 2]
    frames = ENCODED.frames.clone().requires_grad_()
    encoded, label_lens = Encoded(frames, torch.tensor([9, 0, 4])), torch.tensor([3, 0, 1])
    loss = module.loss(encoded, LABELS, label_lens)["ctc"]
    expected = module.loss(Encoded(frames[rest], encoded.lens[rest]), LABELS[rest], label_lens[rest])["ctc"]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(module.loss(encoded, LABELS, LABEL_LENS)["ctc"], expected)
    loss.backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()
    assert not frames.grad[1].any()
    with pytest.raises(ValueError, match=r"frame_lens must be in \[1, 9\], as 9 frames are given, but spans -1 to 9"):
        module.loss(Encoded(frames, torch.tensor([9, -1, 4])), LABELS, label_lens)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5, math.nan])
def test_impossible_configurations_are_refused(dropout: float) -> None:
    with pytest.raises(ConfigError, match="dropout must be at least 0 and below 1"):
        CtcConfig(dropout=dropout)


def test_two_views_are_compared() -> None:
    module = head()
    views = Encoded(seeded(4, 9, 8, seed=1), torch.tensor([9, 4, 9, 4]))
    labels, label_lens = LABELS[:2].repeat(2, 1), LABEL_LENS[:2].repeat(2)
    losses = module.loss(views, labels, label_lens, has_two_views=True)
    assert losses.keys() == {"ctc", "consistency"}
    assert torch.equal(losses["ctc"], module.loss(views, labels, label_lens)["ctc"])
    expected = consistency_loss(module(views.frames), views.lens).sum()
    torch.testing.assert_close(losses["consistency"], expected)
    assert expected > 0.1


def test_dropout_works_while_training_only() -> None:
    module = head(dropout=0.5)
    assert torch.equal(module(ENCODED.frames), module(ENCODED.frames))
    module.train()
    assert not torch.equal(module(ENCODED.frames), module(ENCODED.frames))
    assert CtcConfig().dropout == 0.1


def test_a_head_in_half_precision_has_a_loss_in_float32() -> None:
    module, expected = head().bfloat16(), head().loss(ENCODED, LABELS, LABEL_LENS)["ctc"]
    loss = module.loss(Encoded(ENCODED.frames.bfloat16(), ENCODED.lens), LABELS, LABEL_LENS)["ctc"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=2e-2)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())


def test_gradients_in_double_precision() -> None:
    module = head().double()
    frames = ENCODED.frames[:, :5].double().requires_grad_()

    def loss(frames: torch.Tensor) -> torch.Tensor:
        return module.loss(Encoded(frames, ENCODED.lens.clamp(max=5)), LABELS, LABEL_LENS)["ctc"]

    assert loss(frames).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, frames)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_loss_is_float32_of_finite_gradient(dtype: torch.dtype) -> None:
    module = head()
    frames = ENCODED.frames.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss = module.loss(Encoded(frames, ENCODED.lens), LABELS, LABEL_LENS)["ctc"]
    assert loss.dtype == torch.float32
    loss.backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()
    torch.testing.assert_close(loss, module.loss(ENCODED, LABELS, LABEL_LENS)["ctc"], rtol=1e-2, atol=1e-2)
