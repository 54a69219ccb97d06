"""Streams that are advanced in random chunks, for the laws of resumable searches."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from zipasr.nn.encoded import Encoded


def advance_in_chunks(
    search: Any, states: Sequence[Any], encoded: Encoded, generator: random.Random, *, most_frames: int
) -> Iterator[bool]:
    """Advance states to the ends of their rows, any of them at a time by 0 to `most_frames` frames.

    Yields after each step whether the test should ask for partial results now.
    """
    lens = encoded.lens.tolist()
    done = [0] * len(lens)
    while done != lens:
        chosen = generator.sample(range(len(lens)), generator.randint(1, len(lens)))
        sizes = [generator.randint(0, min(most_frames, lens[n] - done[n])) for n in chosen]
        # Large values where no frame is valid.
        chunk = torch.full((len(chosen), max(sizes), encoded.frames.shape[2]), 9.0)
        for row_TV, n, size in zip(chunk, chosen, sizes, strict=True):
            row_TV[:size] = encoded.frames[n, done[n] : done[n] + size]
        search.advance([states[n] for n in chosen], Encoded(chunk, torch.tensor(sizes)))
        for n, size in zip(chosen, sizes, strict=True):
            done[n] += size
            assert states[n].num_frames == done[n]
        yield generator.random() < 0.3
