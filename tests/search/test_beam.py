"""Modified beam search.

Golden: the original's results. Reference: obvious code; all alignments of tiny lattices. Law: batches change nothing.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.golden_model import golden_encoded, golden_model, ragged
from tests.search.test_greedy import assert_same
from tests.search.toy_scorer import ToyScorer, label_scores, toy_encoded
from zipasr.nn.encoded import Encoded
from zipasr.search.beam import modified_beam_search
from zipasr.search.greedy import greedy_search
from zipasr.search.hypothesis import Hypothesis


def obvious_beam_search(
    scorer: ToyScorer,
    encoded: Encoded,
    beam: int,
    unk_id: int | None = None,
    prior_of: Callable[[tuple[int, ...]], float] = lambda ids: 0.0,
    **settings: float,
) -> list[list[Hypothesis]]:
    """One utterance and one hypothesis at a time, with dictionaries of whole sequences."""
    found = []
    for frames, length in zip(encoded.frames, encoded.lens.tolist(), strict=True):
        live = {(): Hypothesis()}
        for t in range(length):
            pool = []
            for hypothesis in live.values():
                scores = label_scores(scorer, frames[t], hypothesis.ids, **settings).tolist()
                pool += [(hypothesis.score + step, hypothesis, label, step) for label, step in enumerate(scores)]
            live = {}
            for score, hypothesis, label, step in sorted(pool, key=lambda entry: -entry[0])[:beam]:
                if label in (0, unk_id):
                    new = hypothesis._replace(score=score)
                else:
                    ids, times = (*hypothesis.ids, label), (*hypothesis.frames, t)
                    score += prior_of(ids) - prior_of(hypothesis.ids)
                    new = Hypothesis(ids, times, (*hypothesis.log_probs, step), score)
                if new.ids in live:
                    old = live[new.ids]
                    new = old._replace(score=float(np.logaddexp(old.score, score)))
                live[new.ids] = new
        found.append(sorted(live.values(), key=lambda h: -h.score / (len(h.ids) + scorer.context_size)))
    return found


def all_sequences(scorer: ToyScorer, frames: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Log-probability of every token sequence: the sum over all of its alignments, one label or blank a frame."""
    totals: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(frames.shape[1]), repeat=len(frames)):
        ids, log_prob = (), 0.0
        for frame, label in zip(frames, path, strict=True):
            log_prob += label_scores(scorer, frame, ids)[label].item()
            ids = (*ids, label) if label else ids
        totals[ids] += math.exp(log_prob)
    return {ids: math.log(total) for ids, total in totals.items()}


@pytest.mark.parametrize("beam", [1, 4, 8])
def test_golden_tokens_and_times(beam: int) -> None:
    model, _, tensors = golden_model()
    found = [ranked[0] for ranked in modified_beam_search(model, golden_encoded(tensors), beam=beam)]
    assert [h.ids for h in found] == ragged(tensors, f"mbs{beam}")
    assert [h.frames for h in found] == ragged(tensors, f"mbs{beam}_ts")


def test_golden_temperature_and_blank_penalty() -> None:
    model, _, tensors = golden_model()
    found = modified_beam_search(model, golden_encoded(tensors), beam=4, temperature=1.5, blank_penalty=0.5)
    assert [ranked[0].ids for ranked in found] == ragged(tensors, "mbs4_temp1.5_bp0.5")


@settings(deadline=None, max_examples=40)
@given(
    lens=st.lists(st.integers(0, 10), min_size=1, max_size=4),
    beam=st.integers(1, 9),
    context_size=st.integers(1, 3),
    blank_bonus=st.sampled_from([0.0, 2.0]),
    penalty=st.sampled_from([0.0, 0.7]),
    temperature=st.sampled_from([1.0, 1.5]),
    unk_id=st.sampled_from([None, 2]),
    seed=st.integers(0, 1000),
)
def test_equals_obvious_code(
    lens: list[int],
    beam: int,
    context_size: int,
    blank_bonus: float,
    penalty: float,
    temperature: float,
    unk_id: int | None,
    seed: int,
) -> None:
    scorer = ToyScorer(5, context_size, seed)
    encoded = toy_encoded(lens, 5, seed=seed + 1, blank_bonus=blank_bonus)
    found = modified_beam_search(scorer, encoded, beam=beam, blank_penalty=penalty, temperature=temperature, unk_id=unk_id)
    expected = obvious_beam_search(scorer, encoded, beam, unk_id, blank_penalty=penalty, temperature=temperature)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("seed", range(5))
