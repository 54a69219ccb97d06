"""Messages of OpenAI's transcription API: the fields of a request become a `TranscriptionRequest`, a transcript becomes a
response in one of five formats, or the events of a stream. No I/O.

A value that asks for another transcript than ours is refused with an explanation. Fields without an effect on our models,
and unknown ones, are accepted, since many applications always send them; docs/serving.md lists the fields.
"""

import bisect
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from zipasr.errors import ConfigError, ProtocolError
from zipasr.search.graph import LoadedGraph
from zipasr.search.hotwords import check_writable
from zipasr.serve.batching import Asked
from zipasr.serve.graphs import Graphs, chosen_graph
from zipasr.serve.hints import phrases_of, writable_phrases
from zipasr.serve.protocol import slots_field, timed_segment, timed_words, token_text, write_json
from zipasr.text import normalize, single_spaced
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import CueConfig, Token, Transcript, to_cues, writer

RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
MODEL_ALIASES = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-transcribe")
"""Accepted besides the model's own name: OpenAI's names, which applications send by default, and some can name no other."""
_GRANULARITIES = ("word", "segment")
_CONTENT_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}
_CUE_FIELDS = {"max_line_chars": int, "max_lines": int, "min_cue_s": float, "max_cue_s": float}
"""Fields of `CueConfig`, which OpenAI's API does not have, and how each is read."""
MAX_PHRASES, _MAX_PHRASE_CHARACTERS = 1000, 20_000
"""Limits on the hotwords of a request: their graph grows with their characters, and all requests wait while it is built."""
_MAX_NUM_BEST = 20
"""The time of a search grows with its beam, which holds the n-best list."""


class RequestError(ProtocolError):
    """A request that the server cannot fulfill."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        """Create the error.

        Args:
            message: what is wrong and what to do, in a sentence.
            param: name of the invalid field.
            status: HTTP status of the response.
            code: OpenAI's error code.
        """
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What a request may ask of the model."""

    name: str
    tokenizer: Tokenizer
    language: str | None = None
    """Its declared language; None: not declared."""
    has_hotwords: bool = True
    """Whether its search can use hotwords."""
    graphs: Graphs = field(default_factory=dict)
    """Graphs that a request may name."""


@dataclass(frozen=True, kw_only=True)
class TranscriptionRequest:
    """The options of a transcription request, without the recording."""

    response_format: str
    is_stream: bool
    has_words: bool
    has_segments: bool
    """Whether verbose_json includes segments."""
    has_log_probs: bool
    asked: Asked
    language: str
    """Language of the response: our models do not identify it, so it is the declared one, or the one that was asked for."""
    ignored: tuple[str, ...]
    """Names of unknown fields."""
    cues: CueConfig | None
    """Limits of subtitles and segments; None: the defaults."""


def parse_request(fields: Sequence[tuple[str, str]], model: ServedModel) -> TranscriptionRequest:
    """Parse the fields of a form; an empty value is an absent one.

    Raises:
        RequestError: a field is given twice or asks for something unsupported.
    """
    single, repeated, twice = _collected(fields)
    _check_model(single.pop("model", None), model.name)
    _check_fixed(single)
    language = _language(single.pop("language", ""), model.language)
    response_format = _choice("response_format", single.pop("response_format", "json"), RESPONSE_FORMATS)
    is_stream = _choice("stream", single.pop("stream", "false").lower(), ("true", "false")) == "true"
    graph = _graph(single.pop("graph", None), model, repeated["keywords"])
    hotwords = _hotwords("" if graph else single.get("prompt", ""), repeated["keywords"], model)
    single.pop("prompt", None)
    num_best = _num_best(single.pop("num_best", None), response_format)
    cues = _cues(single, response_format)
    if is_stream and response_format not in ("json", "text", "verbose_json"):
        raise RequestError(
            f"{response_format} cannot be streamed, since it needs the whole transcript; leave stream out, or ask for json.",
            param="stream",
        )
    granularities = [
        _choice("timestamp_granularities", value, _GRANULARITIES)
        for value in _separated(repeated["timestamp_granularities"])
    ]
    if granularities:
        _check_format("timestamp_granularities", response_format)
    included = [_choice("include", value, ("logprobs",)) for value in _separated(repeated["include"])]
    if included and response_format != "json":
        raise RequestError(
            f"logprobs are for json only, but response_format is {response_format}; leave include out.", param="include"
        )
    for name in twice - set(single):  # what is left there is unknown
        raise RequestError(f"{name} must be given once, but is given twice.", param=name)
    return TranscriptionRequest(
        response_format=response_format,
        is_stream=is_stream,
        has_words="word" in granularities,
        has_segments="segment" in granularities or not granularities,
        has_log_probs=bool(included),
        asked=Asked(hotwords, graph, num_best, needs_times=response_format not in ("json", "text")),
        language=language,
        ignored=tuple(single),
        cues=cues,
    )


