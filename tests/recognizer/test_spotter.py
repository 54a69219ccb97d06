"""Keyword spotting on streams. Law: how the audio is cut and which other streams there are changes nothing."""

from dataclasses import replace

import numpy as np
import pytest

from tests.recognizer.causal_models import (
    KEYWORDS,
    RECORDINGS,
    causal_model,
    causal_recognizer,
    pausing_model,
    pausing_recognizer,
)
from tests.tiny_model import tiny_asr_model, tiny_tokenizer
from zipasr.errors import ConfigError
from zipasr.recognizer import (
    Keyword,
    KeywordEvent,
    KeywordSpotter,
    Recognizer,
    SearchConfig,
    SpotterConfig,
)
from zipasr.search.keywords import KeywordSearch

NEAR = SpotterConfig(near=0.3, refractory_s=0.0)


def spotter() -> KeywordSpotter:
    return pausing_recognizer().spotter(KEYWORDS, threshold=0.55, config=NEAR)


def in_pieces(spotter: KeywordSpotter, samples: np.ndarray, size: int, rate_hz: int = 16_000) -> list[KeywordEvent]:
    stream, events = spotter.stream(), []
    for start in range(0, len(samples), size):
        stream.accept_waveform(samples[start : start + size], rate_hz)
        stream.decode()
        events += stream.events()
    return [*events, *stream.finish()]


def assert_same(found: list[KeywordEvent], expected: list[KeywordEvent]) -> None:
    assert [(e.keyword, e.times_s, e.found_s, e.is_near) for e in found] == [
        (e.keyword, e.times_s, e.found_s, e.is_near) for e in expected
    ]
    assert [e.score for e in found] == pytest.approx([e.score for e in expected], abs=1e-4)


def test_company_and_the_cut_of_the_audio_change_nothing() -> None:
    own = spotter()
    together = own.spot_many(RECORDINGS)
    assert sum(map(len, together)) > 5 and {event.is_near for events in together for event in events} == {True, False}
    for samples, expected in zip(RECORDINGS, together, strict=True):
        assert_same(own.spot(samples), expected)
        assert_same(in_pieces(own, samples, 1_600), expected)
        assert_same(in_pieces(own, samples, 7_777), expected)


def test_streams_with_keywords_of_their_own_are_decoded_together() -> None:
    recognizer = pausing_recognizer()
    spotters = [recognizer.spotter([keyword], threshold=0.55, config=NEAR) for keyword in KEYWORDS]
    streams = [one.stream() for one in spotters]
    streams_of_text = [recognizer.stream()]
    for stream in (*streams, *streams_of_text):
        stream.accept_waveform(RECORDINGS[0])
    while recognizer.decode_streams([*streams, *streams_of_text]):
        pass
    alone = recognizer.stream()
    alone.accept_waveform(RECORDINGS[0])
    assert streams_of_text[0].finish().text == alone.finish().text
    found = [stream.finish() for stream in streams]
    assert sum(map(len, found)) > 5
    for one, events in zip(spotters, found, strict=True):
        assert_same(events, one.spot(RECORDINGS[0]))


def test_near_misses_of_each_stream_share_a_search() -> None:
    """A client chooses its near misses: many choices must neither be kept nor keep streams from one batch."""
    recognizer = Recognizer(pausing_model(), tiny_tokenizer())
    configs = [SpotterConfig(near=near, refractory_s=0.0) for near in (None, 0.3, 0.6, 0.9)]
    spotters = [recognizer.spotter(KEYWORDS, threshold=0.55, config=config) for config in configs]
    streams = [one.stream() for one in spotters]
    assert len({stream.search for stream in streams}) == len(recognizer.engine._keyword_searches) == 1
    for stream in streams:
        stream.accept_waveform(RECORDINGS[0])
    while recognizer.decode_streams(streams):
        pass
    found = [stream.finish() for stream in streams]
    assert len({len(events) for events in found}) > 2
    for events, config in zip(found, configs, strict=True):
        search = KeywordSearch(recognizer.engine.scorer, config, unk_id=recognizer.engine.tokenizer.unk_id)
        recognizer.engine._keyword_searches[replace(config, near=None)] = search  # one of its own
        assert_same(events, recognizer.spotter(KEYWORDS, threshold=0.55, config=config).spot(RECORDINGS[0]))


def test_events_are_returned_once_with_their_times() -> None:
    own = spotter()
    samples = RECORDINGS[0]
    stream = own.stream()
    stream.accept_waveform(samples)
    stream.decode()
    first = stream.events()
    assert first and stream.events() == []
    for event in [*first, *stream.finish()]:
        assert len(event.times_s) == len(event.tokens)
        assert event.start_s == event.times_s[0] <= event.times_s[-1] < event.end_s < event.found_s
        assert event.found_s <= len(samples) / 16_000 + 0.4
        assert event.is_near == (event.score < event.threshold)
    with pytest.raises(RuntimeError, match="finished only once"):
        stream.finish()
    with pytest.raises(RuntimeError, match="takes no more audio"):
        stream.accept_waveform(samples)


def test_other_rates_and_short_audio() -> None:
    own = spotter()
    assert own.spot(np.zeros(0, np.float32)) == own.spot(np.zeros(500, np.float32)) == []
    slow = in_pieces(own, np.repeat(RECORDINGS[0], 3), 4_800, rate_hz=48_000)
    assert isinstance(slow, list)
    with pytest.raises(ValueError, match="samples must be"):
        own.stream().accept_waveform(np.zeros((2, 2), np.float32))


def test_as_many_symbols_as_the_search() -> None:
    words = ["QUICK FOX"]
    assert causal_recognizer("beam", 3).spotter(words).config.max_symbols_per_frame == 3
    assert causal_recognizer().spotter(words).config.max_symbols_per_frame == 1
    own = SpotterConfig(max_symbols_per_frame=2)
    assert causal_recognizer("beam", 3).spotter(words, config=own).config is own


@pytest.mark.parametrize(
    ("keywords", "settings", "message"),
    [
        ([], {}, "there must be a keyword"),
        (["DÉJÀ VU"], {}, "must be writable in the model's vocabulary"),
        (["QUICK FOX"], {"threshold": 0.0}, "threshold of keyword 'QUICK FOX' must be above 0"),
        (["QUICK FOX"], {"boost": -1.0}, "boost of keyword 'QUICK FOX'"),
        ([Keyword("QUICK FOX", threshold=2.0)], {}, "threshold of keyword 'QUICK FOX'"),
    ],
)
def test_bad_keywords_are_refused(keywords: list[str], settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        causal_recognizer().spotter(keywords, **settings)


def test_models_that_cannot_are_refused() -> None:
    words = ["QUICK FOX"]
    with pytest.raises(ConfigError, match="a stream needs a causal Zipformer"):
        Recognizer(tiny_asr_model(), tiny_tokenizer()).spotter(words)
    only_ctc = Recognizer(causal_model(has_transducer=False), tiny_tokenizer(), search=SearchConfig(method="ctc_greedy"))
    with pytest.raises(ConfigError, match="needs a transducer head"):
        only_ctc.spotter(words)
