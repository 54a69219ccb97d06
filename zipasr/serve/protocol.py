"""sherpa-onnx's WebSocket protocols, bytes <-> messages: messages of clients become samples (samples,) float32, and
transcripts become the JSON that the clients expect. No I/O.

Live audio ("online"): the client sends float32 samples, little-endian, mono, at the server's rate, in messages of any size,
then the text `Done`; the server sends JSON after every chunk, then the text `Done!`. Recordings ("offline"): the client
sends an int32 sample rate, an int32 number of bytes and float32 samples, split into messages anywhere; the server sends one
JSON for each recording; `Done` closes the connection.
"""

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.audio.samples import MAX_RATE_HZ, MIN_RATE_HZ
from zipasr.errors import ProtocolError
from zipasr.transcript import Cue, Token, Transcript, Word, to_cues

T = TypeVar("T")
CLIENT_DONE, SERVER_DONE = "Done", "Done!"
SENT_INT16_CURE = "send 16-bit PCM divided by 32768"
"""Advice for NaN, short enough for a close frame: most often, 16-bit samples were sent as they are, not as float32."""
_BYTES_PER_SAMPLE = 4
_HEADER_BYTES = 8


class TooLong(ProtocolError):
    """A recording is longer or larger than the server accepts."""


def check_text(text: str) -> None:
    """Check that a text message is `Done`, the only one of the protocols.

    Raises:
        ProtocolError: it is another text.
    """
    if text != CLIENT_DONE:
        raise ProtocolError(
            f"A message must be float32 samples, or the text {CLIENT_DONE} at the end, but is the text {text[:20]!r}."
        )


