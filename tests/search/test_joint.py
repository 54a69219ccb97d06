"""Joint search. Reference: brute force over all alignments of both heads, totals added by hand. Law: the batch changes
nothing, and where both heads agree nothing is computed."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.search.golden_model import golden_encoded, golden_model
from tests.search.toy_prior import ToyPrior
from tests.search.toy_scorer import Heads, ToyScorer, label_scores, toy_encoded
from zipasr.errors import ConfigError
from zipasr.nn.encoded import Encoded
from zipasr.search import finding
from zipasr.search.beam import modified_beam_search
from zipasr.search.finding import find_hypotheses, find_with_each
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.joint import JointScorer, JointScores
from zipasr.search.prefix import ctc_prefix_search
from zipasr.search.strategy import LanguageModels, SearchConfig, resolve_search

TEXTS: list[tuple[int, ...]] = [(), (1,), (2, 2), (1, 2, 1), (3, 1)]


def of(ids: tuple[int, ...], score: float = 0.0) -> Hypothesis:
    return Hypothesis(ids, tuple(range(len(ids))), (-0.1,) * len(ids), score)


def transducer_by_enumeration(
    scorer: ToyScorer, frames: Tensor, ids: tuple[int, ...], max_symbols: int, unk_id: int | None, **settings: float
) -> float:
    """Sum over every way to place the labels of `ids` in the frames, at most `max_symbols` in each."""
    silent = [0] if unk_id is None else [0, unk_id]
    total = 0.0
    for places in itertools.combinations_with_replacement(range(len(frames)), len(ids)):
        counts = [places.count(t) for t in range(len(frames))]
        if max(counts, default=0) > max_symbols:
            continue
        log_prob, said = 0.0, 0
        for frame, count in zip(frames, counts, strict=True):
            for _ in range(count):
                log_prob += float(label_scores(scorer, frame, ids[:said], **settings)[ids[said]])
                said += 1
            if count < max_symbols or max_symbols > len(ids):
                log_prob += float(label_scores(scorer, frame, ids[:said], **settings)[silent].logsumexp(0))
        total += math.exp(log_prob)
    return math.log(total) if total else -math.inf


def ctc_by_enumeration(log_probs_TV: Tensor, ids: tuple[int, ...]) -> float:
    total = 0.0
    for path in itertools.product(range(log_probs_TV.shape[1]), repeat=len(log_probs_TV)):
        if tuple(label for label, _ in itertools.groupby(path) if label) == ids:
            total += math.exp(sum(float(row[label]) for row, label in zip(log_probs_TV, path, strict=True)))
    return math.log(total) if total else -math.inf


@pytest.mark.parametrize("max_symbols", [1, 5])
@pytest.mark.parametrize("unk_id", [None, 3])
def test_scores_are_sums_over_all_alignments(max_symbols: int, unk_id: int | None) -> None:
    """One label a frame, or more than any of these texts has; with a penalty for blank and a temperature."""
    scorer, encoded = ToyScorer(4), toy_encoded([4, 3], 4, seed=5)
    settings = {"blank_penalty": 0.5, "temperature": 1.5}
    texts = [text for text in TEXTS if unk_id not in text]
    joint = JointScorer(scorer, unk_id=unk_id, max_symbols_per_frame=max_symbols, **settings)
    found = joint.score(encoded, [[of(text) for text in texts]] * 2, [[]] * 2)
    for frames, length, scores in zip(encoded.frames, encoded.lens.tolist(), found, strict=True):
        frames = frames[:length]
        assert [hypothesis.ids for hypothesis in scores.hypotheses] == texts
        assert scores.transducer == pytest.approx(
            [transducer_by_enumeration(scorer, frames, ids, max_symbols, unk_id, **settings) for ids in texts], abs=1e-5
        )
        logits = frames.log_softmax(-1) - torch.tensor([0.5, 0.0, 0.0, 0.0])
        log_probs = (logits / 1.5).log_softmax(-1)
        assert scores.ctc == pytest.approx([ctc_by_enumeration(log_probs, ids) for ids in texts], abs=1e-5)


def test_a_wide_beam_scores_its_own_hypotheses_alike() -> None:
    """With nothing pruned, the searches of both heads have summed the same alignments."""
    scorer, encoded = ToyScorer(3), toy_encoded([5], 3, seed=1)
    by_transducer = modified_beam_search(scorer, encoded, beam=1000)
    by_ctc = ctc_prefix_search(scorer, encoded, beam=1000)
    (scores,) = JointScorer(scorer).score(encoded, by_transducer, by_ctc)
    assert scores.transducer[: len(by_transducer[0])] == pytest.approx([h.score for h in by_transducer[0]], abs=1e-4)
    known = dict(zip((h.ids for h in scores.hypotheses), scores.ctc, strict=True))
    assert [known[h.ids] for h in by_ctc[0]] == pytest.approx([h.score for h in by_ctc[0]], abs=1e-4)
    best = find_hypotheses(scorer, encoded, SearchConfig(method="joint", beam=1000, ctc_scale=0.7))[0][0]
    totals = {
        ids: t + 0.7 * known[ids] for ids, t in zip((h.ids for h in scores.hypotheses), scores.transducer, strict=True)
    }
    assert best.ids == max(totals, key=lambda ids: totals[ids])
    assert best.score == pytest.approx(totals[best.ids])


def test_ranking_adds_weighted_scores() -> None:
    scores = JointScores([of((1,)), of((2,)), of(())], [-1.0, -2.0, -0.5], [-4.0, -1.0, -9.0])
    ranked = scores.ranked(ctc_scale=0.5)
    assert [(hypothesis.ids, hypothesis.score) for hypothesis in ranked] == [((2,), -2.5), ((1,), -3.0), ((), -5.0)]
    assert scores.ranked(ctc_scale=0.01)[0].ids == ()


def test_equal_texts_are_scored_once_with_the_times_of_the_transducer() -> None:
    scorer, encoded = ToyScorer(4), toy_encoded([4], 4, seed=0)
    late = of((1, 2))._replace(frames=(2, 3))
    (scores,) = JointScorer(scorer).score(encoded, [[of((3,)), late]], [[of((1, 2)), of((2,))]])
    assert [(hypothesis.ids, hypothesis.frames) for hypothesis in scores.hypotheses] == [
        ((3,), (0,)),
        ((1, 2), (2, 3)),
        ((2,), (0,)),
    ]


def test_nothing_is_computed_where_both_heads_agree_on_the_best() -> None:
    scorer, encoded = ToyScorer(4), toy_encoded([4, 4], 4, seed=0)
    ours = [[of((1,), -2.0), of((2,), -4.0)]] * 2
    theirs = [[of((1,), -3.0), of((), -5.0)], [of((2,), -1.0), of((1,), -2.0)]]
    agreed, disputed = JointScorer(scorer).score(encoded, ours, theirs, is_best_enough=True)
    assert agreed == JointScores([of((1,), -2.0)], [-2.0], [-3.0])
    assert [hypothesis.ids for hypothesis in disputed.hypotheses] == [(1,), (2,)]
    assert len(JointScorer(scorer).score(encoded, ours, theirs)[0].hypotheses) == 3
    before = scorer.num_joins
    JointScorer(scorer).score(encoded, ours, ours, is_best_enough=True)
    assert scorer.num_joins == before


class Mute(ToyScorer):
    """Its transducer is nearly sure that nobody speaks, where CTC is sure of a label in each frame."""

    def join(self, frames_MJ: Tensor, contexts_MJ: Tensor) -> Tensor:
        return super().join(0.1 * frames_MJ, 0.0 * contexts_MJ) + 3.0 * torch.nn.functional.one_hot(torch.tensor(0), 5)


def test_one_head_corrects_the_other() -> None:
    frames = torch.zeros(1, 4, 5)
    frames[0, torch.arange(4), torch.tensor([1, 2, 3, 4])] = 12.0
    encoded = Encoded(frames, torch.tensor([4]))
    found = {
        method: find_hypotheses(Mute(5), encoded, SearchConfig(method=method)) for method in ("beam", "ctc_beam", "joint")
    }
    assert found["beam"][0][0].ids == ()
    assert found["ctc_beam"][0][0].ids == found["joint"][0][0].ids == (1, 2, 3, 4)


def test_a_prior_counts_with_each_head() -> None:
    scorer, encoded, prior = ToyScorer(5), toy_encoded([5], 5, seed=3), ToyPrior(5, seed=2, end=0.3)
    texts = [(1, 2, 3), (4,), ()]
    hypotheses = [[of(ids) for ids in texts]]
    (alone,) = JointScorer(scorer).score(encoded, hypotheses, [[]])
    (found,) = JointScorer(scorer).score(encoded, hypotheses, [[]], prior=prior)
    extra = [prior.of(ids) + 0.3 * (ids[-1] if ids else 0) for ids in texts]
    assert found.transducer == pytest.approx([score + more for score, more in zip(alone.transducer, extra, strict=True)])
    assert found.ctc == pytest.approx([score + more for score, more in zip(alone.ctc, extra, strict=True)])
    search = SearchConfig(method="joint", num_best=4, lm_scale=0.5)
    (ranked,) = find_hypotheses(scorer, encoded, search, language_models=LanguageModels(prior))
    (plain,) = find_hypotheses(scorer, encoded, SearchConfig(method="joint", num_best=4))
    assert [hypothesis.ids for hypothesis in ranked] != [hypothesis.ids for hypothesis in plain]
    assert len(ranked) == 4


def test_results_depend_neither_on_the_batch_nor_on_its_order() -> None:
    model, _, tensors = golden_model()
    encoded = golden_encoded(tensors)
    search = SearchConfig(method="joint", num_best=4)
    together = find_hypotheses(model, encoded, search)
    order = [2, 0, 1]
    shuffled = find_hypotheses(model, Encoded(encoded.frames[order], encoded.lens[order]), search)
    assert [[h.ids for h in shuffled[order.index(n)]] for n in range(3)] == [[h.ids for h in ranked] for ranked in together]
    for n, length in enumerate(encoded.lens.tolist()):
        (alone,) = find_hypotheses(model, Encoded(encoded.frames[n : n + 1, :length], encoded.lens[n : n + 1]), search)
        assert [h.ids for h in alone] == [h.ids for h in together[n]]
        assert [h.score for h in alone] == pytest.approx([h.score for h in together[n]], rel=1e-5)


def test_a_best_per_label_need_not_be_the_best() -> None:
    """The transducer's beam ranks by score per label: its first may have a lower score than another."""
    scorer, encoded = ToyScorer(5), toy_encoded([6], 5, seed=1)
    first, higher = of((1, 2), -4.0), of((), -3.5)
    (found,) = JointScorer(scorer).score(encoded, [[first, higher]], [[first]], is_best_enough=True)
    assert [hypothesis.ids for hypothesis in found.hypotheses] == [(1, 2), ()]


