"""Tags in transcripts, such as [laughter] and <noise>: what people write down of a recording that is not a word.

A model that is trained on them learns to write them. Switchboard's [laughter-yes] is the word yes; [inaudible] and <unk>
stand for words that nobody wrote down.
"""

import re

from zipasr.text import single_spaced

TAGS = re.compile(r"\[[^\[\]]+\]|<[^<>\s]+>|\{[^{}\s]+\}")
_LAUGHED_WORD = re.compile(r"\[laugh(?:ter|ing)-([^\[\]]+)\]", re.IGNORECASE)
_UNWRITTEN = re.compile(
    r"[\[<{](?:unk|unknown|inaudible|unintelligible|indiscernible|crosstalk|foreign)[\]>}]", re.IGNORECASE
)


def without_tags(text: str) -> str:
    """Return a text without its tags, and with the words that were said while laughing."""
    return single_spaced(TAGS.sub(" ", _LAUGHED_WORD.sub(r"\1", text)))


def has_unwritten_words(text: str) -> bool:
    """Whether a tag stands for words that are not in the text."""
    return _UNWRITTEN.search(text) is not None
