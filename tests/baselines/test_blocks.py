"""Reference: nn.Conv1d and nn.BatchNorm1d, on all frames or on the valid frames only. Law: without valid frames the running
averages do not change. Contract: the initial gate of the gating MLP."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.golden_files import seeded
from zipasr.baselines.blocks import GatingMlp, MaskedBatchNorm, zero_padding
from zipasr.nn.convolution import DepthwiseConv


@pytest.mark.parametrize("kernel_size", [1, 5, 31])
def test_equals_conv1d_of_the_valid_frames(kernel_size: int) -> None:
    torch.manual_seed(0)
    ours, theirs = DepthwiseConv(6, kernel_size), nn.Conv1d(6, 6, kernel_size, padding=kernel_size // 2, groups=6)
    theirs.load_state_dict(ours.state_dict())
    x = seeded(2, 9, 6)
    mask = torch.arange(9) >= torch.tensor([[9], [4]])
    y = ours(zero_padding(x, mask))
    for n, num_valid in enumerate((9, 4)):
        want = theirs(x[n : n + 1, :num_valid].transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(y[n : n + 1, :num_valid], want)


def test_gate_starts_at_one() -> None:
    torch.manual_seed(0)
    mlp = GatingMlp(8, 12, 31, dropout=0.5).eval()
    assert mlp.gate_conv.weight.std().item() == pytest.approx(1e-6, rel=0.2)
    x = seeded(2, 9, 8)
    plain = mlp.out_proj(functional.gelu(mlp.in_proj(x))[..., :6])
    torch.testing.assert_close(mlp(x, torch.zeros(2, 9, dtype=torch.bool)), plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("lens", [(5, 5, 5), (5, 2, 0)])
def test_equals_batch_norm_of_the_valid_frames(lens: tuple[int, ...]) -> None:
    ours, theirs = MaskedBatchNorm(4), nn.BatchNorm1d(4, eps=1e-3, momentum=0.015)
    mask = torch.arange(5) >= torch.tensor(lens).unsqueeze(1)
    x = (3.0 * seeded(3, 5, 4) + 2.0).masked_fill(mask.unsqueeze(-1), 1e4)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    y1, y2 = ours(x1, mask), theirs(x2[~mask])
    torch.testing.assert_close(y1[~mask], y2)
    weights = seeded(int((~mask).sum()), 4)
    (y1[~mask] * weights).sum().backward()
    (y2 * weights).sum().backward()
    torch.testing.assert_close(x1.grad, x2.grad, atol=1e-5, rtol=1e-4)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], msg=name)
    torch.testing.assert_close(ours.eval()(x, mask)[~mask], theirs.eval()(x[~mask]))


def test_no_valid_frame_changes_nothing() -> None:
    norm = MaskedBatchNorm(4)
    y = norm(seeded(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    assert y.isfinite().all()
    assert torch.equal(norm.running_mean, torch.zeros(4))
    assert torch.equal(norm.running_var, torch.ones(4))
