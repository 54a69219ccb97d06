"""Text and words under a graph. Law: words that a vocabulary spells have the text, the words and the times of their tokens.
Contract: words of a lexicon and of phones come out as the graph has them, with the times of their tokens."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.recognizer.causal_models import causal_model
from tests.recognizer.phrase_graphs import ORDERS, phrase_graph
from tests.search.graph.vocabularies import VOCABULARIES
from tests.tiny_model import noise, tiny_asr_model, tiny_tokenizer
from tests.tokenizer.published import write_tokens
from zipasr.evaluate import ReferenceUtterance, evaluate
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.recognizer.growing import GrowingTranscript
from zipasr.recognizer.said_words import said_parts, said_text
from zipasr.recognizer.transcripts import to_transcript
from zipasr.search.graph import LoadedGraph
from zipasr.search.graph.lexicon import START, Lexicon
from zipasr.search.hypothesis import Hypothesis, Output
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Transcript

BPE = VOCABULARIES["bpe"].tokenizer


def phones(folder: Path) -> Tokenizer:
    names = ["<blk>", "<unk>", "HH", "AH", "L", "OW", "AY"]
    return Tokenizer.from_file(write_tokens(folder / "tokens.txt", names))


def hypothesis_of(ids: list[int], outputs: list[tuple[str, int]], *, is_complete: bool = True) -> Hypothesis:
    frames = tuple(range(0, 3 * len(ids), 3))
    log_probs = tuple(-0.1 * (i + 1) for i in range(len(ids)))
    return Hypothesis(tuple(ids), frames, log_probs, -1.0, tuple(Output(*one) for one in outputs), 0.5, is_complete, True)


def of_words(words: list[tuple[str, list[int]]], **settings: Any) -> Hypothesis:
    """Words with their tokens, each put out at its last token, as in graphs that are compiled here."""
    ids = [i for _, spelling in words for i in spelling]
    ends = [sum(len(spelling) for _, spelling in words[: n + 1]) for n in range(len(words))]
    return hypothesis_of(ids, [(word, end - 1) for (word, _), end in zip(words, ends, strict=True)], **settings)


def shown(hypothesis: Hypothesis, tokenizer: Tokenizer) -> tuple[str, list[str]]:
    transcript = to_transcript(hypothesis, 100.0, tokenizer=tokenizer)
    assert said_text(hypothesis, tokenizer) == transcript.text
    return transcript.text, [word.text for word in transcript.words]


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("written", [str, str.lower])
def test_words_that_the_tokens_write_are_those_of_the_tokens(kind: str, written: Any) -> None:
    tokenizer, words = VOCABULARIES[kind]
    lexicon = Lexicon(tokenizer)
    for first in words:
        for second in words:
            spelled = [(written(first), [*lexicon.spellings(first, START)[0]])]
            spelled.append((written(second), [*lexicon.spellings(second, lexicon.context_after(first))[0]]))
            hypothesis = of_words(spelled)
            plain = to_transcript(Hypothesis(*hypothesis[:4]), 100.0, tokenizer=tokenizer)
            found = to_transcript(hypothesis, 100.0, tokenizer=tokenizer)
            assert said_parts(hypothesis, tokenizer) is None
            assert (found.text, found.words, found.tokens) == (plain.text, plain.words, plain.tokens)


def test_a_word_of_a_lexicon_is_put_out_as_it_is_written() -> None:
    light, on = BPE.encode("LIGHT"), BPE.encode("ON")
    hypothesis = of_words([("on", on), ("Lamp", light), ("off", BPE.encode("OFF"))])
    transcript = to_transcript(hypothesis, 100.0, tokenizer=BPE)
    assert transcript.text == "ON Lamp OFF"
    assert [word.text for word in transcript.words] == ["ON", "Lamp", "OFF"]
    lamp = transcript.words[1]
    own = transcript.tokens[len(on) : len(on) + len(light)]
    assert (lamp.start_s, lamp.end_s) == (own[0].start_s, own[-1].end_s)
    spelled = to_transcript(of_words([("on", on), ("light", light), ("off", BPE.encode("OFF"))]), 100.0, tokenizer=BPE)
    assert [dataclasses.replace(word, text="") for word in transcript.words] == [
        dataclasses.replace(word, text="") for word in spelled.words
    ]
    assert transcript.tokens == spelled.tokens


def test_phones_are_words_only_where_the_graph_has_none(tmp_path: Path) -> None:
    tokenizer = phones(tmp_path)
    said = of_words([("hello", [2, 3, 4, 5]), ("high", [2, 6])])
    assert shown(said, tokenizer) == ("hello high", ["hello", "high"])
    words = to_transcript(said, 100.0, tokenizer=tokenizer).words
    assert [(word.start_s, word.end_s) for word in words] == [pytest.approx((0.0, 0.4)), pytest.approx((0.48, 0.64))]
    assert words[1].confidence == pytest.approx(2.718281828 ** -((0.5 + 0.6) / 2))
    tags = hypothesis_of([2, 6], [("{greeting}", 2)])._replace(has_words=False)
    assert shown(tags, tokenizer) == ("HH AY", ["HH", "AY"])
    assert shown(of_words([("AY", [6])]), tokenizer) == ("AY", ["AY"])


def test_tags_are_no_words(tmp_path: Path) -> None:
    said = hypothesis_of([2, 6], [("{<x}", 0), ("high", 1), ("{x>}", 2)])
    assert shown(said, phones(tmp_path)) == ("high", ["high"])


def test_an_unfinished_word(tmp_path: Path) -> None:
    tokenizer = phones(tmp_path)
    assert shown(hypothesis_of([2, 3], [], is_complete=False), tokenizer) == ("", [])
    begun = hypothesis_of([2, 6, 2, 3], [("high", 1)], is_complete=False)
    assert shown(begun, tokenizer) == ("high", ["high"])
    on, light = BPE.encode("ON"), BPE.encode("LIGHT")
    begun = hypothesis_of([*on, *light], [("auf", len(on) - 1)], is_complete=False)
    assert shown(begun, BPE) == ("auf LIGHT", ["auf", "LIGHT"])
    begun = hypothesis_of([*on, *light[:-1]], [("on", len(on) - 1)], is_complete=False)
    assert shown(begun, BPE) == (BPE.decode([*on, *light[:-1]]), BPE.decode([*on, *light[:-1]]).split())


@pytest.mark.parametrize(
    ("places", "spans"),
    [
        ((3, 5), [(0, 4), (4, 6)]),  # at the last tokens, as here
        ((0, 4), [(0, 4), (4, 6)]),  # at the first tokens
        ((3, 6), [(0, 4), (4, 6)]),  # after the last token
        ((5, 5), [(0, 6), (6, 6)]),  # together
    ],
)
def test_graphs_of_other_programs(places: tuple[int, int], spans: list[tuple[int, int]], tmp_path: Path) -> None:
    tokenizer = phones(tmp_path)
    said = hypothesis_of([2, 3, 4, 5, 2, 6], [("hello", places[0]), ("high", places[1])])
    parts = said_parts(said, tokenizer)
    assert parts is not None and [(start, end) for _, start, end in parts] == spans
    transcript = to_transcript(said, 100.0, tokenizer=tokenizer)
    assert transcript.text == "hello high" and [word.text for word in transcript.words] == ["hello", "high"]
    assert all(a.end_s <= b.start_s for a, b in zip(transcript.words, transcript.words[1:], strict=False))


@pytest.mark.parametrize("kind", ["bpe", "bbpe"])
def test_tokens_that_a_graph_puts_out_are_no_words(kind: str) -> None:
    tokenizer, words = VOCABULARIES[kind]
    ids = tokenizer.encode(words[-1])
    said = hypothesis_of(ids, [(tokenizer.pieces[i], n) for n, i in enumerate(ids)])
    assert shown(said, tokenizer)[0] == tokenizer.decode(ids)


def test_a_growing_transcript_is_that_of_the_whole(tmp_path: Path) -> None:
    tokenizer = phones(tmp_path)
    growing = GrowingTranscript(tokenizer, None, 0)
    ids, texts = [2, 6, 2, 3, 4, 5], []
    for num in range(len(ids) + 1):
        outputs = [one for one in (("high", 1), ("hello", 5)) if one[1] < num]
        hypothesis = hypothesis_of(ids[:num], outputs, is_complete=num in (2, 6))
        found = growing.update(hypothesis, 100.0)
        assert found == to_transcript(hypothesis, 100.0, tokenizer=tokenizer)
        texts.append(found.text)
    assert texts == ["", "", "high", "high", "high", "high", "high hello"]
    nothing = Hypothesis(score=-1.0, shortfall=9.0, is_complete=False)
    assert growing.update(nothing, 100.0).text == ""


RENAMED = {"FOX": "reynard", "DOG": "rex", "JUGS": "pitchers", "THREE": "3"}
"""Words that the vocabulary cannot spell so, as of a lexicon."""


def renamed_graph() -> LoadedGraph:
    loaded = phrase_graph(tiny_tokenizer())
    symbols = tuple(RENAMED.get(symbol, symbol) for symbol in loaded.graph.symbols)
    return loaded._replace(graph=dataclasses.replace(loaded.graph, symbols=symbols))


def expected_of(transcript: Transcript) -> tuple[str, list[tuple[str, float, float, float]], Any]:
    """What a graph with other words gives, from what it gives with those of the vocabulary."""
    words = [(RENAMED.get(w.text, w.text), w.start_s, w.end_s, w.confidence) for w in transcript.words]
    return " ".join(word[0] for word in words), words, transcript.slots


def found_in(transcript: Transcript) -> tuple[str, list[tuple[str, float, float, float]], Any]:
    return transcript.text, [(w.text, w.start_s, w.end_s, w.confidence) for w in transcript.words], transcript.slots


@pytest.mark.parametrize("method", ["graph", "ctc_graph"])
def test_recordings_and_their_alternatives(method: Any) -> None:
    limits = {"max_contexts": 100} if method == "graph" else {}
    search = SearchConfig(method=method, graph_beam_nats=1e4, num_best=4, beam=4, **limits)
    recognizer = Recognizer(tiny_asr_model(), tiny_tokenizer(), search=search, graph=phrase_graph(tiny_tokenizer()))
    plain = recognizer.transcribe(noise(3.0, 5))
    found = recognizer.transcribe(noise(3.0, 5), graph=renamed_graph())
    ranked = [(one, other) for one, other in zip([found, *found.alternatives], [plain, *plain.alternatives], strict=True)]
    assert len(ranked) == 4
    for one, other in ranked:
        assert found_in(one) == expected_of(other) and one.tokens == other.tokens
    assert {other.text for _, other in ranked} == set(ORDERS)
    written: Any = found.to_dict()
    assert written["text"] == found.text == " ".join(word["text"] for word in written["words"])


def test_streams() -> None:
    search = SearchConfig(method="graph", graph_beam_nats=1e4)
    recognizer = Recognizer(causal_model(), tiny_tokenizer(), search=search, graph=renamed_graph(), use_true_times=False)
    streams = [recognizer.stream(), recognizer.stream(graph=phrase_graph(tiny_tokenizer()))]
    for piece in range(8):
        for stream in streams:
            stream.accept_waveform(noise(0.32, piece))
        recognizer.decode_streams(streams)
        text, plain = (stream.text for stream in streams)
        begun = [RENAMED.get(word, word) for word in plain.split()]
        assert text.split()[:-1] == begun[:-1]
    found, plain = (stream.finish() for stream in streams)
    assert found_in(found) == expected_of(plain) and plain.text in ORDERS


def test_an_evaluation_compares_the_words_of_the_graph() -> None:
    search = SearchConfig(method="graph", graph_beam_nats=1e4)
    recognizer = Recognizer(tiny_asr_model(), tiny_tokenizer(), search=search, graph=renamed_graph())
    samples = noise(3.0, 5)
    text = recognizer.transcribe(samples).text
    assert any(word in text.split() for word in RENAMED.values())
    assert evaluate(recognizer, [ReferenceUtterance("a", samples, text)]).words.total == 0
