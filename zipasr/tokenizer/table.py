"""Vocabularies that are text files, one piece a line: `tokens.txt` (symbol, id) and `*.vocab` (piece, score).

Fields are separated by spaces or tabs. Other white space, such as that of Chinese, may be a symbol.
"""

import math
import os
import re

from zipasr.errors import CheckpointError
from zipasr.tokenizer.model_file import BLANK_PIECES

_DISAMBIGUATION = re.compile(r"#\d+")
_SEPARATORS = re.compile(r"[ \t\r\v\f]+")


def parse_symbols(content: str, path: str | os.PathLike[str], *, num_outputs: int | None = None) -> list[str]:
    """Return the symbols of `tokens.txt` in the order of their ids, which may have any order in the file.

    The symbol of a line with an id alone is the space. Disambiguation symbols (#0, #1, ...) at the end do not belong in a
    model and are dropped until there are `num_outputs` symbols, if that is known. Symbols may repeat.

    Raises:
        CheckpointError: a line is something else, the ids are not 0, 1, 2, ..., or there is no blank.
    """
    symbols: dict[int, str] = {}
    for number, line in enumerate(content.split("\n"), start=1):
        fields = _fields(line)
        if not fields:
            continue
        symbol, id = (" ", fields[0]) if len(fields) == 1 else (fields[0], fields[1])
        if len(fields) > 2 or not _is_id(id) or int(id) in symbols:
            raise CheckpointError(f"line {number} of {path} must be 'symbol id' with a new id, but is {line[:80]!r}")
        symbols[int(id)] = symbol
    while _DISAMBIGUATION.fullmatch(symbols.get(len(symbols) - 1, "")) and len(symbols) != num_outputs:
        del symbols[len(symbols) - 1]
    pieces = [symbols[i] for i in sorted(symbols)]
    if sorted(symbols) != list(range(len(symbols))) or set(BLANK_PIECES).isdisjoint(pieces):
        raise CheckpointError(
            f"{path} must have the ids 0, 1, 2, ... and the symbol {' or '.join(BLANK_PIECES)}, but has "
            f"{len(symbols)} symbols starting with {', '.join(pieces[:3]) or 'nothing'}; is it cut off, or something else?"
        )
    return pieces


def parse_scores(content: str, path: str | os.PathLike[str]) -> tuple[list[str], list[float]]:
    """Return the pieces of a `*.vocab` file and their scores; a line is an id.

    Raises:
        CheckpointError: a line is something else, or there is no blank.
    """
    pieces, scores = [], []
    for number, line in enumerate(content.rstrip().split("\n"), start=1):
        fields = _fields(line)
        score = _score(fields[1]) if len(fields) == 2 else math.nan
        if not math.isfinite(score):
            raise CheckpointError(f"line {number} of {path} must be 'piece score', but is {line[:80]!r}")
        pieces.append(fields[0])
        scores.append(score)
    if set(BLANK_PIECES).isdisjoint(pieces):
        raise CheckpointError(
            f"{path} must have the piece {' or '.join(BLANK_PIECES)}, but has {len(pieces)} pieces starting with "
            f"{', '.join(pieces[:3])}; is it the vocabulary of a speech recognizer?"
        )
    return pieces, scores


def has_scores(content: str) -> bool:
    """Whether the second fields of a text file are scores: fewer than half of them can be ids, which do not repeat."""
    seconds = [fields[1] for fields in map(_fields, content.split("\n")) if len(fields) == 2]
    numbers = [second for second in seconds if math.isfinite(_score(second))]
    return len(set(filter(_is_id, numbers))) < len(numbers) / 2


def _fields(line: str) -> list[str]:
    return [field for field in _SEPARATORS.split(line) if field]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _score(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