def test_small_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, tensors = golden_model()
    encoded = golden_encoded(tensors)
    search = SearchConfig(method="joint", num_best=4)
    whole = find_hypotheses(model, encoded, search)
    monkeypatch.setattr("zipasr.search.joint._CHUNK_ELEMENTS", 1)
    for ranked, expected in zip(find_hypotheses(model, encoded, search), whole, strict=True):
        assert [h.ids for h in ranked] == [h.ids for h in expected]
        assert [h.score for h in ranked] == pytest.approx([h.score for h in expected], rel=1e-6)


def test_scales_share_the_hypotheses_of_the_other_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, tensors = golden_model()
    encoded = golden_encoded(tensors)
    searches = [SearchConfig(method=method) for method in ("beam", "ctc_beam")]
    searches += [SearchConfig(method="joint", ctc_scale=scale) for scale in (0.3, 1.0, 30.0)]
    alone = [find_hypotheses(model, encoded, search) for search in searches]
    calls = {"search_all": 0}

    def counted(*given: object, original: Callable[..., object]) -> object:
        calls["search_all"] += 1
        return original(*given)

    original = finding.search_all
    monkeypatch.setattr(finding, "search_all", lambda *given: counted(*given, original=original))
    assert list(find_with_each(model, encoded, searches)) == alone
    assert calls == {"search_all": 2}


