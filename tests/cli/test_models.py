"""Contract: `zipasr models` prints what a person chooses a model by, and the same rows as JSON."""

import json

import pytest

from zipasr.cli import main
from zipasr.hub import find_models, known_models


def test_the_table_shows_every_model_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    output = capsys.readouterr().out
    lines = output.splitlines()
    for model in known_models():
        about = lines[lines.index(model.title) + 1]
        assert all(head in about for head in model.heads)
        assert model.params_m is None or f"{model.params_m:g} M" in about
        for rate in model.error_rates:
            assert f"{rate.percent:.2f}" in about and rate.corpus in about
        assert (model.license or "") in about
    assert max(map(len, lines)) <= 130


def test_settings_and_refusals_stand_below_their_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    output = capsys.readouterr().out
    below = output.split("hf:pkufool/icefall-asr-zipformer-wenetspeech-20230615\n")[1].split("\nhf:")[0]
    assert "blank_penalty 2" in below
    refused = output.split("hf:desh2608/icefall-asr-librispeech-zipformer-ctc\n")[1].split("\nhf:")[0]
    assert "cannot be run: Zipformer 1" in refused


@pytest.mark.parametrize(("flag", "is_streaming"), [("--streaming", True), ("--no-streaming", False)])
def test_filters_choose_the_rows_and_json_has_all_their_fields(
    flag: str, is_streaming: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--lang", "zh", flag, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    expected = find_models(language="zh", is_streaming=is_streaming)
    assert [(row["reference"], row["name"]) for row in rows] == [(model.reference, model.name) for model in expected]
    assert all(row["source"] and row["is_streaming"] is is_streaming and "zh" in row["languages"] for row in rows)


def test_no_model_is_said_and_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_models(language="bn", is_streaming=False) == []
    assert main(["models", "--lang", "bn", "--no-streaming"]) == 0
    said = capsys.readouterr()
    assert said.out == "" and "no model" in said.err
    assert main(["models", "--lang", "bn", "--no-streaming", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_an_unknown_language_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--lang", "xx"]) == 2
    assert "--lang" in capsys.readouterr().err
