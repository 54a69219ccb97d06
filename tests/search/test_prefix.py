"""CTC prefix beam search. Golden: the original's tokens. Reference: brute force over all alignments; the likeliest
alignment by Viterbi. Law: padding, batch order, beam. Contract: empty utterances, settings, refused arguments."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.search.golden_model import golden_encoded, golden_model, ragged
from tests.search.toy_scorer import ToyScorer, toy_encoded
from zipasr.losses import ctc_loss
from zipasr.nn.encoded import Encoded
from zipasr.search.greedy import ctc_greedy_search
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prefix import CtcPrefixSearch, ctc_prefix_search
from zipasr.search.resumable import search_all


def collapse(alignment: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(alignment) if label != 0)


def brute_force(log_probs_TV: Tensor) -> dict[tuple[int, ...], float]:
    """Log-probability of every label sequence, summed over all alignments."""
    rows, totals = log_probs_TV.double().tolist(), defaultdict(float)
    for alignment in itertools.product(range(log_probs_TV.shape[1]), repeat=len(rows)):
        totals[collapse(alignment)] += math.exp(sum(row[label] for row, label in zip(rows, alignment, strict=True)))
    return {ids: math.log(total) for ids, total in totals.items()}


def assert_same(found: Hypothesis, expected: Hypothesis) -> None:
    assert (found.ids, found.frames) == (expected.ids, expected.frames)
    assert found.log_probs == pytest.approx(expected.log_probs, abs=1e-5)
    assert found.score == pytest.approx(expected.score, abs=1e-5)


def test_equals_golden() -> None:
    model, _, tensors = golden_model()
    found = ctc_prefix_search(model, golden_encoded(tensors), beam=4)
    assert [hypotheses[0].ids for hypotheses in found] == ragged(tensors, "ctc_prefix_beam4")


@pytest.mark.parametrize("seed", range(5))
def test_a_margin_leaves_out_only_what_is_far_less_probable(seed: int) -> None:
    """Of a model that is sure of most frames, which saves most of the work."""
    encoded, scorer = toy_encoded([9, 6], 20, seed=seed), ToyScorer(20)
    encoded = encoded._replace(frames=2.5 * encoded.frames)
    every = ctc_prefix_search(scorer, encoded, beam=100)
    search = CtcPrefixSearch(scorer, beam=100, margin_nats=8.0)
    for found, expected in zip(search_all(search, encoded, None), every, strict=True):
        scores = {hypothesis.ids: hypothesis.score for hypothesis in found}
        near = [hypothesis for hypothesis in expected if hypothesis.score > expected[0].score - 2.0]
        assert found[0].ids == expected[0].ids and len(near) > 1
        for hypothesis in near:
            assert scores[hypothesis.ids] == pytest.approx(hypothesis.score, abs=0.05)
        assert len(found) < len(expected) or min(scores.values()) > found[0].score - 16.0


@settings(deadline=None, max_examples=30)
@given(num_frames=st.integers(1, 5), vocab_size=st.integers(2, 4), seed=st.integers(0, 1000))
def test_a_large_beam_is_brute_force(num_frames: int, vocab_size: int, seed: int) -> None:
    encoded, scorer = toy_encoded([num_frames], vocab_size, seed=seed), ToyScorer(vocab_size)
    expected = brute_force(encoded.frames[0].log_softmax(-1))
    (found,) = ctc_prefix_search(scorer, encoded, beam=len(expected) + vocab_size)
    assert {hypothesis.ids for hypothesis in found} == expected.keys()
    assert len(found) == len(expected)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(expected[hypothesis.ids], abs=1e-5)
    best = max(expected, key=expected.__getitem__)
    assert found[0].score == pytest.approx(expected[best], abs=1e-5)
    scores = [hypothesis.score for hypothesis in found]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_the_loss(seed: int) -> None:
    """With too many sequences to enumerate, pruning makes scores slightly smaller than those of the loss, never larger."""
    scorer, encoded = ToyScorer(6), toy_encoded([12], 6, seed=seed, blank_bonus=2.0)
    (found,) = ctc_prefix_search(scorer, encoded, beam=600)
    for hypothesis in found[:5]:
        labels, num_labels = torch.tensor([hypothesis.ids]), torch.tensor([len(hypothesis.ids)])
        log_probs = scorer.ctc_log_probs(encoded.frames)
        expected = -ctc_loss(log_probs, labels.long(), encoded.lens, num_labels, blank=0).item()
        assert hypothesis.score == pytest.approx(expected, abs=5e-2)
        assert hypothesis.score < expected + 1e-4


def test_finds_what_no_single_alignment_shows() -> None:
    """Each frame is likeliest blank, yet paths with one label in either frame are likelier together."""
    probs = torch.tensor([[0.6, 0.4], [0.6, 0.4]])
    encoded = Encoded(probs.log().unsqueeze(0), torch.tensor([2]))
    (greedy,) = ctc_greedy_search(ToyScorer(2), encoded)
    assert greedy.ids == ()
    (found,) = ctc_prefix_search(ToyScorer(2), encoded, beam=2)
    assert found[0].ids == (1,)
    assert math.exp(found[0].score) == pytest.approx(0.64)
    assert math.exp(found[1].score) == pytest.approx(0.36)
    assert found[0].frames in ((0,), (1,))


def test_repeated_labels_need_a_blank() -> None:
    frames = torch.full((1, 3, 3), -20.0)
    frames[0, 0, 1] = frames[0, 1, 0] = frames[0, 2, 1] = 0.0
    (found,) = ctc_prefix_search(ToyScorer(3), Encoded(frames, torch.tensor([3])), beam=3)
    assert (found[0].ids, found[0].frames) == ((1, 1), (0, 2))
    frames[0, 1] = frames[0, 0]
    (found,) = ctc_prefix_search(ToyScorer(3), Encoded(frames, torch.tensor([3])), beam=3)
    assert (found[0].ids, found[0].frames) == ((1,), (0,))


@pytest.mark.parametrize("seed", range(5))
def test_frames_of_a_clear_utterance_are_those_of_the_likeliest_alignment(seed: int) -> None:
    encoded, scorer = toy_encoded([20], 5, seed=seed), ToyScorer(5)
    encoded = Encoded(encoded.frames * 10.0, encoded.lens)
    (greedy,) = ctc_greedy_search(scorer, encoded)
    (found,) = ctc_prefix_search(scorer, encoded, beam=5)
    assert (found[0].ids, found[0].frames) == (greedy.ids, greedy.frames)
    assert found[0].log_probs == pytest.approx(greedy.log_probs)
    assert found[0].score >= greedy.score - 1e-4


def test_every_token_has_a_frame_after_that_of_the_one_before() -> None:
    encoded, scorer = toy_encoded([30, 17], 6, seed=1), ToyScorer(6)
    log_probs = scorer.ctc_log_probs(encoded.frames)
    for n, hypotheses in enumerate(ctc_prefix_search(scorer, encoded, beam=8)):
        assert len(hypotheses) == 8
        assert len({hypothesis.ids for hypothesis in hypotheses}) == 8
        for hypothesis in hypotheses:
            assert len(hypothesis.ids) == len(hypothesis.frames) == len(hypothesis.log_probs)
            assert list(hypothesis.frames) == sorted(set(hypothesis.frames))
            assert all(frame < encoded.lens[n] for frame in hypothesis.frames)
            scored = [
                log_probs[n, frame, label].item() for label, frame in zip(hypothesis.ids, hypothesis.frames, strict=True)
            ]
            assert hypothesis.log_probs == pytest.approx(scored)


def test_results_depend_neither_on_the_batch_nor_on_its_order() -> None:
    lens = [9, 1, 14, 0, 6]
    scorer, encoded = ToyScorer(6), toy_encoded(lens, 6, seed=3)
    together = ctc_prefix_search(scorer, encoded, beam=4)
    order = [3, 1, 4, 0, 2]
    shuffled = ctc_prefix_search(scorer, Encoded(encoded.frames[order], encoded.lens[order]), beam=4)
    for n, length in enumerate(lens):
        (alone,) = ctc_prefix_search(scorer, Encoded(encoded.frames[n : n + 1, :length], encoded.lens[n : n + 1]), beam=4)
        for others in (together[n], shuffled[order.index(n)]):
            assert len(others) == len(alone)
            for found, expected in zip(others, alone, strict=True):
                assert_same(found, expected)


def test_nothing_to_search() -> None:
    (found,) = ctc_prefix_search(ToyScorer(4), toy_encoded([0], 4, seed=0))
    assert found == [Hypothesis()]
    assert ctc_prefix_search(ToyScorer(4), toy_encoded([], 4, seed=0)) == []


def test_beam_may_exceed_the_vocabulary_and_one_is_allowed() -> None:
    encoded = toy_encoded([8], 3, seed=0)
    assert len(ctc_prefix_search(ToyScorer(3), encoded, beam=1)[0]) == 1
    assert len(ctc_prefix_search(ToyScorer(3), encoded, beam=50)[0]) == 50


def test_blank_penalty_and_temperature() -> None:
    encoded, scorer = toy_encoded([20], 5, seed=2, blank_bonus=3.0), ToyScorer(5)
    few, many = (ctc_prefix_search(scorer, encoded, blank_penalty=p)[0][0] for p in (-10.0, 10.0))
    assert few.ids == ()
    assert len(many.ids) > 5
    flat = ctc_prefix_search(scorer, encoded, beam=100, temperature=3.0)[0]
    expected = ctc_prefix_search(scorer, Encoded(encoded.frames / 3.0, encoded.lens), beam=100)[0]
    assert [h.ids for h in flat] == [h.ids for h in expected]
    assert flat[0].score == pytest.approx(expected[0].score, abs=1e-4)


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("margin_nats", [math.inf, 20.0])
def test_scores_that_are_no_numbers_end_no_search(beam: int, margin_nats: float) -> None:
    whole = toy_encoded([6], 5, seed=0)
    frames = whole.frames.clone()
    frames[:, 3:] = math.nan  # as of a model whose training diverged
    search = CtcPrefixSearch(ToyScorer(5), beam=beam, margin_nats=margin_nats)
    (found,) = search_all(search, Encoded(frames, whole.lens))
    assert len(found) >= 1


def test_wrong_arguments_are_refused() -> None:
    encoded = toy_encoded([4], 4, seed=0)
    with pytest.raises(ValueError, match="beam must be at least 1, but is 0"):
        ctc_prefix_search(ToyScorer(4), encoded, beam=0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        ctc_prefix_search(ToyScorer(4), encoded, temperature=0.0)
    with pytest.raises(ValueError, match=r"encoded\.lens must be 1 lengths from 0 to 4"):
        ctc_prefix_search(ToyScorer(4), Encoded(encoded.frames, torch.tensor([5])))
