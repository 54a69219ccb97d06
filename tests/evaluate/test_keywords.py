"""Keyword spotting on recordings with known texts. Reference: real runs at each threshold; published quantiles."""

import dataclasses
import json
from pathlib import Path

import pytest
import soundfile

from tests.recognizer.causal_models import KEYWORDS, RECORDINGS, pausing_model, pausing_recognizer
from tests.tiny_model import tiny_tokenizer
from tests.tokenizer.published import write_scores, write_tokens
from zipasr.cli import main
from zipasr.errors import ConfigError, DataError
from zipasr.evaluate import KeywordReport, ReferenceUtterance, evaluate_keywords
from zipasr.evaluate.keywords import (
    Point,
    SpottedUtterance,
    _chosen,
    _is_said,
    _phrases,
    alarms_bound,
    curve_of,
    events_at,
    results_at,
    together,
)
from zipasr.recognizer import KeywordEvent, SpotterConfig
from zipasr.search.keywords import encode_keywords, parse_keyword, read_keywords
from zipasr.tokenizer import Tokenizer

TEXTS = ("SAY JU JU", "JU JU AND JUCK", "NOTHING")
UTTERANCES = [
    ReferenceUtterance(str(n), samples, text) for n, (samples, text) in enumerate(zip(RECORDINGS, TEXTS, strict=True))
]
CONFIG = SpotterConfig(refractory_s=0.2)


def event(keyword: str, start_s: float, end_s: float, score: float) -> KeywordEvent:
    return KeywordEvent(
        keyword=keyword,
        start_s=start_s,
        end_s=end_s,
        found_s=end_s + 0.08,
        score=score,
        threshold=2.0,
        tokens=(),
        times_s=(),
        is_near=True,
    )


@pytest.fixture(scope="module")
def report() -> KeywordReport:
    spotter = pausing_recognizer().spotter(KEYWORDS, threshold=0.5, config=CONFIG)
    return evaluate_keywords(spotter, UTTERANCES)


@pytest.mark.parametrize("threshold", [0.2, 0.35, 0.5, 0.6])
def test_one_search_tells_what_is_found_at_any_threshold(report: KeywordReport, threshold: float) -> None:
    """A real run differs only after an event, where all paths start over: here it finds the same keywords."""
    spotter = pausing_recognizer().spotter(KEYWORDS, threshold=threshold, config=CONFIG)
    thresholds = {parse_keyword(keyword).name or "": threshold for keyword in KEYWORDS}
    for utterance, samples in zip(report.utterances, RECORDINGS, strict=True):
        real = [(e.keyword, e.times_s) for e in spotter.spot(samples)]
        told = [(e.keyword, e.times_s) for e in events_at(thresholds, utterance.candidates, CONFIG.refractory_s)]
        assert told[:1] == real[:1]
        assert {name for name, _ in told} == {name for name, _ in real}


def test_candidates_have_the_threshold_of_their_keyword(report: KeywordReport) -> None:
    found = [event for utterance in report.utterances for event in utterance.candidates]
    assert {event.threshold for event in found} == {0.5}
    assert {event.is_near for event in found} == {True, False}
    assert all(event.is_near == (event.score < 0.5) for event in found)


def test_misses_and_alarms_are_counted(report: KeywordReport) -> None:
    twice, *_, juck = report.results
    assert (twice.name, twice.num_said, juck.name, juck.num_said) == ("TWICE", 2, "JUCK", 1)
    assert twice.num_missed == 0 and juck.num_missed == 1
    assert twice.negative_h == pytest.approx(5.2 / 3600) and juck.negative_h == pytest.approx(9.2 / 3600)
    assert report.curves["TWICE"][0].num_missed == 0 and report.curves["TWICE"][-1].num_missed == 2
    misses = [point.num_missed for point in report.curves["TWICE"]]
    assert misses == sorted(misses)
    total = together(report.results)
    assert total.num_said == 3 and total.num_missed == sum(r.num_missed for r in report.results)


def test_events_follow_from_candidates() -> None:
    found = [event("A", 1.0, 1.4, 0.3), event("A", 1.2, 1.6, 0.6), event("B", 1.5, 1.9, 0.9), event("A", 1.8, 2.0, 0.5)]

    def at(threshold: float, refractory_s: float = 0.0) -> list[float]:
        return [e.start_s for e in events_at({"A": threshold, "B": 0.8}, found, refractory_s)]

    assert at(0.3) == [1.0, 1.5]  # the others began before an event was found
    assert at(0.6) == [1.2]
    assert at(0.61) == [1.5]
    assert at(1.0) == [1.5]
    later = [event("A", 0.0, 0.4, 0.5), event("A", 0.5, 0.8, 0.5), event("A", 0.9, 1.2, 0.5)]
    assert [e.start_s for e in events_at({"A": 0.5}, later, 0.5)] == [0.0, 0.9]
    assert [e.start_s for e in events_at({"A": 0.5}, later, 0.4)] == [0.0, 0.5, 0.9]