def _collected(fields: Iterable[tuple[str, str]]) -> tuple[dict[str, str], dict[str, list[str]], set[str]]:
    """The fields with one value, those of arrays, and the names of the former that occur twice; without empty values."""
    single: dict[str, str] = {}
    repeated: dict[str, list[str]] = {"timestamp_granularities": [], "include": [], "keywords": []}
    twice: set[str] = set()
    for name, value in fields:
        if not value.strip():
            continue
        if name.removesuffix("[]") in repeated:
            repeated[name.removesuffix("[]")].append(value)
        elif name in single:
            twice.add(name)
        else:
            single[name] = value
    return single, repeated, twice


def _check_model(asked: str | None, model_name: str) -> None:
    if asked is None:
        raise RequestError(f"model must be the name of the model, {model_name}, but is missing.", param="model")
    if asked not in (model_name, *MODEL_ALIASES):
        raise RequestError(
            f"This server has no model {asked[:100]!r}; its model is {model_name} ({MODEL_ALIASES[0]} is an alias).",
            param="model",
            status=404,
            code="model_not_found",
        )


def _check_fixed(single: dict[str, str]) -> None:
    """Remove fields that change nothing here; refuse values that are wrong, or that ask for another processing."""
    temperature = single.pop("temperature", "0")
    try:
        is_valid = 0 <= float(temperature) <= 1
    except ValueError:
        is_valid = False
    if not is_valid:
        raise RequestError(f"temperature must be from 0 to 1, but is {temperature[:100]!r}.", param="temperature")
    objects = [single.pop(name) for name in list(single) if name.startswith("chunking_strategy[")]  # OpenAI's VAD
    if objects or single.pop("chunking_strategy", "auto") != "auto":
        raise RequestError(
            "The server decides where to split long recordings; leave chunking_strategy out, or give auto.",
            param="chunking_strategy",
        )


def _language(asked: str, declared: str | None) -> str:
    """The language of the response.

    Raises:
        RequestError: another language than the declared one is asked for.
    """
    if not asked or asked.lower() == "auto":
        return declared or "unknown"
    if declared is not None and _primary_language(asked) != _primary_language(declared):
        raise RequestError(
            f"language must be {declared}, the language of this model, but is {asked[:100]!r}; leave it out.",
            param="language",
        )
    return declared or asked


def _primary_language(code: str) -> str:
    """The language of a code without its region, in lower case: of en-US, of en_US, of EN."""
    return re.split("[-_]", code.strip().lower())[0]


