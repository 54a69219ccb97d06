"""Tuning of search settings on a dev set: a grid of settings in, the error rates of every combination out.

The encoder dominates the cost and does not depend on search settings, so each batch is encoded once and then searched with
every setting. Weights of the attention decoder share the hypotheses and their scores.
"""

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from zipasr.errors import ConfigError, DataError
from zipasr.evaluate.compare import texts_by_each
from zipasr.evaluate.rates import ReferenceUtterance, readable_groups, rewriting
from zipasr.evaluate.scoring import AS_IS
from zipasr.evaluate.style import describe_style
from zipasr.nn.encoded import Encoded
from zipasr.recognizer import Recognizer
from zipasr.search.edits import ErrorRates, count_text_errors
from zipasr.search.graph.rejection import judged
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.rescoring import SCALES
from zipasr.search.search_config import BEAM_METHODS
from zipasr.search.strategy import SearchConfig
from zipasr.text import words_apart

TUNABLE = (
    "beam",
    "max_symbols_per_frame",
    "ctc_scale",
    "attention_scale",
    "blank_penalty",
    "temperature",
    "lm_scale",
    "ngram_scale",
    "lodr_scale",
)
"""Fields of `SearchConfig` that a grid may contain."""
_WHOLE = ("beam", "max_symbols_per_frame")
"""The fields of `TUNABLE` whose values are integers."""
MAX_SETTINGS = 500
"""Largest number of combinations; more are probably a mistake."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TunedSetting:
    """One combination of settings and its error rates."""

    values: dict[str, float]
    """The settings, by the name of the field."""
    errors: ErrorRates
    search: SearchConfig
    num_utterances: int

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON, rates in percent."""
        return {**self.values, "wer": round(self.errors.words.rate, 4), "cer": round(self.errors.characters.rate, 4)}

    def flags(self) -> str:
        """The command line flags for these settings."""
        return " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in self.values.items())


def default_grid(recognizer: Recognizer) -> dict[str, tuple[float, ...]]:
    """The grid to try by default for the search and the language models of a recognizer.

    It includes scale 0 for each language model, so that the table shows whether the model helps at all.
    """
    grid: dict[str, tuple[float, ...]] = {}
    if recognizer.engine.language_models.main is not None:
        grid["lm_scale"] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    if recognizer.engine.language_models.subtracted is not None:
        grid["lodr_scale"] = (0.0, -0.05, -0.1, -0.15, -0.2, -0.3)
    is_usable = recognizer.engine.language_models.own is not None and recognizer.search.method in BEAM_METHODS
    if recognizer.search.ngram_scale or (is_usable and "lm_scale" not in grid):  # a language model replaces it
        grid["ngram_scale"] = (0.0, 0.3, 0.5, 0.7, 1.0)
    if recognizer.search.method == "attention_rescoring":
        # All published ones, unless a language model multiplies the combinations.
        grid["attention_scale"] = (0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0) if grid else SCALES
    if recognizer.search.method == "joint":
        grid["ctc_scale"] = (0.1, 0.3, 0.5, 1.0, 2.0)
    return grid | {"blank_penalty": (0.0, 0.5, 1.0, 2.0)}


