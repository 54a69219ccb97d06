"""Conv-Embed, the first layer of the encoder: features (N, T, F) at 100 Hz -> frames (N, T', D) at 50 Hz.

Three small 2-D convolutions halve time once and frequency twice, a ConvNeXt layer refines the image, and a linear layer
projects channels and frequencies to the embedding. (With `rate` 4 the third convolution halves time as well, for the
ablation without temporal downsampling.) Images have the layout (N, T, F, C), channels last: the constraints expect it, and
2-D convolutions on a CPU are fastest with it. Padding is not masked: see `AsrModel.encode`. Lengths are in `rates.py`.
Source: Yao et al. 2024, arXiv:2310.11230, section 3.1; constants from the published recipe.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zipasr.encoder.ablation import AblationConfig
from zipasr.encoder.rates import FEATURES_PER_FRAME_50HZ, FRAMES_AHEAD, MIN_FEATURES, embed_length
from zipasr.nn.constraint import Balancer, Whiten, scale_grad
from zipasr.nn.convolution import convolve_image
from zipasr.nn.dropout import DROPOUT, Dropout, sequence_mask
from zipasr.nn.past import Past
from zipasr.nn.placement import is_cpu_inference
from zipasr.nn.schedule import Schedule, ScheduledModule
from zipasr.nn.swoosh import ActivationKind, activate

_SLICE_FRAMES = 128
"""Frames that inference on a CPU computes at once."""


def image_width(num_features: int) -> int:
    """Number of frequencies F' that remain of F mel bins after the three convolutions."""
    return ((num_features - 1) // 2 - 1) // 2


class ConvNeXt(ScheduledModule):
    """Residual layer: a 7x7 depthwise convolution, then a pointwise bottleneck with 3 times as many hidden channels."""

    def __init__(self, channels: int, *, activation: ActivationKind = "swoosh_left") -> None:
        super().__init__()
        self.activation = activation
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.pointwise1 = nn.Linear(channels, 3 * channels)
        self.hidden_balancer = Balancer(min_positive=0.3, max_positive=1.0, min_abs=0.75, max_abs=5.0)
        self.pointwise2 = nn.Linear(3 * channels, channels)
        with torch.no_grad():
            self.pointwise2.weight.mul_(0.01)
            nn.init.uniform_(self.pointwise2.bias, -0.001, 0.001)
        self.out_balancer = Balancer(min_positive=0.4, max_positive=0.6, min_abs=1.0, max_abs=6.0)
        self.out_whiten = Whiten(5.0)
        self.skip_rate = Schedule(((0.0, 0.2), (20000.0, 0.015)))

    def forward(self, image: Tensor, past: Past | None = None) -> Tensor:
        """Map (N, T, F, C) to the same shape, or to (N, T - 3, F, C) with a past of 3 frames: the last 3 are look-ahead."""
        if past is None:
            convolved = convolve_image(image, self.depthwise)
        else:  # no padding in time: the past and the look-ahead supply those frames
            conv, joined = self.depthwise, past.join(image, num_ahead=FRAMES_AHEAD).permute(0, 3, 1, 2)
            y = functional.conv2d(joined, conv.weight, conv.bias, padding=(0, FRAMES_AHEAD), groups=conv.groups)
            convolved, image = y.permute(0, 2, 3, 1), image[:, :-FRAMES_AHEAD]
        hidden = self.hidden_balancer(self.pointwise1(convolved))
        y = self.pointwise2(activate(hidden, self.activation))
        rate = self.value(self.skip_rate)
        if rate > 0.0:
            y = y * sequence_mask(y, rate)
        return self.out_whiten(self.out_balancer(image + y))


class ConvEmbed(nn.Module):
    """Turns features at 100 Hz into embeddings at 50 Hz."""

    def __init__(
        self,
        num_features: int,
        channels: int,
        *,
        conv_channels: tuple[int, int, int] = (8, 32, 128),
        dropout: Schedule | float = DROPOUT,
        rate: int = FEATURES_PER_FRAME_50HZ,
        ablation: AblationConfig | None = None,
    ) -> None:
        super().__init__()
        ablation = ablation or AblationConfig()
        self.rate, self.activation = rate, ablation.right_activation
        c1, c2, c3 = conv_channels
        self.conv1 = nn.Conv2d(1, c1, 3, padding=(0, 1))
        self.balancer1 = Balancer(max_abs=1.0)
        self.conv2 = nn.Conv2d(c1, c2, 3, stride=2)
        self.balancer2 = Balancer(max_abs=4.0)
        self.conv3 = nn.Conv2d(c2, c3, 3, stride=(rate // 2, 2))
        self.balancer3 = Balancer(max_abs=4.0)
        self.convnext = ConvNeXt(c3, activation=ablation.left_activation)
        self.out = nn.Linear(c3 * image_width(num_features), channels)
        self.out_whiten = Whiten(Schedule(((0.0, 4.0), (20000.0, 8.0)), default=4.0), grad_scale=0.02)
        self.out_norm = ablation.make_norm(channels)
        self.dropout = Dropout(dropout, is_shared_over_time=True)

    def forward(self, features: Tensor, past: Past | None = None) -> Tensor:
        """Map (N, T, F), T >= 9, to (N, T', D) with T' = `rates.embed_length(T, rate)`.

        `past` holds the (N, 3, F', C) frames before these, at the input of the ConvNeXt layer. With it T' is 3 less, because
        the last 3 frames are look-ahead. None stands for zeros on both sides.
        """
        num_frames = embed_length(features.shape[1], self.rate)
        has_slices = features.shape[0] * num_frames > _SLICE_FRAMES + FRAMES_AHEAD and past is None and not self.training
        if has_slices and is_cpu_inference(features):
            return torch.stack([self._in_slices(row.unsqueeze(0), num_frames) for row in features])
        return self._embedded(self._image(features), past)

    def _image(self, features: Tensor) -> Tensor:
        """The input (N, T', F', C) of the ConvNeXt layer."""
        image = convolve_image(features.unsqueeze(-1), self.conv1)
        if self.training:
            image = scale_grad(image, 0.2)
        image = activate(self.balancer1(image), self.activation)
        image = activate(self.balancer2(convolve_image(image, self.conv2)), self.activation)
        return activate(self.balancer3(convolve_image(image, self.conv3)), self.activation)

    def _embedded(self, image: Tensor, past: Past | None) -> Tensor:
        """The embeddings of an image, without its look-ahead if there is a past."""
        image = self.convnext(image, past)
        flat = image.transpose(2, 3).flatten(2)  # channel-major: index c · F + f
        return self.dropout(self.out_norm(self.out_whiten(self.out(flat))))

    def _in_slices(self, features: Tensor, num_frames: int) -> Tensor:
        """The embeddings (T', D) of one sequence (1, T, F), whose images are the largest tensors of the encoder.

        It is encoded like a stream, some frames at a time, with zeros before and after all frames.
        """
        slices, edge = [], None
        for start in range(0, num_frames, _SLICE_FRAMES):
            end = start + _SLICE_FRAMES
            last = min(end + FRAMES_AHEAD, num_frames)
            image = self._image(features[:, self.rate * start : self.rate * (last - 1) + MIN_FEATURES])
            image = functional.pad(image, (0, 0, 0, 0, 0, min(end, num_frames) + FRAMES_AHEAD - last))
            past = Past(torch.zeros_like(image[:, :FRAMES_AHEAD]) if edge is None else edge)
            slices.append(self._embedded(image, past)[0])
            edge = past.next
        return torch.cat(slices)
