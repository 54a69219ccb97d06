"""Law: several threads of a server run the model at once, with the results of one; recordings are divided among them. Long
recordings take turns."""

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from tests.serve.clients import connect, post, results_of, stream_samples
from tests.serve.running import (
    gauge,
    held,
    offline_recognizer,
    running,
    sentence,
    streaming_recognizer,
    wait_until,
    wav,
)
from tests.watchdog import WATCHDOG_S
from zipasr.recognizer import Recognizer, Stream
from zipasr.serve.batching import BatchingWorker
from zipasr.serve.live import LiveSessions, LiveStreams
from zipasr.serve.metrics import Metrics
from zipasr.transcript import Transcript


def test_recordings_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both threads are in the middle of a batch when either goes on; a single one would wait forever."""
    recognizer, together = offline_recognizer(), threading.Barrier(2)
    transcribe_many = recognizer.transcribe_many

    def meeting(recordings: Sequence[np.ndarray], **options: object) -> list[Transcript]:
        together.wait(WATCHDOG_S)
        return transcribe_many(recordings, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(recognizer, "transcribe_many", meeting)
    worker = BatchingWorker(recognizer, Metrics(), max_waiting=8, num_threads=2)
    futures = [worker.submit(sentence(seed)) for seed in range(4)]
    worker.start()
    try:
        texts = [future.result(WATCHDOG_S).text for future in futures]
    finally:
        worker.stop()
    assert texts == [transcript.text for transcript in transcribe_many([sentence(seed) for seed in range(4)])]


@pytest.mark.parametrize(("num_threads", "sizes"), [(1, [8]), (2, [4, 4]), (3, [2, 3, 3])])
def test_waiting_recordings_are_divided_among_idle_threads(
    num_threads: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer, metrics, found = offline_recognizer(), Metrics(), list[int]()
    all_taken, transcribe_many = threading.Event(), recognizer.transcribe_many

    def counting(recordings: Sequence[np.ndarray], **options: object) -> list[Transcript]:
        found.append(len(recordings))
        if sum(found) == 8:
            all_taken.set()
        assert all_taken.wait(WATCHDOG_S)  # so that no thread takes twice
        return transcribe_many(recordings, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(recognizer, "transcribe_many", counting)
    worker = BatchingWorker(recognizer, metrics, max_waiting=8, num_threads=num_threads)
    futures = [worker.submit(sentence(0, 1.0)) for _ in range(8)]
    worker.start()
    try:
        assert len({future.result(WATCHDOG_S).text for future in futures}) == 1
    finally:
        worker.stop()
    assert sorted(found) == sizes


def test_a_thread_takes_everything_if_the_others_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer, metrics, found = offline_recognizer(), Metrics(), list[int]()
    is_held, go_on, transcribe_many = threading.Event(), threading.Event(), recognizer.transcribe_many

    def holding(recordings: Sequence[np.ndarray], **options: object) -> list[Transcript]:
        found.append(len(recordings))
        if len(found) == 1:
            is_held.set()
            assert go_on.wait(WATCHDOG_S)
        return transcribe_many(recordings, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(recognizer, "transcribe_many", holding)
    worker = BatchingWorker(recognizer, metrics, max_waiting=8, num_threads=2)
    worker.start()
    try:
        first = worker.submit(sentence())
        assert is_held.wait(WATCHDOG_S)
        with worker._wakes:  # a reentrant lock: the other thread sees all of them, or none
            others = [worker.submit(sentence(seed)) for seed in range(3)]
        assert all(other.result(WATCHDOG_S).text for other in others)
        go_on.set()
        assert first.result(WATCHDOG_S).text
    finally:
        go_on.set()
        worker.stop()
    assert found == [1, 3]


def test_long_recordings_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of each in a batch of one; the third recording comes while the first batch is computed."""
    recognizer, found = offline_recognizer(), list[float]()
    is_held, go_on, transcribe_many = threading.Event(), threading.Event(), recognizer.transcribe_many

    def recording(recordings: Sequence[np.ndarray], **options: object) -> list[Transcript]:
        found.extend(len(samples) / 16_000 for samples in recordings)
        is_held.set()
        assert go_on.wait(WATCHDOG_S)
        return transcribe_many(recordings, **options)  # type: ignore[arg-type]

    def submit(duration_s: float, number: int) -> None:
        pieces, num_before = [sentence(0, duration_s) for _ in range(number)], len(worker._pieces)
        asked = worker.transcribe_pieces(pieces, None, None, lambda: False, lambda _: None)
        waiting.append(pool.submit(list, asked))
        wait_until(lambda: len(worker._pieces) > num_before)

    monkeypatch.setattr("zipasr.serve.batching._BATCH_S", 0.1)
    monkeypatch.setattr(recognizer, "transcribe_many", recording)
    worker, waiting = BatchingWorker(recognizer, Metrics(), max_waiting=8), list[Future[list[Transcript]]]()
    with ThreadPoolExecutor(3) as pool:
        try:
            submit(1.0, 6)
            submit(0.5, 2)
            worker.start()
            assert is_held.wait(WATCHDOG_S)
            submit(0.25, 2)
            go_on.set()
            assert [len(one.result(WATCHDOG_S)) for one in waiting] == [6, 2, 2]
        finally:
            go_on.set()
            worker.stop()
    assert found == [1.0, 0.5, 0.25, 1.0, 0.5, 0.25, 1.0, 1.0, 1.0, 1.0]


