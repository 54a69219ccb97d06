"""Contract: for any value of a flag, the verb works or reports what is wrong, and never ends with a traceback."""

import argparse
import dataclasses
import itertools
import json
import subprocess
import types
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants  # noqa: F401  HF_HUB_OFFLINE is read here, before tests set it
import pytest
import soundfile

from tests.hub.published_layouts import icefall_folder, model_of, sentencepiece_model
from tests.recognizer.causal_models import KEYWORDS, pausing_model
from tests.tiny_model import noise, tiny_tokenizer
from tests.train.tones import minute_config, minute_model, write_tones
from zipasr import profile
from zipasr.cli import command, main
from zipasr.config import field_names, to_json
from zipasr.profile import Measured
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TrainConfig

WHOLE = ("-1", str(10**30), "0", "1", "7", "-" + str(10**30), "1.5", "nan", "", "x")
NUMBERS = ("nan", "1e308", "-1", "0", "0.5", "1e-320", "1e400", "-inf", "", "x")
TEXTS = ("甲\udcff", "x" * 5000, "FOLDER", "FILE/x", "FILE", "", " ", "-1", "MISSING", "/proc/none/x", "a=b", "a,b=1,,", "=")
NUM_QUICK = {WHOLE: 2, NUMBERS: 2, TEXTS: 4}
"""Number of odd values in the quick test."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, run, recordings with texts, cuts and a text; FOLDER and FILE have unrelated content."""
    folder = tmp_path_factory.mktemp("odd")
    write_tones(folder / "data", num_train=4, num_dev=2)
    tokenizer = Tokenizer.train(["LO MID HI UP DOWN"], kind="char", vocab_size=None)
    minute_model(vocab_size=tokenizer.vocab_size).save(folder / "model", tokenizer)
    icefall_folder(folder / "icefall", model_of(40), sentencepiece_model())
    (folder / "in").mkdir()
    for i in range(3):
        soundfile.write(folder / "in" / f"{i}.wav", noise(0.4, i), 16_000)
        (folder / "in" / f"{i}.txt").write_text("LO HI")
    (folder / "text.txt").write_text("LO HI\nUP DOWN\n" * 3)
    pausing_model().save(folder / "causal", tiny_tokenizer())
    (folder / "keywords.txt").write_text(f"{KEYWORDS[0]}\n", encoding="utf-8")
    (folder / "folder" / "inner").mkdir(parents=True)
    (folder / "file").write_bytes(bytes(range(256)))
    recipe = f"""
from zipasr.config import from_json
from zipasr.train.config import TrainConfig


def minute() -> TrainConfig:
    return from_json(TrainConfig, {to_json(minute_config(folder / "data", num_epochs=1))!r})
"""
    (folder / "recipe.py").write_text(recipe)
    (folder / "run").mkdir()
    (folder / "run" / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 1.0}\n' * 2)
    return folder


