"""Input buffer of a streaming encoder: cuts features (t, F) at 100 Hz, pushed in pieces of any size, into windows.

The window of a chunk of C frames at 50 Hz has 2 C + 13 features, and the next window starts 2 C features later.
"""

import torch
from torch import Tensor

from zipasr.encoder.rates import FEATURES_PER_FRAME_50HZ, embed_length, window_length


class WindowBuffer:
    """Features of one stream that are not encoded yet.

    A window is ready as soon as all its features are there; after `finish` the last windows are filled with padding, which
    does not count as audio. A stream thus yields as many frames as its features would in one pass, with the values that
    they would have if enough padding followed. Padding that should count as audio must be pushed before `finish`.
    """

    def __init__(self, chunk_frames_50hz: int, *, padding_value: float, window_frames: int | None = None) -> None:
        """Create the buffer of a new stream.

        Args:
            chunk_frames_50hz: frames C of a chunk at 50 Hz.
            padding_value: fills the last windows; `features.PADDING_VALUE` for the published models.
            window_frames: features in a window, if the encoder takes another number; None: 2 C + 13.
        """
        if chunk_frames_50hz < 1:
            raise ValueError(f"chunk_frames_50hz must be 1 or more, but is {chunk_frames_50hz}")
        self.hop_frames = FEATURES_PER_FRAME_50HZ * chunk_frames_50hz
        self.window_frames = window_length(chunk_frames_50hz) if window_frames is None else window_frames
        self.padding_value = padding_value
        self._pieces: list[Tensor] = []
        self._num_frames = 0
        self._is_finished = False

    def push(self, features: Tensor) -> None:
        """Add features.

        Args:
            features: (t, F) at 100 Hz, t from 0.
        Raises:
            ValueError: not (t, F), or another F than before.
            RuntimeError: the stream has finished.
        """
        if self._is_finished:
            raise RuntimeError("a finished stream takes no more features; create another WindowBuffer")
        expected = self._pieces[0].shape[1] if self._pieces else None
        if features.dim() != 2 or expected not in (None, features.shape[1]):
            raise ValueError(
                f"features must be (t, {'F' if expected is None else expected}), but are {tuple(features.shape)}; "
                "push one stream at a time, without a batch dimension"
            )
        self._pieces.append(features)
        self._num_frames += features.shape[0]

    def finish(self) -> None:
        """Mark the end of the stream; `push` is an error afterwards."""
        self._is_finished = True

    @property
    def num_missing(self) -> int:
        """Features that the next window still needs; of the last windows, some may never come."""
        return max(0, self.window_frames - self._num_frames)

    @property
    def is_ready(self) -> bool:
        """Whether `pop` would return a window."""
        if self._is_finished:
            return embed_length(self._num_frames) > 0
        return self._num_frames >= self.window_frames

    def pop(self) -> tuple[Tensor, int] | None:
        """Remove and return the next window.

        Returns:
            The window (2 C + 13, F) and its number of valid features, the `lens` of `Zipformer.encode_chunk`; None if more
            features are needed first, or if the stream has finished and is empty.
        """
        if not self.is_ready:
            return None
        waiting = self._pieces[0] if len(self._pieces) == 1 else torch.cat(self._pieces)
        window, num_valid = waiting[: self.window_frames], min(self._num_frames, self.window_frames)
        if num_valid < self.window_frames:
            padding = window.new_full((self.window_frames - num_valid, window.shape[1]), self.padding_value)
            window = torch.cat([window, padding])
        self._pieces = [waiting[self.hop_frames :]]
        self._num_frames = self._pieces[0].shape[0]
        return window, num_valid
