"""Validation. Reference: manually counted errors on a model whose output is known. Law: batches change nothing."""

import dataclasses
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.train.tones import RATE_HZ, cut_of, minute_config, minute_model, say, with_attention, without_heads
from zipasr.data.batching import Batch
from zipasr.model import AsrModel
from zipasr.search import comparison
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.rescoring import SCALES
from zipasr.search.strategy import Method, SearchConfig
from zipasr.tokenizer import Tokenizer
from zipasr.train import validation
from zipasr.train.validation import validate, validation_batches

TEXTS = {"a": "LO MID", "b": "HI", "c": "UP DOWN LO"}
TOKENIZER = Tokenizer.train([*TEXTS.values()], kind="char", vocab_size=14)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder, generator = tmp_path_factory.mktemp("sound"), np.random.default_rng(0)
    for name, text in TEXTS.items():
        soundfile.write(folder / f"{name}.flac", say(text.split(), generator), RATE_HZ)
    return [cut_of(folder / f"{name}.flac", text) for name, text in TEXTS.items()]


class Costly:
    """A prior that makes every label unlikely."""

    def start(self) -> int:
        return 0

    def extend(self, states: Sequence[int], labels: Sequence[int]) -> tuple[list[int], list[float]]:
        return [0] * len(states), [-40.0] * len(labels)

    def finish(self, states: Sequence[int]) -> list[float]:
        return [0.0] * len(states)


def dev_batches(cuts: list[Any], max_duration_s: float) -> list[Batch]:
    config = minute_config()
    batch = dataclasses.replace(config.batch, max_duration_s=max_duration_s)
    return validation_batches(cuts, TOKENIZER, dataclasses.replace(config, batch=batch))


def test_errors_are_counted_over_all_words(cuts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"a": "LO MID", "b": "", "c": "UP LO LO"}  # one deletion, one substitution in 6 words
    order: list[str] = []

    def find(model: AsrModel, encoded: Any, searches: list[SearchConfig], **_: Any) -> Iterator[list[list[Hypothesis]]]:
        for search in searches:
            if search == SearchConfig(method="greedy"):
                names = [order.pop(0) for _ in range(len(encoded.lens))]
                yield [[Hypothesis(tuple(TOKENIZER.encode(said[name])))] for name in names]
            else:
                yield [[Hypothesis()]] * len(encoded.lens)

    monkeypatch.setattr(comparison, "find_with_each", find)
    batches = dev_batches(cuts, 100.0)
    order += [name for batch in batches for name in batch.ids]
    found = validate(minute_model(vocab_size=TOKENIZER.vocab_size).eval(), batches, TEXTS, TOKENIZER, CPU)
    assert found.metrics["transducer_wer"] == found.metrics["wer"] == pytest.approx(100 * 2 / 6)
    assert found.metrics["ctc_wer"] == 100.0
    assert found.metrics["deletions"] == pytest.approx(100 / 6)
    assert found.best.search == SearchConfig(method="greedy")
    assert (found.num_utterances, found.is_whole, found.what) == (3, True, "dev (3 utterances)")


