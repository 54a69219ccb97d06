"""Modified beam search. Golden: the original's results. Reference: slow obvious code; all alignments of tiny lattices; the
losses. Law: batches change nothing."""

import functools
import itertools
import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.golden_model import golden_encoded, golden_model, ragged
from tests.search.hypotheses import assert_same
from tests.search.slow_beam import obvious_beam_search
from tests.search.toy_scorer import ToyScorer, label_scores, toy_encoded
from zipasr.losses.lattice import LatticeKind
from zipasr.losses.transducer import full_transducer_loss
from zipasr.nn.encoded import Encoded
from zipasr.search.beam import modified_beam_search
from zipasr.search.greedy import greedy_search
from zipasr.search.hypothesis import Hypothesis


def all_sequences(scorer: ToyScorer, frames: torch.Tensor, max_symbols: int = 1) -> dict[tuple[int, ...], float]:
    """Log-probability of every token sequence, summed over all of its alignments.

    A frame emits fewer than `max_symbols` labels and a blank, or exactly that many labels.
    """
    labels = range(1, frames.shape[1])
    outcomes = [(*ids, 0) for length in range(max_symbols) for ids in itertools.product(labels, repeat=length)]
    outcomes += itertools.product(labels, repeat=max_symbols)

    @functools.cache
    def scores(t: int, last_ids: tuple[int, ...]) -> list[float]:
        return label_scores(scorer, frames[t], last_ids).tolist()

    totals: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(outcomes, repeat=len(frames)):
        ids, log_prob = (), 0.0
        for t, outcome in enumerate(path):
            for label in outcome:
                log_prob += scores(t, ids[-scorer.context_size :])[label]
                ids = (*ids, label) if label else ids
        totals[ids] += math.exp(log_prob)
    return {ids: math.log(total) for ids, total in totals.items()}


def probability_by_the_loss(scorer: ToyScorer, frames: torch.Tensor, ids: tuple[int, ...], kind: LatticeKind) -> float:
    """Log-probability of a token sequence, computed by the loss."""
    padded = [-1] * (scorer.context_size - 1) + [scorer.blank_id, *ids]
    contexts = torch.tensor([padded[i : i + scorer.context_size] for i in range(len(ids) + 1)])
    logits_NTUV = (frames.unsqueeze(1) + scorer.predict(contexts)).unsqueeze(0)
    frame_lens, label_lens = torch.tensor([len(frames)]), torch.tensor([len(ids)])
    labels_NS = torch.tensor([ids], dtype=torch.int64)
    return -full_transducer_loss(logits_NTUV, labels_NS, frame_lens, label_lens, blank=scorer.blank_id, kind=kind).item()


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
    max_symbols=st.integers(1, 4),
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
    max_symbols: int,
    seed: int,
) -> None:
    # With fewer labels in the context, orders of the same labels within a frame may be equally probable, such as 112 and 121
    # after 1: each follows the pairs 11, 12 and 21. Then it is arbitrary which one stays.
    scorer = ToyScorer(5, max(context_size, max_symbols - 1), seed)
    encoded = toy_encoded(lens, 5, seed=seed + 1, blank_bonus=blank_bonus)
    found = modified_beam_search(
        scorer,
        encoded,
        beam=beam,
        blank_penalty=penalty,
        temperature=temperature,
        unk_id=unk_id,
        max_symbols_per_frame=max_symbols,
    )
    expected = obvious_beam_search(
        scorer, encoded, beam, unk_id, max_symbols=max_symbols, blank_penalty=penalty, temperature=temperature
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("num_frames", "max_symbols", "seed"),
    [*((5, 1, seed) for seed in range(5)), (4, 2, 0), (4, 2, 1), (3, 3, 2), (3, 3, 3), (4, 3, 4), (2, 5, 5)],
)
def test_wide_beam_sums_all_alignments(num_frames: int, max_symbols: int, seed: int) -> None:
    scorer, encoded = ToyScorer(3, seed=seed), toy_encoded([num_frames], 3, seed=seed + 10)
    truth = all_sequences(scorer, encoded.frames[0], max_symbols)
    assert max(map(len, truth)) == num_frames * max_symbols
    (found,) = modified_beam_search(scorer, encoded, beam=10**6, max_symbols_per_frame=max_symbols)
    assert len(found) == len(truth)
    assert {h.ids: h.score for h in found} == pytest.approx(truth, abs=1e-4)
    assert sum(math.exp(h.score) for h in found) == pytest.approx(1.0, abs=1e-4)
    assert found[0].ids == max(truth, key=lambda ids: truth[ids] / (len(ids) + scorer.context_size))


@pytest.mark.parametrize("context_size", [1, 2])
def test_one_symbol_a_frame_is_the_modified_lattice(context_size: int) -> None:
    scorer, encoded = ToyScorer(3, context_size, seed=1), toy_encoded([4], 3, seed=2)
    (found,) = modified_beam_search(scorer, encoded, beam=10**6)
    assert len(found) == 2**5 - 1
    for h in found:
        assert h.score == pytest.approx(probability_by_the_loss(scorer, encoded.frames[0], h.ids, "modified"), abs=1e-4)


