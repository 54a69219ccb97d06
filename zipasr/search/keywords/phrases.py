"""Keywords as people write them, in plain words or in the tokens of a model, from the lines of a file or from a program.

A line is a phrase and marks in any order: ` :BOOST` in nats for each token, ` #THRESHOLD` of the mean probability of the
tokens, ` @NAME`. The ecosystem's spotter reads the same lines in tokens; 0 in a mark means the default there and here.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zipasr.errors import ConfigError
from zipasr.search.hotwords import MAX_BOOST, phrase_ids, phrase_variants, read_phrase_lines
from zipasr.search.keywords.trie import KeywordTrie, Spelling
from zipasr.text import is_unspaced, normalize
from zipasr.tokenizer import WORD_START, Tokenizer

logger = logging.getLogger(__name__)

DEFAULT_BOOST = 1.0
"""Nats for each token, the default of the ecosystem's spotter."""
DEFAULT_THRESHOLD = 0.25
"""Mean probability of the tokens from which a keyword is reported, the default of the ecosystem's spotter."""
MIN_LETTERS, MIN_UNSPACED = 4, 3
"""Keywords with fewer letters, or fewer characters of Chinese and Japanese, get a warning: other words contain them.
Published spotters miss more of them too (English words of three phones)."""


class Keyword(NamedTuple):
    """A phrase to spot."""

    text: str
    """The phrase, in plain words, or in tokens with spaces between them."""
    boost: float | None = None
    """Nats for each token; None: that of the spotter."""
    threshold: float | None = None
    """Least mean probability of its tokens, above 0 and at most 1; None: that of the spotter."""
    name: str | None = None
    """What an event is called; None: the text."""
    place: str = ""
    """Where it was written, such as "line 3 of keywords.txt", for messages."""

    @property
    def shown(self) -> str:
        """The keyword in a message."""
        return f"keyword {self.text!r}" + (f" in {self.place}" if self.place else "")


@dataclass(frozen=True, kw_only=True, eq=False)
class KeywordSet:
    """Keywords in the tokens of a model."""

    names: tuple[str, ...]
    """What the events of each keyword are called."""
    spellings: tuple[Spelling, ...]
    """All spellings; each has the index of its keyword."""
    trie: KeywordTrie
    """Their automaton."""

    def without_events(self) -> "KeywordSet":
        """The same keywords with thresholds that no score reaches: all that is found are near misses."""
        spellings = tuple(spelling._replace(threshold=2.0) for spelling in self.spellings)
        return KeywordSet(names=self.names, spellings=spellings, trie=KeywordTrie(spellings))

    def lines(self, tokenizer: Tokenizer) -> list[str]:
        """The lines of a file in tokens that the ecosystem's spotter reads; its names have no spaces.

        Raises:
            ConfigError: a boost is 0, which a file cannot say.
        """
        return [
            f"{' '.join(tokenizer.pieces[i] for i in ids)} :{_written_boost(boost, self.names[keyword]):g} #{threshold:g} "
            f"@{'_'.join(self.names[keyword].split())}"
            for ids, keyword, boost, threshold in self.spellings
        ]