def parse_grid(assignments: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The grid of assignments `name=value,value,...`, one for each setting to tune.

    Raises:
        ConfigError: an assignment has another form, a name that cannot be tuned or is there twice, or a value that is not
            a number.
    """
    grid: dict[str, tuple[float, ...]] = {}
    for assignment in assignments:
        name, equals, values = assignment.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in TUNABLE:
            raise ConfigError(
                f"a setting to tune must be NAME=VALUE,VALUE,... with a name of {', '.join(TUNABLE)}, but is {assignment!r}"
            )
        if name in grid:
            raise ConfigError(f"{name} must be given once, with all values to try, but is given again: {assignment!r}")
        try:
            grid[name] = tuple(float(value) for value in values.split(","))
        except ValueError as error:
            raise ConfigError(f"the values of {name} must be numbers separated by commas, but are {values!r}") from error
    return grid


def tune(
    recognizer: Recognizer,
    utterances: Iterable[ReferenceUtterance],
    grid: Mapping[str, Sequence[float]],
    *,
    scoring: str | None = None,
) -> list[TunedSetting]:
    """Count the errors of every combination of settings.

    Args:
        recognizer: the model, its search, language models and hotwords.
        utterances: recordings with their text, of a dev set; never tune on a test set.
        grid: values to try, by the name of the field of `SearchConfig`.
        scoring: see `evaluate`.
    Returns:
        All combinations, sorted by word errors, then character errors, then in the order of the grid.
    Raises:
        ConfigError: a setting is out of range or has no effect, there are too many, or `scoring` is unknown.
        DataError: no utterance can be read.
    """
    rewrite, tokenizer = rewriting(scoring), recognizer.engine.tokenizer
    settings = _settings(recognizer, grid)
    find = partial(_find_with_each, recognizer, [search for _, search in settings])
    totals = [ErrorRates()] * len(settings)
    num_utterances = 0
    pairs: list[tuple[str, str]] = []
    for group in readable_groups(utterances, []):
        num_utterances += len(group)
        texts = texts_by_each(recognizer, [samples for _, samples, _ in group], find, len(settings))
        for (_, _, reference), found in zip(group, texts, strict=True):
            pairs.append((reference, found[0]))
            for i, text in enumerate(found):
                texts_apart = (words_apart(rewrite(text), tokenizer.word_joiner) for text in (reference, text))
                totals[i] = totals[i].plus(count_text_errors(*texts_apart, is_spaceless=tokenizer.is_spaceless))
    if not num_utterances:
        raise DataError("there must be utterances to tune on, but none can be read; check the cuts")
    hint = describe_style(pairs, tokenizer) if scoring in (None, AS_IS) else None
    if hint is not None:
        logger.warning("%s", hint)
    tuned = [
        TunedSetting(values=values, errors=errors, search=search, num_utterances=num_utterances)
        for (values, search), errors in zip(settings, totals, strict=True)
    ]
    return sorted(tuned, key=lambda setting: (setting.errors.words.total, setting.errors.characters.total))


def _settings(recognizer: Recognizer, grid: Mapping[str, Sequence[float]]) -> list[tuple[dict[str, float], SearchConfig]]:
    """Every combination, as numbers and as a search configuration, checked before the work starts."""
    unknown = [name for name in grid if name not in TUNABLE]
    if unknown:
        raise ConfigError(f"settings to tune must be of {', '.join(TUNABLE)}, but one is {unknown[0]!r}")
    models = recognizer.engine.language_models
    for name, model in (("lm_scale", models.main), ("lodr_scale", models.subtracted), ("ngram_scale", models.own)):
        if name in grid and model is None:
            raise ConfigError(f"{name} has no effect without its model; give one, or do not tune it")
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not grid or len(combinations) > MAX_SETTINGS:
        raise ConfigError(f"the grid must have 1 to {MAX_SETTINGS} combinations, but has {len(combinations)}")
    return [(values, _search(recognizer.search, values)) for values in combinations]


def _search(search: SearchConfig, values: Mapping[str, float]) -> SearchConfig:
    changed: dict[str, Any] = dict(values)
    for name in _WHOLE:
        if name in values:
            if not float(values[name]).is_integer():
                raise ConfigError(f"{name} must be a whole number, but is {values[name]:g}")
            changed[name] = int(values[name])
    return dataclasses.replace(search, **changed)


def _find_with_each(
    recognizer: Recognizer, searches: Sequence[SearchConfig], encoded: Encoded
) -> Iterator[list[list[Hypothesis]]]:
    """Yield the ranked hypotheses of a batch for one search after the other, with the recognizer's hotwords and graph."""
    hotwords = recognizer.hotword_graph()
    graphs = [] if recognizer.graph is None else [recognizer.graph.graph] * len(encoded.lens)
    for ranked in recognizer.engine.find_with_each(encoded, searches, hotwords=hotwords, graphs=graphs):
        yield ranked if recognizer.graph is None else [judged(one, recognizer.graph) for one in ranked]
