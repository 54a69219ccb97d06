"""Law: results come in the order of the files; an error waits for nothing but the recordings before it."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from zipasr.errors import AudioError
from zipasr.recognizer.files import FileResult, ReadChannel, transcribe_in_batches
from zipasr.transcript import Transcript


def read(name: str) -> Iterator[ReadChannel]:
    if name.startswith("bad"):
        raise AudioError(f"{name} cannot be read")
    yield ReadChannel(None, np.zeros(16_000, np.float32), iter(()))


def transcribed(paths: Iterator[str], asked: list[int]) -> Iterator[FileResult]:
    def transcribe_many(recordings: Sequence[np.ndarray]) -> list[Transcript]:
        asked.append(len(recordings))
        return [Transcript("A") for _ in recordings]

    def transcribe_long(_: Iterator[np.ndarray]) -> Transcript:
        pytest.fail("there is no long recording")

    return transcribe_in_batches(paths, channels_of=read, transcribe_many=transcribe_many, transcribe_long=transcribe_long)


def test_an_error_does_not_wait_for_later_recordings() -> None:
    def paths() -> Iterator[str]:
        yield "bad"
        pytest.fail("the error must come before the next file is read")

    result = next(transcribed(paths(), []))
    assert (result.path, result.transcript, str(result.error)) == ("bad", None, "bad cannot be read")


def test_errors_keep_their_place_among_recordings_of_a_batch() -> None:
    asked = list[int]()
    results = list(transcribed(iter(["bad 1", "good 1", "bad 2", "good 2"]), asked))
    assert [(result.path, result.error is None) for result in results] == [
        ("bad 1", False),
        ("good 1", True),
        ("bad 2", False),
        ("good 2", True),
    ]
    assert asked == [2]
