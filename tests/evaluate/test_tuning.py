"""Tuning and calibration on a set. Law: every setting has the error rates of `evaluate`. Contract: grids and the verb."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import soundfile

import zipasr
from tests.recognizer.causal_models import pausing_model
from tests.recognizer.phrase_graphs import phrase_graph
from tests.search.toy_prior import ToyPrior
from tests.tiny_model import noise, save_tiny, tiny_asr_model, tiny_recognizer, tiny_tokenizer
from zipasr.cli import main
from zipasr.errors import ConfigError, DataError
from zipasr.evaluate import (
    ReferenceUtterance,
    UtteranceResult,
    calibrate,
    compare_searches,
    count_text_errors,
    default_grid,
    evaluate,
    parse_grid,
    save_calibration,
    tune,
)
from zipasr.evaluate.rates import judged_words, rewriting
from zipasr.recognizer import LongRecordingConfig, Recognizer, SearchConfig
from zipasr.search.graph import save_graph
from zipasr.search.strategy import LanguageModels, Method
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Transcript, Word

UTTERANCES = [
    ReferenceUtterance("a", noise(1.3), "THE THE DOG"),
    ReferenceUtterance("b", noise(0.02), "FOX"),
    ReferenceUtterance("c", None, "FOX", "unreadable"),
    ReferenceUtterance("d", noise(0.9, 2), "THE QUICK THE"),
]


def test_each_setting_has_the_error_rates_of_evaluate() -> None:
    model = tiny_asr_model()
    tuned = tune(Recognizer(model, tiny_tokenizer()), UTTERANCES, {"blank_penalty": (0.0, 3.0), "beam": (1, 4)})
    assert len(tuned) == 4
    for setting in tuned:
        search = SearchConfig(method="beam", blank_penalty=setting.values["blank_penalty"], beam=int(setting.values["beam"]))
        report = evaluate(Recognizer(model, tiny_tokenizer(), search=search), UTTERANCES)
        assert (setting.errors.words, setting.errors.characters) == (report.words, report.characters)
    totals = [(setting.errors.words.total, setting.errors.characters.total) for setting in tuned]
    assert totals == sorted(totals)
    assert tuned[0].flags() == f"--blank-penalty {tuned[0].values['blank_penalty']:g} --beam {tuned[0].values['beam']:g}"


@pytest.mark.parametrize("use_vad", [False, None])
def test_long_recordings_are_tuned_as_they_are_transcribed(use_vad: bool | None) -> None:
    long = LongRecordingConfig(max_piece_s=6.0, overlap_s=0.5, use_vad=use_vad)
    recognizer = Recognizer(tiny_asr_model(), tiny_tokenizer(), long_recordings=long)
    utterances = [ReferenceUtterance("long", noise(9.0), "THE LAZY DOG"), *UTTERANCES]
    tuned = tune(recognizer, utterances, {"blank_penalty": (0.0, 3.0)})
    compared = compare_searches(recognizer, utterances)
    whole = tune(Recognizer(tiny_asr_model(), tiny_tokenizer()), utterances, {"blank_penalty": (3.0,)})
    searches = [(one.search, one.errors) for one in tuned] + [(one.search, one.errors) for one in compared]
    for search, errors in searches:
        of_search = Recognizer(tiny_asr_model(), tiny_tokenizer(), search=search, long_recordings=long)
        report = evaluate(of_search, utterances)
        assert (errors.words, errors.characters) == (report.words, report.characters), search
    assert whole[0].errors not in [one.errors for one in tuned]


def test_words_are_characters_where_a_script_has_no_spaces() -> None:
    tokenizer = Tokenizer.train(["今天天气好"], kind="spaceless", vocab_size=None)
    recognizer = Recognizer(tiny_asr_model(vocab_size=tokenizer.vocab_size), tokenizer)
    utterances = [ReferenceUtterance("a", noise(1.3), "今天天气好")]
    report = evaluate(recognizer, utterances)
    assert report.words == report.characters and report.words.num_reference == 5
    (tuned,) = tune(recognizer, utterances, {"beam": (4.0,)})
    assert tuned.errors.words == report.words


def test_symbols_per_frame_are_tuned() -> None:
    model, grid = tiny_asr_model(), {"max_symbols_per_frame": (1.0, 3.0)}
    tuned = tune(Recognizer(model, tiny_tokenizer()), UTTERANCES, grid)
    assert len({setting.errors for setting in tuned}) == 2
    for setting in tuned:
        num_symbols = int(setting.values["max_symbols_per_frame"])
        search = SearchConfig(method="beam", max_symbols_per_frame=num_symbols)
        report = evaluate(Recognizer(model, tiny_tokenizer(), search=search), UTTERANCES)
        assert (setting.errors.words, setting.errors.characters) == (report.words, report.characters)
        assert setting.flags() == f"--max-symbols-per-frame {num_symbols}"


def test_scales_of_language_models_are_tuned() -> None:
    lm, ngram = ToyPrior(48, seed=1), ToyPrior(48, seed=2)
    recognizer = Recognizer(tiny_asr_model(), tiny_tokenizer(), language_models=LanguageModels(lm, ngram))
    grid = default_grid(recognizer)
    assert list(grid) == ["lm_scale", "lodr_scale", "blank_penalty"]
    tuned = tune(recognizer, UTTERANCES[:1], {"lm_scale": (0.0, 5.0), "lodr_scale": (0.0, -1.0)})
    assert len({setting.errors for setting in tuned}) > 1
    assert lm.num_calls > 0 < ngram.num_calls


def test_default_grids() -> None:
    assert list(default_grid(tiny_recognizer())) == ["blank_penalty"]
    assert list(default_grid(tiny_recognizer("attention_rescoring"))) == ["attention_scale", "blank_penalty"]


@pytest.mark.parametrize(
    ("method", "has_lm", "names"),
    [
        ("joint", False, ["ngram_scale", "ctc_scale", "blank_penalty"]),
        ("ctc_beam", False, ["ngram_scale", "blank_penalty"]),
        ("greedy", False, ["blank_penalty"]),
        ("joint", True, ["lm_scale", "ctc_scale", "blank_penalty"]),
    ],
)
def test_the_ngram_of_a_model_is_tried_unless_a_language_model_replaces_it(
    method: Method, has_lm: bool, names: list[str]
) -> None:
    models = LanguageModels(main=ToyPrior(48) if has_lm else None, own=ToyPrior(48))
    recognizer = Recognizer(tiny_asr_model(), tiny_tokenizer(), search=method, language_models=models)
    assert list(default_grid(recognizer)) == names


def test_grids_are_parsed() -> None:
    assert parse_grid(["lm_scale=0,0.1", "blank-penalty=1"]) == {"lm_scale": (0.0, 0.1), "blank_penalty": (1.0,)}
    assert parse_grid([]) == {}
    with pytest.raises(ConfigError, match="beam must be given once, with all values to try"):
        parse_grid(["beam=4", "beam=8"])


@pytest.mark.parametrize("assignment", ["lm_scale", "size=1,2", "lm_scale=high", "lm_scale=", "=1"])
def test_bad_grids_are_refused(assignment: str) -> None:
    with pytest.raises(ConfigError):
        parse_grid([assignment])


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "1 to 500 combinations"),
        ({"blank_penalty": tuple(range(501))}, "1 to 500 combinations"),
        ({"device": (1.0,)}, "settings to tune must be of"),
        ({"lm_scale": (0.1,)}, "lm_scale has no effect without its model"),
        ({"beam": (0.0,)}, "beam must be at least 1"),
        ({"beam": (4.0, 2.5)}, "beam must be a whole number, but is 2.5"),
        ({"beam": (float("inf"),)}, "beam must be a whole number, but is inf"),
        ({"max_symbols_per_frame": (0.5,)}, "max_symbols_per_frame must be a whole number, but is 0.5"),
        ({"max_symbols_per_frame": (0.0,)}, "max_symbols_per_frame must be at least 1"),
        ({"attention_scale": (2.0,)}, "attention_scale has no effect"),
    ],
)
def test_settings_are_checked_before_the_work(grid: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(tiny_recognizer(), iter([]), grid)


def test_nothing_to_tune_on() -> None:
    with pytest.raises(DataError, match="none can be read"):
        tune(tiny_recognizer(), UTTERANCES[2:3], {"blank_penalty": (0.0,)})


def test_words_are_judged_by_the_alignment() -> None:
    words = tuple(Word(text, i, i + 1, 0.1 * i) for i, text in enumerate(["THE", "BIG", "DOG", "RAN"]))
    transcript = Transcript("THE BIG DOG RAN", words=words)
    judged = judged_words("THE DOG SAT", transcript)
    assert [is_right for _, is_right in judged] == [True, False, True, False]
    assert [confidence for confidence, _ in judged] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    characters = Transcript("天好", words=tuple(Word(text, 0, 1, 0.5) for text in "天好"))
    assert [is_right for _, is_right in judged_words("今 天", characters)] == [True, False]


def test_words_are_judged_as_the_scoring_rewrites_them() -> None:
    words = tuple(Word(text, i, i + 1, 0.1 * i) for i, text in enumerate(["um", "Well-known", "bird", "well-kept", "."]))
    transcript = Transcript("um Well-known bird well-kept .", words=words)
    judged = judged_words("Well known, Bird. Well said.", transcript, rewriting("words"))
    assert judged == ((0.0, False), (0.1, True), (0.2, True), (words[3].confidence, False))
    assert judged_words("well known birds", transcript, rewriting("gigaspeech"))[0] == (0.1, True)
    assert [is_right for _, is_right in judged_words("Well-known Bird.", transcript)] == [False, True, False, False, False]


def test_calibration_judges_words_by_the_scoring() -> None:
    recognizer = tiny_recognizer()
    samples = noise(1.3)
    text = recognizer.transcribe(samples).text
    spoken = [ReferenceUtterance("a", samples, f"{text.lower()}.")]
    (scored,), (plain,) = (evaluate(recognizer, spoken, scoring=name).results for name in ("words", None))
    assert scored.words.total == 0 and all(is_right for _, is_right in scored.confidences)
    assert len(scored.confidences) == len(text.split()) and not any(is_right for _, is_right in plain.confidences)


def results_of(confidences: list[tuple[float, bool]], num_utterances: int = 4) -> list[UtteranceResult]:
    errors = count_text_errors("A", "A")
    empty = UtteranceResult(id="x", ref="", hyp="", words=errors.words, characters=errors.characters, duration_s=1.0)
    return [dataclasses.replace(empty, confidences=tuple(confidences[i::num_utterances])) for i in range(num_utterances)]


def test_calibration_is_measured_on_the_other_half() -> None:
    sure_but_half_right = [(0.9, i // 4 % 2 == 0) for i in range(80)]
    report = calibrate(results_of(sure_but_half_right))
    assert (report.num_words, report.num_right) == (80, 40)
    assert report.raw.calibration_error == pytest.approx(0.4)
    assert report.calibrated.calibration_error < 0.02
    assert report.calibration.apply(0.9) == pytest.approx(0.5, abs=0.01)
    assert json.loads(json.dumps(report.to_dict()))["num_words"] == 80
    one_half_only = results_of([(0.9, True)] * 20 + [(0.9, False)] * 20, num_utterances=2)
    assert calibrate(one_half_only).num_words == 40


@pytest.mark.parametrize("results", [[], results_of([(0.5, True)] * 10), results_of([(0.5, True)] * 40, num_utterances=1)])
def test_too_few_words_to_calibrate(results: list[UtteranceResult]) -> None:
    with pytest.raises(DataError, match="a calibration needs"):
        calibrate(results)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_tiny(folder / "model")
    return folder


def test_the_verb_tunes(run_folder: Path, cuts: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(run_folder), str(cuts), "--tune", "blank_penalty=0,2", "beam=2"]) == 1  # some are broken
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["WER", "%", "CER", "%", "blank_penalty", "beam"]
    assert len(lines) == 4
    assert lines[-1].startswith("best: --blank-penalty ")
    assert main(["evaluate", str(run_folder), str(cuts), "--tune", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)) == len(default_grid(zipasr.load(run_folder))["blank_penalty"])


def test_the_verb_calibrates(
    run_folder: Path,
    cuts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zipasr.evaluate.calibration._MIN_WORDS", 2)
    arguments = ["evaluate", str(run_folder), str(cuts), "--calibration", "--save", "--plot", str(tmp_path / "curve.png")]
    assert main(arguments) == 1  # some are broken
    captured = capsys.readouterr()
    assert "normalized cross-entropy" in captured.out
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    saved = zipasr.load(run_folder).engine.calibrations["beam"]
    assert main([*arguments[:4], "--json"]) == 1
    figures = json.loads(capsys.readouterr().out)["confidence"]  # a saved calibration is not applied again
    assert figures["temperature"] == pytest.approx(saved.temperature, abs=1e-5)
    assert saved == save_and_read(run_folder, saved)


def save_and_read(folder: Path, calibration):  # type: ignore[no-untyped-def]
    save_calibration(folder, "beam", calibration)
    return zipasr.load(folder).engine.calibrations["beam"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--plot", "a.png"], "--plot has no effect without --calibration"),
        (["--tune", "--calibration"], "use them in separate commands"),
        (["--tune", "size=3"], "a setting to tune must be"),
        (["--tune", "blank_penalty=x"], "the values of blank_penalty must be numbers"),
        (["--scoring", "strict"], "scoring must be one of as-is, words, gigaspeech"),
        (["--calibration", "--plot", "no/such/folder/a.png"], "--plot must be a file in an existing folder"),
        (["--calibration", "--plot", "a.txt"], "--plot must be a file of one of the formats"),
    ],
)
@pytest.mark.parametrize("model", ["run", "missing"])  # told before the model and the set are read
def test_misuse(run_folder: Path, model: str, flags: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    folder = run_folder if model == "run" else run_folder / "missing"
    assert main(["evaluate", str(folder), "missing.jsonl.gz", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_figure_needs_matplotlib_from_the_start(
    run_folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["evaluate", str(run_folder / "missing"), "missing.jsonl.gz", "--calibration", "--plot", "a.png"]) == 1
    assert 'pip install "zipasr[train]"' in capsys.readouterr().err


def test_what_is_saved_does_not_depend_on_the_figure(
    cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DataError("the disk is full")

    save_tiny(tmp_path / "model")
    monkeypatch.setattr("zipasr.evaluate.calibration._MIN_WORDS", 2)
    monkeypatch.setattr("zipasr.plots.plot_reliability", full)
    flags = ["--calibration", "--save", "--plot", str(tmp_path / "curve.png"), "--out", str(tmp_path / "rows")]
    assert main(["evaluate", str(tmp_path / "model"), str(cuts), *flags]) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert zipasr.load(tmp_path / "model").engine.calibrations.keys() == {"beam"} and (tmp_path / "rows").is_file()


@pytest.mark.parametrize("flags", [(), ("--tune", "blank_penalty=0"), ("--tune-rejection", "SET"), ("--keywords", "WORDS")])
def test_reasons_are_told_where_nothing_can_be_read_even_if_quiet(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pausing_model().save(tmp_path / "model", tiny_tokenizer())
    save_graph(tmp_path / "graph", phrase_graph(tiny_tokenizer()).graph, tiny_tokenizer())
    (tmp_path / "words.txt").write_text("QUICK FOX\n")
    (tmp_path / "set").mkdir()
    for name in ("good", "gone"):
        soundfile.write(tmp_path / "set" / f"{name}.wav", noise(1.0), 16_000)
        (tmp_path / "set" / f"{name}.txt").write_text("QUICK FOX")
    assert main(["prepare", str(tmp_path / "set"), "--out", str(tmp_path / "data"), "--set", "split=test"]) == 0
    (tmp_path / "set" / "gone.wav").unlink()
    cuts = tmp_path / "data" / "test_cuts.jsonl.gz"
    paths = {"SET": str(cuts), "WORDS": str(tmp_path / "words.txt")}
    command = ["evaluate", str(tmp_path / "model"), str(cuts), *(paths.get(flag, flag) for flag in flags), "--quiet"]
    command += ["--graph", str(tmp_path / "graph")] if "--tune-rejection" in flags else []
    assert main(command) == 1
    assert "gone.wav does not exist; put it back" in capsys.readouterr().err
    (tmp_path / "set" / "good.wav").unlink()
    assert main(command) == 1
    assert "gone.wav does not exist; put it back" in capsys.readouterr().err


def test_the_style_of_the_references_is_a_hint(caplog: pytest.LogCaptureFixture) -> None:
    for text, scoring, is_told in (("the fox", None, True), ("the fox", "words", False), ("THE FOX", None, False)):
        caplog.clear()
        tune(tiny_recognizer(), [ReferenceUtterance("a", noise(0.5), text)], {"blank_penalty": [0.0]}, scoring=scoring)
        assert ("2 of 2 reference words have lower case" in caplog.text) == is_told