def test_many_long_recordings_are_cut_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third waits for no other: its pieces are in the queue while a batch of the first is computed."""
    slow, content = offline_recognizer(), wav(np.concatenate([sentence(seed, 8.0) for seed in range(4)]))
    monkeypatch.setattr("zipasr.serve.batching._BATCH_S", 1.0)  # a piece each
    with held(slow) as (is_held, go_on), running(slow) as service, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(post, service, content)]
        assert is_held.wait(WATCHDOG_S)
        answers += [pool.submit(post, service, content) for _ in range(2)]
        wait_until(lambda: gauge(service, "waiting") == 3 * 2 - 1)
        go_on.set()
        assert len({answer.result().json()["text"] for answer in answers}) == 1


def test_streams_are_divided_among_threads_and_end_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = streaming_recognizer()
    alone = []
    for seed in range(4):
        stream = recognizer.stream()
        stream.accept_waveform(sentence(seed, 2.0))
        alone.append(stream.finish().text)
    threads = Counter[str]()
    decode_streams = Recognizer.decode_streams

    def counting(self: Recognizer, streams: Sequence[Stream]) -> int:
        threads[threading.current_thread().name] += len(streams)
        return decode_streams(self, streams)

    monkeypatch.setattr(Recognizer, "decode_streams", counting)
    with running(recognizer, workers=2) as service, ExitStack() as stack:
        sockets = [stack.enter_context(connect(f"ws://127.0.0.1:{service.port}")) for _ in range(4)]
        for seed, socket in enumerate(sockets):
            stream_samples(socket, sentence(seed, 2.0))
        assert gauge(service, "live") == 4
        for socket in sockets:
            socket.send("Done")
        texts = [results_of(socket)[-1]["text"] for socket in sockets]
    assert texts == alone
    assert len(threads) == 2
    assert len(set(threads.values())) == 1  # two streams of equal length each


def test_a_stream_goes_to_the_smallest_group() -> None:
    async def run() -> None:
        metrics = Metrics()
        groups = [LiveSessions(streaming_recognizer(), metrics, lambda: None) for _ in range(2)]
        streams = LiveStreams(groups)
        first, _, third = (streams.open() for _ in range(3))
        assert [len(group) for group in groups] == [2, 1]
        first.leave()
        third.leave()
        groups[0].step()
        assert [len(group) for group in groups] == [0, 1]
        assert "zipasr_live 1.0" in metrics.to_text().decode()
        streams.open()
        assert [len(group) for group in groups] == [1, 1]

    asyncio.run(run())
