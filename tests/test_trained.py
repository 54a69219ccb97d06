"""Run: properties of a trained model that random weights cannot show, for the model of the quick start on prompts that it
was not trained on: hotwords help and do little harm, calibration helps, long recordings lose nothing, word times are right,
and sherpa-onnx gives the same texts."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import REPOSITORY
from tests.error_rate import wer
from tests.export.sherpa import transcribe_as_sherpa, transcribe_with_sherpa
from tests.onnx_runtime.icefall import export_offline
from tests.quickstart import DATA, RUN, ensure_quickstart
from zipasr import Hotword
from zipasr.errors import DataError
from zipasr.evaluate import ReferenceUtterance, calibrate, error_rates, evaluate, read_cuts
from zipasr.export import export_model
from zipasr.model import AsrModel, resolve_model_folder
from zipasr.prepare import PrepareConfig, prepare
from zipasr.recognizer import LongRecordingConfig, Recognizer, SearchConfig

ABSENT = ("ZIPFORMER", "ANNA MARIA", "WELLINGTON", "QUEENSLAND", "KATHERINE", "JONATHAN", "SAN FRANCISCO")
BOOSTS = {"beam": 1.5, "greedy": 1.0, "ctc_beam": 1.5}
"""Nats per token: the default, and less in a greedy search, which cannot take back a wrong token."""
MAX_HARM = 2.5
"""Percent by which the word error rate may rise in a beam search with hotwords that nobody says."""
MAX_START_ERROR_S = 0.02
"""Mean error of word starts relative to the level of the audio; measured 0.006 (docs/alignment.md)."""

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def utterances(request: pytest.FixtureRequest) -> list[ReferenceUtterance]:
    """Dev and test prompts. Runs the quick start if it has not run."""
    ensure_quickstart(request.config)
    return [utterance for part in ("dev", "test") for utterance in read_cuts(DATA / f"{part}_cuts.jsonl.gz")]


def texts_of(utterances: Sequence[ReferenceUtterance], method: str, hotwords: Sequence[str | Hotword] = ()) -> list[str]:
    recognizer = Recognizer.load(RUN, search=SearchConfig(method=method), hotwords=hotwords)  # type: ignore[arg-type]
    samples = [utterance.samples for utterance in utterances if utterance.samples is not None]
    return [transcript.text for transcript in recognizer.transcribe_many(samples)]


def num_found(utterances: Sequence[ReferenceUtterance], texts: Sequence[str], words: Sequence[str]) -> int:
    counts = ((Counter(u.text.split()), Counter(text.split())) for u, text in zip(utterances, texts, strict=True))
    return sum(min(said[word], found[word]) for said, found in counts for word in words)


@pytest.mark.parametrize("method", ["beam", "greedy", "ctc_beam"])
def test_hotwords_are_recognized_that_were_missed_without(method: str, utterances: list[ReferenceUtterance]) -> None:
    plain = texts_of(utterances, method)
    missed = sorted(
        {word for u, text in zip(utterances, plain, strict=True) for word in set(u.text.split()) - set(text.split())}
    )
    words = [word for word in missed if len(word) >= 5]
    total = sum(Counter(u.text.split())[word] for u in utterances for word in words)
    before = num_found(utterances, plain, words)
    with_them = texts_of(utterances, method, [Hotword(word, BOOSTS[method]) for word in words])
    after = num_found(utterances, with_them, words)
    print(f"{method}: of {total} occurrences of {len(words)} words {before} found without hotwords, {after} with them")
    assert after - before >= 0.25 * (total - before)
    assert wer(utterances, with_them) < wer(utterances, plain)


def test_hotwords_that_nobody_says_do_little_harm(utterances: list[ReferenceUtterance]) -> None:
    plain, with_them = texts_of(utterances, "beam"), texts_of(utterances, "beam", ABSENT)
    assert not any(name in text for name in ABSENT for text in with_them)
    assert wer(utterances, with_them) <= wer(utterances, plain) + MAX_HARM


@pytest.mark.parametrize("method", ["beam", "ctc_greedy"])
def test_calibrated_confidence_tells_more(method: str, utterances: list[ReferenceUtterance]) -> None:
    recognizer = Recognizer.load(RUN, search=SearchConfig(method=method))  # type: ignore[arg-type]
    recognizer.engine.calibrations.clear()
    report = calibrate(evaluate(recognizer, utterances).results)
    print({name: dataclasses.replace(q, curve=()) for name, q in (("raw", report.raw), ("calibrated", report.calibrated))})
    assert report.calibrated.normalized_cross_entropy > max(0.0, report.raw.normalized_cross_entropy)
    assert report.calibrated.calibration_error < report.raw.calibration_error


@pytest.mark.parametrize("use_vad", [True, False])
def test_a_long_recording_loses_and_doubles_no_words(use_vad: bool, utterances: list[ReferenceUtterance]) -> None:
    """Prompts of known text, joined with pauses and noise, give the same words as one by one."""
    one_by_one = texts_of(utterances, "beam")
    generator, parts = np.random.default_rng(0), []
    for utterance in utterances:
        assert utterance.samples is not None
        parts += [np.zeros(round(generator.uniform(0.3, 1.5) * 16_000), np.float32), utterance.samples]
    joined = np.concatenate(parts)
    joined += 1e-4 * generator.standard_normal(joined.size).astype(np.float32)
    long = LongRecordingConfig(max_piece_s=15.0, overlap_s=3.0, use_vad=use_vad)
    whole = Recognizer.load(RUN, search=SearchConfig(method="beam"), long_recordings=long).transcribe(joined)
    reference = " ".join(utterance.text for utterance in utterances)
    num_words, expected = len(reference.split()), error_rates([(reference, " ".join(one_by_one))]).words
    found = error_rates([(reference, whole.text)]).words
    print(f"vad {use_vad}: {num_words} words, {expected} one by one, {found} as a whole")
    assert abs(len(whole.words) - len(" ".join(one_by_one).split())) <= 0.03 * num_words
    assert found.rate <= expected.rate + (2.0 if use_vad else 4.0)


@pytest.mark.usefixtures("utterances")
def test_words_are_timed_where_they_are() -> None:
    script, cuts = REPOSITORY / "benchmarks" / "word_times.py", DATA / "dev_cuts.jsonl.gz"
    line = [sys.executable, script, RUN, cuts, "--json"]
    figures = json.loads(subprocess.run(line, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout)
    late_ms = figures["transducer beam, emission frames"]["starts"]["mean"]
    for name in ("transducer beam, word_times", "known text, word_times"):
        print(f"starts of words by {name}: {figures[name]['starts']}")
        assert figures[name]["starts"]["num"] > 20
        assert figures[name]["starts"]["mean"] <= 1000 * MAX_START_ERROR_S < late_ms


def test_a_long_recording_is_cut_by_its_text(utterances: list[ReferenceUtterance], tmp_path: Path) -> None:
    """Most of a recording is used with its own text, and none with the text of another."""
    test, gap = utterances[len(utterances) // 2 :], np.zeros(8_000, np.float32)
    recording = np.concatenate([part for utterance in test for part in (utterance.samples, gap) if part is not None])
    texts = [utterance.text for utterance in test]
    soundfile.write(tmp_path / "long.wav", recording, 16_000)
    config = PrepareConfig(dev_share=0.0, test_share=0.0, align_with=str(RUN))
    (tmp_path / "long.txt").write_text(" ".join(texts))
    prepare(tmp_path, tmp_path / "data", config)
    used = list(read_cuts(tmp_path / "data" / "train_cuts.jsonl.gz"))
    share = sum(len(u.text.split()) for u in used) / sum(len(text.split()) for text in texts)
    print(f"share of the words that are used: {share:.2f}")
    assert share >= 0.7
    assert all(len(u.samples) <= 15 * 16_000 for u in used if u.samples is not None)
    (tmp_path / "long.txt").write_text(" ".join(texts[::-1]))
    with pytest.raises(DataError, match=r"all \d+ are rejected; .* text does not match the recording"):
        prepare(tmp_path, tmp_path / "data", config)


@pytest.fixture(scope="module")
def exported(utterances: list[ReferenceUtterance], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as graphs for sherpa-onnx."""
    return export_model(RUN, tmp_path_factory.mktemp("export") / "out").folder


