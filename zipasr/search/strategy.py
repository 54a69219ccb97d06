"""The choice and the settings of a search: `SearchConfig`, `resolve_search`, `make_search` and `find_hypotheses`.

Encoded frames (N, T, D) at 25 Hz in, a ranked list of hypotheses for each utterance out. Transcripts, evaluation and tuning
all resolve and check their searches here.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from zipasr.errors import ConfigError
from zipasr.nn.encoded import Encoded
from zipasr.search.beam import BeamSearch
from zipasr.search.greedy import CtcGreedySearch, GreedySearch
from zipasr.search.hotwords import DEFAULT_BOOST, HotwordGraph
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prefix import CtcPrefixSearch
from zipasr.search.prior import AnyPrior, WeightedPriors
from zipasr.search.rescoring import attention_scores, rescored
from zipasr.search.resumable import AnySearch, search_all
from zipasr.search.scorer import Scorer

Method = Literal["auto", "beam", "greedy", "ctc_greedy", "ctc_beam", "attention_rescoring"]
METHODS: tuple[Method, ...] = ("auto", "beam", "greedy", "ctc_greedy", "ctc_beam", "attention_rescoring")
_BEAM_METHODS = ("beam", "ctc_beam", "attention_rescoring")
_WITH_BEAM: dict[Method, Method] = {"greedy": "beam", "ctc_greedy": "ctc_beam"}
_CTC_METHODS = ("ctc_greedy", "ctc_beam", "attention_rescoring")
_TRANSDUCER_METHODS = ("beam", "greedy")
_USED_BY: dict[str, tuple[tuple[str, ...], str]] = {
    "num_best": (_BEAM_METHODS, "a beam search"),
    "beam": (_BEAM_METHODS, "a beam search"),
    "max_symbols_per_frame": (_TRANSDUCER_METHODS, "beam or greedy"),
    "attention_scale": (("attention_rescoring",), "attention_rescoring"),
}
"""The searches that a setting has an effect on, and how a message names them."""

RESCORING_MARGIN_NATS = 8.0
"""Hypotheses that CTC finds less probable than its best one by more are not rescored: the published lattice has none
(`output_beam`), and with a beam of 100 most of the time would go into them."""
MAX_BEAM = 1000
"""Time and memory grow with the beam; far smaller beams are as accurate."""
MAX_SYMBOLS_PER_FRAME = 100
"""Far more than speech has in 40 ms; the bound stops a model that never emits blank."""


_MAX_WEIGHT = 1e6
"""In nats, or a factor of nats: far beyond any useful weight, while scores still fit in float32."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Configuration of a search."""

    method: Method = "auto"
    """`beam` and `greedy` use the transducer head, `ctc_greedy` and `ctc_beam` the CTC head; `attention_rescoring` lets
    the attention decoder choose among the hypotheses of `ctc_beam`. `auto` is the default of the model's folder, which
    training chooses on its dev set; without one it is `beam` with a transducer head, else `attention_rescoring` with an
    attention decoder (published results use these), else `ctc_greedy`. If hotwords, a language model or several alternatives
    need a beam, `auto` is the beam search of the same head."""
    beam: int = 4
    """Continuations that a beam search keeps, and hypotheses to choose from in rescoring."""
    num_best: int = 1
    """Size of the n-best list to return for an utterance, at most `beam`."""
    max_symbols_per_frame: int = 1
    """Tokens that `beam` and `greedy` may emit in a frame of 40 ms before they advance to the next. Published results use
    1; a model that has learned to emit tokens in bursts needs more, or words are missing."""
    attention_scale: float = 1.0
    """Weight of the attention decoder's log-probability in rescoring, where CTC has weight 1; tune it on a dev set."""
    blank_penalty: float = 0.0
    """Subtracted from the score of blank; positive values delete fewer words."""
    temperature: float = 1.0
    """Divides the scores before they become probabilities; the greedy searches find the same tokens at any."""
    lm_scale: float = 0.3
    """Weight of a language model's log-probability (0.3 as published for shallow fusion); tune it on a dev set."""
    lodr_scale: float = -0.15
    """Weight of the n-gram that approximates the internal language model of the transducer, 0 or below. Published with a
    language model at 0.52 is -0.26; the default is in the same proportion."""
    hotword_boost: float = DEFAULT_BOOST
    """Nats for each token of a hotword without a boost of its own."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"the search must be one of {', '.join(METHODS)}, but is {self.method!r}")
        if self.beam < 1:
            raise ConfigError(f"beam must be at least 1, but is {self.beam}")
        if self.beam > MAX_BEAM:
            raise ConfigError(f"beam must be at most {MAX_BEAM}, but is {self.beam}; 4 to 16 is usual")
        if not 1 <= self.num_best <= self.beam:
            raise ConfigError(f"num_best must be from 1 to the beam, {self.beam}, but is {self.num_best}; widen the beam")
        for name, (methods, shown) in _USED_BY.items():
            if self._is_changed(name) and self.method not in ("auto", *methods):
                raise ConfigError(f"{name} has no effect on the search {self.method}; leave it out or use {shown}")
        if self.max_symbols_per_frame < 1:
            raise ConfigError(f"max_symbols_per_frame must be at least 1, but is {self.max_symbols_per_frame}")
        if self.max_symbols_per_frame > MAX_SYMBOLS_PER_FRAME:
            raise ConfigError(
                f"max_symbols_per_frame must be at most {MAX_SYMBOLS_PER_FRAME}, but is {self.max_symbols_per_frame}"
            )
        for name in ("attention_scale", "blank_penalty", "temperature", "lm_scale", "lodr_scale", "hotword_boost"):
            if _MAX_WEIGHT < abs(getattr(self, name)) < math.inf:
                raise ConfigError(f"{name} must be at most {_MAX_WEIGHT:g} in size, but is {getattr(self, name)}")
        if not 0 < self.attention_scale < math.inf:
            raise ConfigError(f"attention_scale must be positive, but is {self.attention_scale}; without it use ctc_beam")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be positive, but is {self.temperature}")
        if not 0 <= self.lm_scale < math.inf:
            raise ConfigError(f"lm_scale must be 0 or more, but is {self.lm_scale}")
        if not -math.inf < self.lodr_scale <= 0:
            raise ConfigError(f"lodr_scale must be 0 or below, since that model is subtracted, but is {self.lodr_scale}")
        if not math.isfinite(self.blank_penalty):
            raise ConfigError(f"blank_penalty must be a finite number, but is {self.blank_penalty}")
        if not 0 < self.hotword_boost < math.inf:
            raise ConfigError(f"hotword_boost must be above 0 and finite, but is {self.hotword_boost}; 1 to 3 is usual")

    def changes(self) -> dict[str, Any]:
        """The fields without their default value, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if self._is_changed(field.name)}

    def reset(self, names: Iterable[str]) -> "SearchConfig":
        """The same with these fields at their default value."""
        defaults: dict[str, Any] = {name: type(self).__dataclass_fields__[name].default for name in names}
        return dataclasses.replace(self, **defaults)

    def __str__(self) -> str:
        """The method, and the other fields without their default value."""
        others = {name: value for name, value in self.changes().items() if name != "method"}
        return ", ".join([self.method, *(f"{name} {value:g}" for name, value in others.items())])

    def _is_changed(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).__dataclass_fields__[name].default)


