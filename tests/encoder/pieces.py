"""Random sizes of pieces in which features arrive."""

import random


def in_pieces(length: int, generator: random.Random) -> list[int]:
    """Sizes of random pieces that add up to `length`, empty ones among them."""
    sizes = []
    while sum(sizes) < length:
        sizes.append(min(generator.choice([0, 1, 3, 10, 60]), length - sum(sizes)))
    return sizes
