"""A vocabulary of bytes from the search to the user: words and their times, partial results, hotwords, language models,
pieces of long recordings, subtitles, error counts. Law: a partial result holds whole characters only."""

import json
import random
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.recognizer.causal_models import causal_model
from tests.recognizer.pieces import in_pieces
from tests.search.toy_scorer import ToyScorer
from tests.tiny_model import noise, sharpened_model
from zipasr.alignment.ctc import Alignment, ctc_align
from zipasr.alignment.word_times import token_spans
from zipasr.evaluate.rates import judged_words
from zipasr.evaluate.style import describe_style
from zipasr.lm.ngram import TokenNgram, WordNgram, load_ngram
from zipasr.lm.training import train_ngram
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.recognizer.stitch import PlacedTranscript, stitch
from zipasr.recognizer.transcripts import to_transcript
from zipasr.search import comparison
from zipasr.search.comparison import SearchComparison
from zipasr.search.hotwords import encode_hotwords
from zipasr.search.hypothesis import Hypothesis
from zipasr.serve.hints import writable_phrases
from zipasr.serve.openai_api import _log_probs
from zipasr.serve.protocol import LiveWriter
from zipasr.text import MIXED_JOINER, MixedJoiner
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import CueConfig, Transcript, merge_channels, to_cues
from zipasr.transcript.writers import to_tsv

TEXTS = ["今天天气很好", "我们去北京 HELLO WORLD"] * 3
TOKENIZER = Tokenizer.train(TEXTS, kind="bbpe", vocab_size=48)


def spoken(text: str, *, first_frame: int = 0, duration_s: float = 10.0) -> Transcript:
    """A transcript whose tokens follow each other, one every two frames of 40 ms."""
    ids = TOKENIZER.encode(text)
    frames = tuple(first_frame + 2 * i for i in range(len(ids)))
    return to_transcript(Hypothesis(tuple(ids), frames, (-0.5,) * len(ids), 0.0), duration_s, tokenizer=TOKENIZER)


def test_a_word_lasts_from_its_first_byte_to_its_last() -> None:
    transcript = spoken("好 HELLO 天")
    assert transcript.text == "好 HELLO 天"
    assert [word.text for word in transcript.words] == ["好", "HELLO", "天"]
    lengths = [len(TOKENIZER.encode(text)) for text in ("好", "HELLO", "天")]
    assert min(lengths[0], lengths[2]) > 1  # tokens within a character
    firsts = [0, *accumulate(lengths)]
    for word, first, stop in zip(transcript.words, firsts, firsts[1:], strict=False):
        assert (word.start_s, word.end_s) == pytest.approx((0.08 * first, 0.08 * (stop - 1) + 0.04))
        assert word.confidence == pytest.approx(np.exp(-0.5))
    assert "".join(token.text for token in transcript.tokens).replace("▁", "") == "好HELLO天"
    assert [token.id for token in transcript.tokens] == TOKENIZER.encode("好 HELLO 天")


def test_bytes_that_are_no_character_last_no_time() -> None:
    valid = TOKENIZER.encode("好")
    assert not TOKENIZER.starts_word(valid[-1])
    ids = [*valid, valid[-1], valid[-1]]  # the last bytes come again
    frames = tuple(10 * i for i in range(len(ids)))
    log_probs = (*[-0.5] * len(valid), *[-5.0] * (len(ids) - len(valid)))
    transcript = to_transcript(Hypothesis(tuple(ids), frames, log_probs, 0.0), 10.0, tokenizer=TOKENIZER)
    (word,) = transcript.words
    assert (transcript.text, word.text, word.confidence) == ("好", "好", pytest.approx(np.exp(-0.5)))
    assert (word.start_s, word.end_s) == pytest.approx((0.0, 0.4 * (len(valid) - 1) + 0.04))
    first_frames, energy = tuple(5 * i for i in range(len(ids))), np.zeros(20 * len(ids))
    alignment = Alignment(first_frames, tuple(frame + 5 for frame in first_frames), log_probs, 0.0)
    spans = token_spans(ids, alignment, energy, tokenizer=TOKENIZER)
    (word,) = to_transcript(Hypothesis(tuple(ids), frames, log_probs, 0.0), 100.0, tokenizer=TOKENIZER, spans=spans).words
    assert word.end_s <= 0.04 * 5 * len(valid) + 0.05


