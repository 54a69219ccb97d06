"""OpenAI's transcription API, messages only: the fields of a request become a `TranscriptionRequest`, a transcript becomes
its answer in one of five formats, or events of a stream. No I/O.

A field that a model of ours cannot follow is refused in a sentence, not passed over; docs/serving.md lists them.
"""

import bisect
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zipasr.errors import ProtocolError
from zipasr.serve.protocol import timed_words
from zipasr.transcript import FORMATS, Token, Transcript, to_cues

RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
MODEL_ALIAS = "whisper-1"
"""Accepted beside the model's own name: applications written for OpenAI's server often name nothing else."""
_GRANULARITIES = ("word", "segment")
_CONTENT_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}
_MAX_PHRASES, _MAX_PHRASE_CHARACTERS = 1000, 20_000
"""What a request may prefer: the graph of all phrases grows with their characters, and everybody waits while it is made."""


class RequestError(ProtocolError):
    """A request that cannot be followed."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        """Say what is wrong.

        Args:
            message: a sentence.
            param: the field at fault.
            status: of the HTTP answer.
            code: OpenAI's word for it.
        """
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


@dataclass(frozen=True, kw_only=True)
class TranscriptionRequest:
    """What is asked for, but for the recording."""

    response_format: str = "json"
    is_stream: bool = False
    has_words: bool = True
    has_segments: bool = True
    """Whether verbose_json holds them."""
    has_log_probs: bool = False
    hotwords: tuple[str, ...] | None = None
    """None: those of the server."""


def parse_request(fields: Sequence[tuple[str, str]], model_name: str) -> TranscriptionRequest:
    """Read the fields of a form.

    Raises:
        RequestError: one of them is unknown, is given twice or asks for what cannot be done.
    """
    one: dict[str, str] = {}
    many: dict[str, list[str]] = {"timestamp_granularities": [], "include": [], "keywords": []}
    for name, value in fields:
        if name.removesuffix("[]") in many:
            many[name.removesuffix("[]")].append(value)
        elif name in one:
            raise RequestError(f"Expected {name} once, got it twice.", param=name)
        else:
            one[name] = value
    _check_model(one.pop("model", None), model_name)
    _check_fixed(one)
    response_format = _choice("response_format", one.pop("response_format", "json"), RESPONSE_FORMATS)
    is_stream = _choice("stream", one.pop("stream", "false").lower(), ("true", "false")) == "true"
    hotwords = _phrases(one.pop("prompt", ""), many["keywords"])
    for name in one:
        raise RequestError(f"This server knows no field {name}; leave it out.", param=name)
    if is_stream and response_format not in ("json", "text", "verbose_json"):
        raise RequestError(
            f"A stream has no {response_format}, which is written when all is known; leave stream out, or ask for json.",
            param="stream",
        )
    granularities = [_choice("timestamp_granularities", value, _GRANULARITIES) for value in many["timestamp_granularities"]]
    if granularities and response_format != "verbose_json":
        raise RequestError(
            f"timestamp_granularities has an effect on verbose_json only, but response_format is {response_format}.",
            param="timestamp_granularities",
        )
    for value in many["include"]:
        _choice("include", value, ("logprobs",))
    if many["include"] and response_format != "json":
        raise RequestError(
            f"logprobs are for json only, but response_format is {response_format}; leave include out.", param="include"
        )
    return TranscriptionRequest(
        response_format=response_format,
        is_stream=is_stream,
        has_words="word" in granularities,
        has_segments="segment" in granularities or not granularities,
        has_log_probs=bool(many["include"]),
        hotwords=hotwords,
    )


def _check_model(asked: str | None, model_name: str) -> None:
    if asked is None:
        raise RequestError(f"Expected the field model with the name of the model, {model_name}.", param="model")
    if asked not in (model_name, MODEL_ALIAS):
        raise RequestError(
            f"This server has no model {asked[:100]!r}; its model is {model_name} ({MODEL_ALIAS} stands for it too).",
            param="model",
            status=404,
            code="model_not_found",
        )


def _check_fixed(one: dict[str, str]) -> None:
    """Take out the fields for which a single value is what happens anyway; refuse others."""
    if "language" in one:
        raise RequestError("A model of this server has no languages to choose from; leave language out.", param="language")
    try:
        is_zero = float(one.pop("temperature", "0")) == 0
    except ValueError:
        is_zero = False
    if not is_zero:
        raise RequestError("The search draws nothing at random; leave temperature out, or give 0.", param="temperature")
    if one.pop("chunking_strategy", "auto") != "auto":
        raise RequestError(
            "Long recordings are cut in pauses by rules of the server; leave chunking_strategy out, or give auto.",
            param="chunking_strategy",
        )


def _choice(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise RequestError(f"{name} must be one of {', '.join(choices)}, but is {value[:100]!r}.", param=name)
    return value


def _phrases(prompt: str, keywords: Iterable[str]) -> tuple[str, ...] | None:
    """Hotwords: each keyword, and what stands between commas and line ends in the prompt."""
    separated = [part for line in prompt.splitlines() for part in line.split(",")]
    phrases = tuple(dict.fromkeys(" ".join(phrase.split()) for phrase in (*keywords, *separated) if phrase.strip()))
    if len(phrases) > _MAX_PHRASES:
        raise RequestError(f"Expected at most {_MAX_PHRASES} phrases to prefer, got {len(phrases)}.", param="prompt")
    num_characters = sum(map(len, phrases))
    if num_characters > _MAX_PHRASE_CHARACTERS:
        raise RequestError(
            f"Expected phrases to prefer of at most {_MAX_PHRASE_CHARACTERS} characters in all, got {num_characters}.",
            param="prompt",
        )
    return phrases or None


def write_answer(request: TranscriptionRequest, transcript: Transcript, token_ids: Mapping[str, int]) -> tuple[str, str]:
    """The answer.

    Args:
        request: what was asked for.
        transcript: of the recording.
        token_ids: the id of each piece of the vocabulary.
    Returns:
        Content type and text.
    """
    kind = request.response_format
    if kind == "verbose_json":
        return "application/json", _strict(_verbose(request, transcript, token_ids))
    if kind == "json":
        answer: dict[str, object] = {"text": transcript.text}
        if request.has_log_probs:
            answer["logprobs"] = _log_probs(transcript.tokens)
        answer["usage"] = {"type": "duration", "seconds": math.ceil(transcript.duration_s)}
        return "application/json", _strict(answer)
    return f"{_CONTENT_TYPES[kind]}; charset=utf-8", FORMATS[kind](transcript, "")


class EventWriter:
    """The events of a stream, in turn: stretches of the text as they become certain, then that this was all."""

    def __init__(self, request: TranscriptionRequest, token_ids: Mapping[str, int]) -> None:
        """Begin a stream; the arguments are those of `write_answer`."""
        self._request, self._token_ids = request, token_ids
        self._text, self._num_tokens = "", 0

    def delta(self, text: str, tokens: Sequence[Token]) -> str:
        """The event that a recording goes on with a text, which no later event takes back."""
        self._text += text
        self._num_tokens += len(tokens)
        event: dict[str, object] = {"type": "transcript.text.delta", "delta": text}
        if self._request.has_log_probs:
            event["logprobs"] = _log_probs(tokens)
        return _event(event)

    def done(self, transcript: Transcript) -> str:
        """The events that tell what of a recording's text has not been told, if any, and that this was all."""
        assert transcript.text.startswith(self._text), "what was told of a text must be how it begins"
        rest = transcript.text[len(self._text) :]
        last = self.delta(rest, transcript.tokens[self._num_tokens :]) if rest else ""
        done: dict[str, object] = {"type": "transcript.text.done", "text": transcript.text}
        if self._request.has_log_probs:
            done["logprobs"] = _log_probs(transcript.tokens)
        if self._request.response_format == "verbose_json":
            done |= _verbose(self._request, transcript, self._token_ids)
        return last + _event(done)


