"""Law: every stream finds the state that its last step left, whoever else stepped; nothing is copied while the same streams
step together, and the batches take at most twice the memory of the streams."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from zipasr.recognizer.slots import Slot, Slots


class Numbers:
    """A state of a number for each stream."""

    num_selected = 0

    def __init__(self, values: Sequence[int]) -> None:
        self.values = list(values)

    @property
    def batch_size(self) -> int:
        return len(self.values)

    @staticmethod
    def select(parts: Sequence[tuple["Numbers", slice]]) -> "Numbers":
        Numbers.num_selected += 1
        return Numbers([value for state, rows in parts for value in state.values[rows]])


def step(slots: Slots[Numbers], chosen: Sequence[Slot[Numbers]]) -> list[Slot[Numbers]]:
    """Add 1000 to the states of some streams; return them in the order of the step."""
    ordered = [chosen[n] for n in slots.in_order(chosen)]
    slots.put(ordered, Numbers([value + 1000 for value in slots.gather(ordered).values]))
    return ordered


def num_rows(slots: Slots[Numbers]) -> int:
    return sum(batch.state.batch_size for batch in slots._batches)


def test_every_stream_finds_its_state() -> None:
    slots, generator = Slots[Numbers](), random.Random(0)
    streams = [Slot(Numbers([n])) for n in range(20)]
    num_steps = [0] * len(streams)
    for _ in range(200):
        chosen = generator.sample(range(len(streams)), generator.randint(1, len(streams)))
        step(slots, [streams[n] for n in chosen])
        for n in chosen:
            num_steps[n] += 1
        assert num_rows(slots) <= 2 * len(streams)
        assert [slot.state.values for slot in streams] == [[1000 * k + n] for n, k in enumerate(num_steps)]


def test_nothing_is_copied_while_the_same_streams_step() -> None:
    slots, generator = Slots[Numbers](), random.Random(0)
    streams = [Slot(Numbers([n])) for n in range(9)]
    ordered = step(slots, streams)
    num_selected = Numbers.num_selected
    for _ in range(5):
        generator.shuffle(streams)
        assert step(slots, streams) == ordered
    assert Numbers.num_selected == num_selected
    step(slots, streams[1:])
    step(slots, streams)
    assert Numbers.num_selected == num_selected + 2


def test_rows_next_to_each_other_are_copied_at_once() -> None:
    slots = Slots[Numbers]()
    streams = [Slot(Numbers([n])) for n in range(9)]
    step(slots, streams[:6])
    step(slots, streams[6:])
    seen: list[list[slice]] = []
    select = Numbers.select
    try:
        Numbers.select = staticmethod(lambda parts: (seen.append([rows for _, rows in parts]), select(parts))[1])  # type: ignore[method-assign, assignment, return-value]
        step(slots, [streams[8], streams[1], *streams[3:6], streams[6]])
    finally:
        Numbers.select = staticmethod(select)  # type: ignore[method-assign]
    assert seen == [[slice(0, 1), slice(2, 3), slice(1, 2), slice(3, 6)]]


def test_paused_streams_keep_no_batch_and_none_is_kept_without_streams() -> None:
    slots = Slots[Numbers]()
    paused = []
    for n in range(30):
        streams = [Slot(Numbers([n])) for _ in range(64)]
        step(slots, streams)
        paused.append(streams[n % 64])
        del streams
    assert num_rows(slots) <= 2 * (64 + len(paused))
    assert [slot.state.values for slot in paused] == [[1000 + n] for n in range(30)]
    del paused
    assert num_rows(slots) == 0


def test_threads_may_step_different_streams() -> None:
    """Whatever their order: rows of paused streams are moved by the one while the other steps them."""
    slots = Slots[Numbers]()
    streams = [Slot(Numbers([n])) for n in range(16)]
    step(slots, streams)

    def run(own: Sequence[Slot[Numbers]], seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(300):
            step(slots, generator.sample(own, 3))
        for slot in own:
            step(slots, [slot])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, [streams[n::4] for n in range(4)], range(4)))
    num_steps = [1] * len(streams)
    for seed in range(4):
        generator, own = random.Random(seed), range(seed, 16, 4)
        for n in [n for _ in range(300) for n in generator.sample(own, 3)] + [*own]:
            num_steps[n] += 1
    assert [slot.state.values for slot in streams] == [[1000 * k + n] for n, k in enumerate(num_steps)]