@pytest.mark.parametrize("context_size", [1, 2])
def test_more_symbols_than_labels_are_the_regular_lattice(context_size: int) -> None:
    """With more symbols per frame than labels, the search gives the probabilities of the regular lattice.

    There every frame ends in a blank, while a frame of the search ends without one once it has emitted all it may. So a
    sequence with fewer labels than a frame may emit has the probability that the loss gives it, and one with exactly that
    many labels has more: its path with all labels in one frame saves that frame's blank.
    """
    scorer, encoded = ToyScorer(3, context_size, seed=1), toy_encoded([2], 3, seed=2)
    for max_symbols in (1, 2, 3, 4):
        (found,) = modified_beam_search(scorer, encoded, beam=10**6, max_symbols_per_frame=max_symbols)
        ours = {h.ids: h.score for h in found}
        for length in range(max_symbols + 1):
            for ids in itertools.product((1, 2), repeat=length):
                by_loss = probability_by_the_loss(scorer, encoded.frames[0], ids, "regular")
                if length < max_symbols:
                    assert ours[ids] == pytest.approx(by_loss, abs=1e-4)
                else:
                    assert ours[ids] > by_loss + 1e-3


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


@pytest.mark.parametrize("max_symbols", [1, 2, 5])
def test_beam_of_one_is_greedy(max_symbols: int) -> None:
    scorer, encoded = ToyScorer(6), toy_encoded([15, 9, 30], 6, seed=2, blank_bonus=2.0)
    found = modified_beam_search(scorer, encoded, beam=1, max_symbols_per_frame=max_symbols)
    assert_same([ranked[0] for ranked in found], greedy_search(scorer, encoded, max_symbols_per_frame=max_symbols))
    assert max(h.frames.count(frame) for (h,) in found for frame in h.frames) == max_symbols


@pytest.mark.parametrize("max_symbols", [1, 3])
def test_batch_and_order_and_padding_change_nothing(max_symbols: int) -> None:
    lens = [7, 20, 0, 13, 1]
    scorer, encoded = ToyScorer(5), toy_encoded(lens, 5, seed=3, blank_bonus=2.0)
    search = functools.partial(modified_beam_search, scorer, max_symbols_per_frame=max_symbols)
    together = search(encoded)
    for n, length in enumerate(lens):
        (alone,) = search(Encoded(encoded.frames[n : n + 1, :length], encoded.lens[n : n + 1]))
        assert_same(alone, together[n])
    order = [3, 0, 4, 2, 1]
    reordered = search(Encoded(encoded.frames[order], encoded.lens[order]))
    for n, ranked in zip(order, reordered, strict=True):
        assert_same(ranked, together[n])


def test_one_joiner_call_a_frame() -> None:
    scorer = ToyScorer(5)
    modified_beam_search(scorer, toy_encoded([12, 30, 5], 5, seed=0))
    assert scorer.num_joins == 30


class RecordingScorer(ToyScorer):
    """Records how many utterances each joiner call scores."""

    def __init__(self) -> None:
        super().__init__(5)
        self.batch_sizes: list[int] = []

    def join(self, frames_MJ: torch.Tensor, contexts_MJ: torch.Tensor) -> torch.Tensor:
        self.batch_sizes.append(len(frames_MJ))
        return super().join(frames_MJ, contexts_MJ)


def test_one_joiner_call_a_sub_step_for_utterances_still_in_the_frame() -> None:
    """Of three utterances, one has no labels, one has a frame of two labels, and one has only frames full of labels."""
    frames = torch.full((3, 2, 5), -50.0)
    frames[0, :, 0] = frames[2, :, 3] = 50.0
    frames[1, 1, 0] = 50.0
    frames[1, 0, 2], frames[1, 0, 0] = 50.0, 46.0
    scorer = RecordingScorer()
    scorer.table_CVV = torch.zeros(2, 5, 5)
    scorer.table_CVV[0, 2, 0] = 20.0  # after two labels 2, blank is likeliest
    encoded = Encoded(frames, torch.tensor([2, 2, 1]))
    found = modified_beam_search(scorer, encoded, beam=1, max_symbols_per_frame=4)
    assert [(h.ids, h.frames) for (h,) in found] == [((), ()), ((2, 2), (0, 0)), ((3,) * 4, (0,) * 4)]
    assert scorer.batch_sizes == [3, 2, 2, 1, 2]


@pytest.mark.parametrize("max_symbols", [1, 2])
def test_long_recordings_keep_their_precision(max_symbols: int) -> None:
    """Scores of several hundred nats are summed in double precision, like those of the slow code."""
    scorer, encoded = ToyScorer(3), toy_encoded([800 // max_symbols], 3, seed=5)
    (found,) = modified_beam_search(scorer, encoded, max_symbols_per_frame=max_symbols)
    (expected,) = obvious_beam_search(scorer, encoded, beam=4, max_symbols=max_symbols)
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
    with pytest.raises(ValueError, match="max_symbols_per_frame must be at least 1, but is 0"):
        modified_beam_search(ToyScorer(4), encoded, max_symbols_per_frame=0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        modified_beam_search(ToyScorer(4), encoded, temperature=-1.0)
