"""Frames in which a transducer emits known labels. Reference: every monotonic path of tiny lattices, the transducer loss,
and counts by hand. Law: batch, order, padding and slice size change nothing; float64 keeps long utterances exact."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.toy_scorer import ToyScorer, label_scores, toy_encoded
from tests.train.tones import minute_model
from zipasr.alignment import emission
from zipasr.alignment.ctc import align_batch
from zipasr.alignment.emission import EmissionStats, align_transducer, measure_emission
from zipasr.losses.lattice import KINDS, LatticeKind
from zipasr.losses.transducer import full_transducer_loss
from zipasr.nn.encoded import Encoded


def path_score(
    scorer: ToyScorer,
    frames_TV: torch.Tensor,
    ids: tuple[int, ...],
    path: tuple[int, ...],
    lattice: LatticeKind = "regular",
) -> float:
    """Log-probability of emitting each label in its frame, and blanks wherever the lattice has one."""
    score, emitted = 0.0, 0
    for t, frame in enumerate(frames_TV.double()):
        before = emitted
        while emitted < len(ids) and path[emitted] == t:
            score += label_scores(scorer, frame, ids[:emitted])[ids[emitted]].item()
            emitted += 1
        if lattice != "modified" or emitted == before:
            score += label_scores(scorer, frame, ids[:emitted])[scorer.blank_id].item()
    assert emitted == len(ids), "a path must be monotonic"
    return score


def path_of_all(
    scorer: ToyScorer, frames_TV: torch.Tensor, ids: tuple[int, ...], lattice: LatticeKind
) -> tuple[tuple[int, ...], float] | None:
    places = itertools.combinations_with_replacement if lattice == "regular" else itertools.combinations
    scored = ((path, path_score(scorer, frames_TV, ids, path, lattice)) for path in places(range(len(frames_TV)), len(ids)))
    return max(scored, key=lambda pair: pair[1], default=None)


@given(
    num_frames=st.integers(1, 5),
    ids=st.lists(st.integers(1, 3), max_size=5).map(tuple),
    context_size=st.integers(1, 3),
    blank_bonus=st.sampled_from([-3.0, 0.0, 3.0]),
    lattice=st.sampled_from(KINDS),
    seed=st.integers(0, 10_000),
)
def test_equals_the_best_of_all_paths(
    num_frames: int, ids: tuple[int, ...], context_size: int, blank_bonus: float, lattice: LatticeKind, seed: int
) -> None:
    scorer = ToyScorer(4, context_size, seed=seed)
    encoded = toy_encoded([num_frames], 4, seed=seed, blank_bonus=blank_bonus)
    expected = path_of_all(scorer, encoded.frames[0], ids, lattice)
    (found,) = align_transducer(scorer, encoded, [ids], lattice=lattice)
    if expected is None:
        assert lattice != "regular" and len(ids) > num_frames and found is None
        return
    assert found is not None
    best, best_score = expected
    score = path_score(scorer, encoded.frames[0], ids, found, lattice)
    assert score == pytest.approx(best_score, abs=1e-9)
    assert found == best or math.isclose(score, best_score, abs_tol=1e-9)


def test_best_path_scores_at_most_the_sum_of_all() -> None:
    model = minute_model()
    generator = torch.Generator().manual_seed(0)
    encoded = Encoded(torch.randn(1, 12, model.encoder.output_channels, generator=generator), torch.tensor([12]))
    labels_NS = torch.randint(3, 14, (1, 6), generator=generator)
    assert model.transducer is not None
    contexts_NUP = model.transducer.predict(labels_NS)
    logits_NTUV = model.join(
        model.project_frames(encoded.frames).unsqueeze(2), model.transducer.joiner.predictor_proj(contexts_NUP).unsqueeze(1)
    ).detach()
    loss = full_transducer_loss(logits_NTUV, labels_NS, encoded.lens, torch.tensor([6]), blank=0).item()
    (frames,) = align_transducer(model, encoded, labels_NS.tolist())
    assert frames is not None
    log_probs_TUV = logits_NTUV[0].double().log_softmax(-1)

    def score_of(path: tuple[int, ...]) -> float:
        labels = sum(log_probs_TUV[t, u, labels_NS[0, u]].item() for u, t in enumerate(path))
        return labels + sum(log_probs_TUV[t, sum(frame <= t for frame in path), 0].item() for t in range(12))

    paths = list(itertools.combinations_with_replacement(range(12), 6))
    scores = torch.tensor([score_of(path) for path in paths], dtype=torch.float64)
    assert scores.logsumexp(0).item() == pytest.approx(-loss, abs=1e-4)
    assert score_of(frames) == pytest.approx(scores.max().item(), abs=1e-9)
    assert score_of(frames) <= -loss


def test_a_burst_is_one_frame_and_a_spread_is_many() -> None:
    frames = torch.full((2, 6, 4), -20.0)
    frames[:, :, 0] = 0.0
    frames[0, 2, 1:] = 20.0  # all labels are likely only in frame 2 of the first utterance
    for t, label in ((1, 1), (3, 2), (5, 3)):
        frames[1, t, label] = 20.0
    scorer = ToyScorer(4)
    scorer.table_CVV = 10.0 * torch.stack([torch.zeros(4, 4), torch.eye(4).roll(1, 1)])  # i is followed by i + 1 or blank
    encoded = Encoded(frames, torch.tensor([6, 6]))
    assert align_transducer(scorer, encoded, [(1, 2, 3), (1, 2, 3)])[0] == (2, 2, 2)
    spread = ToyScorer(4)
    spread.table_CVV = torch.zeros(2, 4, 4)
    assert align_transducer(spread, encoded, [(1, 2, 3), (1, 2, 3)])[1] == (1, 3, 5)


@settings(max_examples=40)
@given(order=st.permutations(range(4)), elements=st.sampled_from([1, 40, 1 << 21]), seed=st.integers(0, 1000))
def test_batch_order_padding_and_slices_change_nothing(order: list[int], elements: int, seed: int) -> None:
    scorer, lens = ToyScorer(5, seed=seed), [7, 3, 0, 5]
    labels = [(1, 2, 3), (4, 4, 1, 2, 3), (1,), ()]
    encoded = toy_encoded(lens, 5, seed=seed)
    alone = [
        align_transducer(scorer, Encoded(encoded.frames[n : n + 1, :length], torch.tensor([length])), [labels[n]])[0]
        for n, length in enumerate(lens)
    ]
    assert [frames is None for frames in alone] == [False, False, True, False]
    before, emission._SLICE_ELEMENTS = emission._SLICE_ELEMENTS, elements
    try:
        found = align_transducer(scorer, Encoded(encoded.frames[order], encoded.lens[order]), [labels[n] for n in order])
        stats = measure_emission(scorer, Encoded(encoded.frames[order], encoded.lens[order]), [labels[n] for n in order])
    finally:
        emission._SLICE_ELEMENTS = before
    assert found == [alone[n] for n in order]
    assert stats == measure_emission(scorer, encoded, labels)


def test_scores_of_long_utterances_do_not_blur_the_choice() -> None:
    """The path costs 3000 nats and the two possible frames of a label differ by 1e-4, which float32 loses in the sum."""
    num_labels, vocab_size = 600, 21
    scorer = ToyScorer(vocab_size)
    scorer.table_CVV = torch.zeros(2, vocab_size, vocab_size)
    labels = [1 + k % (vocab_size - 1) for k in range(num_labels)]
    frames = torch.full((1, 2 * num_labels, vocab_size), -50.0)
    frames[..., 0] = 0.0
    for k, label in enumerate(labels):
        frames[0, 2 * k, label], frames[0, 2 * k + 1, label] = -5.0, -5.0 + 1e-4
    (found,) = align_transducer(scorer, Encoded(frames, torch.tensor([2 * num_labels])), [labels])
    assert found == tuple(2 * k + 1 for k in range(num_labels))


def counted(paths: list[tuple[int, ...] | None], monkeypatch: pytest.MonkeyPatch) -> EmissionStats:
    scorer = ToyScorer(5)
    scorer.has_ctc = False
    monkeypatch.setattr(emission, "align_transducer", lambda *_, **__: paths)
    encoded = toy_encoded([9] * len(paths), 5, seed=0)
    return measure_emission(scorer, encoded, [() for _ in paths])


def test_shares_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = counted([(0, 1, 1, 1, 4), (2, 2), (), None], monkeypatch)
    assert stats == EmissionStats(
        num_labels=7, num_burst_labels=3, num_emitting_frames=4, num_burst_frames=2, num_unaligned=1
    )
    assert stats.burst_share == 3 / 7 and stats.burst_frame_share == 2 / 4
    assert stats.delay_s is None
    parts = [counted([path], monkeypatch) for path in [(0, 1, 1, 1, 4), (2, 2), (), None]]
    assert parts[0].plus(parts[1]).plus(parts[2]).plus(parts[3]) == stats
    nothing = EmissionStats()
    assert nothing.burst_share is None and nothing.burst_frame_share is None and nothing.delay_s is None


def test_delay_is_against_the_first_frame_of_ctc() -> None:
    """Delays count from the first CTC frame.

    The heads of the toy scorer differ only by its table; here CTC gets its frames two frames early.
    """
    frames = torch.zeros(1, 12, 4)
    frames[..., 0] = 30.0
    for t, label in ((4, 1), (7, 2), (10, 3)):
        frames[0, t, label] = 60.0

    class EarlyCtc(ToyScorer):
        def ctc_log_probs(self, frames_NTD: torch.Tensor) -> torch.Tensor:
            return super().ctc_log_probs(frames_NTD.roll(-2, 1))

    scorer = EarlyCtc(4)
    scorer.table_CVV = torch.zeros(2, 4, 4)
    encoded = Encoded(frames, torch.tensor([12]))
    assert align_batch(scorer, encoded, [(1, 2, 3)])[0].first_frames == (2, 5, 8)
    stats = measure_emission(scorer, encoded, [(1, 2, 3)])
    assert (stats.num_compared_labels, stats.delay_frames) == (3, 6)
    assert stats.delay_s == pytest.approx(0.08)
    no_room = measure_emission(scorer, Encoded(frames[:, 4:6], torch.tensor([2])), [(1, 1, 1)])
    assert no_room.num_labels == 3 and no_room.num_compared_labels == 0 and no_room.delay_s is None


def test_scores_that_are_not_finite_have_no_path() -> None:
    encoded = toy_encoded([4, 4], 4, seed=0)
    encoded.frames[0, 2, 1] = math.nan
    paths = align_transducer(ToyScorer(4), encoded, [(1, 2), (1, 2)])
    assert paths[0] is None and paths[1] is not None
    stats = measure_emission(ToyScorer(4), encoded, [(1, 2), (1, 2)])
    assert (stats.num_unaligned, stats.num_labels) == (1, 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([(1,)], "labels for each of 2 utterances, but there are 1"),
        ([(1,), (0,)], "none the blank, 0, but one is 0"),
        ([(1,), (-1,)], "must be 0 or more"),
        ([(4,), (1,)], "below the vocabulary size, 4, but one is 4"),
    ],
)
def test_refuses(labels: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align_transducer(ToyScorer(4), toy_encoded([3, 3], 4, seed=0), labels)


def test_refuses_lengths_and_lattices() -> None:
    with pytest.raises(ValueError, match="lens must be"):
        align_transducer(ToyScorer(4), Encoded(torch.zeros(1, 3, 4), torch.tensor([4])), [(1,)])
    with pytest.raises(ValueError, match="lattice must be one of regular, modified, constrained, but is 'wide'"):
        align_transducer(ToyScorer(4), toy_encoded([3], 4, seed=0), [(1,)], lattice="wide")  # type: ignore[arg-type]