def write_error_event(error: Mapping[str, object]) -> str:
    """The event of a stream that failed."""
    return _event(error)


def write_progress(done_s: float) -> str:
    """A comment in a stream, which clients pass over: the seconds of the recording that are done."""
    return f": {done_s:.1f} s done\n\n"


def error_body(message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> dict[str, object]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _event(data: Mapping[str, object]) -> str:
    return f"data: {_strict(data)}\n\n"


def _verbose(request: TranscriptionRequest, transcript: Transcript, token_ids: Mapping[str, int]) -> dict[str, object]:
    answer: dict[str, object] = {
        "task": "transcribe",
        "language": "unknown",  # our models do not tell
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
    }
    if request.has_segments:
        answer["segments"] = _segments(transcript, token_ids)
    if request.has_words:
        answer["words"] = timed_words(transcript)
    answer["usage"] = {"type": "duration", "seconds": math.ceil(transcript.duration_s)}
    return answer


def _segments(transcript: Transcript, token_ids: Mapping[str, int]) -> list[dict[str, object]]:
    """A segment for each subtitle. Without a detector of silence in the model, `no_speech_prob` is 0."""
    cues = to_cues(transcript)
    groups: list[list[Token]] = [[] for _ in cues]
    starts_s = [cue.start_s for cue in cues]
    for token in transcript.tokens if cues else ():
        groups[max(bisect.bisect_right(starts_s, token.start_s + 1e-6) - 1, 0)].append(token)
    segments: list[dict[str, object]] = []
    for id, (cue, tokens) in enumerate(zip(cues, groups, strict=True)):
        text = cue.text.replace("\n", transcript.word_joiner)
        encoded = text.encode()
        log_probs = [token.log_prob for token in tokens if math.isfinite(token.log_prob)]
        segments.append(
            {
                "id": id,
                "seek": 0,
                "start": round(cue.start_s, 3),
                "end": round(cue.end_s, 3),
                "text": text,
                "tokens": [token_ids[token.text] for token in tokens if token.text in token_ids],
                "temperature": 0.0,
                "avg_logprob": round(sum(log_probs) / len(log_probs), 6) if log_probs else 0.0,
                "compression_ratio": round(len(encoded) / len(zlib.compress(encoded)), 4),
                "no_speech_prob": 0.0,
            }
        )
    return segments


def _log_probs(tokens: Sequence[Token]) -> list[dict[str, object]]:
    spelled = [(token.text.replace("\u2581", " "), token.log_prob) for token in tokens]
    return [
        {"token": text, "logprob": round(log_prob, 6) if math.isfinite(log_prob) else -9999.0, "bytes": list(text.encode())}
        for text, log_prob in spelled
    ]


def _strict(message: Mapping[str, object]) -> str:
    return json.dumps(message, ensure_ascii=False, allow_nan=False)
