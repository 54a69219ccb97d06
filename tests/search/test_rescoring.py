"""Attention rescoring. Golden: the original's scores. Reference: totals added by hand. Law: the batch changes nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.search.golden_model import golden_encoded, golden_model
from tests.search.toy_prior import ToyPrior
from tests.search.toy_scorer import ToyScorer, toy_encoded
from zipasr.nn.encoded import Encoded
from zipasr.search import finding
from zipasr.search.finding import find_hypotheses, find_with_each
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prefix import ctc_prefix_search
from zipasr.search.rescoring import SCALES, attention_rescoring, attention_scores, rescored_by_prior
from zipasr.search.strategy import SearchConfig


class LongLover(ToyScorer):
    """An attention decoder that makes every label likely and the end unlikely."""

    has_attention = True

    def attention_log_probs(self, encoded: Encoded, labels_NKS: Tensor, label_lens_NK: Tensor) -> Tensor:
        position = torch.arange(labels_NKS.shape[2] + 1)
        log_probs = -0.5 * (position < label_lens_NK.unsqueeze(-1)) - 3.0 * (position == label_lens_NK.unsqueeze(-1))
        return log_probs - 1.0 * encoded.lens.view(-1, 1, 1) * (position == 0)


def of(ids: tuple[int, ...], score: float) -> Hypothesis:
    return Hypothesis(ids, tuple(range(len(ids))), (-0.1,) * len(ids), score)


def test_scores_equal_golden() -> None:
    model, meta, tensors = golden_model()
    hypotheses = [[of(tuple(ids), 0.0)] for ids in meta["aed_tokens"]]
    found = torch.tensor(attention_scores(model, golden_encoded(tensors), hypotheses)).squeeze(1)
    torch.testing.assert_close(found, -tensors["out.aed_nll"].sum(1), rtol=1e-5, atol=0.0)


def test_totals_and_order() -> None:
    encoded = toy_encoded([4, 6], 5, seed=0)
    hypotheses = [[of((1,), -1.0), of((1, 2), -1.2), of((), -3.0)], [of((4, 4, 4), -2.0)]]
    assert attention_scores(LongLover(5), encoded, hypotheses) == [[-7.5, -8.0, -7.0], [-10.5]]
    found = attention_rescoring(LongLover(5), encoded, hypotheses, scale=5.0)
    assert [hypothesis.ids for hypothesis in found[0]] == [(), (1,), (1, 2)]
    assert [hypothesis.score for hypothesis in found[0]] == pytest.approx([-38.0, -38.5, -41.2])
    assert found[1][0] == hypotheses[1][0]._replace(score=-2.0 - 5.0 * 10.5)
    unchanged = attention_rescoring(LongLover(5), encoded, hypotheses, scale=0.0)
    assert unchanged == hypotheses


def test_scales_share_one_search_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All published scales at once give what each gives alone, for two calls of the CTC search and of the decoder."""
    model, _, tensors = golden_model()
    encoded = golden_encoded(tensors)
    searches = [
        SearchConfig(method="attention_rescoring", beam=8, attention_scale=scale, blank_penalty=penalty)
        for scale in SCALES
        for penalty in (0.0, 1.0)
    ]
    searches.append(SearchConfig(method="ctc_beam", beam=8))
    alone = [find_hypotheses(model, encoded, search) for search in searches]
    calls = {"search_all": 0, "attention_scores": 0}
    for name in calls:
        original = getattr(finding, name)

        def counted(*given: Any, name: str = name, original: Any = original) -> Any:
            calls[name] += 1
            return original(*given)

        monkeypatch.setattr(finding, name, counted)
    assert list(find_with_each(model, encoded, searches)) == alone
    assert calls == {"search_all": 3, "attention_scores": 2}
    assert len({tuple(best.ids for (best,) in found) for found in alone}) > 1, "the scales make no difference"


def test_results_depend_neither_on_the_batch_nor_on_its_order() -> None:
    model, _, tensors = golden_model()
    encoded = golden_encoded(tensors)
    hypotheses = ctc_prefix_search(model, encoded, beam=6)
    together = attention_scores(model, encoded, hypotheses)
    assert all(len(set(scores)) == 6 for scores in together)
    order = [2, 0, 1]
    shuffled = attention_scores(model, Encoded(encoded.frames[order], encoded.lens[order]), [hypotheses[n] for n in order])
    assert [shuffled[order.index(n)] for n in range(3)] == together
    for n, length in enumerate(encoded.lens.tolist()):
        alone = Encoded(encoded.frames[n : n + 1, :length], encoded.lens[n : n + 1])
        assert attention_scores(model, alone, [hypotheses[n]]) == [together[n]]
        for k in range(6):
            assert attention_scores(model, alone, [hypotheses[n][k : k + 1]])[0][0] == pytest.approx(
                together[n][k], rel=1e-5
            )


def test_empty_utterances_and_lists() -> None:
    model, _, tensors = golden_model()
    frames = golden_encoded(tensors).frames
    found = attention_rescoring(
        model, Encoded(frames, torch.tensor([0, 5, 9])), [[Hypothesis()], [], [of((3,), -1.0)]], scale=0.5
    )
    assert [len(ranked) for ranked in found] == [1, 0, 1]
    assert torch.tensor([found[0][0].score, found[2][0].score]).isfinite().all()


def test_wrong_arguments_are_refused() -> None:
    encoded = toy_encoded([4], 5, seed=0)
    with pytest.raises(ValueError, match="scale must be 0 or more, but is -1"):
        attention_rescoring(LongLover(5), encoded, [[Hypothesis()]], scale=-1.0)
    with pytest.raises(ValueError, match="hypotheses must be a list for each of 1 utterances, but are 2 lists"):
        attention_scores(LongLover(5), encoded, [[], []])
    with pytest.raises(ValueError, match="no attention decoder"):
        attention_scores(ToyScorer(5), encoded, [[Hypothesis()]])


def test_a_prior_ranks_by_the_score_of_labels_and_end() -> None:
    prior = ToyPrior(5, seed=2, end=0.3)
    hypotheses = [of((1, 2, 3), -1.0), of((), -1.5), of((4,), -0.5), of((1, 2), -0.8)]

    def total(hypothesis: Hypothesis) -> float:
        state, score = prior.start(), hypothesis.score
        for label in hypothesis.ids:
            (state,), (more,) = prior.extend([state], [label])
            score += more
        return score + prior.finish([state])[0]

    found = rescored_by_prior(hypotheses, prior)
    assert [h.score for h in found] == pytest.approx(sorted(map(total, hypotheses), reverse=True))
    assert {h.ids: h.score for h in found} == pytest.approx({h.ids: total(h) for h in hypotheses})
    assert rescored_by_prior([], prior) == []
