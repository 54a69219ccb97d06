"""Reference: nn.Conv1d on the valid frames. Contract: how the gate of the gating MLP starts."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.golden_files import seeded
from zipasr.baselines.convolution import DepthwiseConv, GatingMlp


@pytest.mark.parametrize("kernel_size", [1, 5, 31])
def test_equals_conv1d_of_the_valid_frames(kernel_size: int) -> None:
    torch.manual_seed(0)
    ours, theirs = DepthwiseConv(6, kernel_size), nn.Conv1d(6, 6, kernel_size, padding=kernel_size // 2, groups=6)
    theirs.load_state_dict(ours.state_dict())
    x = seeded(2, 9, 6)
    mask = torch.arange(9) >= torch.tensor([[9], [4]])
    y = ours(x, mask)
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