@pytest.mark.parametrize("method", ["greedy", "beam", "ctc_greedy"])
def test_sherpa_onnx_gives_the_same_texts(method: str, exported: Path, utterances: list[ReferenceUtterance]) -> None:
    """The exported graphs run in the real runtime on every prompt that the model was not trained on."""
    recordings = [utterance.samples for utterance in utterances if utterance.samples is not None]
    expected = transcribe_as_sherpa(RUN, recordings, method)
    found = transcribe_with_sherpa(exported, recordings, method)
    different = [(ours, theirs) for ours, theirs in zip(expected, found, strict=True) if ours != theirs]
    assert len(expected) == len(utterances) > 70
    assert not different


@pytest.fixture(scope="module")
def icefall(utterances: list[ReferenceUtterance], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model as graphs in icefall's form, by head."""
    model, tokenizer = AsrModel.load(resolve_model_folder(RUN))
    return export_offline(model, tokenizer, tmp_path_factory.mktemp("icefall"))


@pytest.mark.parametrize(("head", "method"), [("transducer", "greedy"), ("transducer", "beam"), ("ctc", "ctc_greedy")])
def test_graphs_of_other_projects_give_the_texts_of_sherpa_onnx(
    head: str, method: str, icefall: dict[str, Path], utterances: list[ReferenceUtterance]
) -> None:
    """Graphs in icefall's form run here and in sherpa-onnx, in batches of their own, on every prompt."""
    recordings = [utterance.samples for utterance in utterances if utterance.samples is not None]
    expected = transcribe_with_sherpa(icefall[head], recordings, method)
    recognizer = Recognizer.load(icefall[head], search=SearchConfig(method=method))  # type: ignore[arg-type]
    found = [transcript.text for transcript in recognizer.transcribe_many(recordings)]
    different = [(ours, theirs) for ours, theirs in zip(found, expected, strict=True) if ours != theirs]
    assert len(expected) == len(utterances) > 70
    assert not different
    assert wer(utterances, found) < 60
