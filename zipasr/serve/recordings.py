"""Recordings of any kind and length in, transcripts out, for the event loop: what reads and cuts them runs in threads here,
what computes in that of `batching`.

A short recording is a job of its own. A long one is cut, and its pieces are computed together with the short ones that wait,
so that an hour holds nobody up.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, TypeVar

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ, read_blocks
from zipasr.errors import AudioError
from zipasr.recognizer.files import read_short
from zipasr.recognizer.long_recording import transcribe_blocks
from zipasr.serve.batching import BatchingWorker, Hotwords
from zipasr.serve.limits import ServeConfig, ServerBusy
from zipasr.transcript import Token, Transcript

T = TypeVar("T")
Blocks = Callable[[], Generator[np.ndarray, None, None]]
"""Reads a recording from its start, in blocks (samples,)."""
_NUM_READERS, _NUM_LONG = 2, 2
_BLOCK_S = 10.0


class Transcriber:
    """What the endpoints for recordings call."""

    def __init__(self, worker: BatchingWorker, config: ServeConfig) -> None:
        """Take a worker, which is started, and limits."""
        self.worker, self.config = worker, config
        self._readers = ThreadPoolExecutor(_NUM_READERS, "zipasr-reader")
        self._long = ThreadPoolExecutor(_NUM_LONG, "zipasr-long")
        self._num_long = 0

    def close(self) -> None:
        """Let the threads end."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._long.shutdown(wait=False, cancel_futures=True)

    async def transcribe(
        self,
        recording: BinaryIO | np.ndarray,
        *,
        sample_rate_hz: int | None = None,
        hotwords: Hotwords = None,
        on_progress: Callable[[float], None] | None = None,
        on_text: Callable[[str, Sequence[Token]], None] | None = None,
    ) -> Transcript:
        """Transcribe a recording; cancel the task to give it up.

        Args:
            recording: a file object that can seek, which must stay open until this ends, or samples (samples,).
            sample_rate_hz: of samples.
            hotwords: phrases to prefer; None: those of the recogniser.
            on_progress: called in the event loop with the seconds that are done of a long recording.
            on_text: called in the event loop with each further stretch of the text of a long recording, and its tokens, as
                soon as it is certain; the rest is in what is returned.
        Raises:
            AudioError: it cannot be read, or is too long.
            ConfigError: the hotwords cannot be used.
            ServerBusy: too much waits.
        """
        loop = asyncio.get_running_loop()
        is_given_up = threading.Event()

        def blocks() -> Generator[np.ndarray, None, None]:
            if not isinstance(recording, np.ndarray):
                recording.seek(0)
            return self._limited(read_blocks(recording, block_s=_BLOCK_S, sample_rate_hz=sample_rate_hz), is_given_up)

        def report_done(done_s: float) -> None:
            if on_progress is not None:
                loop.call_soon_threadsafe(on_progress, done_s)

        def report_text(text: str, tokens: Sequence[Token]) -> None:
            if on_text is not None:
                loop.call_soon_threadsafe(on_text, text, tokens)

        try:
            samples = await _finished(loop.run_in_executor(self._readers, self._short, blocks), is_given_up)
            if samples is not None:
                transcript: Transcript = await asyncio.wrap_future(self.worker.submit(samples, hotwords))
                return transcript
            if self._num_long >= self.config.max_waiting:
                raise ServerBusy(f"{self._num_long} long recordings are in work, all there may be; please retry later.")
            self._num_long += 1
            try:
                work = loop.run_in_executor(
                    self._long, self._transcribe_long, blocks, hotwords, is_given_up, report_done, report_text
                )
                return await _finished(work, is_given_up)
            finally:
                self._num_long -= 1
        finally:
            is_given_up.set()

    def _limited(self, blocks: Iterator[np.ndarray], is_given_up: threading.Event) -> Generator[np.ndarray, None, None]:
        """The same blocks, until there are too many or nobody waits for them any more."""
        num_samples = 0
        for block in blocks:
            num_samples += len(block)
            if is_given_up.is_set():
                return
            if num_samples > self.config.max_audio_s * SAMPLE_RATE_HZ:
                raise AudioError(
                    f"Expected a recording of at most {self.config.max_audio_s:g} s, got a longer one; cut it in parts."
                )
            yield block

    def _short(self, blocks: Blocks) -> np.ndarray | None:
        """All samples of a recording that is transcribed whole; None: it is too long for that.

        A long one is read again from its start when its turn comes, since a reader holds a copy of what it reads: of those
        that wait only the file is kept.
        """
        with contextlib.closing(blocks()) as reading:
            samples, _ = read_short(reading, max_s=self.worker.recognizer.long_recordings.max_piece_s)
        return samples

    def _transcribe_long(
        self,
        blocks: Blocks,
        hotwords: Hotwords,
        is_given_up: threading.Event,
        on_progress: Callable[[float], None],
        on_text: Callable[[str, Sequence[Token]], None],
    ) -> Transcript:
        recognizer = self.worker.recognizer
        done_s = 0.0

        def on_piece(duration_s: float) -> None:
            # Differs: not `on_progress` of `transcribe_blocks`, which tells every ten minutes. Overlaps count twice and left
            # out silence does not, which matters little to who waits.
            nonlocal done_s
            done_s += duration_s
            on_progress(done_s)

        with contextlib.closing(blocks()) as reading:
            return transcribe_blocks(
                reading,
                lambda pieces: self.worker.transcribe_pieces(pieces, hotwords, is_given_up.is_set, on_piece),
                recognizer.long_recordings,
                detector=recognizer.long_recordings.detector(),
                joiner="" if recognizer.tokenizer.is_spaceless else " ",
                on_text=on_text,
            )


async def _finished(work: "asyncio.Future[T]", is_given_up: threading.Event) -> T:
    """What a thread returns. Cancelled, it waits until the thread has noticed: it still reads a file that is then closed."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        is_given_up.set()
        work.cancel()
        while not work.done():
            await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # seen: nobody waits for it any more
        raise
    finally:
        del work  # an error keeps this frame, which must not keep the error: both would stay until garbage is collected
