"""Reference: nn.BatchNorm1d, on everything or on the valid frames alone. Law: without
valid frames nothing changes."""

import pytest
import torch
from torch import nn

from tests.golden_files import seeded
from zipasr.baselines.norm import MaskedBatchNorm


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
