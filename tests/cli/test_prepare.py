"""Contract: the verb `prepare` parses its arguments, calls the library, and prints the result."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.prepare.published_corpora import write_gigaspeech
from zipasr.cli.command import _parser
from zipasr.errors import ConfigError, DataError


def run(*arguments: str) -> int:
    command = ["prepare", *arguments]
    args = _parser(command).parse_args(command)
    return args.run(args)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(10):
        soundfile.write(folder / f"{i}.wav", 0.1 * np.sin(np.arange(16_000 + 1_600 * i)), 16_000)
        (folder / f"{i}.txt").write_text(f"It's number {i}.")
    return folder


def test_the_table_goes_to_stdout_and_nothing_else_does(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(source), "--out", str(source.parent / "out")) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("split     utterances   minutes     words\ntrain              8")
    assert printed.err == ""


def test_json_for_machines(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.parent / "out"
    arguments = [
        "--text-style",
        "words",
        "--lang",
        "en",
        "--json",
        "--set",
        "limits.max_duration_s=1.55",
        "dev_share=0.3",
    ]
    assert run(str(source), "--out", str(out), *arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["out"] == str(out)
    assert report["num_utterances"] == {"train": 3, "dev": 2, "test": 1}
    assert report["num_rejected"] == {"too long": 4}
    saved = json.loads((out / "prepare.json").read_text())
    assert saved["config"]["text_style"] == "words"


def test_published_corpora_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = write_gigaspeech(tmp_path / "in"), tmp_path / "out"
    assert run(f"gigaspeech:{folder}", "--out", str(out), "--set", "subset=L") == 0
    assert capsys.readouterr().out.startswith("split     utterances   minutes     words\ntrain              4")
    assert sorted(path.name for path in out.glob("*.gz")) == [f"{n}_cuts.jsonl.gz" for n in ("dev", "test", "train")]
    saved = json.loads((out / "prepare.json").read_text())
    assert (saved["kind"], saved["config"]["subset"]) == ("gigaspeech", "L")
    with pytest.raises(ConfigError, match="subset of gigaspeech must be one of XS, S, M, L, XL, but is 'XXL'"):
        run(f"gigaspeech:{folder}", "--out", str(out), "--set", "subset=XXL")


def test_mistakes_raise_our_own_errors(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the source must be a folder of"):
        run(str(tmp_path / "missing"), "--out", str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="max_duration_s"):
        run(str(source), "--out", str(tmp_path / "out"), "--set", "limits.max_duration=3")


@pytest.mark.parametrize("arguments", [[], ["somewhere"], ["x", "--out", "y", "--text-style", "loud"]])
def test_misuse_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run(*arguments)
    assert exit_info.value.code == 2
    assert "usage:" in capsys.readouterr().err
