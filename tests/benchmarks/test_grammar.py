"""benchmarks/grammar.py: slots of texts, noise at a ratio, and the threshold of rejection, on made-up answers."""

from types import ModuleType

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from zipasr.grammar import read_grammar


@pytest.fixture
def grammar(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import grammar

    return grammar


def test_slots_of_texts(grammar: ModuleType) -> None:
    phrases = {"large": "size", "iced mocha": "coffeeDrink", "mocha": "coffeeDrink", "milk": "milkAmount"}
    assert grammar.by_phrases(phrases, "UH LARGE ICED MOCHA PLEASE") == {"size": "large", "coffeeDrink": "iced mocha"}
    assert grammar.by_phrases(phrases, "ENLARGED MOCHAS") is None
    barista = read_grammar(grammar.GRAMMAR)
    assert grammar.by_grammar(barista, "BREW A LATTE") == {"coffeeDrink": "latte"}
    assert grammar.by_grammar(barista, "BREW A LARGE") is None


def test_noise_has_the_ratio_that_was_asked_for(grammar: ModuleType) -> None:
    generator = np.random.default_rng(0)
    clean = grammar.Spoken(generator.normal(size=16_000).astype(np.float32), None, "ljspeech")
    noises = [generator.normal(size=length).astype(np.float32) for length in (4_000, 40_000)]
    for snr_db in (10.0, 0.0):
        (mixed,) = grammar.with_noise([clean], noises, snr_db)
        noise = mixed.samples - clean.samples
        assert 10 * np.log10((clean.samples**2).sum() / (noise**2).sum()) == pytest.approx(snr_db, abs=0.01)
    assert grammar.with_noise([clean], noises, None)[0].samples is clean.samples
    assert grammar.sounding(np.array([0, 0, 0.5, 0, -0.5, 0], np.float32)).tolist() == [0.5, 0, -0.5]


def test_threshold_parts_orders_from_other_speech(grammar: ModuleType) -> None:
    def spoken(corpus: str, slots: dict[str, str] | None) -> object:
        return grammar.Spoken(np.zeros(1, np.float32), slots, corpus)

    def answer(per_token: float) -> object:
        return grammar.Answer({"size": "large"}, per_token, per_token / 10)

    right = {"size": "large"}
    all_spoken = [spoken("barista", right)] * 3 + [spoken("ljspeech", None), spoken("commands", None)]
    answers = [answer(0.0), answer(0.5), answer(3.0), answer(1.5), answer(np.inf)]
    threshold, figures = grammar.tuned(all_spoken, answers, "token")
    assert figures == {"right": 66.7, "nothing": 33.3, "ljspeech": 0.0, "commands": 0.0}, "costs less than 50 % of ljspeech"
    assert threshold == pytest.approx(1.0)
    assert grammar.tuned(all_spoken, answers, "frame")[0] == pytest.approx(0.1)
