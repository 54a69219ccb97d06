"""`SearchConfig`: the choice and the settings of a search, checked."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from zipasr.errors import ConfigError
from zipasr.search.graph.graph_search import DEFAULT_BEAM_NATS, DEFAULT_MAX_STATES
from zipasr.search.graph.transducer_search import DEFAULT_MAX_CONTEXTS
from zipasr.search.hotwords import DEFAULT_BOOST

Method = Literal["auto", "beam", "greedy", "ctc_greedy", "ctc_beam", "joint", "attention_rescoring", "graph", "ctc_graph"]
METHODS: tuple[Method, ...] = get_args(Method)
GRAPH_METHODS: tuple[Method, ...] = ("graph", "ctc_graph")
"""The searches that need a graph."""
BEAM_METHODS: tuple[Method, ...] = ("beam", "ctc_beam", "joint", "attention_rescoring")
"""The searches with a beam, without those through graphs."""
UTTERANCE_METHODS: tuple[Method, ...] = ("joint", "attention_rescoring", *GRAPH_METHODS)
"""Those that know the best hypothesis only when an utterance is over, so that streams have partial ones before that."""
CTC_METHODS: tuple[Method, ...] = ("ctc_greedy", "ctc_beam", "attention_rescoring", "ctc_graph")
"""Those of the CTC head alone, or with an attention decoder."""
TRANSDUCER_METHODS: tuple[Method, ...] = ("beam", "greedy", "joint", "graph")
"""Those of the transducer head; `joint` needs the CTC head too."""
_USED_BY: dict[str, tuple[tuple[str, ...], str]] = {
    "num_best": ((*BEAM_METHODS, *GRAPH_METHODS), "a beam search"),
    "beam": ((*BEAM_METHODS, *GRAPH_METHODS), "a beam search"),
    "max_symbols_per_frame": (TRANSDUCER_METHODS, "beam or greedy"),
    "ngram_scale": (BEAM_METHODS, "a beam search"),
    "ctc_scale": (("joint",), "joint"),
    "attention_scale": (("attention_rescoring",), "attention_rescoring"),
    "graph_beam_nats": (GRAPH_METHODS, "a graph"),
    "max_states": (GRAPH_METHODS, "a graph"),
    "max_contexts": (("graph",), "a graph and the search graph"),
}
"""The searches that a setting has an effect on, and how a message names them."""
_OFF = {"num_best": 1, "ngram_scale": 0.0}
"""Values that ask for nothing, so that any search does what they say."""
MAX_BEAM = 1000
"""Time and memory grow with the beam; far smaller beams are as accurate."""
MAX_STATES = 1_000_000
"""Far more than a graph of hundreds of thousands of words needs."""
MAX_SYMBOLS_PER_FRAME = 100
"""Far more than speech has in 40 ms; the bound stops a model that never emits blank."""


_MAX_WEIGHT = 1e6
"""In nats, or a factor of nats: far beyond any useful weight, while scores still fit in float32."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Configuration of a search."""

    method: Method = "auto"
    """`beam` and `greedy` use the transducer head, `ctc_greedy` and `ctc_beam` the CTC head; `joint` lets both choose among
    the hypotheses of both beams, and `attention_rescoring` the attention decoder among those of `ctc_beam`. `auto` is the
    default of the model's folder, which training chooses on its dev set; without one it is `beam` with a transducer head,
    else `attention_rescoring` with an attention decoder (published results use these), else `ctc_greedy`. If hotwords, a
    language model or several alternatives need a beam, `auto` is the beam search of the same head. `graph` and `ctc_graph`
    allow only what a graph allows, by the transducer or the CTC head; with a graph, `auto` is the one of the same head."""
    beam: int = 4
    """Continuations that a beam search keeps, and hypotheses to choose from in rescoring. Of a search through a graph
    that is to find several hypotheses: those kept at each state."""
    num_best: int = 1
    """Size of the n-best list to return for an utterance, at most `beam`."""
    max_symbols_per_frame: int = 1
    """Tokens that `beam` and `greedy` may emit in a frame of 40 ms before they advance to the next. Published results use
    1; a model that has learned to emit tokens in bursts needs more, or words are missing."""
    ctc_scale: float = 0.3
    """Weight of the CTC head's log-probability in `joint`, where the transducer has weight 1; tune it on a dev set."""
    attention_scale: float = 1.0
    """Weight of the attention decoder's log-probability in rescoring, where CTC has weight 1; tune it on a dev set."""
    blank_penalty: float = 0.0
    """Subtracted from the score of blank; positive values delete fewer words."""
    temperature: float = 1.0
    """Divides the scores before they become probabilities; the greedy searches find the same tokens at any."""
    lm_scale: float = 0.3
    """Weight of a language model's log-probability (0.3 as published for shallow fusion); tune it on a dev set."""
    ngram_scale: float = 0.0
    """Weight of the n-gram model of the training texts that a model's folder may hold; 0: it is not used."""
    lodr_scale: float = -0.15
    """Weight of the n-gram that approximates the internal language model of the transducer, 0 or below. Published with a
    language model at 0.52 is -0.26; the default is in the same proportion."""
    hotword_boost: float = DEFAULT_BOOST
    """Nats for each token of a hotword without a boost of its own."""
    graph_beam_nats: float = DEFAULT_BEAM_NATS
    """Paths through a graph that are less probable than the best by more are dropped."""
    max_states: int = DEFAULT_MAX_STATES
    """States of a graph that stay after a frame."""
    max_contexts: int = DEFAULT_MAX_CONTEXTS
    """Label contexts that `graph` scores in a frame."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"the search must be one of {', '.join(METHODS)}, but is {self.method!r}")
        if self.beam < 1:
            raise ConfigError(f"beam must be at least 1, but is {self.beam}")
        if self.beam > MAX_BEAM:
            raise ConfigError(f"beam must be at most {MAX_BEAM}, but is {self.beam}; 4 to 16 is usual")
        if not 1 <= self.num_best <= self.beam:
            raise ConfigError(f"num_best must be from 1 to the beam, {self.beam}, but is {self.num_best}; widen the beam")
        self.check_used(filter(self._is_changed, _USED_BY))
        if self.max_symbols_per_frame < 1:
            raise ConfigError(f"max_symbols_per_frame must be at least 1, but is {self.max_symbols_per_frame}")
        if self.max_symbols_per_frame > MAX_SYMBOLS_PER_FRAME:
            raise ConfigError(
                f"max_symbols_per_frame must be at most {MAX_SYMBOLS_PER_FRAME}, but is {self.max_symbols_per_frame}"
            )
        for name in (
            "ctc_scale",
            "attention_scale",
            "blank_penalty",
            "temperature",
            "lm_scale",
            "ngram_scale",
            "lodr_scale",
            "hotword_boost",
        ):
            if _MAX_WEIGHT < abs(getattr(self, name)) < math.inf:
                raise ConfigError(f"{name} must be at most {_MAX_WEIGHT:g} in size, but is {getattr(self, name)}")
        if not 0 < self.attention_scale < math.inf:
            raise ConfigError(f"attention_scale must be positive, but is {self.attention_scale}; without it use ctc_beam")
        if not 0 < self.ctc_scale < math.inf:
            raise ConfigError(f"ctc_scale must be positive, but is {self.ctc_scale}; without it use beam")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be positive, but is {self.temperature}")
        if self.temperature < 1 / _MAX_WEIGHT:
            raise ConfigError(f"temperature must be at least {1 / _MAX_WEIGHT:g}, but is {self.temperature}")
        for name in ("lm_scale", "ngram_scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be 0 or more, but is {getattr(self, name)}")
        if not -math.inf < self.lodr_scale <= 0:
            raise ConfigError(f"lodr_scale must be 0 or below, since that model is subtracted, but is {self.lodr_scale}")
        if not math.isfinite(self.blank_penalty):
            raise ConfigError(f"blank_penalty must be a finite number, but is {self.blank_penalty}")
        if not 0 < self.graph_beam_nats < math.inf:
            raise ConfigError(f"graph_beam_nats must be above 0 and finite, but is {self.graph_beam_nats}; 5 to 20 is usual")
        for name in ("max_states", "max_contexts"):
            if not 1 <= getattr(self, name) <= MAX_STATES:
                raise ConfigError(f"{name} must be from 1 to {MAX_STATES}, but is {getattr(self, name)}")
        if not 0 < self.hotword_boost < math.inf:
            raise ConfigError(f"hotword_boost must be above 0 and finite, but is {self.hotword_boost}; 1 to 3 is usual")

    def check_used(self, names: Iterable[str]) -> None:
        """Raise ConfigError for a field among `names` that has no effect on the search, unless its value is "off"."""
        for name in names:
            if getattr(self, name) == _OFF.get(name):
                continue
            methods, shown = _USED_BY.get(name, ((self.method,), ""))
            if self.method not in ("auto", *methods):
                raise ConfigError(f"{name} has no effect on the search {self.method}; leave it out or use {shown}")

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