def _separated(values: Iterable[str]) -> list[str]:
    """Values of an array field; some clients send one value with commas in it."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _choice(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise RequestError(f"{name} must be one of {', '.join(choices)}, but is {value[:100]!r}.", param=name)
    return value


def _check_format(name: str, response_format: str, *others: str) -> None:
    """Refuse a field that has an effect only on verbose_json and `others`, if the response has another format."""
    if response_format not in (*others, "verbose_json"):
        formats = f"{', '.join(others)} and verbose_json" if others else "verbose_json"
        raise RequestError(f"{name} has an effect only on {formats}, but response_format is {response_format}.", param=name)


def _cues(single: dict[str, str], response_format: str) -> CueConfig | None:
    """Remove the fields that limit subtitles and return the limits; None: none is given."""
    given = {name: single.pop(name) for name in _CUE_FIELDS if name in single}
    if not given:
        return None
    first = next(iter(given))
    _check_format(first, response_format, "srt", "vtt")
    values: dict[str, float] = {}
    for name, value in given.items():
        try:
            values[name] = _CUE_FIELDS[name](value)
        except ValueError as error:
            raise RequestError(f"{name} must be a number, but is {value[:100]!r}.", param=name) from error
    try:
        return CueConfig(**values)  # type: ignore[arg-type]
    except ConfigError as error:
        raise RequestError(f"{error}.", param=first) from error


def _num_best(value: str | None, response_format: str) -> int | None:
    if value is None:
        return None
    if value not in map(str, range(2, _MAX_NUM_BEST + 1)):
        raise RequestError(f"num_best must be a number from 2 to {_MAX_NUM_BEST}, but is {value[:100]!r}.", param="num_best")
    _check_format("num_best", response_format)
    return int(value)


def _graph(name: str | None, model: ServedModel, keywords: Sequence[str]) -> LoadedGraph | None:
    """The graph of a request; a prompt beside it has no effect, since many applications always send one."""
    try:
        graph = chosen_graph(model.graphs, name)
    except ConfigError as error:
        raise RequestError(f"{error}.", param="graph") from error
    if graph is not None and keywords:
        raise RequestError("keywords have no effect with a graph, which allows only its own phrases.", param="keywords")
    return graph


def _hotwords(prompt: str, keywords: Iterable[str], model: ServedModel) -> tuple[str, ...] | None:
    """The hotwords of a request: every keyword, and what of the prompt the model can write; None: there are none."""
    named, described = [single_spaced(normalize(keyword)) for keyword in keywords], phrases_of(normalize(prompt))
    num_phrases, num_characters = len({*named, *described}), sum(map(len, {*named, *described}))
    is_prompt = len(set(named)) <= MAX_PHRASES and sum(map(len, set(named))) <= _MAX_PHRASE_CHARACTERS
    param = "prompt" if is_prompt else "keywords"
    if num_phrases > MAX_PHRASES:
        raise RequestError(f"There must be at most {MAX_PHRASES} hotwords, but there are {num_phrases}.", param=param)
    if num_characters > _MAX_PHRASE_CHARACTERS:
        raise RequestError(
            f"Hotwords must have at most {_MAX_PHRASE_CHARACTERS} characters in total, but have {num_characters}.",
            param=param,
        )
    try:
        check_writable(named, model.tokenizer)
    except ConfigError as error:
        raise RequestError(str(error).replace("hotword", "keyword", 1), param="keywords") from error
    found = (*named, *(writable_phrases(described, model.tokenizer) if model.has_hotwords else ()))
    return tuple(dict.fromkeys(found)) or None


def write_answer(request: TranscriptionRequest, transcript: Transcript) -> tuple[str, str]:
    """The content type and the body of the response."""
    kind = request.response_format
    if kind == "verbose_json":
        return "application/json", write_json(_verbose(request, transcript))
    if kind == "json":
        answer: dict[str, object] = {"text": transcript.text}
        if request.has_log_probs:
            answer["logprobs"] = _log_probs(transcript.tokens)
        answer |= slots_field(transcript)
        return "application/json", write_json(answer | _usage(transcript))
    return f"{_CONTENT_TYPES[kind]}; charset=utf-8", writer(kind, request.cues)(transcript, "")


class EventWriter:
    """Writes the events of a stream: text as it becomes final, then an event that ends the stream."""

    def __init__(self, request: TranscriptionRequest) -> None:
        """Start a stream that answers a request."""
        self._request = request
        self._text, self._num_tokens = "", 0

    def delta(self, text: str, tokens: Sequence[Token]) -> str:
        """The event that appends a text, which no later event changes."""
        self._text += text
        self._num_tokens += len(tokens)
        event: dict[str, object] = {"type": "transcript.text.delta", "delta": text}
        if self._request.has_log_probs:
            event["logprobs"] = _log_probs(tokens)
        return write_event(event)

    def done(self, transcript: Transcript) -> str:
        """The events that send the rest of the text, if any, and end the stream."""
        assert transcript.text.startswith(self._text), "the text sent so far must be a prefix of the transcript"
        rest = transcript.text[len(self._text) :]
        last = self.delta(rest, transcript.tokens[self._num_tokens :]) if rest else ""
        done: dict[str, object] = {"type": "transcript.text.done", "text": transcript.text, **slots_field(transcript)}
        if self._request.has_log_probs:
            done["logprobs"] = _log_probs(transcript.tokens)
        if self._request.response_format == "verbose_json":
            done |= _verbose(self._request, transcript)
        return last + write_event(done)


def write_event(data: Mapping[str, object]) -> str:
    """An event of a stream: one of `EventWriter`, or the error that ends the stream."""
    return f"data: {write_json(data)}\n\n"


def write_progress(done_s: float) -> str:
    """A comment in a stream with the seconds of audio that are done; other clients ignore it."""
    return f": {done_s:.1f} s done\n\n"


def error_body(message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> dict[str, object]:
    """The JSON of an error, in the form that OpenAI's clients expect."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _verbose(request: TranscriptionRequest, transcript: Transcript) -> dict[str, object]:
    answer: dict[str, object] = {
        "task": "transcribe",
        "language": request.language,
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
        **slots_field(transcript),
    }
    if request.has_segments:
        answer["segments"] = _segments(transcript, request.cues)
    if request.has_words:
        answer["words"] = timed_words(transcript)
    if request.asked.num_best is not None:
        answer["alternatives"] = [
            {"text": other.text, **({"words": timed_words(other)} if request.has_words else {})}
            for other in transcript.alternatives
        ]
    return answer | _usage(transcript)