def test_the_chosen_threshold_is_in_the_middle_of_the_best() -> None:
    points = [Point(0.1, 0, 9), Point(0.2, 0, 2), Point(0.3, 0, 2), Point(0.4, 0, 1), Point(0.5, 3, 0)]
    assert _chosen(points, 2.0) == 0.3
    assert _chosen(points, 0.5) == 0.5
    assert _chosen(points[:2], 0.0) == 0.2  # none has few enough


def test_curves_and_results_by_hand() -> None:
    said = SpottedUtterance("a", 1800.0, frozenset({"A"}), (event("A", 1.0, 1.4, 0.5),))
    other = SpottedUtterance("b", 3600.0, frozenset(), (event("A", 1.0, 1.4, 0.3), event("A", 9.0, 9.4, 0.4)))
    (result,) = results_at({"A": 0.4}, [said, other], 0.0)
    assert (result.num_said, result.num_missed, result.num_alarms, result.negative_h) == (1, 0, 1, 1.0)
    assert result.alarms_bound_per_h == pytest.approx(4.744, abs=0.001)
    points = {point.threshold: point[1:] for point in curve_of("A", [said, other], 0.0)}
    assert points[0.3] == (0, 2) and points[0.4] == (0, 1) and points[0.5] == (0, 0) and points[0.51] == (1, 0)


@pytest.mark.parametrize(("num_alarms", "bound"), [(0, 2.996), (1, 4.744), (2, 6.296), (10, 16.962), (100, 118.08)])
def test_the_bound_is_that_of_a_poisson_mean(num_alarms: int, bound: float) -> None:
    """Half the 95 % quantiles of chi-squared distributions with 2 (n + 1) degrees of freedom."""
    assert alarms_bound(num_alarms) == pytest.approx(bound, abs=0.01)


def test_phrases_are_found_in_texts_in_any_case() -> None:
    spotter = pausing_recognizer().spotter(["QUICK FOX"], config=CONFIG)
    texts = ["the quick fox", "Quick, fox!", "QUICK BROWN FOX", "QUICK FOXES"]
    utterances = [ReferenceUtterance(text, RECORDINGS[1], text) for text in texts]
    found = evaluate_keywords(spotter, utterances).utterances
    assert [bool(utterance.said) for utterance in found] == [True, True, False, False]


def test_a_name_is_not_looked_for_in_texts(tmp_path: Path) -> None:
    """Other than for phones, whose words only the name can tell."""
    keywords = encode_keywords(["QUICK FOX @BIG_DOG"], tiny_tokenizer())
    assert _phrases(keywords, tiny_tokenizer()) == {"BIG_DOG": {"QUICK FOX"}}
    spotter = pausing_recognizer().spotter(["QUICK FOX @BIG_DOG"], config=CONFIG)
    utterances = [ReferenceUtterance(text, RECORDINGS[1], text) for text in ("A BIG DOG", "A QUICK FOX")]
    assert [bool(utterance.said) for utterance in evaluate_keywords(spotter, utterances).utterances] == [False, True]
    phones = Tokenizer.from_file(write_tokens(tmp_path / "tokens.txt", ["<blk>", "<unk>", "HH", "AH0", "L", "OW1"]))
    keywords = encode_keywords(["HH AH0 L OW1 @HELLO_THERE"], phones)
    assert _phrases(keywords, phones) == {"HELLO_THERE": {"HELLO THERE", "HH AH0 L OW1"}}


def test_words_are_found_whatever_apostrophe_the_vocabulary_has(tmp_path: Path) -> None:
    pieces = [(piece, -float(i)) for i, piece in enumerate(["<blk>", "<sos/eos>", "<unk>", "▁", *"O’NEIL"])]
    tokenizer = Tokenizer.from_file(write_scores(tmp_path / "m.vocab", pieces))
    ((phrase,),) = _phrases(encode_keywords(["O'NEILL"], tokenizer), tokenizer).values()
    assert phrase == "O’NEILL" and _is_said(phrase, "call o'neill", tokenizer.word_joiner)


