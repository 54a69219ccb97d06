"""Word times. Run: synthetic audio whose words and pauses are known. Law: tokens are always in order and inside the
recording, and a word lasts from its first to its last token. Contract: odd tokens, too few frames."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.search.toy_scorer import ToyScorer, toy_encoded
from zipasr.alignment.ctc import Alignment
from zipasr.alignment.word_times import TokenSpan, align_hypotheses, emission_spans, find_edges, token_spans
from zipasr.nn.encoded import Encoded
from zipasr.search.hypothesis import Hypothesis
from zipasr.tokenizer import Tokenizer

LETTERS = Tokenizer.train(["A B AB BA"], kind="char", vocab_size=None)
TABLE = Tokenizer.train(["一二三"], kind="spaceless", vocab_size=None)
SPACE, A, B = LETTERS.pieces.index("▁"), LETTERS.pieces.index("A"), LETTERS.pieces.index("B")


def energy(*stretches: tuple[int, float]) -> np.ndarray:
    """Energy in dB at 100 Hz from (number of frames, level) pairs, with 2 dB of ripple."""
    levels = np.concatenate([np.full(length, level) for length, level in stretches])
    return levels + np.sin(np.arange(len(levels)))


def random_features(num_frames: int, seed: int = 0) -> Tensor:
    """Features (T, F) at 100 Hz."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((num_frames, 8)).astype(np.float32) * 3 - 5)


def test_words_between_pauses() -> None:
    energy_db_T = energy((50, -60.0), (40, 0.0), (30, -60.0), (60, -10.0), (40, -60.0))
    assert find_edges([(60, 70), (125, 150)], energy_db_T) == [(50, 90), (120, 180)]


def test_a_label_before_its_audio() -> None:
    energy_db_T = energy((50, -60.0), (40, 0.0), (40, -60.0))
    assert find_edges([(44, 80)], energy_db_T) == [(50, 90)]


def test_a_closure_is_not_a_pause() -> None:
    """80 ms of silence after the last label belong to the word, because a burst follows; the true pause comes later."""
    energy_db_T = energy((30, -60.0), (40, 0.0), (8, -60.0), (10, -10.0), (60, -60.0))
    assert find_edges([(35, 60)], energy_db_T) == [(30, 88)]


def test_words_without_a_pause_part_where_it_is_quiet() -> None:
    energy_db_T = energy((30, -60.0), (40, 0.0), (4, -20.0), (40, 0.0), (30, -60.0))
    ((start, end), (next_start, next_end)) = find_edges([(35, 60), (85, 100)], energy_db_T)
    assert (start, next_end) == (30, 114)
    assert (end, next_start) == (70, 74)


def test_a_recording_cut_close_to_the_words() -> None:
    assert find_edges([(6, 30)], energy((40, 0.0))) == [(0, 40)]
    assert find_edges([], energy((40, 0.0))) == []


def test_audio_that_never_ends_is_not_a_word() -> None:
    """With music around the words, edges stay within 0.8 s of the first and the last label."""
    ((start, end),) = find_edges([(300, 340)], energy((600, 0.0)))
    assert 220 <= start <= 308
    assert 340 <= end <= 420


def word_of(labels: list[tuple[int, int]], energy_db_T: np.ndarray) -> tuple[float, float]:
    """Start and end in s of one word of the letter A, whose labels are at these frames at 25 Hz."""
    firsts, ends = zip(*labels, strict=True)
    alignment = Alignment(tuple(firsts), tuple(ends), (0.0,) * len(labels), 0.0)
    spans = token_spans([A] * len(labels), alignment, energy_db_T, tokenizer=LETTERS)
    assert [span.start_frame for span in spans] == sorted(span.start_frame for span in spans)
    return spans[0].start_frame * 0.04, spans[-1].end_frame * 0.04


TWO_PHRASES = energy((50, -60.0), (50, 0.0), (400, -60.0), (50, -3.0), (50, -60.0))
"""Speech from 0.5 to 1 s and from 5 to 5.5 s."""