def _usage(transcript: Transcript) -> dict[str, object]:
    return {"usage": {"type": "duration", "seconds": math.ceil(transcript.duration_s)}}


def _segments(transcript: Transcript, limits: CueConfig | None) -> list[dict[str, object]]:
    """One segment per subtitle. The models do not detect silence, so `no_speech_prob` is 0."""
    cues = to_cues(transcript, limits)
    groups: list[list[Token]] = [[] for _ in cues]
    starts_s = [cue.start_s for cue in cues]
    for token in transcript.tokens if cues else ():
        groups[max(bisect.bisect_right(starts_s, token.start_s + 1e-6) - 1, 0)].append(token)
    segments: list[dict[str, object]] = []
    for id, (cue, tokens) in enumerate(zip(cues, groups, strict=True)):
        timed = timed_segment(cue, transcript)
        encoded = str(timed["text"]).encode()
        log_probs = [token.log_prob for token in tokens if math.isfinite(token.log_prob)]
        segments.append(
            {
                "id": id,
                "seek": 0,
                **timed,
                "tokens": [token.id for token in tokens if token.id is not None],
                "temperature": 0.0,
                "avg_logprob": round(sum(log_probs) / len(log_probs), 6) if log_probs else 0.0,
                "compression_ratio": round(len(encoded) / len(zlib.compress(encoded)), 4),
                "no_speech_prob": 0.0,
            }
        )
    return segments


def _log_probs(tokens: Sequence[Token]) -> list[dict[str, object]]:
    spelled = [(token_text(token), token.log_prob) for token in tokens]
    return [
        {"token": text, "logprob": round(log_prob, 6) if math.isfinite(log_prob) else -9999.0, "bytes": list(text.encode())}
        for text, log_prob in spelled
    ]
