"""Files in, their transcripts out in the same order: short ones that follow each other in batches, long ones one by one, and
the errors of those that cannot be read."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import BinaryIO, NamedTuple

import numpy as np
from torch import Tensor

from zipasr.audio import SAMPLE_RATE_HZ, num_channels, read_blocks, rereadable
from zipasr.errors import AudioError
from zipasr.transcript import Transcript, merge_channels

AudioSource = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | Tensor
"""A recording: a path, the content of a file, an open file, or an array of samples; see `zipasr.audio.load_audio`."""

_BATCH_S = 60.0
"""Audio of short recordings that are transcribed together; the first result comes after this much audio."""


class FileResult(NamedTuple):
    """The result of one recording, or of one channel of it."""

    path: str
    transcript: Transcript | None
    """None if the recording could not be read."""
    error: AudioError | None = None
    """The reason why it could not be read."""


class ReadChannel(NamedTuple):
    """A channel of a recording as it is read."""

    channel: int | None
    """Index of the channel; None: all of them, mixed."""
    samples: np.ndarray | None
    """All samples of a short recording; None: it is long."""
    blocks: Iterator[np.ndarray]
    """The blocks of a long one."""


def read_short(blocks: Iterator[np.ndarray], *, max_s: float) -> tuple[np.ndarray | None, Iterator[np.ndarray]]:
    """All samples of a recording of at most `max_s`; of a longer one None and its blocks, from the first on."""
    read: list[np.ndarray] = []
    num_samples = 0
    for block in blocks:
        read.append(block)
        num_samples += len(block)
        if num_samples > max_s * SAMPLE_RATE_HZ:
            return None, itertools.chain(read, blocks)
    return np.concatenate(read) if read else np.zeros(0, np.float32), iter(())


def read_channels(
    audio: AudioSource,
    *,
    channel: int | None = None,
    is_per_channel: bool = False,
    sample_rate_hz: int | None = None,
    format: str | None = None,
    audio_track: int | None = None,
    allow_damaged: bool = False,
    max_s: float,
) -> Iterator[ReadChannel]:
    """What to transcribe of a recording: one channel, or all of them mixed, or each as soon as it is read.

    Recordings of at most `max_s` are short. The other arguments are those of `Recognizer.transcribe`; a file object that is
    read per channel must be at its start.

    Raises:
        AudioError: the recording cannot be read.
    """
    with rereadable(audio) if is_per_channel else nullcontext(audio) as source:
        channels: Iterable[int | None] = [channel]
        if is_per_channel:
            number = num_channels(
                source,
                sample_rate_hz=sample_rate_hz,
                format=format,
                audio_track=audio_track,
                allow_damaged=allow_damaged,
            )
            channels = range(number)
        for one in channels:
            if is_per_channel and hasattr(source, "seek"):
                source.seek(0)
            blocks = read_blocks(
                source,
                sample_rate_hz=sample_rate_hz,
                format=format,
                channel=one,
                audio_track=audio_track,
                allow_damaged=allow_damaged,
            )
            yield ReadChannel(one, *read_short(blocks, max_s=max_s))


def transcribe_in_batches(
    paths: Iterable[str | os.PathLike[str]],
    *,
    channels_of: Callable[[str], Iterable[ReadChannel]],
    transcribe_many: Callable[[Sequence[np.ndarray]], Sequence[Transcript]],
    transcribe_long: Callable[[Iterator[np.ndarray]], Transcript],
) -> Iterator[FileResult]:
    """The results of files, in their order.

    Args:
        channels_of: what to transcribe of a file; raises AudioError if the file cannot be read.
        transcribe_many: a transcript for each of some short recordings.
        transcribe_long: the transcript of a long one; raises AudioError if its blocks cannot be read to the end.
    """
    waiting: list[tuple[FileResult, np.ndarray | None]] = []  # short recordings, and errors, which keep their order

    def flush() -> Iterator[FileResult]:
        """The results of all that wait; the channel of each is in its result already."""
        recordings = [samples for _, samples in waiting if samples is not None]
        transcripts = iter(transcribe_many(recordings) if recordings else ())
        for result, samples in waiting:
            if samples is None or result.transcript is None:
                yield result
            else:
                yield FileResult(result.path, dataclasses.replace(next(transcripts), channel=result.transcript.channel))
        waiting.clear()

    def read(name: str) -> Iterator[FileResult]:
        """Let the short channels of a file wait; a long one is transcribed after all that wait."""
        for channel, samples, blocks in channels_of(name):
            if samples is not None:
                waiting.append((FileResult(name, Transcript("", channel=channel)), samples))
                continue
            yield from flush()
            yield FileResult(name, dataclasses.replace(transcribe_long(blocks), channel=channel))

    for path in paths:
        name = os.fspath(path)
        try:
            yield from read(name)
        except AudioError as error:
            waiting.append((FileResult(name, None, error), None))
        num_samples = [len(samples) for _, samples in waiting if samples is not None]
        if not num_samples or sum(num_samples) >= _BATCH_S * SAMPLE_RATE_HZ:  # errors alone wait for nothing
            yield from flush()
    yield from flush()


def merge_results(results: Iterable[FileResult]) -> Iterator[FileResult]:
    """One result per file from those of its channels; see `merge_channels`. A channel that cannot be read fails its file."""
    channels: list[FileResult] = []

    def merged() -> Iterator[FileResult]:
        if channels:
            transcripts = [result.transcript for result in channels if result.transcript is not None]
            yield FileResult(channels[0].path, merge_channels(transcripts))
        channels.clear()

    for result in results:
        is_same_file = bool(channels) and channels[0].path == result.path
        if result.transcript is None and is_same_file:
            channels.clear()
        elif not is_same_file or (result.transcript is not None and not result.transcript.channel):
            yield from merged()
        if result.transcript is None:
            yield result
        else:
            channels.append(result)
    yield from merged()
