"""Law: streams of many connections are decoded together, each as it would be alone; the backlog is bounded."""

import asyncio
import time

import numpy as np
import pytest

from tests.serve.running import sentence, streaming_recognizer
from tests.tiny_model import tiny_tokenizer
from zipasr.recognizer import Recognizer, SearchConfig, Stream
from zipasr.serve.live import LiveResult, LiveSession, LiveSessions
from zipasr.serve.metrics import Metrics


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return streaming_recognizer()


def text_alone(recognizer: Recognizer, samples: np.ndarray) -> str:
    stream = recognizer.stream()
    stream.accept_waveform(samples)
    return stream.finish().text


async def results_of(session: LiveSession) -> list[LiveResult]:
    results = [await session.next_result()]
    while not results[-1].is_eof:
        results.append(await session.next_result())
    return results


def batch_sizes(metrics: Metrics) -> dict[str, float]:
    lines = metrics.to_text().decode().splitlines()
    return {
        line.split('le="')[1].split('"')[0]: float(line.split()[-1]) for line in lines if 'bucket{kind="streams"' in line
    }


def test_one_step_decodes_a_chunk_of_every_stream(recognizer: Recognizer) -> None:
    async def run() -> None:
        metrics = Metrics()
        sessions = LiveSessions(recognizer, metrics, lambda: None)
        opened = [sessions.open() for _ in range(5)]
        for seed, session in enumerate(opened):
            session.push(sentence(seed, 1.0 + seed / 2))
        assert sessions.has_work()
        assert sessions.step()
        assert (batch_sizes(metrics)["4.0"], batch_sizes(metrics)["8.0"]) == (0, 1)
        for session in opened:
            session.finish()
        while sessions.step():
            pass
        assert not sessions.has_work()
        for seed, session in enumerate(opened):
            results = await results_of(session)
            assert results[-1].transcript.text == text_alone(recognizer, sentence(seed, 1.0 + seed / 2))

    asyncio.run(run())


def test_both_heads_choose_the_final_results() -> None:
    model = streaming_recognizer().engine.scorer
    joint = Recognizer(model, tiny_tokenizer(), search=SearchConfig(method="joint", ctc_scale=100.0))
    transducer = Recognizer(model, tiny_tokenizer(), search=SearchConfig(method="beam"))
    samples = sentence(0, 3.0)

    async def run() -> None:
        sessions = LiveSessions(joint, Metrics(), lambda: None)
        session, texts = sessions.open(), []
        for piece in np.split(samples, 6):
            session.push(piece)
            sessions.step()
            texts += [session._results[-1].transcript.text] if session._results else []
        session.finish()
        while sessions.step():
            pass
        final = (await results_of(session))[-1]
        assert final.is_eof and final.transcript.text == text_alone(joint, samples)
        assert len(set(texts)) > 1
        stream = transducer.stream()
        for piece in np.split(samples, 6):
            stream.accept_waveform(piece)
            stream.decode()
            assert stream.text in ("", *texts)
        assert final.transcript.text != stream.finish().text

    asyncio.run(run())


def test_invalid_or_disconnected_streams_affect_no_other(recognizer: Recognizer) -> None:
    async def run() -> None:
        sessions = LiveSessions(recognizer, Metrics(), lambda: None)
        good, bad, gone = (sessions.open() for _ in range(3))
        for session in (good, bad, gone):
            session.push(sentence(0, 2.0))
        sessions.step()
        bad.push(np.full(100, np.nan, np.float32))
        gone.leave()
        good.finish()
        while sessions.step():
            pass
        assert (await results_of(good))[-1].transcript.text == text_alone(recognizer, sentence(0, 2.0))
        with pytest.raises(ValueError, match="finite"):
            await results_of(bad)

    asyncio.run(run())


def test_minutes_at_once_delay_no_other_stream(recognizer: Recognizer) -> None:
    """A step takes only what it decodes; the features of all would take as long as many chunks."""

    async def run() -> None:
        sessions = LiveSessions(recognizer, Metrics(), lambda: None)
        session = sessions.open()
        samples = np.concatenate([sentence(seed, 10.0) for seed in range(6)])
        session.push(samples)
        session.finish()
        sessions.step()
        assert session.stream is not None
        assert session.stream.result().duration_s <= 2.0
        while sessions.step():
            pass
        assert session.stream.result().duration_s == 60.0

    asyncio.run(run())


