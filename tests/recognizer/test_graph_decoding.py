"""Recognizers under a graph. Law: alone, in a batch with other graphs, and streamed in any pieces the results are the same.
Contract: whole phrases with words, times and slots, or nothing; what goes together and what does not."""

import dataclasses
import math
import random
from typing import Any

import numpy as np
import pytest

from tests.recognizer.causal_models import causal_model, causal_recognizer
from tests.recognizer.phrase_graphs import ORDERS, phrase_graph
from tests.recognizer.pieces import in_pieces
from tests.search.graph.hand_graphs import token_graph
from tests.tiny_model import noise, tiny_asr_model, tiny_tokenizer
from zipasr.errors import ConfigError
from zipasr.recognizer import ChunkConfig, EndpointConfig, EndpointRule, LongRecordingConfig, Recognizer, SearchConfig
from zipasr.search.graph import LoadedGraph
from zipasr.transcript import Transcript

METHODS = ("graph", "ctc_graph")
DURATIONS_S = (1.3, 0.01, 2.9, 0.7)
WIDE = {"graph_beam_nats": 1e4}
"""Of random models no phrase is anywhere near probable."""


def recognizer_of(method: Any, **settings: Any) -> Recognizer:
    search = SearchConfig(method=method, **{**WIDE, **settings})
    return Recognizer(tiny_asr_model(), tiny_tokenizer(), search=search, graph=phrase_graph(tiny_tokenizer()))


def all_contexts(method: str) -> dict[str, Any]:
    return {"max_contexts": 100} if method == "graph" else {}


def animals(**settings: Any) -> LoadedGraph:
    phrases = {phrase: tag for phrase, tag in ORDERS.items() if "animal" in tag}
    return phrase_graph(tiny_tokenizer(), phrases, name="animals", **settings)