@pytest.mark.parametrize("noise_db", [-60.0, -15.0])
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([(15, 16), (20, 21), (126, 127)], (0.5, 1.0)),  # two before the pause, one after it
        ([(20, 21), (126, 127), (130, 131)], (5.0, 5.5)),  # one before, two after
        ([(20, 21), (130, 131)], (0.5, 1.0)),  # as many on both sides: the louder
        ([(15, 16), (20, 125)], (0.5, 1.0)),  # the last label is held until the next phrase
        ([(23, 120), (126, 127), (130, 131)], (5.0, 5.5)),  # the first one is held from the previous phrase on
        ([(15, 16), (18, 19), (60, 61), (90, 91)], (0.5, 1.0)),  # labels in the pause
    ],
)
def test_a_word_lies_on_one_side_of_a_pause(
    labels: list[tuple[int, int]], expected: tuple[float, float], noise_db: float
) -> None:
    """Also where the pause is not silent: noise 15 dB below the speech, after a moment of digital silence."""
    energy_db_T = np.maximum(TWO_PHRASES, noise_db + np.cos(np.arange(len(TWO_PHRASES))))
    energy_db_T[:5] = -60.0
    # Edges in noise are uncertain, but never more than 0.6 s away.
    assert word_of(labels, energy_db_T) == pytest.approx(expected, abs=0.6 if noise_db > -60.0 else 0.05)


def test_a_slow_word_stays_whole() -> None:
    """Labels up to 0.8 s apart, with a closure of 0.3 s between them."""
    energy_db_T = energy((50, -60.0), (60, 0.0), (30, -50.0), (60, 0.0), (50, -60.0))
    assert word_of([(14, 15), (26, 27), (45, 46)], energy_db_T) == pytest.approx((0.5, 2.0), abs=0.05)


@given(data=st.data())
def test_edges_are_in_order(data: st.DataObject) -> None:
    num_frames = data.draw(st.integers(1, 300))
    places = data.draw(st.lists(st.integers(0, num_frames), max_size=12, unique=True).map(sorted))
    cores = list(zip(places[::2], places[1::2], strict=False))
    energy_db_T = data.draw(st.integers(0, 1000).map(lambda seed: np.random.default_rng(seed).normal(-30, 20, num_frames)))
    edges = find_edges(cores, energy_db_T)
    assert len(edges) == len(cores)
    times = [0, *(time for edge in edges for time in edge), num_frames]
    assert times == sorted(times)
    for (start, end), (_, last) in zip(edges, cores, strict=True):
        assert start < last <= end


def hypotheses(lens: list[int], vocab_size: int) -> st.SearchStrategy[list[Hypothesis]]:
    def one(length: int) -> st.SearchStrategy[Hypothesis]:
        ids = st.lists(st.integers(1, vocab_size - 1), max_size=length).map(tuple)
        return ids.map(lambda ids: Hypothesis(ids, tuple(range(len(ids))), (-0.5,) * len(ids)))

    return st.tuples(*map(one, lens)).map(list)


@given(data=st.data(), tokenizer=st.sampled_from([LETTERS, TABLE]), seed=st.integers(0, 1000))
def test_spans_are_in_order_and_inside(data: st.DataObject, tokenizer: Tokenizer, seed: int) -> None:
    """This also holds with <unk>, <sos/eos>, spaces in odd places, and hypotheses that leave no room."""
    lens = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=4))
    vocab_size = tokenizer.vocab_size
    found = data.draw(hypotheses(lens, vocab_size))
    encoded = toy_encoded(lens, vocab_size, seed=seed)
    features = [random_features(4 * length + 7, seed) for length in lens]
    spans = align_hypotheses(ToyScorer(vocab_size), encoded, features, found, tokenizer=tokenizer)
    assert [len(row) for row in spans] == [len(hypothesis.ids) for hypothesis in found]
    for row, frames in zip(spans, features, strict=True):
        times = [0.0, *(time for span in row for time in span), len(frames) / 4]
        assert times == sorted(times)


