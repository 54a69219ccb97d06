"""Contract: `zipasr push` shows what it would send without a network, and sends it to the hub (a local stand-in)."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.standin import StandIn
from tests.tiny_model import save_tiny
from zipasr.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("push") / "model"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with StandIn(token="hf_writer") as hub:
        for name, value in {
            **hub.environment(tmp_path / "home"),
            "HF_TOKEN": "hf_writer",
            "ZIPASR_TOKEN_HOST": hub.url,
        }.items():
            monkeypatch.setenv(name, value)
        yield hub


def test_a_dry_run_prints_card_and_files_and_asks_nobody(
    model: str, hub: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", model, "me/mine", "--dry-run", "--language", "en", "--license", "mit"]) == 0
    said = capsys.readouterr()
    assert "library_name: zipasr" in said.out and "license: mit" in said.out
    assert all(name in said.out for name in ("model.safetensors", "config.json", "tokenizer.model", "README.md"))
    assert "--results" in said.err and "--training-data" in said.err and "--license" not in said.err
    assert not hub.requests


def test_the_model_arrives_with_its_card(
    model: str, hub: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "test.json"
    results.write_text('{"wer": 9.5, "cer": 3.25, "num_utterances": 4, "audio_s": 60, "search": {"method": "beam"}}')
    flags = ["--language", "en", "--license", "mit", "--training-data", "An hour of me.", "--results", f"My set={results}"]
    assert main(["push", model, "me/mine", "--private", "--message", "Try", *flags, "--json"]) == 0
    said = capsys.readouterr()
    answer = json.loads(said.out)
    files = hub.files("me/mine")
    assert answer["commit"] == hub.repositories["me/mine"].refs["main"] and hub.repositories["me/mine"].is_private
    assert answer["files"] == {name: len(content) for name, content in files.items() if name != ".gitattributes"}
    card = files["README.md"].decode()
    assert "An hour of me." in card and "| My set | 9.50 | 3.25 | 4 |" in card
    assert "does not state" not in said.err


def test_the_answer_says_how_to_load_it(model: str, hub: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", model, "me/mine"]) == 0
    assert "zipasr.load('hf:me/mine')" in capsys.readouterr().out


@pytest.mark.parametrize("repository", ["mine", "hf:me/mine", "me/mine@main", "me/mine#exp", "me/../mine", "a/b/c", " /x"])
def test_other_repositories_are_misuse(
    repository: str, model: str, hub: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", model, repository]) == 2
    assert "OWNER/NAME" in capsys.readouterr().err and not hub.requests


def test_a_missing_file_of_results_stops_before_anything_is_sent(model: str, hub: StandIn) -> None:
    assert main(["push", model, "me/mine", "--results", "missing.json"]) == 1
    assert not hub.requests
