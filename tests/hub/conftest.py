"""Fixtures for tests of foreign checkpoints: a small model, its tensors under icefall's names, and its vocabulary."""

from pathlib import Path

import pytest
from torch import Tensor

from tests.hub.icefall_models import icefall_state_dict, small_model
from tests.tiny_model import tiny_tokenizer
from zipasr.model import AsrModel


@pytest.fixture(scope="module")
def model() -> AsrModel:
    """A small model of our own."""
    return small_model()


@pytest.fixture(scope="module")
def state_dict(model: AsrModel) -> dict[str, Tensor]:
    """Its weights under icefall's names and in icefall's shapes."""
    return icefall_state_dict(model)


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    """The vocabulary of the model as icefall stores it."""
    path = tmp_path / "lang" / "bpe.model"
    path.parent.mkdir()
    path.write_bytes(tiny_tokenizer().to_bytes())
    return path
