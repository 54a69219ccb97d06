"""Law: what is held out, how much, and that the choice never changes."""

from collections import Counter
from pathlib import Path

import pytest

from zipasr.prepare.splits import split_utterances
from zipasr.prepare.utterance import Utterance


def utterances(num_utterances: int, num_speakers: int = 0) -> list[Utterance]:
    return [
        Utterance(id=f"u{i}", audio=Path("a"), text="x", speaker=f"s{i % num_speakers}" if num_speakers else None)
        for i in range(num_utterances)
    ]


def split(items: list[Utterance], *, share: float = 0.1, max_held_out: int = 1000, seed: int = 0) -> dict[str, str]:
    return split_utterances(items, {"test": share, "dev": share}, max_held_out=max_held_out, seed=seed)


@pytest.mark.parametrize(
    ("num_utterances", "expected"),
    [
        (1, {"train": 1}),
        (2, {"train": 2}),
        (3, {"train": 1, "test": 1, "dev": 1}),
        (100, {"train": 80, "test": 10, "dev": 10}),
    ],
)
def test_a_tenth_each_but_one_at_least(num_utterances: int, expected: dict[str, int]) -> None:
    assert Counter(split(utterances(num_utterances)).values()) == expected


def test_no_more_than_the_most() -> None:
    assert Counter(split(utterances(1000), max_held_out=7).values()) == {"train": 986, "test": 7, "dev": 7}


def test_a_share_of_nothing_holds_out_nothing() -> None:
    assert set(split(utterances(50), share=0.0).values()) == {"train"}


@pytest.mark.parametrize("num_speakers", [10, 37, 120])
def test_ten_speakers_or_more_are_not_divided(num_speakers: int) -> None:
    items = utterances(1000, num_speakers)
    splits = split(items)
    parts = {name: {u.speaker for u in items if splits[u.id] == name} for name in ("train", "dev", "test")}
    assert all(parts.values())
    assert sum(map(len, parts.values())) == num_speakers
    counts = Counter(splits.values())
    assert all(50 <= counts[name] <= 150 for name in ("dev", "test"))


@pytest.mark.parametrize("num_unnamed", [1, 300])
def test_utterances_without_a_speaker_divide_no_speaker(num_unnamed: int) -> None:
    unnamed = [Utterance(id=f"s{i}", audio=Path("a"), text="x") for i in range(num_unnamed)]  # ids like the speakers' names
    items = utterances(400, 20)
    splits = split([*items, *unnamed])
    parts = [{u.speaker for u in items if splits[u.id] == name} for name in ("train", "dev", "test")]
    assert sum(map(len, parts)) == 20
    assert len(parts[0]) >= 14
    if num_unnamed == 300:
        assert {splits[u.id] for u in unnamed} == {"train", "dev", "test"}
        assert {splits[f"s{i}"] == splits[f"u{i}"] for i in range(20)} == {True, False}  # not in the group of the speaker


def test_fewer_than_ten_named_speakers_are_divided() -> None:
    items = [*utterances(900, 9), *(Utterance(id=f"v{i}", audio=Path("a"), text="x") for i in range(100))]
    assert Counter(split(items).values()) == {"train": 800, "test": 100, "dev": 100}


def test_fewer_speakers_are_divided() -> None:
    items = utterances(1000, 9)
    splits = split(items)
    assert Counter(splits.values()) == {"train": 800, "test": 100, "dev": 100}


def test_one_speaker_with_nearly_everything_stays_in_training() -> None:
    items = [
        *utterances(1000, 1),
        *(Utterance(id=f"v{i}", audio=Path("a"), text="", speaker=f"t{i}") for i in range(10)),
    ]
    splits = split(items)
    assert {splits[f"u{i}"] for i in range(1000)} == {"train"}
    assert {"test", "dev"} <= {splits[f"v{i}"] for i in range(10)}


def test_large_speakers_only() -> None:
    counts = Counter(split(utterances(1000, 10), share=0.01).values())
    assert counts == {"train": 800, "test": 100, "dev": 100}


def test_the_order_does_not_matter_and_the_seed_does() -> None:
    items = utterances(200)
    assert split(items) == split(items[::-1])
    assert split(items) != split(items, seed=1)


def test_more_utterances_leave_most_where_they_were() -> None:
    few, many = split(utterances(500)), split(utterances(550))
    assert sum(few[name] == many[name] for name in few) > 450
