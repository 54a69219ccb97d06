"""How words are spelled in the tokens of a model: by its tokenizer, or by a lexicon file of the field.

A word may be spelled differently at the start of an utterance than after another word: vocabularies of characters with a
token for the space have that token before later words only, and those of Chinese with other scripts have ▁ before the first
character of a run. The `context` says what stands before: 0 is the start of the utterance, others are classes of the word
before.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zipasr.errors import ConfigError, DataError
from zipasr.lines import read_lines
from zipasr.text import is_unspaced, lower, upper
from zipasr.tokenizer import WORD_START, Tokenizer

Spelling = tuple[int, ...]
"""Token ids of a word, one or more."""

START = 0
"""The context of the first word of an utterance."""


class Lexicon:
    """Spellings of words in the tokens of one model."""

    def __init__(self, tokenizer: Tokenizer, words: Mapping[str, Sequence[Spelling]] | None = None) -> None:
        """Create the lexicon of a model.

        Args:
            tokenizer: the model's. It spells the words that are not given, if it can encode.
            words: spellings of words, one or more each.
        """
        self._tokenizer = tokenizer
        self._given = {word: tuple(dict.fromkeys(spellings)) for word, spellings in (words or {}).items()}
        self._has_character: dict[str, bool] = {}
        self._spelled: dict[tuple[str, int], tuple[Spelling, ...]] = {}
        letters = _typical_letters(tokenizer) if tokenizer.can_encode else {}
        self._letters = [""]
        """What stands for the word before in each context."""
        # The context after a word, by whether the word ends in a script without spaces; words that are spelled as at the
        # start after it need no context of their own.
        self._context_after = {False: START, True: START}
        for is_last_unspaced, letter in letters.items():
            if any(self._after(letter, other) != tuple(tokenizer.encode(other)) for other in letters.values()):
                self._context_after[is_last_unspaced] = len(self._letters)
                self._letters.append(letter)

    @property
    def num_contexts(self) -> int:
        """Number of contexts, 1 if words are spelled the same everywhere."""
        return len(self._letters)

    @property
    def given_words(self) -> tuple[str, ...]:
        """The words whose spellings were given."""
        return tuple(self._given)

    def context_after(self, word: str) -> int:
        """Return the context of a word that follows this one."""
        return self._context_after[is_unspaced(word[-1:])]

    def spellings(self, word: str, context: int = START) -> tuple[Spelling, ...]:
        """Return the spellings of a word in a context; none if the vocabulary cannot write it.

        Given ones are looked up as the word is written, then in upper case, then in lower case.
        """
        given = next((version for version in _in_either_case(word) if version in self._given), None)
        if given is not None:
            return self._given[given]
        if (word, context) not in self._spelled:
            text = self._text(word) if self._tokenizer.can_encode else None
            ids = self._after(self._letters[context], text) if text else ()
            self._spelled[word, context] = (ids,) if ids else ()
        return self._spelled[word, context]

    def unknown_words(self, words: Iterable[str]) -> list[str]:
        """Return the words that have no spelling, in order."""
        return [word for word in words if not self.spellings(word)]

    def _text(self, word: str) -> str | None:
        """A word as the vocabulary writes it; None: it cannot.

        `Tokenizer.spelling` says how, but asks for every character of every version; here characters are remembered, since
        lexicons are long.
        """
        text = self._tokenizer.respelled(word)
        for version in _in_either_case(text):  # the first one that has all characters is the spelling
            if all(map(self._has, version)):
                return version
        text = self._tokenizer.spelling(word)
        return None if self._tokenizer.unknown_characters(text) else text

    def _has(self, character: str) -> bool:
        """Whether a character is written as it is, and not by bytes that stand for a piece that is missing."""
        if character not in self._has_character:
            tokenizer = self._tokenizer
            is_written = tokenizer.respelled(character) == character and not tokenizer.unknown_characters(character)
            pieces = "".join(tokenizer.pieces[id] for id in tokenizer.encode(character)) if is_written else ""
            is_own = tokenizer.is_byte_level or pieces.removeprefix(WORD_START) == character
            self._has_character[character] = is_written and is_own
        return self._has_character[character]

    def _after(self, letter: str, text: str) -> Spelling:
        """The ids of a text after a word."""
        ids, before = self._encode(text), self._encode(letter)
        if before:
            both = self._encode(self._tokenizer.word_joiner.join([letter, text]))
            if both[: len(before)] == before:
                return both[len(before) :]
        return ids

    def _encode(self, text: str) -> Spelling:
        return tuple(self._tokenizer.encode(text)) if text else ()


def read_lexicon(path: str | os.PathLike[str], tokenizer: Tokenizer) -> Lexicon:
    """Read a lexicon file: a line has a word and its tokens, separated by spaces; words may have several lines.

    Words that are spelled with the unknown token, as <UNK> is in published
    lexicons, are left out, since a recognizer hardly ever puts it out.

    Raises:
        DataError: the file cannot be read, has a line without tokens or with tokens that the model lacks, or is empty.
    """
    path = Path(path)
    ids: dict[str, int] = {}
    for id, piece in enumerate(tokenizer.pieces):
        ids.setdefault(piece, id)
    words: dict[str, list[Spelling]] = {}
    for number, line in read_lines(path):
        if line is None:
            raise DataError(f"{path} must be UTF-8 text, but line {number} is not; convert the file, for example with iconv")
        word, *tokens = line.split() or [""]
        if not word:
            continue
        strange = [token for token in tokens if token not in ids or ids[token] in tokenizer.special_ids]
        if strange or not tokens:
            found = f"has {', '.join(strange[:5])}" if tokens else f"has only {word}"
            raise DataError(
                f"{path} must have a word and tokens of the model in each line, but line {number} {found}; tokens.txt in "
                "the model's folder lists its tokens"
            )
        spelling = tuple(ids[token] for token in tokens)
        if tokenizer.unk_id not in spelling:
            words.setdefault(word, []).append(spelling)
    if not words:
        raise DataError(f"{path} must have words and their tokens, but is empty; give another file, or none")
    return Lexicon(tokenizer, words)


def require_spellings(lexicon: Lexicon, words: Iterable[str]) -> None:
    """Check that all words have spellings.

    Raises:
        ConfigError: the vocabulary cannot write some.
    """
    unknown = lexicon.unknown_words(words)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ConfigError(
            f"words must be such that the model can write them, but it cannot write {', '.join(map(repr, unknown[:5]))}"
            f"{more}; write them in the letters of the model's texts, numbers in words, or give their tokens in a lexicon"
        )


def _in_either_case(word: str) -> tuple[str, str, str]:
    """A word as it is written, in upper case and in lower case."""
    return word, upper(word), lower(word)


def _typical_letters(tokenizer: Tokenizer) -> dict[bool, str]:
    """A letter of scripts with spaces (False) and one without (True), as far as the vocabulary has them."""
    letters = [
        letter for letter in sorted(tokenizer.letters) if letter.isalpha() and not tokenizer.unknown_characters(letter)
    ]
    found = {is_unspaced(letter): letter for letter in reversed(letters)}
    return {key: found[key] for key in sorted(found)}