def test_empty_utterances_and_lists() -> None:
    scorer = ToyScorer(5)
    encoded = toy_encoded([0, 3], 5, seed=0)
    empty, full = JointScorer(scorer).score(encoded, [[of(()), of((1,))], []], [[], []])
    assert empty.transducer == empty.ctc == [0.0, -math.inf]
    assert full == JointScores([], [], [])


def test_wrong_arguments_are_refused() -> None:
    encoded = toy_encoded([4], 5, seed=0)
    with pytest.raises(
        ValueError, match="hypotheses for each of 1 utterances, but there are 2 lists by the transducer and 1"
    ):
        JointScorer(ToyScorer(5)).score(encoded, [[], []], [[]])
    with pytest.raises(ValueError, match="temperature must be positive"):
        JointScorer(ToyScorer(5), temperature=0.0).score(encoded, [[of((1,))]], [[]])
    with pytest.raises(ConfigError, match=r"ctc_scale must be positive, but is 0\.0; without it use beam"):
        SearchConfig(method="joint", ctc_scale=0.0)
    with pytest.raises(ConfigError, match="ctc_scale has no effect on the search beam; leave it out or use joint"):
        SearchConfig(method="beam", ctc_scale=0.5)


def test_it_needs_both_heads() -> None:
    joint = SearchConfig(method="joint")
    assert resolve_search(joint, Heads()) == joint
    with pytest.raises(ConfigError, match="joint needs a CTC head beside the transducer"):
        resolve_search(joint, Heads(has_ctc=False))
    with pytest.raises(ConfigError, match="joint needs a transducer head"):
        resolve_search(joint, Heads(has_transducer=False))


