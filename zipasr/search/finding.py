"""Finding the hypotheses of a batch by one search or by several: `find_hypotheses` and `find_with_each`.

Encoded frames (N, T, D) at 25 Hz in, a ranked list of hypotheses for each utterance out. Searches that choose among the
hypotheses of others start with theirs, and several searches of one batch share what they have in common.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from zipasr.nn.encoded import Encoded
from zipasr.search.graph.token_graph import TokenGraph
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.joint import JointScores
from zipasr.search.prior import AnyPrior
from zipasr.search.rescoring import attention_scores, rescored
from zipasr.search.resumable import search_all
from zipasr.search.scorer import Scorer
from zipasr.search.search_config import GRAPH_METHODS, SearchConfig
from zipasr.search.strategy import NO_LANGUAGE_MODELS, LanguageModels, make_prior, make_search
from zipasr.search.two_pass import first_passes, joint_scorer


def find_hypotheses(
    scorer: Scorer,
    encoded: Encoded,
    config: SearchConfig,
    *,
    unk_id: int | None = None,
    language_models: LanguageModels = NO_LANGUAGE_MODELS,
    hotwords: HotwordGraph | None = None,
    graphs: Sequence[TokenGraph] = (),
) -> list[list[Hypothesis]]:
    """The n-best hypotheses of each utterance of a batch.

    Args:
        scorer: the model.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        config: a search that `resolve_search` has checked.
        unk_id: a label that the transducer searches skip like blank; None: the vocabulary has none.
        language_models: language models for the beam searches.
        hotwords: phrases to prefer.
        graphs: the graph of each utterance; empty: the search needs none.
    Returns:
        For each utterance 1 to `config.num_best` hypotheses, the best first.
    """
    (found,) = find_with_each(
        scorer, encoded, [config], unk_id=unk_id, language_models=language_models, hotwords=hotwords, graphs=graphs
    )
    return found


def find_with_each(
    scorer: Scorer,
    encoded: Encoded,
    configs: Iterable[SearchConfig],
    *,
    unk_id: int | None = None,
    language_models: LanguageModels = NO_LANGUAGE_MODELS,
    hotwords: HotwordGraph | None = None,
    graphs: Sequence[TokenGraph] = (),
) -> Iterator[list[list[Hypothesis]]]:
    """Yield `find_hypotheses` for each of several searches, which share hypotheses and the scores of other heads."""
    finder = _Finder(scorer, encoded, unk_id, language_models, hotwords, graphs)
    for config in configs:
        yield [hypotheses[: config.num_best] for hypotheses in finder.find(config)]


@dataclass
class _Finder:
    """Searches one batch in several ways; what two of them have in common is computed once."""

    scorer: Scorer
    encoded: Encoded
    unk_id: int | None
    language_models: LanguageModels
    hotwords: HotwordGraph | None
    graphs: Sequence[TokenGraph]
    _found: dict[SearchConfig, list[list[Hypothesis]]] = field(default_factory=dict)
    _attention: dict[SearchConfig, list[list[float]]] = field(default_factory=dict)
    _joint: dict[SearchConfig, list[JointScores]] = field(default_factory=dict)

    def find(self, config: SearchConfig) -> list[list[Hypothesis]]:
        """All hypotheses of a search, the best first for each utterance."""
        if config.method == "joint":
            return [scores.ranked(ctc_scale=config.ctc_scale) for scores in self._joint_scores(config)]
        if config.method != "attention_rescoring":
            return self._first(config)
        (key,) = first_passes(config)
        ranked = self._first(key)
        if key not in self._attention:
            self._attention[key] = attention_scores(self.scorer, self.encoded, ranked)
        return rescored(ranked, self._attention[key], scale=config.attention_scale)

    def _first(self, config: SearchConfig) -> list[list[Hypothesis]]:
        """The hypotheses of one head, before any rescoring by another."""
        key = config.reset(["num_best"])
        if key not in self._found:
            search = make_search(self.scorer, config, unk_id=self.unk_id, language_models=self.language_models)
            prior: Any = self.graphs if config.method in GRAPH_METHODS else self._prior(config)
            self._found[key] = search_all(search, self.encoded, prior)
        return self._found[key]

    def _joint_scores(self, config: SearchConfig) -> list[JointScores]:
        key = config.reset(["ctc_scale"])
        if key not in self._joint:
            by_transducer, by_ctc = map(self._first, first_passes(config))
            joint, prior = joint_scorer(self.scorer, config, unk_id=self.unk_id), self._prior(config)
            self._joint[key] = joint.score(
                self.encoded, by_transducer, by_ctc, prior=prior, is_best_enough=config.num_best == 1
            )
        return self._joint[key]

    def _prior(self, config: SearchConfig) -> AnyPrior | None:
        return make_prior(config, language_models=self.language_models, hotwords=self.hotwords)
