"""Many files, their transcripts in order: short ones that follow each other in batches, long ones by themselves, and the
errors of those that cannot be read."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.errors import AudioError
from zipasr.transcript import Transcript

_BATCH_S = 60.0
"""Sound of short recordings that are transcribed together; whoever waits for the first line waits for so much."""


class FileResult(NamedTuple):
    """What came of one recording, or of one channel of it."""

    path: str
    transcript: Transcript | None
    """None if it could not be read."""
    error: AudioError | None = None
    """Why."""


class ReadChannel(NamedTuple):
    """A channel of a recording as it is read."""

    channel: int | None
    """Which one; None: all of them, mixed."""
    samples: np.ndarray | None
    """All samples of a short recording; None: it is long."""
    blocks: Iterator[np.ndarray]
    """The blocks of a long one."""


def in_batches(
    paths: Iterable[str | os.PathLike[str]],
    *,
    read_channels: Callable[[str], Iterable[ReadChannel]],
    transcribe_many: Callable[[Sequence[np.ndarray]], Sequence[Transcript]],
    transcribe_long: Callable[[Iterator[np.ndarray]], Transcript],
) -> Iterator[FileResult]:
    """Transcribe files.

    Args:
        paths: files, in the order of the results.
        read_channels: what is to be transcribed of a file; raises AudioError where it cannot be read.
        transcribe_many: a transcript for each of some short recordings.
        transcribe_long: the transcript of a long one; raises AudioError where its blocks cannot be read to the end.
    """
    waiting: list[tuple[FileResult, np.ndarray | None]] = []  # short ones, and errors that keep their place
    for path in paths:
        name = os.fspath(path)
        try:
            for read in read_channels(name):
                if read.samples is not None:
                    waiting.append((FileResult(name, Transcript("", channel=read.channel)), read.samples))
                    continue
                yield from _finished(waiting, transcribe_many)
                waiting = []
                transcript = transcribe_long(read.blocks)
                yield FileResult(name, dataclasses.replace(transcript, channel=read.channel))
        except AudioError as error:
            waiting.append((FileResult(name, None, error), None))
        if sum(len(samples) for _, samples in waiting if samples is not None) >= _BATCH_S * SAMPLE_RATE_HZ:
            yield from _finished(waiting, transcribe_many)
            waiting = []
    yield from _finished(waiting, transcribe_many)


def _finished(
    waiting: Sequence[tuple[FileResult, np.ndarray | None]],
    transcribe_many: Callable[[Sequence[np.ndarray]], Sequence[Transcript]],
) -> Iterator[FileResult]:
    """Transcribe those that wait, each with its channel noted already."""
    transcripts = iter(transcribe_many([samples for _, samples in waiting if samples is not None]))
    for result, samples in waiting:
        if samples is None or result.transcript is None:
            yield result
        else:
            yield FileResult(result.path, dataclasses.replace(next(transcripts), channel=result.transcript.channel))