def encode_keywords(
    keywords: Sequence[str | Keyword],
    tokenizer: Tokenizer,
    *,
    default_boost: float = DEFAULT_BOOST,
    default_threshold: float = DEFAULT_THRESHOLD,
) -> KeywordSet:
    """Keywords in the tokens of a model; a warning names those that are short.

    A phrase that the vocabulary cannot write as given is tried in upper case, then in lower case.

    Args:
        keywords: phrases in plain words or in tokens; a text may have the marks of a line.
        tokenizer: the one of the model.
        default_boost: nats per token of a keyword without a boost of its own.
        default_threshold: threshold of a keyword without one of its own.
    Raises:
        ConfigError: there is no keyword, one cannot be written with this vocabulary or has the same tokens as another, or a
            boost or a threshold is out of range.
    """
    if not keywords:
        raise ConfigError("there must be a keyword to spot, but there is none; write one in each line of the file")
    parsed = [parse_keyword(keyword) if isinstance(keyword, str) else keyword for keyword in keywords]
    spellings: list[Spelling] = []
    names: list[str] = []
    seen: dict[tuple[int, ...], Keyword] = {}
    for index, keyword in enumerate(parsed):
        boost = _checked_boost(default_boost if keyword.boost is None else keyword.boost, keyword)
        threshold = _checked_threshold(default_threshold if keyword.threshold is None else keyword.threshold, keyword)
        for ids in _spellings(keyword, tokenizer):
            if ids in seen:
                raise ConfigError(
                    f"{keyword.shown} must differ from all others in its tokens, but has those of {seen[ids].shown}; "
                    "leave one out"
                )
            seen[ids] = keyword
            spellings.append(Spelling(ids, index, boost, threshold))
        if _is_short(spellings[-1].ids, tokenizer):
            logger.warning("%s is short: expect false alarms and misses; prefer two words or three syllables", keyword.shown)
        names.append(keyword.name or _title(keyword, spellings[-1].ids, tokenizer))
    return KeywordSet(names=tuple(names), spellings=tuple(spellings), trie=KeywordTrie(spellings))


def _title(keyword: Keyword, ids: tuple[int, ...], tokenizer: Tokenizer) -> str:
    """The name of a keyword without one: its words."""
    words = keyword.text.split()
    return tokenizer.decode(ids) if _as_tokens(words, tokenizer) else " ".join(words)


def _checked_boost(boost: float, keyword: Keyword) -> float:
    if not 0 <= boost <= MAX_BOOST:
        raise ConfigError(f"the boost of {keyword.shown} must be from 0 to {MAX_BOOST:g}, but is {boost:g}; 1 to 2 is usual")
    return boost


def _checked_threshold(threshold: float, keyword: Keyword) -> float:
    if not 0 < threshold <= 1:
        raise ConfigError(
            f"the threshold of {keyword.shown} must be above 0 and at most 1, but is {threshold:g}; 0.1 to 0.5 is usual"
        )
    return threshold


