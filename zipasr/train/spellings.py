"""The ways in which the texts of a data folder are spelled: texts as they stand in, one line about mixtures out.

Training normalizes spellings (`text.py`), so a mixture of them is only noted. Case stays as it is: words in two cases are
two words for a model.
"""

import re
import unicodedata
from collections import Counter

_TYPOGRAPHIC, _ASCII = (re.compile(rf"[^\W\d_][{apostrophes}](?=[^\W\d_])") for apostrophes in ("\u2019\u02bc", "'"))
_MIN_CASE_SHARE = 0.01
"""A case counts as mixed in if it has this share of the texts; names and abbreviations that are a whole text are rarer."""
_CASES = ("upper case", "lower case", "upper and lower case")
_CURES = {
    ("’", "'"): "all count as '",
    ("NFD", "NFC"): "all count as NFC",
    _CASES: "a model learns each; write one, such as upper case with: zipasr prepare SOURCE --out DIR --text-style words",
}
"""What happens to texts that are mixed in one of these ways, or what to do."""


class Spellings:
    """The number of texts in each spelling."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Count a text, as it stands."""
        composed = unicodedata.normalize("NFC", text)
        is_in = {
            "’": _TYPOGRAPHIC.search(text) is not None,
            "'": _ASCII.search(text) is not None,
            "NFD": text != composed,
            "NFC": text == composed != unicodedata.normalize("NFD", text),
            _CASES[0]: text.isupper(),
            _CASES[1]: text.islower(),
            _CASES[2]: text.lower() != text != text.upper(),
        }
        self._counts.update(name for name, is_there in is_in.items() if is_there)

    def describe_mixtures(self) -> str:
        """One line that names the spellings which are mixed, or an empty string."""
        mixtures = []
        for names, cure in _CURES.items():
            min_share = _MIN_CASE_SHARE if names == _CASES else 0.0
            least = min_share * sum(self._counts[name] for name in names)
            found = [f"{name} in {self._counts[name]:,}" for name in names if self._counts[name] > least]
            if len(found) > 1:
                mixtures.append(f"{', '.join(found)} ({cure})")
        return f"note: texts are spelled in several ways: {'; '.join(mixtures)}" if mixtures else ""
