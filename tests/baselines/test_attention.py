"""Reference: attention, relative shift and positions against loops over i and j. Law: padding has no effect, a row without
any key stays finite; gradcheck."""

import math

import pytest
import torch
from torch import Tensor

from tests.golden_files import seeded
from zipasr.baselines.attention import RelativeAttention, relative_positions
from zipasr.nn.attention import RelativeShift


def position(offset: int, channels: int) -> Tensor:
    row = []
    for k in range(channels // 2):
        angle = offset / 10000 ** (2 * k / channels)
        row += [math.sin(angle), math.cos(angle)]
    return torch.tensor(row, dtype=torch.float64)


def slow_attention(attention: RelativeAttention, x: Tensor, lens: list[int]) -> Tensor:
    """Attention computed one number at a time from the formula."""
    size, num_frames, channels = x.shape
    width = channels // attention.num_heads
    out = torch.zeros_like(x)
    for n in range(size):
        query, key, value = attention.in_proj(x[n]).split(channels, dim=-1)
        for h in range(attention.num_heads):
            own = slice(h * width, (h + 1) * width)
            for i in range(num_frames):
                scores = []
                for j in range(lens[n]):
                    place = (attention.linear_pos.weight @ position(i - j, channels))[own]
                    content = (query[i, own] + attention.pos_bias_u[h]) @ key[j, own]
                    scores.append((content + (query[i, own] + attention.pos_bias_v[h]) @ place) / math.sqrt(width))
                weights = torch.stack(scores).softmax(0)
                out[n, i, own] = sum(weights[j] * value[j, own] for j in range(lens[n]))
    return attention.out_proj(out)


def make_attention() -> RelativeAttention:
    torch.manual_seed(0)
    return RelativeAttention(12, 3, dropout=0.1).double().eval()


def test_equals_loops() -> None:
    attention, x, lens = make_attention(), seeded(2, 6, 12, dtype=torch.float64), [6, 4]
    mask = torch.arange(6) >= torch.tensor(lens).unsqueeze(1)
    positions = torch.stack([position(offset, 12) for offset in range(5, -6, -1)])
    with torch.no_grad():
        torch.testing.assert_close(attention(x, positions, mask), slow_attention(attention, x, lens))


def test_positions_equal_the_formula() -> None:
    want = torch.stack([position(offset, 10) for offset in range(6, -7, -1)])
    torch.testing.assert_close(relative_positions(torch.zeros(1, 7, 10)), want.float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 8])
def test_shift_equals_loops(num_frames: int) -> None:
    scores = seeded(2, 3, num_frames, 2 * num_frames - 1)
    want = torch.empty(2, 3, num_frames, num_frames)
    for i in range(num_frames):
        for j in range(num_frames):
            want[:, :, i, j] = scores[:, :, i, num_frames - 1 - i + j]
    assert torch.equal(RelativeShift.apply(scores), want)


def test_shift_gradcheck() -> None:
    scores = seeded(2, 4, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(RelativeShift.apply, (scores,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_row_without_keys_is_finite(dtype: torch.dtype) -> None:
    attention, x = make_attention().to(dtype), seeded(2, 5, 12).to(dtype).requires_grad_()
    mask = torch.tensor([[True] * 5, [False] * 5])
    y = attention(x, relative_positions(x), mask)
    y.float().square().sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None and x.grad.isfinite().all()
