"""The choice and the settings of a search: `SearchConfig`, `resolve_search`, `make_search` and `make_prior`.

Transcripts, streams, evaluation and tuning all resolve and check their searches here; `finding` runs them.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, cast

from zipasr.errors import ConfigError
from zipasr.search.beam import BeamSearch
from zipasr.search.graph.ctc_search import CtcGraphSearch
from zipasr.search.graph.graph_search import GraphSearch
from zipasr.search.graph.passing import Limits
from zipasr.search.graph.token_graph import TokenGraph
from zipasr.search.graph.transducer_search import GraphBeamSearch
from zipasr.search.greedy import CtcGreedySearch, GreedySearch
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.prefix import CtcPrefixSearch
from zipasr.search.prior import AnyPrior, WeightedPriors
from zipasr.search.resumable import AnySearch
from zipasr.search.scorer import Scorer
from zipasr.search.search_config import (
    BEAM_METHODS,
    CTC_METHODS,
    GRAPH_METHODS,
    TRANSDUCER_METHODS,
    Method,
    SearchConfig,
)

__all__ = [
    "CTC_METHODS",
    "GRAPH_METHODS",
    "NO_LANGUAGE_MODELS",
    "TRANSDUCER_METHODS",
    "LanguageModels",
    "Method",
    "SearchConfig",
    "make_prior",
    "make_search",
    "resolve_search",
]

_WITH_BEAM: dict[Method, Method] = {"greedy": "beam", "ctc_greedy": "ctc_beam"}

RESCORING_MARGIN_NATS = 8.0
"""Hypotheses that CTC finds less probable than its best one by more are not rescored: the published lattice has none
(`output_beam`), and with a beam of 100 most of the time would go into them."""


class LanguageModels(NamedTuple):
    """Language models of a search; their weights are in `SearchConfig`."""

    main: AnyPrior | None = None
    """The language model of shallow fusion."""
    subtracted: AnyPrior | None = None
    """The token n-gram that approximates the internal language model of the transducer (LODR)."""
    own: AnyPrior | None = None
    """The n-gram of the model's training texts, for `SearchConfig.ngram_scale`."""


NO_LANGUAGE_MODELS = LanguageModels()


def resolve_search(
    config: SearchConfig,
    scorer: Scorer,
    *,
    language_models: LanguageModels = NO_LANGUAGE_MODELS,
    has_hotwords: bool = False,
    graph: TokenGraph | None = None,
    default: SearchConfig | None = None,
    explicit: Collection[str] = (),
) -> SearchConfig:
    """The search with `auto` resolved, after a check that model, language models and hotwords fit it.

    Args:
        config: the requested search.
        scorer: the model.
        language_models: language models for the search.
        has_hotwords: whether there are phrases to prefer.
        graph: the graph of the utterance; None: anything may be said.
        default: the default search of the model's folder, which `auto` stands for; None: it has none.
        explicit: fields of `config` that are requested although they have their default value.
    Raises:
        ConfigError: the model lacks a head that the search needs, or the search cannot use language models, hotwords or a
            graph, or lacks one.
    """
    has_lm = language_models.main is not None
    requested = {name: getattr(config, name) for name in {*config.changes(), *explicit} - {"method"}}
    if config.method == "auto" and graph is not None:
        config = _resolved_with_graph(requested, scorer, default, needs_ctc=graph.has_ctc_topology)
    elif config.method == "auto":
        needs_beam = has_hotwords or has_lm or config.num_best > 1 or config.ngram_scale > 0 or "beam" in requested
        if default is not None and (has_lm or language_models.own is None):  # the n-gram is replaced or missing
            default = default.reset(["ngram_scale"])
        config = _resolved(requested, scorer, default, needs_beam=needs_beam)
    config.check_used(requested)
    method = config.method
    if method in CTC_METHODS and not scorer.has_ctc:
        raise ConfigError(f"the search {method} needs a CTC head, but this model has none; use beam or greedy")
    if method == "attention_rescoring" and not scorer.has_attention:
        raise ConfigError("the search attention_rescoring needs an attention decoder, but this model has none; use ctc_beam")
    if method in TRANSDUCER_METHODS and not scorer.has_transducer:
        raise ConfigError(f"the search {method} needs a transducer head, but this model has none; use ctc_greedy")
    if method == "joint" and not scorer.has_ctc:
        raise ConfigError("the search joint needs a CTC head beside the transducer, but this model has none; use beam")
    _check_graph(config, graph, has_lm=has_lm, has_hotwords=has_hotwords)
    if has_lm and method not in (*BEAM_METHODS, *GRAPH_METHODS):
        raise ConfigError(f"the search {method} cannot use a language model; use beam or ctc_beam, or leave the model out")
    if config.ngram_scale > 0 and language_models.own is None:
        raise ConfigError(
            "ngram_scale is the weight of the n-gram of the training texts, but the model has none; leave it out, or give a "
            "language model"
        )
    if language_models.subtracted is not None and not has_lm:
        raise ConfigError(
            "the n-gram of LODR is subtracted from a language model, but there is none; give one, or leave it out"
        )
    if has_hotwords and method == "ctc_greedy":
        raise ConfigError("the search ctc_greedy cannot use hotwords; use ctc_beam, or leave them out")
    return config


