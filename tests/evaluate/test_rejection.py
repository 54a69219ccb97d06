"""Reference: the threshold of rejection against all thresholds tried one by one. Contract: what is counted, and the verb."""

import itertools
import json
from pathlib import Path

import pytest
import soundfile

from tests.recognizer.phrase_graphs import ORDERS, phrase_graph
from tests.tiny_model import noise, save_tiny, tiny_asr_model, tiny_tokenizer
from zipasr.cli import main
from zipasr.errors import ConfigError, DataError
from zipasr.evaluate import ReferenceUtterance, TunedRejection, tune_rejection, without_long
from zipasr.evaluate.rejection import best_threshold
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.search.graph import load_graph, save_graph

GRAPH_BEAM = 1e4
"""Of random models no phrase is anywhere near probable."""


def recognizer(rejection: float | None = None) -> Recognizer:
    graph = phrase_graph(tiny_tokenizer(), rejection=rejection)
    search = SearchConfig(method="graph", graph_beam_nats=GRAPH_BEAM)
    return Recognizer(tiny_asr_model(), tiny_tokenizer(), search=search, graph=graph)


def utterances(texts: dict[int, str]) -> list[ReferenceUtterance]:
    return [ReferenceUtterance(str(seed), noise(1.5, seed), text) for seed, text in texts.items()]


def test_threshold_is_the_best_of_all() -> None:
    values = (0.0, 1.0, 2.0, 3.0)
    for right, false in itertools.product(itertools.combinations(values, 2), itertools.combinations(values, 3)):
        found = best_threshold(right, false, num_allowed=2, num_other=5)

        def gain(threshold: float, right: tuple[float, ...] = right, false: tuple[float, ...] = false) -> float:
            return sum(value <= threshold for value in right) / 2 - sum(value <= threshold for value in false) / 5

        assert gain(found) == pytest.approx(max(map(gain, (0.5, 1.5, 2.5, 3.5))))


def test_threshold_is_halfway_to_the_next_answer() -> None:
    assert best_threshold([0.0, 0.1], [0.5, 3.0], num_allowed=2, num_other=2) == pytest.approx(0.3)
    assert best_threshold([0.2], [0.1], num_allowed=1, num_other=9) == pytest.approx(0.7)


def test_counts_are_those_of_the_recognizer_with_the_threshold() -> None:
    texts = {seed: recognizer().transcribe(noise(1.5, seed)).text for seed in range(6)}
    assert set(texts.values()) <= set(ORDERS)
    allowed = utterances(texts | {2: "SOMETHING ELSE"})
    other = [*utterances(dict.fromkeys(range(6, 12), "")), ReferenceUtterance("x", None, "", "unreadable")]
    for before in (None, 0.0):  # a threshold from before does not matter
        tuned = tune_rejection(recognizer(before), allowed, other)
        strict = recognizer(tuned.threshold)
        answers = [strict.transcribe(utterance.samples).text for utterance in (*allowed, *other[:-1])]
        kept = sum(text == utterance.text for text, utterance in zip(answers, allowed, strict=False))
        assert tuned == TunedRejection(
            threshold=tuned.threshold,
            num_allowed=6,
            num_right=5,
            num_kept=kept,
            num_other=6,
            num_answered=6,
            num_false=sum(map(bool, answers[6:])),
        )


def test_what_leaves_nothing_to_tune_is_told() -> None:
    some = utterances({0: recognizer().transcribe(noise(1.5, 0)).text})
    with pytest.raises(DataError, match="there must be utterances of other speech, but none can be read"):
        tune_rejection(recognizer(), some, [])
    with pytest.raises(DataError, match="but 0 of 1 utterances are right and 1 of 1 others are answered"):
        tune_rejection(recognizer(), utterances({0: "NO ORDER"}), some)
    with pytest.raises(ConfigError, match="must have a graph for its rejection to be tuned"):
        tune_rejection(Recognizer(tiny_asr_model(), tiny_tokenizer()), some, some)


def test_long_recordings_have_no_threshold() -> None:
    texts = {seed: recognizer().transcribe(noise(1.5, seed)).text for seed in range(2)}
    long = ReferenceUtterance("long", noise(41.0), "")
    tuned = tune_rejection(recognizer(), utterances(texts), [*utterances({2: ""}), long])
    assert (tuned.num_allowed, tuned.num_other) == (2, 1)
    kept, left_out = without_long(recognizer(), [ReferenceUtterance("a", noise(40.0), "A"), long])
    assert kept.samples is not None and left_out.samples is None
    assert "at most 40 s long for a threshold to be tuned on it, but is 41.0 s; cut it" in left_out.problem


def test_verb_saves_the_threshold_in_the_folder_of_the_graph(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_tiny(tmp_path / "model")
    save_graph(tmp_path / "graph", phrase_graph(tiny_tokenizer()).graph, tiny_tokenizer())
    for name, seeds in (("allowed", (0, 1)), ("other", (2, 3))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            soundfile.write(tmp_path / name / f"{seed}.wav", noise(1.5, seed), 16_000)
            (tmp_path / name / f"{seed}.txt").write_text("LAZY DOG")
    options = ["--graph", str(tmp_path / "graph"), "--graph-beam-nats", str(GRAPH_BEAM)]
    said = ["transcribe", str(tmp_path / "model"), *(str(tmp_path / "allowed" / f"{seed}.wav") for seed in (0, 1)), *options]
    assert main([*said, "--json"]) == 0
    for seed, line in enumerate(capsys.readouterr().out.splitlines()):
        (tmp_path / "allowed" / f"{seed}.txt").write_text(json.loads(line)["text"])
    command = ["evaluate", str(tmp_path / "model"), str(tmp_path / "allowed"), "--tune-rejection", str(tmp_path / "other")]
    assert main([*command, *options, "--save", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["allowed"]["right"] == report["allowed"]["utterances"] == report["other"]["answered_without"] == 2
    assert load_graph(tmp_path / "graph", tiny_tokenizer()).settings == {"rejection": report["rejection"]}
    assert main([*command, *options]) == 0
    assert f"rejection above {report['rejection']:g} nats per token: " in capsys.readouterr().out
    for wrong, message in (
        ([], "--tune-rejection has no effect without --graph"),
        ([*options, "--tune"], "use them in separate commands"),
        ([*options, "--out", "results"], "use them in separate commands"),
    ):
        assert main([*command, *wrong]) in (1, 2)
        assert message in capsys.readouterr().err
