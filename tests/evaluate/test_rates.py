"""Evaluation. Reference: error counts against a slow Levenshtein distance. Run: cuts of synthetic audio, some unreadable."""

import dataclasses
import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_model import noise, tiny_asr_model, tiny_recognizer, tiny_tokenizer
from zipasr.errors import ConfigError, DataError
from zipasr.evaluate import (
    Errors,
    EvaluationReport,
    ReferenceUtterance,
    count_errors,
    count_text_errors,
    error_rates,
    evaluate,
    read_cuts,
)
from zipasr.recognizer import LongRecordingConfig, Recognizer
from zipasr.transcript import Transcript

WORDS = st.lists(st.sampled_from(["A", "B", "CC"]), max_size=8)


def levenshtein(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return len(a) + len(b)
    costs = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            keep = costs[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            costs[i][j] = min(keep, costs[i - 1][j] + 1, costs[i][j - 1] + 1)
    return costs[-1][-1]


@settings(deadline=None)
@given(reference=WORDS, hypothesis=WORDS)
def test_counts_equal_slow_levenshtein(reference: list[str], hypothesis: list[str]) -> None:
    errors = count_errors(reference, hypothesis)
    assert errors.total == levenshtein(reference, hypothesis)
    assert errors.insertions - errors.deletions == len(hypothesis) - len(reference)
    assert errors.num_reference == len(reference)
    assert min(errors) >= 0


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(WORDS, WORDS), max_size=5))
def test_rates_sum_over_utterances(pairs: list[tuple[list[str], list[str]]]) -> None:
    words, characters = error_rates([(" ".join(ref), " ".join(hyp)) for ref, hyp in pairs])
    assert words.total == sum(levenshtein(ref, hyp) for ref, hyp in pairs)
    assert characters.total == sum(levenshtein(list("".join(ref)), list("".join(hyp))) for ref, hyp in pairs)
    assert words.num_reference == sum(len(ref) for ref, _ in pairs)
    assert characters.num_reference == sum(len("".join(ref)) for ref, _ in pairs)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "words", "characters"),
    [
        ("", "", 0.0, 0.0),
        ("ONE TWO", "", 100.0, 100.0),
        ("", "ONE TWO", 200.0, 600.0),
        ("ONE  TWO", " ONE TWO ", 0.0, 0.0),
        ("TO DAY", "TODAY", 100.0, 0.0),
        ("今 天", "今天", 100.0, 0.0),
        ("今天天气", "今天气", 100.0, 25.0),
        ("今天天气", "明天天气好", 100.0, 50.0),
    ],
)
def test_rates_by_hand(reference: str, hypothesis: str, words: float, characters: float) -> None:
    errors = count_text_errors(reference, hypothesis)
    assert (errors.words.rate, errors.characters.rate) == (words, characters)


def test_evaluates_cuts_and_reports_broken_ones(cuts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zipasr.evaluate.rates._GROUP_S", 1.2)
    report = evaluate(tiny_recognizer(), read_cuts(cuts))
    assert [result.id for result in report.results] == ["0", "1", "2"]
    assert [id for id, _ in report.unreadable] == ["3", "5"]
    assert all(problem for _, problem in report.unreadable)
    assert report.words.num_reference == 6
    assert report.audio_s == pytest.approx(3.5, abs=0.01)
    assert report.decode_s > 0
    rates = error_rates([(result.ref, result.hyp) for result in report.results])
    assert (report.wer, report.cer) == (rates.words.rate, rates.characters.rate)
    figures = report.to_dict()
    assert figures["num_utterances"] == 3
    assert figures["num_unreadable"] == 2
    assert json.loads(json.dumps(figures)) == figures

    report.write_results(tmp_path / "deep" / "results.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "deep" / "results.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "5"]
    assert rows[0]["errors"] == rows[0]["insertions"] + rows[0]["deletions"] + rows[0]["substitutions"]
    assert "problem" in rows[-1]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["results.jsonl"]


def test_result_does_not_depend_on_batches(cuts: Path) -> None:
    one = evaluate(tiny_recognizer(), read_cuts(cuts))
    two = evaluate(tiny_recognizer(), read_cuts(cuts), max_batch_s=0.1)
    for a, b in zip(one.results, two.results, strict=True):
        assert dataclasses.replace(a, confidences=()) == dataclasses.replace(b, confidences=())
        assert [p for p, _ in a.confidences] == pytest.approx([p for p, _ in b.confidences], abs=1e-4)
        assert [is_right for _, is_right in a.confidences] == [is_right for _, is_right in b.confidences]


def test_results_that_cannot_be_written(cuts: Path, tmp_path: Path) -> None:
    report = evaluate(tiny_recognizer(), [ReferenceUtterance("a", noise(0.5), "ONE")])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="could not be written"):
        report.write_results(tmp_path / "file" / "results.jsonl")


