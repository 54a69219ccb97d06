"""`tokens.txt` of a vocabulary of characters -> its symbols in the order of their ids."""

import re
from pathlib import Path

from zipasr.errors import CheckpointError
from zipasr.lfs import refuse_pointer
from zipasr.tokenizer.model_file import BLANK_PIECES, UNKNOWN_PIECE, WORD_START

_DISAMBIGUATION = re.compile(r"#\d+")


def read_table(path: str | Path) -> list[str]:
    """The symbols of a table; see `Tokenizer.from_tokens`."""
    try:
        content = Path(path).read_bytes()
        refuse_pointer(content, path, CheckpointError)
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} must be a table of symbols, but cannot be read: {error}") from error
    symbols: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not fields[1].isdecimal() or int(fields[1]) in symbols:
            raise CheckpointError(f"line {number} of {path} must be 'symbol id' with a new id, but is {line!r}")
        symbols[int(fields[1])] = fields[0]
    while symbols and _DISAMBIGUATION.fullmatch(symbols.get(max(symbols), "")):
        del symbols[max(symbols)]
    pieces = [symbols[i] for i in sorted(symbols)]
    has_special = UNKNOWN_PIECE in pieces and not set(BLANK_PIECES).isdisjoint(pieces)
    if sorted(symbols) != list(range(len(symbols))) or not has_special:
        raise CheckpointError(
            f"{path} must have the ids 0, 1, 2, ... and the symbols {BLANK_PIECES[0]} and {UNKNOWN_PIECE}, but has "
            f"{len(symbols)} symbols starting with {', '.join(pieces[:3]) or 'nothing'}"
        )
    if any(WORD_START in piece for piece in pieces):
        raise CheckpointError(
            f"{path} must be a table of characters, but has the pieces of a sentencepiece model; open the bpe.model "
            "or bbpe.model next to it"
        )
    if len(set(pieces)) < len(pieces):
        raise CheckpointError(f"{path} must have every symbol once, but repeats one")
    return pieces
