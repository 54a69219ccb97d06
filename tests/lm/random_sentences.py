"""Random sentences whose word frequencies follow Zipf's law."""

import random

Sentences = list[list[str]]


def zipf_sentences(seed: int, *, num: int = 400, num_words: int = 60) -> Sentences:
    """Sentences long and varied enough that every count from 1 to 4 occurs and the discounts follow the formula."""
    source = random.Random(seed)
    weights = [1 / (i + 1) for i in range(num_words)]
    return [source.choices([f"w{i}" for i in range(num_words)], weights, k=source.randint(1, 9)) for _ in range(num)]
