"""Contract: the grammar of examples/ takes the orders that it says it does, with the slots of the corpus."""

from itertools import permutations

import pytest

from tests.conftest import REPOSITORY
from tests.grammar.grammars import slots
from zipasr.grammar import Grammar, match_words, read_grammar


@pytest.fixture(scope="module")
def barista() -> Grammar:
    return read_grammar(REPOSITORY / "examples" / "barista.jsgf")


def test_orders_have_their_slots(barista: Grammar) -> None:
    text = "CAN I GET A SIXTEEN OUNCE DOUBLE SHOT DARK ROAST ICED MOCHA WITH A LITTLE BIT OF BROWN SUGAR AND SOY MILK"
    assert slots(barista, text) == {
        "size": "sixteen ounce",
        "numberOfShots": "double shot",
        "roast": "dark roast",
        "coffeeDrink": "iced mocha",
        "sugarAmount": "a little bit of brown sugar",
        "milkAmount": "soy milk",
    }
    assert slots(barista, "brew an espresso") == {"coffeeDrink": "espresso"}
    assert len(barista.graph.words) == 55, "the vocabulary of the corpus"


def test_modifiers_come_in_any_order_and_once_each(barista: Grammar) -> None:
    modifiers = ("large", "single shot", "light roast")
    for number in range(4):
        for chosen in permutations(modifiers, number):
            found = slots(barista, f"get me a {' '.join(chosen)} latte")
            assert sorted(found.values()) == sorted([*chosen, "latte"])
    for first in modifiers:
        for between in ("", *modifiers):
            text = f"get me a {first} {between} {first} latte"
            assert match_words(barista.graph, text.split()) is None, text


def test_other_speech_is_no_order(barista: Grammar) -> None:
    for text in ("", "get me", "a latte", "get me a latte with", "get me a latte with milk and cream", "brew a large"):
        assert match_words(barista.graph, text.split()) is None, text
