"""Recordings in random pieces, like live audio."""

import random

import numpy as np


def in_pieces(samples: np.ndarray, generator: random.Random) -> list[np.ndarray]:
    """The samples in pieces of random sizes, some of them empty."""
    pieces, start = [], 0
    while start < len(samples):
        size = generator.choice([0, 1, 80, 333, 1600, 5000, 20_000])
        pieces.append(samples[start : start + size])
        start += size
    return pieces