def test_audio_waits_until_it_completes_a_chunk(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker thread is woken once for a chunk, and its features are computed at once."""
    num_woken, accepted, accept = 0, list[int](), Stream.accept_waveform

    def count(stream: Stream, samples: np.ndarray) -> None:
        accepted.append(len(samples))
        accept(stream, samples)

    def wake() -> None:
        nonlocal num_woken
        num_woken += 1

    async def run() -> None:
        sessions = LiveSessions(recognizer, Metrics(), wake)
        session = sessions.open()
        sessions.step()
        assert num_woken == 1
        assert session.stream is not None
        first = round(session.stream.latency_ms * 16)
        samples = sentence(0, 2.0)
        for start in range(0, first, 1600):
            assert not sessions.has_work()
            session.push(samples[start : min(start + 1600, first)])
        assert sessions.has_work() and num_woken == 2
        session.push(samples[first : first + 800])
        sessions.step()
        assert accepted == [first]
        assert not sessions.has_work() and num_woken == 2
        sessions.step()  # with nothing to decode, what is there is taken in
        assert accepted == [first, 800]
        session.push(samples[first + 800 :])
        session.finish()
        while sessions.step():
            pass
        assert (await results_of(session))[-1].transcript.text == text_alone(recognizer, samples)

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "accept_waveform", count)
        asyncio.run(run())


def test_complete_chunks_wait_for_streams_that_should_come_soon(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock of its own: two streams in pieces of 0.1 s, the second 0.03 s later; a third is silent."""
    now_s = 100.0

    async def run() -> None:
        nonlocal now_s
        sessions = LiveSessions(recognizer, Metrics(), lambda: None, max_wait_s=0.04)
        first, second, _ = (sessions.open() for _ in range(3))
        assert sessions.wait_s() == 0
        sessions.step()
        assert first.stream is not None
        num_pieces = -(-round(first.stream.latency_ms * 16) // 1600)
        for _ in range(num_pieces - 1):
            first.push(sentence(0, 0.1))
            now_s += 0.03
            second.push(sentence(1, 0.1))
            now_s += 0.07
        assert sessions.wait_s() == 0  # there is nothing to decode
        assert second.expected_s == pytest.approx(now_s + 0.03)
        first.push(sentence(0, 0.1))
        assert sessions.wait_s() == 0  # the load is low
        sessions._gathering.record(now_s - 5.0, now_s)
        assert sessions.wait_s() == pytest.approx(0.032)
        now_s += 0.03
        second.push(sentence(1, 0.1))
        assert sessions.wait_s() == 0
        sessions.step()
        assert (first._num_chunks, second._num_chunks) == (1, 1)

    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now_s)
        asyncio.run(run())


def test_a_socket_must_wait_while_much_audio_waits(recognizer: Recognizer) -> None:
    async def run() -> None:
        sessions = LiveSessions(recognizer, Metrics(), lambda: None)
        session = sessions.open()
        session.push(sentence(0, 5.0))
        await session.room()  # a small backlog is allowed
        session.push(sentence(0, 8.0))
        waiting = asyncio.ensure_future(session.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        for _ in range(6):
            sessions.step()
        await waiting

    asyncio.run(run())


def test_a_chunk_longer_than_the_backlog_still_becomes_complete(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room until the chunk can be decoded; otherwise the socket and the worker would wait for each other."""
    monkeypatch.setattr("zipasr.serve.live._MAX_WAITING_S", 0.1)

    async def run() -> None:
        sessions = LiveSessions(recognizer, Metrics(), lambda: None)
        session = sessions.open()
        sessions.step()
        assert session.stream is not None and session.stream.latency_ms > 500
        while session.has_room:
            session.push(sentence(0, 0.1))
        sessions.step()
        assert session._num_chunks == 1
        assert session.has_room

    asyncio.run(run())


def test_decoded_audio_is_counted(recognizer: Recognizer) -> None:
    """By the chunk, the last and partial one too; not the audio of a client that leaves before it is decoded."""

    def counted_s(metrics: Metrics) -> float:
        return float(metrics.to_text().decode().split("\nzipasr_audio_seconds_total ")[1].split("\n")[0])

    async def run() -> None:
        metrics = Metrics()
        sessions = LiveSessions(recognizer, metrics, lambda: None)
        session, short, gone = (sessions.open() for _ in range(3))
        session.push(sentence(0, 2.1))
        sessions.step()
        assert counted_s(metrics) == pytest.approx(0.64)
        session.finish()
        short.push(sentence(0, 0.01))  # not even a frame
        short.finish()
        gone.push(sentence(0, 5.0))
        gone.leave()
        while sessions.step():
            pass
        assert counted_s(metrics) == pytest.approx(2.11)

    asyncio.run(run())


def test_only_the_newest_unread_partial_result_is_kept(recognizer: Recognizer) -> None:
    async def run() -> None:
        sessions = LiveSessions(recognizer, Metrics(), lambda: None)
        session = sessions.open()
        session.push(sentence(0, 6.0))
        session.finish()
        while sessions.step():
            pass
        (only,) = await results_of(session)
        assert only.is_final and only.transcript.text == text_alone(recognizer, sentence(0, 6.0))

    asyncio.run(run())