def test_wide_beam_sums_all_alignments(seed: int) -> None:
    scorer, encoded = ToyScorer(3, seed=seed), toy_encoded([5], 3, seed=seed + 10)
    truth = all_sequences(scorer, encoded.frames[0])
    (found,) = modified_beam_search(scorer, encoded, beam=3**5)
    assert {h.ids: h.score for h in found} == pytest.approx(truth, abs=1e-4)
    assert sum(math.exp(h.score) for h in found) == pytest.approx(1.0, abs=1e-4)
    assert found[0].ids == max(truth, key=lambda ids: truth[ids] / (len(ids) + scorer.context_size))


def test_growing_beam_finds_the_best_sequence() -> None:
    beams, num_lattices = (1, 2, 4, 16, 64), 15
    num_found = dict.fromkeys(beams, 0)
    for seed in range(num_lattices):
        scorer, encoded = ToyScorer(3, seed=seed), toy_encoded([4], 3, seed=seed + 100)
        truth = all_sequences(scorer, encoded.frames[0])
        best = max(truth, key=lambda ids: truth[ids] / (len(ids) + scorer.context_size))
        for beam in beams:
            num_found[beam] += modified_beam_search(scorer, encoded, beam=beam)[0][0].ids == best
    assert list(num_found.values()) == sorted(num_found.values())
    assert num_found[64] == num_lattices > num_found[1]


def test_beam_of_one_is_greedy() -> None:
    scorer, encoded = ToyScorer(6), toy_encoded([15, 9, 30], 6, seed=2, blank_bonus=2.0)
    assert_same([ranked[0] for ranked in modified_beam_search(scorer, encoded, beam=1)], greedy_search(scorer, encoded))


def test_batch_and_order_and_padding_change_nothing() -> None:
    lens = [7, 20, 0, 13, 1]
    scorer, encoded = ToyScorer(5), toy_encoded(lens, 5, seed=3, blank_bonus=2.0)
    together = modified_beam_search(scorer, encoded)
    for n, length in enumerate(lens):
        (alone,) = modified_beam_search(scorer, Encoded(encoded.frames[n : n + 1, :length], encoded.lens[n : n + 1]))
        assert_same(alone, together[n])
    order = [3, 0, 4, 2, 1]
    reordered = modified_beam_search(scorer, Encoded(encoded.frames[order], encoded.lens[order]))
    for n, ranked in zip(order, reordered, strict=True):
        assert_same(ranked, together[n])


def test_one_joiner_call_a_frame() -> None:
    scorer = ToyScorer(5)
    modified_beam_search(scorer, toy_encoded([12, 30, 5], 5, seed=0))
    assert scorer.num_joins == 30


def test_long_recordings_keep_their_precision() -> None:
    """Scores of several hundred nats are summed in double precision, like those of the obvious code."""
    scorer, encoded = ToyScorer(3), toy_encoded([800], 3, seed=5)
    (found,) = modified_beam_search(scorer, encoded)
    (expected,) = obvious_beam_search(scorer, encoded, beam=4)
    assert found[0].ids == expected[0].ids
    assert found[0].score == pytest.approx(expected[0].score, rel=1e-7)


def test_nothing_to_search() -> None:
    scorer = ToyScorer(4)
    assert modified_beam_search(scorer, Encoded(torch.zeros(0, 0, 4), torch.zeros(0, dtype=torch.int64))) == []
    silent = modified_beam_search(scorer, Encoded(torch.zeros(2, 0, 4), torch.zeros(2, dtype=torch.int64)))
    assert silent == [[Hypothesis()], [Hypothesis()]]


def test_wrong_arguments() -> None:
    encoded = toy_encoded([3], 4, seed=0)
    with pytest.raises(ValueError, match="beam must be at least 1, but is 0"):
        modified_beam_search(ToyScorer(4), encoded, beam=0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        modified_beam_search(ToyScorer(4), encoded, temperature=-1.0)
