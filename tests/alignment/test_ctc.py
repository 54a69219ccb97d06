"""Forced alignment. Reference: every alignment of tiny lattices. Law: padding, batch, order and block size change
nothing."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.instructions import num_instructions
from tests.search.toy_scorer import ToyScorer, toy_encoded
from zipasr.alignment import ctc
from zipasr.alignment.ctc import Alignment, align_batch, ctc_align, ctc_align_batch
from zipasr.nn.encoded import Encoded


def random_log_probs(num_frames: int, vocab_size: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.standard_normal((num_frames, vocab_size)) * 2).log_softmax(-1).numpy()


def read(path: tuple[int, ...]) -> tuple[int, ...]:
    """The labels of a path: repeats merged, then blanks dropped."""
    return tuple(label for label, _ in itertools.groupby(path) if label != 0)


def best_by_enumeration(log_probs_TV: np.ndarray, ids: tuple[int, ...]) -> float:
    num_frames, vocab_size = log_probs_TV.shape
    paths = (path for path in itertools.product(range(vocab_size), repeat=num_frames) if read(path) == ids)
    return max((float(log_probs_TV[range(num_frames), path].sum()) for path in paths), default=-math.inf)


def path_of(alignment: Alignment, ids: tuple[int, ...], num_frames: int) -> tuple[int, ...]:
    path = [0] * num_frames
    for label, first, end in zip(ids, alignment.first_frames, alignment.end_frames, strict=True):
        path[first:end] = [label] * (end - first)
    return tuple(path)


@given(
    num_frames=st.integers(0, 6),
    ids=st.lists(st.integers(1, 2), max_size=4).map(tuple),
    block=st.integers(1, 7),
    seed=st.integers(0, 10_000),
)
def test_equals_the_best_of_all_alignments(num_frames: int, ids: tuple[int, ...], block: int, seed: int) -> None:
    log_probs_TV = random_log_probs(num_frames, 3, seed)
    best = best_by_enumeration(log_probs_TV, ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctc, "_BLOCK_FRAMES_25HZ", block)
        if best == -math.inf:
            with pytest.raises(ValueError, match=rf"labels need \d frames at 25 Hz or more, but there are {num_frames}"):
                ctc_align(log_probs_TV, ids, blank_id=0)
            return
        found = ctc_align(log_probs_TV, ids, blank_id=0)
    assert found.score == pytest.approx(best, abs=1e-9)
    path = path_of(found, ids, num_frames)
    assert read(path) == ids
    assert log_probs_TV[range(num_frames), path].sum() == pytest.approx(best, abs=1e-9)
    for label, first, end, log_prob in zip(ids, found.first_frames, found.end_frames, found.log_probs, strict=True):
        assert log_prob == pytest.approx(log_probs_TV[first:end, label].mean())


@given(num_frames=st.integers(40, 120), seed=st.integers(0, 10_000), block=st.integers(5, 60))
def test_blocks_change_nothing(num_frames: int, seed: int, block: int) -> None:
    log_probs_TV = random_log_probs(num_frames, 6, seed)
    ids = tuple(np.random.default_rng(seed).integers(1, 6, num_frames // 3).tolist())
    whole = ctc_align(log_probs_TV, ids, blank_id=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctc, "_BLOCK_FRAMES_25HZ", block)
        assert ctc_align(log_probs_TV, ids, blank_id=0) == whole


def test_batch_and_order_and_padding_change_nothing() -> None:
    lens = [9, 20, 0, 13, 4]
    ids = [(1, 1, 2), (3, 2, 4, 4, 1), (), (2,), (1, 2, 3, 4)]
    scorer, encoded = ToyScorer(5), toy_encoded(lens, 5, seed=3)
    together = align_batch(scorer, encoded, ids)
    for n, length in enumerate(lens):
        one = Encoded(encoded.frames[n : n + 1, :length], encoded.lens[n : n + 1])
        assert align_batch(scorer, one, ids[n : n + 1]) == together[n : n + 1]
    order = [3, 0, 4, 2, 1]
    mixed = Encoded(encoded.frames[order], encoded.lens[order])
    assert align_batch(scorer, mixed, [ids[n] for n in order]) == [together[n] for n in order]


@pytest.mark.parametrize("block", [2048, 12])
def test_a_batch_equals_utterances_alone(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, also of those too long for a batch; those without a path have none."""
    monkeypatch.setattr(ctc, "_BLOCK_FRAMES_25HZ", block)
    rng = np.random.default_rng(0)
    lens = [10, 3, 90, 0, 1, 30, 4, 30, 0, 25]
    ids = [rng.integers(1, 4, size).tolist() for size in (3, 4, 40, 0, 1, 0, 4, 15, 1, 24)]
    log_probs_NTV = np.stack([random_log_probs(max(lens), 4, seed) for seed in range(len(lens))]).astype(np.float32)
    log_probs_NTV[5:7, :, 2] = -np.inf  # no frame of utterance 6 can have label 2
    ids[6] = [1, 2]
    expected: list[Alignment | None] = []
    for log_probs_TV, length, labels in zip(log_probs_NTV, lens, ids, strict=True):
        try:
            expected.append(ctc_align(log_probs_TV[:length], labels, blank_id=0))
        except ValueError:
            expected.append(None)
    assert expected.count(None) == 4
    assert ctc_align_batch(log_probs_NTV, lens, ids, blank_id=0) == expected
    with pytest.raises(ValueError, match="none the blank, 0, but one is 0"):
        ctc_align_batch(log_probs_NTV[:1], [9], [[0]], blank_id=0)


