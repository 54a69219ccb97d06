"""Recordings of any format and length in, transcripts out, for the event loop. Reading and splitting run in threads of this
file, the model runs in the worker thread of `batching`.

A short recording is one job. A long one is split into pieces, which are batched with the short recordings that wait and take
turns with those of other long ones, so that an hour of audio does not block other requests.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO, TypeVar

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ, read_blocks
from zipasr.errors import AudioError, ConfigError
from zipasr.recognizer.files import read_short
from zipasr.recognizer.long_recording import transcribe_blocks
from zipasr.serve.batching import Asked, BatchingWorker
from zipasr.serve.limits import ServeConfig, ServerBusy
from zipasr.transcript import Token, Transcript
from zipasr.vad import Detector

T = TypeVar("T")
Blocks = Callable[[], Generator[np.ndarray, None, None]]
"""Starts reading a recording from its start, in blocks (samples,)."""
_NUM_READERS, _NUM_LONG = 2, 8
_BLOCK_S, _GROUP_S = 10.0, 240.0
"""Each long recording in progress holds a group of pieces, 15 MB, and up to 64 MB of its file."""


class Transcriber:
    """Transcribes recordings for the HTTP and WebSocket endpoints."""

    def __init__(self, worker: BatchingWorker, config: ServeConfig, detector: Detector | None = None) -> None:
        """Create the transcriber.

        Args:
            worker: runs the model; already started.
            config: limits of the server.
            detector: finds speech in long recordings; None: windows.
        """
        self.worker, self.config, self._detector = worker, config, detector
        self._readers = ThreadPoolExecutor(_NUM_READERS, "zipasr-reader")
        self._long = ThreadPoolExecutor(_NUM_LONG, "zipasr-long")
        self._num_long = 0

    @property
    def longest_piece_s(self) -> float:
        """Length of the longest recording that is transcribed in one piece."""
        return self.worker.recognizer.long_recordings.max_piece_s

    def close(self) -> None:
        """Stop the threads; reading that has not started is cancelled."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._long.shutdown(wait=False, cancel_futures=True)

    async def transcribe(
        self,
        recording: BinaryIO | np.ndarray,
        asked: Asked,
        *,
        sample_rate_hz: int | None = None,
        on_progress: Callable[[float], None] | None = None,
        on_text: Callable[[str, Sequence[Token]], None] | None = None,
    ) -> Transcript:
        """Transcribe a recording; cancel the task to abort.

        Args:
            recording: a file object that can seek and stays open until this returns, or samples (samples,).
            asked: what the request asks of the search.
            sample_rate_hz: rate of samples; None for a file.
            on_progress: called in the event loop with the seconds of a long recording that are done.
            on_text: called in the event loop with each stretch of the text of a long recording and its tokens, as soon as
                it is final; the returned transcript contains the rest.
        Raises:
            AudioError: the recording cannot be read, or is too long.
            ConfigError: the hotwords cannot be used, or there is no n-best list.
            ServerBusy: too many recordings wait.
        """
        loop = asyncio.get_running_loop()
        is_cancelled = threading.Event()

        def blocks() -> Generator[np.ndarray, None, None]:
            if not isinstance(recording, np.ndarray):
                recording.seek(0)
            return self._limited(read_blocks(recording, block_s=_BLOCK_S, sample_rate_hz=sample_rate_hz), is_cancelled)

        def in_loop(callback: Callable[..., None] | None) -> Callable[..., Any] | None:
            return partial(loop.call_soon_threadsafe, callback) if callback is not None else None

        try:
            samples = await _finished(loop.run_in_executor(self._readers, self._short, blocks), is_cancelled)
            if samples is not None:
                return await asyncio.wrap_future(self.worker.submit(samples, asked))
            self._check_long(asked.num_best)
            self._num_long += 1
            try:
                work = loop.run_in_executor(
                    self._long, self._transcribe_long, blocks, asked, is_cancelled, in_loop(on_progress), in_loop(on_text)
                )
                return await _finished(work, is_cancelled)
            finally:
                self._num_long -= 1
        finally:
            is_cancelled.set()

    def _check_long(self, num_best: int | None) -> None:
        """Check that a recording can be transcribed in pieces, and that not too many of that kind wait."""
        if num_best is not None:
            raise ConfigError(
                f"num_best must be left out for recordings of more than {self.longest_piece_s:g} s, but is {num_best}; "
                "they are cut into pieces, whose n-best lists do not combine"
            )
        if self._num_long >= self.config.max_waiting:
            raise ServerBusy(f"The server is full with {self._num_long} long recordings; please retry later.")

    def _limited(self, blocks: Iterator[np.ndarray], is_cancelled: threading.Event) -> Generator[np.ndarray, None, None]:
        """The same blocks until the request is cancelled; raises AudioError for a recording that is too long."""
        num_samples = 0
        for block in blocks:
            num_samples += len(block)
            if is_cancelled.is_set():
                return
            if num_samples > self.config.max_audio_s * SAMPLE_RATE_HZ:
                raise AudioError(
                    f"a recording must be at most {self.config.max_audio_s:g} s long, but this one is longer; split it"
                )
            yield block

    def _short(self, blocks: Blocks) -> np.ndarray | None:
        """All samples of a recording that is transcribed in one piece; None: it is too long for that.

        A long recording is read again when its turn comes, since a reader may hold a copy of the file: a waiting recording
        keeps only its file.
        """
        with contextlib.closing(blocks()) as reading:
            samples, _ = read_short(reading, max_s=self.longest_piece_s)
        return samples

    def _transcribe_long(
        self,
        blocks: Blocks,
        asked: Asked,
        is_cancelled: threading.Event,
        on_progress: Callable[[float], None] | None,
        on_text: Callable[[str, Sequence[Token]], None] | None,
    ) -> Transcript:
        recognizer = self.worker.recognizer
        done_s = 0.0

        def on_piece(duration_s: float) -> None:
            # Differs: not `on_progress` of `transcribe_blocks`, which reports only every ten minutes. Overlaps count twice
            # and skipped silence does not count; for a progress bar that is good enough.
            nonlocal done_s
            done_s += duration_s
            if on_progress is not None:
                on_progress(done_s)

        def transcribe(pieces: Sequence[np.ndarray]) -> Iterator[Transcript]:
            return self.worker.transcribe_pieces(pieces, asked.hotwords, asked.graph, is_cancelled.is_set, on_piece)

        with contextlib.closing(blocks()) as reading:
            return transcribe_blocks(
                reading,
                transcribe,
                recognizer.long_recordings,
                detector=self._detector,
                joiner=recognizer.engine.tokenizer.word_joiner,
                group_s=_GROUP_S,
                on_text=on_text,
            )


async def _finished(work: "asyncio.Future[T]", is_cancelled: threading.Event) -> T:
    """The result of work in a thread. If cancelled, it waits for the thread, since the caller then closes the file."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        is_cancelled.set()
        work.cancel()
        while not work.done():
            await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # retrieved, so that asyncio does not log it
        raise
    finally:
        del work  # an error refers to this frame; if the frame refers to the error, both stay until garbage collection
