"""What a module remembers of the frames before a chunk, when sound is encoded chunk by chunk.

A module takes a `Past` or None, at whatever rate it works. With None its input is all there is and beyond the ends there
is nothing; with a `Past` it puts what it remembers before its input. So streaming and offline are one path.
"""

from torch import Tensor, cat


class Past:
    """The last L frames (N, L, ...) that a module saw, and after `join` those that it is to remember next."""

    def __init__(self, frames: Tensor) -> None:
        self.frames = frames
        self.next: Tensor | None = None

    def join(self, new: Tensor, *, num_ahead: int = 0) -> Tensor:
        """Put the past before `new` (N, T, ...), giving (N, L + T, ...), and keep the last L frames for the next time.

        Args:
            new: frames that follow the past.
            num_ahead: frames at the end of `new` that will come again with the next chunk; they are not kept.
        """
        joined = cat([self.frames, new], dim=1)
        end = joined.shape[1] - num_ahead
        # Detached, or a stream would hold the graph of everything it ever heard.
        self.next = joined[:, end - self.frames.shape[1] : end].detach()
        return joined


def join(past: Past | None, new: Tensor) -> Tensor:
    """`new` with the past before it, if there is one."""
    return new if past is None else past.join(new)
