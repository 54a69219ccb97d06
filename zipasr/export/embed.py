"""Replacement for Conv-Embed in a graph; `export.graph` inserts it."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.encoder.frontend import ConvEmbed
from zipasr.encoder.rates import FEATURES_PER_FRAME_50HZ, FRAMES_AHEAD, MIN_FEATURES, embed_length
from zipasr.export.blocks import (
    TracedNorm,
    blocks_of,
    excess,
    linear_after_swoosh,
    linear_of,
    shift_of,
    shifted_linear,
    swoosh,
)
from zipasr.export.scan import scan
from zipasr.nn.norm import BiasNorm

_BLOCK_FRAMES = 64
"""Most frames in a block; its largest tensor has 5 MB in the published models."""
_OVERLAP = MIN_FEATURES - FEATURES_PER_FRAME_50HZ
"""Features by which the windows of two frames overlap."""


class TracedConvEmbed(nn.Module):
    """Replaces `ConvEmbed`; images are (N, C, T, F) in the convolutions, (N, T, F, C) after them.

    Every utterance is processed in blocks of frames, since its hidden channels are the largest tensor of the encoder.
    """

    def __init__(self, module: ConvEmbed) -> None:
        super().__init__()
        self.block = EmbeddedBlock(module)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, T, F) to (N, T', D)."""
        num_frames = embed_length(features.shape[1])
        blocks = blocks_of(num_frames, _BLOCK_FRAMES)
        # The first and the last block need features of frames that do not exist; the block masks these.
        reach = FEATURES_PER_FRAME_50HZ * FRAMES_AHEAD
        num_offsets = blocks.rows.shape[0] + 2 * FRAMES_AHEAD
        num_needed = FEATURES_PER_FRAME_50HZ * num_offsets + _OVERLAP
        index = (FEATURES_PER_FRAME_50HZ * blocks.starts - reach).unsqueeze(1) + torch.arange(num_needed)
        index = index.clamp(0, features.shape[1] - 1).flatten()
        windows = features.index_select(1, index).reshape(-1, num_needed, features.shape[2])
        starts = blocks.starts.repeat(features.shape[0])
        offsets = torch.arange(num_offsets)
        frames = scan(lambda window, start: self.block(window, start, offsets, num_frames), [windows, starts])
        return frames.reshape(features.shape[0], -1, frames.shape[2])[:, :num_frames]


class EmbeddedBlock(nn.Module):
    """Conv-Embed of a block of frames; the parts that a chunk of a stream needs, too."""

    def __init__(self, module: ConvEmbed) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = module.conv1, module.conv2, module.conv3
        self.depthwise, kind = module.convnext.depthwise, module.activation
        self.excess = excess(kind)
        for conv in (self.conv1, self.conv2, self.conv3):
            assert conv.bias is not None
            conv.bias.data -= shift_of(kind)
        for conv in (self.conv2, self.conv3):  # they have no padding, so a constant input is a constant output
            assert conv.bias is not None
            conv.bias.data -= self.excess * conv.weight.sum((1, 2, 3))
        inner = module.convnext
        self.pointwise1 = shifted_linear(inner.pointwise1, inner.activation)
        self.pointwise2 = linear_after_swoosh(inner.pointwise2.weight, inner.pointwise2.bias, inner.activation)
        channels = self.conv3.out_channels
        width = module.out.in_features // channels
        weight = module.out.weight.view(-1, channels, width).transpose(1, 2).flatten(1)
        self.out = linear_of(weight, module.out.bias)
        norm = module.out_norm
        assert isinstance(norm, BiasNorm)
        self.out_norm = TracedNorm(norm)

    def forward(self, window: Tensor, start: Tensor, offsets: Tensor, num_frames: Tensor | int) -> Tensor:
        """Frames (R, D) of an utterance from number `start` on.

        Args:
            window: (2 (R + 6) + 5, F), features from 6 before those of frame `start` on.
            start: (), int64.
            offsets: (R + 6,), counting from 0.
            num_frames: T'.
        """
        image = self._image(window.unsqueeze(0))
        place = offsets + (start - FRAMES_AHEAD)
        exists = ((place >= 0) & (place < num_frames)).to(image.dtype)
        image = image * exists.reshape(-1, 1)  # beyond the ends, the depthwise convolution sees zeros
        reached = functional.conv2d(
            image, self.depthwise.weight, self.depthwise.bias, padding=(0, FRAMES_AHEAD), groups=image.shape[1]
        )
        inner = image[:, :, FRAMES_AHEAD:-FRAMES_AHEAD].permute(0, 2, 3, 1)
        y = self._after_convnext(inner, reached.permute(0, 2, 3, 1))
        return self.out_norm(self.out(y.squeeze(0).flatten(1)))

    def image_of_chunk(self, features: Tensor, past: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
        """The image (N, T, F', C) of the T frames of a chunk after the ConvNeXt layer, and the next past.

        Args:
            features: (N, 2 T + 13, F).
            past: (N, C, 3, F').
            num_frames: T.
        """
        image, conv = self._image(features), self.depthwise
        joined = torch.cat([past, image], dim=2)
        reached = functional.conv2d(joined, conv.weight, conv.bias, padding=(0, FRAMES_AHEAD), groups=conv.groups)
        following = joined[:, :, num_frames : num_frames + FRAMES_AHEAD]
        own = image[:, :, :num_frames].permute(0, 2, 3, 1)
        return self._after_convnext(own, reached.permute(0, 2, 3, 1)), following

    def _image(self, features: Tensor) -> Tensor:
        """(N, T, F) -> (N, C, T', F')."""
        image = swoosh(self.conv1(features.unsqueeze(1)))
        return swoosh(self.conv3(swoosh(self.conv2(image)))) - self.excess

    def _after_convnext(self, image: Tensor, reached: Tensor) -> Tensor:
        """(N, T, F', C), before and after the depthwise convolution -> (N, T, F', C)."""
        return image + self.pointwise2(swoosh(self.pointwise1(reached)))