class LiveReader:
    """Messages of live audio in, samples out; a sample may be split between two messages."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, message: bytes) -> np.ndarray:
        """The samples (samples,) float32 that are complete with this message; read-only, since they lie in its memory."""
        if self._rest:
            message = self._rest + message
        num_samples, num_left = divmod(len(message), _BYTES_PER_SAMPLE)
        self._rest = message[len(message) - num_left :]
        return np.frombuffer(message, "<f4", num_samples).astype(np.float32, copy=False)


class SentRecording(NamedTuple):
    """A received recording and its sample rate."""

    samples: np.ndarray
    """(samples,) float32."""
    rate_hz: int


class RecordingReader:
    """Messages of the "offline" protocol in, whole recordings out."""

    def __init__(self, max_duration_s: float, max_bytes: int) -> None:
        """Create a reader that has received nothing.

        Args:
            max_duration_s: longest recording.
            max_bytes: largest recording; at a high sample rate even a short one can be too large for memory.
        """
        self.max_duration_s, self.max_bytes = max_duration_s, max_bytes
        self._held = bytearray()
        self._num_wanted_bytes = _HEADER_BYTES

    @property
    def num_missing_bytes(self) -> int:
        """Bytes after which `read` has something to do: check a header, or yield a recording."""
        return self._num_wanted_bytes - len(self._held)

    @property
    def is_between(self) -> bool:
        """Whether no recording has been received in part."""
        return not self._held

    @property
    def num_held_bytes(self) -> int:
        """Bytes received of an incomplete recording."""
        return len(self._held)

    def add(self, message: bytes) -> None:
        """Receive a message with fewer than `num_missing_bytes`."""
        self._held += message

    def read(self, message: bytes) -> Iterator[SentRecording]:
        """Yield the recordings that are complete with this message, lazily: a message may contain a million of them.

        Raises:
            TooLong: the header states a recording that is too long or too large.
            ProtocolError: the header is invalid.
        """
        self._held += message
        while len(self._held) >= _HEADER_BYTES:
            rate_hz, num_bytes = struct.unpack_from("<ii", self._held)
            self._check_header(rate_hz, num_bytes)
            self._num_wanted_bytes = _HEADER_BYTES + num_bytes
            if len(self._held) < self._num_wanted_bytes:
                return
            samples, self._num_wanted_bytes = self._take(self._num_wanted_bytes), _HEADER_BYTES
            yield SentRecording(samples, rate_hz)

    def _take(self, end: int) -> np.ndarray:
        """Remove the first recording, which ends at a byte; most often it is all that is held, and needs no copy."""
        if end == len(self._held):
            content, self._held = self._held, bytearray()
        else:
            content = self._held[:end]
            del self._held[:end]
        return np.frombuffer(content, "<f4", offset=_HEADER_BYTES).astype(np.float32, copy=False)

    def _check_header(self, rate_hz: int, num_bytes: int) -> None:
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise ProtocolError(
                f"The first value, the sample rate, must be {MIN_RATE_HZ} to {MAX_RATE_HZ}, but is {rate_hz}."
            )
        if num_bytes < 0 or num_bytes % _BYTES_PER_SAMPLE:
            raise ProtocolError(f"The number of bytes must be a multiple of 4, but is {num_bytes}.")
        duration_s = num_bytes / _BYTES_PER_SAMPLE / rate_hz
        if duration_s > self.max_duration_s:
            raise TooLong(f"A recording must be at most {self.max_duration_s:g} s long, but has {duration_s:.0f} s.")
        if num_bytes > self.max_bytes:
            raise TooLong(f"A recording must have at most {self.max_bytes} bytes, but has {num_bytes}; lower its rate.")


def write_recording(samples: np.ndarray, rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """A recording as a client sends it: a header, then the samples (samples,) float32."""
    body = samples.astype("<f4").tobytes()
    return struct.pack("<ii", rate_hz, len(body)) + body


class LiveWriter:
    """Results of a live stream in, JSON out, as sherpa-onnx's clients expect it: each time, the whole utterance so far.

    Only what is new in an utterance is encoded, so that the work for a result does not grow with the utterance.
    """

    def __init__(self, *, has_words: bool = False) -> None:
        """Create a writer for one stream.

        Args:
            has_words: whether to add fields that sherpa-onnx's JSON lacks, with times in seconds from the start of the
                stream: `timed_words`, each with `word`, `start`, `end` and `confidence`, and, for a final utterance,
                `timed_segments`, its subtitles, each with `start`, `end`, `text` and the `lines` that are displayed.
        """
        self.has_words = has_words
        self._start_s = math.nan
        self._tokens: _Columns[Token] = _Columns()
        self._words: _Columns[Word] = _Columns(lambda word: _encode(_timed_word(word)))

    def write(self, transcript: Transcript, *, segment: int, start_s: float, is_final: bool, is_eof: bool) -> str:
        """The JSON of an utterance so far.

        Args:
            transcript: the utterance; its times count from the start of the stream.
            segment: number of utterances before it.
            start_s: start of the utterance in the stream; the times of its tokens are written relative to it.
            is_final: whether the utterance has ended.
            is_eof: whether it is the last one.
        """
        if start_s != self._start_s:
            self._start_s = start_s
            self._tokens = _Columns(
                lambda token: _encode(token_text(token)),
                lambda token: str(round(max(token.start_s - start_s, 0.0), 2)),
                lambda token: str(_log_prob(token)),
            )
        texts, times, log_probs = self._tokens.update(transcript.tokens)
        extra = ""
        if self.has_words:
            segments = [timed_segment(cue, transcript) for cue in to_cues(transcript)] if is_final else []
            extra = f', "timed_words": {self._timed_words(transcript.words)}, "timed_segments": {_encode(segments)}'
        if transcript.slots is not None:
            extra += f', "slots": {_encode(dict(transcript.slots))}'
        # sherpa-onnx reports `lm_probs` and `context_scores` separately; our searches add them to the model's score.
        # `words` are word ids of a decoding graph, which we do not use.
        return (
            f'{{"text": {_encode(transcript.text)}, "tokens": [{texts}], "timestamps": [{times}], '
            f'"ys_probs": [{log_probs}], "lm_probs": [], "context_scores": [], "segment": {segment}, "words": [], '
            f'"start_time": {round(start_s, 2)}, "is_final": {_BOOLEANS[is_final]}, "is_eof": {_BOOLEANS[is_eof]}{extra}}}'
        )

    def _timed_words(self, words: tuple[Word, ...]) -> str:
        """The JSON of the words; the last one may still change."""
        (complete,) = self._words.update(words[:-1])
        return f"[{complete}{', ' if complete else ''}{''.join(_encode(_timed_word(word)) for word in words[-1:])}]"


class _Columns(Generic[T]):
    """The JSON of lists with one entry each for every item of a list, which mostly grows at its end."""

    def __init__(self, *entries: Callable[[T], str]) -> None:
        """Create empty lists; `entries` write the entry of an item, one for each list."""
        self._entries = entries
        self._items: tuple[T, ...] = ()
        self._written = [""] * len(entries)

    def update(self, items: tuple[T, ...]) -> list[str]:
        """The entries of all items for every list, without brackets; those of items that were there before are kept."""
        num_kept = len(self._items)
        if items[:num_kept] != self._items:
            num_kept, self._written = 0, [""] * len(self._entries)
        if added := items[num_kept:]:
            new = [", ".join(map(entry, added)) for entry in self._entries]
            self._written = [f"{old}, {more}" if old else more for old, more in zip(self._written, new, strict=True)]
        self._items = items
        return self._written


def to_recording_json(transcript: Transcript) -> str:
    """The JSON of a recording. Fields that our models lack (language, emotion, event) are empty, as in sherpa-onnx."""
    return write_json(
        {
            "lang": "",
            "emotion": "",
            "event": "",
            "text": transcript.text,
            "timestamps": [round(token.start_s, 2) for token in transcript.tokens],
            "durations": [round(token.end_s - token.start_s, 2) for token in transcript.tokens],
            "tokens": [token_text(token) for token in transcript.tokens],
            "ys_log_probs": [_log_prob(token) for token in transcript.tokens],
            "words": [],
            **slots_field(transcript),
        }
    )


def slots_field(transcript: Transcript) -> dict[str, object]:
    """The field `slots` of a transcript under a graph; no field otherwise."""
    return {} if transcript.slots is None else {"slots": dict(transcript.slots)}


def timed_words(transcript: Transcript) -> list[dict[str, object]]:
    """The words in the form of OpenAI's API, with their confidence added; times in seconds."""
    return [_timed_word(word) for word in transcript.words]


