"""Vocabularies as they are published -> the content of a model file.

The content of a file decides what it is; names only help where that leaves two meanings."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from zipasr.errors import CheckpointError
from zipasr.lfs import refuse_pointer
from zipasr.lines import read_whole
from zipasr.tokenizer.byte_text import is_byte_text, is_byte_text_for_sherpa, is_surely_byte_text
from zipasr.tokenizer.model_file import BYTES_END, CONTROL_PIECES, UNKNOWN_PIECE, WORD_START, is_whole, table_model
from zipasr.tokenizer.table import has_scores, parse_scores, parse_symbols
from zipasr.tokenizer.vocabulary import LIST_START, Cut, PieceList, open_vocabulary

_BYTE_LEVEL_FILE = "bbpe"
"""Start of the names of files with byte-level pieces in the published recipes."""
_MAX_BYTES = 64 << 20
"""Published vocabularies have up to 0.5 MB."""
_MIN_CHARACTER_SHARE = 0.9
"""At least this share of the symbols of a table of characters are single ones; of phones and pinyin, a tenth are."""
_CONTROL = re.compile("[\x01-\x08\x0e-\x1f]")
"""Characters that a sentencepiece model starts with, but no text file."""


def read_published(path: str | os.PathLike[str], *, num_outputs: int | None = None) -> bytes:
    """Return the content of a model file for a vocabulary, which may be one itself; see `Tokenizer.from_file`.

    Raises:
        CheckpointError: the file cannot be read, is damaged or something else.
    """
    content = _content(path)
    if content.startswith(LIST_START):
        return content
    if _is_model(content):
        return _marked(content, path)
    text = _text(content)
    if text is None:
        raise CheckpointError(
            f"{path} must be a vocabulary (a sentencepiece model, tokens.txt or *.vocab), but its {len(content)} bytes are "
            "damaged or something else; restore the file from its original"
        )
    if has_scores(text) or Path(path).suffix == ".vocab":
        return _scored(*parse_scores(text, path), path)
    return _table(parse_symbols(text, path, num_outputs=num_outputs), path)


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        size = Path(path).stat().st_size
        if size > _MAX_BYTES:
            raise CheckpointError(
                f"{os.fspath(path)} must be a vocabulary of less than {_MAX_BYTES >> 20} MB, but has {size >> 20} MB; is it "
                "the file of something else?"
            )
        content = read_whole(path, most_bytes=_MAX_BYTES)
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)} must be a vocabulary, but cannot be read: {error.strerror}") from error
    refuse_pointer(content, path, CheckpointError)
    if not content.strip():
        raise CheckpointError(f"{os.fspath(path)} must be a vocabulary, but is empty; restore the file from its original")
    return content


def _is_model(content: bytes) -> bool:
    try:
        return is_whole(content)
    except (ValueError, IndexError):
        return False


def _text(content: bytes) -> str | None:
    """The text of a file; None: it is none."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\x00" in text or _CONTROL.search(text[:100]) else text


def _marked(model: bytes, path: str | os.PathLike[str]) -> bytes:
    """A sentencepiece model, marked if its pieces are byte-level."""
    vocabulary = open_vocabulary(model)
    others = vocabulary.control_ids | {vocabulary.unk_id}
    is_byte_level = _has_byte_level([piece for i, piece in enumerate(vocabulary.pieces) if i not in others], path)
    return model + BYTES_END if is_byte_level and not (vocabulary.is_byte_level or vocabulary.is_table) else model


def _has_byte_level(pieces: Sequence[str], path: str | os.PathLike[str]) -> bool:
    """Whether pieces, without special ones, are byte-level: by the name of the file, or since they can be nothing else."""
    characters = "".join(pieces)
    is_named_so = Path(path).name.startswith(_BYTE_LEVEL_FILE)
    if is_named_so and not is_byte_text(characters):
        strange = next(character for character in characters if not is_byte_text(character))
        raise CheckpointError(
            f"{path} must have byte-level pieces, as its name says, but has {strange!r}, which stands for no byte; "
            "rename it if its pieces are characters"
        )
    return is_named_so or is_surely_byte_text(characters)


def _has_byte_level_text(pieces: Sequence[str], path: str | os.PathLike[str]) -> bool:
    """The same for a text file, of which sherpa-onnx has a rule of its own."""
    return _has_byte_level(pieces, path) or is_byte_text_for_sherpa("".join(pieces))


def _scored(pieces: list[str], scores: list[float], path: str | os.PathLike[str]) -> bytes:
    own = [i for i, piece in enumerate(pieces) if not _is_special(piece)]
    ranks = [-scores[i] for i in own if scores[i]]  # the first is 0, and so are those of pieces that were asked for
    are_merges = len(ranks) > 1 and ranks == list(range(1, len(ranks) + 1))  # sentencepiece numbers the pieces of BPE
    is_byte_level = _has_byte_level_text([pieces[i] for i in own], path)
    cut: Cut = "merges" if are_merges else "unigram"
    return PieceList(pieces=pieces, cut=cut, scores=scores, is_byte_level=is_byte_level).to_bytes()


def _table(pieces: list[str], path: str | os.PathLike[str]) -> bytes:
    """A table of symbols: of characters, which can be encoded, or of pieces, which cannot."""
    own = [piece for piece in pieces if not _is_special(piece)]
    num_single = sum(len(piece) == 1 for piece in own)
    has_space, has_mark = " " in own, any(WORD_START in piece for piece in own)
    is_byte_level = not has_space and _has_byte_level_text(own, path)
    cut: Cut = "none"
    if has_mark and num_single == len(own) and not is_byte_level:
        cut = "unigram"  # as sentencepiece cuts into characters
    elif not (has_mark or is_byte_level) and num_single >= _MIN_CHARACTER_SHARE * len(own):
        cut = "spaced characters" if has_space else "characters"
    if cut == "characters" and UNKNOWN_PIECE in pieces and len(set(pieces)) == len(pieces):
        return table_model(pieces)
    written = [WORD_START if piece == " " else piece for piece in pieces]
    return PieceList(pieces=written, cut=cut, is_byte_level=is_byte_level).to_bytes()


def _is_special(piece: str) -> bool:
    is_byte = len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
    return piece in (*CONTROL_PIECES, UNKNOWN_PIECE) or is_byte
