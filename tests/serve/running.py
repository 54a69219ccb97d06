"""A server for tests, in a thread of this process, on a free port of 127.0.0.1, with a tiny random model; and functions to
observe it and to block it."""

import dataclasses
import gc
import io
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import httpx2
import numpy as np
import pytest
import soundfile
import torch

from tests.tiny_model import noise, tiny_asr_model, tiny_tokenizer
from tests.watchdog import WATCHDOG_S
from zipasr.model import AsrModel
from zipasr.recognizer import LongRecordingConfig, Recognizer, SearchConfig
from zipasr.serve import ServeConfig, Service

T = TypeVar("T")


def offline_recognizer() -> Recognizer:
    """A tiny noncausal recognizer, which splits long recordings into windows without a speech detector."""
    return Recognizer(tiny_asr_model(), tiny_tokenizer(), long_recordings=LongRecordingConfig(use_vad=False))


def streaming_recognizer() -> Recognizer:
    """A tiny causal recognizer, which can stream."""
    config = tiny_asr_model().config
    encoder = dataclasses.replace(config.encoder, is_causal=True, chunk_frames_50hz=(32,), left_context_frames_50hz=(128,))
    torch.manual_seed(0)
    model = AsrModel(dataclasses.replace(config, encoder=encoder)).eval()
    assert model.transducer is not None
    with torch.no_grad():
        model.transducer.joiner.output.weight.mul_(20)
    return Recognizer(
        model,
        tiny_tokenizer(),
        search=SearchConfig(method="greedy"),
        long_recordings=LongRecordingConfig(use_vad=False),
    )


@contextmanager
def running(
    recognizer: Recognizer, graphs: Sequence[Path] = (), *, model_name: str = "tiny", **limits: object
) -> Iterator[Service]:
    """A server that runs during the block and must then shut down cleanly."""
    config = ServeConfig(**{"port": 0, "drain_timeout_s": WATCHDOG_S / 2} | limits)  # type: ignore[arg-type]
    service = Service(recognizer, config, model_name=model_name, graphs=graphs)
    is_ready, outcome = threading.Event(), []
    thread = threading.Thread(target=lambda: outcome.append(service.run(is_ready.set)), daemon=True)
    thread.start()
    assert is_ready.wait(WATCHDOG_S)
    try:
        yield service
    finally:
        service.stop()
        thread.join(WATCHDOG_S)
    assert outcome == [True], "the server must complete all requests before it stops"


def wav(samples: np.ndarray, rate_hz: int = 16_000, subtype: str = "FLOAT") -> bytes:
    """The bytes of a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype=subtype)
    return file.getvalue()


def sentence(seed: int = 0, duration_s: float = 1.5) -> np.ndarray:
    """Samples (samples,) for which the tiny models emit some tokens."""
    return noise(duration_s, seed)


class Reachable(Protocol):
    """The address of a server, in this process or in another."""

    @property
    def port(self) -> int: ...

    @property
    def url(self) -> str: ...


def gauge(service: Reachable, name: str) -> float:
    """A value of /metrics."""
    found = re.search(
        rf"^zipasr_{name} ([\d.]+)$", httpx2.get(f"{service.url}/metrics", timeout=WATCHDOG_S).text, re.MULTILINE
    )
    assert found
    return float(found[1])


def num_alive(kind: type) -> int:
    """The number of live objects of a class."""
    gc.collect()
    return sum(type(one) is kind for one in gc.get_objects())


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    waiting = threading.Event()
    for _ in range(int(WATCHDOG_S * 50)):
        if condition():
            return
        waiting.wait(0.02)
    pytest.fail("the condition never became true")


def called(monkeypatch: pytest.MonkeyPatch, kind: type[T], method: str) -> list[T]:
    """The objects of a class whose method without arguments has been called; others follow later."""
    found, original = list[T](), getattr(kind, method)

    def call(self: T) -> None:
        original(self)
        found.append(self)

    monkeypatch.setattr(kind, method, call)
    return found


@contextmanager
def held(recognizer: Recognizer) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Make a recognizer set the first event at its first recording and then wait for the second event."""
    is_held, go_on = threading.Event(), threading.Event()
    transcribe_many = recognizer.transcribe_many

    def holding(recordings: list[np.ndarray], **options: object) -> object:
        is_held.set()
        assert go_on.wait(WATCHDOG_S)
        return transcribe_many(recordings, **options)  # type: ignore[arg-type]

    recognizer.transcribe_many = holding  # type: ignore[method-assign, assignment]
    try:
        yield is_held, go_on
    finally:
        go_on.set()