def test_sets_that_cannot_be_used_are_refused() -> None:
    spotter = pausing_recognizer().spotter(["QUICK FOX"])
    with pytest.raises(DataError, match="none of 3 has one of QUICK FOX"):
        evaluate_keywords(spotter, UTTERANCES)
    with pytest.raises(DataError, match="none can be read; the first of 1: x: broken"):
        evaluate_keywords(spotter, [ReferenceUtterance("x", None, "", "broken")])
    with pytest.raises(ConfigError, match="names of their own to be measured, but two are 'FOX'"):
        evaluate_keywords(pausing_recognizer().spotter(["QUICK FOX @FOX", "BROWN FOX @FOX"]), UTTERANCES)
    with pytest.raises(ConfigError, match="allowed false alarms an hour"):
        evaluate_keywords(spotter, UTTERANCES, max_alarms_per_h=-1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, keywords, a set of recordings beside their texts, and one of negatives."""
    folder = tmp_path_factory.mktemp("evaluate")
    pausing_model().save(folder / "model", tiny_tokenizer())
    (folder / "keywords.txt").write_text("".join(f"{keyword}\n" for keyword in KEYWORDS[:2]), encoding="utf-8")
    for name, numbers in (("set", (0, 1)), ("negatives", (2,))):
        (folder / name).mkdir()
        for n in numbers:
            soundfile.write(folder / name / f"{n}.flac", RECORDINGS[n], 16_000)
            (folder / name / f"{n}.txt").write_text(TEXTS[n])
    return folder


def test_the_verb(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["evaluate", str(folder / "model"), str(folder / "set"), "--keywords", str(folder / "keywords.txt")]
    argv += ["--negatives", str(folder / "negatives"), "--threshold", "0.5", "--refractory-s", "0.2"]
    outputs = [
        "--plot",
        str(tmp_path / "det.png"),
        "--save-keywords",
        str(tmp_path / "new.txt"),
        "--out",
        str(tmp_path / "rows"),
    ]
    assert main([*argv, "--json", *outputs]) == 0
    found = json.loads(capsys.readouterr().out)
    spotter = pausing_recognizer().spotter(KEYWORDS[:2], threshold=0.5, config=CONFIG)
    expected = evaluate_keywords(spotter, UTTERANCES)
    assert found["keywords"] == [result.to_dict() for result in expected.results]
    assert found["chosen"] == [result.to_dict() for result in expected.chosen]
    assert (tmp_path / "det.png").stat().st_size > 5_000
    chosen = [keyword.threshold for keyword in read_keywords(tmp_path / "new.txt")]
    assert chosen == [result.threshold for result in expected.chosen]
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [len(row["found"]) for row in rows] == [len(utterance.candidates) for utterance in expected.utterances]
    assert {found["threshold"] for row in rows for found in row["found"]} == {0.5}
    assert main(argv) == 0
    table = capsys.readouterr().out
    assert "TWICE" in table and "95 % sure" in table and "at most 1 false alarms per hour" in table


def test_saved_keywords_have_the_boost_of_their_thresholds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "keywords.txt").write_text(f"{KEYWORDS[0]} :3\n{KEYWORDS[1]}\n", encoding="utf-8")
    argv = ["evaluate", str(folder / "model"), str(folder / "set"), "--keywords", str(tmp_path / "keywords.txt")]
    saved = ["--boost", "2", "--refractory-s", "0.2", "--save-keywords", str(tmp_path / "new.txt"), "--json"]
    assert main([*argv, *saved]) == 0
    first = json.loads(capsys.readouterr().out)
    assert [keyword.boost for keyword in read_keywords(tmp_path / "new.txt")] == [3.0, 2.0]
    argv[-1] = str(tmp_path / "new.txt")
    assert main([*argv, "--refractory-s", "0.2", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["keywords"] == first["chosen"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--negatives", "x"), "--negatives has no effect without --keywords"),
        (("--threshold", "0.3"), "--threshold has no effect without --keywords"),
        (("--save-keywords", "x"), "--save-keywords has no effect without --keywords"),
        (("--keywords", "x", "--calibration"), "--calibration has no effect with --keywords"),
        (("--keywords", "x", "--lm", "y"), "--lm has no effect with --keywords"),
        (("--keywords", "x", "--ctc-scale", "0.5"), "--ctc-scale has no effect with --keywords"),
        (("--keywords", "x", "--ngram-scale", "0.5"), "--ngram-scale has no effect with --keywords"),
        (("--keywords", "x", "--attention-scale", "0"), "--attention-scale has no effect with --keywords"),
        (("--keywords", "x", "--graph", "y"), "--graph has no effect with --keywords"),
        (("--keywords", "x", "--boost", "0", "--save-keywords", "y"), "a boost of 0 cannot be saved"),
        (("--keywords", "x", "--search", "beam"), "--search has no effect with --keywords"),
        (("--keywords", "missing.txt"), "missing.txt must be a file of keywords"),
    ],
)
def test_misuse(flags: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(folder / "model"), str(folder / "set"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_results_are_data(report: KeywordReport) -> None:
    assert json.loads(json.dumps(report.to_dict()))["num_utterances"] == 3
    empty = dataclasses.replace(report.results[0], num_said=0, negative_h=0.0)
    assert empty.miss_rate == 0.0 and empty.to_dict()["alarms_bound_per_h"] is None
