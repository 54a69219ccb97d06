"""Contract: no verb fails because the console lacks a character; JSON stays valid; files are UTF-8; `--quiet` prints
nothing."""

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import soundfile

from tests.recognizer.causal_models import RECORDINGS, pausing_model
from tests.tiny_model import noise, tiny_tokenizer
from tests.train.tones import minute_config, minute_model
from zipasr.cli import command, main
from zipasr.cli.console import configure_streams, log_lines
from zipasr.config import to_json
from zipasr.progress import write_line
from zipasr.tokenizer import Tokenizer

NAME = "甲 naïve \U0001d11e"
LETTERS = "甲乙ÉŁ𝄞"
_RUN_ALL = """
import json, sys
from zipasr.cli import main
for argv in json.loads(sys.argv[1]):
    print("\\n==", argv[0], flush=True)
    print("\\n==", main(argv), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings with texts, a model that writes LETTERS, and a text, in a folder whose name small encodings lack."""
    folder = tmp_path_factory.mktemp("console") / NAME
    recordings = folder / "in"
    recordings.mkdir(parents=True)
    for i in range(6):
        soundfile.write(recordings / f"{i} {NAME}.wav", noise(1.0 + i / 10, i), 16_000)
        (recordings / f"{i} {NAME}.txt").write_text("甲 乙 É Ł 𝄞", encoding="utf-8")
    tokenizer = Tokenizer.train([LETTERS], kind="char", vocab_size=None)
    minute_model(vocab_size=tokenizer.vocab_size).save(folder / "model", tokenizer)
    (folder / "text.txt").write_text("\n".join([LETTERS, "甲乙", "É Ł"] * 10), encoding="utf-8")
    pausing_model().save(folder / "causal", tiny_tokenizer())
    soundfile.write(folder / "spoken.wav", RECORDINGS[0], 16_000, subtype="FLOAT")
    (folder / "keywords.txt").write_text("▁JU ▁JU #0.55 @甲\n", encoding="utf-8")
    config = to_json(minute_config(folder / "data"))
    recipe = f"""
from zipasr.config import from_json
from zipasr.train.config import TrainConfig


def minute() -> TrainConfig:
    return from_json(TrainConfig, {config!r})
"""
    (folder / "recipe.py").write_text(recipe, encoding="utf-8")
    return folder


def commands(folder: Path, out: Path) -> list[list[str]]:
    """A command of every verb with a character in its output that small encodings lack, and the required files."""
    wav, model, data, run = str(folder / "in" / f"0 {NAME}.wav"), str(folder / "model"), folder / "data", str(out / "run")
    dev = str(data / "dev_cuts.jsonl.gz")
    commands = [
        ["prepare", str(folder / "in"), "--out", str(data), "--set", "dev_share=0.3", "test_share=0.1"],
        ["train", f"{folder / 'recipe.py'}:minute", "--out", run, "--set", "num_epochs=1"],
        ["train-lm", str(folder / "text.txt"), "--model", model, "--out", str(out / "lm"), "--set", "num_epochs=1"],
        ["compile-graph", model, str(folder / "text.txt"), "--out", str(out / "graph")],
        ["average", run, "--last", "1", "--out", str(out / "averaged")],
        ["plot", run],
        ["evaluate", model, dev],
        ["transcribe", model, wav, "missing 甲.wav"],
        ["align", model, wav],
        ["spot", str(folder / "causal"), str(folder / "spoken.wav"), "--keywords", str(folder / "keywords.txt")],
        ["profile", model, "--no-time"],
        ["diagnose", model, dev],
        ["export", model, "--out", str(out / "exported")],
        ["serve", model, "--host", "甲"],
        ["models"],
        ["pull", "hf:me/甲"],
        ["inspect", model],
        ["convert", "甲", "--out", str(out / "converted")],
        ["push", model, "me/甲", "--dry-run"],
    ]
    assert [argv[0] for argv in commands] == list(command.VERBS)
    by_json = [["transcribe", model, wav, "--json"], ["align", model, wav, "--format", "json"]]
    return [*commands, *by_json, ["evaluate", "甲", "甲"]]


