"""Priors in the searches. Reference: slow obvious code; all alignments. Law: weights, and one call per frame for all
hypotheses."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.slow_beam import obvious_beam_search
from tests.search.toy_prior import ToyPrior
from tests.search.toy_scorer import ToyScorer, toy_encoded
from zipasr.search.beam import modified_beam_search
from zipasr.search.prefix import ctc_prefix_search
from zipasr.search.prior import WeightedPriors


@settings(deadline=None, max_examples=40)
@given(
    lens=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    beam=st.integers(1, 9),
    max_symbols=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_beam_equals_obvious_code(lens: list[int], beam: int, max_symbols: int, seed: int) -> None:
    """The score of a label from the prior counts from the next pruning on, which may be in the same frame."""
    scorer, encoded, prior = ToyScorer(5, seed=seed), toy_encoded(lens, 5, seed=seed, blank_bonus=1.0), ToyPrior(5, seed)
    weighted = WeightedPriors([(prior, 0.7)])
    found = modified_beam_search(scorer, encoded, beam=beam, prior=weighted, max_symbols_per_frame=max_symbols)
    expected = obvious_beam_search(scorer, encoded, beam, prior_of=lambda ids: 0.7 * prior.of(ids), max_symbols=max_symbols)
    assert [[h.ids for h in ranked] for ranked in found] == [[h.ids for h in ranked] for ranked in expected]
    for ours, obvious in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert ours.score == pytest.approx(obvious.score, abs=1e-4)
        assert ours.frames == obvious.frames
    assert prior.num_calls <= max(lens) * max_symbols  # one call for all utterances and hypotheses of a sub-step


def collapsed(path: Sequence[int]) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != 0)


def test_a_wide_prefix_beam_finds_the_best_of_all_alignments() -> None:
    scorer, encoded, prior = ToyScorer(4), toy_encoded([5], 4, seed=2), ToyPrior(4, seed=7, end=-0.5)
    log_probs_TV = scorer.ctc_log_probs(encoded.frames)[0]
    totals: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(4), repeat=5):
        totals[collapsed(path)] += math.exp(sum(log_probs_TV[t, label].item() for t, label in enumerate(path)))
    scores = {ids: math.log(p) + 3.0 * (prior.of(ids) + prior.end * (ids[-1] if ids else 0)) for ids, p in totals.items()}
    (found,) = ctc_prefix_search(scorer, encoded, beam=1000, prior=WeightedPriors([(prior, 3.0)]))
    best = sorted(scores, key=lambda ids: -scores[ids])
    assert [h.ids for h in found[:10]] == best[:10]
    assert [h.score for h in found[:10]] == pytest.approx([scores[ids] for ids in best[:10]], abs=1e-4)
    assert found[0].ids != max(totals, key=lambda ids: totals[ids])  # the prior had an effect


def test_priors_add_up_with_their_weights() -> None:
    first, second = ToyPrior(4, seed=1, end=2.0), ToyPrior(4, seed=2, end=1.0)
    both = WeightedPriors([(first, 0.5), (second, -0.25)])
    states, scores = both.extend([both.start()], [3])
    assert scores == pytest.approx([0.5 * first.of((3,)) - 0.25 * second.of((3,))])
    assert both.finish(states) == pytest.approx([0.5 * 6.0 - 0.25 * 3.0])
    nothing = WeightedPriors([])
    assert nothing.extend([nothing.start()], [1]) == ([()], [0.0])
    assert nothing.finish([()]) == [0.0]


@pytest.mark.parametrize("search", [modified_beam_search, ctc_prefix_search])
def test_a_prior_of_weight_zero_changes_nothing(search) -> None:  # type: ignore[no-untyped-def]
    scorer, encoded = ToyScorer(5), toy_encoded([8, 3, 0], 5, seed=5)
    silent = WeightedPriors([(ToyPrior(5), 0.0)])
    assert search(scorer, encoded, prior=silent) == search(scorer, encoded)


@pytest.mark.parametrize("search", [modified_beam_search, ctc_prefix_search])
def test_batches_change_nothing(search) -> None:  # type: ignore[no-untyped-def]
    scorer, encoded, prior = ToyScorer(5), toy_encoded([8, 3, 6], 5, seed=6), WeightedPriors([(ToyPrior(5), 0.8)])
    together = search(scorer, encoded, prior=prior)
    for n, length in enumerate([8, 3, 6]):
        one = encoded._replace(frames=encoded.frames[n : n + 1, :length], lens=torch.tensor([length]))
        (alone,) = search(scorer, one, prior=prior)
        assert [h.ids for h in alone] == [h.ids for h in together[n]]
