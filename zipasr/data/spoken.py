"""Written text to the words that are said: upper case, no punctuation, digits spelled out where that is certain.

`spoken_words` serves `prepare --text-style words` and the telephone prompts. A number whose reading depends on what it
is (a year, a telephone number, a sum of money, an ordinal) keeps its digits, and `has_digits` lets the caller drop the
utterance rather than guess.
"""

import re
import unicodedata

_DIGIT_WORDS = {
    "en": "zero one two three four five six seven eight nine",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
    "it": "zero uno due tre quattro cinque sei sette otto nove",
    "ru": "ноль один два три четыре пять шесть семь восемь девять",
}
"""The words for 0 to 9 by language; other languages keep their digits."""

_DOT_WORDS = {"en": "dot", "es": "punto", "fr": "point", "it": "punto", "ru": "точка"}

_ENGLISH_SYMBOLS = {"*": " star ", "#": " pound ", "&": " and ", "%": " percent ", "@": " at "}
_ENGLISH_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_ENGLISH_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()

_DOTTED_LETTERS = re.compile(r"\b(?:[^\W\d_]\.){2,}")
_WEB_ADDRESS = re.compile(r"\b(?:www\.[\w-]+(?:\.[\w-]+)*|[\w-]+(?:\.[\w-]+)*\.(?:com|edu|gov|io|net|org))\b", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?P<money>[$€£¥]\s?)?(?P<whole>\d+)(?P<rest>(?:[.,:]\d+)*)(?P<suffix>(?:st|nd|rd|th|er|e|º|ª|°|\s?[$€£¥])(?!\w))?"
)


def _english_number(digits: str) -> str | None:
    """Spell a cardinal below a thousand; None where another reading is as likely."""
    if len(digits) > 3 or (len(digits) > 1 and digits[0] == "0"):
        return None
    number = int(digits)
    ones = _DIGIT_WORDS["en"].split()
    hundreds, rest = divmod(number, 100)
    words = [ones[hundreds], "hundred"] if hundreds else []
    if 10 <= rest < 20:
        words.append(_ENGLISH_TEENS[rest - 10])
    elif rest >= 20:
        words.append(_ENGLISH_TENS[rest // 10 - 2])
    if (rest < 10 or rest >= 20) and (rest % 10 or not words):
        words.append(ones[rest % 10])
    return " ".join(words)


def _spell_number(digits: str, lang: str) -> str:
    """Spell `digits` in `lang`, or give them back where that is uncertain."""
    if lang == "en":
        return _english_number(digits) or digits
    if lang in _DIGIT_WORDS and len(digits) == 1:
        return _DIGIT_WORDS[lang].split()[int(digits)]
    return digits


def _spell(match: re.Match[str], lang: str) -> str:
    """Spell one match of `_NUMBER`, or give it back where its reading is uncertain."""
    whole = _spell_number(match["whole"], lang)
    rest = match["rest"]
    if match["money"] or match["suffix"] or has_digits(whole):
        return match[0]
    if rest and lang == "en" and re.fullmatch(r"\.\d+", rest):
        return " ".join(["", whole, "point", *(_spell_number(digit, lang) for digit in rest[1:]), ""])
    return match[0] if rest else f" {whole} "


def _spell_address(match: re.Match[str], lang: str) -> str:
    """Spell a web address; its dots are said."""
    address = re.sub(r"\bwww\b", "w w w", match[0], flags=re.IGNORECASE)
    return address.replace(".", f" {_DOT_WORDS[lang]} ")


def has_digits(text: str) -> bool:
    """Tell whether any digit is left in `text`."""
    return any(character.isdigit() for character in text)


def spoken_words(text: str, lang: str) -> str:
    """Write `text` as the upper-case words that are said, without punctuation.

    Hyphens and slashes part words; apostrophes inside words stay. "A.M." becomes "A M", "www.asterisk.org" "W W W DOT
    ASTERISK DOT ORG", "3D" "THREE D". Digits remain where the reading is uncertain.

    Args:
        lang: language code such as "en"; digits are spelled in en, es, fr, it and ru.
    """
    text = unicodedata.normalize("NFC", text).replace("’", "'").replace("\N{MODIFIER LETTER APOSTROPHE}", "'")
    text = text.replace("\N{SOFT HYPHEN}", "").replace("_", " ")
    if lang == "en":
        for symbol, word in _ENGLISH_SYMBOLS.items():
            text = text.replace(symbol, word)
    text = _DOTTED_LETTERS.sub(lambda match: " " + match[0].replace(".", " "), text)
    if lang in _DOT_WORDS:
        text = _WEB_ADDRESS.sub(lambda match: _spell_address(match, lang), text)
    text = _NUMBER.sub(lambda match: _spell(match, lang), text)
    text = re.sub(r"(?<!\w)'|'(?!\w)", " ", text)
    letters = (c if c.isalnum() or c == "'" or unicodedata.category(c).startswith("M") else " " for c in text.upper())
    return " ".join("".join(letters).split())