def test_a_long_dev_set_is_compared_in_part_and_counted_whole(cuts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = minute_model(vocab_size=TOKENIZER.vocab_size).eval(), dev_batches(cuts, 0.1)
    whole = validate(model, batches, TEXTS, TOKENIZER, CPU)
    monkeypatch.setattr(validation, "COMPARED_S", 0.6 * sum(batch.audio_s for batch in batches))
    part = validate(model, batches, TEXTS, TOKENIZER, CPU)
    assert (part.num_utterances, part.is_whole, part.what) == (2, False, "dev (2 utterances, a part)")
    for name in ("transducer_wer", "ctc_wer", "pruned_loss", "ctc_loss"):
        assert part.metrics[name] == pytest.approx(whole.metrics[name])
    assert part.metrics["wer"] == min(part.metrics["transducer_wer"], part.metrics["ctc_wer"])
    (num_words,) = {result.errors.words.num_reference for result in part.searches}
    assert num_words < 6


def test_characters_are_counted_if_the_vocabulary_has_no_spaces(cuts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"a": "天 天天", "b": "地", "c": "地天"}
    tokenizer = Tokenizer.train(texts.values(), kind="spaceless", vocab_size=None)
    cuts = [cut.map_supervisions(lambda s: dataclasses.replace(s, text=texts[s.id])) for cut in cuts]
    said = Hypothesis(tuple(tokenizer.encode("天地")), (), (), 0.0)  # 2 errors in a, 1 in b, 2 in c
    monkeypatch.setattr(
        comparison, "find_with_each", lambda model, encoded, searches, **_: ([[said]] * len(encoded.lens) for _ in searches)
    )
    batches = validation_batches(cuts, tokenizer, minute_config())
    assert sum(int(batch.label_lens.sum()) for batch in batches) == 6
    model = minute_model(vocab_size=tokenizer.vocab_size).eval()
    assert validate(model, batches, texts, tokenizer, CPU).metrics["wer"] == pytest.approx(100 * 5 / 6)


def test_the_search_of_a_run_is_tuned_and_becomes_the_best(cuts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scale is the published one with the fewest errors, even if another search has fewer."""
    own = SearchConfig(method="attention_rescoring", beam=100)

    def find(model: AsrModel, encoded: Any, searches: list[SearchConfig], **_: Any) -> Iterator[list[list[Hypothesis]]]:
        for search in searches:
            text = "LO MID" if search.attention_scale in (1.9, 2.3) or search.method == "ctc_beam" else ""
            text = "MID LO" if search.method == "ctc_greedy" else text
            yield [[Hypothesis(tuple(TOKENIZER.encode(text)))]] * len(encoded.lens)

    monkeypatch.setattr(comparison, "find_with_each", find)
    run = without_heads(with_attention(minute_config()), has_transducer=False, has_ctc=True)
    model = AsrModel(dataclasses.replace(run.model, vocab_size=TOKENIZER.vocab_size)).eval()
    batches = [batch for batch in dev_batches(cuts, 0.1) if batch.ids == ("a",)]
    found = validate(model, batches, TEXTS, TOKENIZER, CPU, own)
    assert found.own is not None and found.best is found.own is found.searches[-1]
    assert found.own.search == dataclasses.replace(own, attention_scale=1.9)  # the first of the best
    assert found.metrics["wer"] == found.own.wer == 0.0
    assert comparison.ScaleTuning(model, TOKENIZER, own).searches == [
        dataclasses.replace(own, attention_scale=scale) for scale in SCALES
    ]
    plain = validate(model, batches, TEXTS, TOKENIZER, CPU)
    assert plain.own is None and plain.best.search.method == "ctc_beam"
    fixed = validate(model, batches, TEXTS, TOKENIZER, CPU, SearchConfig(method="ctc_greedy"))
    assert fixed.best.search.method == "ctc_greedy" and fixed.metrics["wer"] > 0.0


@pytest.mark.parametrize("method", ["ctc_beam", "joint"])
def test_the_search_of_a_run_is_measured_with_its_ngram(cuts: list[Any], method: Method) -> None:
    """It is the one that the comparison also tries, so both have the same errors, and it is listed once."""
    own = SearchConfig(method=method, ngram_scale=comparison.NGRAM_SCALE)
    torch.manual_seed(0)
    model = minute_model(vocab_size=TOKENIZER.vocab_size).eval()
    batches, ngram = dev_batches(cuts, 100.0), Costly()
    expected = {found.search: found for found in validate(model, batches, TEXTS, TOKENIZER, CPU, None, ngram).searches}
    assert expected[own].errors != expected[own.reset(["ngram_scale"])].errors  # the n-gram matters
    found = validate(model, batches, TEXTS, TOKENIZER, CPU, own, ngram)
    assert found.own is not None and found.own.errors == expected[own].errors
    assert [result.search for result in found.searches].count(own) == 1
    assert found.metrics["wer"] == expected[own].wer


@pytest.mark.parametrize("has_attention", [False, True])
@pytest.mark.parametrize(("has_transducer", "has_ctc"), [(True, True), (True, False), (False, True)])
def test_batches_change_nothing(cuts: list[Any], has_transducer: bool, has_ctc: bool, has_attention: bool) -> None:
    run = with_attention(minute_config()) if has_attention else minute_config()
    config = without_heads(run, has_transducer=has_transducer, has_ctc=has_ctc).model
    torch.manual_seed(0)
    model = AsrModel(dataclasses.replace(config, vocab_size=TOKENIZER.vocab_size)).eval()
    one = validate(model, dev_batches(cuts, 0.1), TEXTS, TOKENIZER, CPU)
    all_at_once = validate(model, dev_batches(cuts, 100.0), TEXTS, TOKENIZER, CPU)
    assert one.metrics == pytest.approx(all_at_once.metrics, rel=1e-4)
    assert [result.errors for result in one.searches] == [result.errors for result in all_at_once.searches]
    heads = {"transducer_wer", "simple_loss", "pruned_loss", "burst_share"} if has_transducer else set()
    heads |= {"delay_s"} if has_transducer and has_ctc else set()
    heads |= {"attention_loss"} if has_attention else set()
    assert one.metrics.keys() == heads | ({"ctc_wer", "ctc_loss"} if has_ctc else set()) | {"wer", "deletions"}
    methods = {result.search.method for result in one.searches}
    assert ("beam" in methods, "ctc_beam" in methods) == (has_transducer, has_ctc)
    assert ("attention_rescoring" in methods) == (has_attention and has_ctc)


def test_dev_batches_hold_everything_once_with_padding(cuts: list[Any]) -> None:
    for max_duration_s, number in ((0.1, 3), (100.0, 1)):
        batches = dev_batches(cuts, max_duration_s)
        assert len(batches) == number
        assert sorted(name for batch in batches for name in batch.ids) == ["a", "b", "c"]
        assert all(batch.features.shape[1] == batch.feature_lens.max() + 32 for batch in batches)


def test_nothing_is_drawn_and_nothing_learned(cuts: list[Any]) -> None:
    model = minute_model(vocab_size=TOKENIZER.vocab_size).eval()
    before = SimpleNamespace(random=torch.get_rng_state(), weights={k: v.clone() for k, v in model.state_dict().items()})
    metrics = validate(model, dev_batches(cuts, 100.0), TEXTS, TOKENIZER, CPU).metrics
    assert all(np.isfinite(value) for value in metrics.values())
    assert torch.equal(torch.get_rng_state(), before.random)
    assert all(torch.equal(tensor, before.weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