class LanguageModels(NamedTuple):
    """Language models of a search; their weights are in `SearchConfig`."""

    main: AnyPrior | None = None
    """The language model of shallow fusion."""
    subtracted: AnyPrior | None = None
    """The token n-gram that approximates the internal language model of the transducer (LODR)."""


NO_LANGUAGE_MODELS = LanguageModels()


def resolve_search(
    config: SearchConfig,
    scorer: Scorer,
    *,
    language_models: LanguageModels = NO_LANGUAGE_MODELS,
    has_hotwords: bool = False,
    default: SearchConfig | None = None,
    is_streaming: bool = False,
) -> SearchConfig:
    """The search with `auto` resolved, after a check that model, language models and hotwords fit it.

    Args:
        config: the requested search.
        scorer: the model.
        language_models: language models for the search.
        has_hotwords: whether there are phrases to prefer.
        default: the default search of the model's folder, which `auto` stands for; None: it has none.
        is_streaming: whether it is for streams. Where `auto` stands for attention_rescoring, which needs whole utterances,
            the result is then the search that finds the hypotheses to be rescored.
    Raises:
        ConfigError: the model lacks the head that the search needs, the search cannot use language models or hotwords, or
            attention_rescoring is requested for streams.
    """
    if is_streaming and config.method == "attention_rescoring":
        raise ConfigError(
            "the search attention_rescoring reads whole utterances, and a stream has none before its end; use ctc_beam, or "
            "transcribe the recording"
        )
    requested = config
    has_lm = language_models.main is not None
    if config.method == "auto":
        needs_beam = has_hotwords or has_lm or config.num_best > 1
        config = _resolved(config, scorer, default, needs_beam=needs_beam)
    method = config.method
    if method in _CTC_METHODS and not scorer.has_ctc:
        raise ConfigError(f"the search {method} needs a CTC head, but this model has none; use beam or greedy")
    if method == "attention_rescoring" and not scorer.has_attention:
        raise ConfigError("the search attention_rescoring needs an attention decoder, but this model has none; use ctc_beam")
    if method in _TRANSDUCER_METHODS and not scorer.has_transducer:
        raise ConfigError(f"the search {method} needs a transducer head, but this model has none; use ctc_greedy")
    if has_lm and method not in _BEAM_METHODS:
        raise ConfigError(f"the search {method} cannot use a language model; use beam or ctc_beam, or leave the model out")
    if language_models.subtracted is not None and not has_lm:
        raise ConfigError(
            "the n-gram of LODR is subtracted from a language model, but there is none; give one, or leave it out"
        )
    if has_hotwords and method == "ctc_greedy":
        raise ConfigError("the search ctc_greedy cannot use hotwords; use ctc_beam, or leave them out")
    if is_streaming and method == "attention_rescoring":
        return dataclasses.replace(config, method="ctc_beam", beam=requested.beam, attention_scale=requested.attention_scale)
    return config


