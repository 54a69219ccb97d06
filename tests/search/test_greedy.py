"""Greedy searches.

Golden: the original's tokens and times. Reference: frame by frame. Law: windows and batches change nothing.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden_files import assert_close_to
from tests.search.golden_model import golden_encoded, golden_model, ragged
from tests.search.hypotheses import assert_same
from tests.search.toy_scorer import ToyScorer, label_scores, toy_encoded
from zipasr.nn.encoded import Encoded
from zipasr.search import greedy
from zipasr.search.greedy import GreedySearch, ctc_greedy_search, greedy_search
from zipasr.search.hypothesis import Hypothesis


def greedy_frame_by_frame(
    scorer: ToyScorer, encoded: Encoded, unk_id: int | None = None, max_symbols: int = 1, **settings: float
) -> list[Hypothesis]:
    found = []
    for frames, length in zip(encoded.frames, encoded.lens.tolist(), strict=True):
        ids, times, log_probs, score = (), (), (), 0.0
        for t in range(length):
            for _ in range(max_symbols):
                scores = label_scores(scorer, frames[t], ids, **settings)
                label = int(scores.argmax())
                score += scores[label].item()
                if label in (0, unk_id):
                    break
                ids, times, log_probs = (*ids, label), (*times, t), (*log_probs, scores[label].item())
        found.append(Hypothesis(ids, times, log_probs, score))
    return found


@pytest.mark.parametrize(("name", "uses_penalty"), [("greedy", False), ("greedy_bp1", True)])
def test_golden_tokens(name: str, uses_penalty: bool) -> None:
    model, meta, tensors = golden_model()
    penalty = meta["blank_penalty"] if uses_penalty else 0.0
    found = greedy_search(model, golden_encoded(tensors), blank_penalty=penalty)
    assert [h.ids for h in found] == ragged(tensors, name)


@pytest.mark.parametrize(("name", "max_symbols"), [("greedy_single", 1), ("greedy_single_max", 3)])
@pytest.mark.parametrize("window", [1, 8])
def test_golden_tokens_of_single_utterances(name: str, max_symbols: int, window: int) -> None:
    """This also holds with more labels per frame."""
    model, _, tensors = golden_model()
    encoded = golden_encoded(tensors)
    suffix = "3_" if max_symbols == 3 else ""
    for n, length in enumerate(encoded.lens.tolist()):
        one = Encoded(encoded.frames[n : n + 1, :length], encoded.lens[n : n + 1])
        (found,) = greedy_search(model, one, max_symbols_per_frame=max_symbols, window_frames_25hz=window)
        assert [found.ids] == ragged(tensors, f"{name}{suffix}{n}")
        assert max(found.frames.count(frame) for frame in found.frames) <= max_symbols


def test_golden_times_and_scores() -> None:
    model, _, tensors = golden_model()
    encoded = golden_encoded(tensors)
    found = greedy_search(model, encoded)
    assert [h.frames for h in found] == ragged(tensors, "greedy_ts")
    # The original keeps the logit of each token; ours is its log-probability, so compare after normalizing.
    logits = []
    for n, hypothesis in enumerate(found):
        for i, (label, frame) in enumerate(zip(hypothesis.ids, hypothesis.frames, strict=True)):
            context = (-1, 0, *hypothesis.ids[:i])[-2:]
            with torch.no_grad():
                projected = model.project_frames(encoded.frames[n : n + 1, frame])
                scores = model.join(projected, model.predict(torch.tensor([context])))[0]
            logits.append(scores[label])
            assert hypothesis.log_probs[i] == pytest.approx(scores.log_softmax(-1)[label].item(), abs=1e-5)
    assert_close_to(torch.stack(logits), tensors["out.greedy_scores"])


def test_golden_through_our_encoder() -> None:
    model, _, tensors = golden_model()
    with torch.no_grad():
        encoded = model.encode(tensors["in.x"], tensors["in.x_lens"])
    assert [h.ids for h in greedy_search(model, encoded)] == ragged(tensors, "greedy")
    assert [h.ids for h in ctc_greedy_search(model, encoded)] == ragged(tensors, "ctc_greedy")


def test_golden_ctc() -> None:
    model, _, tensors = golden_model()
    assert [h.ids for h in ctc_greedy_search(model, golden_encoded(tensors))] == ragged(tensors, "ctc_greedy")


@settings(deadline=None, max_examples=60)
@given(
    lens=st.lists(st.integers(0, 25), min_size=1, max_size=5),
    window=st.integers(1, 12),
    context_size=st.integers(1, 3),
    blank_bonus=st.sampled_from([-2.0, 0.0, 3.0, 8.0]),
    penalty=st.sampled_from([0.0, 1.5]),
    temperature=st.sampled_from([1.0, 2.0]),
    unk_id=st.sampled_from([None, 2]),
    max_symbols=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_any_window_equals_frame_by_frame(
    lens: list[int],
    window: int,
    context_size: int,
    blank_bonus: float,
    penalty: float,
    temperature: float,
    unk_id: int | None,
    max_symbols: int,
    seed: int,
) -> None:
    scorer = ToyScorer(6, context_size, seed)
    encoded = toy_encoded(lens, 6, seed=seed + 1, blank_bonus=blank_bonus)
    found = greedy_search(
        scorer,
        encoded,
        blank_penalty=penalty,
        temperature=temperature,
        unk_id=unk_id,
        max_symbols_per_frame=max_symbols,
        window_frames_25hz=window,
    )
    expected = greedy_frame_by_frame(scorer, encoded, unk_id, max_symbols, blank_penalty=penalty, temperature=temperature)
    assert_same(found, expected)


@pytest.mark.parametrize("search", [greedy_search, ctc_greedy_search])
def test_batch_and_order_and_padding_change_nothing(search) -> None:
    lens = [7, 20, 0, 13, 1]
    scorer, encoded = ToyScorer(5), toy_encoded(lens, 5, seed=3, blank_bonus=2.0)
    together = search(scorer, encoded)
    for n, length in enumerate(lens):
        alone = search(scorer, Encoded(encoded.frames[n : n + 1, :length], encoded.lens[n : n + 1]))
        assert_same(alone, together[n : n + 1])
    order = [3, 0, 4, 2, 1]
    assert_same(search(scorer, Encoded(encoded.frames[order], encoded.lens[order])), [together[n] for n in order])


def test_window_saves_joiner_calls() -> None:
    encoded = toy_encoded([200], 6, seed=0, blank_bonus=20.0)
    scorer = ToyScorer(6)
    assert greedy_search(scorer, encoded)[0].ids == ()
    assert scorer.num_joins == 25


def test_ctc_merges_repeats_and_drops_blanks() -> None:
    path = [0, 3, 3, 0, 3, 2, 2, 1, 0]
    frames = torch.full((1, len(path), 4), -1.0)
    frames[0, range(len(path)), path] = 4.0
    (found,) = ctc_greedy_search(ToyScorer(4), Encoded(frames, torch.tensor([len(path)])))
    assert (found.ids, found.frames) == ((3, 3, 2, 1), (1, 4, 5, 7))
    log_prob = frames[0, 0].log_softmax(-1).max().item()
    assert found.log_probs == pytest.approx((log_prob,) * 4)
    assert found.score == pytest.approx(log_prob * len(path))


def test_ctc_blank_penalty_and_temperature() -> None:
    encoded = toy_encoded([30], 5, seed=1, blank_bonus=3.0)
    scorer = ToyScorer(5)
    (plain,), (eager,) = ctc_greedy_search(scorer, encoded), ctc_greedy_search(scorer, encoded, blank_penalty=5.0)
    assert len(eager.ids) > len(plain.ids)
    (warm,) = ctc_greedy_search(scorer, encoded, temperature=3.0)
    assert warm.ids == plain.ids
    assert warm.score < plain.score


def test_no_utterances_and_no_frames() -> None:
    scorer = ToyScorer(4)
    for search in (greedy_search, ctc_greedy_search):
        assert search(scorer, Encoded(torch.zeros(0, 0, 4), torch.zeros(0, dtype=torch.int64))) == []
        assert search(scorer, Encoded(torch.zeros(2, 0, 4), torch.zeros(2, dtype=torch.int64))) == [Hypothesis()] * 2


def test_wrong_arguments() -> None:
    scorer, encoded = ToyScorer(4), toy_encoded([3], 4, seed=0)
    with pytest.raises(ValueError, match="window_frames_25hz must be at least 1"):
        greedy_search(scorer, encoded, window_frames_25hz=0)
    with pytest.raises(ValueError, match="max_symbols_per_frame must be at least 1, but is 0"):
        greedy_search(scorer, encoded, max_symbols_per_frame=0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        greedy_search(scorer, encoded, temperature=0.0)
    with pytest.raises(ValueError, match="lens must be 1 lengths from 0 to 3"):
        greedy_search(scorer, Encoded(encoded.frames, torch.tensor([4])))


@pytest.mark.parametrize(("max_contexts", "is_forgetful"), [(1000, False), (3, True)])
def test_label_contexts_are_known_in_the_next_chunk(
    max_contexts: int, is_forgetful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predictor is not asked for them again, until there are too many."""
    monkeypatch.setattr(greedy, "_MAX_CONTEXTS", max_contexts)
    scorer, encoded, num_predicted = ToyScorer(6), toy_encoded([40] * 3, 6, seed=4), 0
    expected, predict = [h.ids for h in greedy_search(scorer, encoded)], scorer.predict

    def count(contexts_MC: torch.Tensor) -> torch.Tensor:
        nonlocal num_predicted
        num_predicted += len(contexts_MC)
        return predict(contexts_MC)

    monkeypatch.setattr(scorer, "predict", count)
    search, totals = GreedySearch(scorer), []
    for _ in range(3):
        states = [search.start() for _ in range(3)]
        for start in range(0, 40, 8):
            search.advance(states, Encoded(encoded.frames[:, start : start + 8], torch.full((3,), 8)))
        assert [state.hypothesis().ids for state in states] == expected
        totals.append(num_predicted)
    assert (totals[2] > totals[0]) == is_forgetful
    assert search._contexts.num_rows <= max_contexts + 3 * 8 + 3
