"""The split of each utterance of a source without splits: a fixed choice of what is held out for dev and test."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from zipasr.prepare.utterance import Utterance

SPLITS = ("train", "dev", "test")
NOISE = "noise"
"""The part of recordings without texts, which training mixes into utterances."""
MIN_SPEAKERS = 10
"""With at least this many speakers, no speaker is in two splits."""

_SLACK = 1.5
"""A split may exceed its share by this factor, since speakers are not divided."""


def audio_folder(out: Path, split: str | None) -> Path:
    """The folder for the audio of a source in the prepared folder `out`.

    A source that is one part has a folder of its own, because ids of parts that are prepared one by one may be the same. It
    lies beside `audio`, in which ids name subfolders of any name.
    """
    return out / ("audio" if split is None else f"audio-{split}")


def audio_folders(out: Path) -> list[Path]:
    """All folders for audio that a prepared folder may have."""
    return [audio_folder(out, split) for split in (None, *SPLITS, NOISE)]


def _choose(order: Sequence[str], sizes: Mapping[str, int], num_wanted: float) -> list[str]:
    """The first groups in order that hold `num_wanted` utterances; the smallest group if all are too large."""
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
    """Hold out whole speakers if there are ten or more, else single utterances; nothing of fewer than 3 utterances.

    Utterances without a speaker are held out one by one in both cases.

    Args:
        shares: share of the utterances for each held-out split; at least one utterance is held out unless the share is 0.
        max_held_out: upper bound on the utterances of each held-out split.
    Returns:
        The split of every id; train if it is not held out.
    """
    splits = {utterance.id: "train" for utterance in utterances}
    wanted = {
        split: min(max(1, round(share * len(utterances))), max_held_out) for split, share in shares.items() if share > 0
    }
    if len(utterances) < 3 or not wanted:
        return splits
    has_speakers = len({utterance.speaker for utterance in utterances} - {None}) >= MIN_SPEAKERS
    groups: dict[str, list[str]] = defaultdict(list)
    for utterance in utterances:
        # An id may be the name of a speaker, too; no name has a null character.
        alone = f"\0{utterance.id}" if has_speakers else utterance.id
        groups[utterance.speaker if has_speakers and utterance.speaker is not None else alone].append(utterance.id)
    sizes = {name: len(ids) for name, ids in groups.items()}
    # If a few speakers have nearly all utterances, the others are shared by the splits, not all given to the first.
    num_fitting = sum(size for size in sizes.values() if size <= _SLACK * max(wanted.values()))
    scale = min(1.0, (num_fitting or len(utterances)) / sum(wanted.values()))
    # A pseudo-random order that never changes.
    order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).hexdigest())
    for split, num_wanted in wanted.items():
        for name in _choose(order, sizes, scale * num_wanted):
            splits.update(dict.fromkeys(groups[name], split))
            order.remove(name)
    return splits