def _resolved(config: SearchConfig, scorer: Scorer, default: SearchConfig | None, *, needs_beam: bool) -> SearchConfig:
    """The search for `auto`: the model's default with the requested fields, or the best that its heads allow."""
    requested = {name: value for name, value in config.changes().items() if name != "method"}
    if default is None or not _has_head(default.method, scorer):
        if scorer.has_transducer:
            return dataclasses.replace(config, method="beam")
        if scorer.has_attention:
            return dataclasses.replace(config, method="attention_rescoring")
        return dataclasses.replace(config, method="ctc_beam" if needs_beam else "ctc_greedy")
    method, kept = default.method, default.changes()
    if "max_symbols_per_frame" in requested and method in _CTC_METHODS and scorer.has_transducer:
        method, kept = "beam", {}  # settings tuned for one head do not suit the other
    elif "attention_scale" in requested and scorer.has_attention:
        method = "attention_rescoring"
    elif needs_beam or "beam" in requested:
        method = _WITH_BEAM.get(method, method)
    return SearchConfig(**{**kept, **requested, "method": method})


def _has_head(method: str, scorer: Scorer) -> bool:
    """Whether a model has the heads that a search needs."""
    if method in _CTC_METHODS:
        return scorer.has_ctc and (method != "attention_rescoring" or scorer.has_attention)
    return scorer.has_transducer


