"""`KeywordSpotter`: audio in, events out, as soon as one of some keywords was said.

What is found depends neither on the pieces in which audio comes nor on the other streams, whose keywords may differ. Times
are seconds from the start of the stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from zipasr.encoder.rates import FRAME_S_25HZ
from zipasr.recognizer.chunks import ChunkSizes
from zipasr.recognizer.engine import Engine
from zipasr.recognizer.incoming import IncomingAudio, decode_streams
from zipasr.search.keywords import KeywordMatch, KeywordSet, SpotterConfig

_TOGETHER = 16
"""Recordings that are spotted in one batch."""
_PIECE_SAMPLES = 160_000
"""Samples of a recording whose features are computed at once."""


@dataclass(frozen=True, kw_only=True)
class KeywordEvent:
    """A keyword that was said."""

    keyword: str
    """Its name."""
    start_s: float
    """When its first token was emitted, up to a few tenths of a second after it was said."""
    end_s: float
    """When its last token had been emitted."""
    found_s: float
    """The audio after which it was found; with the rest of the chunk it is the delay."""
    score: float
    """Mean probability of its tokens, from 0 to 1."""
    threshold: float
    """The score from which it is an event."""
    tokens: tuple[str, ...]
    """Its tokens."""
    times_s: tuple[float, ...]
    """When each token was emitted."""
    is_near: bool = False
    """Whether its score is below the threshold: a near miss, told only on request."""

    def to_dict(self) -> dict[str, Any]:
        """The event as a dictionary for JSON."""
        return asdict(self) | {"score": round(self.score, 4), "tokens": list(self.tokens), "times_s": list(self.times_s)}


class KeywordSpotter:
    """A recognizer with keywords; create it with `Recognizer.spotter`."""

    def __init__(self, engine: Engine, keywords: KeywordSet, config: SpotterConfig, sizes: ChunkSizes) -> None:
        """See `Recognizer.spotter`."""
        self.engine, self.keywords, self.config, self.sizes = engine, keywords, config, sizes

    def stream(self) -> "SpotterStream":
        """A new stream, for audio that is still coming in."""
        return SpotterStream(self)

    def reporting_everything(self) -> "KeywordSpotter":
        """A spotter of the same keywords that tells all that its beam completes as near misses, and never starts over."""
        return KeywordSpotter(self.engine, self.keywords.without_events(), replace(self.config, near=0.0), self.sizes)

    def spot(self, samples: np.ndarray) -> list[KeywordEvent]:
        """The events in a recording: samples (samples,) at 16 kHz."""
        (events,) = self.spot_many([samples])
        return events

    def spot_many(self, recordings: Sequence[np.ndarray]) -> list[list[KeywordEvent]]:
        """The events in each of several recordings, which are processed together."""
        found: list[list[KeywordEvent]] = []
        for start in range(0, len(recordings), _TOGETHER):
            found += self._spot_batch(recordings[start : start + _TOGETHER])
        return found

    def _spot_batch(self, recordings: Sequence[np.ndarray]) -> Iterator[list[KeywordEvent]]:
        streams = [self.stream() for _ in recordings]
        for start in range(0, max(map(len, recordings)), _PIECE_SAMPLES):
            for stream, samples in zip(streams, recordings, strict=True):
                stream.accept_waveform(samples[start : start + _PIECE_SAMPLES])
            while decode_streams(streams):
                pass
        for stream in streams:
            stream.input_finished()
        while decode_streams(streams):
            pass
        for stream in streams:
            yield stream.finish()


class SpotterStream(IncomingAudio):
    """A stream of audio in which keywords are spotted; create it with `KeywordSpotter.stream`.

    ```python
    stream = recognizer.spotter(["COMPUTER", "SMART MIRROR"]).stream()
    for samples in microphone:
        stream.accept_waveform(samples)
        stream.decode()
        for event in stream.events():
            print(event.keyword, event.start_s, event.score)
    ```
    A server calls `Recognizer.decode_streams` instead of `decode`, for all its streams at once.
    """

    def __init__(self, spotter: KeywordSpotter) -> None:
        """See `KeywordSpotter.stream`."""
        super().__init__(spotter.engine, spotter.sizes)
        self._spotter = spotter
        self.search = spotter.engine.keyword_search(spotter.config)
        self._search_state = self.search.start(spotter.keywords.trie, near=spotter.config.near)

    def events(self) -> list[KeywordEvent]:
        """Return the events, and near misses if they are wanted, since the last call; each is returned once."""
        return [self._event(match) for match in self._search_state.take()]

    def finish(self) -> list[KeywordEvent]:
        """End the input unless `input_finished` has, decode the rest, and return the last events.

        Raises:
            RuntimeError: the stream is finished already.
        """
        self._end("start another with KeywordSpotter.stream()")
        self.search.finish([self._search_state])
        return self.events()

    def _event(self, match: KeywordMatch) -> KeywordEvent:
        spelling, pieces = match.spelling, self.engine.tokenizer.pieces
        return KeywordEvent(
            keyword=self._spotter.keywords.names[spelling.keyword],
            start_s=_seconds(match.start_frame),
            end_s=_seconds(match.end_frame + 1),
            found_s=_seconds(match.frame + 1),
            score=match.score,
            threshold=spelling.threshold,
            tokens=tuple(pieces[i] for i in spelling.ids),
            times_s=tuple(_seconds(emission.frame) for emission in match.emissions),
            is_near=match.is_near,
        )


def _seconds(frame: int) -> float:
    return round(frame * FRAME_S_25HZ, 2)
