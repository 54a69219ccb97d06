"""The frame rates of the Zipformer and how lengths change between them: features at 100 Hz -> 50 Hz -> 25 Hz.

Conv-Embed turns T features at 100 Hz into (T - 7) // 2 frames at 50 Hz, and the last stack's output is halved to 25 Hz,
rounded up. Every other file takes these numbers from here; `features.py` and the other encoders (`baselines/`) have rules of
their own, which tests compare with these.
"""

from torch import Tensor

FEATURE_RATE_HZ = 100
"""Features per second, as `Fbank` computes them."""
EMBED_RATE_HZ = 50
"""Frames per second after Conv-Embed, the rate of chunks and left contexts."""
ENCODED_RATE_HZ = 25
"""Frames per second of an encoder's output, the rate of losses and searches."""
FRAME_MS_50HZ = 1000.0 / EMBED_RATE_HZ
FRAME_S_50HZ = 1.0 / EMBED_RATE_HZ
FRAME_S_25HZ = 1.0 / ENCODED_RATE_HZ
FEATURES_PER_FRAME_50HZ = FEATURE_RATE_HZ // EMBED_RATE_HZ
FEATURES_PER_FRAME_25HZ = FEATURE_RATE_HZ // ENCODED_RATE_HZ

MIN_FEATURES = 9
"""Fewest features from which Conv-Embed, and so the encoder, makes one frame."""
FRAMES_AHEAD = 3
"""Frames that the ConvNeXt layer of Conv-Embed needs on either side of one, at the rate of Conv-Embed."""
WINDOW_OVERHANG = 13
"""Features in a streaming window beyond two per frame of its chunk: the convolutions consume 7, and the ConvNeXt layer looks
ahead by 2 · `FRAMES_AHEAD`."""


def embed_length(num_features: int, rate: int = FEATURES_PER_FRAME_50HZ) -> int:
    """Number of frames at 50 Hz (`rate` 4: at 25 Hz) that Conv-Embed makes of `num_features` at 100 Hz."""
    return max(0, (num_features - _num_consumed(rate)) // rate)


def embed_lengths(lens: Tensor, rate: int = FEATURES_PER_FRAME_50HZ) -> Tensor:
    """`embed_length` of each entry of an integer tensor."""
    return ((lens - _num_consumed(rate)) // rate).clamp(min=0)


def output_length(num_features: int) -> int:
    """Number of frames at 25 Hz that a Zipformer makes of `num_features` at 100 Hz; 0 if there are too few."""
    return (embed_length(num_features) + 1) // 2


def output_lengths(lens: Tensor) -> Tensor:
    """`output_length` of each entry of an integer tensor."""
    return (embed_lengths(lens) + 1) // 2


def window_length(chunk_frames_50hz: int) -> int:
    """Number of features at 100 Hz in the window that a streaming encoder takes for one chunk."""
    return FEATURES_PER_FRAME_50HZ * chunk_frames_50hz + WINDOW_OVERHANG


def _num_consumed(rate: int) -> int:
    """Features that the three convolutions of Conv-Embed consume beyond `rate` per frame."""
    return 7 if rate == FEATURES_PER_FRAME_50HZ else 5