def test_batch_and_order_change_nothing() -> None:
    lens = [20, 12, 0, 30]
    encoded, scorer = toy_encoded(lens, LETTERS.vocab_size, seed=1), ToyScorer(LETTERS.vocab_size)
    features = [random_features(4 * length + 7, length) for length in lens]
    found = [Hypothesis(ids) for ids in ((SPACE, A, B), (SPACE, B), (), (SPACE, A, SPACE, B, A))]
    together = align_hypotheses(scorer, encoded, features, found, tokenizer=LETTERS)
    for n, length in enumerate(lens):
        one = Encoded(encoded.frames[n : n + 1, :length], encoded.lens[n : n + 1])
        assert align_hypotheses(scorer, one, features[n : n + 1], found[n : n + 1], tokenizer=LETTERS) == together[n : n + 1]
    order = [3, 2, 0, 1]
    mixed = Encoded(encoded.frames[order], encoded.lens[order])
    spans = align_hypotheses(scorer, mixed, [features[n] for n in order], [found[n] for n in order], tokenizer=LETTERS)
    assert spans == [together[n] for n in order]


def test_a_word_lasts_from_edge_to_edge() -> None:
    """Each label lasts one frame and the space comes early; AB is audible from 0.5 to 1.1 s and B from 1.5 to 1.8 s."""
    path = {8: SPACE, 13: A, 18: B, 33: SPACE, 38: B}
    frames = torch.zeros(1, 60, LETTERS.vocab_size)
    for frame in range(60):
        frames[0, frame, path.get(frame, 0)] = 20.0
    levels = energy((50, -60.0), (60, 0.0), (40, -60.0), (30, 0.0), (67, -60.0))
    features = torch.from_numpy(levels * np.log(10) / 10).float().unsqueeze(1)
    ids = (SPACE, A, B, SPACE, B)
    encoded = Encoded(frames, torch.tensor([60]))
    (spans,) = align_hypotheses(ToyScorer(LETTERS.vocab_size), encoded, [features], [Hypothesis(ids)], tokenizer=LETTERS)
    assert spans == [
        TokenSpan(12.5, 12.5),
        TokenSpan(12.5, 18.75),
        TokenSpan(18.75, 27.5),
        TokenSpan(37.5, 37.5),
        TokenSpan(37.5, 45.0),
    ]


def test_tokens_of_one_frame_share_it() -> None:
    assert emission_spans([]) == []
    assert emission_spans([3, 4, 4, 4, 4, 9]) == [
        TokenSpan(3, 4),
        TokenSpan(4, 4.25),
        TokenSpan(4.25, 4.5),
        TokenSpan(4.5, 4.75),
        TokenSpan(4.75, 5),
        TokenSpan(9, 10),
    ]


def test_no_room_leaves_the_emission_frames() -> None:
    encoded = toy_encoded([2], LETTERS.vocab_size, seed=0)
    found = [Hypothesis((A, B, A), (0, 1, 1), (-1.0,) * 3)]
    spans = align_hypotheses(ToyScorer(LETTERS.vocab_size), encoded, [random_features(15)], found, tokenizer=LETTERS)
    assert spans == [[TokenSpan(0.0, 1.0), TokenSpan(1.0, 1.5), TokenSpan(1.5, 2.0)]]


def test_nothing_found_and_wrong_arguments() -> None:
    encoded, scorer = toy_encoded([5, 3], LETTERS.vocab_size, seed=0), ToyScorer(LETTERS.vocab_size)
    features = [random_features(27), random_features(19)]
    assert align_hypotheses(scorer, encoded, features, [Hypothesis()] * 2, tokenizer=LETTERS) == [[], []]
    with pytest.raises(ValueError, match="features and a hypothesis for each of 2 utterances, but there are 1 and 2"):
        align_hypotheses(scorer, encoded, features[:1], [Hypothesis()] * 2, tokenizer=LETTERS)
