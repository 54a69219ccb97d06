"""The table of published models: `known_models()`, and the settings that one of them needs, `known_settings(reference)`.

`known_models.json` holds the table with the source of every row. It says what authors published, not what was measured here.
"""

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zipasr.config import from_json, to_json
from zipasr.errors import ConfigError
from zipasr.hub.reference import PREFIX, parse_reference
from zipasr.hub.settings import ModelSettings

_TABLE = Path(__file__).with_name("known_models.json")
LANGUAGES = {
    "ar": "Arabic",
    "bn": "Bengali",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "id": "Indonesian",
    "ja": "Japanese",
    "ko": "Korean",
    "ru": "Russian",
    "th": "Thai",
    "vi": "Vietnamese",
    "yue": "Cantonese",
    "zh": "Chinese",
}
"""The languages of the table by their codes."""


@dataclass(frozen=True, kw_only=True)
class PublishedRate:
    """An error rate as its authors published it."""

    corpus: str
    metric: Literal["WER", "CER"]
    percent: float
    part: str = ""
    """Part of the corpus, such as test-clean."""


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A published model."""

    languages: tuple[str, ...]
    """Their codes."""
    is_streaming: bool
    """Whether it is for live audio."""
    heads: tuple[str, ...]
    """Of transducer, ctc, attention."""
    vocabulary: str
    family: str
    """Its layout: icefall, authors, soundsgoodai, onnx, vosk or keywords."""
    source: str
    """Where all this was read."""
    reference: str | None = None
    """What zipasr takes instead of a folder; None if it is not on the hub."""
    name: str = ""
    """Its name where it is not on the hub."""
    where: str = ""
    """Where it can be downloaded, if not from the hub."""
    params_m: float | None = None
    """Millions of parameters; None if not published."""
    size: str = ""
    """Size in words, where the number of parameters is not published."""
    error_rates: tuple[PublishedRate, ...] = ()
    search: str = ""
    """How the error rates were measured."""
    license: str | None = None
    """The license on its card; None if none was read."""
    license_note: str = ""
    note: str = ""
    refused: str = ""
    """Why zipasr cannot run it and what to take instead; empty if it can."""
    settings: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    """Settings that its files do not hold; they apply without the user's doing."""

    @property
    def title(self) -> str:
        """Its reference, or its name where it has none."""
        return self.reference or self.name

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON; of the settings, only those that have a value."""
        settings = {name: value for name, value in to_json(self.settings).items() if value is not None}
        return {**to_json(self), "settings": settings}


@functools.cache
def known_models() -> tuple[KnownModel, ...]:
    """Every row of the table, in its order."""
    rows = json.loads(_TABLE.read_text(encoding="utf-8"))["models"]
    return tuple(_row(row, where=f"{_TABLE.name}[{i}]") for i, row in enumerate(rows))


def _row(row: dict[str, Any], *, where: str) -> KnownModel:
    given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.pop("settings", {}).items()}
    settings = ModelSettings(**given)
    return dataclasses.replace(from_json(KnownModel, row, where=where), settings=settings)


def find_models(*, language: str | None = None, is_streaming: bool | None = None) -> list[KnownModel]:
    """The rows that fit; None fits all.

    Raises:
        ConfigError: no model of the table is for this language.
    """
    code = None if language is None else _code_of(language)
    return [
        model
        for model in known_models()
        if (code is None or code in model.languages) and (is_streaming is None or model.is_streaming == is_streaming)
    ]


def _code_of(language: str) -> str:
    wanted = language.strip().lower()
    for code, name in LANGUAGES.items():
        if wanted in (code, name.lower()):
            return code
    known = ", ".join(f"{code} ({name})" for code, name in LANGUAGES.items())
    raise ConfigError(f"the language must be one of {known}, but is {language!r}; models of others are not in the table")


def find_known(reference: str) -> KnownModel | None:
    """The row of a reference such as hf:OWNER/NAME, whatever its revision and subfolder; None if there is none.

    Raises:
        ConfigError: it is no reference.
    """
    title = f"{PREFIX}{parse_reference(reference).repository}".lower()
    return next((model for model in known_models() if (model.reference or "").lower() == title), None)


def known_settings(reference: str) -> ModelSettings:
    """The settings that a published model needs and its files do not hold; none for a model that is not in the table.

    Raises:
        ConfigError: it is no reference.
    """
    model = find_known(reference)
    return ModelSettings() if model is None else model.settings
