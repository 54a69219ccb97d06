"""The search of each call: the requested one, resolved against the model, its default search and the hotwords."""

import dataclasses

from zipasr.recognizer.engine import Engine
from zipasr.search.hotwords import Hotword, HotwordGraph, encode_hotwords
from zipasr.search.strategy import SearchConfig, resolve_search, resolve_streaming_search

_MAX_KEPT_GRAPHS = 32


class SearchChoice:
    """Resolves the requested search of a recognizer, and keeps the graphs of the last few sets of hotwords."""

    def __init__(self, engine: Engine, requested: SearchConfig, default: SearchConfig | None) -> None:
        """The choice for a model; `default` is the search that `auto` stands for, see `resolve_search`."""
        self._engine, self._requested, self._default = engine, requested, default
        self._graphs: dict[tuple[str | Hotword, ...], HotwordGraph] = {}

    def hotword_graph(self, phrases: tuple[str | Hotword, ...]) -> HotwordGraph | None:
        """The graph of some phrases; None without any.

        Raises:
            ConfigError: a phrase cannot be written in the model's vocabulary, or a boost is out of range.
        """
        if not phrases:
            return None
        graph = self._graphs.get(phrases)
        if graph is None:
            graph = encode_hotwords(phrases, self._engine.tokenizer, default_boost=self._requested.hotword_boost)
            if len(self._graphs) >= _MAX_KEPT_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[phrases] = graph
        return graph

    def for_recordings(self, hotwords: HotwordGraph | None, *, num_best: int | None = None) -> SearchConfig:
        """The search for whole recordings; see `resolve_search`. With `num_best`, its beam is wide enough for that many."""
        requested = self._requested
        if num_best is not None:
            requested = dataclasses.replace(requested, num_best=num_best, beam=max(requested.beam, num_best))
        return resolve_search(
            requested,
            self._engine.scorer,
            language_models=self._engine.language_models,
            has_hotwords=hotwords is not None,
            default=self._default,
        )

    def for_streams(self, hotwords: HotwordGraph | None) -> SearchConfig:
        """The search for streams; see `resolve_streaming_search`."""
        return resolve_streaming_search(
            self._requested,
            self._engine.scorer,
            language_models=self._engine.language_models,
            has_hotwords=hotwords is not None,
            default=self._default,
        )
