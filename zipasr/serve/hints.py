"""The prompt of a request as hotwords, as far as the model can write it. Text in, phrases out; no I/O."""

import re
from collections.abc import Iterator, Sequence

from zipasr.search.hotwords import is_writable
from zipasr.text import split_words
from zipasr.tokenizer import Tokenizer

_SEPARATORS = re.compile(r"[,，、،\r\n]+")
_WORDS = re.compile(r"[\w']+")
_SENTENCE_END = re.compile(r"[.!?;:…。！？；：][^\w\s]*$")


def phrases_of(prompt: str) -> list[str]:
    """The phrases of a prompt, which are separated by commas and line ends; none is empty."""
    return [" ".join(phrase.split()) for phrase in _SEPARATORS.split(prompt) if phrase.strip()]


def writable_phrases(phrases: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The parts of phrases that a model can write: applications write prompts as sentences, with names and numbers in them.

    A phrase ends at a word that cannot be written and at the end of a sentence; other punctuation is dropped if the
    vocabulary lacks it.
    """
    return [part for phrase in phrases for part in _writable_parts(phrase, tokenizer)]


def _writable_parts(phrase: str, tokenizer: Tokenizer) -> Iterator[str]:
    if is_writable(phrase, tokenizer):
        yield phrase
        return
    runs: list[list[str]] = [[]]
    for word in phrase.split():
        if is_writable(word, tokenizer):
            runs[-1].append(word)
            continue
        for part in _parts_of(word, tokenizer):
            if is_writable(part, tokenizer):
                runs[-1].append(part)
            else:
                runs.append([])
        if _SENTENCE_END.search(word):
            runs.append([])
    for run in filter(None, runs):
        together = tokenizer.word_joiner.join(run) if not tokenizer.is_spaceless else " ".join(run)
        yield from [together] if is_writable(together, tokenizer) else run  # words that fit only in different cases


def _parts_of(word: str, tokenizer: Tokenizer) -> list[str]:
    """A word without its punctuation; where words have no spaces, what is between the characters that cannot be written."""
    if not tokenizer.is_spaceless:
        words = [found for part in split_words(word, tokenizer.word_joiner) for found in _WORDS.findall(part)]
        return [part.strip("'") for part in words if part.strip("'")]
    unknown = tokenizer.unknown_characters(tokenizer.spelling(word))
    return "".join(" " if character in unknown else character for character in tokenizer.spelling(word)).split()