def test_aligned_words_last_from_edge_to_edge() -> None:
    """The bytes of a character are found where they are loud, although only the last one shows the character."""
    ids, frames_per_token = TOKENIZER.encode("好 天"), 4
    num_frames = 20 + frames_per_token * len(ids) + 20
    log_probs = np.full((num_frames, TOKENIZER.vocab_size), -10.0, np.float32)
    log_probs[:, 0] = -1.0
    for i, label in enumerate(ids):
        log_probs[20 + i * frames_per_token : 20 + (i + 1) * frames_per_token, label] = 0.0
    energy = np.full(4 * num_frames, -60.0)
    energy[80 : 80 + 16 * len(ids)] = 0.0
    spans = token_spans(ids, ctc_align(log_probs, ids, blank_id=0), energy, tokenizer=TOKENIZER)
    hypothesis = Hypothesis(tuple(ids), tuple(range(len(ids))), (-0.1,) * len(ids), 0.0)
    words = to_transcript(hypothesis, 100.0, tokenizer=TOKENIZER, spans=spans).words
    middle_s = 0.04 * (20 + frames_per_token * len(TOKENIZER.encode("好")))
    assert [word.text for word in words] == ["好", "天"]
    assert [words[0].start_s, words[0].end_s, words[1].end_s] == pytest.approx(
        [0.8, middle_s, 0.8 + 0.16 * len(ids)], abs=0.1
    )


@pytest.mark.parametrize("method", ["ctc_greedy", "ctc_beam"])
def test_partial_results_hold_whole_characters(method: str) -> None:
    """Random weights emit bytes in any order."""
    model = sharpened_model(causal_model().config.for_vocabulary(TOKENIZER), seed=0)
    recognizer = Recognizer(model, TOKENIZER, search=SearchConfig(method=method, blank_penalty=6.0))  # type: ignore[arg-type]
    stream, samples, partial = recognizer.stream(chunk_frames_50hz=32), noise(6.0), set()
    for piece in in_pieces(samples, random.Random(3)):
        stream.accept_waveform(piece)
        while stream.is_ready():
            recognizer.decode_streams([stream])
            text, result = stream.text, stream.result()
            assert "\ufffd" not in text and result.text == text
            assert set(text) <= set("".join(TEXTS)) | {c for c in text if not TOKENIZER.unknown_characters(c)}
            shown = "".join(token.text for token in result.tokens).replace("▁", " ")
            assert MIXED_JOINER.join(shown.split()) == text
            assert "".join(word.text for word in result.words) == "".join(text.split())
            partial.add(text)
    assert len(partial) > 3
    at_once = recognizer.stream(chunk_frames_50hz=32)
    at_once.accept_waveform(samples)
    assert stream.finish().text == at_once.finish().text


def test_hotwords_are_spelled_in_bytes() -> None:
    graph, ids = encode_hotwords(["北京", "hello"], TOKENIZER, default_boost=2.0), TOKENIZER.encode("去北京很")
    state, total = graph.start(), 0.0
    for label in ids:
        (state,), (score,) = graph.extend([state], [label])
        total += score
    assert total + graph.finish([state])[0] == pytest.approx(2.0 * len(TOKENIZER.encode("北京")))
    prompt = "我们今天去北京，HELLO 你好吗 World2!"
    found = writable_phrases([prompt], TOKENIZER)
    assert "我们今天去北京" in found[0] and any("HELLO" in part for part in found)
    assert all(not TOKENIZER.unknown_characters(TOKENIZER.spelling(part)) for part in found)