def test_auto_stands_for_it_where_the_model_has_its_heads() -> None:
    default = SearchConfig(method="joint", ctc_scale=1.0, blank_penalty=0.5)
    assert resolve_search(SearchConfig(), Heads(), default=default) == default
    assert resolve_search(SearchConfig(), Heads(has_ctc=False), default=default).method == "beam"
    assert resolve_search(SearchConfig(ctc_scale=0.5), Heads()) == SearchConfig(method="joint", ctc_scale=0.5)
    assert resolve_search(SearchConfig(), Heads(), has_hotwords=True, default=default) == default


def test_a_weight_keeps_what_else_was_tuned_for_the_same_search() -> None:
    default = SearchConfig(method="joint", ctc_scale=1.0, blank_penalty=0.5, beam=8)
    found = resolve_search(SearchConfig(ctc_scale=0.5), Heads(), default=default)
    assert found == dataclasses.replace(default, ctc_scale=0.5)
    found = resolve_search(SearchConfig(ctc_scale=0.5), Heads(), default=SearchConfig(method="ctc_beam", blank_penalty=2.0))
    assert found == SearchConfig(method="joint", ctc_scale=0.5)


@pytest.mark.parametrize("default", [{"method": "joint", "ctc_scale": 1.0}, {"method": "beam", "max_symbols_per_frame": 5}])
def test_the_weight_of_the_attention_decoder_takes_nothing_from_the_transducer(default: dict[str, Any]) -> None:
    found = resolve_search(SearchConfig(attention_scale=2.0), Heads(has_attention=True), default=SearchConfig(**default))
    assert found == SearchConfig(method="attention_rescoring", attention_scale=2.0)