def test_an_utterance_of_a_batch_without_a_path_is_named() -> None:
    with pytest.raises(ValueError, match="2 labels need 3 frames at 25 Hz or more, but there are 2"):
        align_batch(ToyScorer(4), toy_encoded([3, 2], 4, seed=0), [(1,), (2, 2)])


def test_blank_has_another_id() -> None:
    log_probs_TV = random_log_probs(8, 4, 1)
    swapped_TV = log_probs_TV[:, [3, 1, 2, 0]]
    assert ctc_align(swapped_TV, (1, 2), blank_id=3) == ctc_align(log_probs_TV, (1, 2), blank_id=0)


def test_no_labels() -> None:
    log_probs_TV = random_log_probs(5, 3, 0)
    assert ctc_align(log_probs_TV, (), blank_id=0) == Alignment((), (), (), pytest.approx(log_probs_TV[:, 0].sum()))
    assert ctc_align(log_probs_TV[:0], (), blank_id=0) == Alignment()
    assert align_batch(ToyScorer(4), Encoded(torch.zeros(0, 0, 4), torch.zeros(0, dtype=torch.int64)), []) == []


def test_repeats_need_a_blank() -> None:
    log_probs_TV = random_log_probs(3, 3, 0)
    assert ctc_align(log_probs_TV, (1, 1), blank_id=0).first_frames == (0, 2)
    with pytest.raises(ValueError, match="2 labels need 3 frames at 25 Hz or more, but there are 2"):
        ctc_align(log_probs_TV[:2], (1, 1), blank_id=0)


@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_scores_without_a_path(value: float) -> None:
    log_probs_TV = random_log_probs(4, 3, 0)
    log_probs_TV[:, 2] = value
    with pytest.raises(ValueError, match="a path for the 1 labels"):
        ctc_align(log_probs_TV, (2,), blank_id=0)


def test_wrong_arguments() -> None:
    log_probs_TV = random_log_probs(4, 3, 0)
    with pytest.raises(ValueError, match=r"must be \(T, V\)"):
        ctc_align(log_probs_TV[0], (1,), blank_id=0)
    with pytest.raises(ValueError, match=r"blank_id must be in \[0, 3\), but is 3"):
        ctc_align(log_probs_TV, (1,), blank_id=3)
    for wrong in (0, 3, -1):
        with pytest.raises(ValueError, match=rf"none the blank, 0, but one is {wrong}"):
            ctc_align(log_probs_TV, (1, wrong), blank_id=0)
    with pytest.raises(ValueError, match="labels for each of 1 utterances, but there are 2"):
        align_batch(ToyScorer(4), toy_encoded([3], 4, seed=0), [(1,), (2,)])


def test_python_work_grows_with_frames_alone() -> None:
    """Labels are vectorized: a loop over the labels of every frame would make 30 s of speech take seconds."""

    def work(num_frames: int, num_labels: int) -> int:
        log_probs_TV = random_log_probs(num_frames, 31, 0).astype(np.float32)
        ids = np.random.default_rng(0).integers(1, 31, num_labels).tolist()
        return num_instructions(ctc, lambda: ctc_align(log_probs_TV, ids, blank_id=0))

    assert work(750, 400) < 1.3 * work(750, 100)
    assert work(1500, 100) < 2.2 * work(750, 100)
