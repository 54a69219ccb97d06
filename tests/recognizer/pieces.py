"""Recordings cut at random, as live audio arrives."""

import random

import numpy as np


def in_pieces(samples: np.ndarray, generator: random.Random) -> list[np.ndarray]:
    pieces, start = [], 0
    while start < len(samples):
        size = generator.choice([0, 1, 80, 333, 1600, 5000, 20_000])
        pieces.append(samples[start : start + size])
        start += size
    return pieces