@pytest.fixture
def _no_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the server exit at once, fetch nothing from the hub, and fake the measured cost of models."""
    measured = Measured(device="cpu", batch=1, seconds=1.0, threads=1, time_s=1.0, min_s=1.0, max_s=1.0, peak_mib=1.0)
    done = subprocess.CompletedProcess([], 0, json.dumps(dataclasses.asdict(measured)), "")
    monkeypatch.setattr("zipasr.serve.serve", lambda *args, **options: True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(profile, "subprocess", types.SimpleNamespace(run=lambda *args, **options: done))
    monkeypatch.setattr(profile, "count_flops", lambda *args, **options: 1.0)


def bases(folder: Path, out: Path) -> dict[str, list[list[str]]]:
    """Valid commands of each verb, to which a flag is added."""
    wav, model, cuts = str(folder / "in" / "0.wav"), str(folder / "model"), str(folder / "data" / "dev_cuts.jsonl.gz")
    recipe, run = f"{folder / 'recipe.py'}:minute", str(folder / "run")
    lm = ["train-lm", str(folder / "text.txt"), "--model", model]
    return {
        "prepare": [["prepare", str(folder / "in"), "--out", str(out / "data")]],
        "train": [["train", recipe, "--out", str(out / "run"), "--check"]],
        "train-lm": [[*lm, "--out", str(out / "a.arpa"), "--kind", "ngram"], [*lm, "--out", str(out / "lm")]],
        "compile-graph": [
            ["compile-graph", model, str(folder / "text.txt"), "--out", str(out / "graph")],
            ["compile-graph", model, "--arpa", "FILE", "--out", str(out / "graph")],
        ],
        "average": [["average", run, "--out", str(out / "model"), "--last", "1"]],
        "plot": [["plot", run, "--out", str(out / "curves.png")]],
        "evaluate": [["evaluate", model, cuts], ["evaluate", model, cuts, "--calibration"]],
        "transcribe": [["transcribe", model, wav], ["transcribe", model, wav, "--json", "--lm", "FILE"]],
        "align": [["align", model, wav]],
        "profile": [["profile", "tiny"], ["profile", "--all"]],
        "diagnose": [["diagnose", model, cuts]],
        "export": [["export", model, "--out", str(out / "onnx")]],
        "spot": [["spot", str(folder / "causal"), wav, "--keywords", str(folder / "keywords.txt")]],
        "serve": [["serve", model]],
        "models": [["models"]],
        "pull": [["pull", "hf:me/mine"]],
        "inspect": [["inspect", model]],
        "push": [["push", model, "me/mine", "--dry-run"]],
        "convert": [["convert", str(folder / "icefall"), "--out", str(out / "converted")]],
    }


def odd_commands(verb: str, base: list[str], places: dict[str, str], *, is_quick: bool) -> Iterator[list[str]]:
    """A valid command with an odd value for each flag and each positional argument."""

    def few(values: tuple[str, ...]) -> Iterator[str]:
        for value in values[: NUM_QUICK[values] if is_quick else None]:
            yield places.get(value, value).replace("FILE", places["FILE"])

    subparsers = next(a for a in command._parser([verb])._actions if isinstance(a, argparse._SubParsersAction))
    for action in subparsers.choices[verb]._actions:
        if action.nargs == 0 or not action.option_strings:
            continue
        for value in few(WHOLE if action.type is int else NUMBERS if action.type is float else TEXTS):
            yield [*base, f"{action.option_strings[0]}={value}"]
    for i, value in itertools.product(range(1, len(base)), few(TEXTS)):
        if not base[i].startswith("--") and not base[i - 1].startswith("--"):
            yield [*base[:i], value, *base[i + 1 :]]


@pytest.mark.usefixtures("_no_long_work")
@pytest.mark.parametrize("is_quick", [True, pytest.param(False, marks=pytest.mark.slow(minutes=3))])
@pytest.mark.parametrize("verb", command.VERBS)
def test_no_argument_reaches_a_traceback(
    verb: str,
    is_quick: bool,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"FOLDER": str(folder / "folder"), "FILE": str(folder / "file"), "MISSING": str(folder / "missing")}
    bad = []
    for base in bases(folder, tmp_path / "out")[verb][: 1 if is_quick else None]:
        for argv in odd_commands(verb, [places.get(word, word) for word in base], places, is_quick=is_quick):
            code = main(argv)
            said = capsys.readouterr()
            is_silent = not said.err and not (verb == "inspect" and said.out)  # what it finds is its result, good or bad
            if code not in (0, 1, 2) or "Traceback" in said.err or (code and is_silent):
                bad.append(f"{argv[len(base) - 1 :] if argv[: len(base)] == base else argv}: {code} {said.err[-1500:]}")
    assert not bad, f"{len(bad)}\n" + "\n".join(bad)


@pytest.mark.parametrize("is_quick", [True, pytest.param(False, marks=pytest.mark.slow(minutes=3))])
def test_no_setting_reaches_a_traceback(
    is_quick: bool, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = ("-1", str(10**30), "nan", "0", "1e400", "", "x", "[]", "{}", "[1]", "0,0", "none", "true")
    base = ["train", f"{folder / 'recipe.py'}:minute", "--out", str(tmp_path), "--show"]
    bad = []
    for name, value in itertools.product(field_names(TrainConfig()), values[: 3 if is_quick else None]):
        code = main([*base, "--set", f"{name}={value}"])
        said = capsys.readouterr()
        if code not in (0, 2) or "Traceback" in said.err or bool(code) != bool(said.err):
            bad.append(f"{name}={value}: {code} {said.err[-500:]}")
    assert not bad, "\n".join(bad)