def _check_graph(config: SearchConfig, graph: TokenGraph | None, *, has_lm: bool, has_hotwords: bool) -> None:
    """Raise ConfigError for a search that does not go with its graph, or with its absence."""
    method = config.method
    if graph is not None and method not in GRAPH_METHODS:
        raise ConfigError(
            f"the search {method} cannot use a graph; use auto, graph (transducer head) or ctc_graph (CTC head), or leave "
            "the graph out"
        )
    if graph is None and method in GRAPH_METHODS:
        raise ConfigError(f"the search {method} needs a graph, but there is none; give one with --graph, or use auto")
    if graph is None:
        return
    if method == "graph" and graph.has_ctc_topology:
        raise ConfigError(
            "the search graph needs a graph over tokens, but this one is for CTC (H, HL or HLG); use ctc_graph"
        )
    if has_hotwords:
        raise ConfigError("a graph allows only its own phrases, so hotwords have no effect; leave them or the graph out")
    if "beam" in config.changes() and config.num_best == 1 and not has_lm:
        raise ConfigError(
            "beam has no effect on a search through a graph for the best hypothesis alone; use graph_beam_nats, or num_best"
        )


def _resolved_with_graph(
    requested: dict[str, Any], scorer: Scorer, default: SearchConfig | None, *, needs_ctc: bool
) -> SearchConfig:
    """The search through a graph for `auto`: by the head of the model's default, or by the transducer if there is one."""
    known = default if default is not None and _has_head(default.method, scorer) else None
    has_ctc = known.method in CTC_METHODS if known is not None else not scorer.has_transducer
    if scorer.has_transducer and {"max_symbols_per_frame", "max_contexts"} & set(requested):
        has_ctc = False
    method: Method = "ctc_graph" if has_ctc or needs_ctc else "graph"
    kept: dict[str, Any] = {}
    if known is not None and (known.method in CTC_METHODS) == (method == "ctc_graph"):  # they were tuned for this head
        shared = ("max_symbols_per_frame", "blank_penalty", "temperature", "lm_scale", "lodr_scale")
        kept = {name: value for name, value in known.changes().items() if name in shared}
    return SearchConfig(**{**kept, **requested, "method": method})