def test_no_verb_fails_for_lack_of_a_character(folder: Path, tmp_path: Path) -> None:
    argvs = commands(folder, tmp_path / NAME)
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", _RUN_ALL, json.dumps(argvs)], capture_output=True, env=env)
    error = done.stderr.decode("ascii")
    assert "Traceback" not in error, error
    assert done.returncode == 0, error
    said = [part.strip("\n") for part in done.stdout.decode("ascii").split("\n== ")[1:]]
    names, results = said[::2], said[1::2]
    assert [name.split("\n")[0] for name in names] == [argv[0] for argv in argvs]
    # A missing recording and a missing model both fail; the address does not exist; repositories have no such names.
    codes = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 2, 0, 1, 2, 0, 0, 1]
    assert [int(code.split("\n")[0]) for code in results] == codes, error
    assert r" \u7532 0." in names[argvs.index(next(argv for argv in argvs if argv[0] == "spot"))]
    by_json = [json.loads(name.split("\n", 1)[1]) for name in names[-3:-1]]
    assert [row["audio"] for row in by_json] == [argvs[-3][2]] * 2
    assert by_json[1]["text"] == "甲 乙 É Ł 𝄞"
    assert r"missing \u7532.wav" in error
    with (folder / "data" / "prepare.json").open(encoding="utf-8") as file:
        assert json.load(file)["report"]["num_utterances"]["train"] > 0


def test_file_names_that_are_not_utf8(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recordings, name, model = tmp_path / "in", os.fsdecode(b"caf\xe9"), str(folder / "model")
    recordings.mkdir()
    try:
        for i in range(3):
            soundfile.write(written := io.BytesIO(), noise(1.0 + i / 10, i), 16_000, format="WAV")
            (recordings / f"{i}{name}.wav").write_bytes(written.getvalue())
            (recordings / f"{i}{name}.txt").write_text("甲 乙", encoding="utf-8")
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    assert main(["prepare", str(recordings), "--out", str(tmp_path / "data"), "--set", "dev_share=0", "test_share=0"]) == 0
    results = tmp_path / "results.jsonl"
    cuts = str(tmp_path / "data" / "train_cuts.jsonl.gz")
    assert main(["evaluate", model, cuts, "--json", "--out", str(results)]) == 0
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    assert sorted(row["id"] for row in rows) == [f"{i}{name}" for i in range(3)]
    paths = sorted(map(str, recordings.glob("*.wav")))
    (tmp_path / "list").write_bytes(b"\n".join(map(os.fsencode, paths)))
    capsys.readouterr()
    assert main(["transcribe", model, "--list", str(tmp_path / "list"), "--json"]) == 0
    assert [json.loads(line)["audio"] for line in capsys.readouterr().out.splitlines()] == paths
    assert main(["transcribe", model, *paths, "--format", "json", "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_characters_that_a_stream_lacks_are_escaped_as_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    configure_streams()
    print(json.dumps({"text": NAME}, ensure_ascii=False), "naïve \udcff", flush=True)
    assert written.getvalue().decode("cp1252") == '{"text": "\\u7532 naïve \\ud834\\udd1e"} naïve \\udcff\n'
    assert json.loads(written.getvalue().decode("cp1252").partition("}")[0] + "}") == {"text": NAME}


def test_missing_or_replaced_streams_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)
    configure_streams()
    assert sys.stdout.getvalue() == ""


def log_and_warn() -> None:
    logging.getLogger("zipasr.some").warning("a warning")
    logging.getLogger("zipasr.some").error("an error")
    warnings.warn("from a library", stacklevel=1)
    write_line("a note")


def test_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="from a library"), log_lines(is_quiet=False):
        log_and_warn()
    assert capsys.readouterr().err == "zipasr: a warning\nzipasr: an error\na note\n"
    with log_lines(is_quiet=True):
        log_and_warn()
    assert capsys.readouterr().err == "zipasr: an error\n"


def test_quiet_writes_only_errors(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in commands(folder, tmp_path):
        if argv[0] not in ("prepare", "train", "train-lm", "evaluate", "transcribe"):
            continue
        is_missing = argv[-1] in ("missing 甲.wav", "甲")
        assert main([*argv, "--quiet"]) == int(is_missing)
        said = capsys.readouterr().err.splitlines()
        assert [line[:15] for line in said] == ["zipasr: error: "] * is_missing, said