def make_search(scorer: Scorer, config: SearchConfig, *, unk_id: int | None = None) -> AnySearch:
    """The search that finds hypotheses, and for attention_rescoring those to be rescored.

    Args:
        scorer: the model.
        config: a search that `resolve_search` has checked.
        unk_id: a label that the transducer searches skip like blank; None: the vocabulary has none.
    """
    penalty, temperature, max_symbols = config.blank_penalty, config.temperature, config.max_symbols_per_frame
    search: CtcGreedySearch | GreedySearch | BeamSearch | CtcPrefixSearch
    if config.method == "ctc_greedy":
        search = CtcGreedySearch(scorer, blank_penalty=penalty, temperature=temperature)
    elif config.method == "greedy":
        search = GreedySearch(
            scorer, blank_penalty=penalty, temperature=temperature, unk_id=unk_id, max_symbols_per_frame=max_symbols
        )
    elif config.method == "beam":
        search = BeamSearch(
            scorer,
            beam=config.beam,
            blank_penalty=penalty,
            temperature=temperature,
            unk_id=unk_id,
            max_symbols_per_frame=max_symbols,
        )
    else:
        margin = RESCORING_MARGIN_NATS if config.method == "attention_rescoring" else math.inf
        search = CtcPrefixSearch(
            scorer, beam=config.beam, blank_penalty=penalty, temperature=temperature, margin_nats=margin
        )
    return cast(AnySearch, search)  # narrower than the interface: each search takes only its own states and priors


def make_prior(
    config: SearchConfig,
    *,
    language_models: LanguageModels = NO_LANGUAGE_MODELS,
    hotwords: HotwordGraph | None = None,
) -> AnyPrior | None:
    """The prior for `ResumableSearch.start` of a search: language models and hotwords, weighted; None without any."""
    if config.method not in _BEAM_METHODS:
        return hotwords
    parts: Sequence[tuple[AnyPrior | None, float]] = (
        (language_models.main, config.lm_scale),
        (language_models.subtracted, config.lodr_scale),
        (hotwords, 1.0),
    )
    used = [(prior, weight) for prior, weight in parts if prior is not None and weight != 0.0]
    return WeightedPriors(used) if used else None


def find_hypotheses(
    scorer: Scorer,
    encoded: Encoded,
    config: SearchConfig,
    *,
    unk_id: int | None = None,
    language_models: LanguageModels = NO_LANGUAGE_MODELS,
    hotwords: HotwordGraph | None = None,
) -> list[list[Hypothesis]]:
    """The n-best hypotheses of each utterance of a batch.

    Args:
        scorer: the model.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        config: a search that `resolve_search` has checked.
        unk_id: a label that the transducer searches skip like blank; None: the vocabulary has none.
        language_models: language models for the beam searches.
        hotwords: phrases to prefer.
    Returns:
        For each utterance 1 to `config.num_best` hypotheses, the best first.
    """
    (found,) = find_with_each(scorer, encoded, [config], unk_id=unk_id, language_models=language_models, hotwords=hotwords)
    return found


def find_with_each(
    scorer: Scorer,
    encoded: Encoded,
    configs: Iterable[SearchConfig],
    *,
    unk_id: int | None = None,
    language_models: LanguageModels = NO_LANGUAGE_MODELS,
    hotwords: HotwordGraph | None = None,
) -> Iterator[list[list[Hypothesis]]]:
    """Yield `find_hypotheses` for each of several searches; those that differ in `attention_scale` alone share the work."""
    shared: dict[SearchConfig, tuple[list[list[Hypothesis]], list[list[float]]]] = {}
    for config in configs:
        is_rescored, key = config.method == "attention_rescoring", config.reset(["attention_scale"])
        if key in shared:
            ranked, scores = shared[key]
        else:
            prior = make_prior(config, language_models=language_models, hotwords=hotwords)
            ranked = search_all(make_search(scorer, config, unk_id=unk_id), encoded, prior)
            scores = attention_scores(scorer, encoded, ranked) if is_rescored else []
        if is_rescored:
            shared[key] = ranked, scores
            ranked = rescored(ranked, scores, scale=config.attention_scale)
        yield [hypotheses[: config.num_best] for hypotheses in ranked]