def _resolved(requested: dict[str, Any], scorer: Scorer, default: SearchConfig | None, *, needs_beam: bool) -> SearchConfig:
    """The search for `auto`: the model's default with the requested fields, or the best that its heads allow."""
    if "ctc_scale" in requested and _has_head("joint", scorer):
        tuned = default.changes() if default is not None and default.method == "joint" else {}
        return _with(tuned, requested, "joint")
    if default is None or not _has_head(default.method, scorer):
        method_of_heads: Method = "ctc_beam" if needs_beam else "ctc_greedy"
        if scorer.has_transducer or scorer.has_attention:
            method_of_heads = "beam" if scorer.has_transducer else "attention_rescoring"
        return SearchConfig(**requested, method=method_of_heads)
    method, kept = default.method, default.changes()
    if "max_symbols_per_frame" in requested and method in CTC_METHODS and scorer.has_transducer:
        method, kept = "beam", {}  # settings tuned for one head do not suit the other
    elif "attention_scale" in requested and scorer.has_attention:
        method, kept = "attention_rescoring", kept if method in CTC_METHODS else {}
    elif needs_beam:
        method = _WITH_BEAM.get(method, method)
    return _with(kept, requested, method)


def _with(kept: dict[str, Any], requested: dict[str, Any], method: Method) -> SearchConfig:
    """A search with settings of a default one and requested ones, with a beam that is wide enough for its n-best list."""
    beam = max(kept.get("beam", 1), requested.get("num_best", 1))
    return SearchConfig(**{**kept, **({"beam": beam} if "beam" in kept else {}), **requested, "method": method})


def _has_head(method: str, scorer: Scorer) -> bool:
    """Whether a model has the heads that a search needs."""
    if method in CTC_METHODS:
        return scorer.has_ctc and (method != "attention_rescoring" or scorer.has_attention)
    return scorer.has_transducer and (method != "joint" or scorer.has_ctc)


def make_search(
    scorer: Scorer,
    config: SearchConfig,
    *,
    unk_id: int | None = None,
    language_models: LanguageModels = NO_LANGUAGE_MODELS,
) -> AnySearch:
    """The search that finds hypotheses, and for attention_rescoring those to be rescored.

    Args:
        scorer: the model.
        config: a search that `resolve_search` has checked.
        unk_id: a label that the transducer searches skip like blank; None: the vocabulary has none.
        language_models: those that a search through a graph rescores its hypotheses with; the others get them when they
            start, by `make_prior`.
    """
    penalty, temperature, max_symbols = config.blank_penalty, config.temperature, config.max_symbols_per_frame
    search: CtcGreedySearch | GreedySearch | BeamSearch | CtcPrefixSearch | GraphSearch
    if config.method in GRAPH_METHODS:
        search = _graph_search(scorer, config, unk_id, language_models)
    elif config.method == "ctc_greedy":
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


def _graph_search(scorer: Scorer, config: SearchConfig, unk_id: int | None, language_models: LanguageModels) -> GraphSearch:
    prior = _weighted(config, language_models, None)
    limits = Limits(
        config.graph_beam_nats, config.max_states, config.beam if config.num_best > 1 or prior is not None else 1
    )
    if config.method == "ctc_graph":
        return CtcGraphSearch(
            scorer, limits, blank_penalty=config.blank_penalty, temperature=config.temperature, prior=prior
        )
    return GraphBeamSearch(
        scorer,
        limits,
        max_contexts=config.max_contexts,
        blank_penalty=config.blank_penalty,
        temperature=config.temperature,
        unk_id=unk_id,
        max_symbols_per_frame=config.max_symbols_per_frame,
        prior=prior,
    )


def make_prior(
    config: SearchConfig,
    *,
    language_models: LanguageModels = NO_LANGUAGE_MODELS,
    hotwords: HotwordGraph | None = None,
) -> AnyPrior | None:
    """The prior for `ResumableSearch.start` of a search: language models and hotwords, weighted; None without any."""
    return _weighted(config, language_models, hotwords) if config.method in BEAM_METHODS else hotwords


def _weighted(config: SearchConfig, language_models: LanguageModels, hotwords: HotwordGraph | None) -> AnyPrior | None:
    parts: Sequence[tuple[AnyPrior | None, float]] = (
        (language_models.main, config.lm_scale),
        (language_models.own, config.ngram_scale),
        (language_models.subtracted, config.lodr_scale),
        (hotwords, 1.0),
    )
    used = [(prior, weight) for prior, weight in parts if prior is not None and weight != 0.0]
    return WeightedPriors(used) if used else None
