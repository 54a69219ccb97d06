"""Contract: the shell commands in the README of an exported folder run in that folder with the real programs; the README
states what sherpa-onnx cannot do."""

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import soundfile

from tests.export.models import random_model
from tests.tiny_model import noise, tiny_tokenizer
from tests.watchdog import WATCHDOG_S
from zipasr.cli import main
from zipasr.export import ExportReport, export_model
from zipasr.export.readme import attention_limits, describe, sherpa_onnx_limits, vocabulary_limits
from zipasr.export.search import search_of_graphs
from zipasr.hub.description import describe_folder
from zipasr.recognizer import Recognizer
from zipasr.search.default_search import SEARCH_FILE, DefaultSearch, read_default_search
from zipasr.search.strategy import SearchConfig
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.model_file import table_model


def commands(folder: Path) -> list[str]:
    """Indented lines that call sherpa-onnx or zipasr."""
    text = (folder / "README.md").read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.startswith(("    sherpa-onnx", "    zipasr "))]


def assert_serves(line: str) -> None:
    """Check that a server command prints its URL, responds there, and stops after a signal."""
    process = subprocess.Popen([*shlex.split(line), "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/health", timeout=WATCHDOG_S) as answer:
            assert answer.status == 200
        process.terminate()
        assert process.wait(WATCHDOG_S) == 0
    finally:
        process.kill()


@pytest.mark.parametrize("fixture", ["report", "streaming"])
def test_commands_run(
    fixture: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    report: ExportReport = request.getfixturevalue(fixture)
    soundfile.write(tmp_path / "audio.wav", noise(2.0), 16_000, subtype="PCM_16")
    lines = commands(report.folder)
    assert len(lines) == (3 if fixture == "report" else 4)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(report.folder)
    for line in lines:
        if " serve " in line:
            assert_serves(line)
            continue
        line = line.replace("audio.wav", str(tmp_path / "audio.wav"))
        if line.startswith("zipasr "):  # in this process, since another one needs seconds to start
            assert main(shlex.split(line)[1:]) == 0
            assert capsys.readouterr().out.strip()
            continue
        done = subprocess.run(line, shell=True, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert '"text":' in done.stdout + done.stderr


def chosen(search: SearchConfig, **rates: float) -> DefaultSearch:
    """A default search with compared word error rates by method; `own` is the rate of the default itself."""
    others = [{"method": method, "wer": rate} for method, rate in rates.items() if method != "own"]
    own = [{**search.changes(), "wer": rates["own"]}] if "own" in rates else []
    return DefaultSearch(search=search, chosen_on="dev (55 utterances)", compared=(*others, *own))


SEVERAL = SearchConfig(method="greedy", max_symbols_per_frame=3)


@pytest.mark.parametrize("fixture", ["report", "streaming"])
def test_limits_name_what_sherpa_onnx_cannot_search(fixture: str, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(fixture).config
    limits = sherpa_onnx_limits(config, chosen(SEVERAL, greedy=33.9, beam=30.06, own=5.0))
    assert limits is not None
    assert "up to 3 tokens per frame" in limits
    assert "sherpa-onnx's transducer search emits at most one" in limits
    assert (
        "On dev (55 utterances), its transducer has a word error rate of greedy search 33.9 %, beam search 30.1 %" in limits
    )
    assert "the default has 5.0 %" in limits
    assert limits.endswith("Its CTC head has no such limit.")
    plain = describe(config)
    transducer, ctc = plain.index("the transducer"), plain.index("the CTC head")
    readme = describe(config, limits=limits)
    assert transducer < readme.index(f"\n\n{limits}\n\n") < readme.index("the CTC head", ctc)
    assert readme.replace(f"\n{limits}\n", "") == plain


def test_limits_name_the_ctc_head_where_the_transducer_is_worse(report: ExportReport) -> None:
    ctc = SearchConfig(method="ctc_beam")
    limits = sherpa_onnx_limits(report.config, chosen(ctc, greedy=33.9, beam=30.0, own=1.9))
    assert limits is not None and "use the CTC graph" in limits and "greedy search 33.9 %" in limits
    assert sherpa_onnx_limits(report.config, chosen(ctc, greedy=2.2, beam=2.0, own=1.9)) is None  # within a tenth


def test_limits_name_the_error_rate_without_the_second_head(report: ExportReport) -> None:
    joint = SearchConfig(method="joint", ctc_scale=1.0)
    limits = sherpa_onnx_limits(report.config, chosen(joint, greedy=28.7, beam=29.6, own=20.9))
    assert limits is not None and "with one head alone" in limits and "the default has 20.9 %" in limits
    assert sherpa_onnx_limits(report.config, chosen(joint, greedy=21.0, beam=22.0, own=20.9)) is None


def test_no_limits_for_what_sherpa_onnx_can_search(report: ExportReport) -> None:
    config = report.config
    assert sherpa_onnx_limits(config, chosen(SearchConfig(method="beam"), ctc_greedy=50.0, greedy=5.0, own=4.0)) is None
    without_ctc = dataclasses.replace(config, files=dataclasses.replace(config.files, ctc=None, ctc_head=None))
    limits = sherpa_onnx_limits(without_ctc, chosen(SEVERAL))
    assert limits is not None and limits.endswith("may delete words.")
    files = dataclasses.replace(config.files, encoder=None, decoder=None, joiner=None)
    only_ctc = dataclasses.replace(config, files=files)
    assert sherpa_onnx_limits(only_ctc, chosen(SEVERAL)) is None


def test_the_flag_that_the_limits_name(report: ExportReport, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    soundfile.write(tmp_path / "audio.wav", noise(2.0), 16_000, subtype="FLOAT")
    limits = sherpa_onnx_limits(report.config, chosen(SEVERAL))
    assert limits is not None
    flag, value = limits.split("`")[1].split()
    assert main(["transcribe", str(report.folder), str(tmp_path / "audio.wav")]) == 0
    plain = capsys.readouterr().out
    assert main(["transcribe", str(report.folder), str(tmp_path / "audio.wav"), flag, value]) == 0
    assert len(capsys.readouterr().out) > len(plain)


def test_export_copies_the_default_search_and_reports_the_limits(model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(model_dir, tmp_path / "model")
    default = chosen(SEVERAL, greedy=33.9, own=5.0)
    (tmp_path / "model" / SEARCH_FILE).write_text(json.dumps(default.to_dict()))
    report = export_model(tmp_path / "model", tmp_path / "exported")
    assert report.limits is not None
    assert report.limits in (report.folder / "README.md").read_text()
    assert report.table().splitlines()[-1] == f"note: {report.limits}"
    assert report.to_dict()["limits"] == report.limits
    assert read_default_search(report.folder) == default
    assert Recognizer.load(report.folder).search == SEVERAL


RESCORED = SearchConfig(method="attention_rescoring", beam=8, blank_penalty=0.5, attention_scale=2.0)
UNRESCORED = SearchConfig(method="ctc_beam", beam=8, blank_penalty=0.5)


def test_export_without_the_attention_decoder_keeps_what_was_tuned_and_says_so(tmp_path: Path) -> None:
    folder = random_model(has_transducer=False, has_attention=True).save(tmp_path / "model", tiny_tokenizer())
    (folder / SEARCH_FILE).write_text(json.dumps(chosen(RESCORED, own=5.0).to_dict()))
    report = export_model(folder, tmp_path / "exported")
    default = read_default_search(report.folder)
    assert default is not None and default.search == UNRESCORED == Recognizer.load(report.folder).search
    assert report.limits is not None and "attention decoder of this model is not exported" in report.limits
    assert str(RESCORED) in report.limits and str(UNRESCORED) in report.limits
    assert report.limits in (report.folder / "README.md").read_text()
    assert describe_folder(report.folder).search == str(UNRESCORED)


def test_the_best_compared_search_replaces_that_of_the_attention_decoder(report: ExportReport) -> None:
    beam = SearchConfig(method="beam", beam=8)
    compared = ({**beam.changes(), "wer": 6.04}, {**RESCORED.changes(), "wer": 5.0})
    default = DefaultSearch(search=RESCORED, chosen_on="dev (55 utterances)", compared=compared)
    graphs = search_of_graphs(default)
    assert graphs is not None and (graphs.search, graphs.compared) == (beam, compared)
    assert attention_limits(report.config, default).endswith(
        "On dev (55 utterances), the word error rate is 6.0 % instead of 5.0 %."
    )
    assert search_of_graphs(chosen(SEVERAL)) == chosen(SEVERAL) and search_of_graphs(None) is None


def test_limits_of_an_attention_decoder_that_the_default_search_does_not_need(report: ExportReport) -> None:
    plain = "The attention decoder of this model is not exported."
    assert attention_limits(report.config, None) == attention_limits(report.config, chosen(SEVERAL)) == plain
    files = dataclasses.replace(report.config.files, encoder=None, decoder=None, joiner=None)
    assert "ctc_greedy" in attention_limits(dataclasses.replace(report.config, files=files), None)


def test_limits_of_vocabularies_are_those_of_the_heads() -> None:
    odd = Tokenizer.from_bytes(table_model(["a", "<unk>", "<blk>"]))
    assert "takes id 0 for the blank" in str(vocabulary_limits(odd))
    assert vocabulary_limits(odd, has_transducer=False) is None
