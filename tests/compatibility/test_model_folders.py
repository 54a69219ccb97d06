"""Golden: model folders of earlier versions load, and give the scores and transcripts that they gave then (models.py)."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.compatibility.models import ENCODERS, FOLDER, SCORES_FILE, TRANSCRIPTS_FILE, scores_of, transcribed
from zipasr.model import AsrModel

VERSIONS = sorted(path.name for path in FOLDER.iterdir() if (path / TRANSCRIPTS_FILE).is_file())
MODELS = [(version, name) for version in VERSIONS for name in ENCODERS]
MAX_KB = 200


def test_the_first_promised_version_is_there_and_each_is_small() -> None:
    assert "0.2.0" in VERSIONS
    for version in VERSIONS:
        sizes = [path.stat().st_size for path in (FOLDER / version).rglob("*") if path.is_file()]
        assert sum(sizes) <= MAX_KB * 1000, version


@pytest.mark.parametrize(("version", "name"), MODELS)
def test_scores_are_what_they_were(version: str, name: str) -> None:
    model, _ = AsrModel.load(FOLDER / version / name)
    expected = safetensors.torch.load_file(FOLDER / version / f"{name}.{SCORES_FILE}")
    scores = scores_of(model)
    assert scores.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(scores[key], tensor, atol=1e-3, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(("version", "name"), MODELS)
def test_transcripts_are_what_they_were(version: str, name: str) -> None:
    expected = json.loads((FOLDER / version / TRANSCRIPTS_FILE).read_text(encoding="utf-8"))[name]
    found = transcribed(FOLDER / version / name)
    assert found["text"] == expected["text"]
    assert found["search"] == expected["search"]
    assert found["confidence"] == pytest.approx(expected["confidence"], abs=0.01)


def test_the_models_say_something_different() -> None:
    """Otherwise their transcripts would prove nothing."""
    for version in VERSIONS:
        expected = json.loads(Path(FOLDER / version / TRANSCRIPTS_FILE).read_text(encoding="utf-8"))
        texts = [found["text"] for found in expected.values()]
        assert all(texts)
        assert len(set(texts)) == len(texts)
