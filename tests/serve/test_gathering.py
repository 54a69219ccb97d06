"""Contract: complete chunks wait for those of streams that should come soon, under load only and for a limited time."""

import threading
from collections.abc import Sequence

import pytest

from tests.serve.running import sentence, streaming_recognizer
from tests.watchdog import WATCHDOG_S
from zipasr.serve.batching import BatchingWorker
from zipasr.serve.gathering import ENOUGH_STREAMS, Gathering
from zipasr.serve.live import LiveStreams
from zipasr.serve.metrics import Metrics

CHUNK_S, MAX_WAIT_S = 0.32, 0.04


def busy(share: float = 0.9, max_wait_s: float = MAX_WAIT_S) -> Gathering:
    """A decision at second 10, after ten seconds with such a load."""
    gathering = Gathering(max_wait_s, 0.0)
    for n in range(1000):
        gathering.record(0.01 * n, 0.01 * (n + share))
    return gathering


@pytest.mark.parametrize(
    ("ready_s", "expected_s", "wait_s"),
    [
        ([10.0], [10.01, 10.03], 0.012),  # decide again when it should be there
        ([10.0], [10.1, 10.03, 10.01], 0.032),  # another wakes the thread if it comes first
        ([9.98], [10.01], 0.012),
        ([9.98, 10.0], [10.03], 0.0),  # too late for the chunk that has waited
        ([9.96], [10.001], 0.0),
        ([10.0], [9.999], 0.001),  # a little late
        ([10.0], [9.99, 10.1, 10.2], 0.0),
        ([10.0], [], 0.0),
        ([10.0] * ENOUGH_STREAMS, [10.01], 0.0),
        ([10.0] * (ENOUGH_STREAMS - 1), [10.01], 0.012),
        ([10.0, float("-inf")], [10.01], 0.0),  # a backlog
    ],
)
def test_waits_for_the_next_stream_in_time(ready_s: Sequence[float], expected_s: Sequence[float], wait_s: float) -> None:
    assert busy().wait_s(10.0, ready_s, expected_s, CHUNK_S) == pytest.approx(wait_s)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.8, 1.0])
def test_nothing_waits_on_a_server_that_is_nearly_idle(share: float) -> None:
    gathering = busy(share)
    assert (gathering.wait_s(10.0, [10.0], [10.01], CHUNK_S) > 0) == (share > 0.7)
    assert gathering.wait_s(13.0, [13.0], [13.01], CHUNK_S) == 0  # three seconds later


def test_a_short_chunk_waits_less_and_waiting_can_be_turned_off() -> None:
    assert busy().wait_s(10.0, [10.0], [10.02], 0.04) == 0
    assert busy().wait_s(10.0, [10.0], [10.005], 0.04) == pytest.approx(0.007)
    assert busy(max_wait_s=0.0).wait_s(10.0, [10.0], [10.001], CHUNK_S) == 0


class Live:
    """Sessions that wait for company until the thread is woken."""

    def __init__(self) -> None:
        self.is_waiting, self.has_stepped, self.num_decisions = threading.Event(), threading.Event(), 0

    def has_work(self) -> bool:
        return not self.has_stepped.is_set()

    def wait_s(self) -> float:
        self.num_decisions += 1
        self.is_waiting.set()
        return 10 * WATCHDOG_S if self.num_decisions == 1 else 0.0

    def step(self) -> bool:
        self.has_stepped.set()
        return True


@pytest.mark.parametrize("is_recording", [False, True])
def test_another_stream_or_a_recording_ends_the_wait_of_the_thread(is_recording: bool) -> None:
    worker, live = BatchingWorker(streaming_recognizer(), Metrics(), max_waiting=1), Live()
    worker.live = LiveStreams([live])  # type: ignore[list-item]
    worker.start()
    try:
        assert live.is_waiting.wait(WATCHDOG_S)
        with worker._wakes:  # the thread waits, since it has let go of the lock
            assert not live.has_stepped.is_set()
        if is_recording:
            worker.submit(sentence(0, 0.1))
        else:
            worker.wake()
        assert live.has_stepped.wait(WATCHDOG_S)
        assert live.num_decisions == (1 if is_recording else 2)
    finally:
        worker.stop()
