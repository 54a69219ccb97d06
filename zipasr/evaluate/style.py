"""A hint if references are written in another style than a model writes: pairs of texts in, a sentence out."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

from zipasr.evaluate.scoring import words
from zipasr.search.edits import ErrorRates, count_text_errors
from zipasr.text import words_apart
from zipasr.tokenizer import Tokenizer

_MIN_SHARE = 0.1
"""Share of the words that must be written in another style: names and abbreviations are fewer, a style is nearly all."""


def describe_style(pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> str | None:
    """Return why a model cannot match its references as they are written, and what to do; None if they fit.

    They do not fit if a tenth of their words have letters or punctuation that the vocabulary lacks, but can be written
    without case and punctuation; or if without these, errors fall by a tenth of the words.

    Args:
        pairs: reference and hypothesis of each utterance.
        tokenizer: the model's.
    """
    joiner = tokenizer.word_joiner
    pairs = [(words_apart(reference, joiner), words_apart(hypothesis, joiner)) for reference, hypothesis in pairs]
    counts = Counter(word for reference, _ in pairs for word in reference.split())
    plain, relaxed = ErrorRates(), ErrorRates()
    for reference, hypothesis in pairs:
        plain = plain.plus(count_text_errors(reference, hypothesis, is_spaceless=tokenizer.is_spaceless))
        rewritten = words(reference), words(hypothesis)
        relaxed = relaxed.plus(count_text_errors(*rewritten, is_spaceless=tokenizer.is_spaceless))
    lacking = {word: unknown for word in counts if (unknown := tokenizer.unknown_characters(word))}
    curable = [word for word in lacking if not tokenizer.unknown_characters(tokenizer.spelling(words(word)))]
    num_curable, num_words = sum(counts[word] for word in curable), counts.total()
    rate = f"{'CER' if tokenizer.is_spaceless else 'WER'} {relaxed.words.rate:.2f} %"
    cure = f"ignore case and punctuation with --scoring words ({rate})"
    if num_curable and num_curable >= _MIN_SHARE * num_words:
        kinds = _kinds(set().union(*(lacking[word] for word in curable)))
        return f"{num_curable} of {num_words} reference words have {kinds}, which this model never writes; {cure}"
    if plain.words.total - relaxed.words.total > _MIN_SHARE * plain.words.num_reference:
        return f"many words differ from the references in case or punctuation only; {cure}"
    return None


def _kinds(characters: set[str]) -> str:
    """What characters that a vocabulary lacks are."""
    kinds = {
        "lower case": any(map(str.islower, characters)),
        "upper case": any(map(str.isupper, characters)),
        "punctuation": any(unicodedata.category(character)[0] in "PS" for character in characters),
    }
    return " and ".join(kind for kind, is_there in kinds.items() if is_there) or "other characters"
