"""sherpa-onnx's WebSocket protocols, bytes <-> messages: what its clients send becomes samples (samples,) float32, and
transcripts become the JSON that they read. No I/O.

Live sound ("online"): float32 samples, little-endian, mono, at the server's rate, in messages of any size; the text `Done`
ends it. Answers are JSON after every chunk, and the text `Done!` at the end. Recordings ("offline"): int32 sample rate,
int32 number of bytes, then float32 samples, cut into messages anywhere; one JSON for each; `Done` closes.
"""

import json
import math
import struct
from collections.abc import Iterator, Sequence
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
    """A recording is longer than the server takes."""


def check_text(text: str) -> None:
    """Check that a text message is the one there is.

    Raises:
        ProtocolError: it is another.
    """
    if text != CLIENT_DONE:
        raise ProtocolError(f"Expected float32 samples, or the text {CLIENT_DONE} at the end; got the text {text[:20]!r}.")


class LiveReader:
    """Messages of live sound in, samples out; a sample may be cut by the end of a message."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, message: bytes) -> np.ndarray:
        """The samples (samples,) float32 that this message completes."""
        message = self._rest + message
        num_bytes = len(message) - len(message) % _BYTES_PER_SAMPLE
        self._rest = message[num_bytes:]
        return np.frombuffer(message[:num_bytes], "<f4").astype(np.float32)


class SentRecording(NamedTuple):
    """A recording as it was sent."""

    samples: np.ndarray
    """(samples,) float32."""
    rate_hz: int


class RecordingReader:
    """Messages of recordings in, whole recordings out, one after the other."""

    def __init__(self, max_duration_s: float, max_bytes: int) -> None:
        """Begin with nothing.

        Args:
            max_duration_s: how long a recording may be.
            max_bytes: how large; at high rates a short one may be larger than what is wanted in memory.
        """
        self.max_duration_s, self.max_bytes = max_duration_s, max_bytes
        self._held = bytearray()

    @property
    def is_between(self) -> bool:
        """Whether nothing of a further recording has come."""
        return not self._held

    @property
    def num_held_bytes(self) -> int:
        """What has come of a recording that is not whole."""
        return len(self._held)

    def read(self, message: bytes) -> Iterator[SentRecording]:
        """The recordings that this message completes, each made when it is asked for: a message may hold a million.

        Raises:
            TooLong: by its header a recording is too long.
            ProtocolError: that is no header.
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
            raise ProtocolError(f"Expected a sample rate of {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz first, got {rate_hz}.")
        if num_bytes < 0 or num_bytes % _BYTES_PER_SAMPLE:
            raise ProtocolError(f"Expected a number of bytes that is a multiple of 4, got {num_bytes}.")
        duration_s = num_bytes / _BYTES_PER_SAMPLE / rate_hz
        if duration_s > self.max_duration_s:
            raise TooLong(f"Expected a recording of at most {self.max_duration_s:g} s, got one of {duration_s:.0f} s.")
        if num_bytes > self.max_bytes:
            raise TooLong(f"Expected a recording of at most {self.max_bytes} bytes, got one of {num_bytes}; lower its rate.")


def write_recording(samples: np.ndarray, rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """A recording as a client sends it: samples (samples,) float32 behind their header."""
    body = samples.astype("<f4").tobytes()
    return struct.pack("<ii", rate_hz, len(body)) + body


def to_live_json(
    transcript: Transcript, *, segment: int, start_s: float, is_final: bool, is_eof: bool, has_words: bool = False
) -> str:
    """What was said in an utterance so far.

    Args:
        transcript: of it, timed from the start of the stream.
        segment: number of utterances before it.
        start_s: where it begins in the stream; the times of its tokens are written from there.
        is_final: whether it is over.
        is_eof: whether it is the last.
        has_words: whether to add what sherpa-onnx's JSON has no place for, timed in seconds from the start of the stream:
            `timed_words`, each with `word`, `start`, `end` and `confidence`, and, where the utterance is over,
            `timed_segments`, its subtitles, each with `start`, `end` and `text`.
    """
    beside: dict[str, object] = {}
    if has_words:
        beside = {"timed_words": timed_words(transcript), "timed_segments": _segments(transcript) if is_final else []}
    return _strict(
        {
            "text": transcript.text,
            "tokens": [_spelled(token) for token in transcript.tokens],
            "timestamps": [round(max(token.start_s - start_s, 0.0), 2) for token in transcript.tokens],
            "ys_probs": _log_probs(transcript.tokens),
            # Kept apart from the model's own score by sherpa-onnx, not by our searches, which add them up.
            "lm_probs": [],
            "context_scores": [],
            "segment": segment,
            "words": [],  # ids of a decoding graph, which there is none of
            "start_time": round(start_s, 2),
            "is_final": is_final,
            "is_eof": is_eof,
            **beside,
        }
    )


def to_recording_json(transcript: Transcript) -> str:
    """What was said in a recording. What our models do not tell (language, emotion, event) is empty, as in sherpa-onnx."""
    return _strict(
        {
            "lang": "",
            "emotion": "",
            "event": "",
            "text": transcript.text,
            "timestamps": [round(token.start_s, 2) for token in transcript.tokens],
            "durations": [round(token.end_s - token.start_s, 2) for token in transcript.tokens],
            "tokens": [_spelled(token) for token in transcript.tokens],
            "ys_log_probs": _log_probs(transcript.tokens),
            "words": [],
        }
    )


def timed_words(transcript: Transcript) -> list[dict[str, object]]:
    """Words as OpenAI's API has them, and with the confidence that it lacks; times in seconds."""
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
        {"start": round(cue.start_s, 3), "end": round(cue.end_s, 3), "text": cue.text.replace("\n", transcript.word_joiner)}
        for cue in to_cues(transcript)
    ]


def close_reason(message: str) -> str:
    """A sentence cut to what the reason of a closing handshake may hold, 123 bytes."""
    encoded = message.encode()
    return message if len(encoded) <= 123 else encoded[:120].decode(errors="ignore") + "..."


def _spelled(token: Token) -> str:
    return token.text.replace("\u2581", " ")


def _log_probs(tokens: Sequence[Token]) -> list[float]:
    """Log-probabilities to 6 digits; JSON has no infinity, for which a float32's lowest stands."""
    lowest = -3.4e38
    return [round(token.log_prob, 6) if math.isfinite(token.log_prob) else lowest for token in tokens]


def _strict(message: dict[str, object]) -> str:
    return json.dumps(message, ensure_ascii=False, allow_nan=False)
