"""The words that a path through a graph puts out -> which of its tokens are each of them, and the text of the path.

The tokens of a hypothesis say the same as its words where words are spelled in letters; then the text is that of the tokens,
in the case of the vocabulary. Words that a lexicon spells otherwise, and all words of phones, are what the graph puts out.
"""

from collections.abc import Sequence
from typing import NamedTuple

from zipasr.grammar import is_tag
from zipasr.search.hypothesis import Hypothesis, Output
from zipasr.text import lower, normalize
from zipasr.tokenizer import Tokenizer


class SaidPart(NamedTuple):
    """Some tokens of a hypothesis, and what they stand for."""

    word: str | None
    """The word that they are, as the graph has it; None: what they write."""
    start: int
    """The first of them."""
    end: int
    """The place after the last of them."""


def said_parts(hypothesis: Hypothesis, tokenizer: Tokenizer) -> list[SaidPart] | None:
    """The parts of a hypothesis under a graph of words; None: all of its tokens write what they stand for.

    A graph that is compiled here puts a word out at its last token. Those of other programs do so at any of them: if the
    first word is put out at the first token of the hypothesis, but the last one not at its last token, words start where
    they are put out. Tokens after the last word of an incomplete hypothesis are of an unfinished word; its phones are in no
    part.
    """
    if not hypothesis.has_words or not hypothesis.ids:
        return None
    words = [output for output in hypothesis.outputs if not is_tag(output.symbol)]
    if not tokenizer.are_words and _are_written(words, hypothesis, tokenizer):
        return None
    parts: list[SaidPart] = []
    start = 0
    for word, end in zip(words, _ends(words, hypothesis), strict=True):
        is_written = not tokenizer.are_words and _folded(tokenizer.decode(hypothesis.ids[start:end])) == _folded(word.symbol)
        _add(parts, SaidPart(None if is_written else word.symbol, start, end))
        start = end
    if start < len(hypothesis.ids) and not tokenizer.are_words:
        _add(parts, SaidPart(None, start, len(hypothesis.ids)))
    return parts


def said_text(hypothesis: Hypothesis, tokenizer: Tokenizer, parts: Sequence[SaidPart] | None = None) -> str:
    """The text of a hypothesis, whose parts are those of `said_parts`, if they are known."""
    if parts is None:
        parts = said_parts(hypothesis, tokenizer)
    if parts is None:
        return tokenizer.decode(hypothesis.ids)
    texts = [tokenizer.decode(hypothesis.ids[start:end]) if word is None else word for word, start, end in parts]
    return tokenizer.word_joiner.join(text for text in texts if text)


def _add(parts: list[SaidPart], part: SaidPart) -> None:
    """Add a part, as one with the last if tokens write both: a space may depend on what is before."""
    if parts and parts[-1].word is None and part.word is None:
        part = SaidPart(None, parts.pop().start, part.end)
    parts.append(part)


def _are_written(words: Sequence[Output], hypothesis: Hypothesis, tokenizer: Tokenizer) -> bool:
    """Whether the tokens of a hypothesis write its words; of an incomplete one, as far as both have come."""
    if [word.symbol for word in words] == [tokenizer.pieces[i] for i in hypothesis.ids]:  # H puts out tokens
        return True
    said = _folded("".join(word.symbol for word in words))
    written = _folded(tokenizer.decode(hypothesis.ids))
    if hypothesis.is_complete:
        return said == written
    return said.startswith(written) or written.startswith(said)


def _folded(text: str) -> str:
    """A text without its case and its spaces."""
    return "".join(lower(normalize(text)).split())


def _ends(words: Sequence[Output], hypothesis: Hypothesis) -> list[int]:
    """The place after the last token of each word."""
    places, num_tokens = [word.place for word in words], len(hypothesis.ids)
    if not places or not hypothesis.is_complete:
        return [min(place + 1, num_tokens) for place in places]
    if places[0] == 0 and places[-1] < num_tokens - 1:
        return [*places[1:], num_tokens]
    return [*(min(place + 1, num_tokens) for place in places[:-1]), num_tokens]
