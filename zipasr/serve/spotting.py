"""Keyword spotting in live audio: the keywords of a request, and `SpotSession`, a live session that waits for events.

Its audio is decoded in one batch with that of all other live sessions.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from starlette.datastructures import QueryParams

from zipasr.errors import ConfigError
from zipasr.recognizer import Keyword, KeywordEvent, KeywordSpotter, Recognizer, SpotterConfig, SpotterStream
from zipasr.recognizer.incoming import IncomingAudio
from zipasr.search.keywords import parse_keyword
from zipasr.serve.live import LiveSession
from zipasr.serve.protocol import write_json

_MAX_SPOTTERS = 32
"""Sets of keywords that are kept, for clients that name the same ones."""
_PARAMETERS = ("keyword", "near")
_MAX_EVENTS = 1000
"""Events that wait for a client to read them before its audio has to wait too."""


class SpotResult(NamedTuple):
    """What was found since the last result."""

    events: list[KeywordEvent]
    is_eof: bool
    """Whether the audio has ended, so that no result follows."""


class KeywordRequests:
    """Makes the spotters that clients ask for."""

    def __init__(self, recognizer: Recognizer, keywords: Sequence[Keyword]) -> None:
        """Create it.

        Args:
            recognizer: the model of the server.
            keywords: those of clients that name none; they are checked now.
        Raises:
            ConfigError: the keywords cannot be used with this model.
        """
        self._recognizer, self._keywords = recognizer, tuple(keywords)
        self._make = lru_cache(_MAX_SPOTTERS)(self._make_spotter)
        if keywords:
            self._make(self._keywords, None)

    def _make_spotter(self, keywords: tuple[Keyword, ...], near: float | None) -> KeywordSpotter:
        return self._recognizer.spotter(keywords, config=SpotterConfig(near=near))

    def spotter(self, query: QueryParams) -> KeywordSpotter:
        """The spotter for the parameters of a request.

        Args:
            query: `keyword`, any number of them, each as a line of a file of keywords, instead of those of the server;
                `near`, the share of the threshold from which near misses are told.
        Raises:
            ConfigError: a parameter is unknown or wrong, there is no keyword, or the model cannot spot it.
        """
        unknown = [name for name in query if name not in _PARAMETERS]
        if unknown:
            raise ConfigError(f"The parameters must be {' and '.join(_PARAMETERS)}, but one is {unknown[0][:50]!r}.")
        lines = query.getlist("keyword")
        keywords = (
            tuple(parse_keyword(line, place=f"keyword {n}") for n, line in enumerate(lines, start=1)) or self._keywords
        )
        if not keywords:
            raise ConfigError(
                "There must be keywords, but the server has none of its own; name them, as in /spot?keyword=COMPUTER, or "
                "start it with --keywords FILE."
            )
        return self._make(keywords, _share(query.get("near")))


def _share(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"near must be a share of the threshold from 0 to 1, but is {text[:20]!r}.") from None


class SpotSession(LiveSession):
    """A live session whose results are the events of a spotter."""

    def __init__(self, spotter: KeywordSpotter) -> None:
        super().__init__()
        self._spotter = spotter
        self._events: list[KeywordEvent] = []

    @property
    def has_room(self) -> bool:
        """Whether the backlog is small enough for more samples, or the session is over."""
        return super().has_room and (self.is_over or len(self._events) <= _MAX_EVENTS)

    async def next_events(self) -> SpotResult:
        """The events since the last call, as soon as there are any, or the audio has ended.

        Raises:
            ValueError: the samples are invalid; no more results follow.
            RuntimeError: a bug of ours; no more results follow.
        """
        return await self._next(self._take_events)

    def _take_events(self) -> SpotResult | None:
        is_eof = self.is_over and self._failure is None
        if not self._events and not is_eof:
            return None
        events, self._events = self._events, []
        return SpotResult(events, is_eof)

    # The following methods are for the worker thread.

    def _open_stream(self, recognizer: Recognizer) -> IncomingAudio:
        return self._spotter.stream()

    def publish_chunk(self) -> bool:
        """Publish the events of a chunk; return that no utterance has ended."""
        assert isinstance(self.stream, SpotterStream)
        self._num_chunks += 1
        self._add(self.stream.events())
        return False

    def publish_end(self) -> None:
        """Publish the last events."""
        assert isinstance(self.stream, SpotterStream)
        self._add(self.stream.finish(), is_over=True)

    def _add(self, events: list[KeywordEvent], *, is_over: bool = False) -> None:
        with self._lock:
            self._events += events
            self.is_over = is_over
        self.has_published = True


def to_event_json(event: KeywordEvent) -> str:
    """The JSON of an event: the fields of sherpa-onnx's spotter and ours; times are seconds from the start of the stream."""
    return write_json(
        {
            "keyword": event.keyword,
            "start_time": event.start_s,
            "timestamps": list(event.times_s),
            "tokens": list(event.tokens),
            "end_time": event.end_s,
            "score": round(event.score, 4),
            "threshold": event.threshold,
            "is_near": event.is_near,
        }
    )
