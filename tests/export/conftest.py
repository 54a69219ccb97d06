"""Exported folders that all tests of export share: those of a noncausal and of a causal model with both heads."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.export.models import causal_model, random_model
from tests.export.traces import traced_once
from tests.tiny_model import tiny_tokenizer
from zipasr.export import ExportReport, export_model


@pytest.fixture(scope="session", autouse=True)
def _traced_once() -> Iterator[None]:
    with traced_once():
        yield


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with both heads."""
    return random_model().save(tmp_path_factory.mktemp("models") / "model", tiny_tokenizer())


@pytest.fixture(scope="session")
def report(model_dir: Path) -> ExportReport:
    """The report of exporting the model."""
    return export_model(model_dir, model_dir.with_name("exported"))


@pytest.fixture(scope="session")
def causal_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a causal model with both heads."""
    return causal_model().save(tmp_path_factory.mktemp("causal") / "model", tiny_tokenizer())


@pytest.fixture(scope="session")
def streaming(causal_dir: Path) -> ExportReport:
    """The report of exporting the causal model with chunks of 320 ms."""
    return export_model(causal_dir, causal_dir.with_name("exported"), chunk_ms=320, left_context_ms=1280)
