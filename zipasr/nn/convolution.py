"""The convolution module of the Zipformer block and its depthwise convolutions, plain and chunk-causal.

All tensors are (N, T, D). A depthwise convolution over time on that layout is a 2-D convolution on channels-last memory,
which needs no copy and is many times faster on a CPU than the 1-D convolution on (N, D, T).
Source: Yao et al. 2024, arXiv:2310.11230, sections 3.2 and 4; constants from the published recipe.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.nn.attention import whitening_limit
from zipasr.nn.constraint import Balancer, Whiten
from zipasr.nn.past import Past
from zipasr.nn.placement import is_cpu_inference
from zipasr.nn.schedule import Schedule
from zipasr.nn.swoosh import ActivationKind, SwooshLinear


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor, *, padding: int = 0) -> Tensor:
    """Convolve each channel of (N, T, D) over time with `weight` (D, 1, k); zeros beyond the ends."""
    x_NDT1 = x.transpose(1, 2).unsqueeze(-1)
    y = functional.conv2d(x_NDT1, weight.unsqueeze(-1), bias, padding=(padding, 0), groups=x.shape[2])
    return y.squeeze(-1).transpose(1, 2)


def _convolve_few(x: Tensor, weight: Tensor, bias: Tensor, *, padding: int = 0) -> Tensor:
    """`depthwise_conv` as a sum of products, for a chunk of a stream: preparing a convolution takes longer."""
    if padding:
        x = functional.pad(x, (0, 0, padding, padding))
    windows_NTKD = x.unfold(1, weight.shape[2], 1).transpose(2, 3)
    return (windows_NTKD * weight.squeeze(1).t().contiguous()).sum(2).add_(bias)


def convolve_image(image: Tensor, conv: nn.Conv2d) -> Tensor:
    """Apply `conv` to (N, T, F, C) and return the same layout."""
    return conv(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


_MOST_PRODUCTS = 2**17
"""Products (windows times kernel) up to which they are faster than a convolution: 20 us against 65 for 16 frames of 192
channels and a kernel of 31, but 260 against 180 for 16 such chunks at once."""


class DepthwiseConv(nn.Module):
    """Depthwise convolution over time with k//2 frames of context on both sides."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        conv = nn.Conv1d(channels, channels, kernel_size, groups=channels)
        assert conv.bias is not None
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor, chunk_frames: int = -1, past: Past | None = None) -> Tensor:
        """Map (N, T, D) to (N, T, D); chunks and a past are not allowed, because every frame needs right context."""
        assert chunk_frames < 0 and past is None
        return depthwise_conv(x, self.weight, self.bias, padding=self.weight.shape[2] // 2)


class ChunkCausalDepthwiseConv(nn.Module):
    """Depthwise convolution with full left context, and right context only inside its own chunk.

    The output is the sum of a causal convolution and of a symmetric one limited to the chunk. The latter is scaled by 1
    plus a learned function of the distance to the edges of the chunk.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        causal = nn.Conv1d(channels, channels, (kernel_size + 1) // 2, groups=channels)
        chunkwise = nn.Conv1d(channels, channels, kernel_size, groups=channels)
        assert causal.bias is not None and chunkwise.bias is not None
        self.causal_weight, self.causal_bias = causal.weight, causal.bias
        nn.init.uniform_(self.causal_bias, -0.1, 0.1)
        self.chunkwise_weight, self.chunkwise_bias = chunkwise.weight, chunkwise.bias
        self.edge_scale = nn.Parameter(torch.zeros(2, channels, kernel_size))

    def chunk_scale(self, chunk_frames: int) -> Tensor:
        """Scale (C, D) of the chunkwise part at each position of a chunk of C frames."""
        left, right = self.edge_scale[0], self.edge_scale[1]
        if chunk_frames < self.kernel_size:
            left, right = left[:, :chunk_frames], right[:, self.kernel_size - chunk_frames :]
        else:
            fill = chunk_frames - self.kernel_size
            left, right = functional.pad(left, (0, fill)), functional.pad(right, (fill, 0))
        return (1.0 + left + right).t()

    def forward(self, x: Tensor, chunk_frames: int, past: Past | None = None) -> Tensor:
        """Map (N, T, D) to (N, T, D).

        Args:
            x: (N, T, D).
            chunk_frames: frames of a chunk; < 0 or more than T: all T frames are one chunk.
            past: the k//2 frames before x; None means zeros.
        """
        batch, num_frames, channels = x.shape
        if chunk_frames < 0 or chunk_frames > num_frames:
            chunk_frames = num_frames
        reach = self.kernel_size // 2
        reached = functional.pad(x, (0, 0, reach, 0)) if past is None else past.join(x)
        if is_cpu_inference(x) and chunk_frames == num_frames and x.numel() * self.kernel_size <= _MOST_PRODUCTS:
            causal = _convolve_few(reached, self.causal_weight, self.causal_bias)
            chunked = _convolve_few(x, self.chunkwise_weight, self.chunkwise_bias, padding=reach)
            return causal.addcmul_(chunked, self.chunk_scale(chunk_frames))
        causal = depthwise_conv(reached, self.causal_weight, self.causal_bias)
        fill = -num_frames % chunk_frames
        chunks = functional.pad(x, (0, 0, 0, fill)).reshape(-1, chunk_frames, channels)
        chunked = depthwise_conv(chunks, self.chunkwise_weight, self.chunkwise_bias, padding=reach)
        chunked = (chunked * self.chunk_scale(chunk_frames)).reshape(batch, -1, channels)[:, :num_frames]
        return causal + chunked


class ConvolutionModule(nn.Module):
    """Convolution module of the Zipformer block: gate, depthwise convolution, SwooshR, projection."""

    def __init__(
        self, channels: int, kernel_size: int, *, is_causal: bool, activation: ActivationKind = "swoosh_right"
    ) -> None:
        super().__init__()
        self.in_proj = nn.Linear(channels, 2 * channels)
        self.gate_balancer = Balancer(
            min_positive=Schedule(((0.0, 0.05), (8000.0, 0.025))),
            max_positive=1.0,
            min_abs=1.5,
            max_abs=Schedule(((0.0, 5.0), (8000.0, 10.0)), default=1.0),
        )
        self.depthwise = (ChunkCausalDepthwiseConv if is_causal else DepthwiseConv)(channels, kernel_size)
        self.out_balancer = Balancer(
            min_positive=Schedule(((0.0, 0.1), (8000.0, 0.05))),
            max_positive=1.0,
            min_abs=Schedule(((0.0, 0.2), (20000.0, 0.5))),
            max_abs=10.0,
        )
        self.whiten = Whiten(whitening_limit(7.5, 2.0))
        self.out_proj = SwooshLinear(channels, channels, activation, init_scale=0.05)

    def forward(self, x: Tensor, padding_mask: Tensor, chunk_frames: int = -1, past: Past | None = None) -> Tensor:
        """Map (N, T, D) to (N, T, D).

        Args:
            x: (N, T, D).
            padding_mask: bool (N, T), True at padding frames, which are set to zero before the convolution.
            chunk_frames: frames of a chunk at the rate of the stack; -1 for all frames in one chunk.
            past: the k//2 gated frames before x; None means zeros. Causal convolutions only.
        """
        content, gate = self.in_proj(x).chunk(2, dim=-1)
        gated = content * self.gate_balancer(gate).sigmoid()
        gated = gated.masked_fill(padding_mask.unsqueeze(-1), 0.0)
        return self.out_proj(self.whiten(self.out_balancer(self.depthwise(gated, chunk_frames, past))))
