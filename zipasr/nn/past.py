"""Left context of a module in streaming: cached frames before a chunk, when audio is encoded chunk by chunk.

A module takes a `Past` or None, at its own frame rate. With None its input is the whole utterance; with a `Past` it
prepends the cached frames to its input. Streaming and offline thus share one code path.
"""

from torch import Tensor, cat


class Past:
    """The last L frames (N, L, ...) that a module processed; after `join`, `next` holds those for the next chunk."""

    def __init__(self, frames: Tensor) -> None:
        self.frames = frames
        self.next: Tensor | None = None

    def join(self, new: Tensor, *, num_ahead: int = 0) -> Tensor:
        """Prepend the past to `new` (N, T, ...), giving (N, L + T, ...), and keep the last L frames for the next chunk.

        Args:
            new: frames that follow the past.
            num_ahead: frames at the end of `new` that the next chunk repeats; they are not kept.
        """
        joined = cat([self.frames, new], dim=1)
        end = joined.shape[1] - num_ahead
        kept = joined[:, end - self.frames.shape[1] : end]
        # Detached, or a stream would hold the autograd graph of all its audio.
        self.next = kept.detach() if kept.requires_grad else kept
        return joined


def join(past: Past | None, new: Tensor) -> Tensor:
    """`new` with the past prepended, or `new` itself if there is none."""
    return new if past is None else past.join(new)
