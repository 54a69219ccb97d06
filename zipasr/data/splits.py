"""Which utterances train a model and which are held out, where the source does not say: the same ones every time."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from zipasr.data.utterance import Utterance

MIN_SPEAKERS = 10
"""From this many speakers on, dev and test get speakers of their own."""

_SLACK = 1.5
"""A split may grow to this many times its share, for speakers are not divided."""


def _hash_order(names: Iterable[str], seed: int) -> list[str]:
    """Put names into an order that looks random and never changes."""
    return sorted(set(names), key=lambda name: hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).hexdigest())


def _choose(order: Sequence[str], sizes: Mapping[str, int], num_wanted: float) -> list[str]:
    """Take groups in order until `num_wanted` utterances are chosen; if all are too large, the smallest one."""
    chosen: list[str] = []
    num_chosen = 0
    for name in order:
        if num_chosen >= num_wanted:
            break
        if num_chosen + sizes[name] <= max(1, _SLACK * num_wanted):
            chosen.append(name)
            num_chosen += sizes[name]
    return chosen or [min(order, key=lambda name: sizes[name])]


def split_utterances(
    utterances: Sequence[Utterance], shares: Mapping[str, float], *, max_held_out: int, seed: int
) -> dict[str, str]:
    """Hold out whole speakers if there are ten or more, single utterances otherwise; nothing if there are fewer than 3.

    Args:
        shares: part of the utterances for each held-out split; at least one utterance is taken unless the share is 0.
        max_held_out: the most utterances wanted in each of them.
    Returns:
        The split of every id; train if it is not held out.
    """
    splits = {utterance.id: "train" for utterance in utterances}
    wanted = {
        split: min(max(1, round(share * len(utterances))), max_held_out) for split, share in shares.items() if share > 0
    }
    if len(utterances) < 3 or not wanted:
        return splits
    speakers = {utterance.speaker for utterance in utterances}
    has_speakers = len(speakers) >= MIN_SPEAKERS and None not in speakers
    groups: dict[str, list[str]] = defaultdict(list)
    for utterance in utterances:
        groups[str(utterance.speaker) if has_speakers else utterance.id].append(utterance.id)
    sizes = {name: len(ids) for name, ids in groups.items()}
    # Where a few speakers hold nearly everything, the others are divided among the splits, not spent on the first.
    num_fitting = sum(size for size in sizes.values() if size <= _SLACK * max(wanted.values()))
    scale = min(1.0, (num_fitting or len(utterances)) / sum(wanted.values()))
    order = _hash_order(groups, seed)
    for split, num_wanted in wanted.items():
        for name in _choose(order, sizes, scale * num_wanted):
            splits.update(dict.fromkeys(groups[name], split))
            order.remove(name)
    return splits