def test_nothing_to_evaluate() -> None:
    with pytest.raises(DataError, match="must contain utterances, but none can be read"):
        evaluate(tiny_recognizer(), [])
    with pytest.raises(DataError, match="the first of 1: a: it is broken"):
        evaluate(tiny_recognizer(), [ReferenceUtterance("a", None, "ONE", "it is broken")])


def test_too_short_recording_counts_as_deletions() -> None:
    report = evaluate(tiny_recognizer(), [ReferenceUtterance("a", np.zeros(80, np.float32), "ONE TWO")])
    assert report.words == Errors(0, 2, 0, 2)


def test_worst_first() -> None:
    results = evaluate(
        tiny_recognizer(),
        [ReferenceUtterance(str(n), np.zeros(0, np.float32), " ".join(["A"] * n)) for n in (1, 3, 0, 2)],
    )
    assert isinstance(results, EvaluationReport)
    assert [result.id for result in results.worst(2)] == ["3", "2"]
    assert [result.id for result in results.worst(9)] == ["3", "2", "1"]


def test_scoring_rewrites_both_texts() -> None:
    class Says:
        engine = tiny_recognizer().engine
        long_recordings = tiny_recognizer().long_recordings

        def transcribe_many(self, audio: list[np.ndarray], *, max_batch_s: float | None = None) -> list[Transcript]:
            return [Transcript("um WELL KNOWN", duration_s=1.0) for _ in audio]

    utterances = [ReferenceUtterance("a", noise(1.0), "WELL-KNOWN <COMMA> FACT")]
    recognizer = cast(Recognizer, Says())
    assert evaluate(recognizer, utterances).words == (0, 0, 3, 3)
    report = evaluate(recognizer, utterances, scoring="gigaspeech")
    assert (report.results[0].ref, report.results[0].hyp) == ("WELL KNOWN FACT", "WELL KNOWN")
    assert report.words == (0, 1, 0, 3)
    with pytest.raises(ConfigError, match="scoring must be one of as-is, words, gigaspeech, or left out, but is 'x'"):
        evaluate(recognizer, utterances, scoring="x")


def test_long_recordings_have_the_text_of_transcribe() -> None:
    config = LongRecordingConfig(max_piece_s=6.0, overlap_s=0.5, use_vad=False)
    recognizer = Recognizer(tiny_asr_model(), tiny_tokenizer(), long_recordings=config)
    recordings = [noise(duration_s, seed) for seed, duration_s in enumerate((9.0, 1.3, 8.0, 8.001, 2.0))]
    utterances = [ReferenceUtterance(str(i), samples, "THE DOG") for i, samples in enumerate(recordings)]
    texts = [result.hyp for result in evaluate(recognizer, utterances).results]
    in_pieces = [recognizer.transcribe(samples, sample_rate_hz=16_000).text for samples in recordings]
    whole = [transcript.text for transcript in recognizer.transcribe_many(recordings)]
    assert [text == other for text, other in zip(in_pieces, whole, strict=True)] == [False, True, False, False, True]
    assert texts == [in_pieces[0], whole[1], whole[2], in_pieces[3], whole[4]]  # whole up to a third more


def test_spellings_are_no_errors() -> None:
    pairs = [("it’s a cafe\u0301", "it's a café"), ("it's", "itʼs\u200b")]
    assert error_rates(pairs).words == (0, 0, 0, 4)
    assert error_rates(pairs).characters.total == 0


def test_files_that_are_not_manifests(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there; make one with: zipasr prepare"):
        list(read_cuts(tmp_path / "missing.jsonl.gz"))
    (tmp_path / "test_cuts.jsonl.gz").write_bytes(b"\x1f\x8b nonsense")
    with pytest.raises(DataError, match=r"is a folder; name one of its files: test_cuts\.jsonl\.gz"):
        list(read_cuts(tmp_path))
    with pytest.raises(DataError, match="cannot be read as one"):
        list(read_cuts(tmp_path / "test_cuts.jsonl.gz"))
    for content in ('{"audio": "a.wav", "text": "ONE"}\n', "[" * 100_000):
        (tmp_path / "rows.jsonl").write_text(content)
        with pytest.raises(DataError, match="cannot be read as one"):
            list(read_cuts(tmp_path / "rows.jsonl"))
