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
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.audio.samples import MAX_RATE_HZ, MIN_RATE_HZ
from zipasr.errors import ProtocolError
from zipasr.transcript import Token, Transcript, to_cues

CLIENT_DONE, SERVER_DONE = "Done", "Done!"
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
        """The samples (samples,) float32 that are complete with this message."""
        message = self._rest + message
        num_bytes = len(message) - len(message) % _BYTES_PER_SAMPLE
        self._rest = message[num_bytes:]
        return np.frombuffer(message[:num_bytes], "<f4").astype(np.float32)


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

    @property
    def is_between(self) -> bool:
        """Whether no recording has been received in part."""
        return not self._held

    @property
    def num_held_bytes(self) -> int:
        """Bytes received of an incomplete recording."""
        return len(self._held)

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
            end = _HEADER_BYTES + num_bytes
            if len(self._held) < end:
                return
            samples = np.frombuffer(bytes(self._held[_HEADER_BYTES:end]), "<f4").astype(np.float32)
            del self._held[:end]
            yield SentRecording(samples, rate_hz)

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


def to_live_json(
    transcript: Transcript, *, segment: int, start_s: float, is_final: bool, is_eof: bool, has_words: bool = False
) -> str:
    """The JSON of an utterance so far, as sherpa-onnx's clients expect it.

    Args:
        transcript: the utterance; its times count from the start of the stream.
        segment: number of utterances before it.
        start_s: start of the utterance in the stream; the times of its tokens are written relative to it.
        is_final: whether the utterance has ended.
        is_eof: whether it is the last one.
        has_words: whether to add fields that sherpa-onnx's JSON lacks, with times in seconds from the start of the stream:
            `timed_words`, each with `word`, `start`, `end` and `confidence`, and, for a final utterance,
            `timed_segments`, its subtitles, each with `start`, `end`, `text` and the `lines` that are displayed.
    """
    extra: dict[str, object] = {}
    if has_words:
        extra = {"timed_words": timed_words(transcript), "timed_segments": _segments(transcript) if is_final else []}
    return write_json(
        {
            "text": transcript.text,
            "tokens": [_token_text(token) for token in transcript.tokens],
            "timestamps": [round(max(token.start_s - start_s, 0.0), 2) for token in transcript.tokens],
            "ys_probs": _log_probs(transcript.tokens),
            # sherpa-onnx reports these scores separately; our searches add them to the model's score.
            "lm_probs": [],
            "context_scores": [],
            "segment": segment,
            "words": [],  # word ids of a decoding graph, which we do not use
            "start_time": round(start_s, 2),
            "is_final": is_final,
            "is_eof": is_eof,
            **extra,
        }
    )


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
            "tokens": [_token_text(token) for token in transcript.tokens],
            "ys_log_probs": _log_probs(transcript.tokens),
            "words": [],
        }
    )


def timed_words(transcript: Transcript) -> list[dict[str, object]]:
    """The words in the form of OpenAI's API, with their confidence added; times in seconds."""
    return [
        {
            "word": word.text,
            "start": round(word.start_s, 3),
            "end": round(word.end_s, 3),
            "confidence": round(word.confidence, 4),
        }
        for word in transcript.words
    ]


def _segments(transcript: Transcript) -> list[dict[str, object]]:
    return [
        {
            "start": round(cue.start_s, 3),
            "end": round(cue.end_s, 3),
            "text": transcript.word_joiner.join(cue.text.split("\n")),
            "lines": cue.text.split("\n"),
        }
        for cue in to_cues(transcript)
    ]


def close_reason(message: str) -> str:
    """A sentence truncated to 123 bytes, the longest reason that a close frame can hold."""
    encoded = message.encode()
    return message if len(encoded) <= 123 else encoded[:120].decode(errors="ignore") + "..."


def _token_text(token: Token) -> str:
    return token.text.replace("\u2581", " ")


def _log_probs(tokens: Sequence[Token]) -> list[float]:
    """Log-probabilities with 6 digits; JSON has no infinity, so the lowest float32 replaces it."""
    lowest = -3.4e38
    return [round(token.log_prob, 6) if math.isfinite(token.log_prob) else lowest for token in tokens]


def write_json(message: Mapping[str, object]) -> str:
    """A message as JSON; numbers must be finite."""
    return json.dumps(message, ensure_ascii=False, allow_nan=False)