@pytest.mark.parametrize("unit", ["token", "word"])
def test_language_models_of_bytes_and_of_words(unit: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("今天天气很好\n我们去北京 HELLO\n" * 20, encoding="utf-8")
    train_ngram([text], TOKENIZER, tmp_path / "lm.arpa", order=2, unit=unit, dev=[text])
    prior = load_ngram(tmp_path / "lm.arpa", TOKENIZER)
    assert isinstance(prior, TokenNgram if unit == "token" else WordNgram)

    def score(text: str) -> float:
        state, total = prior.start(), 0.0
        for label in TOKENIZER.encode(text):
            states, scores = prior.extend([state], [label])  # type: ignore[list-item]
            state, total = states[0], total + scores[0]
        return total + prior.finish([state])[0]  # type: ignore[list-item]

    assert score("今天天气很好") > score("好今很天气天") + 1
    assert score("我们去北京 HELLO") > score("我们去 HELLO 北京") + 1
    assert score("今天天气很好") > -20  # no word is unknown


def test_pieces_of_a_long_recording_are_joined_as_the_language_writes() -> None:
    pieces = [PlacedTranscript(spoken(text), 10.0 * i) for i, text in enumerate(["今天 HELLO", "WORLD 天气", "很好"])]
    texts: list[str] = []
    whole = stitch(pieces, joiner=TOKENIZER.word_joiner, on_text=lambda text, tokens: texts.append(text))
    assert whole.text == "今天 HELLO WORLD 天气很好"
    assert texts == ["今天 HELLO", " WORLD 天气"]
    assert [word.text for word in whole.words] == [*"今天", "HELLO", "WORLD", *"天气很好"]


def test_channels_and_subtitles() -> None:
    parts = [
        Transcript(**{**vars(spoken("今天", first_frame=first)), "channel": channel}) for channel, first in ((0, 0), (1, 60))
    ]
    merged = merge_channels(parts)
    assert merged.text == "今天今天" and isinstance(merged.word_joiner, MixedJoiner)
    cues = to_cues(spoken("今天天气很好 HELLO 我们去北京"), CueConfig(max_line_chars=12, max_lines=2))
    lines = [line for cue in cues for line in cue.text.splitlines()]
    assert "".join("".join(lines).split()) == "今天天气很好HELLO我们去北京"
    assert all(len(line) >= 4 for line in lines[:-1]) and not any(" 天" in line for line in lines)
    rows = to_tsv(spoken("今天天气很好我们去北京"), "", CueConfig(max_line_chars=12, max_lines=2)).splitlines()[1:]
    assert "".join(row.split("\t")[2] for row in rows) == "今天天气很好我们去北京"


def test_tokens_for_clients_spell_the_text() -> None:
    tokens = spoken("今天 HELLO").tokens
    assert b"".join(bytes(entry["bytes"]) for entry in _log_probs(tokens)).decode().split() == ["今", "天", "HELLO"]  # type: ignore[arg-type]
    live = json.loads(LiveWriter().write(spoken("今天 HELLO"), start_s=0.0, segment=0, is_final=True, is_eof=False))
    assert "".join(live["tokens"]).split() == ["今", "天", "HELLO"]


def test_characters_of_chinese_count_as_words(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = tuple(TOKENIZER.encode("今天气很好 HELLO WORLD"))
    monkeypatch.setattr(comparison, "find_with_each", lambda *args, **kwargs: iter([[[Hypothesis(ids)]]]))
    counted = SearchComparison(ToyScorer(5), TOKENIZER, [SearchConfig(method="greedy")])
    counted.add(None, ["今天天气很好 HELLO"])  # type: ignore[arg-type]
    (result,) = counted.results()
    assert result.errors.words.num_reference == 7
    assert (result.errors.words.deletions, result.errors.words.insertions) == (1, 1)
    judged = judged_words("今天很好 HELLO", spoken("今天气好 HELLO"))
    assert [is_right for _, is_right in judged] == [True, True, False, True, True]
    assert describe_style([("今天天气很好", "今天天气很好")], TOKENIZER) is None


def test_a_model_takes_its_special_ids_from_the_vocabulary() -> None:
    from zipasr.model import AsrModel
    from zipasr.tokenizer.model_file import table_model

    odd = Tokenizer.from_bytes(table_model(["a", "<unk>", "b", "<sos/eos>", "<blk>"]))
    config = causal_model(has_attention=True).config.for_vocabulary(odd)
    assert (config.vocab_size, config.blank_id, config.sos_eos_id) == (5, 4, 3)
    model = AsrModel(config).eval()
    assert model.attention is not None and model.attention.sos_eos == 3
    assert model.blank_id == 4
    features, lens = torch.randn(1, 90, 80), torch.tensor([90])
    losses = model.loss(model.encode(features, lens), torch.tensor([[0, 2]]), torch.tensor([2]))
    assert all(torch.isfinite(loss) for loss in losses.values())
    text = Recognizer(model, odd).transcribe(noise(2.0)).text
    assert set(text) <= set("ab⁇")