def assert_same(found: Transcript, expected: Transcript) -> None:
    assert found.text == expected.text
    assert found.slots == expected.slots
    assert [(t.text, t.start_s, t.end_s) for t in found.tokens] == [(t.text, t.start_s, t.end_s) for t in expected.tokens]
    assert [t.log_prob for t in found.tokens] == pytest.approx([t.log_prob for t in expected.tokens], abs=1e-2)
    assert found.score == pytest.approx(expected.score, abs=1e-1)
    assert found.shortfall == pytest.approx(expected.shortfall, abs=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_results_do_not_depend_on_the_batch_or_its_graphs(method: str) -> None:
    recognizer, other = recognizer_of(method), animals()
    recordings = [noise(duration_s, seed) for seed, duration_s in enumerate(DURATIONS_S)]
    assert recognizer.graph is not None
    graphs = [recognizer.graph, other, other, recognizer.graph]
    together = recognizer.transcribe_many(recordings, graph=graphs)
    alone = [recognizer.transcribe(samples, graph=graph) for samples, graph in zip(recordings, graphs, strict=True)]
    for a, b in zip(together, alone, strict=True):
        assert_same(a, b)
    assert_same(recognizer.transcribe(recordings[0]), together[0])
    assert together[2].text in ORDERS
    assert together[2].slots in ({"animal": "fox"}, {"animal": "dog"})
    assert together[1].slots == {}


@pytest.mark.parametrize("method", METHODS)
def test_a_whole_phrase_with_words_times_and_slots(method: str) -> None:
    recognizer = recognizer_of(method)
    found = recognizer.transcribe(noise(3.0, 5))
    assert found.text in ORDERS
    assert " ".join(word.text for word in found.words) == found.text
    assert all(0 <= word.start_s <= word.end_s <= 3.0 and 0 <= word.confidence <= 1 for word in found.words)
    (name, value), *others = (found.slots or {}).items()
    assert (others, ORDERS[found.text]) == ([], f"{{{name}={value}}}")
    written = found.to_dict()
    assert written["slots"] == found.slots
    assert written["shortfall"] == pytest.approx(found.shortfall, abs=1e-6)
    free = Recognizer(tiny_asr_model(), tiny_tokenizer()).transcribe(noise(3.0, 5))
    assert (free.slots, free.shortfall) == (None, None)
    assert "slots" not in free.to_dict()


@pytest.mark.parametrize("method", METHODS)
def test_alternatives_are_other_phrases(method: str) -> None:
    found = recognizer_of(method, num_best=4, beam=4, **all_contexts(method)).transcribe(noise(3.0, 5))
    ranked = [found, *found.alternatives]
    assert sorted(transcript.text for transcript in ranked) == sorted(ORDERS)
    assert all(transcript.slots for transcript in ranked)
    scores = [transcript.score for transcript in ranked]
    assert scores == sorted(scores, reverse=True)
    assert_same(
        dataclasses.replace(found, alternatives=()), recognizer_of(method, **all_contexts(method)).transcribe(noise(3.0, 5))
    )


@pytest.mark.parametrize("method", METHODS)
def test_something_else_is_answered_with_nothing(method: str) -> None:
    recognizer, samples = recognizer_of(method), noise(3.0, 5)
    shortfall = recognizer.transcribe(samples).shortfall
    assert shortfall is not None
    assert shortfall > 0
    strict, lenient = (phrase_graph(tiny_tokenizer(), rejection=shortfall + step) for step in (-0.01, 0.01))
    rejected = recognizer.transcribe(samples, graph=strict)
    assert (rejected.text, rejected.tokens, rejected.words, rejected.slots) == ("", (), (), {})
    assert rejected.shortfall == pytest.approx(shortfall)
    assert recognizer.transcribe(samples, graph=lenient).text in ORDERS


@pytest.mark.parametrize("method", METHODS)
def test_without_a_whole_phrase_the_answer_is_nothing(method: str) -> None:
    long = phrase_graph(tiny_tokenizer(), {" ".join(["JUMPS OVER THE LAZY DOG"] * 5): "{x=1}"})
    found = recognizer_of(method).transcribe(noise(0.5, 5), graph=long)
    assert (found.text, found.slots, found.shortfall, found.score) == ("", {}, math.inf, -math.inf)
    assert found.to_dict()["shortfall"] is None


def after_s(length_s: float) -> EndpointConfig:
    """An utterance ends after so many seconds, whatever is said."""
    rule = EndpointRule(must_contain_nonsilence=False, min_trailing_silence_s=0.0, min_utterance_length_s=length_s)
    return EndpointConfig(rule1=rule, rule2=rule, rule3=rule)


def causal(method: Any, **settings: Any) -> Recognizer:
    return Recognizer(
        causal_model(),
        tiny_tokenizer(),
        search=SearchConfig(method=method, **{**WIDE, **settings}),
        graph=phrase_graph(tiny_tokenizer()),
        chunks=ChunkConfig(chunk_frames_50hz=16, simulate_streaming=True),
        use_true_times=False,
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(2))
def test_a_stream_in_any_pieces_gives_what_the_whole_recording_gives(method: str, seed: int) -> None:
    recognizer, generator = causal(method), random.Random(seed)
    graphs = [phrase_graph(tiny_tokenizer()), animals(), animals()]
    recordings = [noise(duration_s, seed + n) for n, duration_s in enumerate((2.3, 0.6, 3.1))]
    streams = [recognizer.stream(graph=graph, endpoint=after_s(100.0)) for graph in graphs]
    arriving = [in_pieces(samples, generator) for samples in recordings]
    ended = [False] * 3
    while not all(ended):
        n = generator.randrange(3)
        if arriving[n]:
            streams[n].accept_waveform(arriving[n].pop(0))
        elif not ended[n]:
            streams[n].input_finished()
            ended[n] = True
        if generator.random() < 0.5:
            recognizer.decode_streams(streams)
            assert all(any(phrase.startswith(stream.text) for phrase in ORDERS) for stream in streams)
    expected = recognizer.transcribe_many(recordings, graph=graphs)
    for stream, transcript in zip(streams, expected, strict=True):
        assert_same(stream.finish(), transcript)


@pytest.mark.parametrize("method", METHODS)
def test_a_stream_shows_parts_of_a_phrase_until_the_utterance_is_over(method: str) -> None:
    recognizer = causal(method)
    long = phrase_graph(tiny_tokenizer(), {" ".join(["JUMPS OVER THE LAZY DOG"] * 9): "{x=1}"})
    stream = recognizer.stream(graph=long, endpoint=after_s(1.9))
    texts = []
    for _ in range(7):
        stream.accept_waveform(noise(0.32, 3))
        stream.decode()
        texts.append((stream.is_endpoint(), stream.text, stream.result().slots))
    assert [slots for _, _, slots in texts] == [{}] * 7
    assert any(text and not is_end for is_end, text, _ in texts)
    assert [text for is_end, text, _ in texts if is_end] == [""]
    stream.reset()
    stream.accept_waveform(noise(0.5, 4))
    assert stream.finish().text == ""  # again no whole phrase


@pytest.mark.parametrize("method", METHODS)
def test_a_stream_answers_something_else_with_nothing(method: str) -> None:
    recognizer, samples = causal(method), noise(2.0, 1)
    found = [recognizer.stream(), recognizer.stream(graph=phrase_graph(tiny_tokenizer(), rejection=0.0))]
    for stream in found:
        stream.accept_waveform(samples)
    accepted, rejected = (stream.finish() for stream in found)
    assert accepted.text in ORDERS
    assert accepted.slots
    assert (rejected.text, rejected.slots) == ("", {})
    assert rejected.shortfall == pytest.approx(accepted.shortfall)


def test_pieces_of_a_long_recording_have_no_slots() -> None:
    recognizer = recognizer_of("graph")
    recognizer.long_recordings = LongRecordingConfig(max_piece_s=7.0, overlap_s=1.0, use_vad=False)
    found = recognizer.transcribe(noise(12.0, 2))
    assert found.text
    assert (found.slots, found.shortfall) == (None, None)


def test_auto_searches_with_the_head_of_the_default() -> None:
    graph = phrase_graph(tiny_tokenizer())
    arguments: dict[str, Any] = {"scorer": tiny_asr_model(), "tokenizer": tiny_tokenizer(), "graph": graph}
    assert Recognizer(**arguments).search.method == "graph"
    default = SearchConfig(method="ctc_beam", beam=8, blank_penalty=0.5)
    assert Recognizer(**arguments, default_search=default).search == SearchConfig(method="ctc_graph", blank_penalty=0.5)
    several = SearchConfig(max_symbols_per_frame=2)
    assert Recognizer(**arguments, search=several, default_search=default).search.method == "graph"
    topology = token_graph([(0, 0, 1, "", 0.0)], {0: 0.0}, has_ctc_topology=True)
    arguments["graph"] = graph._replace(graph=topology)
    assert Recognizer(**arguments).search.method == "ctc_graph"
    with pytest.raises(ConfigError, match=r"this one is for CTC \(H, HL or HLG\); use ctc_graph"):
        Recognizer(**arguments, search=SearchConfig(method="graph"))


def test_what_does_not_go_with_a_graph_is_refused() -> None:
    graph = phrase_graph(tiny_tokenizer())
    arguments: dict[str, Any] = {"scorer": tiny_asr_model(), "tokenizer": tiny_tokenizer()}
    with pytest.raises(ConfigError, match="hotwords have no effect; leave them or the graph out"):
        Recognizer(**arguments, graph=graph, hotwords=["FOX"])
    with pytest.raises(ConfigError, match="the search beam cannot use a graph; use auto, graph"):
        Recognizer(**arguments, graph=graph, search=SearchConfig(method="beam"))
    with pytest.raises(ConfigError, match="the search ctc_graph needs a graph, but there is none"):
        Recognizer(**arguments, search=SearchConfig(method="ctc_graph"))
    with pytest.raises(ConfigError, match="max_states has no effect on the search beam; leave it out or use a graph"):
        Recognizer(**arguments, search=SearchConfig(max_states=5))
    with pytest.raises(ConfigError, match="beam has no effect on a search through a graph for the best hypothesis alone"):
        Recognizer(**arguments, graph=graph, search=SearchConfig(beam=8))
    with pytest.raises(ConfigError, match="the setting rejection of the graph orders must be a number"):
        Recognizer(**arguments, graph=graph._replace(settings={"rejection": "much"}))
    with pytest.raises(ValueError, match="one for each of 1 recordings, but there are 2"):
        Recognizer(**arguments).transcribe_many([np.zeros(16_000, np.float32)], graph=[graph, graph])
    for wrong in ("graphs/orders", graph.graph, [graph], 0):
        for call in (
            lambda wrong=wrong: Recognizer(**arguments, graph=wrong),
            lambda wrong=wrong: Recognizer(**arguments).check_graph(wrong),
            lambda wrong=wrong: causal_recognizer().stream(graph=wrong),
        ):
            with pytest.raises(
                ValueError, match=r"graph must be from zipasr\.search\.graph\.load_graph, but is (str|Tok|lis|int)"
            ):
                call()
    for wrong in ("graphs/orders", graph.graph, ["graphs/orders"], 0):
        with pytest.raises(ValueError, match="graph must be from zipasr"):
            Recognizer(**arguments).transcribe(noise(1.0), graph=wrong)  # type: ignore[arg-type]
    with_hotwords = Recognizer(**arguments, hotwords=["FOX"])
    assert with_hotwords.transcribe_many([noise(1.0)], graph=graph)[0].slots is not None  # the graph replaces them
    with pytest.raises(ConfigError, match="hotwords have no effect"):
        with_hotwords.transcribe_many([noise(1.0)], graph=graph, hotwords=["DOG"])