def _spellings(keyword: Keyword, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The token sequences of a keyword."""
    if not normalize(keyword.text).strip():
        raise ConfigError(f"{keyword.shown} must be a word or a phrase, but is empty; leave it out")
    symbols = keyword.text.split()
    in_tokens = _as_tokens(symbols, tokenizer)
    if in_tokens is not None:
        return [in_tokens]
    if WORD_START in keyword.text or not tokenizer.can_encode:
        known = _tokens(tokenizer)
        unknown = next(symbol for symbol in symbols if symbol not in known)
        why = f"it has {WORD_START}, which words do not have"
        if not tokenizer.can_encode:
            why = f"the model came with only the list of its {tokenizer.vocab_size} tokens (tokens.txt)"
        raise ConfigError(
            f"{keyword.shown} must be written in the model's tokens with spaces between them, since {why}, but {unknown!r} "
            f"is none of them{'; write the words instead' if tokenizer.can_encode else ''}"
        )
    ids = phrase_ids(keyword.text, tokenizer)
    if ids is None:
        lacking = "".join(sorted(tokenizer.unknown_characters(tokenizer.spelling(keyword.text))))
        raise ConfigError(
            f"{keyword.shown} must be writable in the model's vocabulary, but that lacks {lacking!r}; spell as the training "
            "texts would, with numbers in words and without punctuation"
        )
    return list(dict.fromkeys(map(tuple, phrase_variants(keyword.text, ids, tokenizer))))


def _as_tokens(symbols: Sequence[str], tokenizer: Tokenizer) -> tuple[int, ...] | None:
    """The ids of symbols that are tokens; None if they are words.

    Where ▁ starts words and words can be encoded, tokens have it, so that the words `I` and `A` are not taken for letters of
    one word. Characters of Chinese and Japanese are tokens without it, as other programs write them.
    """
    if tokenizer.can_encode and any(WORD_START in piece for piece in tokenizer.pieces):
        is_unspaced_text = tokenizer.is_mixed and all(map(is_unspaced, "".join(symbols)))
        if not (is_unspaced_text or any(WORD_START in symbol for symbol in symbols)):
            return None
    known = _tokens(tokenizer)
    return tuple(known[symbol] for symbol in symbols) if all(symbol in known for symbol in symbols) else None


def _tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of the tokens that write something."""
    return {piece: i for i, piece in enumerate(tokenizer.pieces) if i not in (*tokenizer.special_ids, tokenizer.unk_id)}


def _is_short(ids: tuple[int, ...], tokenizer: Tokenizer) -> bool:
    """Whether a keyword has so few letters, or tokens if those are phones, that other speech resembles it."""
    written = "".join(tokenizer.decode(ids).split())
    if tokenizer.are_words and len(written) > len(ids):
        return len(ids) < MIN_LETTERS
    return len(written) < (MIN_UNSPACED if any(map(is_unspaced, written)) else MIN_LETTERS)


def parse_keyword(line: str, *, place: str = "") -> Keyword:
    """The keyword of a line.

    Args:
        line: a phrase with marks.
        place: where the line is, for messages.
    Raises:
        ConfigError: there is no phrase, a mark occurs twice or is not a number, or a boost or a threshold is out of range.
    """
    words: list[str] = []
    marks: dict[str, str] = {}
    where = f" in {place}" if place else ""
    for part in line.split():
        if part[0] not in ":#@" or len(part) == 1:
            words.append(part)
        elif part[0] in marks:
            raise ConfigError(f"a keyword must have at most one {part[0]} mark, but there are two{where}: {line!r}")
        else:
            marks[part[0]] = part[1:]
    keyword = Keyword(" ".join(words), name=marks.get("@"), place=place)
    if not words:
        raise ConfigError(f"a keyword must be a phrase and perhaps :BOOST #THRESHOLD @NAME, but is {line!r}{where}")
    boost, threshold = (_number(marks.get(mark), mark, line, where) for mark in ":#")
    if boost is not None:
        _checked_boost(boost, keyword)
    if threshold is not None:
        _checked_threshold(threshold, keyword)
    return keyword._replace(boost=boost, threshold=threshold)


def keyword_line(keyword: Keyword) -> str:
    """The line of a keyword, which `parse_keyword` reads.

    Raises:
        ConfigError: the boost is 0, which a line cannot say.
    """
    boost = None if keyword.boost is None else _written_boost(keyword.boost, keyword.name or keyword.text)
    marks = ((":", boost), ("#", keyword.threshold), ("@", keyword.name))
    return " ".join([keyword.text, *(f"{mark}{value}" for mark, value in marks if value is not None)])


def _written_boost(boost: float, name: str) -> float:
    """The boost of a keyword, checked for being written into a file."""
    if boost == 0.0:
        raise ConfigError(
            f"the boost of keyword {name!r} must be above 0 to be written into a file, where 0 means the default, but is 0; "
            "give a small one, such as 0.001"
        )
    return boost


def _number(text: str | None, mark: str, line: str, where: str) -> float | None:
    """The number of a mark; None: the default."""
    if text is None:
        return None
    try:
        return float(text) or None
    except ValueError:
        name = {":": "boost", "#": "threshold"}[mark]
        raise ConfigError(
            f"the {name} after {mark} must be a number, but is {text!r}{where}: {line!r}; write `PHRASE :1.5 #0.3 @NAME`"
        ) from None


def read_keywords(path: str | os.PathLike[str]) -> list[Keyword]:
    """The keywords of a file, one a line; empty lines are skipped. See `parse_keyword`.

    Raises:
        ConfigError: there is no such file, it is not UTF-8 text, it holds no keyword, or a line is wrong.
    """
    lines = read_phrase_lines(path, what="keywords")
    found = [
        parse_keyword(line, place=f"line {number} of {path}") for number, line in enumerate(lines, start=1) if line.strip()
    ]
    if not found:
        raise ConfigError(f"{path} must have a keyword, but is empty; write a phrase in each line")
    return found