def _timed_word(word: Word) -> dict[str, object]:
    return {
        "word": word.text,
        "start": round(word.start_s, 3),
        "end": round(word.end_s, 3),
        "confidence": round(word.confidence, 4),
    }


def timed_segment(cue: Cue, transcript: Transcript) -> dict[str, object]:
    """A subtitle of a transcript as a segment, with the `lines` that are displayed; times in seconds."""
    lines = cue.text.split("\n")
    return {
        "start": round(cue.start_s, 3),
        "end": round(cue.end_s, 3),
        "text": transcript.word_joiner.join(lines),
        "lines": lines,
    }


def close_reason(message: str) -> str:
    """A sentence truncated to 123 bytes, the longest reason that a close frame can hold."""
    encoded = message.encode()
    return message if len(encoded) <= 123 else encoded[:120].decode(errors="ignore") + "..."


def token_text(token: Token) -> str:
    """The text of a token, with spaces as such."""
    return token.text.replace("\u2581", " ")


def _log_prob(token: Token) -> float:
    """Its log-probability with 6 digits; JSON has no infinity, so the lowest float32 replaces it."""
    return round(token.log_prob, 6) if math.isfinite(token.log_prob) else -3.4e38


_BOOLEANS = ("false", "true")
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def write_json(message: Mapping[str, object]) -> str:
    """A message as JSON; numbers must be finite."""
    return _encode(message)
