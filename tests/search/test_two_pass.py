"""Two passes over streams. Law: any split of the frames in any batch gives the hypotheses of the whole utterance, and what
comes before the end is the first pass alone. Contract: utterances that follow others, and those that never end."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.chunked import advance_in_chunks
from tests.search.toy_prior import ToyPrior
from tests.search.toy_scorer import ToyScorer, toy_encoded
from zipasr.nn.encoded import Encoded
from zipasr.search.finding import find_hypotheses
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.joint import JointScorer
from zipasr.search.prefix import CtcPrefixSearch
from zipasr.search.strategy import NO_LANGUAGE_MODELS, LanguageModels, SearchConfig, make_prior, make_search
from zipasr.search.two_pass import LONGEST_S, JointStreamSearch, TwoPassState, first_passes, make_stream_search

VOCAB = 6
HOTWORDS = HotwordGraph([((2, 3), 1.5), ((4,), 0.7)])


class RareLabels(ToyScorer):
    """An attention decoder that knows nothing of the frames and likes some labels."""

    has_attention = True

    def attention_log_probs(self, encoded: Encoded, labels_NKS: torch.Tensor, label_lens_NK: torch.Tensor) -> torch.Tensor:
        is_label = torch.arange(labels_NKS.shape[2]) < label_lens_NK.unsqueeze(-1)
        scores = (labels_NKS * 7 % 5 - encoded.frames.mean()) * is_label
        return torch.nn.functional.pad(scores, (0, 1), value=-1.0)


CONFIGS = {
    "joint": SearchConfig(method="joint", ctc_scale=0.7, num_best=3, temperature=1.3),
    "joint, the best alone": SearchConfig(method="joint", ctc_scale=1.0),
    "joint, 3 a frame": SearchConfig(method="joint", num_best=2, max_symbols_per_frame=3, blank_penalty=0.5),
    "attention": SearchConfig(method="attention_rescoring", attention_scale=0.5, num_best=4),
}
PRIORS: dict[str, Callable[[], tuple[LanguageModels, HotwordGraph | None]]] = {
    "nothing": lambda: (NO_LANGUAGE_MODELS, None),
    "model and hotwords": lambda: (LanguageModels(ToyPrior(VOCAB, seed=3, end=0.3)), HOTWORDS),
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", CONFIGS)
@settings(deadline=None, max_examples=20)
@given(
    lens=st.lists(st.integers(1, 24), min_size=1, max_size=4),
    context_size=st.integers(2, 3),
    blank_bonus=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_any_split_in_any_batch_equals_the_whole_utterance(
    name: str, prior: str, lens: list[int], context_size: int, blank_bonus: float, seed: int
) -> None:
    scorer, config, generator = RareLabels(VOCAB, context_size, seed), CONFIGS[name], random.Random(seed)
    encoded = toy_encoded(lens, VOCAB, seed=seed + 1, blank_bonus=blank_bonus)
    models, hotwords = PRIORS[prior]()
    expected = find_hypotheses(scorer, encoded, config, unk_id=1, language_models=models, hotwords=hotwords)
    search: Any = make_stream_search(scorer, config, unk_id=1, language_models=models)
    first = make_search(scorer, first_passes(config)[0], unk_id=1, language_models=models)
    own = make_prior(config, language_models=models, hotwords=hotwords)
    states, alone = [search.start(own) for _ in lens], [first.start(own) for _ in lens]
    first.advance(alone, encoded)
    for is_asked in advance_in_chunks(search, states, encoded, generator, most_frames=7):
        if is_asked:
            search.hypotheses(states)
    for found, wanted in zip(search.hypotheses(states, config.num_best), expected, strict=True):
        assert [(h.ids, h.frames) for h in found] == [(h.ids, h.frames) for h in wanted]
        assert [h.score for h in found] == pytest.approx([h.score for h in wanted], abs=1e-4)
    partial = search.partial_hypotheses(states, 1)
    assert [ranked[0].ids for ranked in partial] == [ranked[0].ids for ranked in first.hypotheses(alone, 1)]


def joint_search(scorer: ToyScorer) -> Any:
    return make_stream_search(scorer, SearchConfig(method="joint", ctc_scale=1.0))


def test_the_second_pass_continues_after_the_labels_before() -> None:
    """Reference: the score of the first pass where it sums over all paths, of a text that begins after other labels."""
    scorer, search = ToyScorer(VOCAB, 2, seed=4), joint_search(ToyScorer(VOCAB, 2, seed=4))
    encoded = toy_encoded([14], VOCAB, seed=8)
    state = search.start()
    search.advance([state], Encoded(encoded.frames[:, :10], torch.tensor([10])))
    assert len(search.partial_hypotheses([state], 1)[0][0].ids) >= 2
    after: TwoPassState = search.restart(state)
    assert after.num_frames == 0 and after.frames == []
    rest = Encoded(encoded.frames[:, 10:12], torch.tensor([2]))
    search.advance([after], rest)
    wide: Any = make_search(scorer, SearchConfig(method="beam", beam=VOCAB**2))
    begun = wide.start()
    begun.context = after.states[0].context  # type: ignore[attr-defined]
    assert begun.context != wide.start().context
    wide.advance([begun], rest)
    of_all = {hypothesis.ids: hypothesis.score for hypothesis in wide.hypotheses([begun])[0]}
    (found,) = search.hypotheses([after])
    before = after.states[1].before  # type: ignore[attr-defined]
    ((scores),) = JointScorer(scorer).score(rest, [found], [[]], context=begun.context, before=before)
    assert scores.transducer == pytest.approx([of_all[hypothesis.ids] for hypothesis in found], abs=1e-5)
    ((others),) = JointScorer(scorer).score(rest, [found], [[]])
    assert others.transducer != pytest.approx(scores.transducer, abs=1e-2)
    totals = [a + b for a, b in zip(scores.transducer, scores.ctc, strict=True)]
    assert [hypothesis.score for hypothesis in found] == pytest.approx(totals, abs=1e-5)


@pytest.mark.parametrize("label_bonus", [0.0, 2.0, 20.0])
def test_ctc_goes_on_with_the_label_before(label_bonus: float) -> None:
    """Reference: the first pass, which sums over all alignments. The label lasts over the restart, more or less surely."""
    scorer, encoded = ToyScorer(4), toy_encoded([8], 4, seed=3)
    encoded.frames[0, 3:6, 2] += label_bonus
    by_ctc = CtcPrefixSearch(scorer, beam=1000)
    state = by_ctc.start()
    assert state.before is None
    by_ctc.advance([state], Encoded(encoded.frames[:, :4], torch.tensor([4])))
    after = by_ctc.restart(by_ctc.restart(state))
    assert after.before is not None and after.before.label == state.paths[0].prefix.label
    rest = Encoded(encoded.frames[:, 4:], torch.tensor([4]))
    by_ctc.advance([after], rest)
    (found,) = by_ctc.hypotheses([after])
    assert {(2, 2), (2,), (), (1, 3)} <= {hypothesis.ids for hypothesis in found}
    (scores,) = JointScorer(scorer).score(rest, [[]], [found], before=after.before)
    assert scores.ctc == pytest.approx([hypothesis.score for hypothesis in found], abs=1e-4)
    (others,) = JointScorer(scorer).score(rest, [[]], [found])
    assert others.ctc != pytest.approx(scores.ctc, abs=1e-2)


class DeafTransducer(ToyScorer):
    """A transducer that always gives blank, beside a CTC head that follows the frames."""

    def join(self, frames_MJ: torch.Tensor, contexts_MJ: torch.Tensor) -> torch.Tensor:
        return super().join(torch.zeros_like(frames_MJ), 0.0 * contexts_MJ) + 20.0 * torch.eye(VOCAB)[0]


def said(labels: list[int]) -> Encoded:
    """Frames in which CTC finds these labels, 0 for blank."""
    return Encoded(30.0 * torch.eye(VOCAB)[labels].unsqueeze(0), torch.tensor([len(labels)]))


def test_speech_is_what_either_head_finds() -> None:
    search = joint_search(DeafTransducer(VOCAB))
    state = search.start()
    search.advance([state], said([0, 2, 0, 3, 0, 0]))
    assert search.partial_hypotheses([state], 1)[0][0].ids == ()
    assert search.speech_hypothesis(state).frames == (1, 3)
    assert search.hypotheses([state], 1)[0][0].ids == (2, 3)
    after = search.restart(state)
    assert search.speech_hypothesis(after).frames == ()


def test_utterances_without_end_keep_no_frames() -> None:
    search: JointStreamSearch = joint_search(DeafTransducer(VOCAB))
    state = search.start()
    most = round(LONGEST_S * 25)
    search.advance([state], said([0, 2] + [0] * (most - 2)))
    assert search.hypotheses([state], 1)[0][0].ids == (2,)
    search.advance([state], said([3]))
    assert state.frames is None
    assert search.hypotheses([state], 1)[0][0].ids == ()  # the first pass alone
    search.advance([state], said([3]))
    assert state.frames is None and state.num_frames == most + 2
    after = search.restart(state)
    search.advance([after], said([0, 4]))
    assert search.hypotheses([after], 1)[0][0].ids == (4,)


def test_frames_are_kept_without_their_batch() -> None:
    search = joint_search(ToyScorer(VOCAB))
    states = [search.start() for _ in range(8)]
    search.advance(states, toy_encoded([6] * 8, VOCAB, seed=1))
    (kept,) = states[3].frames
    assert kept.untyped_storage().nbytes() == kept.nbytes
