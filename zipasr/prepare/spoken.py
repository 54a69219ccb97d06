"""From written text to spoken words: upper case, no punctuation, digits spelled out where that is unambiguous.

`spoken_words` implements `prepare --text-style words` and is used for the telephone prompts. A number whose reading depends
on its meaning (a year, a telephone number, an amount of money, an ordinal, a range, a fraction) keeps its digits, and
`has_digits` lets the caller drop such an utterance.
"""

import re
import unicodedata

from zipasr.text import language_code, normalize, upper, words_only

_DIGIT_WORDS = {
    "en": "zero one two three four five six seven eight nine",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
    "it": "zero uno due tre quattro cinque sei sette otto nove",
    "ru": "ноль один два три четыре пять шесть семь восемь девять",
}
"""The words for 0 to 9 by language; other languages keep their digits."""

_DOT_WORDS = {"en": "dot", "es": "punto", "fr": "point", "it": "punto", "ru": "точка"}

_ENGLISH_KEYS = {"*": " star ", "#": " pound "}
"""Keys of a telephone: symbols that stand alone. Those that touch a word mark it, as in *laughs*."""
_ENGLISH_SYMBOLS = {"&": " and ", "%": " percent ", "@": " at "}
_ENGLISH_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_ENGLISH_TO_19 = f"{_DIGIT_WORDS['en']} {_ENGLISH_TEENS}".split()
_ENGLISH_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()

_DOTTED_LETTERS = re.compile(r"\b(?:[^\W\d_]\.){2,}")
_WEB_ADDRESS = re.compile(r"\b(?:www\.[\w-]+(?:\.[\w-]+)*|[\w-]+(?:\.[\w-]+)*\.(?:com|edu|gov|io|net|org))\b", re.IGNORECASE)
_KEY = re.compile(r"(?<![\w*#])[*#](?![\w*#])")
_MONEY = r"$\u00a2-\u00a5\u20a0-\u20cf"
_SAID = "+=<>~^±×÷≈−⁄%‰°§№"
"""Symbols beside a number that are spoken, but not written as words here."""
_ORDINAL = r"(?:st|nd|nde|rd|th|er|re|ère|e|ème|º|ª|-[а-яё]{1,2})(?!\w)"
_NUMBER = re.compile(
    rf"(?P<before>[{_MONEY}{_SAID}]\s*|(?<!\w)[-–]|[#*/&])?(?P<whole>\d+)"
    rf"(?P<rest>(?:(?:[.,:'\"]|\s*[-–—/{_SAID}]\s*)\d+)*)"
    rf"(?P<after>{_ORDINAL}|'?s(?!\w)|\s*[{_MONEY}{_SAID}]|[#*/&])?"
)


def _english_number(digits: str) -> str | None:
    """Spell out a cardinal below a thousand; None if another reading is equally likely."""
    if len(digits) > 3 or (len(digits) > 1 and digits[0] == "0"):
        return None
    hundreds, rest = divmod(int(digits), 100)
    words = [_ENGLISH_TO_19[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(_ENGLISH_TENS[rest // 10 - 2])
        rest %= 10
    if rest or not words:
        words.append(_ENGLISH_TO_19[rest])
    return " ".join(words)


def _spell_number(digits: str, lang: str) -> str:
    """Spell out `digits` in `lang`, or return them unchanged if that is ambiguous."""
    if lang == "en":
        return _english_number(digits) or digits
    if lang in _DIGIT_WORDS and len(digits) == 1:
        return _DIGIT_WORDS[lang].split()[int(digits)]
    return digits


def _spell(match: re.Match[str], lang: str) -> str:
    """Spell out one match of `_NUMBER`, or return it unchanged if its reading is ambiguous."""
    whole = _spell_number(match["whole"], lang)
    rest = match["rest"]
    if match["before"] or match["after"] or has_digits(whole):
        return match[0]
    if rest and lang == "en" and re.fullmatch(r"\.\d+", rest):
        return " ".join(["", whole, "point", *(_spell_number(digit, lang) for digit in rest[1:]), ""])
    return match[0] if rest else f" {whole} "


def _spell_address(match: re.Match[str], lang: str) -> str:
    """Spell out a web address, dots included."""
    address = re.sub(r"\bwww\b", "w w w", match[0], flags=re.IGNORECASE)
    return address.replace(".", f" {_DOT_WORDS[lang]} ")


def has_digits(text: str) -> bool:
    """Whether `text` contains a digit, or another sign for a number, such as ½ or Ⅳ. Characters of Chinese are words."""
    return any(unicodedata.category(character)[0] == "N" and character != "〇" for character in text)


def spoken_words(text: str, lang: str) -> str:
    """Return `text` as spoken: words in upper case, without punctuation.

    Hyphens and slashes separate words; apostrophes inside words stay. "A.M." becomes "A M", "www.asterisk.org" "W W W DOT
    ASTERISK DOT ORG", "3D" "THREE D". Digits remain if the reading is ambiguous, as in "3/4", "5-6", "-5" and "#1".

    Args:
        lang: language such as "en", "en-US" or "English"; digits are spelled in en, es, fr, it and ru.
    """
    lang = language_code(lang)
    text = normalize(text).replace("_", " ")
    if lang == "en":
        text = _KEY.sub(lambda match: _ENGLISH_KEYS[match[0]], text)
        for symbol, word in _ENGLISH_SYMBOLS.items():
            text = text.replace(symbol, word)
    text = _DOTTED_LETTERS.sub(lambda match: " " + match[0].replace(".", " "), text)
    if lang in _DOT_WORDS:
        text = _WEB_ADDRESS.sub(lambda match: _spell_address(match, lang), text)
    text = _NUMBER.sub(lambda match: _spell(match, lang), text)
    return normalize(upper(words_only(text), lang))
