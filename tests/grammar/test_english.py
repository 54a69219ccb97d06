"""Reference: the built-in rules give every number, ordinal and date the value that it has, spelled out independently."""

from pathlib import Path

import pytest

from tests.grammar.grammars import grammar_of, slots
from zipasr.grammar import Grammar, match_words

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
ONES += "eighteen nineteen"
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
IRREGULAR = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
IRREGULAR |= {"twelve": "twelfth"}


def words_of(number: int) -> str:
    """A number up to 999,999 in words."""
    if number < 20:
        return ONES.split()[number]
    if number < 100:
        return TENS[number // 10] + (f" {words_of(number % 10)}" if number % 10 else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    rest = f" {words_of(number % size)}" if number % size else ""
    return f"{words_of(number // size)} {name}{rest}"


def ordinal_of(number: int) -> str:
    """An ordinal in words."""
    *before, last = words_of(number).split()
    last = IRREGULAR.get(last, last.removesuffix("y") + ("ieth" if last.endswith("y") else "th"))
    return " ".join([*before, last])


def numbers(folder: Path, rule: str) -> Grammar:
    return grammar_of(folder, f"public <a> = <zipasr.{rule}> {{n}};")


@pytest.mark.parametrize(("rule", "highest"), [("number_0_9", 9), ("number_0_99", 99), ("number_0_999", 999)])
def test_numbers(tmp_path: Path, rule: str, highest: int) -> None:
    grammar = numbers(tmp_path, rule)
    assert [slots(grammar, words_of(n))["n"] for n in range(highest + 1)] == list(range(highest + 1))
    assert match_words(grammar.graph, words_of(highest + 1).split()) is None


def test_thousands(tmp_path: Path) -> None:
    grammar = numbers(tmp_path, "number_0_999999")
    some = [
        *range(1000, 1130),
        *range(1990, 2030),
        *range(9_973, 999_999, 7_919),
        100_000,
        100_001,
        110_000,
        999_000,
        999_999,
    ]
    assert [slots(grammar, words_of(n))["n"] for n in some] == some
    spoken = {
        "a hundred": 100,
        "two hundred and five": 205,
        "a thousand and one": 1001,
        "a hundred and ten thousand": 110_000,
    }
    assert {text: slots(grammar, text)["n"] for text in spoken} == spoken


@pytest.mark.parametrize(("rule", "highest"), [("ordinal_1_31", 31), ("ordinal_1_99", 99)])
def test_ordinals(tmp_path: Path, rule: str, highest: int) -> None:
    grammar = numbers(tmp_path, rule)
    values = list(range(1, highest + 1))
    assert [slots(grammar, ordinal_of(n))["n"] for n in values] == values
    assert match_words(grammar.graph, "hundredth".split()) is None
    assert match_words(grammar.graph, ordinal_of(highest + 1).split() if highest < 99 else ["zeroth"]) is None


def test_digits(tmp_path: Path) -> None:
    grammar = numbers(tmp_path, "digits")
    for digits in ("0", "007", "1234567890"):
        assert slots(grammar, " ".join(ONES.split()[int(digit)] for digit in digits)) == {"n": digits}
    assert slots(grammar, "oh nine") == {"n": "09"}
    for length in (2, 3, 4):
        fixed = numbers(tmp_path, f"digits_{length}")
        spoken = ["one", "two", "three", "four", "five"]
        matching = [n for n in range(1, 6) if match_words(fixed.graph, spoken[:n]) is not None]
        assert matching == [length]


def test_dates(tmp_path: Path) -> None:
    grammar = numbers(tmp_path, "date")
    spoken = {
        "november twenty ninth": {"month": 11, "day": 29},
        "the first of january nineteen hundred": {"month": 1, "day": 1, "year": 1900},
        "march the thirty first twenty twenty six": {"month": 3, "day": 31, "year": 2026},
        "may second nineteen oh four": {"month": 5, "day": 2, "year": 1904},
        "may second two thousand and nine": {"month": 5, "day": 2, "year": 2009},
    }
    assert {text: slots(grammar, text)["n"] for text in spoken} == spoken
    assert slots(grammar_of(tmp_path, "public <a> = <zipasr.date>;"), "may third") == {"month": 5, "day": 3}
    assert match_words(grammar.graph, "may thirty second".split()) is None


def test_years(tmp_path: Path) -> None:
    """As people read them: nineteen eighty four, twenty oh five, and from 2000 on also two thousand and five."""
    grammar = numbers(tmp_path, "year")
    for year in range(1900, 2100):
        century, rest = {19: "nineteen", 20: "twenty"}[year // 100], year % 100
        if year != 2000:
            spoken = "hundred" if rest == 0 else f"oh {words_of(rest)}" if rest < 10 else words_of(rest)
            assert slots(grammar, f"{century} {spoken}") == {"n": year}
        if year >= 2000:
            assert slots(grammar, f"two thousand and {words_of(rest)}" if rest else "two thousand") == {"n": year}


def test_weekdays_months_and_times(tmp_path: Path) -> None:
    assert slots(numbers(tmp_path, "weekday"), "sunday") == {"n": "sunday"}
    assert slots(numbers(tmp_path, "month"), "december") == {"n": 12}
    spoken = {
        "seven": {"hour": 7},
        "twelve o'clock": {"hour": 12},
        "eight oh five a m": {"hour": 8, "minute": 5, "half": "am"},
        "three forty five p m": {"hour": 3, "minute": 45, "half": "pm"},
    }
    grammar = numbers(tmp_path, "time")
    assert {text: slots(grammar, text)["n"] for text in spoken} == spoken
