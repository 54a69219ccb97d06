"""Random sizes of the pieces in which features arrive."""

import random


def in_pieces(length: int, generator: random.Random) -> list[int]:
    """Random sizes, some of them 0, that add up to `length`."""
    sizes = []
    while sum(sizes) < length:
        sizes.append(min(generator.choice([0, 1, 3, 10, 60]), length - sum(sizes)))
    return sizes
